//! What a test answers: yes or no, by which bound, and the instants that show it.

use std::fmt;
use std::time::Duration;

use crate::reservation::human;

/// Whether all deadlines are met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// They are, always.
    Schedulable,
    /// One is missed when releases and supply come in the worst way the bounds allow.
    Misses,
    /// The test cannot tell: it is only sufficient, or would have to look too far ahead.
    NotShown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Schedulable => "schedulable",
            Self::Misses => "misses deadlines",
            Self::NotShown => "not shown to be schedulable",
        })
    }
}

/// Demand and supply of one task at one instant, counted from its critical instant.
///
/// Fixed priorities: one instant with enough supply suffices, so this is the first one, or the one with the least
/// shortfall where no instant suffices. EDF: supply must suffice at every deadline, so this is the task's deadline with the
/// least to spare, or with the greatest shortfall, among those that were looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// The task.
    pub task: String,
    /// The length of the interval.
    pub instant: Duration,
    /// What must have been done in it.
    pub demand: Duration,
    /// What is supplied in it at least.
    pub supply: Duration,
}

impl Witness {
    /// Whether the supply suffices here.
    pub fn suffices(&self) -> bool {
        self.supply >= self.demand
    }

    /// What is missing here.
    pub fn shortfall(&self) -> Duration {
        self.demand.saturating_sub(self.supply)
    }

    /// What is left over here.
    pub fn spare(&self) -> Duration {
        self.supply.saturating_sub(self.demand)
    }

    /// The one with less to spare, or more missing.
    pub(super) fn tighter(self, other: Self) -> Self {
        let key = |w: &Self| (w.spare(), std::cmp::Reverse(w.shortfall()));
        if key(&other) < key(&self) {
            other
        } else {
            self
        }
    }
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (demand, supply) = (human(self.demand), human(self.supply));
        let relation = if self.suffices() {
            "enough"
        } else {
            "too little"
        };
        write!(
            f,
            "task {}: {supply} supplied in {}, {relation} for a demand of {demand}",
            self.task,
            human(self.instant)
        )
    }
}

/// The answer of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer.
    pub outcome: Outcome,
    /// The test, with its source.
    pub test: &'static str,
    /// The supply bound, with its source.
    pub supply: String,
    /// One per task, in the order of the set.
    pub witnesses: Vec<Witness>,
}

impl Verdict {
    /// Whether all deadlines are met.
    pub fn is_schedulable(&self) -> bool {
        self.outcome == Outcome::Schedulable
    }

    /// The witness to show: the greatest shortfall, or the least to spare.
    pub fn decisive(&self) -> Option<&Witness> {
        let key = |w: &&Witness| (w.spare(), std::cmp::Reverse(w.shortfall()));
        self.witnesses.iter().min_by_key(key)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} by {} on the {}",
            self.outcome, self.test, self.supply
        )?;
        match self.decisive() {
            Some(witness) => write!(f, "; {witness}"),
            None => Ok(()),
        }
    }
}

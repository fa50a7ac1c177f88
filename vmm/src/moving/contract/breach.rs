//! Why a contract would be broken, and what would keep it.

use std::time::Duration;

use sched::analysis::{TaskSetError, Verdict};
use sched::reservation::{Reservation, human};

/// The contract with the guest would be broken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Breach {
    /// A larger budget is needed.
    #[error(
        "vCPU {vcpu} has {now}, and with a pause of {} its tasks need at least Q = {}{}",
        human(*.pause), human(*.least), already(*.without, .now)
    )]
    Budget {
        /// Which vCPU.
        vcpu: usize,
        /// What it has.
        now: Reservation,
        /// The pause.
        pause: Duration,
        /// The least budget with which it holds.
        least: Duration,
        /// The least budget without a pause.
        without: Option<Duration>,
    },
    /// No budget is enough.
    #[error(
        "vCPU {vcpu} has {now}, and with a pause of {} not even all of its period is enough: {verdict}{}",
        human(*.pause), shorter(*.longest)
    )]
    Never {
        /// Which vCPU.
        vcpu: usize,
        /// What it has.
        now: Reservation,
        /// The pause.
        pause: Duration,
        /// The longest pause for which the greatest budget would do.
        longest: Option<Duration>,
        /// What the test says about the greatest budget.
        verdict: Box<Verdict>,
    },
    /// What tracking takes has no room in the period.
    #[error(
        "tracking its writes takes {:.1} % of the guest's time, for which vCPU {vcpu} would have to have Q = {} instead of {now}, and its deadline leaves {}",
        .tracking * 100.0, human(*.wanted), human(*.most)
    )]
    NoRoom {
        /// Which vCPU.
        vcpu: usize,
        /// What it has.
        now: Reservation,
        /// Share of the guest's time.
        tracking: f64,
        /// The budget that would pay for it.
        wanted: Duration,
        /// The greatest budget.
        most: Duration,
    },
    /// Not even all of the period is enough while writes are tracked.
    #[error(
        "vCPU {vcpu} has {now}, and while writes are tracked not even all of its period is enough: every page that a job writes costs it {}",
        human(*.tracked_write)
    )]
    Tracked {
        /// Which vCPU.
        vcpu: usize,
        /// What it has.
        now: Reservation,
        /// What the first write to a page takes.
        tracked_write: Duration,
    },
    /// The tasks make no set that can be analysed, with what scheduling costs.
    #[error("the tasks of vCPU {vcpu} cannot be served with what scheduling costs here: {source}")]
    Overloaded {
        /// Which vCPU.
        vcpu: usize,
        /// What is wrong with them.
        source: TaskSetError,
    },
}

fn already(without: Option<Duration>, now: &Reservation) -> String {
    match without {
        Some(without) if without > now.runtime() => {
            format!(" ({} without any pause)", human(without))
        }
        _ => String::new(),
    }
}

fn shorter(longest: Option<Duration>) -> String {
    match longest {
        Some(longest) => format!("; a pause of {} would be possible", human(longest)),
        None => String::new(),
    }
}

impl Breach {
    /// The budget with which it would not be one, and whose.
    #[must_use]
    pub fn least(&self) -> Option<(usize, Duration)> {
        match self {
            Self::Budget { vcpu, least, .. } => Some((*vcpu, *least)),
            _ => None,
        }
    }

    /// The pause with which it would not be one.
    #[must_use]
    pub fn longest(&self) -> Option<Duration> {
        match self {
            Self::Never { longest, .. } => *longest,
            _ => None,
        }
    }
}

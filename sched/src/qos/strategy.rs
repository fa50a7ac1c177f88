//! From violations to actions: by steps up to a bound, from what is free or from a donor, and back when it is quiet.
//!
//! What was got is given back step by step, each once no violation was seen for a while. A step that had to be taken again
//! doubles that while, and one that had not to be sets it back. So under a load that stays the same n steps are given back
//! in vain in no less than 2^n times the while; a load that has gone is still noticed.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::{Action, Change, Target};
use crate::reservation::{Reservation, human, nanos};

/// The least step: what is left of a bound below that is no use to anybody.
pub const LEAST_STEP: Duration = Duration::from_micros(1);

/// Gives more to a job by steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strategy {
    /// By how much the runtime is raised.
    pub step: Duration,
    /// The greatest runtime.
    pub up_to: Duration,
    /// Who gives it up. Without one it is taken from what is free.
    pub donor: Option<Donor>,
    /// How long it has to be quiet until a step is given back; none is without this.
    pub give_back_after: Option<Duration>,
}

/// Who gives bandwidth up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Donor {
    /// Whose.
    pub target: Target,
    /// The least runtime that it keeps.
    pub down_to: Duration,
}

/// Why nothing can be done about a violation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
pub enum Hold {
    /// Its runtime is at the bound.
    AtBound {
        /// What it has.
        #[serde(flatten)]
        target: Target,
        /// The bound.
        #[serde(rename = "bound_ns", serialize_with = "super::as_nanos")]
        bound: Duration,
    },
    /// The donor's runtime is at its bound.
    DonorAtBound {
        /// Whose.
        #[serde(flatten)]
        target: Target,
        /// The bound.
        #[serde(rename = "bound_ns", serialize_with = "super::as_nanos")]
        bound: Duration,
    },
    /// There is no such reservation to change.
    NoReservation {
        /// Whose.
        #[serde(flatten)]
        target: Target,
    },
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtBound { target, bound } => {
                write!(f, "{target} has reached its bound of {}", human(*bound))
            }
            Self::DonorAtBound { target, bound } => {
                write!(f, "{target} is down to its bound of {}", human(*bound))
            }
            Self::NoReservation { target } => {
                write!(f, "{target} is not there or has no reservation")
            }
        }
    }
}

/// What everybody has.
pub(super) type Reservations = BTreeMap<Target, Reservation>;

/// A step that was taken, to be given back.
#[derive(Clone, Debug)]
struct Loan {
    before: Reservation,
    gained: Duration,
    /// What the donor had, and what it gave.
    given: Option<(Reservation, Duration)>,
}

/// A strategy at work for one target.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    strategy: Strategy,
    target: Target,
    loans: Vec<Loan>,
    /// What the donor is to get of a job that has gone: up to this runtime, so much.
    owed: Option<(Reservation, Duration)>,
    /// How often the while was doubled.
    doubled: u32,
    gave_back: bool,
}

impl Steps {
    pub(super) fn new(strategy: Strategy, target: Target) -> Self {
        Self {
            strategy,
            target,
            loans: Vec::new(),
            owed: None,
            doubled: 0,
            gave_back: false,
        }
    }

    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    pub(super) fn donor(&self) -> Option<&Target> {
        self.strategy.donor.as_ref().map(|donor| &donor.target)
    }

    /// The next step up.
    pub(super) fn raise(&self, current: &Reservations) -> Result<Action, Hold> {
        let own = reservation(current, &self.target)?;
        let bound = self.strategy.up_to.min(own.deadline());
        let step = self.strategy.step.min(bound.saturating_sub(own.runtime()));
        if step < LEAST_STEP {
            let target = self.target.clone();
            return Err(Hold::AtBound { target, bound });
        }
        let Some(donor) = &self.strategy.donor else {
            return Ok(Action::Adapt(self.more(own, step)?));
        };
        let giver = reservation(current, &donor.target)?;
        let spare = giver.runtime().saturating_sub(donor.down_to);
        let step = step.min(scaled(spare, giver, own, Rounding::Down));
        if step < LEAST_STEP {
            return Err(Hold::DonorAtBound {
                target: donor.target.clone(),
                bound: donor.down_to,
            });
        }
        // Rounded up: the two together never get more than they had.
        let given = scaled(step, own, giver, Rounding::Up);
        Ok(Action::Transfer {
            to: self.more(own, step)?,
            from: change(&donor.target, giver, giver.runtime().saturating_sub(given))?,
        })
    }

    fn more(&self, own: Reservation, step: Duration) -> Result<Change, Hold> {
        change(&self.target, own, own.runtime() + step)
    }

    /// A step up was taken.
    pub(super) fn raised(&mut self, action: &Action) {
        let mut changes = action.changes();
        let Some(own) = changes.next() else { return };
        self.loans.push(Loan {
            before: own.before,
            gained: difference(own),
            given: changes.next().map(|from| (from.before, difference(from))),
        });
        if std::mem::take(&mut self.gave_back) {
            self.doubled = self.doubled.saturating_add(1);
        }
    }

    /// How long it has to be quiet until a step is given back; nothing if there is none to give back.
    pub(super) fn patience(&self) -> Option<Duration> {
        let after = self.strategy.give_back_after?;
        let factor = 1_u32.checked_shl(self.doubled).unwrap_or(u32::MAX);
        (!self.loans.is_empty()).then(|| after.saturating_mul(factor))
    }

    /// The last step back. Nothing if somebody else has changed the reservation so that there is nothing left of it.
    pub(super) fn give_back(&mut self, current: &Reservations) -> Option<Action> {
        let (first, last) = (self.loans.first()?, self.loans.last()?);
        let own = *current.get(&self.target)?;
        let least = first.before.runtime();
        let back = last.gained.min(own.runtime().saturating_sub(least));
        if own.period() != last.before.period() || back.is_zero() {
            self.loans.clear();
            return None;
        }
        let less = change(&self.target, own, own.runtime() - back).ok()?;
        let donor = self.donor().and_then(|donor| current.get_key_value(donor));
        let (Some((_, given)), Some((donor, giver))) = (last.given, donor) else {
            return Some(Action::Adapt(less));
        };
        let is_whole = back == last.gained;
        let returned = match last.given {
            Some((before, _)) if is_whole && before.period() == giver.period() => given,
            _ => scaled(back, own, *giver, Rounding::Down),
        };
        // Not capped at what the donor had: another rule's loan may have come first, and be given back already.
        let runtime = (giver.runtime() + returned).min(giver.deadline());
        if runtime <= giver.runtime() {
            return Some(Action::Adapt(less));
        }
        Some(Action::Transfer {
            to: change(donor, *giver, runtime).ok()?,
            from: less,
        })
    }

    /// The last step was given back.
    pub(super) fn gave_back(&mut self) {
        self.loans.pop();
        if std::mem::replace(&mut self.gave_back, true) {
            self.doubled = 0;
        }
    }

    /// What the donor is to get of a job that has gone.
    pub(super) fn settle(&mut self, current: &Reservations) -> Option<Action> {
        let (had, given) = self.owed?;
        let (donor, giver) = current.get_key_value(self.donor()?)?;
        let runtime = (giver.runtime() + given).min(giver.deadline());
        if giver.period() != had.period() || runtime <= giver.runtime() {
            self.owed = None;
            return None;
        }
        change(donor, *giver, runtime).ok().map(Action::Adapt)
    }

    /// The donor got it.
    pub(super) fn settled(&mut self) {
        self.owed = None;
    }

    /// The job has gone; another one of its name starts with what it is given then.
    pub(super) fn lost(&mut self, job: &str) {
        if job == self.target.job {
            let given = self.loans.iter().filter_map(|loan| loan.given);
            let sum = given.clone().map(|(_, given)| given).sum();
            let owed = given.clone().next().map(|(had, _)| (had, sum));
            self.owed = owed.or(self.owed);
            self.loans.clear();
            (self.doubled, self.gave_back) = (0, false);
        }
        if self.donor().is_some_and(|donor| donor.job == job) {
            self.owed = None;
            for loan in &mut self.loans {
                loan.given = None;
            }
        }
    }
}

fn reservation(current: &Reservations, target: &Target) -> Result<Reservation, Hold> {
    let gone = || Hold::NoReservation {
        target: target.clone(),
    };
    current.get(target).copied().ok_or_else(gone)
}

fn change(target: &Target, before: Reservation, runtime: Duration) -> Result<Change, Hold> {
    // Fails for a reservation that the kernel would not have: outside what it accepts there is nothing to change.
    let after = before
        .with_runtime(runtime)
        .map_err(|_| Hold::NoReservation {
            target: target.clone(),
        })?;
    Ok(Change {
        target: target.clone(),
        before,
        after,
    })
}

fn difference(change: &Change) -> Duration {
    change.before.runtime().abs_diff(change.after.runtime())
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// The runtime at the period of `to` that is the same share of a CPU as `runtime` at the period of `from`.
fn scaled(runtime: Duration, from: Reservation, to: Reservation, rounding: Rounding) -> Duration {
    let (from, to) = (
        u128::from(nanos(from.period())),
        u128::from(nanos(to.period())),
    );
    let product = u128::from(nanos(runtime)) * to;
    let quotient = match rounding {
        Rounding::Up => product.div_ceil(from),
        Rounding::Down => product / from,
    };
    Duration::from_nanos(u64::try_from(quotient).unwrap_or(u64::MAX))
}

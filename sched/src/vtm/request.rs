//! What is asked for a VTM, and the same in slots.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::table::TableError;
use crate::reservation::nanos;

/// What a VTM is to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Vtm {
    /// Its name.
    pub name: String,
    /// Its period: a whole number of slots.
    pub period: Duration,
    /// What it needs of each period.
    pub need: Need,
    /// The latest start of its first slot in a period, counted from the period's beginning.
    pub max_delay: Option<Duration>,
}

/// What a VTM needs of each of its periods.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Need {
    /// Execution time: a whole number of slots.
    Time(Duration),
    /// Percent of the CPU, rounded up to whole slots.
    Usage(f64),
}

/// Which quantity of a VTM is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// The period.
    Period,
    /// The execution time.
    ExecutionTime,
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Period => "period",
            Self::ExecutionTime => "execution time",
        })
    }
}

/// A VTM in slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) period: usize,
    pub(super) execution: usize,
    /// The last slot of a period that may be its first there.
    pub(super) latest_start: Option<usize>,
}

impl Task {
    /// [`Task::latest_start`], where it asks for more than that the execution time ends with the period.
    pub(super) fn timely_start(&self) -> Option<usize> {
        let latest = self.period - self.execution;
        self.latest_start.filter(|&start| start < latest)
    }
}

impl Vtm {
    /// In slots of the given length.
    pub(super) fn in_slots(&self, slot: Duration) -> Result<Task, TableError> {
        let period = self.whole(Quantity::Period, self.period, slot)?;
        let execution = match self.need {
            Need::Time(time) => self.whole(Quantity::ExecutionTime, time, slot)?,
            Need::Usage(percent) => self.share_of(period, percent)?,
        };
        if execution > period {
            return Err(TableError::ExecutionAbovePeriod {
                vtm: self.name.clone(),
                execution: times(slot, execution),
                period: self.period,
            });
        }
        let whole_slots = |delay| count(u128::from(nanos(delay) / nanos(slot)));
        let latest_start = self.max_delay.map(whole_slots);
        Ok(Task {
            period,
            execution,
            latest_start,
        })
    }

    fn whole(
        &self,
        quantity: Quantity,
        value: Duration,
        slot: Duration,
    ) -> Result<usize, TableError> {
        let vtm = || self.name.clone();
        if value.is_zero() {
            return Err(TableError::Zero {
                vtm: vtm(),
                quantity,
                slot,
            });
        }
        let (value_ns, slot_ns) = (nanos(value), nanos(slot));
        if value_ns % slot_ns != 0 {
            let below = value_ns / slot_ns * slot_ns;
            return Err(TableError::NotWholeSlots {
                vtm: vtm(),
                quantity,
                value,
                slot,
                above: Duration::from_nanos(below.saturating_add(slot_ns)),
                dividing: Duration::from_nanos(gcd(value_ns, slot_ns)),
            });
        }
        Ok(count(u128::from(value_ns / slot_ns)))
    }

    fn share_of(&self, period: usize, percent: f64) -> Result<usize, TableError> {
        const HUNDRED: u128 = 100_000_000_000;
        // Exact in billionths of a percent.
        let billionths = Duration::try_from_secs_f64(percent).map(|share| share.as_nanos());
        match billionths {
            Ok(share @ 1..=HUNDRED) => Ok(count((share * period as u128).div_ceil(HUNDRED))),
            _ => Err(TableError::Usage {
                vtm: self.name.clone(),
                percent,
            }),
        }
    }
}

/// A number of slots; beyond any table where it is too great to count.
fn count(slots: u128) -> usize {
    usize::try_from(slots).unwrap_or(usize::MAX)
}

/// The length of `count` slots, saturated.
pub(super) fn times(slot: Duration, count: usize) -> Duration {
    slot.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX))
}

pub(super) fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

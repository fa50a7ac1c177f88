//! Budgets that a wake-up has cut, where the deadline comes before the period's end.

use super::Nanos;
use super::reading::Reading;

/// The budget in force, which a wake-up may have cut.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    /// What it began with, as far as is known: it was no less.
    pub(super) least: Nanos,
    /// How often the thread had slept then.
    pub(super) sleeps: Option<i64>,
}

impl Begun {
    /// Follows the budget to a reading of it. `last` is what was left at the reading before.
    pub(super) fn follow(&mut self, reading: Reading, last: Nanos, full: Nanos) {
        if reading.sleeps.is_none() || reading.sleeps != self.sleeps {
            self.least = reading.remaining.clamp(0, full);
            self.sleeps = reading.sleeps;
        } else if reading.remaining > last {
            // Only a wake-up cuts a budget.
            self.least = full;
        }
    }

    /// The part of the surplus in it.
    pub(super) fn part(self, surplus: Nanos, full: Nanos) -> Nanos {
        let part = i128::from(surplus) * i128::from(self.least) / i128::from(full.max(1));
        i64::try_from(part).unwrap_or(surplus)
    }
}

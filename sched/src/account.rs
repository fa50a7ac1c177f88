//! What one vCPU was supplied, against what it was promised.
//!
//! An [`Account`] is written by the vCPU's own thread inside its running loop: fixed size, no allocation, no lock. A
//! [`AccountSnapshot`] is what leaves that thread.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, Summary};
use crate::reservation::{Reservation, signed_nanos};

/// The running account of one vCPU thread.
#[derive(Clone, Debug)]
pub struct Account {
    reservation: Option<Reservation>,
    consumed_at_start: Duration,
    consumed: Duration,
    expiries: u64,
    yields: u64,
    overruns: u64,
    unreadable: u64,
    blackouts: Histogram,
    supplies: Histogram,
    deviation: Deviation,
}

/// How far the supply of a period was from Q.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The least `supply - Q` in nanoseconds; negative when a period got less.
    pub least_ns: i64,
    /// The greatest `supply - Q` in nanoseconds.
    pub greatest_ns: i64,
    /// The sum of all, for the mean.
    pub sum_ns: i64,
    /// Periods counted: those in which the thread used up its budget.
    pub periods: u64,
}

impl Deviation {
    fn record(&mut self, difference: i64) {
        let first = self.periods == 0;
        self.least_ns = if first {
            difference
        } else {
            self.least_ns.min(difference)
        };
        self.greatest_ns = if first {
            difference
        } else {
            self.greatest_ns.max(difference)
        };
        self.sum_ns = self.sum_ns.saturating_add(difference);
        self.periods += 1;
    }
}

/// An account as it leaves the vCPU's thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccountSnapshot {
    /// The reservation the periods are measured against.
    pub reservation: Option<Reservation>,
    /// CPU time consumed since the account was opened.
    pub consumed: Duration,
    /// Times the budget timer fired.
    pub expiries: u64,
    /// Budgets ended by the thread itself: one blackout each.
    pub yields: u64,
    /// Budgets ended by the kernel's backstop, because the thread's own timer came too late.
    pub overruns: u64,
    /// Times the kernel's remaining budget could not be read (the kernel's tick enforced alone).
    pub unreadable: u64,
    /// The time from giving the CPU back to having it again.
    pub blackouts: Summary,
    /// What each period supplied in which the thread used up its budget.
    pub supplies: Summary,
    /// The same as differences from Q.
    pub deviation: Deviation,
}

impl Account {
    /// An account that starts now, for the calling thread.
    pub fn new(reservation: Option<Reservation>) -> Self {
        let consumed = crate::kernel::thread_cpu_time();
        Self {
            reservation,
            consumed_at_start: consumed,
            consumed,
            expiries: 0,
            yields: 0,
            overruns: 0,
            unreadable: 0,
            blackouts: Histogram::new(),
            supplies: Histogram::new(),
            deviation: Deviation::default(),
        }
    }

    /// Measures later periods against another reservation. What was recorded stays.
    pub fn adapt(&mut self, reservation: Reservation) {
        self.reservation = Some(reservation);
    }

    /// The thread's CPU clock, read when the caller had reason to.
    pub fn consumed(&mut self, cpu_clock: Duration) {
        self.consumed = cpu_clock;
    }

    /// The budget timer fired.
    pub fn expired(&mut self) {
        self.expiries += 1;
    }

    /// A budget was used up after `supply`, and the CPU was away for `blackout`.
    pub fn yielded(&mut self, supply: Duration, blackout: Duration) {
        self.yields += 1;
        self.blackouts.record(blackout);
        self.supplies.record(supply);
        if let Some(reservation) = self.reservation {
            let difference = signed_nanos(supply) - signed_nanos(reservation.runtime());
            self.deviation.record(difference);
        }
    }

    /// The kernel ended a budget before the thread did.
    pub fn overran(&mut self) {
        self.overruns += 1;
    }

    /// The kernel's remaining budget could not be read.
    pub fn unreadable(&mut self) {
        self.unreadable += 1;
    }

    /// What is recorded so far. Allocates nothing.
    pub fn snapshot(&self) -> AccountSnapshot {
        AccountSnapshot {
            reservation: self.reservation,
            consumed: self.consumed.saturating_sub(self.consumed_at_start),
            expiries: self.expiries,
            yields: self.yields,
            overruns: self.overruns,
            unreadable: self.unreadable,
            blackouts: self.blackouts.summary(),
            supplies: self.supplies.summary(),
            deviation: self.deviation,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_period_that_got_less_than_its_budget_shows_as_a_negative_deviation() {
        let mut account = Account::new(Reservation::new(ms(10), ms(40)).ok());
        account.yielded(ms(10), ms(30));
        account.yielded(ms(9), ms(31));
        account.yielded(ms(11), ms(29));
        let snapshot = account.snapshot();
        assert_eq!(snapshot.deviation.least_ns, -1_000_000);
        assert_eq!(snapshot.deviation.greatest_ns, 1_000_000);
        assert_eq!(snapshot.deviation.periods, 3);
        assert_eq!(snapshot.blackouts.max, ms(31));
        assert_eq!(snapshot.yields, 3);
    }

    #[test]
    fn consumption_is_counted_from_the_opening_of_the_account() {
        let mut account = Account::new(None);
        let opened = account.consumed_at_start;
        account.consumed(opened + ms(7));
        assert_eq!(account.snapshot().consumed, ms(7));
    }

    #[test]
    fn a_snapshot_survives_being_written_down() {
        let mut account = Account::new(Reservation::new(ms(10), ms(40)).ok());
        account.yielded(ms(10), ms(30));
        let text = serde_json::to_string(&account.snapshot()).unwrap();
        let read: AccountSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(read, account.snapshot());
    }
}

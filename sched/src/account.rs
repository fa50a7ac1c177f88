//! What one vCPU was supplied, against what it was promised.
//!
//! An [`Account`] is written by the vCPU's own thread inside its running loop: fixed size, no allocation, no lock. A
//! [`AccountSnapshot`] is what leaves that thread. What only the kernel can count is asked of it: for any thread the time it
//! waited for a CPU, for a quota group its [`Throttling`].

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::feedback::Standing;
use crate::histogram::{Histogram, Summary};
use crate::reservation::{Reservation, signed_nanos};

/// The running account of one vCPU thread.
#[derive(Debug)]
pub struct Account {
    reservation: Option<Reservation>,
    /// The thread's `schedstat`, where the kernel has it.
    schedstat: Option<File>,
    waited_at_start: Duration,
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
    /// How long the thread could have run since then, but had no CPU: throttled, or behind others. Not known where
    /// the kernel does not tell (CONFIG_SCHED_INFO; Documentation/scheduler/sched-stats.rst).
    pub waited: Option<Duration>,
    /// How its budget follows its need, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feedback: Option<Standing>,
    /// Its budgets; not known where the kernel ends them.
    #[serde(flatten)]
    pub budgets: Option<Budgets>,
}

/// How the budgets went that the thread ends itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budgets {
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

/// How the kernel throttled a group under a quota (Documentation/scheduler/sched-bwc.rst). It does not tell how long the
/// longest throttle was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Throttling {
    /// Periods in which the group wanted to run.
    pub periods: u64,
    /// Of these, those in which it used up its quota.
    pub throttled: u64,
    /// How long it was throttled in all.
    pub time: Duration,
}

impl Throttling {
    /// From the text of `cpu.stat`, of either version.
    pub(crate) fn parse(stat: &str) -> Option<Self> {
        let value = |name: &str| {
            let mut lines = stat.lines();
            let text = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            text.parse().ok()
        };
        let time = value("throttled_time").map(Duration::from_nanos);
        Some(Self {
            periods: value("nr_periods")?,
            throttled: value("nr_throttled")?,
            time: time.or_else(|| value("throttled_usec").map(Duration::from_micros))?,
        })
    }
}

impl Account {
    /// An account that starts now, for the calling thread.
    pub fn new(reservation: Option<Reservation>) -> Self {
        let consumed = crate::kernel::thread_cpu_time();
        let schedstat = File::open("/proc/thread-self/schedstat").ok();
        let waited = schedstat.as_ref().and_then(waited);
        Self {
            reservation,
            schedstat,
            waited_at_start: waited.unwrap_or_default(),
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

    /// A period was shortened, to begin the next one at an instant, and the CPU was away for `blackout`. Its supply is not
    /// that of a budget.
    pub fn shortened(&mut self, blackout: Duration) {
        self.blackouts.record(blackout);
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
            waited: self
                .schedstat
                .as_ref()
                .and_then(waited)
                .map(|waited| waited.saturating_sub(self.waited_at_start)),
            feedback: None,
            budgets: Some(Budgets {
                expiries: self.expiries,
                yields: self.yields,
                overruns: self.overruns,
                unreadable: self.unreadable,
                blackouts: self.blackouts.summary(),
                supplies: self.supplies.summary(),
                deviation: self.deviation,
            }),
        }
    }
}

/// The second number of `schedstat`: nanoseconds.
fn waited(schedstat: &File) -> Option<Duration> {
    let mut text = [0; 64];
    let length = schedstat.read_at(&mut text, 0).ok()?;
    let text = std::str::from_utf8(&text[..length]).ok()?;
    let waited = text.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waited))
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
        let snapshot = account.snapshot().budgets.unwrap();
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
        let mut read: AccountSnapshot = serde_json::from_str(&text).unwrap();
        let mut now = account.snapshot();
        (read.waited, now.waited) = (None, None);
        assert_eq!(read, now);
    }

    #[test]
    fn budgets_that_are_not_known_are_not_written_down_as_zero() {
        let mut snapshot = Account::new(None).snapshot();
        snapshot.budgets = None;
        let text = serde_json::to_string(&snapshot).unwrap();
        assert!(!text.contains("yields"), "{text}");
        let read: AccountSnapshot = serde_json::from_str(&text).unwrap();
        assert_eq!(read, snapshot);
    }

    #[test]
    fn throttling_is_read_in_the_form_of_either_version() {
        let of = |time| Throttling {
            periods: 41,
            throttled: 38,
            time,
        };
        let v1 = "nr_periods 41\nnr_throttled 38\nthrottled_time 556966601\nnr_bursts 0\n";
        let v2 = "usage_usec 9\nnr_periods 41\nnr_throttled 38\nthrottled_usec 556966\n";
        assert_eq!(
            Throttling::parse(v1),
            Some(of(Duration::from_nanos(556_966_601)))
        );
        assert_eq!(
            Throttling::parse(v2),
            Some(of(Duration::from_micros(556_966)))
        );
        assert_eq!(Throttling::parse("usage_usec 9\n"), None);
    }
}

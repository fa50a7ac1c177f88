//! Aligned budgets: the servers of several threads begin their periods at the same instants.
//!
//! The vCPUs of a guest work together. If one's budget is used up while another's is not, the other may spin for a lock
//! that the first holds. With periods that begin together, alone on their CPUs, they run and pause together.
//!
//! A SCHED_DEADLINE thread cannot ask for an instant, but the kernel's wake-up rule gives it one: a thread that wakes and
//! whose remaining budget is more than its bandwidth times what remains until its deadline begins a new period there
//! (Documentation/scheduler/sched-deadline.rst, section 2.2; Abeni and Buttazzo, RTSS 1998). So the thread sleeps until
//! the instant, and no less than it takes for what it has consumed to be worn off ("0-lag time", section 2.3).
//!
//! From then on its deadlines are a period apart for as long as it does not sleep: running out of budget and yielding
//! keep them. A thread that sleeps longer than its consumption wears off begins anew when it wakes, by the same rule.
//! Sending it back to the old instants would take supply from it that the kernel's server gives, so that is not done:
//! threads that sleep stay aligned as far as they wake together.

use std::time::Duration;

use crate::budget::RemainingBudget;
use crate::kernel::{Policy, Tid, monotonic, policy, sleep_until, thread_cpu_time};
use crate::reservation::{nanos, signed_nanos};

/// What a thread consumes between reading its budget and sleeping, at most: some system calls.
const WAY: Duration = Duration::from_micros(20);
/// The kernel compares in units of 1024 ns (`DL_SCALE` in kernel/sched/sched.h).
const GRANULE: Duration = Duration::from_nanos(2 * 1024);
/// A thread that was kept from sleeping in time tries again.
const ATTEMPTS: usize = 4;

/// Instants of CLOCK_MONOTONIC, a period apart, at which periods are to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginnings {
    /// The first.
    pub first: Duration,
    /// From one to the next.
    pub period: Duration,
}

/// An instant that threads with these periods can all keep: time enough to be told of it, and for what they consume
/// meanwhile to wear off.
#[must_use]
pub fn common_instant(now: Duration, longest_period: Duration) -> Duration {
    now + Duration::from_millis(1) + longest_period / 20
}

impl Beginnings {
    /// The first of them that is not before `time`.
    #[must_use]
    pub fn not_before(self, time: Duration) -> Duration {
        let late = nanos(time.saturating_sub(self.first));
        let periods = late.div_ceil(nanos(self.period).max(1));
        let after = nanos(self.period).saturating_mul(periods);
        self.first.saturating_add(Duration::from_nanos(after))
    }

    /// Puts the calling thread to sleep until one of these instants, such that its server begins a period there. Returns
    /// whether it does; always `false` for threads without a SCHED_DEADLINE reservation.
    ///
    /// Where the kernel does not show what is left of the budget, all of it is taken to be consumed.
    pub fn join(self) -> bool {
        let Ok(Policy::Deadline { runtime, period }) = policy(Tid::current()) else {
            return false;
        };
        let mut budget = RemainingBudget::open().ok();
        for _ in 0..ATTEMPTS {
            // Brings the kernel's accounting up to date.
            thread_cpu_time();
            let before = budget.as_mut().and_then(RemainingBudget::read_server);
            let consumed = before.map_or(runtime, |(remaining, _)| {
                let consumed = signed_nanos(runtime).saturating_sub(remaining).max(0);
                Duration::from_nanos(consumed.unsigned_abs())
            });
            let instant = self.not_before(monotonic() + worn_off(consumed, (runtime, period)));
            sleep_until(instant);
            let after = budget.as_mut().and_then(RemainingBudget::read_server);
            match (before, after) {
                (Some((_, old)), Some((_, new))) if old == new => {}
                _ => return true,
            }
        }
        false
    }
}

/// How long a thread with a server (Q, P) has to sleep after it has consumed so much, that waking begins a new period.
fn worn_off(consumed: Duration, (runtime, period): (Duration, Duration)) -> Duration {
    let consumed = u128::from(nanos(consumed + WAY));
    let long = consumed * u128::from(nanos(period)) / u128::from(nanos(runtime).max(1));
    let long = Duration::from_nanos(u64::try_from(long).unwrap_or(u64::MAX));
    // Never longer than until the deadline, where a new period begins in any case.
    long.min(period) + GRANULE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_next_beginning_is_the_first_on_the_grid_that_is_not_before(
            first in 0u64..1 << 40, period in 1u64..1 << 32, time in 0u64..1 << 41,
        ) {
            let all = Beginnings { first: Duration::from_nanos(first), period: Duration::from_nanos(period) };
            let next = nanos(all.not_before(Duration::from_nanos(time)));
            prop_assert!(next >= time && next >= first);
            prop_assert_eq!((next - first) % period, 0);
            prop_assert!(next == first || next - period < time);
        }

        /// The kernel's own comparison, in its units.
        #[test]
        fn after_a_sleep_that_long_the_kernel_begins_a_new_period(
            period in 100_000u64..4_000_000_000, share in 0.001f64..1.0, used in 0.0f64..=1.0, began_ago in 0u64..1 << 32,
        ) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of it is no more than it")]
            let part = |of: u64, share: f64| ((of as f64 * share) as u64).max(1024).min(of);
            let runtime = part(period, share);
            let consumed = part(runtime, used);
            // The thread has consumed no more than the time since its period began.
            let now = began_ago.max(consumed);
            let slept = worn_off(Duration::from_nanos(consumed), (Duration::from_nanos(runtime), Duration::from_nanos(period)));
            let woken = now + nanos(slept);
            let way = nanos(WAY).min(runtime - consumed);
            let remaining = runtime - consumed - way;
            let overflows = |left: u64| {
                u128::from(period >> 10) * u128::from(remaining >> 10) > u128::from(left >> 10) * u128::from(runtime >> 10)
            };
            // Its deadline is past, or the remaining budget is too large for what is left until then.
            prop_assert!(woken >= period || overflows(period - woken), "{woken} {remaining}");
        }
    }
}

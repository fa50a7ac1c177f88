//! Aligned budgets: the servers of several threads begin their periods at the same instants.
//!
//! The vCPUs of a guest work together. If one's budget is used up while another's is not, the other may spin for a lock
//! that the first holds. With periods that begin together, alone on their CPUs, they run and pause together.
//!
//! A SCHED_DEADLINE thread's deadlines are a period apart for as long as it is busy: running out of budget and yielding
//! keep them. But each time it sleeps long enough, it begins a new period where it wakes, by the kernel's wake-up rule: its
//! remaining budget would be more than its bandwidth times what remains until its deadline (Abeni and Buttazzo, RTSS 1998;
//! Documentation/scheduler/sched-deadline.rst, section 2.2). So does one that the host kept from running past a deadline.
//!
//! The same rule serves to come back. A thread that has used up two budgets in a row, and is therefore busy, makes the next
//! period a shorter one if it is not aligned: x long, to the next common instant, with Q x / P of budget. Having run that,
//! it sleeps, and the rule begins a new period at the instant. The bandwidth is Q / P throughout and no blackout is longer
//! than P - Q for that; but other than from a server that is left alone, up to x (1 - Q / P) comes later, once. A thread
//! that sleeps before it has used up two budgets is left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use crate::budget::Nanos;
use crate::reservation::signed_nanos;

/// Periods that begin within this part of a period of the common instant are aligned ...
const TOLERATED_PART: Nanos = 64;
/// ... or within this time, which a timer may be late, and which is consumed on the way to sleep.
const TOLERATED: Nanos = 150_000;
/// How much less a shortened period's budget is than its share, so that the wake-up rule holds in any case.
const MARGIN: Nanos = 100_000;

/// An instant that the threads of a guest have in common, on the scheduler's clock: the first aligned thread that is busy
/// sets it.
#[derive(Debug, Default)]
pub struct CommonInstant(AtomicI64);

impl CommonInstant {
    /// The instant; `proposed` becomes it if there is none. The scheduler's clock is never at zero when threads run.
    fn or_set(&self, proposed: Nanos) -> Nanos {
        let set = self
            .0
            .compare_exchange(0, proposed, Ordering::Relaxed, Ordering::Relaxed);
        set.map_or_else(|there| there, |_| proposed)
    }
}

/// Where the periods of one thread's server are to begin.
#[derive(Clone, Debug)]
pub struct Alignment {
    /// Shared by all threads that are to be aligned.
    pub common: Arc<CommonInstant>,
    /// How much later than the common instant this thread's periods begin.
    pub phase: Duration,
}

/// Watches the periods of one thread.
#[derive(Debug)]
pub(crate) struct Aligner {
    alignment: Alignment,
    /// The deadline of the period before.
    last: Option<Nanos>,
}

/// A server: the budget Q, what the kernel replenishes, and P.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    pub budget: Nanos,
    pub period: Nanos,
}

/// A period to be shortened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Short {
    /// Its length.
    pub length: Nanos,
    /// Its budget.
    pub budget: Nanos,
}

impl Aligner {
    pub fn new(alignment: Alignment) -> Self {
        Self {
            alignment,
            last: None,
        }
    }

    /// The thread has used up a budget, and a new period with this deadline has begun: how it is to be shortened, if it is.
    pub fn begun(&mut self, deadline: Nanos, server: Server) -> Option<Short> {
        let Server { budget, period } = server;
        let before = self.last.replace(deadline);
        let is_busy = before == deadline.checked_sub(period);
        let begin = deadline.checked_sub(period)?;
        if !is_busy || period <= 0 {
            return None;
        }
        let phase = signed_nanos(self.alignment.phase);
        let common = self.alignment.common.or_set(begin.saturating_sub(phase));
        let length = common
            .checked_add(phase)?
            .checked_sub(begin)?
            .rem_euclid(period);
        let tolerated = (period / TOLERATED_PART).max(TOLERATED);
        if length <= tolerated || period - length <= tolerated {
            return None;
        }
        let share = i128::from(budget) * i128::from(length) / i128::from(period);
        let share = Nanos::try_from(share).ok()?;
        Some(Short {
            length,
            budget: (share - MARGIN).max(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;

    fn aligner(common: &Arc<CommonInstant>, phase: Nanos) -> Aligner {
        Aligner::new(Alignment {
            common: Arc::clone(common),
            phase: Duration::from_nanos(phase.unsigned_abs()),
        })
    }

    #[test]
    fn a_thread_that_sleeps_between_its_budgets_is_left_alone() {
        let common = Arc::default();
        let server = Server {
            budget: 10 * MS,
            period: 20 * MS,
        };
        let mut first = aligner(&common, 0);
        assert_eq!(
            (first.begun(120 * MS, server), first.begun(140 * MS, server)),
            (None, None)
        );
        let mut sleeper = aligner(&common, 0);
        for deadline in [127, 148, 169, 190] {
            assert_eq!(sleeper.begun(deadline * MS, server), None, "{deadline}");
        }
    }

    #[test]
    fn a_busy_thread_shortens_its_second_period_up_to_the_common_instant() {
        let common = Arc::default();
        let server = Server {
            budget: 10 * MS,
            period: 20 * MS,
        };
        let mut first = aligner(&common, 0);
        assert_eq!(
            (first.begun(120 * MS, server), first.begun(140 * MS, server)),
            (None, None)
        );
        let mut second = aligner(&common, 5 * MS);
        assert_eq!(second.begun(147 * MS, server), None);
        // The period began at 147 ms; the next common instant is at 160, and 5 ms later its own.
        let short = Short {
            length: 18 * MS,
            budget: 9 * MS - MARGIN,
        };
        assert_eq!(second.begun(167 * MS, server), Some(short));
    }

    proptest! {
        #[test]
        fn busy_threads_are_aligned_after_one_shortened_period_and_stay_so(
            period in MS..4_000 * MS, share in 0.01f64..0.95, phases in prop::collection::vec((0.0f64..1.0, 0.0f64..1.0), 2..5),
        ) {
            #[expect(clippy::cast_possible_truncation, reason = "a share of it is no more than it")]
            let part = |share: f64| (period as f64 * share) as Nanos;
            let server = Server { budget: part(share), period };
            let common = Arc::default();
            let mut begins = Vec::new();
            for (begun, phase) in phases {
                let phase = part(phase);
                let mut aligner = aligner(&common, phase);
                let mut deadline = 1_000 * period + part(begun);
                let mut shortened = 0;
                for _ in 0..6 {
                    deadline = match aligner.begun(deadline, server) {
                        Some(short) => {
                            shortened += 1;
                            // The kernel's rule: what is left is more than the bandwidth times the rest of the period.
                            let left = i128::from(server.budget - short.budget) * i128::from(period);
                            prop_assert!(left > i128::from(period - short.length) * i128::from(server.budget));
                            deadline + short.length
                        }
                        None => deadline + period,
                    };
                }
                prop_assert!(shortened <= 1);
                begins.push((deadline - phase).rem_euclid(period));
            }
            let tolerated = (period / TOLERATED_PART).max(TOLERATED);
            for begin in &begins {
                let apart = (begin - begins[0]).rem_euclid(period);
                prop_assert!(apart.min(period - apart) <= tolerated, "{begins:?}");
            }
        }
    }
}

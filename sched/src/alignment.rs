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
//! that sleeps before it has used up two budgets is left alone, and one that does not come to be aligned, because others
//! keep it from its CPU at the wrong moments, tries ever more rarely.

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

/// How fast CLOCK_MONOTONIC may drift from the scheduler's clock, at most: a part of a period in a period.
const DRIFT_PART: Nanos = 5_000;
/// The most periods a thread waits before it tries again.
const RAREST: u32 = 1 << 16;

/// An instant that the threads of a guest have in common, on the scheduler's clock: the first aligned thread that is busy
/// sets it.
#[derive(Debug)]
pub struct CommonInstant {
    instant: AtomicI64,
    /// CLOCK_MONOTONIC less the scheduler's clock, as it follows from the time at which threads see that a period has
    /// begun. Threads see that late or very late, so the least counts.
    offset: AtomicI64,
}

impl Default for CommonInstant {
    fn default() -> Self {
        Self {
            instant: AtomicI64::new(0),
            offset: AtomicI64::new(Nanos::MAX),
        }
    }
}

impl CommonInstant {
    /// Learns from a thread that sees at `now` that a period began at `begin`, and tells the offset. Threads that learn at
    /// the same time may forget one of their lessons.
    fn learn(&self, now: Nanos, begin: Nanos, period: Nanos) -> Nanos {
        let known = self.offset.load(Ordering::Relaxed);
        let drifted = known.saturating_add(period / DRIFT_PART);
        let offset = now.saturating_sub(begin).min(drifted);
        self.offset.store(offset, Ordering::Relaxed);
        offset
    }

    /// The instant; `proposed` becomes it if there is none. The scheduler's clock is never at zero when threads run.
    fn or_set(&self, proposed: Nanos) -> Nanos {
        let set = self
            .instant
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
    /// Budgets used up in a row.
    busy_for: u32,
    /// How many have to be before the next period is shortened.
    patience: u32,
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
    /// When it ends, by CLOCK_MONOTONIC.
    pub until: Nanos,
    /// Its budget.
    pub budget: Nanos,
}

impl Aligner {
    pub fn new(alignment: Alignment) -> Self {
        Self {
            alignment,
            last: None,
            busy_for: 0,
            patience: 1,
        }
    }

    /// The thread has used up a budget, and sees at `now`, by CLOCK_MONOTONIC, that a new period with this deadline has
    /// begun: how that is to be shortened, if it is.
    pub fn begun(&mut self, now: Nanos, deadline: Nanos, server: Server) -> Option<Short> {
        let Server { budget, period } = server;
        let begin = deadline.checked_sub(period).filter(|_| period > 0)?;
        let offset = self.alignment.common.learn(now, begin, period);
        let is_next = self.last.replace(deadline) == Some(begin);
        self.busy_for = if is_next {
            self.busy_for.saturating_add(1)
        } else {
            0
        };
        if self.busy_for < self.patience {
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
            self.patience = 1;
            return None;
        }
        self.patience = (self.patience * 2).min(RAREST);
        let share = i128::from(budget) * i128::from(length) / i128::from(period);
        let share = Nanos::try_from(share).ok()?;
        let until = begin.checked_add(offset)?.checked_add(length)?;
        Some(Short {
            until,
            budget: (share - MARGIN).max(0),
        })
        .filter(|short| short.until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;
    /// CLOCK_MONOTONIC less the scheduler's clock.
    const OFFSET: Nanos = 5_000 * MS;

    /// A thread that sees at once that a period has begun.
    fn begun(aligner: &mut Aligner, deadline: Nanos, server: Server) -> Option<Short> {
        aligner.begun(deadline - server.period + OFFSET, deadline, server)
    }

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
            (
                begun(&mut first, 120 * MS, server),
                begun(&mut first, 140 * MS, server)
            ),
            (None, None)
        );
        let mut sleeper = aligner(&common, 0);
        for deadline in [127, 148, 169, 190] {
            assert_eq!(
                begun(&mut sleeper, deadline * MS, server),
                None,
                "{deadline}"
            );
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
            (
                begun(&mut first, 120 * MS, server),
                begun(&mut first, 140 * MS, server)
            ),
            (None, None)
        );
        let mut second = aligner(&common, 5 * MS);
        assert_eq!(begun(&mut second, 147 * MS, server), None);
        // The period began at 147 ms; the next common instant is at 160, and 5 ms later its own.
        let short = Short {
            until: 165 * MS + OFFSET,
            budget: 9 * MS - MARGIN,
        };
        assert_eq!(begun(&mut second, 167 * MS, server), Some(short));
    }

    #[test]
    fn a_thread_that_runs_late_in_its_periods_learns_from_the_others_when_they_begin() {
        let common = Arc::default();
        let server = Server {
            budget: 8 * MS,
            period: 20 * MS,
        };
        let (mut first, mut late) = (aligner(&common, 0), aligner(&common, 0));
        for deadline in [120, 140, 160] {
            assert_eq!(begun(&mut first, deadline * MS, server), None);
        }
        let seen = |deadline: Nanos| (deadline - 20 + 8) * MS + OFFSET;
        assert_eq!(late.begun(seen(130), 130 * MS, server), None);
        let short = late.begun(seen(150), 150 * MS, server).unwrap();
        assert!(
            (short.until - 140 * MS - OFFSET).abs() < MS / 10,
            "{short:?}"
        );
    }

    #[test]
    fn a_thread_that_never_comes_to_be_aligned_tries_ever_more_rarely() {
        let common = Arc::default();
        let server = Server {
            budget: 10 * MS,
            period: 20 * MS,
        };
        let mut first = aligner(&common, 0);
        assert_eq!(
            (
                begun(&mut first, 120 * MS, server),
                begun(&mut first, 140 * MS, server)
            ),
            (None, None)
        );
        let mut unlucky = aligner(&common, 0);
        let tries =
            (0..1_000).filter(|n| begun(&mut unlucky, (127 + 20 * n) * MS, server).is_some());
        assert!(tries.count() <= 11);
        assert_eq!(unlucky.patience, 1024);
        // Once it is, the next time is like the first.
        let mut last = 0;
        for n in 1..=1_100 {
            last = (100_020 + 20 * n) * MS;
            assert_eq!(begun(&mut unlucky, last, server), None);
        }
        assert_eq!(unlucky.patience, 1);
        assert_eq!(begun(&mut unlucky, last + 9 * MS, server), None);
        assert!(begun(&mut unlucky, last + 29 * MS, server).is_some());
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
            for (started, phase) in phases {
                let phase = part(phase);
                let mut aligner = aligner(&common, phase);
                let mut deadline = 1_000 * period + part(started);
                let mut shortened = 0;
                for _ in 0..6 {
                    deadline = match begun(&mut aligner, deadline, server) {
                        Some(short) => {
                            shortened += 1;
                            let length = short.until - OFFSET - (deadline - period);
                            // The kernel's rule: what is left is more than the bandwidth times the rest of the period.
                            let left = i128::from(server.budget - short.budget) * i128::from(period);
                            prop_assert!(left > i128::from(period - length) * i128::from(server.budget));
                            deadline + length
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

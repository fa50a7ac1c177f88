//! Schedulability of fixed-priority task sets inside a reservation: how much CPU time a server supplies at least, how
//! much the tasks need at most, and the least budget for which the one suffices for the other.
//!
//! A task meets its deadline if there is an instant in it at which the supply bound has caught up with the request
//! bound of the task and all above it (Lehoczky, Sha and Ding, RTSS 1989; with a supply bound in place of the whole
//! processor: Shin and Lee, RTSS 2003). What a server supplies depends on two things that this module keeps apart:
//! where in its period a release finds it ([`Phase`]), and where in its period the budget comes ([`Supply::latest`]).
//! The periodic resource model of Shin and Lee is the worst of both.

use std::time::Duration;

use crate::reservation::nanos;

/// Where a release finds the server's period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At its beginning. So it is for a guest that sleeps when it has nothing to do: the wake-up rule of a constant
    /// bandwidth server starts a new period with a full budget (Documentation/scheduler/sched-deadline.rst, section
    /// 2.2), as long as the tasks' periods are multiples of the server's.
    Aligned,
    /// Anywhere. So it is for a guest that never sleeps: its server's periods follow one another whatever is released.
    Any,
}

/// A server that supplies `budget` in every `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Q.
    pub budget: Duration,
    /// P.
    pub period: Duration,
    /// When the budget of a period has been supplied at the latest, counted from the period's beginning: Q if nothing
    /// else runs before this server, P in the periodic resource model.
    pub latest: Duration,
    /// Where a release finds the server.
    pub phase: Phase,
}

impl Supply {
    /// The periodic resource model: the first budget as early, all others as late as possible (Shin and Lee, RTSS 2003).
    pub fn worst_case(budget: Duration, period: Duration) -> Self {
        Self {
            budget,
            period,
            latest: period,
            phase: Phase::Any,
        }
    }

    /// A server whose period begins with the release. Where in its periods the budget comes makes no difference at the
    /// end of a period.
    pub fn aligned(budget: Duration, period: Duration) -> Self {
        Self {
            phase: Phase::Aligned,
            ..Self::worst_case(budget, period)
        }
    }

    /// The supply bound function: the least CPU time in any interval of this length that begins with a release.
    pub fn bound(&self, length: Duration) -> Duration {
        let server = Server {
            budget: nanos(self.budget),
            period: nanos(self.period).max(1),
            latest: nanos(self.latest).clamp(nanos(self.budget), nanos(self.period)),
        };
        let length = nanos(length);
        let least = match self.phase {
            Phase::Aligned => server.supplied(0, length),
            Phase::Any => server
                .corners(length)
                .map(|phase| server.supplied(phase, length))
                .min()
                .unwrap_or(0),
        };
        Duration::from_nanos(least)
    }
}

/// The same in nanoseconds.
struct Server {
    budget: u64,
    period: u64,
    latest: u64,
}

impl Server {
    /// The least supply in an interval of `length` that begins `phase` after the beginning of a period.
    ///
    /// The budgets of the first and of the last period are placed independently of one another, each as far outside the
    /// interval as it goes: the first before it, the last after it.
    fn supplied(&self, phase: u64, length: u64) -> u64 {
        let end = phase + length;
        if end <= self.period {
            let outside = phase + self.latest.saturating_sub(end);
            return self.budget.saturating_sub(outside);
        }
        let first = self.budget.saturating_sub(phase);
        let whole = end / self.period - 1;
        let into_last = end % self.period;
        let last = self
            .budget
            .saturating_sub(self.latest.saturating_sub(into_last));
        first + whole * self.budget + last
    }

    /// The phases at which [`Server::supplied`] may be least: it is piecewise linear between them.
    fn corners(&self, length: u64) -> impl Iterator<Item = u64> {
        // The interval begins where a budget may have ended, or ends where one may begin or must have ended.
        let back = |at: u64| (at % self.period + self.period - length % self.period) % self.period;
        let begins = [0, self.budget % self.period];
        let ends = [0, self.latest - self.budget, self.latest].map(back);
        let last = self.period - 1;
        begins.into_iter().chain(ends).chain([last])
    }
}

/// A periodic task with a fixed priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its greatest execution time.
    pub execution: Duration,
    /// The least time between two releases.
    pub period: Duration,
    /// Its relative deadline, at most the period.
    pub deadline: Duration,
}

impl Task {
    /// A task whose deadline is its period.
    pub fn new(execution: Duration, period: Duration) -> Self {
        Self {
            execution,
            period,
            deadline: period,
        }
    }
}

/// The request bound function: what task `index` and all before it request at most in an interval of this length that
/// begins with the release of all of them. The tasks are ordered by priority, the highest first.
pub fn request_bound(tasks: &[Task], index: usize, length: Duration) -> Duration {
    let (above, own) = tasks.split_at(index.min(tasks.len()));
    let own = own.first().map_or(Duration::ZERO, |task| task.execution);
    let jobs = |task: &Task| nanos(length).div_ceil(nanos(task.period).max(1));
    let requested = |task: &Task| Duration::from_nanos(nanos(task.execution) * jobs(task));
    own + above.iter().map(requested).sum::<Duration>()
}

/// Whether all tasks, ordered by priority, meet their deadlines on what is supplied.
pub fn is_schedulable(tasks: &[Task], supply: &Supply) -> bool {
    let meets = |index: usize| {
        instants(tasks, index)
            .any(|at| supply.bound(at) >= request_bound(tasks, index, at) && !at.is_zero())
    };
    (0..tasks.len()).all(meets)
}

/// The instants that decide on task `index`: its deadline, and the releases above it before that. Between two of them
/// the request stands still while the supply grows.
fn instants(tasks: &[Task], index: usize) -> impl Iterator<Item = Duration> + '_ {
    let deadline = tasks[index].deadline;
    let releases = move |task: &Task| {
        let period = nanos(task.period).max(1);
        (1..=nanos(deadline) / period).map(move |n| Duration::from_nanos(n * period))
    };
    tasks[..index]
        .iter()
        .flat_map(releases)
        .chain(std::iter::once(deadline))
}

/// When the budget of a period has been supplied at the latest, counted from the period's beginning, by a server
/// (`budget`, `period`) that shares its CPU under EDF with other servers, given as (Q, P): what [`Supply::latest`] takes.
///
/// In an interval that ends with the server's deadline, no more work can go before it than what has both its release
/// and its deadline inside (the demand bound function of Baruah, Rosier and Howell 1990; the argument is Spuri's,
/// INRIA RR-2772). The interval begins with the server's own period or earlier. An upper bound, and never more than the
/// period while the utilisations sum up to at most one.
pub fn latest_under_edf(
    budget: Duration,
    period: Duration,
    others: &[(Duration, Duration)],
) -> Duration {
    let servers: Vec<(u64, u64)> = std::iter::once(&(budget, period))
        .chain(others)
        .map(|(q, p)| (nanos(*q), nanos(*p).max(1)))
        .collect();
    let own = nanos(period).max(1);
    let response = |length: u64| {
        let work: u64 = servers.iter().map(|(q, p)| length / p * q).sum();
        work.saturating_sub(length - own)
    };
    // Beyond a few periods the demand has fallen behind the length, unless the CPU is full: then the period bounds.
    let longest = servers.iter().map(|(_, p)| *p).max().unwrap_or(own) * 64;
    let multiples = |p: u64| (own.div_ceil(p)..=longest / p).map(move |n| n * p);
    let worst = servers
        .iter()
        .flat_map(|(_, p)| multiples(*p))
        .map(response)
        .max()
        .unwrap_or(own);
    Duration::from_nanos(worst).clamp(budget, period)
}

/// The resolution of [`least_budget`].
pub const BUDGET_STEP: Duration = Duration::from_micros(1);

/// The least budget, in steps of [`BUDGET_STEP`], with which `supply` makes the tasks meet their deadlines; `None` if
/// not even the whole period does. Supply has to grow with the budget.
pub fn least_budget(
    tasks: &[Task],
    period: Duration,
    supply: impl Fn(Duration) -> Supply,
) -> Option<Duration> {
    let step = nanos(BUDGET_STEP);
    let suffices = |steps: u64| is_schedulable(tasks, &supply(Duration::from_nanos(steps * step)));
    let (mut low, mut high) = (0, nanos(period) / step);
    if !suffices(high) {
        return None;
    }
    while low < high {
        let middle = u64::midpoint(low, high);
        if suffices(middle) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Some(Duration::from_nanos(high * step))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    /// The task set of Cucinotta, Anastasi and Abeni.
    fn paper() -> [Task; 2] {
        [Task::new(ms(30), ms(150)), Task::new(ms(50), ms(200))]
    }

    #[test]
    fn the_papers_task_set_needs_32_ms_in_50_in_the_worst_case() {
        let least = least_budget(&paper(), ms(50), |q| Supply::worst_case(q, ms(50)));
        assert_eq!(least, Some(ms(32)));
    }

    #[test]
    fn the_papers_task_set_needs_26_7_ms_in_50_when_periods_begin_with_releases() {
        let least = least_budget(&paper(), ms(50), |q| Supply::aligned(q, ms(50)));
        assert_eq!(least, Some(us(26_667)));
    }

    #[test]
    fn a_server_that_nothing_delays_needs_no_more_at_any_phase_of_harmonic_periods() {
        let supply = |q| Supply {
            latest: q,
            ..Supply::worst_case(q, ms(50))
        };
        assert_eq!(least_budget(&paper(), ms(50), supply), Some(us(26_667)));
    }

    #[test]
    fn a_neighbour_with_a_shorter_period_delays_a_budget_by_its_own_at_most_once() {
        let neighbours = [(ms(12), ms(47))];
        assert_eq!(latest_under_edf(ms(30), ms(50), &neighbours), ms(42));
        assert_eq!(latest_under_edf(ms(30), ms(50), &[]), ms(30));
        assert_eq!(
            latest_under_edf(ms(30), ms(50), &[(ms(40), ms(100))]),
            ms(50)
        );
    }

    #[test]
    fn the_periodic_resource_model_is_as_published() {
        // Shin and Lee, figure 3: for (5, 3) the longest blackout is 2 (P - Q) = 4, and supply steps up by Q in P.
        let supply = Supply::worst_case(ms(3), ms(5));
        let bounds = [0, 4, 5, 7, 9, 10, 12, 14].map(|t| supply.bound(ms(t)));
        assert_eq!(bounds, [0, 0, 1, 3, 3, 4, 6, 6].map(ms));
    }

    #[test]
    fn a_set_that_overloads_the_processor_has_no_budget() {
        let heavy = [Task::new(ms(6), ms(10)), Task::new(ms(6), ms(10))];
        let least = least_budget(&heavy, ms(5), |q| Supply::worst_case(q, ms(5)));
        assert_eq!(least, None);
    }

    /// The supply of integer units in [phase, phase + length), over every placement of the budgets within `latest`.
    ///
    /// A period's budget is contiguous here; its units inside the interval are then least at one of the two ends.
    fn by_enumeration(q: u64, p: u64, latest: u64, (phase, length): (u64, u64)) -> u64 {
        let end = phase + length;
        let inside = |period: u64| {
            let starts = 0..=latest - q;
            let units = |start: u64| {
                let from = period * p + start;
                (from..from + q)
                    .filter(|t| (phase..end).contains(t))
                    .count() as u64
            };
            starts.map(units).min().unwrap_or(0)
        };
        (0..=end / p).map(inside).sum()
    }

    fn units(duration: Duration) -> u64 {
        nanos(duration) / 1_000
    }

    /// Whether the first job of task `index`, released together with all above it, is done by its deadline, unit by
    /// unit of supply that follows the bound.
    fn finishes_in_time(tasks: &[Task], index: usize, supply: &Supply) -> bool {
        let mut left = vec![0; index + 1];
        left[index] = units(tasks[index].execution);
        let mut got = 0;
        for t in 0..units(tasks[index].deadline) {
            for (task, left) in tasks[..index].iter().zip(&mut left) {
                let released = t.is_multiple_of(units(task.period));
                *left += units(task.execution) * u64::from(released);
            }
            let supplied = units(supply.bound(us(t + 1)));
            let running = left.iter_mut().find(|left| **left > 0);
            if let (true, Some(running)) = (supplied > got, running) {
                *running -= 1;
            }
            got = supplied;
            if left[index] == 0 {
                return true;
            }
        }
        false
    }

    proptest! {
        #[test]
        fn the_bound_is_the_least_over_all_phases_and_placements(
            p in 1u64..12, q in 0u64..12, late in 0u64..12, length in 0u64..40,
        ) {
            let q = q.min(p);
            let latest = (q + late).min(p);
            let supply = Supply { budget: us(q), period: us(p), latest: us(latest), phase: Phase::Any };
            let least = (0..p).map(|phase| by_enumeration(q, p, latest, (phase, length))).min();
            prop_assert_eq!(supply.bound(us(length)), us(least.unwrap_or(0)));
            let aligned = Supply { phase: Phase::Aligned, ..supply };
            prop_assert_eq!(aligned.bound(us(length)), us(by_enumeration(q, p, latest, (0, length))));
        }

        #[test]
        fn the_test_agrees_with_running_the_schedule(
            c in prop::collection::vec(1u64..8, 1..4), scale in 1u64..5, p in 2u64..8, q in 1u64..8, any: bool,
        ) {
            let tasks: Vec<_> = c.iter().enumerate()
                .map(|(i, c)| Task::new(us(*c), us((c + 3) * scale * (i as u64 + 1))))
                .collect();
            let mut tasks = tasks;
            tasks.sort_by_key(|task| task.period);
            let phase = if any { Phase::Any } else { Phase::Aligned };
            let supply = Supply { budget: us(q.min(p)), period: us(p), latest: us(p), phase };
            let all = (0..tasks.len()).all(|index| finishes_in_time(&tasks, index, &supply));
            prop_assert_eq!(is_schedulable(&tasks, &supply), all);
        }

        #[test]
        fn no_budget_comes_later_under_edf_than_the_bound(
            q in 1u64..6, p in 6u64..14, other in 1u64..6, period in 6u64..14, offset in 0u64..14,
        ) {
            prop_assume!(q * period + other * p <= p * period);
            let latest = latest_under_edf(us(q), us(p), &[(us(other), us(period))]);
            let ([mut own, mut theirs], mut worst) = ([0u64; 2], 0);
            for t in 0..p * period * 2 {
                own += if t % p == 0 { q } else { 0 };
                theirs += if t >= offset && (t - offset) % period == 0 { other } else { 0 };
                let (mine, yours) = (t / p * p + p, t.checked_sub(offset).map_or(0, |s| s / period * period + period + offset));
                if own > 0 && (theirs == 0 || mine < yours) {
                    own -= 1;
                    worst = worst.max(t % p + 1);
                } else {
                    theirs = theirs.saturating_sub(1);
                }
            }
            prop_assert!(us(worst) <= latest, "{worst} us after {latest:?}");
        }

        #[test]
        fn more_budget_never_hurts_and_a_later_budget_never_helps(
            p in 2u64..60, q in 0u64..60, late in 0u64..60, length in 0u64..300,
        ) {
            let q = q.min(p - 1);
            let latest = (q + late).min(p);
            let bound = |q, latest| {
                Supply { budget: us(q), period: us(p), latest: us(latest), phase: Phase::Any }.bound(us(length))
            };
            prop_assert!(bound(q + 1, latest.max(q + 1)) >= bound(q, latest.max(q + 1)));
            prop_assert!(bound(q, p) <= bound(q, latest));
        }
    }
}

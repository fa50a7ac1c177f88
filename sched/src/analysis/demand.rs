//! What tasks ask for: the request bound function for fixed priorities, the demand bound function for EDF, and the
//! instants at which they have to be compared with the supply.
//!
//! - Fixed priorities: a job and all above it, released together, are the worst case (Liu and Layland, JACM 1973). What
//!   they request steps up at releases only, which makes these and the deadline the instants to look at (Lehoczky, Sha
//!   and Ding, RTSS 1989), or reaches them by iteration (Joseph and Pandya, The Computer Journal 1986). Release jitter:
//!   Audsley, Burns, Richardson, Tindell and Wellings, Software Engineering Journal 1993.
//! - EDF: what has both release and deadline in an interval must be done in it (Baruah, Rosier and Howell, RTSS 1990).
//!   It steps up at deadlines. Jitter makes deadlines as much earlier (Spuri, INRIA RR-2772, 1996).
//!
//! The blocking time is added once to either.

use std::time::Duration;

use super::supply::SupplyBound;
use super::task::{SHARE_BITS, Task, TaskSet, ratio};
use crate::reservation::nanos;

/// Who goes first under fixed priorities. Ties are broken by the place in the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priorities {
    /// The shortest period.
    RateMonotonic,
    /// The shortest deadline.
    DeadlineMonotonic,
    /// The first in the set.
    Given,
}

impl Priorities {
    /// The places of the tasks in the set, the highest priority first.
    pub fn order(self, set: &TaskSet) -> Vec<usize> {
        let tasks = set.tasks();
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        match self {
            Self::RateMonotonic => order.sort_by_key(|&at| tasks[at].period),
            Self::DeadlineMonotonic => order.sort_by_key(|&at| tasks[at].deadline),
            Self::Given => {}
        }
        order
    }
}

/// The request bound function: what the task at this place of the set and all above it request at most in an interval
/// of this length that begins with the release of all of them, and what it may be blocked for. Of the task itself one
/// job counts.
pub fn request_bound(
    set: &TaskSet,
    priorities: Priorities,
    place: usize,
    length: Duration,
) -> Duration {
    let order = priorities.order(set);
    let rank = order.iter().position(|&at| at == place);
    let demand = Demand::ranked(set, &order);
    let requested = rank.map_or(0, |rank| demand.requested(rank, nanos(length)));
    Duration::from_nanos(requested)
}

/// The demand bound function: the execution time of all jobs that can have both release and deadline in an interval of
/// this length, and what one may be blocked for.
pub fn demand_bound(set: &TaskSet, length: Duration) -> Duration {
    Duration::from_nanos(Demand::of(set).demanded(nanos(length)))
}

/// A task in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sporadic {
    pub execution: u64,
    /// From the latest release on: D - J.
    pub deadline: u64,
    pub period: u64,
    pub jitter: u64,
}

impl From<&Task> for Sporadic {
    fn from(task: &Task) -> Self {
        Self {
            execution: nanos(task.execution),
            deadline: nanos(task.deadline - task.jitter),
            period: nanos(task.period),
            jitter: nanos(task.jitter),
        }
    }
}

impl Sporadic {
    /// Jobs that can be released in an interval of this length, its end excluded.
    pub fn releases(&self, length: u64) -> u64 {
        length.saturating_add(self.jitter).div_ceil(self.period)
    }

    /// Jobs with release and deadline in an interval of this length.
    pub fn deadlines(&self, length: u64) -> u64 {
        // The deadline is at most the period: this does not fall below zero.
        length.saturating_add(self.period - self.deadline) / self.period
    }

    /// The last instant before `end` or at it at which [`Self::deadlines`] steps up.
    pub fn deadline_up_to(&self, end: u64) -> Option<u64> {
        let count = self.deadlines(end);
        (count > 0).then(|| (count - 1) * self.period + self.deadline)
    }
}

/// Where the comparison of demand and supply may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Horizon {
    /// If demand exceeds supply anywhere, it does so here or before.
    Until(u64),
    /// The demand grows faster than the supply and exceeds it here.
    Exceeded(u64),
    /// Beyond what can be looked at.
    Unknown,
}

/// The latest instant that is looked at: sums of nanoseconds stay in their type.
const LATEST: u64 = 1 << 60;

/// The tasks of a set in nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Demand {
    pub tasks: Vec<Sporadic>,
    pub blocking: u64,
}

impl Demand {
    /// In the order of the set.
    pub fn of(set: &TaskSet) -> Self {
        Self {
            tasks: set.tasks().iter().map(Sporadic::from).collect(),
            blocking: nanos(set.blocking()),
        }
    }

    /// In this order.
    pub fn ranked(set: &TaskSet, order: &[usize]) -> Self {
        let in_set = Self::of(set);
        Self {
            tasks: order.iter().map(|&at| in_set.tasks[at]).collect(),
            ..in_set
        }
    }

    /// The request bound function of the task at `rank`, the tasks being ordered by priority.
    pub fn requested(&self, rank: usize, length: u64) -> u64 {
        let (above, own) = self.tasks.split_at(rank);
        let own = own.first().map_or(0, |task| task.execution);
        let requested = |task: &Sporadic| task.execution.saturating_mul(task.releases(length));
        above
            .iter()
            .map(requested)
            .fold(self.blocking + own, u64::saturating_add)
    }

    /// The demand bound function.
    pub fn demanded(&self, length: u64) -> u64 {
        let demanded = |task: &Sporadic| task.execution.saturating_mul(task.deadlines(length));
        self.tasks
            .iter()
            .map(demanded)
            .fold(self.blocking, u64::saturating_add)
    }

    /// The last deadline before `end` or at it.
    pub fn deadline_up_to(&self, end: u64) -> Option<u64> {
        self.tasks
            .iter()
            .filter_map(|task| task.deadline_up_to(end))
            .max()
    }

    /// How far [`Self::demanded`] has to be compared with a supply.
    ///
    /// The demand lies below the line U t + sum of C (T - D)/T + blocking, the supply above its rate after its lag: the
    /// bound of Baruah, Rosier and Howell, for a supply that is not the whole processor. Where both lines are parallel,
    /// what happens repeats with the least common multiple of all periods.
    pub fn horizon(&self, supply: &impl SupplyBound) -> Horizon {
        let (budget, period) = supply.rate();
        let (budget, period) = (nanos(budget), nanos(period).max(1));
        let (rate_low, rate_high) = ratio(budget, period);
        let sum = |of: fn(&Sporadic) -> u128| self.tasks.iter().map(of).sum::<u128>();
        let used_low = sum(|task| ratio(task.execution, task.period).0);
        let used_high = sum(|task| ratio(task.execution, task.period).1);
        let lag = u128::from(nanos(supply.lag()));
        if used_high < rate_low {
            let ahead = sum(|task| part(task, task.period - task.deadline));
            let behind = (lag * u128::from(budget)).div_ceil(u128::from(period));
            let apart = ahead + behind + u128::from(self.blocking);
            return crossing(apart, rate_low - used_high).map_or(Horizon::Unknown, Horizon::Until);
        }
        if used_low > rate_high {
            let late = sum(|task| part(task, task.deadline));
            let apart = late + u128::from(budget);
            return crossing(apart, used_low - rate_high)
                .map_or(Horizon::Unknown, Horizon::Exceeded);
        }
        let periods = self.tasks.iter().map(|task| task.period);
        let Some(repeats) = least_common_multiple(periods.chain([period])) else {
            return Horizon::Unknown;
        };
        u64::try_from(u128::from(repeats) + lag).map_or(Horizon::Unknown, Horizon::Until)
    }
}

/// C / T of some time, rounded up.
fn part(task: &Sporadic, time: u64) -> u128 {
    (u128::from(task.execution) * u128::from(time)).div_ceil(u128::from(task.period))
}

/// When two lines meet that are `apart` and come nearer by `slope` (in units of 2^-40).
pub(super) fn crossing(apart: u128, slope: u128) -> Option<u64> {
    let at = (apart << SHARE_BITS).checked_div(slope)? + 1;
    u64::try_from(at).ok().filter(|at| *at < LATEST)
}

fn least_common_multiple(mut values: impl Iterator<Item = u64>) -> Option<u64> {
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let multiple = |all: u64, one: u64| all.checked_mul(one / gcd(all, one));
    values
        .try_fold(1, multiple)
        .filter(|multiple| *multiple < LATEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn set() -> TaskSet {
        let tasks = [
            Task::new("slow", ms(5), ms(20)),
            Task::new("fast", ms(2), ms(10)).with_deadline(ms(9)),
            Task::new("late", ms(1), ms(12)).with_jitter(ms(3)),
        ];
        TaskSet::new(tasks).unwrap()
    }

    #[test]
    fn priorities_follow_periods_deadlines_or_the_set() {
        let tasks = [
            Task::new("a", ms(1), ms(20)).with_deadline(ms(5)),
            Task::new("b", ms(1), ms(10)),
            Task::new("c", ms(1), ms(10)),
        ];
        let set = TaskSet::new(tasks).unwrap();
        assert_eq!(Priorities::RateMonotonic.order(&set), [1, 2, 0]);
        assert_eq!(Priorities::DeadlineMonotonic.order(&set), [0, 1, 2]);
        assert_eq!(Priorities::Given.order(&set), [0, 1, 2]);
    }

    #[test]
    fn requests_step_up_after_releases_and_jitter_makes_them_earlier() {
        let of = |place, length| {
            let priorities = Priorities::RateMonotonic;
            request_bound(&set(), priorities, place, length)
        };
        // The fast task is first; beside its own job nothing counts.
        assert_eq!(of(1, ms(100)), ms(2));
        // 5 + 2 per 10 ms + 1 per 12 ms, of which the second may come 9 ms after the first.
        assert_eq!(of(0, ms(9)), ms(8));
        assert_eq!(of(0, ms(9) + Duration::from_nanos(1)), ms(9));
        assert_eq!(of(0, ms(11)), ms(11));
        let blocked = set().with_blocking(ms(4)).unwrap();
        let length = ms(9);
        assert_eq!(
            request_bound(&blocked, Priorities::RateMonotonic, 0, length),
            ms(12)
        );
    }

    #[test]
    fn demand_steps_up_at_deadlines_and_jitter_makes_them_earlier() {
        let of = |length| demand_bound(&set(), length);
        assert_eq!(of(ms(9) - Duration::from_nanos(1)), ms(0));
        // Both the fast task's deadline and that of the late one, 12 - 3.
        assert_eq!(of(ms(9)), ms(3));
        assert_eq!(of(ms(20)), ms(2 + 2 + 1 + 5));
        assert_eq!(of(ms(21)), ms(2 + 2 + 1 + 5 + 1));
    }

    #[test]
    fn the_horizon_is_past_the_crossing_of_the_lines() {
        use super::super::supply::Supply;
        let demand = Demand::of(&set());
        let supply = Supply::worst_case(ms(6), ms(10));
        let Horizon::Until(end) = demand.horizon(&supply) else {
            panic!("U is below the rate");
        };
        // U = 0.25 + 0.2 + 1/12; 0.2 x 1 + 1/12 x 3 ahead, 0.6 x 8 behind.
        let expected = (0.2 + 0.25 + 4.8) / (0.6 - 0.25 - 0.2 - 1.0 / 12.0) * 1e6;
        assert!((end as f64 - expected).abs() < 1e3, "{end} {expected}");
        let short = demand.horizon(&Supply::worst_case(ms(5), ms(10)));
        let Horizon::Exceeded(at) = short else {
            panic!("U is above the rate: {short:?}");
        };
        let supplied = nanos(Supply::worst_case(ms(5), ms(10)).bound(Duration::from_nanos(at)));
        assert!(demand.demanded(at) > supplied);
    }
}

//! Designers: the least server for a task set, and the placing of tasks on virtual processors.

use std::time::Duration;

use super::Scheduler;
use super::global_edf;
use super::mpr::Multiprocessor;
use super::supply::SupplyBound;
use super::task::TaskSet;
use crate::bisection::last_that_holds;
use crate::reservation::nanos;

/// The resolution of budgets.
pub const BUDGET_STEP: Duration = Duration::from_micros(1);

fn steps(duration: Duration) -> u64 {
    nanos(duration) / nanos(BUDGET_STEP)
}

fn duration(steps: u64) -> Duration {
    Duration::from_nanos(steps.saturating_mul(nanos(BUDGET_STEP)))
}

/// The least of `0..=greatest` that suffices, if the greatest does. What suffices must do so with more, too.
fn least(greatest: Duration, suffices: impl Fn(Duration) -> bool) -> Option<Duration> {
    // Counted from 1, so that there is a step below the least that can suffice.
    let greatest = steps(greatest).saturating_add(1);
    let suffices = |at: u64| suffices(duration(at - 1));
    last_that_holds(greatest, 0, suffices).map(|at| duration(at - 1))
}

/// The least budget, in steps of [`BUDGET_STEP`], with which `supply` makes the tasks meet their deadlines; `None` if
/// not even the whole period does. Supply has to grow with the budget.
pub fn least_budget<S: SupplyBound>(
    set: &TaskSet,
    scheduler: Scheduler,
    period: Duration,
    supply: impl Fn(Duration) -> S,
) -> Option<Duration> {
    least(period, |budget| scheduler.meets(set, &supply(budget)))
}

/// The least budget of all `vcpus` together with which global EDF is shown to meet the deadlines; `None` if it is not
/// with the whole period on each. The test is sufficient only, and so is the budget.
pub fn least_parallel_budget(set: &TaskSet, period: Duration, vcpus: u32) -> Option<Duration> {
    let supply = |budget| Multiprocessor {
        budget,
        period,
        vcpus,
    };
    least(period.saturating_mul(vcpus), |budget| {
        global_edf::is_schedulable(set, &supply(budget))
    })
}

/// The periods to choose from: from the shortest to the longest in equal steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// The shortest.
    pub shortest: Duration,
    /// The longest.
    pub longest: Duration,
    /// The distance between two.
    pub step: Duration,
}

/// How many periods [`Periods::suited_to`] has up to the shortest of a task, and how many times that is the longest.
const CHOICES: u32 = 200;
const LONGEST: u32 = 4;

impl Periods {
    /// 800 periods in whole microseconds, up to four times the shortest of a task. With one longer than that of a task a
    /// server has to supply nearly all the time, which pays only where tasks need that and a period costs much.
    pub fn suited_to(set: &TaskSet) -> Self {
        let whole = |time: Duration| duration(steps(time).max(1));
        let shortest = set.tasks().iter().map(|task| task.period).min();
        let shortest = shortest.unwrap_or(BUDGET_STEP);
        let step = whole(shortest / CHOICES);
        Self {
            shortest: step,
            longest: whole(shortest * LONGEST),
            step,
        }
    }
}

/// A server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Design {
    /// Q that must reach the guest.
    pub budget: Duration,
    /// P.
    pub period: Duration,
    /// What a switch to it and away from it takes in every period.
    pub cost: Duration,
}

impl Design {
    /// What to reserve: Q with the switch.
    pub fn reserved(&self) -> Duration {
        self.budget + self.cost
    }

    /// (Q + cost) / P.
    pub fn bandwidth(&self) -> f64 {
        self.reserved().as_secs_f64() / self.period.as_secs_f64()
    }

    /// The greatest budget with another period, and this cost there, that takes less bandwidth than this server does.
    fn less_at(&self, period: Duration, cost: Duration) -> Option<Duration> {
        let scaled = self.reserved().as_nanos() * period.as_nanos();
        let most = scaled
            .div_ceil(self.period.as_nanos().max(1))
            .checked_sub(1)?;
        let most = Duration::from_nanos(u64::try_from(most).ok()?);
        most.checked_sub(cost)
    }
}

/// The server with the least bandwidth, what each of its periods costs included; of equals the one with the longest period.
/// `cost` is what a period of some length costs beside the budget, and `supply` makes a supply of budget and period. Short
/// periods need less budget but switch more often.
pub fn best_server<S: SupplyBound>(
    set: &TaskSet,
    scheduler: Scheduler,
    (periods, cost): (Periods, impl Fn(Duration) -> Duration),
    supply: impl Fn(Duration, Duration) -> S,
) -> Option<Design> {
    let mut best = None::<Design>;
    let mut period = periods.longest;
    while period >= periods.shortest && !period.is_zero() {
        let cost = cost(period);
        let room = period.checked_sub(cost);
        // Only a budget that makes it better is looked for: most periods are out with the first test.
        let most = match best {
            Some(best) => best.less_at(period, cost).min(room),
            None => room,
        };
        let meets = |budget| scheduler.meets(set, &supply(budget, period));
        if let Some(budget) = most.and_then(|most| least(most, meets)) {
            best = Some(Design {
                budget,
                period,
                cost,
            });
        }
        match period.checked_sub(periods.step.max(Duration::from_nanos(1))) {
            Some(shorter) => period = shorter,
            None => break,
        }
    }
    best
}

/// Which virtual processor a task is put on, of those on which the test accepts it. Tasks come in the order of their
/// utilisation, the greatest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// The first.
    First,
    /// The one with the least utilisation.
    Worst,
}

/// A task for which there is no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "task {task} fits on none of {vcpus} vCPUs beside the tasks that are there: add a vCPU, supply more, or lower its execution time"
)]
pub struct Unplaced {
    /// The task.
    pub task: String,
    /// How many virtual processors there are.
    pub vcpus: usize,
}

/// Which tasks, by their places in the set, go to which of `vcpus` virtual processors, each with this supply, so that the
/// scheduler's test accepts every one of them.
///
/// # Errors
/// [`Unplaced`], when a task fits nowhere. Another order might have placed it.
pub fn split(
    set: &TaskSet,
    scheduler: Scheduler,
    (vcpus, fit): (usize, Fit),
    supply: &impl SupplyBound,
) -> Result<Vec<Vec<usize>>, Unplaced> {
    let tasks = set.tasks();
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    order.sort_by(|&a, &b| tasks[b].utilisation().total_cmp(&tasks[a].utilisation()));
    let mut placed: Vec<Vec<usize>> = vec![Vec::new(); vcpus];
    for place in order {
        let accepts = |there: &&mut Vec<usize>| {
            let with: Vec<usize> = there.iter().copied().chain([place]).collect();
            scheduler.meets(&set.part(&with), supply)
        };
        let used = |there: &&mut Vec<usize>| -> f64 {
            there.iter().map(|&at| tasks[at].utilisation()).sum()
        };
        let mut fitting = placed.iter_mut().filter(accepts);
        let chosen = match fit {
            Fit::First => fitting.next(),
            Fit::Worst => fitting.min_by(|a, b| used(a).total_cmp(&used(b))),
        };
        let unplaced = || Unplaced {
            task: tasks[place].name.clone(),
            vcpus,
        };
        chosen.ok_or_else(unplaced)?.push(place);
    }
    for there in &mut placed {
        there.sort_unstable();
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use super::super::supply::Phase;
    use super::super::{Priorities, Supply, Task};
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    fn set(tasks: &[(u64, u64)]) -> TaskSet {
        let task = |(n, (c, t)): (usize, &(u64, u64))| Task::new(format!("t{n}"), ms(*c), ms(*t));
        TaskSet::for_processors(4, tasks.iter().enumerate().map(task)).unwrap()
    }

    /// The task set of Cucinotta, Anastasi and Abeni.
    fn paper() -> TaskSet {
        set(&[(30, 150), (50, 200)])
    }

    const RM: Scheduler = Scheduler::RATE_MONOTONIC;
    const EDF: Scheduler = Scheduler::EarliestDeadlineFirst;

    #[test]
    fn the_papers_task_set_needs_32_ms_in_50_in_the_worst_case() {
        let least = least_budget(&paper(), RM, ms(50), |q| Supply::worst_case(q, ms(50)));
        assert_eq!(least, Some(ms(32)));
    }

    #[test]
    fn the_papers_task_set_needs_26_7_ms_in_50_when_periods_begin_with_releases() {
        let least = least_budget(&paper(), RM, ms(50), |q| Supply::aligned(q, ms(50)));
        assert_eq!(least, Some(us(26_667)));
    }

    #[test]
    fn a_server_that_nothing_delays_needs_no_more_at_any_phase_of_harmonic_periods() {
        let supply = |q| Supply {
            phase: Phase::Any,
            latest: q,
            ..Supply::worst_case(q, ms(50))
        };
        assert_eq!(least_budget(&paper(), RM, ms(50), supply), Some(us(26_667)));
    }

    #[test]
    fn a_set_that_overloads_the_processor_has_no_budget() {
        let heavy = set(&[(6, 10), (6, 10)]);
        for scheduler in [RM, EDF] {
            let least = least_budget(&heavy, scheduler, ms(5), |q| Supply::worst_case(q, ms(5)));
            assert_eq!(least, None);
        }
    }

    #[test]
    fn edf_needs_no_more_than_rate_monotonic() {
        let need = |scheduler| {
            let supply = |q| Supply::worst_case(q, ms(50));
            least_budget(&paper(), scheduler, ms(50), supply).unwrap()
        };
        assert!(need(EDF) <= need(RM));
    }

    #[test]
    fn the_best_server_is_the_best_of_all_periods_and_switches_no_more_than_it_pays() {
        let at = |period| {
            let budget = least_budget(&paper(), EDF, period, |q| Supply::worst_case(q, period));
            budget.map(|budget| (budget, period))
        };
        let periods = Periods {
            shortest: ms(1),
            longest: ms(60),
            step: ms(1),
        };
        let mut lengths = Vec::new();
        for cost in [0, 20, 200, 1_000].map(us) {
            let supply = Supply::worst_case;
            let best = best_server(&paper(), EDF, (periods, |_| cost), supply).unwrap();
            let all = (1..=60).filter_map(|p| at(ms(p)));
            let bandwidth =
                |(q, p): (Duration, Duration)| (q + cost).as_secs_f64() / p.as_secs_f64();
            let least = all.map(bandwidth).min_by(f64::total_cmp).unwrap();
            assert!((best.bandwidth() - least).abs() < 1e-12, "{best:?} {least}");
            lengths.push(best.period);
        }
        assert!(lengths.is_sorted(), "{lengths:?}");
        assert!(lengths[0] < lengths[3]);
    }

    #[test]
    fn a_period_that_costs_more_than_the_others_is_not_the_best() {
        let periods = Periods::suited_to(&paper());
        assert_eq!((periods.shortest, periods.longest), (us(750), ms(600)));
        let best = |cost: &dyn Fn(Duration) -> Duration| {
            best_server(&paper(), RM, (periods, cost), Supply::worst_case).unwrap()
        };
        let cheap = best(&|_| us(100));
        let dear = best(&|period| us(if period <= cheap.period { 30_000 } else { 100 }));
        assert!(dear.period > cheap.period, "{cheap:?} {dear:?}");
        assert_eq!(dear.cost, us(100));
    }

    #[test]
    fn a_split_gives_every_task_one_place_where_its_test_accepts_it() {
        let tasks = [(5, 10), (6, 10), (4, 10), (3, 10), (2, 20)];
        let set = set(&tasks);
        let whole = Supply::whole_processor();
        for fit in [Fit::First, Fit::Worst] {
            let placed = split(&set, EDF, (2, fit), &whole).unwrap();
            let mut all: Vec<usize> = placed.concat();
            all.sort_unstable();
            assert_eq!(all, [0, 1, 2, 3, 4]);
            assert!(placed.iter().all(|part| EDF.meets(&set.part(part), &whole)));
        }
        let first = split(&set, EDF, (3, Fit::First), &whole).unwrap();
        assert_eq!(first[0], [1, 2]);
        let worst = split(&set, EDF, (3, Fit::Worst), &whole).unwrap();
        assert_eq!(worst[0], [1]);
        let refused = split(&set, EDF, (1, Fit::First), &whole).unwrap_err();
        assert_eq!(refused.task, "t0");
    }

    #[test]
    fn several_virtual_processors_need_at_least_what_the_tasks_use() {
        let set = set(&[(2, 20), (3, 30), (4, 40), (10, 50)]);
        let budget = least_parallel_budget(&set, ms(5), 2).unwrap();
        assert!(budget >= ms(5).mul_f64(set.utilisation()), "{budget:?}");
        assert!(budget <= ms(10));
        assert_eq!(least_parallel_budget(&set, ms(5), 0), None);
        let given = Scheduler::FixedPriority(Priorities::Given);
        assert_eq!(given.name(), "given priorities");
    }
}

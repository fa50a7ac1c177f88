//! The analysis beside schedules run unit by unit: what it accepts never misses, what an exact test refuses does, and the
//! least budget is the least.

use std::time::Duration;

use proptest::prelude::*;
use sched::analysis::design::{Fit, split};
use sched::analysis::mpr::Multiprocessor;
use sched::analysis::overhead::Overheads;
use sched::analysis::pause::{Paused, Resumption};
use sched::analysis::{
    Outcome, Phase, Priorities, Scheduler, Supply, SupplyBound, Task, TaskSet, global_edf,
    least_budget,
};

const SCHEDULERS: [Scheduler; 4] = [
    Scheduler::RATE_MONOTONIC,
    Scheduler::DEADLINE_MONOTONIC,
    Scheduler::FixedPriority(Priorities::Given),
    Scheduler::EarliestDeadlineFirst,
];

/// A unit of time is a microsecond, in which budgets are found.
fn us(units: u64) -> Duration {
    Duration::from_micros(units)
}

fn units(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A job in a schedule: those with a smaller key go first.
struct Job {
    key: (u64, usize),
    release: u64,
    deadline: u64,
    left: u64,
}

/// How the jobs of a schedule come: the first arrival of each task, and how late its jobs are released in turn.
#[derive(Clone, Debug)]
struct Arrivals {
    first: Vec<u64>,
    late: Vec<u64>,
}

impl Arrivals {
    fn together() -> Self {
        Self {
            first: vec![0],
            late: vec![0],
        }
    }

    fn jobs(&self, set: &TaskSet, scheduler: Scheduler, until: u64) -> Vec<Job> {
        let ranks = match scheduler {
            Scheduler::FixedPriority(priorities) => priorities.order(set),
            Scheduler::EarliestDeadlineFirst => Vec::new(),
        };
        let of = |(place, task): (usize, &Task)| {
            let period = units(task.period);
            let first = self.first[place % self.first.len()] % period;
            let rank = ranks.iter().position(|&at| at == place);
            let job = |n: u64| {
                let arrival = first + n * period;
                let late = self.late[usize::try_from(n).unwrap_or(0) % self.late.len()];
                let deadline = arrival + units(task.deadline);
                Job {
                    key: (rank.map_or(deadline, |rank| rank as u64), place),
                    release: arrival + late.min(units(task.jitter)),
                    deadline,
                    left: units(task.execution),
                }
            };
            (0..=until / period).map(job).collect::<Vec<_>>()
        };
        set.tasks().iter().enumerate().flat_map(of).collect()
    }
}

/// Whether a deadline up to `until` is missed when `cpus` processors are there in each unit of time.
fn misses(mut jobs: Vec<Job>, blocking: u64, cpus: impl Fn(u64) -> u64, until: u64) -> bool {
    let mut blocking = blocking;
    for t in 0..=until {
        if jobs.iter().any(|job| job.left > 0 && job.deadline <= t) {
            return true;
        }
        let mut ready: Vec<&mut Job> = jobs
            .iter_mut()
            .filter(|job| job.left > 0 && job.release <= t)
            .collect();
        ready.sort_by_key(|job| job.key);
        let mut free = cpus(t);
        let taken = blocking.min(free);
        (blocking, free) = (blocking - taken, free - taken);
        for job in ready.into_iter().take(usize::try_from(free).unwrap_or(0)) {
            job.left -= 1;
        }
    }
    false
}

/// The supply that is nowhere more than its bound.
fn worst(supply: &impl SupplyBound) -> impl Fn(u64) -> u64 {
    let at = |t: u64| units(supply.bound(us(t)));
    move |t| at(t + 1) - at(t)
}

/// A server whose budgets come anywhere in their periods, in one piece each, from a phase on.
fn placed(q: u64, p: u64, (phase, starts): (u64, &[u64])) -> impl Fn(u64) -> u64 {
    move |t| {
        let (period, into) = ((t + phase) / p, (t + phase) % p);
        let start = starts[usize::try_from(period).unwrap_or(0) % starts.len()] % (p - q + 1);
        u64::from((start..start + q).contains(&into))
    }
}

/// Sets with periods that divide 24, deadlines within periods, and perhaps jitter and blocking.
fn sets(jitter: bool) -> impl Strategy<Value = TaskSet> {
    let period = prop::sample::select(vec![3u64, 4, 6, 8, 12, 24]);
    let task = (1u64..6, period, 0u64..6, 0u64..4);
    let tasks = prop::collection::vec(task, 1..4);
    (tasks, 0u64..3).prop_filter_map("no set", move |(tasks, blocking)| {
        let task = |(n, (c, t, less, late)): (usize, &(u64, u64, u64, u64))| {
            let c = (*c).min(*t);
            let deadline = t.saturating_sub(*less).max(c);
            let jitter = if jitter { (*late).min(deadline - c) } else { 0 };
            Task::new(format!("t{n}"), us(c), us(*t))
                .with_deadline(us(deadline))
                .with_jitter(us(jitter))
        };
        let set = TaskSet::new(tasks.iter().enumerate().map(task)).ok()?;
        set.with_blocking(us(blocking)).ok()
    })
}

fn servers() -> impl Strategy<Value = (u64, u64)> {
    let period = prop::sample::select(vec![1u64, 2, 3, 4, 6, 8]);
    (1u64..=8, period).prop_map(|(q, p)| (q.min(p), p))
}

/// Periods of a server begin with all releases only if the tasks' periods are multiples of them.
fn phase(set: &TaskSet, p: u64, aligned: bool) -> Phase {
    let is_multiple = |task: &Task| units(task.period).is_multiple_of(p);
    if aligned && set.tasks().iter().all(is_multiple) {
        Phase::Aligned
    } else {
        Phase::Any
    }
}

/// Longer than all that repeats: periods divide 24, blackouts are below 16.
const LONG: u64 = 24 * 4;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn an_exact_test_accepts_what_meets_all_deadlines_on_the_worst_supply(
        set in sets(false), (q, p) in servers(), aligned: bool,
    ) {
        let supply = Supply { phase: phase(&set, p, aligned), ..Supply::worst_case(us(q), us(p)) };
        for scheduler in SCHEDULERS {
            let verdict = scheduler.check(&set, &supply);
            let jobs = Arrivals::together().jobs(&set, scheduler, LONG);
            let missed = misses(jobs, units(set.blocking()), worst(&supply), LONG);
            prop_assert_eq!(verdict.is_schedulable(), !missed, "{} {}", scheduler.name(), verdict);
            prop_assert_eq!(verdict.is_schedulable(), scheduler.meets(&set, &supply));
            let shown = verdict.decisive().is_some_and(|witness| witness.suffices());
            prop_assert_eq!(shown, verdict.is_schedulable(), "{}", verdict);
        }
    }

    #[test]
    fn what_is_called_schedulable_never_misses_whenever_jobs_and_budgets_come(
        set in sets(true), (q, p) in servers(), phase in 0u64..8,
        first in prop::collection::vec(0u64..24, 3), late in prop::collection::vec(0u64..4, 1..5),
        starts in prop::collection::vec(0u64..8, 1..6),
    ) {
        let supply = Supply::worst_case(us(q), us(p));
        let arrivals = Arrivals { first, late };
        for scheduler in SCHEDULERS {
            if scheduler.meets(&set, &supply) {
                let jobs = arrivals.jobs(&set, scheduler, LONG);
                let cpu = placed(q, p, (phase, &starts));
                prop_assert!(!misses(jobs, units(set.blocking()), cpu, LONG), "{}", scheduler.name());
            }
        }
    }

    #[test]
    fn the_least_budget_is_the_least_of_all_that_meet_the_deadlines(
        set in sets(false), p in prop::sample::select(vec![1u64, 2, 3, 4, 6, 8]), aligned: bool,
    ) {
        let phase = phase(&set, p, aligned);
        let supply = |budget| Supply { phase, ..Supply::worst_case(budget, us(p)) };
        for scheduler in SCHEDULERS {
            let suffices = |q: &u64| {
                let jobs = Arrivals::together().jobs(&set, scheduler, LONG);
                !misses(jobs, units(set.blocking()), worst(&supply(us(*q))), LONG)
            };
            let all = (0..=p).find(suffices);
            let found = least_budget(&set, scheduler, us(p), supply);
            prop_assert_eq!(found, all.map(us), "{}", scheduler.name());
        }
    }

    #[test]
    fn what_is_called_schedulable_with_a_pause_survives_one_anywhere(
        set in sets(false), (q, p) in servers(), pause in 0u64..6, from in 0u64..30,
        starts in prop::collection::vec(0u64..8, 1..6),
    ) {
        let supply = Supply::worst_case(us(q), us(p));
        let paused = Paused { supply, pause: us(pause), resumption: Resumption::Afresh };
        let before = placed(q, p, (0, &starts));
        let after = placed(q, p, (0, &starts));
        let cpu = |t: u64| match t {
            _ if t < from => before(t),
            _ if t < from + pause => 0,
            _ => after(t - from - pause),
        };
        for scheduler in SCHEDULERS {
            if scheduler.meets(&set, &paused) {
                let jobs = Arrivals::together().jobs(&set, scheduler, LONG);
                prop_assert!(!misses(jobs, 0, cpu, LONG), "{}", scheduler.name());
            }
        }
    }

    #[test]
    fn what_global_edf_is_shown_to_schedule_never_misses(
        tasks in prop::collection::vec((1u64..6, 0u64..10, 0u64..4), 1..6), vcpus in 1u64..4, budget in 1u64..13,
        p in 1u64..5, arrivals in prop::collection::vec(0u64..12, 5), spread: bool,
    ) {
        let task = |(n, (c, slack, more)): (usize, &(u64, u64, u64))| {
            Task::new(format!("t{n}"), us(*c), us(c + slack + more)).with_deadline(us(c + slack))
        };
        let Ok(set) = TaskSet::for_processors(4, tasks.iter().enumerate().map(task)) else { return Ok(()) };
        let budget = budget.min(vcpus * p);
        let supply = Multiprocessor { budget: us(budget), period: us(p), vcpus: u32::try_from(vcpus).unwrap_or(1) };
        let verdict = global_edf::check(&set, &supply);
        prop_assert_eq!(verdict.is_schedulable(), global_edf::is_schedulable(&set, &supply));
        if verdict.outcome == Outcome::Schedulable {
            // All processors at once at the end of the period, or as few as possible all the time.
            let cpus = |t: u64| {
                let into = t % p;
                if spread {
                    return budget * (into + 1) / p - budget * into / p;
                }
                let left = budget.saturating_sub((p - 1 - into) * vcpus);
                left.min(vcpus)
            };
            let arrivals = Arrivals { first: arrivals, late: vec![0] };
            let edf = Scheduler::EarliestDeadlineFirst;
            for arrivals in [arrivals, Arrivals::together()] {
                let jobs = arrivals.jobs(&set, edf, 200);
                prop_assert!(!misses(jobs, 0, cpus, 200), "{}", verdict);
            }
        }
    }

    #[test]
    fn a_split_meets_all_deadlines_on_every_virtual_processor(
        tasks in prop::collection::vec((1u64..5, prop::sample::select(vec![4u64, 6, 8, 12, 24])), 1..8),
        (q, p) in servers(), first: bool,
    ) {
        let task = |(n, (c, t)): (usize, &(u64, u64))| Task::new(format!("t{n}"), us((*c).min(*t)), us(*t));
        let Ok(set) = TaskSet::for_processors(3, tasks.iter().enumerate().map(task)) else { return Ok(()) };
        let supply = Supply::worst_case(us(q), us(p));
        let fit = if first { Fit::First } else { Fit::Worst };
        let Ok(placed) = split(&set, Scheduler::RATE_MONOTONIC, (3, fit), &supply) else { return Ok(()) };
        prop_assert_eq!(placed.iter().map(Vec::len).sum::<usize>(), set.tasks().len());
        for part in placed.iter().filter(|part| !part.is_empty()) {
            let there = TaskSet::new(part.iter().map(|&at| set.tasks()[at].clone()));
            let there = there.expect("an accepted part is a set");
            let jobs = Arrivals::together().jobs(&there, Scheduler::RATE_MONOTONIC, LONG);
            prop_assert!(!misses(jobs, 0, worst(&supply), LONG));
        }
    }

    #[test]
    fn overheads_never_lower_the_least_budget(set in sets(true), exit in 0u64..2, latency in 0u64..2) {
        let overheads = Overheads { budget_switch: us(1), timer_latency: us(latency), exit: us(exit) };
        for scheduler in SCHEDULERS {
            let need = |set: &TaskSet| least_budget(set, scheduler, us(4), |q| Supply::worst_case(q, us(4)));
            let Ok(inflated) = overheads.inflated(&set, scheduler) else { continue };
            if let Some(more) = need(&inflated) {
                prop_assert!(need(&set).is_some_and(|less| less <= more));
                prop_assert!(overheads.budget(more) > more);
            }
        }
    }
}

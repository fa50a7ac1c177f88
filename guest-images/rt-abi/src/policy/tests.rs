use super::*;
use crate::taskset::Name;
use proptest::prelude::*;
use std::vec::Vec;

fn task(period: u64) -> Task {
    Task::periodic(Name::new("t").unwrap(), 1, period)
}

fn any_task() -> impl Strategy<Value = Task> {
    // Few values, so that ties are common.
    let priority = proptest::option::weighted(0.3, 0u8..4);
    (1u64..6, 0u64..4, priority, proptest::bool::weighted(0.2)).prop_map(
        |(period, offset, priority, hog)| {
            if hog {
                return Task::hog(0);
            }
            Task {
                offset,
                priority,
                ..task(period * 1_000_000)
            }
        },
    )
}

/// The rule as one tells it: whether `a` goes ahead of `b`, if the rule alone decides.
fn ahead(a: &Task, b: &Task) -> Option<bool> {
    if a.kind != b.kind {
        return Some(b.kind == Kind::Hog);
    }
    match (a.priority, b.priority) {
        (Some(x), Some(y)) if x != y => Some(x < y),
        (Some(_), None) => Some(true),
        (None, Some(_)) => Some(false),
        (None, None) if a.period != b.period => Some(a.period < b.period),
        _ => None,
    }
}

proptest! {
    #[test]
    fn ranks_follow_the_rate_monotonic_rule(tasks in proptest::collection::vec(any_task(), 0..=MAX_TASKS)) {
        let ranks = ranks(Policy::RateMonotonic, &tasks);
        for (i, a) in tasks.iter().enumerate() {
            for (j, b) in tasks.iter().enumerate().filter(|(j, _)| *j != i) {
                prop_assert_eq!(ranks[i] < ranks[j], ahead(a, b).unwrap_or(i < j), "{} {}", i, j);
            }
        }
    }

    #[test]
    fn ranks_are_a_permutation_under_both_policies(tasks in proptest::collection::vec(any_task(), 0..=MAX_TASKS), edf: bool) {
        let policy = if edf { Policy::Edf } else { Policy::RateMonotonic };
        let all = ranks(policy, &tasks);
        let mut used: Vec<usize> = all[..tasks.len()].iter().map(|rank| usize::from(*rank)).collect();
        used.sort_unstable();
        prop_assert_eq!(used, (0..tasks.len()).collect::<Vec<_>>());
        prop_assert!(all[tasks.len()..].iter().all(|rank| *rank == u8::MAX));
    }

    #[test]
    fn nothing_ready_goes_ahead_of_the_job_picked(
        tasks in proptest::collection::vec(any_task(), 1..=MAX_TASKS),
        jobs in proptest::collection::vec((any::<proptest::sample::Index>(), 0u64..8), 0..20),
        edf: bool,
    ) {
        let policy = if edf { Policy::Edf } else { Policy::RateMonotonic };
        let ranks = ranks(policy, &tasks);
        let ready: Vec<JobView> = jobs
            .iter()
            .map(|(index, job)| (index.index(tasks.len()), job))
            .map(|(i, job)| JobView::new(i, &tasks[i], *job, 20))
            .collect();
        let picked = pick(policy, &ranks, ready.iter().copied());
        prop_assert_eq!(picked.is_none(), ready.is_empty());
        let Some(picked) = picked else { return Ok(()) };
        // The deadline of the earliest of its ready jobs.
        let deadline = ready.iter().filter(|job| job.task == picked).map(|job| job.deadline).min();
        prop_assert!(deadline.is_some(), "picked a task that is not ready");
        let deadline = deadline.unwrap_or_default();
        for other in ready.iter().filter(|job| job.task != picked) {
            let wrong = match policy {
                Policy::RateMonotonic => ahead(&tasks[other.task], &tasks[picked]).unwrap_or(other.task < picked),
                Policy::Edf => other.deadline < deadline
                    || (other.deadline == deadline && ranks[other.task] < ranks[picked]),
            };
            prop_assert!(!wrong, "{:?} should have gone ahead of task {}", other, picked);
        }
    }

    #[test]
    fn a_hog_runs_only_when_nothing_else_is_ready(tasks in proptest::collection::vec(any_task(), 1..=MAX_TASKS), edf: bool) {
        let policy = if edf { Policy::Edf } else { Policy::RateMonotonic };
        let ready = tasks.iter().enumerate().map(|(i, task)| JobView::new(i, task, 0, 0));
        let picked = pick(policy, &ranks(policy, &tasks), ready).unwrap();
        let only_hogs = tasks.iter().all(|task| task.kind == Kind::Hog);
        prop_assert_eq!(tasks[picked].kind == Kind::Hog, only_hogs);
    }

    #[test]
    fn releases_are_what_a_clock_that_counts_periods_gives(period in 100_000u64..1 << 40, offset in 0u64..1 << 40, start in 0u64..1 << 40, jobs in 0u64..200) {
        let task = Task { offset, ..task(period) };
        let mut clock = start + offset;
        for job in 0..jobs {
            prop_assert_eq!(next_release(&task, job, start), clock);
            clock += period;
        }
    }

    #[test]
    fn no_number_makes_a_release_panic(period: u64, offset: u64, start: u64, job: u64) {
        let task = Task { offset, ..task(period) };
        let view = JobView::new(0, &task, job, start);
        prop_assert!(view.release >= start && view.deadline >= view.release);
    }
}

#[test]
fn a_task_of_the_paper_with_the_shorter_period_goes_first() {
    let tasks = [task(200_000_000), task(150_000_000), Task::hog(0)];
    assert_eq!(ranks(Policy::RateMonotonic, &tasks)[..3], [1, 0, 2]);
}

#[test]
fn edf_prefers_the_earlier_deadline_whatever_the_period() {
    let tasks = [task(200), task(150)];
    let ranks = ranks(Policy::Edf, &tasks);
    // Released at 150, the second job of the shorter task is due at 300; the longer task's first at 200.
    let ready = [
        JobView::new(0, &tasks[0], 0, 0),
        JobView::new(1, &tasks[1], 1, 0),
    ];
    assert_eq!(pick(Policy::Edf, &ranks, ready.into_iter()), Some(0));
    assert_eq!(
        pick(
            Policy::RateMonotonic,
            &super::ranks(Policy::RateMonotonic, &tasks),
            ready.into_iter()
        ),
        Some(1)
    );
}

//! Partitioned placement against an EDF scheduler that is run step by step, and its offers against the test itself.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use proptest::prelude::*;
use sched::admission::{
    Bandwidth, Fit, Id, Limits, Move, Packing, Policy, Server, Shortage, Wanted,
};
use sched::reservation::{PeriodRange, Reservation};

/// A kernel that leaves SCHED_DEADLINE everything.
const ALL: Limits = Limits {
    realtime: Bandwidth::ONE,
    fair_server: Bandwidth::ZERO,
};

/// (Q, D, P) in milliseconds.
type Task = (u64, u64, u64);

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn server((runtime, deadline, period): Task) -> Server {
    let reservation = Reservation::new(us(runtime * 1000), us(period * 1000)).unwrap();
    Server::from(reservation.with_deadline(us(deadline * 1000)).unwrap())
}

fn wanted(task: Task, group: usize) -> Wanted {
    Wanted {
        server: server(task),
        group,
        cpu: None,
    }
}

fn cpus(count: u32) -> impl Iterator<Item = (u32, Bandwidth)> {
    (0..count).map(|cpu| (cpu, Bandwidth::ZERO))
}

/// Whether EDF misses a deadline of tasks that are all released at 0: their worst case.
fn misses(tasks: &[Task]) -> bool {
    let end = tasks.iter().fold(1, |all, &(_, _, p)| lcm(all, p));
    let mut left = vec![(0, 0); tasks.len()];
    for now in 0..end {
        for (job, &(q, d, p)) in left.iter_mut().zip(tasks) {
            if now % p == 0 {
                *job = (q, now + d);
            }
        }
        let pending = left.iter_mut().filter(|job| job.0 > 0);
        if let Some(job) = pending.min_by_key(|job| job.1) {
            job.0 -= 1;
        }
        if left.iter().any(|job| job.0 > 0 && job.1 <= now + 1) {
            return true;
        }
    }
    false
}

fn lcm(a: u64, b: u64) -> u64 {
    let gcd = |mut a, mut b| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    a / gcd(a, b) * b
}

/// Periods whose least common multiple is 120.
fn task() -> impl Strategy<Value = Task> {
    let period = prop::sample::select(vec![2u64, 3, 4, 5, 6, 8, 10, 12, 15, 20, 24]);
    period
        .prop_flat_map(|p| (1..=p.div_ceil(2), Just(p)))
        .prop_flat_map(|(q, p)| (Just(q), q..=p, Just(p)))
}

fn fit() -> impl Strategy<Value = Fit> {
    prop::sample::select(vec![Fit::First, Fit::Best, Fit::Worst])
}

/// As many tasks as fit on `cpus` CPUs.
fn filled(limits: Limits, cpus_: u32, fit: Fit, tasks: &[Task]) -> (Packing, Vec<(Id, Task)>) {
    let mut packing = Packing::new(limits, cpus(cpus_));
    let mut placed = Vec::new();
    for (group, &task) in tasks.iter().enumerate() {
        if let Ok((id, _)) = packing.place(fit, wanted(task, group)) {
            placed.push((id, task));
        }
    }
    (packing, placed)
}

/// The tasks on one CPU.
fn on(packing: &Packing, placed: &[(Id, Task)], cpu: u32) -> Vec<Task> {
    let here = placed
        .iter()
        .filter(|(id, _)| packing.cpu_of(*id) == Some(cpu));
    here.map(|&(_, task)| task).collect()
}

proptest! {
    #[test]
    fn what_is_admitted_meets_its_deadlines_and_what_is_refused_would_not(
        tasks in prop::collection::vec(task(), 1..12),
    ) {
        let mut packing = Packing::new(ALL, cpus(1));
        let mut here = Vec::new();
        for task in tasks {
            here.push(task);
            let admitted = packing.place(Fit::First, wanted(task, 0));
            prop_assert_eq!(admitted.is_ok(), !misses(&here), "{:?} {:?}", here, admitted);
            if admitted.is_err() {
                here.pop();
            }
        }
    }

    #[test]
    fn within_the_kernels_limit_the_fair_server_meets_its_deadlines_too(
        tasks in prop::collection::vec(task(), 1..20), fit in fit(),
    ) {
        let (packing, placed) = filled(Limits::modern(), 2, fit, &tasks);
        for cpu in 0..2 {
            let mut here = on(&packing, &placed, cpu);
            here.push((1, 20, 20));
            prop_assert!(!misses(&here), "{:?}", here);
        }
    }

    #[test]
    fn no_cpu_is_ever_filled_beyond_its_bound(
        steps in prop::collection::vec((task(), fit(), any::<prop::sample::Index>(), 0u8..4), 1..60),
        foreign in 0u64..40,
    ) {
        let limits = Limits::modern();
        let foreign = Bandwidth::ratio(us(foreign), us(100));
        let mut packing = Packing::new(limits, (0..3).map(|cpu| (cpu, foreign)));
        let mut placed: Vec<(Id, Task)> = Vec::new();
        for (task, fit, which, action) in steps {
            match action {
                0 if !placed.is_empty() => {
                    let (id, _) = placed.swap_remove(which.index(placed.len()));
                    packing.remove(id);
                }
                1 if !placed.is_empty() => {
                    let at = which.index(placed.len());
                    if packing.change(&[(placed[at].0, server(task))]).is_ok() {
                        placed[at].1 = task;
                    }
                }
                _ => {
                    if let Ok((id, _)) = packing.place(fit, wanted(task, 0)) {
                        placed.push((id, task));
                    }
                }
            }
            for cpu in 0..3 {
                let here = on(&packing, &placed, cpu);
                let sum: Bandwidth = here.iter().map(|&task| server(task).bandwidth()).sum();
                prop_assert!(sum + foreign <= limits.per_cpu());
                prop_assert_eq!(packing.room(cpu), Some(limits.per_cpu() - foreign - sum));
            }
        }
    }

    #[test]
    fn every_offer_fits_and_a_step_more_does_not(
        tasks in prop::collection::vec(task(), 4..20), last in task(), fit in fit(), bound: bool,
    ) {
        let (mut packing, _) = filled(Limits::modern(), 2, fit, &tasks);
        let wanted = Wanted { cpu: bound.then_some(0), ..wanted(last, tasks.len()) };
        let Err(refused) = packing.place(fit, wanted) else { return Ok(()) };
        let tried = if bound { 0..1 } else { 0..2 };
        let fits = |server: &Server| tried.clone().any(|cpu| packing.fits(cpu, server).is_ok());
        prop_assert!(!fits(&wanted.server));

        let at = |q: Duration, d: Duration, p: Duration| {
            Server::from(Reservation::new(q, p).unwrap().with_deadline(d).unwrap())
        };
        let (_, d, p) = last;
        let (d, p) = (us(d * 1000), us(p * 1000));
        match refused.offers.smaller {
            Some(smaller) => {
                prop_assert!(fits(&smaller));
                let more = smaller.reservation().runtime() + us(1);
                prop_assert!(!fits(&at(more, d, p)));
            }
            None => prop_assert!(!fits(&at(us(2), d, p))),
        }
        let q = wanted.server.reservation().runtime();
        let with = |period| at(q, if d == p { period } else { d }, period);
        match refused.offers.longer {
            Some(longer) => {
                prop_assert!(fits(&longer));
                prop_assert!(!fits(&with(longer.reservation().period() - us(1))));
            }
            None => prop_assert!(!fits(&with(PeriodRange::of_this_host().longest))),
        }
        match refused.offers.cpu {
            Some(cpu) => prop_assert_eq!(packing.fits(cpu, &wanted.server), Ok(())),
            None => prop_assert!(!bound || packing.fits(1, &wanted.server).is_err()),
        }
    }

    #[test]
    fn after_the_move_that_is_offered_both_fit(
        tasks in prop::collection::vec(task(), 4..30), last in task(), fit in fit(),
    ) {
        let (mut packing, placed) = filled(Limits::modern(), 3, fit, &tasks);
        let wanted = wanted(last, tasks.len());
        let Err(refused) = packing.place(fit, wanted) else { return Ok(()) };
        let without = |id: Id| {
            let mut without = packing.clone();
            without.remove(id);
            without
        };
        let Some(Move { id, from, to }) = refused.offers.moved else {
            for &(id, task) in &placed {
                let from = packing.cpu_of(id).unwrap();
                let room = without(id).fits(from, &wanted.server).is_ok();
                let home = (0..3).any(|cpu| cpu != from && packing.fits(cpu, &server(task)).is_ok());
                prop_assert!(!(room && home), "{task:?} could move");
            }
            return Ok(());
        };
        let (_, moved) = placed.iter().find(|(other, _)| *other == id).unwrap();
        prop_assert_eq!(packing.cpu_of(id), Some(from));
        prop_assert_eq!(packing.fits(to, &server(*moved)), Ok(()));
        prop_assert_eq!(without(id).fits(from, &wanted.server), Ok(()));
    }

    #[test]
    fn a_change_of_several_happens_as_a_whole_or_not_at_all(
        tasks in prop::collection::vec(task(), 2..16),
        changes in prop::collection::vec((any::<prop::sample::Index>(), task()), 1..6),
    ) {
        let (mut packing, placed) = filled(Limits::modern(), 2, Fit::Worst, &tasks);
        prop_assume!(!placed.is_empty());
        let before = packing.clone();
        let changes: Vec<_> = changes
            .iter()
            .map(|(which, task)| (which.index(placed.len()), *task))
            .collect();
        let servers: Vec<_> = changes.iter().map(|&(at, task)| (placed[at].0, server(task))).collect();
        let done = packing.change(&servers);
        let mut after = placed.clone();
        changes.iter().for_each(|&(at, task)| after[at].1 = task);
        let overloaded = (0..2).any(|cpu| {
            let mut here = on(&before, &after, cpu);
            let sum: Bandwidth = here.iter().map(|&task| server(task).bandwidth()).sum();
            here.push((1, 20, 20));
            sum > Limits::modern().per_cpu() || misses(&here)
        });
        if done.is_err() {
            prop_assert_eq!(packing, before);
        } else {
            prop_assert!(!overloaded, "{:?}", after);
        }
    }

    #[test]
    fn several_are_placed_as_a_whole_or_not_at_all(
        tasks in prop::collection::vec(task(), 1..30), fit in fit(), decreasing: bool,
    ) {
        let mut packing = Packing::new(Limits::modern(), cpus(3));
        let before = packing.clone();
        let all: Vec<_> = tasks.iter().map(|&task| wanted(task, 0)).collect();
        match packing.place_all(Policy { fit, decreasing }, &all) {
            Ok(placed) => {
                prop_assert_eq!(placed.len(), all.len());
                for (id, cpu) in placed {
                    prop_assert_eq!(packing.cpu_of(id), Some(cpu));
                }
            }
            Err(_) => prop_assert_eq!(packing, before),
        }
    }
}

/// Where tasks of these percentages of a CPU go, each in a group of its own.
fn homes(policy: Policy, percentages: &[u64]) -> Vec<u32> {
    let mut packing = Packing::new(ALL, cpus(3));
    let tasks = percentages.iter().enumerate();
    let all: Vec<_> = tasks
        .map(|(group, &q)| wanted((q, 100, 100), group))
        .collect();
    let placed = packing.place_all(policy, &all).unwrap();
    placed.into_iter().map(|(_, cpu)| cpu).collect()
}

#[test]
fn each_fit_has_its_own_order() {
    let policy = |fit, decreasing| Policy { fit, decreasing };
    let tasks = [60, 70, 20, 30];
    assert_eq!(homes(policy(Fit::First, false), &tasks), [0, 1, 0, 1]);
    assert_eq!(homes(policy(Fit::Best, false), &tasks), [0, 1, 1, 0]);
    assert_eq!(homes(policy(Fit::Worst, false), &tasks), [0, 1, 2, 2]);
    assert_eq!(homes(policy(Fit::First, true), &tasks), [1, 0, 1, 0]);
    assert_eq!(homes(policy(Fit::Worst, true), &tasks), [1, 0, 2, 2]);
}

#[test]
fn a_deadline_that_cannot_be_met_is_refused_with_the_interval_although_there_is_bandwidth() {
    let mut packing = Packing::new(ALL, cpus(1));
    packing.place(Fit::First, wanted((10, 20, 100), 0)).unwrap();
    let refused = packing
        .place(Fit::First, wanted((15, 20, 100), 1))
        .unwrap_err();
    let ms = Duration::from_millis;
    assert_eq!(
        refused.shortage,
        Shortage::Demand {
            within: ms(20),
            demand: ms(25),
            supply: ms(20)
        }
    );
    let text = refused.to_string();
    assert!(text.contains("25 ms would be due within 20 ms"), "{text}");
    assert!(
        text.contains("(10 ms, 100 ms, deadline 20 ms) fits"),
        "{text}"
    );
}

#[test]
fn a_cpu_may_be_filled_completely_where_the_kernel_sets_no_limit() {
    let tasks = [(1, 10, 10); 10];
    let (_, placed) = filled(ALL, 1, Fit::First, &tasks);
    assert_eq!(placed.len(), 10);
    let (mut packing, _) = filled(ALL, 1, Fit::First, &[(1, 3, 3); 3]);
    assert!(
        packing
            .place(Fit::First, wanted((1, 1000, 1000), 9))
            .is_err()
    );
}

#[test]
fn reservations_of_one_group_share_a_cpu_only_when_there_is_no_other() {
    let mut packing = Packing::new(Limits::modern(), cpus(2));
    let mut home = |q, group| {
        let placed = packing.place(Fit::Best, wanted((q, 100, 100), group));
        placed.unwrap().1
    };
    assert_ne!(home(10, 1), home(10, 1));
    // The third has to share.
    assert_eq!(home(10, 1), 0);
}

//! What the analysis promises, held against schedules.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use proptest::prelude::*;
use sched::analysis::servers::{Idle, supply_in_time};
use sched::analysis::{self, Scheduler, Supply, TaskSet, least_budget};
use sched::sim::{GuestPolicy, Host, Policy, Run, Server, Task, Vcpu, Vm, simulate};

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn fraction(whole: Duration, percent: u64) -> Duration {
    Duration::from_nanos(u64::try_from(whole.as_nanos()).unwrap() * percent / 100)
}

/// Tasks that use so many per cent of a CPU each, with offsets and shortest execution times in per cent.
fn tasks() -> impl Strategy<Value = Vec<Task>> {
    let task = (1u64..20, 5_000u64..60_000, 0u64..200, 1u64..=100);
    prop::collection::vec(task, 1..5).prop_map(|tasks| {
        let of = |(percent, period, offset, shortest): (u64, u64, u64, u64)| {
            let execution = fraction(us(period), percent);
            Task {
                offset: fraction(us(period), offset),
                shortest: fraction(execution, shortest),
                ..Task::new(execution, us(period))
            }
        };
        let mut tasks: Vec<Task> = tasks.into_iter().map(of).collect();
        tasks.sort_by_key(|task| task.period);
        tasks
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_task_set_in_its_least_budget_never_misses_beside_neighbours_that_take_all_the_rest(
        tasks in tasks(), period in 500u64..12_000, neighbours in prop::collection::vec(500u64..20_000, 1..4), seed: u64,
    ) {
        let known = tasks.iter().enumerate().map(|(index, task)| {
            analysis::Task::new(format!("t{index}"), task.execution, task.period)
        });
        let known = TaskSet::new(known).unwrap();
        let period = us(period);
        let supply = |budget| Supply::worst_case(budget, period);
        let budget = least_budget(&known, Scheduler::RATE_MONOTONIC, period, supply);
        // Some need more than there is.
        prop_assume!(budget.is_some_and(|budget| !budget.is_zero()));
        let server = Server::new(budget.unwrap(), period);
        let left = (period - server.budget).as_secs_f64() / period.as_secs_f64();
        let share = left / neighbours.len() as f64;
        let neighbour = |period: u64| {
            // A little less than the share, against rounding.
            let server = Server::new(us(period).mul_f64(share * 0.999), us(period));
            Vcpu::new(server, GuestPolicy::Edf, vec![Task::hog()])
        };
        let guest = Vcpu::new(server, GuestPolicy::RateMonotonic, tasks);
        let others = neighbours.into_iter().map(neighbour).filter(|vcpu| !vcpu.server.budget.is_zero());
        let vms = std::iter::once(guest).chain(others).map(Vm::single).collect();
        let run = Run { seed, ..Run::of(us(1_000_000)) };
        let outcome = simulate(&Host::new(1, Policy::Deadline, vms), &run).unwrap();
        let guest = outcome.tasks.iter().filter(|task| task.vcpu == 0);
        prop_assert_eq!(guest.map(|task| task.missed).sum::<u64>(), 0);
    }

    #[test]
    fn a_task_set_in_its_least_budget_never_misses_beside_servers_of_fixed_priorities_that_supply_in_time(
        tasks in tasks(), period in 1_000u64..12_000, seed: u64,
        neighbours in prop::collection::vec((1u64..50, 1_000u64..20_000, 1u64..=100), 1..4),
    ) {
        let known = tasks.iter().enumerate().map(|(index, task)| {
            analysis::Task::new(format!("t{index}"), task.execution, task.period)
        });
        let known = TaskSet::new(known).unwrap();
        let period = us(period);
        let supply = |budget| Supply::worst_case(budget, period);
        let budget = least_budget(&known, Scheduler::RATE_MONOTONIC, period, supply);
        prop_assume!(budget.is_some_and(|budget| !budget.is_zero()));
        let own = Server::new(budget.unwrap(), period);
        let mut vcpus = vec![Vcpu::new(own, GuestPolicy::RateMonotonic, tasks)];
        // A neighbour that never sleeps, or that uses a part of its budget now and then.
        vcpus.extend(neighbours.iter().map(|&(percent, period, use_of)| {
            let server = Server::new(fraction(us(period), percent), us(period));
            let now_and_then = Task::new(fraction(server.budget, use_of), us(period) * 7 / 4);
            let work = if use_of > 50 { Task::hog() } else { now_and_then };
            Vcpu::new(server, GuestPolicy::Edf, vec![work])
        }));
        let as_tasks = vcpus.iter().map(|vcpu| analysis::Task::new("s", vcpu.server.budget, vcpu.server.period));
        let Ok(servers) = TaskSet::new(as_tasks) else { return Err(TestCaseError::reject("full")) };
        let run = Run { seed, ..Run::of(us(1_000_000)) };
        for (policy, idle) in [
            (Policy::Deferrable, Idle::KeepsBudget),
            (Policy::Periodic, Idle::LosesBudget),
            (Policy::WorkConservingPeriodic, Idle::LosesBudget),
            (Policy::Sporadic, Idle::LosesBudget),
        ] {
            if supply_in_time(&servers, idle) {
                let vms = vcpus.iter().cloned().map(Vm::single).collect();
                let outcome = simulate(&Host::new(1, policy.clone(), vms), &run).unwrap();
                let missed: u64 = outcome.tasks.iter().filter(|task| task.vcpu == 0).map(|task| task.missed).sum();
                prop_assert_eq!(missed, 0, "{:?}", policy);
            }
        }
    }
}

//! The simulator against schedules that were computed by hand.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use sched::sim::{
    Blocking, GuestPolicy, Host, Outcome, Overheads, Policy, Problem, Run, Server, Slot, Task,
    Vcpu, Vm, simulate,
};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn vcpu(budget: Duration, period: Duration, tasks: Vec<Task>) -> Vcpu {
    Vcpu::new(
        Server::new(budget, period),
        GuestPolicy::RateMonotonic,
        tasks,
    )
}

fn host(policy: Policy, vcpus: Vec<Vcpu>) -> Host {
    Host::new(1, policy, vcpus.into_iter().map(Vm::single).collect())
}

fn simulated(host: &Host, length: Duration) -> Outcome {
    simulate(host, &Run::of(length)).unwrap()
}

/// Response times of a task's finished jobs in milliseconds.
fn responses(outcome: &Outcome, task: usize) -> Vec<u128> {
    let jobs = outcome.tasks[task].jobs.iter();
    jobs.filter_map(|job| job.response)
        .map(|response| response.as_millis())
        .collect()
}

/// When a vCPU executed, in milliseconds.
fn executions(outcome: &Outcome, vcpu: usize) -> Vec<(u64, u64)> {
    let executions = outcome.vcpus[vcpu].executions.iter();
    executions
        .map(|part| (part.from / 1_000_000, part.to / 1_000_000))
        .collect()
}

fn misses(outcome: &Outcome) -> u64 {
    outcome.tasks.iter().map(|task| task.missed).sum()
}

/// The task set of Cucinotta, Anastasi and Abeni in a reservation with a period of 50 ms.
fn paper(budget: Duration) -> Outcome {
    let tasks = vec![Task::new(ms(30), ms(150)), Task::new(ms(50), ms(200))];
    let host = host(Policy::Deadline, vec![vcpu(budget, ms(50), tasks)]);
    simulated(&host, ms(6_000))
}

#[test]
fn the_papers_task_set_meets_its_deadlines_in_28_ms_of_50() {
    let outcome = paper(ms(28));
    assert_eq!(misses(&outcome), 0);
    assert_eq!(responses(&outcome, 0)[..4], [52, 52, 52, 52]);
    assert_eq!(responses(&outcome, 1)[..3], [124, 74, 124]);
}

#[test]
fn the_papers_task_set_misses_in_26_ms_of_50() {
    let outcome = paper(ms(26));
    assert!(misses(&outcome) > 0);
    assert_eq!(responses(&outcome, 1)[0], 206);
}

#[test]
fn the_papers_task_set_changes_over_at_its_least_aligned_budget() {
    assert_eq!(misses(&paper(us(26_667))), 0);
    assert!(misses(&paper(us(26_600))) > 0);
}

#[test]
fn a_full_processor_is_enough_for_edf_and_not_for_rate_monotonic() {
    // Buttazzo, Hard Real-Time Computing Systems, section 4.4: utilisation 2/5 + 4/7 = 0.97.
    let tasks = vec![Task::new(ms(2), ms(5)), Task::new(ms(4), ms(7))];
    let missed_under = |scheduler| {
        let vcpu = Vcpu::new(Server::new(ms(1), ms(1)), scheduler, tasks.clone());
        misses(&simulated(&host(Policy::Deadline, vec![vcpu]), ms(3_500)))
    };
    assert_eq!(missed_under(GuestPolicy::Edf), 0);
    assert!(missed_under(GuestPolicy::RateMonotonic) > 0);
}

#[test]
fn explicit_priorities_come_before_periods() {
    let late = Task {
        priority: Some(0),
        ..Task::new(ms(5), ms(50))
    };
    let tasks = vec![Task::new(ms(2), ms(10)), late];
    let outcome = simulated(
        &host(Policy::Deadline, vec![vcpu(ms(1), ms(1), tasks)]),
        ms(9),
    );
    assert_eq!(
        (responses(&outcome, 0), responses(&outcome, 1)),
        (vec![7], vec![5])
    );
}

/// A server (2, 5) whose only job comes at 3 ms, ahead of a server with endless work.
fn late_job_before_load(policy: Policy) -> Outcome {
    let job = Task {
        offset: ms(3),
        ..Task::new(ms(2), ms(100))
    };
    let vcpus = vec![
        vcpu(ms(2), ms(5), vec![job]),
        vcpu(ms(10), ms(10), vec![Task::hog()]),
    ];
    simulated(&host(policy, vcpus), ms(20))
}

#[test]
fn a_deferrable_server_keeps_its_budget_for_a_late_job() {
    let outcome = late_job_before_load(Policy::Deferrable);
    assert_eq!(executions(&outcome, 0), [(3, 5)]);
    assert_eq!(executions(&outcome, 1), [(0, 3), (5, 20)]);
}

#[test]
fn a_periodic_server_idles_its_budget_away() {
    let outcome = late_job_before_load(Policy::Periodic);
    assert_eq!(executions(&outcome, 0), [(5, 7)]);
    assert_eq!(
        executions(&outcome, 1),
        [(2, 5), (7, 10), (12, 15), (17, 20)]
    );
    assert_eq!(outcome.cpus[0].idle, ms(6));
}

#[test]
fn a_work_conserving_periodic_server_lends_the_cpu_that_it_idles_away() {
    let outcome = late_job_before_load(Policy::WorkConservingPeriodic);
    assert_eq!(executions(&outcome, 0), [(5, 7)]);
    assert_eq!(executions(&outcome, 1), [(0, 5), (7, 20)]);
    assert_eq!(outcome.cpus[0].idle, Duration::ZERO);
}

#[test]
fn a_sporadic_server_serves_a_late_job_at_once_and_is_replenished_a_period_later() {
    let job = Task {
        offset: ms(3),
        ..Task::new(ms(3), ms(100))
    };
    let host = host(Policy::Sporadic, vec![vcpu(ms(2), ms(5), vec![job])]);
    assert_eq!(executions(&simulated(&host, ms(20)), 0), [(3, 5), (8, 9)]);
}

#[test]
fn a_deferrable_server_gives_two_budgets_back_to_back_and_a_sporadic_one_does_not() {
    let job = Task {
        offset: ms(3),
        ..Task::new(ms(4), ms(100))
    };
    let under = |policy| {
        let host = host(policy, vec![vcpu(ms(2), ms(5), vec![job])]);
        executions(&simulated(&host, ms(20)), 0)
    };
    assert_eq!(under(Policy::Deferrable), [(3, 7)]);
    assert_eq!(under(Policy::Sporadic), [(3, 5), (8, 10)]);
}

#[test]
fn a_dispatch_table_gives_every_slot_to_its_owner_only() {
    let slot = |owner, length| Slot {
        owner,
        length: ms(length),
    };
    // Duran-Limon and others, table 3: gold (40, 16), best effort (80, 8) in slots of 8 ms.
    let table = vec![
        slot(Some(0), 16),
        slot(None, 24),
        slot(Some(0), 16),
        slot(None, 16),
        slot(Some(1), 8),
    ];
    let busy = || vcpu(ms(1), ms(1), vec![Task::hog()]);
    let host = host(Policy::Table(vec![table]), vec![busy(), busy()]);
    let outcome = simulated(&host, ms(160));
    assert_eq!(
        executions(&outcome, 0),
        [(0, 16), (40, 56), (80, 96), (120, 136)]
    );
    assert_eq!(executions(&outcome, 1), [(72, 80), (152, 160)]);
}

#[test]
fn overheads_are_at_the_expense_of_the_budget_and_accounted() {
    let host = Host {
        overheads: Overheads {
            switch: ms(1),
            budget_switch: us(500),
        },
        ..host(
            Policy::Deadline,
            vec![vcpu(ms(5), ms(10), vec![Task::hog()])],
        )
    };
    let outcome = simulated(&host, ms(100));
    let cpu = outcome.cpus[0];
    assert_eq!(
        (cpu.supplied, cpu.overhead, cpu.idle),
        (ms(40), ms(15), ms(45))
    );
    assert_eq!(outcome.events.switches, 10);
    assert_eq!(outcome.events.budget_ends, 10);
}

#[test]
fn a_job_that_waits_for_a_device_leaves_the_cpu_to_others() {
    let waits = Task {
        blocking: Some(Blocking {
            after: ms(2),
            sleep: ms(6),
        }),
        ..Task::new(ms(4), ms(50))
    };
    let tasks = vec![waits, Task::new(ms(5), ms(100))];
    let outcome = simulated(
        &host(Policy::Deadline, vec![vcpu(ms(1), ms(1), tasks)]),
        ms(40),
    );
    // 0-2 the first, 2-7 the second, 8-10 the first again.
    assert_eq!(
        (responses(&outcome, 0), responses(&outcome, 1)),
        (vec![10], vec![7])
    );
}

#[test]
fn a_response_time_counts_from_the_arrival_whatever_the_jitter() {
    let task = Task {
        jitter: ms(3),
        ..Task::new(ms(2), ms(10))
    };
    let host = host(Policy::Deadline, vec![vcpu(ms(1), ms(1), vec![task])]);
    let jobs = simulated(&host, ms(10_000)).tasks[0].jobs.clone();
    assert!(jobs.iter().all(|job| job.arrival.as_millis() % 10 == 0));
    let responses: Vec<_> = jobs.iter().filter_map(|job| job.response).collect();
    assert!(responses.iter().all(|r| (ms(2)..=ms(5)).contains(r)));
    // All of the jitter is used.
    assert!(responses.iter().any(|r| *r < us(2_100)) && responses.iter().any(|r| *r > us(4_900)));
}

fn weighted(weight: u32, tasks: Vec<Task>) -> Vcpu {
    Vcpu {
        weight,
        ..vcpu(ms(1), ms(1), tasks)
    }
}

const CREDIT: Policy = Policy::Credit {
    slice: Duration::from_millis(30),
};
const FAIR: Policy = Policy::ProportionalShare {
    latency: Duration::from_millis(24),
    granularity: Duration::from_millis(3),
};

#[test]
fn weights_are_shares_under_load() {
    for policy in [CREDIT, FAIR] {
        let busy = |weight| weighted(weight, vec![Task::hog()]);
        let host = host(policy.clone(), vec![busy(256), busy(768)]);
        let outcome = simulated(&host, ms(12_000));
        let supplied = outcome.vcpus[0].supplied.as_secs_f64();
        assert!((supplied - 3.0).abs() < 0.1, "{policy:?}: {supplied}");
        assert_eq!(outcome.cpus[0].idle, Duration::ZERO);
    }
}

#[test]
fn who_sleeps_most_of_the_time_is_boosted_past_the_load() {
    let short = Task {
        offset: ms(5),
        ..Task::new(ms(1), ms(50))
    };
    let load = || weighted(256, vec![Task::hog()]);
    let host = host(CREDIT, vec![load(), load(), weighted(256, vec![short])]);
    let outcome = simulated(&host, ms(5_000));
    // The load was boosted, too, when it started.
    let settled = outcome.tasks[2].jobs.iter().filter(|j| j.arrival > ms(200));
    assert!(settled.clone().count() > 90);
    assert!(settled.clone().all(|job| job.response == Some(ms(1))));
}

#[test]
fn free_vcpus_share_all_cpus() {
    let free = |tasks| Vcpu {
        cpu: None,
        ..vcpu(ms(10), ms(10), tasks)
    };
    let vms = |count| vec![Vm::single(free(vec![Task::hog()])); count];
    let two = simulated(&Host::new(2, Policy::Deadline, vms(2)), ms(1_000));
    assert_eq!(two.vcpus[0].supplied, ms(1_000));
    assert_eq!((two.events.switches, two.events.migrations), (2, 0));

    let three = simulated(&Host::new(2, FAIR, vms(3)), ms(3_000));
    assert!(three.cpus.iter().all(|cpu| cpu.idle.is_zero()));
    let fair = |supplied: Duration| (ms(1_950)..ms(2_050)).contains(&supplied);
    assert!(three.vcpus.iter().all(|vcpu| fair(vcpu.supplied)));
    assert!(three.events.migrations > 0);
}

#[test]
fn who_runs_keeps_its_cpu_when_another_comes_back() {
    let free = |tasks| Vcpu {
        cpu: None,
        ..vcpu(ms(10), ms(10), tasks)
    };
    let late = Task {
        offset: ms(2),
        ..Task::hog()
    };
    // The first comes back to CPU 0 at 10 ms and finds the second there.
    let vms = vec![
        Vm::single(free(vec![Task::new(ms(1), ms(10))])),
        Vm::single(free(vec![late])),
    ];
    let outcome = simulated(&Host::new(2, Policy::Deferrable, vms), ms(20));
    assert_eq!(executions(&outcome, 1), [(2, 20)]);
    let cpus: Vec<usize> = outcome.vcpus[0].executions.iter().map(|e| e.cpu).collect();
    assert_eq!((cpus, outcome.events.migrations), (vec![0, 1], 1));
}

#[test]
fn bound_vcpus_do_not_leave_their_cpu() {
    let on = |cpu, tasks| Vcpu {
        cpu: Some(cpu),
        ..vcpu(ms(5), ms(10), tasks)
    };
    let vm = Vm {
        vcpus: vec![
            on(0, vec![Task::hog()]),
            on(0, vec![Task::hog()]),
            on(1, vec![Task::new(ms(1), ms(10))]),
        ],
    };
    let outcome = simulated(&Host::new(2, Policy::Deadline, vec![vm]), ms(100));
    let supplied: Vec<_> = outcome.cpus.iter().map(|cpu| cpu.supplied).collect();
    assert_eq!(supplied, [ms(100), ms(10)]);
    assert_eq!(outcome.events.migrations, 0);
}

#[test]
fn what_contradicts_itself_is_refused_with_its_place() {
    let why = |host: &Host| simulate(host, &Run::of(ms(1))).unwrap_err();
    let good = || vcpu(ms(5), ms(10), vec![Task::new(ms(1), ms(10))]);
    let mut wide = good();
    wide.server.budget = ms(11);
    assert_eq!(
        why(&host(Policy::Deadline, vec![good(), wide])).to_string(),
        "vCPU 1: budget 11ms exceeds the deadline of 10ms"
    );
    let mut astray = good();
    astray.cpu = Some(3);
    assert_eq!(
        why(&host(Policy::Deadline, vec![astray])).to_string(),
        "vCPU 0: is bound to CPU 3 of 1: use 0 to 0"
    );
    let mut free = good();
    free.cpu = None;
    let partly = why(&host(Policy::Deadline, vec![good(), free]));
    assert_eq!(partly.problem, Problem::PartlyBound);
    let mut idle = good();
    idle.tasks[0].period = Duration::ZERO;
    assert_eq!(
        why(&host(FAIR, vec![idle])).to_string(),
        "task 0 of vCPU 0: period is 0: it has to be longer"
    );
    let slots = vec![vec![Slot {
        owner: Some(7),
        length: ms(1),
    }]];
    assert_eq!(
        why(&host(Policy::Table(slots), vec![good()])).problem,
        Problem::SlotOwner { owner: 7 }
    );
    assert_eq!(
        why(&Host::new(0, Policy::Deadline, vec![])).problem,
        Problem::NoCpu
    );
    let endless = Run::of(Duration::MAX);
    assert!(simulate(&host(FAIR, vec![good()]), &endless).is_err());
}

#[test]
fn switches_that_take_longer_than_there_is_time_for_leave_none_for_tasks() {
    let hog = || vcpu(ms(5), ms(10), vec![Task::hog()]);
    let slot = |owner| Slot {
        owner: Some(owner),
        length: ms(1),
    };
    let table = Policy::Table(vec![vec![slot(0), slot(1)]]);
    let longest = Duration::from_secs(3_600_000);
    let host = Host {
        overheads: Overheads {
            switch: longest,
            budget_switch: longest,
        },
        ..host(table, vec![hog(), hog()])
    };
    let length = Duration::from_secs(10);
    let outcome = simulate(&host, &Run::of(length)).unwrap();
    assert_eq!(outcome.cpus[0].overhead, length);
}

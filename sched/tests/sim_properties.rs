//! What holds of every simulated host, whatever runs on it.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use proptest::prelude::*;
use sched::sim::{
    Blocking, GuestPolicy, Host, Outcome, Overheads, Policy, Run, Server, Slot, Task, Vcpu, Vm,
    simulate,
};

const LENGTH: u64 = 400_000;

fn us(value: u64) -> Duration {
    Duration::from_micros(value)
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

fn task() -> impl Strategy<Value = Task> {
    let times = (1u64..4_000, 1u64..100, 0u64..5_000, 0u64..2_000);
    let waits = prop::option::of((1u64..2_000, 0u64..5_000));
    (times, 1u64..20, waits).prop_map(|((execution, shortest, offset, jitter), factor, waits)| {
        let blocking = waits.map(|(after, sleep)| Blocking {
            after: us(after),
            sleep: us(sleep),
        });
        Task {
            shortest: us((execution * shortest / 100).max(1)),
            offset: us(offset),
            jitter: us(jitter),
            blocking,
            ..Task::new(us(execution), us(execution * factor + 500))
        }
    })
}

fn guest_policy() -> impl Strategy<Value = GuestPolicy> {
    prop_oneof![
        Just(GuestPolicy::RateMonotonic),
        Just(GuestPolicy::DeadlineMonotonic),
        Just(GuestPolicy::Edf),
        (100u64..3_000).prop_map(|quantum| GuestPolicy::RoundRobin {
            quantum: us(quantum)
        }),
    ]
}

/// A server with a bandwidth of so many per cent.
fn server(percent: u64, period: u64) -> Server {
    Server::new(us((period * percent / 100).max(1)), us(period))
}

fn vcpu() -> impl Strategy<Value = Vcpu> {
    let tasks = prop::collection::vec(task(), 0..4);
    let shape = (1u64..100, 1_000u64..20_000, 1u32..2_000, 0usize..3);
    (shape, guest_policy(), tasks).prop_map(|((percent, period, weight, cpu), scheduler, tasks)| {
        Vcpu {
            cpu: Some(cpu),
            weight,
            ..Vcpu::new(server(percent, period), scheduler, tasks)
        }
    })
}

fn policies(cpus: usize, vcpus: &[Vcpu]) -> Vec<Policy> {
    let table = |cpu: usize| {
        let own = vcpus
            .iter()
            .enumerate()
            .filter(|(_, vcpu)| vcpu.cpu == Some(cpu));
        let slots = own.map(|(number, _)| Slot {
            owner: Some(number),
            length: us(1_700),
        });
        let pause = Slot {
            owner: None,
            length: us(300),
        };
        slots.chain([pause]).collect()
    };
    let mut policies = vec![
        Policy::Deadline,
        Policy::Deferrable,
        Policy::Periodic,
        Policy::WorkConservingPeriodic,
        Policy::Sporadic,
        CREDIT,
        FAIR,
    ];
    if vcpus.iter().all(|vcpu| vcpu.cpu.is_some()) {
        policies.push(Policy::Table((0..cpus).map(table).collect()));
    }
    policies
}

const CREDIT: Policy = Policy::Credit {
    slice: Duration::from_millis(30),
};
const FAIR: Policy = Policy::ProportionalShare {
    latency: Duration::from_millis(6),
    granularity: Duration::from_micros(750),
};

/// Hosts that differ in their policy only.
fn hosts() -> impl Strategy<Value = Vec<Host>> {
    let vcpus = prop::collection::vec(vcpu(), 1..6);
    (vcpus, 1usize..4, any::<bool>(), (0u64..20, 0u64..20)).prop_map(
        |(mut vcpus, cpus, is_bound, (switch, budget_switch))| {
            for vcpu in &mut vcpus {
                vcpu.cpu = vcpu.cpu.map(|cpu| cpu % cpus).filter(|_| is_bound);
            }
            let host = |policy| Host {
                overheads: Overheads {
                    switch: us(switch),
                    budget_switch: us(budget_switch),
                },
                ..Host::new(
                    cpus,
                    policy,
                    vcpus.iter().cloned().map(Vm::single).collect(),
                )
            };
            policies(cpus, &vcpus).into_iter().map(host).collect()
        },
    )
}

/// The host with its budgets lowered until half of one CPU holds them, so that no deadline of a server is missed.
/// A constant bandwidth or sporadic server that was late catches up: where a CPU holds more than it can give, its supply
/// in a window has no bound.
fn admitted(mut host: Host) -> Host {
    let bandwidth: f64 = host
        .vcpus()
        .map(|vcpu| vcpu.server.budget.div_duration_f64(vcpu.server.period))
        .sum();
    let factor = (0.5 / bandwidth).min(1.0);
    for server in (host.vms.iter_mut().flat_map(|vm| &mut vm.vcpus)).map(|vcpu| &mut vcpu.server) {
        server.budget = server.budget.mul_f64(factor).max(us(1));
    }
    host
}

fn run(seed: u64) -> Run {
    Run {
        seed,
        ..Run::of(us(LENGTH))
    }
}

/// No CPU executes two tasks at once, and no vCPU runs on two CPUs at once.
fn is_exclusive(outcome: &Outcome) -> bool {
    let all = outcome.vcpus.iter().flat_map(|vcpu| &vcpu.executions);
    let mut by_cpu: Vec<_> = all.map(|part| (part.cpu, part.from, part.to)).collect();
    by_cpu.sort_unstable();
    let apart = |pair: &[(usize, u64, u64)]| pair[0].0 != pair[1].0 || pair[0].2 <= pair[1].1;
    let in_order = |vcpu: &sched::sim::VcpuOutcome| {
        vcpu.executions
            .windows(2)
            .all(|pair| pair[0].to <= pair[1].from)
    };
    by_cpu.windows(2).all(apart) && outcome.vcpus.iter().all(in_order)
}

/// What one CPU that never idles while there is work has done by the end: the work that came, job by job.
fn work_done(releases: &mut [(u64, u64)], end: u64) -> u64 {
    releases.sort_unstable();
    let (mut free_at, mut done) = (0, 0);
    for &(release, work) in releases.iter() {
        let start = free_at.max(release);
        free_at = start + work;
        done += work.min(end.saturating_sub(start));
    }
    done
}

/// Releases of a vCPU's tasks without jitter, and their work.
fn releases(vcpu: &Vcpu) -> Vec<(u64, u64)> {
    let of_task = |task: &Task| {
        let (first, period, work) = (
            nanos(task.offset),
            nanos(task.period),
            nanos(task.execution),
        );
        let end = LENGTH * 1_000;
        (0..)
            .map(move |job| (first + job * period, work))
            .take_while(move |(release, _)| *release < end)
    };
    vcpu.tasks.iter().flat_map(of_task).collect()
}

/// The least supply of (Q, P) in any window of this length (Shin and Lee, RTSS 2003).
fn supply_bound(q: u64, p: u64, length: u64) -> u64 {
    let Some(rest) = length.checked_sub(p - q) else {
        return 0;
    };
    let into = (rest % p).saturating_sub(p - q);
    rest / p * q + into
}

/// Bandwidths in per cent that sum up to at most 100.
fn full_house() -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pairs = prop::collection::vec((1u64..60, 1_000u64..30_000), 1..6);
    pairs.prop_map(|pairs| {
        let mut left = 100;
        let fitted = pairs.into_iter().map(|(percent, period)| {
            let percent = percent.min(left);
            left -= percent;
            (percent, period)
        });
        fitted.filter(|(percent, _)| *percent > 0).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_time_of_every_cpu_is_accounted_for(hosts in hosts(), seed: u64) {
        for host in hosts {
            let outcome = simulate(&host, &run(seed)).unwrap();
            let mut supplied = Duration::ZERO;
            for cpu in &outcome.cpus {
                prop_assert_eq!(cpu.supplied + cpu.overhead + cpu.idle, us(LENGTH));
                supplied += cpu.supplied;
            }
            prop_assert_eq!(outcome.vcpus.iter().map(|vcpu| vcpu.supplied).sum::<Duration>(), supplied);
            prop_assert!(is_exclusive(&outcome), "{:?}", host.policy);
            for vcpu in &outcome.vcpus {
                prop_assert_eq!(vcpu.supplied_between(0, LENGTH * 1_000), nanos(vcpu.supplied));
            }
            let jobs: usize = outcome.tasks.iter().map(|task| task.jobs.len()).sum();
            prop_assert_eq!(jobs as u64, outcome.events.releases);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace_and_the_same_jobs_under_every_policy(hosts in hosts(), seed: u64) {
        let mut executed: Option<u64> = None;
        for host in &hosts {
            let outcome = simulate(host, &run(seed)).unwrap();
            prop_assert_eq!(&outcome, &simulate(host, &run(seed)).unwrap());
            prop_assert_eq!(*executed.get_or_insert(outcome.events.releases), outcome.events.releases);
        }
    }

    #[test]
    fn a_busy_server_gets_exactly_its_budget_in_every_period_beside_any_neighbours(
        house in full_house(), guests in prop::collection::vec((guest_policy(), prop::collection::vec(task(), 1..4)), 6),
        offset in 0u64..30_000, seed: u64,
    ) {
        let busy = Task { offset: us(offset), ..Task::hog() };
        let mut vms: Vec<Vm> = house.iter().zip(guests)
            .map(|(&(percent, period), (scheduler, tasks))| Vm::single(Vcpu::new(server(percent, period), scheduler, tasks)))
            .collect();
        vms[0].vcpus[0].tasks = vec![busy];
        let Server { budget, period, .. } = vms[0].vcpus[0].server;
        let (q, p) = (nanos(budget), nanos(period));
        let outcome = simulate(&Host::new(1, Policy::Deadline, vms), &run(seed)).unwrap();
        let supply = &outcome.vcpus[0];
        let (first, end) = (offset * 1_000, LENGTH * 1_000);
        for n in 0..(end - first) / p {
            let begin = first + n * p;
            prop_assert_eq!(supply.supplied_between(begin, begin + p), q, "period {}", n);
        }
        for start in (first..end).step_by(usize::try_from(p / 3).unwrap()).take(40) {
            for length in (0..end - start).step_by(usize::try_from(p / 7).unwrap()).take(40) {
                let got = supply.supplied_between(start, start + length);
                prop_assert!(got >= supply_bound(q, p, length), "{got} in {length} from {start}");
            }
        }
    }

    #[test]
    fn no_server_gets_more_than_its_bandwidth_and_two_budgets(hosts in hosts(), seed: u64) {
        let servers = [Policy::Deadline, Policy::Deferrable, Policy::Periodic, Policy::WorkConservingPeriodic, Policy::Sporadic];
        for host in hosts.into_iter().filter(|host| servers.contains(&host.policy)) {
            let may_be_late = [Policy::Deadline, Policy::Sporadic].contains(&host.policy);
            let host = if may_be_late { admitted(host) } else { host };
            let outcome = simulate(&host, &run(seed)).unwrap();
            for (vcpu, supply) in host.vcpus().zip(&outcome.vcpus) {
                let (q, p) = (nanos(vcpu.server.budget), nanos(vcpu.server.period));
                for part in supply.executions.iter().take(50) {
                    for length in [p / 2, p, 3 * p, 10 * p] {
                        let got = supply.supplied_between(part.from, part.from + length);
                        let most = 2 * q + u64::try_from(u128::from(length) * u128::from(q) / u128::from(p)).unwrap() + 1;
                        prop_assert!(got <= most, "{:?}: {got} > {most} in {length}", host.policy);
                    }
                }
            }
        }
    }

    #[test]
    fn servers_with_fixed_periods_never_exceed_their_budget_in_one(hosts in hosts(), seed: u64) {
        let servers = [Policy::Deferrable, Policy::Periodic, Policy::WorkConservingPeriodic];
        for host in hosts.iter().filter(|host| servers.contains(&host.policy)) {
            let outcome = simulate(host, &run(seed)).unwrap();
            for (vcpu, supply) in host.vcpus().zip(&outcome.vcpus) {
                let (q, p) = (nanos(vcpu.server.budget), nanos(vcpu.server.period));
                for begin in (0..LENGTH * 1_000).step_by(usize::try_from(p).unwrap()) {
                    prop_assert!(supply.supplied_between(begin, begin + p) <= q);
                }
            }
        }
    }

    #[test]
    fn proportional_shares_never_leave_a_cpu_idle_while_there_is_work(mut vcpus in prop::collection::vec(vcpu(), 1..6), seed: u64) {
        for vcpu in &mut vcpus {
            vcpu.cpu = Some(0);
            for task in &mut vcpu.tasks {
                *task = Task { offset: task.offset, ..Task::new(task.execution, task.period) };
            }
        }
        let mut work: Vec<_> = vcpus.iter().flat_map(releases).collect();
        let done = work_done(&mut work, LENGTH * 1_000);
        let vms: Vec<Vm> = vcpus.into_iter().map(Vm::single).collect();
        for policy in [CREDIT, FAIR] {
            let outcome = simulate(&Host::new(1, policy, vms.clone()), &run(seed)).unwrap();
            prop_assert_eq!(nanos(outcome.cpus[0].supplied), done);
        }
    }
}

#[test]
fn the_supply_bound_has_its_known_values() {
    let bounds = [22, 44, 45, 72, 94, 95].map(|length| supply_bound(28, 50, length));
    assert_eq!(bounds, [0, 0, 1, 28, 28, 29]);
}

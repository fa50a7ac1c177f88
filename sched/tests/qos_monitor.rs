//! What the monitors of quality of service call a violation: by hand, against a slow oracle, and on simulated servers.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use proptest::prelude::*;
use sched::qos::{Condition, Evidence, Monitor, Observation, Quality, TaskSeen, VcpuSeen};
use sched::reservation::Reservation;
use sched::sim::{GuestPolicy, Host, Policy, Run, Server, Task, Vcpu, Vm, simulate};

const TICK: Duration = Duration::from_millis(100);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn misses(within: Duration, count: u64) -> Condition {
    Condition {
        quality: Quality::DeadlineMiss { task: None },
        within,
        count,
    }
}

fn seen(tasks: &[(&str, TaskSeen)]) -> Observation {
    let tasks = tasks.iter().cloned();
    Observation {
        tasks: tasks.map(|(name, task)| (name.to_owned(), task)).collect(),
        ..Observation::default()
    }
}

fn missed(misses: u64) -> Observation {
    let task = TaskSeen {
        jobs: 2 * misses,
        misses,
        latest: Vec::new(),
    };
    seen(&[("t", task)])
}

#[test]
fn misses_of_an_earlier_life_or_from_before_the_watch_do_not_count() {
    let mut monitor = Monitor::new(misses(ms(1000), 1));
    assert_eq!(monitor.observe(TICK, &missed(7)), None);
    let mut other = missed(9);
    other.life = 2;
    assert_eq!(monitor.observe(2 * TICK, &other), None);
    other.tasks.get_mut("t").unwrap().misses = 10;
    let violation = monitor.observe(3 * TICK, &other).unwrap();
    assert_eq!(violation.evidence, Evidence::DeadlineMiss { misses: 1 });
}

#[test]
fn response_times_are_held_against_their_bound_job_by_job() {
    let condition = Condition {
        quality: Quality::ResponseOver {
            task: Some("t".to_owned()),
            bound: ms(30),
        },
        within: ms(1000),
        count: 2,
    };
    let mut monitor = Monitor::new(condition);
    let task = |jobs, latest: &[u64]| TaskSeen {
        jobs,
        misses: 0,
        latest: latest.iter().copied().map(ms).collect(),
    };
    let other = ("u", task(50, &[900, 900]));
    let mut look = |tick, own| monitor.observe(TICK * tick, &seen(&[("t", own), other.clone()]));
    assert_eq!(look(1, task(2, &[90, 90])), None);
    assert_eq!(look(2, task(4, &[90, 90, 31, 30])), None, "one of the new");
    let violation = look(3, task(5, &[90, 90, 31, 30, 44])).unwrap();
    let (jobs, worst, bound) = (2, ms(44), ms(30));
    assert_eq!(
        violation.evidence,
        Evidence::ResponseOver { jobs, worst, bound }
    );
    assert_eq!(
        look(4, task(6, &[90, 31, 30, 44, 10])),
        None,
        "they count once"
    );
}

fn short(by: f64) -> Monitor {
    Monitor::new(Condition {
        quality: Quality::SupplyShort { vcpu: 0, by },
        within: ms(1000),
        count: 1,
    })
}

fn supplied(supplied: Duration, waited: Option<Duration>) -> Observation {
    let promised = Reservation::new(ms(20), ms(50)).unwrap();
    Observation {
        vcpus: vec![VcpuSeen {
            promised: Some(promised),
            supplied,
            waited,
        }],
        ..Observation::default()
    }
}

#[test]
fn a_busy_virtual_cpu_that_gets_half_of_its_promise_is_short_and_an_idle_one_is_not() {
    let looks = |share: f64, waits: f64| {
        let mut monitor = short(0.05);
        let looked = |tick: u32| {
            let now = TICK * tick;
            let waited = now.mul_f64(waits);
            monitor.observe(now, &supplied(now.mul_f64(share), Some(waited)))
        };
        (0..40).filter_map(looked).count()
    };
    assert_eq!(looks(0.4, 0.6), 0, "all of its promise");
    assert_eq!(looks(0.2, 0.8), 3, "once in every window");
    assert_eq!(looks(0.2, 0.1), 0, "it did not want more");
    let mut blind = short(0.05);
    assert!((0..40).all(|tick| {
        let now = TICK * tick;
        blind
            .observe(now, &supplied(Duration::ZERO, None))
            .is_none()
    }));
}

/// Numbers of violations by a look at everything that was ever seen, with the times of those that count no more.
fn violations_slowly(steps: &[u64], within: u32, count: u64) -> Vec<usize> {
    let within = usize::try_from(within).unwrap();
    let mut spent = 0;
    let mut found: Vec<usize> = Vec::new();
    for now in 0..steps.len() {
        let from = spent.max(now.saturating_sub(within));
        // What was there at the first look is not known to be new.
        let sum: u64 = steps[from.max(1).min(now + 1)..=now].iter().sum();
        let is_new = found.last().is_none_or(|last| now >= last + within);
        if sum >= count && is_new {
            found.push(now);
            spent = now + 1;
        }
    }
    found
}

proptest! {
    #[test]
    fn violations_are_those_that_a_look_at_the_whole_past_finds(
        steps in proptest::collection::vec(prop_oneof![3 => Just(0_u64), 1 => 0_u64..4], 1..80),
        within in 1_u32..12,
        count in 1_u64..6,
    ) {
        let mut monitor = Monitor::new(misses(TICK * within, count));
        let mut sum = 0;
        let mut found = Vec::new();
        for (number, new) in steps.iter().enumerate() {
            sum += new;
            let now = TICK * u32::try_from(number).unwrap();
            if monitor.observe(now, &missed(sum)).is_some() {
                found.push(number);
            }
        }
        prop_assert_eq!(found, violations_slowly(&steps, within, count));
    }

    #[test]
    fn a_server_that_keeps_its_promise_is_never_short(
        budget in 5_u64..30,
        tasks in proptest::collection::vec((1_u64..60, 20_u64..300, 0_u64..100), 1..4),
        has_hog: bool,
    ) {
        let mut set: Vec<Task> = tasks.iter().map(|(execution, period, offset)| Task {
            offset: ms(*offset),
            ..Task::new(ms(*execution), ms(*period))
        }).collect();
        if has_hog {
            set.push(Task::hog());
        }
        let server = Server::new(ms(budget), ms(50));
        let own = Vcpu::new(server, GuestPolicy::RateMonotonic, set.clone());
        let rest = Server::new(ms(50 - budget), ms(50));
        let other = Vcpu::new(rest, GuestPolicy::RateMonotonic, vec![Task::hog()]);
        let vms = vec![Vm::single(own), Vm::single(other)];
        let outcome = simulate(&Host::new(1, Policy::Deadline, vms), &Run::of(ms(4000))).unwrap();
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap();
        // It wants to run from a job's arrival to its end.
        let wants = |at: Duration| has_hog || outcome.tasks.iter().filter(|task| task.vcpu == 0).any(|task| {
            task.jobs.iter().any(|job| job.arrival <= at && job.response.is_none_or(|length| at < job.arrival + length))
        });
        let mut monitor = short(0.0);
        let mut wanted = Duration::ZERO;
        for now in (0..4000).map(ms) {
            if now.as_millis() % 100 == 0 {
                let ran: u64 = outcome.vcpus[0].executions.iter()
                    .map(|part| part.to.min(nanos(now)).saturating_sub(part.from))
                    .sum();
                let ran = Duration::from_nanos(ran);
                let seen = Observation {
                    vcpus: vec![VcpuSeen {
                        promised: Some(Reservation::new(ms(budget), ms(50)).unwrap()),
                        supplied: ran,
                        waited: Some(wanted.saturating_sub(ran)),
                    }],
                    ..Observation::default()
                };
                prop_assert_eq!(monitor.observe(now, &seen), None);
            }
            // Everything begins and ends on whole milliseconds.
            wanted += if wants(now) { ms(1) } else { Duration::ZERO };
        }
    }
}

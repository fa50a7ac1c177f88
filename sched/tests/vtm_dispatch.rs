//! VTMs on the real kernel: processes that run in the slots of their table only.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

#[path = "support/jobs.rs"]
mod jobs;
mod support;

use std::thread::sleep;
use std::time::{Duration, Instant};

use jobs::{Process, eventually, half, ms, scheduler, share};
use sched::framework::{Job, Manager, Scheduler};
use sched::ledger::Ledger;
use sched::request::{Enforcement, VcpuRequest};
use sched::reservation::Reservation;
use sched::vtm::{RoundRobin, Suspend, VtmConfig, VtmError, VtmScheduler};
use support::{Host, Prepared};

/// The CPU time that each VTM's jobs get, over the wall time.
fn shares_over(vtms: &VtmScheduler, length: Duration) -> Vec<f64> {
    let before = vtms.status();
    let begin = Instant::now();
    sleep(length);
    let after = vtms.status();
    let wall = begin.elapsed().as_secs_f64();
    let both = before.vtms.iter().zip(&after.vtms);
    both.map(|(before, after)| (after.cpu_time - before.cpu_time).as_secs_f64() / wall)
        .collect()
}

#[test]
fn busy_jobs_get_what_their_vtm_was_promised_on_a_loaded_cpu() {
    requires_real_time!();
    let _host = Host::lock();
    let _load: Vec<_> = (0..2).map(|_| Process::busy()).collect();
    for suspend in [Suspend::Signals, Suspend::Freezer] {
        let jobs = [Process::busy(), Process::busy()];
        let mut vtms = scheduler(suspend);
        for ((name, execution, period), job) in
            [("gold", 20, 50), ("rest", 20, 100)].iter().zip(&jobs)
        {
            vtms.create(name, RoundRobin::default()).unwrap();
            vtms.reserve(name, &share(*execution, *period)).unwrap();
            vtms.add_job(name, &job.source()).unwrap();
        }
        vtms.schedule().unwrap();
        let got = shares_over(&vtms, ms(4000));
        for (got, promised) in got.iter().zip([0.4, 0.2]) {
            assert!(
                (got - promised).abs() < 0.02,
                "{suspend:?}: {got} of {promised}"
            );
        }
    }
}

#[test]
fn twenty_vtms_have_their_shares_at_once() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs: Vec<_> = (0..20).map(|_| Process::busy()).collect();
    let mut vtms = scheduler(Suspend::Auto);
    for (index, job) in jobs.iter().enumerate() {
        let name = format!("vtm{index}");
        vtms.create(&name, RoundRobin::default()).unwrap();
        vtms.reserve(&name, &share(10, 250)).unwrap();
        vtms.add_job(&name, &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    let got = shares_over(&vtms, ms(5000));
    assert!(got.iter().all(|got| (got - 0.04).abs() < 0.01), "{got:?}");
    let status = vtms.status();
    assert!((status.utilisation - 0.8).abs() < 1e-9);
    assert!(status.dispatches.cost.count >= 490);
}

#[test]
fn jobs_of_a_vtm_take_turns() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs: Vec<_> = (0..3).map(|_| Process::busy()).collect();
    let mut vtms = scheduler(Suspend::Signals);
    let rule = RoundRobin {
        quantum: ms(5),
        ..RoundRobin::default()
    };
    vtms.create("a", rule).unwrap();
    vtms.reserve("a", &share(30, 60)).unwrap();
    for job in &jobs {
        vtms.add_job("a", &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    sleep(ms(3000));
    let status = vtms.status();
    let turns: Vec<u64> = status.vtms[0].jobs.iter().map(|job| job.turns).collect();
    let (most, least) = (turns.iter().max().unwrap(), turns.iter().min().unwrap());
    assert!(most - least <= 1, "{turns:?}");
    assert!(*least >= 60, "a quantum within a slot is a turn: {turns:?}");
}

/// The first one would have nearly all if it were at the head of the kernel's queue whenever the VTM gets the CPU.
#[test]
fn jobs_that_run_at_once_go_on_where_they_were_when_their_vtm_lost_the_cpu() {
    requires_real_time!();
    let _host = Host::lock();
    for suspend in [Suspend::Signals, Suspend::Freezer] {
        let jobs = [Process::busy(), Process::busy(), Process::busy()];
        let mut vtms = scheduler(suspend);
        let together = RoundRobin {
            active: 3.try_into().unwrap(),
            ..RoundRobin::default()
        };
        vtms.create("gold", together).unwrap();
        vtms.reserve("gold", &share(20, 40)).unwrap();
        for job in &jobs {
            vtms.add_job("gold", &job.source()).unwrap();
        }
        vtms.schedule().unwrap();
        sleep(ms(4000));
        let status = vtms.status();
        let times: Vec<Duration> = status.vtms[0].jobs.iter().map(|job| job.cpu_time).collect();
        let all: Duration = times.iter().sum();
        assert!(
            times.iter().all(|time| *time > all / 5),
            "{suspend:?}: {times:?}"
        );
    }
}

#[test]
fn a_new_table_is_in_force_at_the_next_slot_for_both_vtms_or_for_none() {
    requires_real_time!();
    let _host = Host::lock();
    let jobs = [Process::busy(), Process::busy()];
    let mut vtms = scheduler(Suspend::Signals);
    for (name, job) in ["x", "y"].iter().zip(&jobs) {
        vtms.create(name, RoundRobin::default()).unwrap();
        vtms.reserve(name, &share(40, 100)).unwrap();
        vtms.add_job(name, &job.source()).unwrap();
    }
    vtms.schedule().unwrap();
    let before = vtms.status();
    let refused = vtms.adapt(&[share(10, 100).of("x"), share(100, 100).of("y")]);
    assert!(matches!(refused, Err(VtmError::Table(_))), "{refused:?}");
    assert_eq!(vtms.status().tables, before.tables);
    vtms.adapt(&[share(10, 100).of("x"), share(70, 100).of("y")])
        .unwrap();
    assert!(eventually(
        || vtms.status().tables_in_force == before.tables + 1
    ));
    let got = shares_over(&vtms, ms(3000));
    assert!(
        (got[0] - 0.1).abs() < 0.02 && (got[1] - 0.7).abs() < 0.02,
        "{got:?}"
    );
    let mut team = vtms.team("x").unwrap();
    team.set_sched_param(Some(share(20, 100))).unwrap();
    assert_eq!(team.sched_param(), Some(share(20, 100)));
    team.set_sched_param(None).unwrap();
    assert_eq!(vtms.status().vtms[0].promise, None);
}

#[test]
fn wrong_reservations_are_refused_with_what_would_do() {
    requires_real_time!();
    let _host = Host::lock();
    let mut vtms = half(Suspend::Signals);
    let before = vtms.status();
    let refused =
        |error: VtmError, words: &str| assert!(error.to_string().contains(words), "{error}");
    refused(
        vtms.create("a", RoundRobin::default()).unwrap_err(),
        "already",
    );
    refused(
        vtms.create("a b", RoundRobin::default()).unwrap_err(),
        "usable",
    );
    let zero = RoundRobin {
        quantum: Duration::ZERO,
        ..RoundRobin::default()
    };
    refused(vtms.create("z", zero).unwrap_err(), "10 ms");
    refused(vtms.reserve("a", &share(10, 20)).unwrap_err(), "adapt");
    refused(
        vtms.adapt(&[share(20, 20).of("a")]).unwrap_err(),
        "sched_rt_runtime_us",
    );
    refused(
        vtms.adapt(&[share(30, 20).of("a")]).unwrap_err(),
        "at most 20 ms",
    );
    refused(vtms.adapt(&[share(0, 20).of("a")]).unwrap_err(), "zero");
    refused(
        vtms.reserve("nobody", &share(10, 20)).unwrap_err(),
        "use one of a",
    );
    assert_eq!(vtms.status(), before);
    let offline = VtmScheduler::new(VtmConfig::on(4096)).unwrap_err();
    refused(offline, "not online");
}

/// A reservation of a virtual machine that fits beside others.
fn small() -> VcpuRequest {
    VcpuRequest {
        reservation: Some(Reservation::new(ms(1), ms(100)).unwrap()),
        enforcement: Enforcement::Tick,
        ..VcpuRequest::default()
    }
}

#[test]
fn a_cpu_is_for_vtms_or_for_virtual_machines_and_free_again_afterwards() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let ledger = Ledger::open(prepared.run_dir()).unwrap();
    let on_partition = VtmConfig {
        ledger: Some(ledger.clone()),
        ..VtmConfig::on(cpu)
    };
    let on = |cpu| VtmConfig {
        cpu,
        ..on_partition.clone()
    };
    assert!(matches!(
        VtmScheduler::new(VtmConfig::on(cpu)),
        Err(VtmError::Partition { .. })
    ));
    assert!(matches!(
        VtmScheduler::new(on(cpu - 1)),
        Err(VtmError::NoPartition { .. })
    ));
    let machine = ledger
        .clone()
        .clone()
        .reserve(
            "machine",
            &[VcpuRequest {
                cpu: Some(cpu),
                ..small()
            }],
        )
        .unwrap();
    assert!(matches!(
        VtmScheduler::new(on(cpu)),
        Err(VtmError::CpuTaken { .. })
    ));
    machine.release().unwrap();
    let job = Process::busy();
    let before = jobs::Look::at(job.pid());
    let mut vtms = VtmScheduler::new(on(cpu)).unwrap();
    assert!(
        ledger
            .clone()
            .reserve(
                "machine",
                &[VcpuRequest {
                    cpu: Some(cpu),
                    ..small()
                }]
            )
            .is_err()
    );
    vtms.create("a", RoundRobin::default()).unwrap();
    vtms.reserve("a", &share(10, 20)).unwrap();
    vtms.add_job("a", &job.source()).unwrap();
    vtms.schedule().unwrap();
    let got = shares_over(&vtms, ms(2000));
    assert!((got[0] - 0.5).abs() < 0.02, "{got:?}");
    drop(vtms);
    assert_eq!(jobs::Look::at(job.pid()), before);
    let again = ledger
        .clone()
        .clone()
        .reserve(
            "machine",
            &[VcpuRequest {
                cpu: Some(cpu),
                ..small()
            }],
        )
        .unwrap();
    again.release().unwrap();
}

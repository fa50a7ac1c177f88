//! CPU time that was given up and is not free yet, on the real kernel.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::time::Duration;

use sched::framework::Manager;
use sched::kernel::{monotonic, thread_cpu_time};
use sched::ledger::{Change, Ledger};
use sched::reservation::{Enforcement, Reservation, VcpuRequest};
use support::{Host, Prepared, Sleeper};

fn reservation(q_ms: u64, p_ms: u64) -> Reservation {
    let ms = Duration::from_millis;
    Reservation::new(ms(q_ms), ms(p_ms)).unwrap()
}

fn deadline(q_ms: u64, p_ms: u64) -> VcpuRequest {
    VcpuRequest {
        reservation: Some(reservation(q_ms, p_ms)),
        enforcement: Enforcement::Tick,
        ..VcpuRequest::default()
    }
}

#[test]
fn what_a_thread_has_given_up_is_in_force_for_the_next_one_as_soon_as_it_is_free() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    // Each alone fits, both do not; the period is longer than a kernel is asked again and again.
    let wanted = VcpuRequest {
        cpu: Some(cpu),
        ..deadline(1200, 2000)
    };
    let first = ledger
        .reserve("first", std::slice::from_ref(&wanted))
        .unwrap();
    let busy = Sleeper::start();
    ledger.attach("first", 0, busy.tid).unwrap();
    let _server = busy.applies(first.vcpu(0).unwrap()).unwrap();
    // It has run ahead of its bandwidth.
    busy.does(|| while thread_cpu_time() < Duration::from_secs(1) {});
    drop(busy);
    drop(first);
    let given_up = monotonic();
    let second = ledger
        .reserve("second", std::slice::from_ref(&wanted))
        .unwrap();
    let wait = second.waits().unwrap();
    assert!(wait <= Duration::from_secs(2), "{wait:?}");
    // It is the second one's: a third gets nothing of it.
    assert!(ledger.reserve("third", &[wanted]).is_err());
    second.wait_until_free();
    let next = Sleeper::start();
    let mut server = next.applies(second.vcpu(0).unwrap()).unwrap();
    assert!(monotonic() - given_up < Duration::from_millis(2400));
    assert_eq!(second.waits(), None);
    server.release().unwrap();
}

#[test]
fn what_a_vcpu_gives_up_is_for_others_only_after_its_period_and_for_itself_at_once() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let on = |q| VcpuRequest {
        cpu: Some(cpu),
        ..deadline(q, 4000)
    };
    let to = |vm: &str, q| Change::new(vm, 0, reservation(q, 4000));
    let _a = ledger.reserve("a", &[on(2000)]).unwrap();
    let _b = ledger.reserve("b", &[on(1000)]).unwrap();
    ledger.adapt(&[to("a", 1000)]).unwrap();
    let refusal = ledger.adapt(&[to("b", 2000)]).unwrap_err();
    let after = refusal.otherwise.after.unwrap();
    assert!(after > Duration::from_secs(1) && after <= Duration::from_secs(4));
    assert!(refusal.to_string().contains("or the same in"), "{refusal}");
    // Neither is less refused, nor what one moves to the other, nor what it had itself.
    ledger.adapt(&[to("b", 900)]).unwrap();
    ledger.adapt(&[to("a", 500), to("b", 2400)]).unwrap();
    ledger.adapt(&[to("a", 2000), to("b", 1000)]).unwrap();
    assert!(ledger.reserve("c", &[on(1000)]).is_err(), "nothing is left");
}

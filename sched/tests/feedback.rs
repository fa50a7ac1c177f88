//! A thread that follows its own need, in the kernel's own reservation.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sched::account::Account;
use sched::backend::{BackendError, apply_within};
use sched::budget::BudgetTimer;
use sched::feedback::{Envelope, Follower};
use sched::kernel::{Policy, Tid, policy, set_policy, thread_cpu_time};
use sched::request::{AdmissionTest, Granted, Placement, VcpuRequest};
use sched::reservation::Reservation;
use support::Host;

const SIGNAL: Signal = Signal::SIGUSR2;
const PERIOD: Duration = Duration::from_millis(20);

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn granted(envelope: &Envelope) -> Granted {
    let request = VcpuRequest {
        reservation: Reservation::new(envelope.greatest(), envelope.period()).ok(),
        ..VcpuRequest::default()
    };
    Granted {
        vm: "follower".to_owned(),
        vcpu: 0,
        surplus: request.surplus(),
        request,
        placement: Placement::Global,
        test: AdmissionTest::GlobalEdf,
    }
}

/// Works for `need` of CPU time at the beginning of each of `periods` periods, and sleeps for what is left of each.
fn work((need, periods): (Duration, u32), signals: &SignalFd, mut expired: impl FnMut(bool)) {
    let begin = Instant::now();
    let mut asked = thread_cpu_time();
    for period in 1..=periods {
        asked += need;
        while thread_cpu_time() < asked {
            if let Ok(Some(_)) = signals.read_signal() {
                expired(false);
            }
        }
        // What looking took is no work that was asked for.
        asked = thread_cpu_time();
        while begin.elapsed() < PERIOD * period {
            let rest = (PERIOD * period).saturating_sub(begin.elapsed());
            let wait = nix::sys::time::TimeSpec::from_duration(rest);
            let mut ready = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(signals),
                nix::poll::PollFlags::POLLIN,
            )];
            let woken = nix::poll::ppoll(&mut ready, Some(wait), None);
            if woken == Ok(1) && matches!(signals.read_signal(), Ok(Some(_))) {
                expired(true);
            }
        }
        asked = asked.max(thread_cpu_time());
    }
}

#[test]
fn a_thread_finds_the_budget_that_it_needs_and_the_kernel_has_it_in_force() {
    requires_partitions!();
    let _host = Host::lock();
    let body = || {
        let envelope = Envelope::new(ms(1), ms(12), PERIOD).unwrap();
        let envelope = envelope.beginning_with(ms(2)).unwrap();
        let signals = SigSet::from_iter([SIGNAL]);
        signals.thread_block().unwrap();
        let descriptor = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK).unwrap();
        let granted = granted(&envelope);
        let reservation = apply_within(Tid::current(), &granted, envelope).unwrap();
        let in_force = || {
            reservation
                .in_force()
                .unwrap()
                .reservation
                .unwrap()
                .runtime()
        };
        assert_eq!(in_force(), ms(2));
        let mut timer = BudgetTimer::new(SIGNAL as i32, granted.surplus, 0).unwrap();
        let mut account = Account::new(granted.request.reservation);
        let mut follower = Follower::new(envelope, granted.surplus);
        follower.restart(&mut timer);
        let mut found = Vec::new();
        for need in [ms(8), ms(3)] {
            work((need, 60), &descriptor, |asleep| {
                follower.on_expiry(&mut timer, &mut account, asleep);
            });
            let standing = follower.standing();
            assert_eq!((standing.budget, standing.refused), (in_force(), 0));
            found.push((need, standing.budget));
        }
        let outside = Policy::Deadline {
            runtime: Duration::from_micros(500),
            deadline: PERIOD,
            period: PERIOD,
        };
        set_policy(Tid::current(), outside).unwrap();
        let displaced = reservation.in_force().unwrap_err();
        assert!(matches!(displaced, BackendError::NotInForce { .. }));
        assert_eq!(policy(Tid::current()), Ok(outside));
        found
    };
    for (need, budget) in std::thread::spawn(body).join().unwrap() {
        // Beside other tests it may be interrupted, and need more; never less.
        assert!(
            budget >= need && budget <= need * 3 / 2,
            "{budget:?} for {need:?}"
        );
    }
}

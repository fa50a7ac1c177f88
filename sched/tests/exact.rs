//! Exact enforcement on the real kernel: a busy thread, and one that sleeps and wakes at awkward instants.
//!
//! Bounds are wide enough for a shared machine; what they must catch are whole ticks (4 ms), whole budgets and whole
//! periods, which is how enforcement fails.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sched::account::{Account, Budgets};
use sched::backend::apply;
use sched::budget::{BudgetError, BudgetTimer};
use sched::kernel::{Tid, monotonic, thread_cpu_time};
use sched::request::{AdmissionTest, Granted};
use sched::reservation::{Placement, Reservation, VcpuRequest};
use support::{Host, Prepared};

const Q: Duration = Duration::from_millis(10);
const P: Duration = Duration::from_millis(40);

/// What a thread sees of its own supply.
#[derive(Debug, Default)]
struct Seen {
    elapsed: Duration,
    consumed: Duration,
    longest_gap: Duration,
    least_first_supply: Option<Duration>,
}

/// A thread in (10 ms, 40 ms) that ends its own budgets.
struct Rig {
    timer: BudgetTimer,
    pending: SignalFd,
    account: Account,
}

impl Rig {
    /// Spins until `done`, handling expiries; the first uninterrupted stretch and the longest gap.
    fn spin(&mut self, done: impl Fn() -> bool) -> (Duration, Duration) {
        let started = monotonic();
        let (mut last, mut first, mut longest) = (started, None, Duration::ZERO);
        while !done() {
            if let Ok(Some(_)) = self.pending.read_signal() {
                let _ = self.timer.on_expiry(&mut self.account);
            }
            let now = monotonic();
            if now - last > Duration::from_millis(5) && first.is_none() {
                first = Some(last - started);
            }
            longest = longest.max(now - last);
            last = now;
        }
        (first.unwrap_or(last - started), longest)
    }
}

/// Runs `work` on a thread of its own in an exactly enforced reservation on a partition.
fn reserved<T: Send + 'static>(
    prepared: &Prepared,
    work: impl FnOnce(&mut Rig) -> T + Send + 'static,
) -> (T, Budgets) {
    reserved_as(Reservation::new(Q, P).unwrap(), prepared, work)
}

fn reserved_as<T: Send + 'static>(
    reservation: Reservation,
    prepared: &Prepared,
    work: impl FnOnce(&mut Rig) -> T + Send + 'static,
) -> (T, Budgets) {
    let request = VcpuRequest {
        reservation: Some(reservation),
        ..VcpuRequest::default()
    };
    let granted = Granted {
        vm: "exact".to_owned(),
        vcpu: 0,
        surplus: request.surplus(),
        request,
        placement: Placement::Partition {
            cpu: prepared.partition.cpu,
        },
        test: AdmissionTest::PartitionedEdf,
    };
    let worker = thread::spawn(move || {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGALRM);
        signals.thread_block().unwrap();
        let mut server = apply(Tid::current(), &granted).unwrap();
        let mut rig = Rig {
            timer: BudgetTimer::new(libc::SIGALRM, granted.surplus, 0).unwrap(),
            pending: SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK).unwrap(),
            account: Account::new(granted.request.reservation),
        };
        rig.timer.arm();
        let result = work(&mut rig);
        rig.timer.disarm();
        server.release().unwrap();
        (result, rig.account.snapshot().budgets.unwrap())
    });
    worker.join().unwrap()
}

#[test]
fn a_busy_thread_gets_its_budget_in_every_period_and_no_tick_more() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let (seen, account) = reserved(&prepared, |rig| {
        let (started, cpu) = (monotonic(), thread_cpu_time());
        let (_, longest_gap) = rig.spin(|| monotonic() - started > 50 * P);
        Seen {
            elapsed: monotonic() - started,
            consumed: thread_cpu_time() - cpu,
            longest_gap,
            least_first_supply: None,
        }
    });
    let share = seen.consumed.as_secs_f64() / seen.elapsed.as_secs_f64();
    assert!((0.248..0.258).contains(&share), "{seen:?} {account:?}");
    assert!(account.yields >= 48, "{account:?}");
    assert!(account.deviation.least_ns > -100_000, "{account:?}");
    assert_eq!(account.unreadable, 0);
    assert!(
        account.blackouts.median < P - Q + Duration::from_micros(300),
        "{account:?}"
    );
}

#[test]
fn a_thread_that_sleeps_is_never_robbed_of_the_budget_its_wake_up_began() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let (seen, account) = reserved(&prepared, |rig| {
        let mut seen = Seen::default();
        for round in 0..12u32 {
            // Use part of a budget, sleep past the deadline, then want a budget and a half at once.
            let part = Q * (3 + round % 6) / 10;
            let cpu = thread_cpu_time();
            let _ = rig.spin(|| thread_cpu_time() - cpu > part);
            thread::sleep(P + Duration::from_millis(10));
            let cpu = thread_cpu_time();
            let (first, longest) = rig.spin(|| thread_cpu_time() - cpu > Q * 3 / 2);
            let least = seen.least_first_supply.unwrap_or(first).min(first);
            seen.least_first_supply = Some(least);
            seen.longest_gap = seen.longest_gap.max(longest);
        }
        seen
    });
    let first = seen.least_first_supply.unwrap();
    assert!(first > Duration::from_millis(9), "{seen:?} {account:?}");
    assert!(
        seen.longest_gap < P - Q + Duration::from_millis(3),
        "{seen:?} {account:?}"
    );
}

#[test]
fn with_a_deadline_before_the_end_of_the_period_budgets_are_the_same() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let constrained = Reservation::new(Q, P).unwrap().with_deadline(P / 2);
    let (share, account) = reserved_as(constrained.unwrap(), &prepared, |rig| {
        let (started, cpu) = (monotonic(), thread_cpu_time());
        let _ = rig.spin(|| monotonic() - started > 50 * P);
        (thread_cpu_time() - cpu).as_secs_f64() / (monotonic() - started).as_secs_f64()
    });
    assert!((0.248..0.258).contains(&share), "{share} {account:?}");
    assert!(account.yields >= 48, "{account:?}");
    assert!(account.deviation.least_ns > -100_000, "{account:?}");
}

#[test]
fn a_budget_that_a_wake_up_before_the_deadline_has_cut_is_not_cut_again_by_the_whole_surplus() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    // Dense, so that the kernel's rule cuts: Q / D of the time to the deadline.
    let (runtime, deadline) = (Duration::from_millis(20), Duration::from_millis(25));
    let period = Duration::from_millis(50);
    let dense = Reservation::new(runtime, period).unwrap();
    let dense = dense.with_deadline(deadline).unwrap();
    let (shortfalls, account) = reserved_as(dense, &prepared, move |rig| {
        let mut shortfalls = Vec::new();
        for round in 0..12u32 {
            // A wake-up after the end of a period starts a new one.
            thread::sleep(2 * period);
            let released = monotonic();
            let pause = Duration::from_millis(11 + u64::from(round % 4));
            thread::sleep(pause);
            // The thread wakes with a budget for what is left; it is at least as much as without surplus.
            let woken = monotonic() - released;
            let (first, _) =
                rig.spin(|| monotonic() - released > period - Duration::from_millis(1));
            let due = deadline.saturating_sub(woken).mul_f64(0.8);
            shortfalls.push(due.saturating_sub(first));
        }
        shortfalls
    });
    // An interrupt or two. The whole surplus would be half a millisecond more than its part.
    let mut sorted = shortfalls.clone();
    sorted.sort_unstable();
    assert!(
        sorted[sorted.len() / 2] < Duration::from_micros(200),
        "{shortfalls:?} {account:?}"
    );
}

#[test]
fn a_late_expiry_is_counted_as_an_overrun_and_costs_no_further_period() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let (gap_after, account) = reserved(&prepared, |rig| {
        // Blind for two budgets: the kernel's backstop ends the first one meanwhile.
        let cpu = thread_cpu_time();
        while thread_cpu_time() - cpu < 2 * Q {
            std::hint::spin_loop();
        }
        let started = monotonic();
        rig.spin(|| monotonic() - started > 3 * P).1
    });
    assert!(account.overruns >= 1, "{account:?}");
    assert!(
        gap_after < P + Duration::from_millis(1),
        "a whole period was lost: {gap_after:?}"
    );
}

#[test]
fn an_adapted_reservation_moves_the_end_of_the_budget() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let ((), account) = reserved(&prepared, |rig| {
        let kernel = |runtime| sched::kernel::Policy::Deadline {
            runtime,
            deadline: P,
            period: P,
        };
        let surplus = Duration::from_millis(1);
        sched::kernel::set_policy(Tid::current(), kernel(2 * Q + surplus)).unwrap();
        rig.timer.adapt(surplus, 0).unwrap();
        rig.account.adapt(Reservation::new(2 * Q, P).unwrap());
        let started = monotonic();
        let _ = rig.spin(|| monotonic() - started > 10 * P);
    });
    let median = account.supplies.median;
    assert!(
        median >= 2 * Q && median < 2 * Q + Duration::from_millis(1),
        "{account:?}"
    );
}

#[test]
fn a_thread_without_a_reservation_cannot_have_a_budget_timer() {
    let made = BudgetTimer::new(libc::SIGALRM, Duration::from_millis(1), 0);
    assert!(matches!(
        made,
        Err(BudgetError::NoField | BudgetError::NoReservation { .. })
    ));
}

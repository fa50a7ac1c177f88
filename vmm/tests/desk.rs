//! The desk between a vCPU's thread and its owner, in every order in which the two can meet (loom, a model checker).

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

/// The very file of the monitor, on loom's atomics and locks.
#[path = "../src/desk.rs"]
mod desk;
mod sync {
    pub use loom::sync::Mutex;
    pub use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
    pub use std::sync::PoisonError;
}

use std::time::Duration;

use desk::{Desk, Order};
use loom::sync::Arc;
use loom::thread;
use sched::account::AccountSnapshot;
use sched::reservation::Reservation;

fn change(ms: u64) -> (Reservation, Duration) {
    let runtime = Duration::from_millis(ms);
    let period = Duration::from_millis(50);
    (Reservation::new(runtime, period).unwrap(), runtime / 10)
}

fn account(consumed: u64) -> AccountSnapshot {
    AccountSnapshot {
        reservation: None,
        consumed: Duration::from_millis(consumed),
        feedback: None,
        waited: None,
        budgets: None,
    }
}

#[test]
fn a_stop_is_not_taken_back_by_another_order() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(Order::Run));
        let other = Arc::clone(&desk);
        let stopping = thread::spawn(move || other.set(Order::Stop));
        desk.set(Order::Pause);
        let seen = desk.order();
        desk.set(Order::Run);
        assert!(seen != Order::Run);
        stopping.join().unwrap();
        assert_eq!(desk.order(), Order::Stop);
        desk.set(Order::Run);
        assert_eq!(desk.order(), Order::Stop);
    });
}

#[test]
fn the_last_of_several_changes_is_the_one_taken_over_whenever_the_thread_looks() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(Order::Run));
        let other = Arc::clone(&desk);
        let owner = thread::spawn(move || {
            for ms in [10, 20] {
                let (reservation, surplus) = change(ms);
                other.announce_change(reservation, surplus);
            }
        });
        let mut taken: Vec<_> = (0..2).filter_map(|_| desk.take_change()).collect();
        owner.join().unwrap();
        // The kick that follows a change makes the thread look again.
        taken.extend(desk.take_change());
        assert_eq!(taken.last(), Some(&change(20)));
        let runtimes: Vec<_> = taken.iter().map(|(taken, _)| taken.runtime()).collect();
        assert!(runtimes.is_sorted(), "{taken:?}");
        assert_eq!(desk.take_change(), None);
    });
}

#[test]
fn an_account_is_there_or_still_to_come_and_comes_at_the_next_exit_at_the_latest() {
    loom::model(|| {
        let desk = Arc::new(Desk::new(Order::Run));
        let other = Arc::clone(&desk);
        desk.ask_account();
        let exit = |desk: &Desk, consumed| {
            if desk.is_asked() {
                desk.leave(account(consumed));
            }
        };
        let vcpu = thread::spawn(move || exit(&other, 1));
        let (left, to_come) = desk.account();
        assert!(left.is_some() || to_come);
        vcpu.join().unwrap();
        // A try that failed, because the account was being read, is made again at the next exit.
        exit(&desk, 2);
        let (newest, to_come) = desk.account();
        assert!(newest.is_some() && !to_come, "{newest:?}");
        desk.ask_account();
        exit(&desk, 3);
        assert_eq!(desk.account(), (Some(account(3)), false));
    });
}

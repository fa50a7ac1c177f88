//! The desk between a vCPU's thread and its owner: orders one way, accounts the other.
//!
//! The vCPU's thread never waits here: orders are an atomic, and it only tries the locks.

use std::time::Duration;

use sched::account::AccountSnapshot;
use sched::reservation::Reservation;

use super::sync::{AtomicBool, AtomicU8, Mutex, Ordering, PoisonError};

/// What the owner wants of all vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Run the guest.
    Run,
    /// Stand still, and take commands.
    Pause,
    /// End.
    Stop,
}

/// What owner and vCPU thread share.
#[derive(Debug)]
pub struct Desk {
    order: AtomicU8,
    /// The owner wants a fresh account.
    asked: AtomicBool,
    /// There is something in `change`.
    changed: AtomicBool,
    /// The reservation now in force and its surplus, changed from outside. Like `account`, only tried by the thread.
    change: Mutex<Option<(Reservation, Duration)>>,
    /// The vCPU thread only ever tries this lock: it never waits for a thread that is not real-time.
    account: Mutex<Option<AccountSnapshot>>,
}

impl Desk {
    /// A desk with this order on it.
    #[must_use]
    pub fn new(order: Order) -> Self {
        Self {
            order: AtomicU8::new(order as u8),
            asked: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            change: Mutex::new(None),
            account: Mutex::new(None),
        }
    }

    /// Changes the order; the thread sees it when KVM_RUN ends, so kick it. [`Order::Stop`] is final.
    pub fn set(&self, order: Order) {
        let unless_stopped = |old| (old != Order::Stop as u8).then_some(order as u8);
        // An error says that it was stopped before.
        let _ = self
            .order
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, unless_stopped);
    }

    /// The order.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::Acquire) {
            0 => Order::Run,
            1 => Order::Pause,
            _ => Order::Stop,
        }
    }

    /// Asks for a fresh account; it is there some time after a kick.
    pub fn ask_account(&self) {
        self.asked.store(true, Ordering::Release);
    }

    /// Tells the thread which reservation is in force now, with which surplus; it takes over after a kick.
    pub fn announce_change(&self, reservation: Reservation, surplus: Duration) {
        let mut slot = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        *slot = Some((reservation, surplus));
        // Under the lock, as where it is reset: flag and slot never disagree.
        self.changed.store(true, Ordering::Release);
    }

    /// The change to take over, if there is one and nobody is writing it at this moment.
    pub fn take_change(&self) -> Option<(Reservation, Duration)> {
        if !self.changed.load(Ordering::Acquire) {
            return None;
        }
        let mut slot = self.change.try_lock().ok()?;
        self.changed.store(false, Ordering::Release);
        slot.take()
    }

    /// Whether the owner waits for an account.
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Acquire)
    }

    /// Leaves an account, unless somebody is reading the last one at this moment.
    pub fn leave(&self, account: AccountSnapshot) {
        if let Ok(mut slot) = self.account.try_lock() {
            *slot = Some(account);
            self.asked.store(false, Ordering::Release);
        }
    }

    /// The newest account, and whether it is still to come.
    #[must_use]
    pub fn account(&self) -> (Option<AccountSnapshot>, bool) {
        let pending = self.asked.load(Ordering::Acquire);
        let account = self.account.lock().unwrap_or_else(PoisonError::into_inner);
        (account.clone(), pending)
    }
}

//! The spin lock that tasks share: a ticket lock, so that it is got in the order of asking.
//!
//! Tickets: Reed and Kanodia, "Synchronization with eventcounts and sequencers", CACM 1979. There is no `pause`: on some
//! hosts enough of them make the processor leave the guest, and what is to be seen is the time that is spun away.

use core::sync::atomic::{AtomicU64, Ordering};

/// On a cache line of its own: those that wait read `served` only.
#[repr(align(64))]
struct Line(AtomicU64);

/// A lock, and a counter that it protects.
pub struct TicketLock {
    next: Line,
    served: Line,
    sections: Line,
}

/// The one lock.
pub static LOCK: TicketLock = TicketLock {
    next: Line(AtomicU64::new(0)),
    served: Line(AtomicU64::new(0)),
    sections: Line(AtomicU64::new(0)),
};

impl TicketLock {
    /// Asks for the lock.
    pub fn ask(&self) -> u64 {
        self.next.0.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether it is this ticket's turn.
    pub fn is_given_to(&self, ticket: u64) -> bool {
        self.served.0.load(Ordering::Acquire) == ticket
    }

    /// Critical sections before this one; by the one whose turn it is.
    pub fn sections(&self) -> u64 {
        self.sections.0.load(Ordering::Relaxed)
    }

    /// Gives the lock back after the section that found `before` others. Not an atomic increment: were two at it at the
    /// same time, one would get lost.
    pub fn give_back(&self, ticket: u64, before: u64) {
        self.sections.0.store(before + 1, Ordering::Relaxed);
        self.served.0.store(ticket + 1, Ordering::Release);
    }
}

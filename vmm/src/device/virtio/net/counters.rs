//! What passed, what waited and what was lost, counted where it happened.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// A counter that one thread counts and any thread reads.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        // Only the device's thread counts: no read-modify-write is needed.
        let now = self.0.load(Ordering::Relaxed);
        self.0.store(now.wrapping_add(count), Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counted by the device's thread.
#[derive(Debug, Default)]
pub struct Counters {
    pub(super) received: Counter,
    pub(super) received_bytes: Counter,
    pub(super) sent: Counter,
    pub(super) sent_bytes: Counter,
    pub(super) interrupts: Counter,
    pub(super) wakes: Counter,
    pub(super) used_up: Counter,
    pub(super) consumed: Counter,
    pub(super) waits_for_buffers: Counter,
    pub(super) waits_for_tap: Counter,
    pub(super) too_long: Counter,
    pub(super) refused: Counter,
    pub(super) tap_errors: Counter,
    pub(super) faults: Counter,
}

/// The counters at one time. Directions are the guest's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCounters {
    /// Frames that the guest received; with offloads, one may be a whole train of packets.
    pub received: u64,
    /// Their bytes, from the Ethernet header on.
    pub received_bytes: u64,
    /// Frames that the guest sent.
    pub sent: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Interrupts.
    pub interrupts: u64,
    /// How often the device's thread was woken.
    pub wakes: u64,
    /// CPU time of the device's thread, in nanoseconds; none for one without a reservation.
    pub consumed: u64,
    /// How often its budget was used up: frames waited for the next one.
    pub used_up: u64,
    /// How often frames were left in the tap because the guest had no buffers for them: back pressure, no loss.
    pub waits_for_buffers: u64,
    /// How often the guest's frames were left in its queue because the tap was full: back pressure, no loss.
    pub waits_for_tap: u64,
    /// Frames lost because they were longer than all buffers that the guest ever made available, or than the one that each
    /// may have.
    pub too_long: u64,
    /// Frames of the guest lost because they were none, or because the kernel did not take them.
    pub refused: u64,
    /// Failures to read from the tap.
    pub tap_errors: u64,
    /// How often the guest's queues made no sense, so that the device stopped until it was reset.
    pub faults: u64,
}

impl Counters {
    /// The counters now.
    #[must_use]
    pub fn now(&self) -> NetworkCounters {
        NetworkCounters {
            received: self.received.get(),
            received_bytes: self.received_bytes.get(),
            sent: self.sent.get(),
            sent_bytes: self.sent_bytes.get(),
            interrupts: self.interrupts.get(),
            wakes: self.wakes.get(),
            used_up: self.used_up.get(),
            consumed: self.consumed.get(),
            waits_for_buffers: self.waits_for_buffers.get(),
            waits_for_tap: self.waits_for_tap.get(),
            too_long: self.too_long.get(),
            refused: self.refused.get(),
            tap_errors: self.tap_errors.get(),
            faults: self.faults.get(),
        }
    }
}

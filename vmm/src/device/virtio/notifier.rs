//! A device's interrupt line, and the events behind it.
//!
//! The guest acknowledges without an exit: KVM holds the write back until the next exit (coalesced MMIO), which must not
//! make an event vanish that came after what was acknowledged. So an event is fresh until the guest has been shown it, and
//! an acknowledgement takes away what was shown. A guest that acknowledges without looking has no use for either.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::Fault;

/// The interrupt's reason: buffers were used.
pub const USED_BUFFER: u32 = 1;
/// The interrupt's reason: the configuration, or the status, has changed.
pub const CONFIGURATION: u32 = 2;

/// Shared by a device's transport, its thread and the I/O APIC.
#[derive(Debug)]
pub struct Notifier {
    line: EventFd,
    fresh: AtomicU32,
    shown: AtomicU32,
    needs_reset: AtomicBool,
    /// Number of the fault that stopped the device last.
    fault: AtomicU8,
    /// Whether it has not been told yet.
    is_news: AtomicBool,
}

impl Notifier {
    /// A line that is down.
    ///
    /// # Errors
    /// If no eventfd can be had.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            line: EventFd::new(EFD_NONBLOCK)?,
            fresh: AtomicU32::new(0),
            shown: AtomicU32::new(0),
            needs_reset: AtomicBool::new(false),
            fault: AtomicU8::new(0),
            is_news: AtomicBool::new(false),
        })
    }

    /// What KVM takes as the interrupt (irqfd).
    #[must_use]
    pub fn line(&self) -> &EventFd {
        &self.line
    }

    /// Something happened: interrupts the guest.
    pub fn raise(&self, events: u32) {
        self.fresh.fetch_or(events, Ordering::AcqRel);
        self.signal();
    }

    /// Interrupts the guest once more.
    pub fn signal(&self) {
        // Fails only when it has been signalled 2^64 - 2 times and nobody has looked: it is up then.
        let _ = self.line.write(1);
    }

    /// Whether there are events that the guest has not acknowledged.
    #[must_use]
    pub fn is_up(&self) -> bool {
        (self.fresh.load(Ordering::Acquire) | self.shown.load(Ordering::Acquire)) != 0
    }

    /// Shows the guest the events. Called from vCPU threads, one at a time.
    #[must_use]
    pub fn show(&self) -> u32 {
        let fresh = self.fresh.swap(0, Ordering::AcqRel);
        self.shown.fetch_or(fresh, Ordering::AcqRel) | fresh
    }

    /// The guest acknowledges events.
    pub fn acknowledge(&self, events: u32) {
        let shown = self.shown.fetch_and(!events, Ordering::AcqRel);
        // Acknowledged without a look: by a guest that goes by the interrupt alone.
        self.fresh.fetch_and(!(events & !shown), Ordering::AcqRel);
    }

    /// Stops the device until it is reset, and tells the guest.
    pub fn fail(&self, fault: Fault) {
        self.fault.store(fault as u8, Ordering::Relaxed);
        self.is_news.store(true, Ordering::Release);
        if !self.needs_reset.swap(true, Ordering::AcqRel) {
            self.raise(CONFIGURATION);
        }
    }

    /// Whether the device has stopped until it is reset.
    #[must_use]
    pub fn needs_reset(&self) -> bool {
        self.needs_reset.load(Ordering::Acquire)
    }

    /// The fault for which the device has stopped; not known of one that was taken up.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        let number = self.fault.load(Ordering::Relaxed);
        Fault::numbered(number).filter(|_| self.needs_reset())
    }

    /// The last fault, once.
    #[must_use]
    pub fn take_fault(&self) -> Option<Fault> {
        let is_news = self.is_news.swap(false, Ordering::AcqRel);
        Fault::numbered(self.fault.load(Ordering::Relaxed)).filter(|_| is_news)
    }

    /// The device is reset.
    pub fn reset(&self) {
        self.fresh.store(0, Ordering::Release);
        self.shown.store(0, Ordering::Release);
        self.needs_reset.store(false, Ordering::Release);
    }

    /// Events and whether the device has stopped, to be saved.
    #[must_use]
    pub fn state(&self) -> (u32, bool) {
        let events = self.fresh.load(Ordering::Acquire) | self.shown.load(Ordering::Acquire);
        (events, self.needs_reset())
    }

    /// Takes up what was saved. A message that was under way may be lost: whoever lets the guest run signals what is up.
    pub fn restore(&self, (events, needs_reset): (u32, bool)) {
        self.shown.store(0, Ordering::Release);
        self.fresh.store(events, Ordering::Release);
        self.needs_reset.store(needs_reset, Ordering::Release);
    }

    /// Whether it was signalled since the last call, where KVM does not take the signals.
    #[cfg(test)]
    pub fn take_signal(&self) -> bool {
        self.line.read().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acknowledgement_that_comes_late_takes_no_newer_event_away() {
        let notifier = Notifier::new().unwrap();
        notifier.raise(USED_BUFFER);
        assert_eq!(notifier.show(), USED_BUFFER);
        // The guest has acknowledged, KVM holds it back, and meanwhile:
        notifier.raise(USED_BUFFER);
        notifier.acknowledge(USED_BUFFER);
        assert_eq!(notifier.show(), USED_BUFFER);
        notifier.acknowledge(USED_BUFFER);
        assert_eq!(notifier.show(), 0);
        assert!(!notifier.is_up());
    }

    #[test]
    fn a_guest_that_never_looks_lowers_its_line_by_acknowledging() {
        let notifier = Notifier::new().unwrap();
        notifier.raise(USED_BUFFER);
        notifier.acknowledge(USED_BUFFER);
        assert!(!notifier.is_up());
    }

    #[test]
    fn a_fault_is_told_once_and_the_guest_is_interrupted_once() {
        let notifier = Notifier::new().unwrap();
        notifier.fail(Fault::Chain);
        notifier.fail(Fault::Chain);
        assert_eq!(notifier.line.read().unwrap(), 1);
        assert_eq!(notifier.take_fault(), Some(Fault::Chain));
        assert_eq!(notifier.take_fault(), None);
        assert!(notifier.needs_reset());
        assert_eq!(notifier.fault(), Some(Fault::Chain));
        notifier.reset();
        assert!(!notifier.needs_reset() && !notifier.is_up());
        assert_eq!(notifier.fault(), None);
    }
}

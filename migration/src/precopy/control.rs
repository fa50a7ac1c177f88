//! What the streams' threads and the one that directs them share: the brake, the counters, the pace.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use units::BitRate;

use super::{Pacer, PrecopyError, PrecopySettings, on_the_wire};
use crate::transport::{Breaker, Framed};

/// How often progress is reported and a cancellation noticed, at least.
pub(super) const ATTENTION: Duration = Duration::from_millis(20);

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The round, from 0.
    pub round: u32,
    /// Pages sent in it.
    pub pages: u64,
    /// Pages that it has to send.
    pub of: u64,
    /// Bytes sent for them, as the transport got them.
    pub bytes: u64,
    /// Since it began.
    pub elapsed: Duration,
}

impl Progress {
    /// Bytes per second, on the average since the round began.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[allow(clippy::cast_precision_loss, reason = "a rate to show")]
        let bytes = self.bytes as f64;
        bytes / self.elapsed.as_secs_f64().max(1e-9)
    }
}

/// What the streams' threads and the one that directs them share.
pub(super) struct Shared {
    cancelled: AtomicBool,
    pages: AtomicU64,
    bytes: AtomicU64,
    pacer: Mutex<Pacer>,
    begun: Instant,
}

impl Shared {
    pub(super) fn new(settings: &PrecopySettings) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            pages: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            pacer: Mutex::new(Pacer::new(settings.rate, settings.period)),
            begun: Instant::now(),
        }
    }

    pub(super) fn set_rate(&self, rate: Option<BitRate>) {
        let mut pacer = self.pacer.lock().unwrap_or_else(PoisonError::into_inner);
        pacer.set_rate(self.begun.elapsed(), rate);
    }

    pub(super) fn count(&self, pages: u64, bytes: u64) {
        self.pages.fetch_add(pages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Waits until so many more bytes may go out.
    pub(super) fn pace(&self, bytes: usize) -> Result<(), PrecopyError> {
        let booked = {
            let mut pacer = self.pacer.lock().unwrap_or_else(PoisonError::into_inner);
            pacer.book(self.begun.elapsed(), on_the_wire(bytes))
        };
        loop {
            if self.cancelled() {
                return Err(PrecopyError::Cancelled);
            }
            let left = booked.saturating_sub(self.begun.elapsed());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(ATTENTION));
        }
    }
}

/// Stops a pre-copy from another thread, at any time: whatever it waits for ends at once with [`PrecopyError::Cancelled`].
#[derive(Clone)]
pub struct Canceller {
    pub(super) shared: Arc<Shared>,
    breakers: Arc<Vec<Breaker>>,
}

impl Canceller {
    pub(super) fn new(shared: Arc<Shared>, streams: &[Framed]) -> Result<Self, PrecopyError> {
        let breakers: Result<Vec<_>, _> = streams.iter().map(Framed::breaker).collect();
        Ok(Self {
            shared,
            breakers: Arc::new(breakers?),
        })
    }

    /// Stops it. The streams are of no use afterwards.
    pub fn cancel(&self) {
        self.shared.cancelled.store(true, Ordering::Relaxed);
        self.breakers.iter().for_each(Breaker::cut);
    }
}

/// Measures a round, and tells whoever wants to know.
pub(super) struct Meter<'a> {
    shared: Arc<Shared>,
    round: u32,
    of: u64,
    pages_before: u64,
    bytes_before: u64,
    begun: Instant,
    report: &'a mut dyn FnMut(&Progress),
}

impl<'a> Meter<'a> {
    pub(super) fn new(
        shared: Arc<Shared>,
        round: u32,
        of: u64,
        report: &'a mut dyn FnMut(&Progress),
    ) -> Self {
        Self {
            pages_before: shared.pages.load(Ordering::Relaxed),
            bytes_before: shared.bytes.load(Ordering::Relaxed),
            shared,
            round,
            of,
            begun: Instant::now(),
            report,
        }
    }

    pub(super) fn tell(&self) -> Progress {
        Progress {
            round: self.round,
            pages: self.shared.pages.load(Ordering::Relaxed) - self.pages_before,
            of: self.of,
            bytes: self.shared.bytes.load(Ordering::Relaxed) - self.bytes_before,
            elapsed: self.begun.elapsed(),
        }
    }

    pub(super) fn report(&mut self) {
        let progress = self.tell();
        (self.report)(&progress);
    }
}

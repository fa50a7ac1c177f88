//! When to look at the dirty log, so that watching costs no more than it may.

use std::time::Duration;

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Wait so long without clearing anything: pages that are dirty already cost the guest nothing.
    pub pause: Duration,
    /// Then clear what is dirty, wait so long, and look.
    pub window: Duration,
}

/// Windows of several lengths in turn, with pauses between them. A window costs the guest a fault for each page that is dirty at its end; the
/// pause after it is so long that faults take no more than a given share of the guest's time.
#[derive(Debug, Clone)]
pub struct Sampling {
    share: f64,
    tracked_write: Duration,
    next: usize,
}

/// Lengths of windows: one for each kind that the estimator tells apart.
const WINDOWS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(500),
    Duration::from_millis(16),
    Duration::from_millis(100),
];

impl Sampling {
    /// Faults of `tracked_write` each may take `share` (above 0, at most 1) of the guest's time.
    #[must_use]
    pub fn new(share: f64, tracked_write: Duration) -> Self {
        Self {
            share: share.clamp(1e-6, 1.0),
            tracked_write,
            next: 0,
        }
    }

    /// The next window, after one of `window` in which `dirty` pages were written; zeroes before the first.
    pub fn next(&mut self, window: Duration, dirty: u64) -> Step {
        let cost = self.tracked_write.as_secs_f64() * dirty as f64;
        let pause = super::distribution::duration(cost / self.share).saturating_sub(window);
        let step = Step {
            pause,
            window: WINDOWS[self.next],
        };
        self.next = (self.next + 1) % WINDOWS.len();
        step
    }
}

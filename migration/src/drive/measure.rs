//! What a session takes: pages, bytes, and the steps of the switch-over in time.

use std::time::{Duration, Instant};

use crate::precopy::Progress;

/// What a source can tell of its session while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measured {
    /// A round is on its way; told while bytes go out.
    Sending(Progress),
    /// A round was sent; the last one is told when the session is over.
    Round(Progress),
    /// The guest was paused, and the session is over.
    SwitchOver(SwitchOver),
}

/// When the steps of a switch-over were done, counted from the order to pause the guest. What was not reached is not there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SwitchOver {
    /// The guest stands.
    pub stands: Option<Duration>,
    /// Its state is saved.
    pub saved: Option<Duration>,
    /// The last page and the state were given to the network.
    pub last_sent: Option<Duration>,
    /// The destination has said that it is complete.
    pub prepared: Option<Duration>,
    /// The destination has said that the guest runs: the downtime, as far as the two processes know it.
    pub running: Option<Duration>,
    /// The guest goes on here.
    pub resumed: Option<Duration>,
}

/// Takes the times of a switch-over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch {
    begun: Instant,
    pub(super) so_far: SwitchOver,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        Self {
            begun: Instant::now(),
            so_far: SwitchOver::default(),
        }
    }

    /// A step is done; only its first time counts.
    pub(super) fn done(&mut self, step: impl FnOnce(&mut SwitchOver) -> &mut Option<Duration>) {
        let elapsed = self.begun.elapsed();
        step(&mut self.so_far).get_or_insert(elapsed);
    }
}

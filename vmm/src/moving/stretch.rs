//! A fault that can be switched on: a guest that has come stands until a given time has passed since it was saved, as over a network that is
//! slow at the wrong moment. What is promised for a pause can be tried so, however short pauses are.

use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use migration::ram::Part;

use crate::guest::MoveError;
use crate::snapshot;

/// How long a guest is to stand, and since when it does.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    length: Option<Duration>,
    saved: Option<SystemTime>,
}

impl Stretch {
    /// For `length` in all; as long as it takes where nothing is said.
    pub(super) fn new(length: Option<Duration>) -> Self {
        Self {
            length,
            saved: None,
        }
    }

    /// Notes when the guest that came was saved.
    ///
    /// # Errors
    /// When that cannot be read.
    pub(super) fn saved(&mut self, parts: &[Part]) -> Result<(), MoveError> {
        if self.length.is_some() {
            let state = snapshot::from_parts(parts)?;
            self.saved = Some(UNIX_EPOCH + Duration::from_nanos(state.clock.wall_ns));
        }
        Ok(())
    }

    /// Waits until the guest may go on. The hosts' wall clocks are taken to agree.
    pub(super) fn wait(&self) {
        // Not awake: that would use up the budget in which the guest is let go.
        if let Some(rest) = self.rest(SystemTime::now()) {
            thread::sleep(rest);
        }
    }

    fn rest(&self, now: SystemTime) -> Option<Duration> {
        let until = self.saved? + self.length?;
        until
            .duration_since(now)
            .ok()
            .filter(|rest| !rest.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_waits_for_what_is_left_since_it_was_saved_and_for_nothing_unless_asked_to() {
        let saved = UNIX_EPOCH + Duration::from_secs(9);
        let stretch = |length| Stretch {
            length,
            saved: Some(saved),
        };
        let ms = Duration::from_millis;
        let twenty = stretch(Some(ms(20)));
        assert_eq!(twenty.rest(saved + ms(5)), Some(ms(15)));
        assert_eq!(twenty.rest(saved + ms(20)), None);
        assert_eq!(twenty.rest(saved + ms(25)), None);
        assert_eq!(stretch(None).rest(saved), None);
    }
}

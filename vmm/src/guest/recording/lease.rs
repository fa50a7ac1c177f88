//! How long something goes on of which nobody asks any more how it goes.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Runs out when it has not been renewed for some time.
#[derive(Debug)]
pub(super) struct Lease {
    length: Duration,
    renewed: Mutex<Instant>,
}

/// It has run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody has asked for {length:?} how it goes; whoever wants it has to ask more often")]
pub(super) struct RanOut {
    length: Duration,
}

impl Lease {
    /// Of this length, renewed now.
    pub(super) fn new(length: Duration, now: Instant) -> Self {
        Self {
            length,
            renewed: Mutex::new(now),
        }
    }

    /// Begins anew.
    pub(super) fn renew(&self, now: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// # Errors
    /// When it has run out.
    pub(super) fn check(&self, now: Instant) -> Result<(), RanOut> {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(renewed) < self.length {
            return Ok(());
        }
        Err(RanOut {
            length: self.length,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_lasts_its_length_from_its_last_renewal() {
        let (begun, second) = (Instant::now(), Duration::from_secs(1));
        let lease = Lease::new(second * 30, begun);
        assert_eq!(lease.check(begun + second * 29), Ok(()));
        lease.renew(begun + second * 29);
        assert_eq!(lease.check(begun + second * 58), Ok(()));
        let error = lease.check(begun + second * 59).unwrap_err();
        assert_eq!(
            error.to_string(),
            "nobody has asked for 30s how it goes; whoever wants it has to ask more often"
        );
    }
}

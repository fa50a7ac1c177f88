//! When a sender at a constant rate sends: pure.

use std::time::Duration;

use vmm::units::BitRate;

/// A sender that was kept from the CPU for longer than this gives up what it missed: a flood afterwards would be a
/// burst that nobody asked for.
const CATCH_UP: Duration = Duration::from_millis(20);

/// Sends of equal size at a constant rate.
#[derive(Clone, Debug)]
pub struct Pace {
    /// Sends per second.
    frequency: f64,
    /// Sends that were due by now, those given up included.
    accounted: u64,
}

impl Pace {
    /// Sends of `bits` bits at `rate`.
    pub fn new(rate: BitRate, bits: u64) -> Self {
        Self {
            frequency: rate.bits_per_second() as f64 / bits.max(1) as f64,
            accounted: 0,
        }
    }

    /// How many sends are due `elapsed` after the beginning, beyond those it answered before.
    pub fn due(&mut self, elapsed: Duration) -> u64 {
        let due = whole(self.frequency * elapsed.as_secs_f64());
        let waiting = due.saturating_sub(self.accounted);
        self.accounted = self.accounted.max(due);
        waiting.min(whole(self.frequency * CATCH_UP.as_secs_f64()) + 1)
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and what exceeds 64 bits becomes the greatest"
)]
fn whole(value: f64) -> u64 {
    value.max(0.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sender_that_looks_often_sends_at_its_rate(
            rate in 1_000_000u64..10_000_000_000,
            bits in 1_000u64..600_000,
            steps in prop::collection::vec(1u64..15_000, 1..200),
        ) {
            let mut pace = Pace::new(BitRate::new(rate), bits);
            let (mut elapsed, mut sent) = (Duration::ZERO, 0);
            for step in steps {
                elapsed += Duration::from_micros(step);
                sent += pace.due(elapsed);
            }
            let meant = rate as f64 * elapsed.as_secs_f64() / bits as f64;
            prop_assert!((sent as f64 - meant).abs() <= 1.0 + meant * 1e-6, "{sent} for {meant}");
        }

        #[test]
        fn nobody_sends_more_than_a_burst_after_a_pause(
            rate in 1_000_000u64..10_000_000_000,
            pause in 20u64..100_000,
        ) {
            let mut pace = Pace::new(BitRate::new(rate), 10_000);
            let burst = pace.due(Duration::from_millis(pause));
            prop_assert!(burst as f64 <= rate as f64 / 10_000.0 * 0.02 + 1.0);
            prop_assert_eq!(pace.due(Duration::from_millis(pause)), 0);
        }
    }
}

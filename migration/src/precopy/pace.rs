//! Pacing: bytes go out no faster than reserved, in pieces so small that nobody else on the link waits long.
//!
//! A token bucket, written as the generic cell rate algorithm (ITU-T I.371, virtual scheduling): it remembers one instant, at which everything sent so far
//! would be through at the reserved rate, and lets bytes go as long as that instant is at most one period ahead. Time is an argument.

use std::time::Duration;

use units::BitRate;

/// Decides when bytes may go out.
#[derive(Debug, Clone)]
pub struct Pacer {
    rate: Option<BitRate>,
    period: Duration,
    /// When everything booked so far is through.
    through: Duration,
}

impl Pacer {
    /// A pacer that lets a period's worth of bytes go at once; without a rate everything goes at once.
    #[must_use]
    pub fn new(rate: Option<BitRate>, period: Duration) -> Self {
        Self {
            rate: rate.filter(|rate| rate.bits_per_second() > 0),
            period,
            through: Duration::ZERO,
        }
    }

    /// From now on another rate; what was booked stays booked.
    pub fn set_rate(&mut self, now: Duration, rate: Option<BitRate>) {
        self.rate = rate.filter(|rate| rate.bits_per_second() > 0);
        // What is ahead was counted at the old rate: at most a period, as the instants of before were kept.
        self.through = self.through.min(now + self.period);
    }

    /// Books so many bytes; when they may go. Bookings are served in their order.
    pub fn book(&mut self, now: Duration, bytes: u64) -> Duration {
        let Some(rate) = self.rate else { return now };
        let begin = self.through.max(now);
        self.through = begin + time_of(bytes, rate);
        begin.saturating_sub(self.period).max(now)
    }

    /// Most bytes that should be booked together: half a period's, so that pieces of several streams mix. None without a rate.
    #[must_use]
    pub fn piece(rate: Option<BitRate>, period: Duration) -> Option<usize> {
        let rate = rate.filter(|rate| rate.bits_per_second() > 0)?;
        let bits = u128::from(rate.bits_per_second()) * period.as_nanos() / 1_000_000_000;
        Some(usize::try_from(bits / 16).unwrap_or(usize::MAX))
    }
}

/// How long bytes take at a rate, rounded up.
fn time_of(bytes: u64, rate: BitRate) -> Duration {
    let nanoseconds =
        (u128::from(bytes) * 8_000_000_000).div_ceil(u128::from(rate.bits_per_second()));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Bytes on the link for so many given to the transport: a TLS record has 22 more for 16 KiB, and a packet carries 1448 of its 1514 bytes (Ethernet,
/// IPv4, TCP with timestamps). With larger packets it is less; then the pace is a little slower than it might be.
#[must_use]
pub fn on_the_wire(bytes: usize) -> u64 {
    let bytes = bytes as u64;
    let with_records = bytes + bytes.div_ceil(16 << 10) * 22;
    with_records + with_records.div_ceil(1448) * 66
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bookings() -> impl Strategy<Value = Vec<(u64, u64)>> {
        // (nanoseconds since the one before, bytes)
        proptest::collection::vec(
            (prop_oneof![Just(0), 0u64..10_000_000], 1u64..100_000),
            1..60,
        )
    }

    proptest! {
        #[test]
        fn in_no_interval_goes_more_than_the_rate_and_a_period_allow(
            bookings in bookings(), mbit in 1u64..100_000, period_us in 0u64..10_000,
        ) {
            let rate = BitRate::new(mbit * 1_000_000);
            let period = Duration::from_micros(period_us);
            let mut pacer = Pacer::new(Some(rate), period);
            let mut now = Duration::ZERO;
            let mut sent: Vec<(Duration, u64)> = Vec::new();
            for (later, bytes) in bookings {
                now += Duration::from_nanos(later);
                let at = pacer.book(now, bytes);
                prop_assert!(at >= now);
                prop_assert!(sent.last().is_none_or(|last| last.0 <= at), "in their order");
                sent.push((at, bytes));
            }
            for (first, from) in sent.iter().enumerate() {
                let mut total = 0;
                for (at, bytes) in &sent[first..] {
                    // The last piece may be under way.
                    let allowed = (*at - from.0 + period).as_nanos() * u128::from(rate.bits_per_second()) / 8_000_000_000;
                    prop_assert!(u128::from(total) <= allowed + 1, "{total} bytes before {at:?}, allowed are {allowed}");
                    total += bytes;
                }
            }
        }

        #[test]
        fn whoever_always_has_bytes_gets_the_whole_rate(pieces in proptest::collection::vec(1u64..100_000, 1..60), mbit in 1u64..10_000) {
            let rate = BitRate::new(mbit * 1_000_000);
            let period = Duration::from_millis(2);
            let mut pacer = Pacer::new(Some(rate), period);
            let mut now = Duration::ZERO;
            for &bytes in &pieces {
                now = pacer.book(now, bytes);
            }
            let before: u64 = pieces[..pieces.len() - 1].iter().sum();
            let least = time_of(before, rate) + Duration::from_nanos(pieces.len() as u64);
            prop_assert!(now <= least, "{now:?} for {before} bytes, {least:?} would do");
        }

        #[test]
        fn a_new_rate_holds_from_now_on(bytes in 1u64..10_000_000, now_us in 0u64..1_000_000) {
            let mut pacer = Pacer::new(Some(BitRate::new(1_000_000)), Duration::from_millis(2));
            pacer.book(Duration::ZERO, bytes);
            let now = Duration::from_micros(now_us);
            pacer.set_rate(now, Some(BitRate::new(1_000_000_000)));
            prop_assert!(pacer.book(now, 1500) <= now, "what was booked at the slow rate does not hold the fast one up");
        }
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        for rate in [None, Some(BitRate::new(0))] {
            let mut pacer = Pacer::new(rate, Duration::from_millis(2));
            let now = Duration::from_secs(1);
            for _ in 0..10 {
                assert_eq!(pacer.book(now, u64::from(u32::MAX)), now);
            }
        }
    }

    #[test]
    fn packets_and_records_count() {
        assert_eq!(on_the_wire(0), 0);
        assert_eq!(on_the_wire(1), 1 + 22 + 66);
        let mebibyte = on_the_wire(1 << 20);
        assert!((1_096_000..1_102_000).contains(&mebibyte), "{mebibyte}");
    }
}

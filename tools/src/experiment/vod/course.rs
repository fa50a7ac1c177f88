//! One stream, as it left its sender and as it arrived: loss, jitter, and how regularly its frames came. No clock, no
//! socket: packets come with the times at which they were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::Serialize;

use super::rtp::{Header, Position, Unwrapping, seconds};

/// A packet, and when it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What its header says.
    pub header: Header,
    /// When.
    pub at: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Placed {
    position: Position,
    at: Duration,
}

/// A stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Course {
    sent: Vec<Placed>,
    received: Vec<Placed>,
}

/// A frame that arrived.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame {
    /// When its last packet did.
    pub at: Duration,
    /// By how many seconds the time since the frame before differs from what their timestamps say. Positive: it was late.
    /// From the last packet of one that arrived to the last of the other, for a frame can be shown when it is complete. This is
    /// what the scenario's "jitter within 20 ms" is held against: the paper (Duran-Limon et al.) gives the range without a
    /// definition. RFC 3550's interarrival jitter, a mean over packets, is told beside it.
    pub deviation: f64,
}

/// How a stream went in a stretch of time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Packets sent in it.
    pub sent: usize,
    /// Of these, those that arrived.
    pub received: usize,
    /// The least and the greatest deviation of a frame's spacing, in ms.
    pub deviation_ms: Option<(f64, f64)>,
    /// Frames that arrived.
    pub frames: usize,
    /// Of these, those whose deviation was within the bound.
    pub within: usize,
    /// The greatest interarrival jitter (RFC 3550, 6.4.1), in ms.
    pub jitter_ms: f64,
}

impl Figures {
    /// The part of the packets sent that did not arrive.
    pub fn loss(&self) -> f64 {
        match self.sent {
            0 => 0.0,
            sent => 1.0 - self.received as f64 / sent as f64,
        }
    }

    /// The part of the frames whose deviation was within the bound.
    pub fn share_within(&self) -> f64 {
        match self.frames {
            0 => 0.0,
            frames => self.within as f64 / frames as f64,
        }
    }

    /// Several streams together.
    pub fn sum(all: &[Self]) -> Self {
        let ranges = || all.iter().filter_map(|one| one.deviation_ms);
        let least = ranges().map(|range| range.0).reduce(f64::min);
        let most = ranges().map(|range| range.1).reduce(f64::max);
        Self {
            sent: all.iter().map(|one| one.sent).sum(),
            received: all.iter().map(|one| one.received).sum(),
            deviation_ms: least.zip(most),
            frames: all.iter().map(|one| one.frames).sum(),
            within: all.iter().map(|one| one.within).sum(),
            jitter_ms: all.iter().map(|one| one.jitter_ms).fold(0.0, f64::max),
        }
    }
}

fn placed(seen: &[Seen], mut unwrapping: Unwrapping) -> Vec<Placed> {
    let place = |seen: &Seen| Placed {
        position: unwrapping.position(&seen.header),
        at: seen.at,
    };
    seen.iter().map(place).collect()
}

impl Course {
    /// From what was seen at both ends, each in the order in which it was seen there.
    pub fn new(sent: &[Seen], received: &[Seen]) -> Self {
        let sent = placed(sent, Unwrapping::default());
        let unwrapping = sent.first().map_or_else(Unwrapping::default, |first| {
            Unwrapping::after(first.position)
        });
        Self {
            received: placed(received, unwrapping),
            sent,
        }
    }

    /// How it went in `window`; a deviation within `bound` is within the bound.
    pub fn figures(&self, window: &Range<Duration>, bound: Duration) -> Figures {
        let (sent, received) = self.counts(window);
        let deviations: Vec<f64> = self.frames(window).map(|frame| frame.deviation).collect();
        let least = deviations.iter().copied().reduce(f64::min);
        let most = deviations.iter().copied().reduce(f64::max);
        let within = |deviation: &&f64| deviation.abs() <= bound.as_secs_f64();
        Figures {
            sent,
            received,
            deviation_ms: least
                .zip(most)
                .map(|(least, most)| (least * 1e3, most * 1e3)),
            frames: deviations.len(),
            within: deviations.iter().filter(within).count(),
            jitter_ms: self.jitter(window) * 1e3,
        }
    }

    /// How many packets were sent in `window`, and how many of these arrived at any time.
    pub fn counts(&self, window: &Range<Duration>) -> (usize, usize) {
        let sent = self
            .sent
            .iter()
            .filter(|packet| window.contains(&packet.at));
        let sent: BTreeSet<i64> = sent.map(|packet| packet.position.sequence).collect();
        let received = self.received.iter().map(|packet| packet.position.sequence);
        let received: BTreeSet<i64> = received.filter(|number| sent.contains(number)).collect();
        (sent.len(), received.len())
    }

    /// How many frames began to be sent in `window`.
    pub fn frames_sent(&self, window: &Range<Duration>) -> usize {
        let mut first: BTreeMap<i64, Duration> = BTreeMap::new();
        for packet in &self.sent {
            let at = first.entry(packet.position.timestamp).or_insert(packet.at);
            *at = packet.at.min(*at);
        }
        first.values().filter(|at| window.contains(*at)).count()
    }

    /// The same in the successive stretches of `length` that lie in `window`.
    pub fn stretches(&self, window: &Range<Duration>, length: Duration) -> Vec<(usize, usize)> {
        let arrived: BTreeSet<i64> = self
            .received
            .iter()
            .map(|packet| packet.position.sequence)
            .collect();
        let whole = window.end.saturating_sub(window.start).as_nanos() / length.as_nanos().max(1);
        let mut stretches = vec![(0, 0); usize::try_from(whole).unwrap_or(0)];
        let mut counted = BTreeSet::new();
        for packet in self
            .sent
            .iter()
            .filter(|packet| window.contains(&packet.at))
        {
            let number = (packet.at - window.start).as_nanos() / length.as_nanos().max(1);
            let stretch = usize::try_from(number)
                .ok()
                .and_then(|number| stretches.get_mut(number));
            if let Some((sent, received)) = stretch
                && counted.insert(packet.position.sequence)
            {
                *sent += 1;
                *received += usize::from(arrived.contains(&packet.position.sequence));
            }
        }
        stretches
    }

    /// The frames that arrived in `window`, but for the first.
    pub fn frames(&self, window: &Range<Duration>) -> impl Iterator<Item = Frame> {
        let mut complete: BTreeMap<i64, Duration> = BTreeMap::new();
        for packet in &self.received {
            let at = complete.entry(packet.position.timestamp).or_default();
            *at = packet.at.max(*at);
        }
        complete.retain(|_, at| window.contains(at));
        let complete: Vec<_> = complete.into_iter().collect();
        let pairs = 1..complete.len();
        pairs.map(move |number| {
            let ((earlier, before), (later, at)) = (complete[number - 1], complete[number]);
            Frame {
                at,
                deviation: at.as_secs_f64() - before.as_secs_f64() - seconds(later - earlier),
            }
        })
    }

    /// The greatest interarrival jitter in `window`, in seconds (RFC 3550, 6.4.1 and A.8).
    fn jitter(&self, window: &Range<Duration>) -> f64 {
        let transit =
            |packet: &Placed| packet.at.as_secs_f64() - seconds(packet.position.timestamp);
        let inside = self
            .received
            .iter()
            .filter(|packet| window.contains(&packet.at));
        let transits: Vec<f64> = inside.map(transit).collect();
        let mut jitter = 0.0_f64;
        let mut greatest = 0.0_f64;
        for pair in transits.windows(2) {
            jitter += ((pair[1] - pair[0]).abs() - jitter) / 16.0;
            greatest = greatest.max(jitter);
        }
        greatest
    }
}

#[cfg(test)]
mod tests {
    use super::super::rtp::CLOCK_RATE;
    use super::*;
    use proptest::prelude::*;

    const FRAME: Duration = Duration::from_millis(40);
    const TICKS: u32 = CLOCK_RATE / 25;
    const BOUND: Duration = Duration::from_millis(20);

    fn always() -> Range<Duration> {
        Duration::ZERO..Duration::from_secs(1 << 20)
    }

    /// Four packets of every frame, from counters that wrap around soon.
    fn stream(packets: u16, (sequence, timestamp): (u16, u32)) -> Vec<Seen> {
        let packet = |number: u16| Seen {
            header: Header {
                sequence: sequence.wrapping_add(number),
                timestamp: timestamp.wrapping_add(u32::from(number / 4) * TICKS),
                source: 1,
                payload: 1316,
            },
            at: FRAME * u32::from(number / 4) + Duration::from_micros(50) * u32::from(number % 4),
        };
        (0..packets).map(packet).collect()
    }

    fn later(seen: &[Seen], by: Duration) -> Vec<Seen> {
        let late = |seen: &Seen| Seen {
            at: seen.at + by,
            ..*seen
        };
        seen.iter().map(late).collect()
    }

    proptest! {
        #[test]
        fn what_is_lost_is_counted_whatever_the_order_the_copies_and_where_counters_begin(
            first: (u16, u32), fates in proptest::collection::vec((0u8..10, 0u64..30), 8..400)
        ) {
            let sent = stream(u16::try_from(fates.len()).unwrap(), first);
            let mut arrived: Vec<Seen> = Vec::new();
            let mut lost = 0;
            for (packet, (fate, delay)) in sent.iter().zip(&fates) {
                let packet = Seen { at: packet.at + Duration::from_millis(5 + delay), ..*packet };
                match fate {
                    0 | 1 => lost += 1,
                    2 => arrived.extend([packet, packet]),
                    _ => arrived.push(packet),
                }
            }
            arrived.sort_by_key(|packet| packet.at);
            let figures = Course::new(&sent, &arrived).figures(&always(), BOUND);
            prop_assert_eq!(figures.sent, sent.len());
            prop_assert_eq!(figures.received, sent.len() - lost);
        }

        #[test]
        fn a_constant_delay_is_neither_jitter_nor_deviation_and_a_delay_of_one_frame_shows_twice(
            first: (u16, u32), delay in 0u64..500, frame in 2usize..20, extra in 1u64..39
        ) {
            let sent = stream(100, first);
            let mut arrived = later(&sent, Duration::from_millis(delay));
            let even = Course::new(&sent, &arrived).figures(&always(), BOUND);
            let (least, most) = even.deviation_ms.unwrap();
            prop_assert!(least.abs() < 1e-6 && most.abs() < 1e-6);
            prop_assert!(even.jitter_ms <= 0.15 + 1e-9, "packets of a frame are 0.05 ms apart: {}", even.jitter_ms);
            prop_assert_eq!((even.frames, even.within), (24, 24));
            for packet in &mut arrived[4 * frame..4 * frame + 4] {
                packet.at += Duration::from_millis(extra);
            }
            let (least, most) = Course::new(&sent, &arrived).figures(&always(), BOUND).deviation_ms.unwrap();
            prop_assert!((most - extra as f64).abs() < 1e-6 && (least + extra as f64).abs() < 1e-6);
        }
    }

    #[test]
    fn a_window_counts_what_was_sent_in_it() {
        let sent = stream(40, (65_530, u32::MAX - 3));
        let arrived = later(&sent[..30], FRAME / 2);
        let course = Course::new(&sent, &arrived);
        assert_eq!(course.counts(&(Duration::ZERO..FRAME * 5)), (20, 20));
        assert_eq!(course.counts(&(FRAME * 5..FRAME * 10)), (20, 10));
        assert_eq!(course.counts(&(FRAME * 20..FRAME * 30)), (0, 0));
        assert_eq!(course.frames_sent(&(FRAME..FRAME * 5)), 4);
        let stretches = course.stretches(&(FRAME..FRAME * 10), FRAME * 4);
        assert_eq!(stretches, [(16, 16), (16, 10)]);
    }

    #[test]
    fn streams_together_lose_by_the_number_of_their_packets() {
        let of = |sent, received, range| Figures {
            sent,
            received,
            deviation_ms: range,
            ..Figures::default()
        };
        let sum = Figures::sum(&[
            of(10, 5, Some((-1.0, 2.0))),
            of(90, 90, Some((-3.0, 1.0))),
            of(0, 0, None),
        ]);
        assert!((sum.loss() - 0.05).abs() < 1e-12);
        assert_eq!(sum.deviation_ms, Some((-3.0, 2.0)));
        assert!(Figures::default().loss().abs() < 1e-12);
    }
}

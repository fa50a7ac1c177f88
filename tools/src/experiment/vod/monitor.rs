//! What the monitors count while streams run: frames that left their sender late, packets that did not arrive.
//!
//! A late frame is a deadline missed by the sender; it says that CPU time is short. A lost packet is one missed by the
//! network; it says that bandwidth is short. Both go to [`sched::qos`] as what is seen of a job's tasks.

use std::time::Duration;

use sched::qos::TaskSeen;

use super::rtp::{Position, seconds};

/// Counts the frames of a stream that left later than they should have.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bound: Duration,
    /// The least of time minus timestamp, in seconds: a frame that was in time.
    least: Option<f64>,
    newest: Option<i64>,
    frames: u64,
    late: u64,
}

impl Pace {
    /// A frame is late that comes by more than `bound` after its time.
    pub fn new(bound: Duration) -> Self {
        Self {
            bound,
            least: None,
            newest: None,
            frames: 0,
            late: 0,
        }
    }

    /// Takes in a packet that left.
    pub fn sent(&mut self, packet: Position, at: Duration) {
        let offset = at.as_secs_f64() - seconds(packet.timestamp);
        let least = *self
            .least
            .insert(self.least.map_or(offset, |least| least.min(offset)));
        if self.newest.is_some_and(|newest| packet.timestamp <= newest) {
            return;
        }
        self.newest = Some(packet.timestamp);
        self.frames += 1;
        if offset - least > self.bound.as_secs_f64() {
            self.late += 1;
        }
    }

    /// Lets what was seen up to now say nothing about when a frame is in time: the sender has got another place.
    pub fn moved(&mut self) {
        self.least = None;
    }

    /// The stream as a task.
    pub fn task(&self) -> TaskSeen {
        TaskSeen {
            jobs: self.frames,
            misses: self.late,
            latest: Vec::new(),
        }
    }
}

/// Counts the packets of a stream that did not arrive (RFC 3550, A.3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Losses {
    range: Option<(i64, i64)>,
    received: u64,
}

impl Losses {
    /// Takes in a packet that arrived.
    pub fn arrived(&mut self, packet: Position) {
        let number = packet.sequence;
        let (first, last) = self.range.unwrap_or((number, number));
        self.range = Some((first.min(number), last.max(number)));
        self.received += 1;
    }

    /// The stream as a task: a packet is a job, and one that did not come is a miss.
    pub fn task(&self) -> TaskSeen {
        let expected = self
            .range
            .map_or(0, |(first, last)| last.abs_diff(first) + 1);
        TaskSeen {
            jobs: expected,
            misses: expected.saturating_sub(self.received),
            latest: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: Duration = Duration::from_millis(40);

    fn packet(number: i64) -> Position {
        Position {
            sequence: number,
            timestamp: number / 4 * 3_600,
        }
    }

    proptest! {
        #[test]
        fn the_frames_that_are_late_are_counted_and_no_other(
            lateness in proptest::collection::vec(0u32..100, 1..200), base in -1_000_000i64..1_000_000
        ) {
            let bound = Duration::from_millis(40);
            let mut pace = Pace::new(bound);
            let of = |number: i64| Position { timestamp: base + number * 3_600, sequence: number };
            // The first is in time, so that the others are as late as they are said to be.
            pace.sent(of(0), Duration::ZERO);
            let mut late = 0;
            for (number, extra) in (1i64..).zip(&lateness) {
                let due = FRAME * u32::try_from(number).unwrap();
                pace.sent(of(number), due + Duration::from_millis(u64::from(*extra)) + Duration::from_micros(1));
                late += u64::from(*extra >= 40);
            }
            let task = pace.task();
            prop_assert_eq!((task.jobs, task.misses), (lateness.len() as u64 + 1, late));
        }

        #[test]
        fn what_never_comes_is_lost_whatever_the_order(
            lost in proptest::collection::btree_set(1i64..199, 0..50), swaps in proptest::collection::vec(0usize..190, 0..30)
        ) {
            let mut numbers: Vec<i64> = (0..200).filter(|number| !lost.contains(number)).collect();
            for at in swaps {
                let last = numbers.len() - 1;
                numbers.swap(at.min(last), (at + 3).min(last));
            }
            let mut losses = Losses::default();
            for number in numbers {
                losses.arrived(packet(number));
            }
            let task = losses.task();
            prop_assert_eq!((task.jobs, task.misses), (200, lost.len() as u64));
        }
    }

    #[test]
    fn a_sender_that_moved_is_measured_against_its_new_place() {
        let mut pace = Pace::new(FRAME);
        pace.sent(packet(0), Duration::ZERO);
        pace.moved();
        for number in 1..10 {
            pace.sent(
                packet(4 * number),
                FRAME * u32::try_from(number).unwrap() + FRAME * 2,
            );
        }
        assert_eq!(pace.task().misses, 0);
    }
}

//! How many different pages are written within a time: as was predicted, and as it was.

use std::time::Duration;

use migration::model::Writes;
use migration::trace::Timeline;
use serde::Serialize;

/// Times, in ms.
const WITHIN: [u64; 9] = [5, 10, 20, 50, 100, 200, 500, 1_000, 2_000];
/// Places in the recording at which is looked.
const PLACES: u32 = 12;

/// Pages within a time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Within {
    /// The time, in s.
    pub seconds: f64,
    /// Pages predicted.
    pub predicted: f64,
    /// Pages that were written, on average.
    pub written: f64,
}

/// Over the recording from `start` on, from what was known then.
pub fn dirty_curve(timeline: &Timeline, start: Duration, writes: &Writes) -> Vec<Within> {
    let rest = timeline.length().saturating_sub(start);
    let within = |ms: u64| {
        let time = Duration::from_millis(ms);
        let step = rest.saturating_sub(time) / PLACES;
        let begins = (0..PLACES).map(|place| start + step * place);
        let written = begins.map(|begin| timeline.dirty(begin, begin + time).len() as f64);
        Within {
            seconds: time.as_secs_f64(),
            predicted: writes.dirty_within(time),
            written: written.sum::<f64>() / f64::from(PLACES),
        }
    };
    let times = WITHIN.into_iter();
    times
        .filter(|ms| Duration::from_millis(*ms) < rest)
        .map(within)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration::ram::PageNumber;

    #[test]
    fn pages_that_are_written_twice_within_a_time_count_once() {
        // Page k % 8 every 10 ms.
        let writes: Vec<_> = (0..400)
            .map(|k| (Duration::from_millis(10 * k + 5), PageNumber(k % 8)))
            .collect();
        let length = Duration::from_secs(4);
        let timeline = Timeline::of_writes(16, length, &writes).unwrap();
        let known = Writes::known(&[12.5; 8]);
        let curve = dirty_curve(&timeline, Duration::from_secs(1), &known);
        let written: Vec<f64> = curve.iter().map(|within| within.written).collect();
        assert_eq!(written[1..5], [1.0, 2.0, 5.0, 8.0]);
        assert!(curve.iter().all(|within| within.predicted <= 8.0));
        assert_eq!(curve.len(), WITHIN.len());
    }
}

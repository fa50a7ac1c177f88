//! When a busy guest did not run, and what follows from that: its share of every window, and its blackouts.
//!
//! Times are nanoseconds of guest time.

use std::time::Duration;

use vmm::telemetry::Event;

/// The time a guest was watched, and the gaps in it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timeline {
    /// When watching began.
    pub from: u64,
    /// When it ended.
    pub to: u64,
    /// Gaps, in order.
    pub gaps: Vec<(u64, u64)>,
}

/// What happens while a guest settles is not looked at: its start, and the load's.
const SETTLING: u64 = 200_000_000;

impl Timeline {
    /// What the records of the busy task `task` show.
    pub fn of(events: &[Event], task: u16) -> Self {
        let gaps = events.iter().filter_map(|event| match event {
            Event::Gap(gap) if gap.task == task => Some((gap.start, gap.end)),
            _ => None,
        });
        let mut gaps: Vec<_> = gaps.collect();
        gaps.sort_unstable();
        let from = gaps.first().map_or(0, |gap| gap.0) + SETTLING;
        // After the last gap nothing is known.
        let to = gaps.last().map_or(from, |gap| gap.0).max(from);
        gaps.retain(|gap| gap.1 > from && gap.0 < to);
        Self { from, to, gaps }
    }

    /// The same without gaps shorter than `least`: those are interrupts of the host, which no reservation gives back.
    #[must_use]
    pub fn without_interrupts(&self, least: Duration) -> Self {
        let mut rest = self.clone();
        rest.gaps
            .retain(|gap| Duration::from_nanos(gap.1 - gap.0) >= least);
        rest
    }

    /// The share of every whole window, in per cent.
    pub fn shares(&self, window: Duration) -> Vec<f64> {
        let length = u64::try_from(window.as_nanos()).unwrap_or(u64::MAX).max(1);
        let count = (self.to - self.from) / length;
        (0..count)
            .map(|index| {
                let begin = self.from + index * length;
                let away = self.away(begin, begin + length);
                (length - away) as f64 / length as f64 * 100.0
            })
            .collect()
    }

    fn away(&self, begin: u64, end: u64) -> u64 {
        let first = self.gaps.partition_point(|gap| gap.1 <= begin);
        self.gaps[first..]
            .iter()
            .take_while(|gap| gap.0 < end)
            .map(|gap| gap.1.min(end) - gap.0.max(begin))
            .sum()
    }

    /// Gaps of at least `least`, without those that watching cut off.
    pub fn blackouts(&self, least: Duration) -> impl Iterator<Item = Duration> + '_ {
        self.gaps
            .iter()
            .filter(|gap| gap.0 >= self.from && gap.1 <= self.to)
            .map(|gap| Duration::from_nanos(gap.1 - gap.0))
            .filter(move |gap| *gap >= least)
    }

    /// Stretches between gaps of at least `least`: begin and end.
    pub fn stretches(&self, least: Duration) -> Vec<(u64, u64)> {
        let long = |gap: &&(u64, u64)| Duration::from_nanos(gap.1 - gap.0) >= least;
        let long: Vec<_> = self.gaps.iter().filter(long).collect();
        long.windows(2).map(|two| (two[0].1, two[1].0)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn timeline(from: u64, to: u64, gaps: &[(u64, u64)]) -> Timeline {
        Timeline {
            from: from * MS,
            to: to * MS,
            gaps: gaps.iter().map(|(a, b)| (a * MS, b * MS)).collect(),
        }
    }

    #[test]
    fn a_gap_over_the_edge_of_a_window_counts_in_both() {
        let watched = timeline(0, 200, &[(50, 150)]);
        assert_eq!(watched.shares(Duration::from_millis(100)), [50.0, 50.0]);
    }

    #[test]
    fn a_blackout_that_was_not_seen_whole_is_none() {
        let watched = timeline(10, 100, &[(5, 20), (40, 70), (90, 120)]);
        let blackouts: Vec<_> = watched.blackouts(Duration::from_millis(1)).collect();
        assert_eq!(blackouts, [Duration::from_millis(30)]);
    }

    #[test]
    fn stretches_lie_between_long_gaps() {
        let watched = timeline(0, 200, &[(10, 40), (44, 45), (50, 80)]);
        assert_eq!(
            watched.stretches(Duration::from_millis(5)),
            [(40 * MS, 50 * MS)]
        );
    }

    proptest! {
        #[test]
        fn shares_of_adjoining_windows_add_up_to_the_whole(lengths in prop::collection::vec((1u64..50, 1u64..50), 1..40), count in 1u64..9) {
            let mut at = 0;
            let gaps: Vec<_> = lengths.iter().map(|(on, off)| { at += on; let begin = at; at += off; (begin, at) }).collect();
            let whole = at / count * count;
            prop_assume!(whole > 0);
            let watched = timeline(0, whole, &gaps);
            let one: f64 = watched.shares(Duration::from_millis(whole)).iter().sum();
            let parts = watched.shares(Duration::from_millis(whole / count));
            let mean = parts.iter().sum::<f64>() / parts.len() as f64;
            prop_assert!((one - mean).abs() < 1e-6);
        }
    }
}

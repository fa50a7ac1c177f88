//! A histogram of durations of fixed size: recording allocates nothing and takes a few instructions.
//!
//! Buckets are log-linear: 512 per power of two, so a percentile is at most 0.2 % above the true value. The extremes are
//! exact.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::reservation::nanos;

/// log2 of the buckets in every power of two.
const FINENESS: u32 = 9;
const PER_OCTAVE: usize = 1 << FINENESS;
/// Up to 2^36 ns, about 69 s; longer durations share the last bucket.
const OCTAVES: usize = 36 - FINENESS as usize;
const BUCKETS: usize = (OCTAVES + 1) * PER_OCTAVE;

/// Counts of durations by size.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u32]>,
    count: u64,
    total: Duration,
    max: Duration,
    min: Duration,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            median, p99, max, ..
        } = self;
        write!(f, "median {median:?}, p99 {p99:?}, max {max:?}")
    }
}

/// The figures reports show of a histogram. Durations are zero when nothing was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// How many durations.
    pub count: u64,
    /// The shortest.
    pub min: Duration,
    /// The median, at most 0.2 % too high.
    pub median: Duration,
    /// The 99th percentile, at most 0.2 % too high.
    pub p99: Duration,
    /// The 99.9th percentile, at most 0.2 % too high.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
    /// The sum.
    pub total: Duration,
}

impl Histogram {
    /// An empty histogram. The only allocation is here.
    pub fn new() -> Self {
        Self {
            // Pages that are never counted in are never touched: most of them.
            buckets: vec![0; BUCKETS].into_boxed_slice(),
            count: 0,
            total: Duration::ZERO,
            max: Duration::ZERO,
            min: Duration::MAX,
        }
    }

    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let slot = &mut self.buckets[index(nanos(duration))];
        *slot = slot.saturating_add(1);
        self.count += 1;
        self.total = self.total.saturating_add(duration);
        self.max = self.max.max(duration);
        self.min = self.min.min(duration);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The least duration that at least `per_mille` thousandths of those recorded do not exceed.
    pub fn percentile(&self, per_mille: u64) -> Duration {
        let wanted = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (slot, &count) in self.buckets.iter().enumerate() {
            seen += u64::from(count);
            if seen >= wanted {
                return Duration::from_nanos(upper_edge(slot)).clamp(self.min, self.max);
            }
        }
        self.max
    }

    /// The figures of everything recorded.
    pub fn summary(&self) -> Summary {
        if self.count == 0 {
            return Summary::default();
        }
        Summary {
            count: self.count,
            min: self.min,
            median: self.percentile(500),
            p99: self.percentile(990),
            p999: self.percentile(999),
            max: self.max,
            total: self.total,
        }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

/// The bucket of a value: linear below 512 ns, then 512 per octave.
fn index(ns: u64) -> usize {
    let octave = (u64::BITS - ns.leading_zeros()).saturating_sub(FINENESS + 1);
    let within = usize::try_from(ns >> octave).unwrap_or(usize::MAX);
    (octave as usize * PER_OCTAVE + within).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn upper_edge(slot: usize) -> u64 {
    let octave = (slot / PER_OCTAVE).saturating_sub(1);
    let within = slot - octave * PER_OCTAVE;
    ((within as u64 + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_empty_histogram_has_zero_figures() {
        assert_eq!(Histogram::new().summary(), Summary::default());
    }

    proptest! {
        #[test]
        fn a_percentile_is_at_most_a_fifth_of_a_percent_above_the_sorted_list(
            values in prop::collection::vec(0u64..60_000_000_000, 1..400), per_mille in 0u64..=1000,
        ) {
            let mut histogram = Histogram::new();
            values.iter().for_each(|&v| histogram.record(Duration::from_nanos(v)));
            let mut sorted = values.clone();
            sorted.sort_unstable();
            let rank = (sorted.len() as u64 * per_mille).div_ceil(1000).max(1);
            let exact = sorted[usize::try_from(rank).unwrap() - 1];
            let found = nanos(histogram.percentile(per_mille));
            prop_assert!(found >= exact, "{found} below {exact}");
            prop_assert!(found as f64 <= exact as f64 * 1.002 + 1.0, "{found} far above {exact}");
            prop_assert_eq!(nanos(histogram.summary().max), sorted[sorted.len() - 1]);
            prop_assert_eq!(nanos(histogram.summary().min), sorted[0]);
        }
    }
}

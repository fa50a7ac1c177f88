//! Order statistics of measured times: exact quantiles, and step points thin enough to draw.
//!
//! Nothing here interpolates or estimates. Every number is one that was measured.

use std::time::Duration;

/// A share of the samples, in parts per million, so that p99.99 is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantile(u32);

impl Quantile {
    /// One sample in a hundred is at or below.
    pub const P1: Self = Self(10_000);
    /// Half of the samples are at or below.
    pub const MEDIAN: Self = Self(500_000);
    /// 99 in 100 samples are at or below.
    pub const P99: Self = Self(990_000);
    /// 999 in 1000 samples are at or below.
    pub const P999: Self = Self(999_000);

    /// The quantile of `parts` in a million; more than a million counts as a million.
    pub fn parts_per_million(parts: u32) -> Self {
        Self(parts.min(1_000_000))
    }
}

/// One corner of an empirical distribution function: `at_or_below` samples are at most `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The measured value at which the function rises.
    pub value: Duration,
    /// How many samples are at most `value`.
    pub at_or_below: usize,
}

/// Measured times in order, and how many measurements had not ended when observation did.
///
/// A job that never finished is worse than every one that did. Leaving it out would flatter the result, so it is
/// counted as longer than any measured time: the distribution function then stays below one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    sorted: Vec<Duration>,
    unfinished: usize,
}

impl Distribution {
    /// Takes measured times in any order.
    pub fn new(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        Self {
            sorted: samples,
            unfinished: 0,
        }
    }

    /// Adds `count` measurements that had not ended when observation did.
    #[must_use]
    pub fn with_unfinished(mut self, count: usize) -> Self {
        self.unfinished += count;
        self
    }

    /// All measurements, those not ended included.
    pub fn count(&self) -> usize {
        self.sorted.len() + self.unfinished
    }

    /// Measurements that had not ended.
    pub fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// The shortest measured time.
    pub fn min(&self) -> Option<Duration> {
        self.sorted.first().copied()
    }

    /// The longest measured time; `None` also when a measurement did not end, for then there is no longest.
    pub fn max(&self) -> Option<Duration> {
        self.longest_measured().filter(|_| self.unfinished == 0)
    }

    /// The longest time among the measurements that ended.
    pub fn longest_measured(&self) -> Option<Duration> {
        self.sorted.last().copied()
    }

    /// The mean of the measurements that ended.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.sorted.len()).ok().filter(|n| *n > 0)?;
        Some(self.sorted.iter().sum::<Duration>() / count)
    }

    /// The nearest-rank quantile: the smallest measured time that at least this share of all measurements does not
    /// exceed. No interpolation. `None` without samples, and when the rank falls among measurements that did not end.
    pub fn quantile(&self, quantile: Quantile) -> Option<Duration> {
        let rank = (self.count() as u128 * u128::from(quantile.0)).div_ceil(1_000_000);
        let index = usize::try_from(rank).ok()?.saturating_sub(1);
        self.sorted.get(index).copied()
    }

    /// How many measurements are at most `limit`.
    pub fn at_or_below(&self, limit: Duration) -> usize {
        self.sorted.partition_point(|value| *value <= limit)
    }

    /// How many measurements exceed `limit`, those that did not end included.
    pub fn beyond(&self, limit: Duration) -> usize {
        self.count() - self.at_or_below(limit)
    }

    /// The corners of the distribution function, at most about `limit` of them.
    ///
    /// Each returned corner is exact. The first and last quarter of the corners kept are consecutive, so that both
    /// tails are drawn as measured; between them every n-th corner is kept.
    pub fn steps(&self, limit: usize) -> Vec<Step> {
        let all = self.all_steps();
        let tail = limit / 4;
        let middle_budget = limit.saturating_sub(2 * tail).max(1);
        if all.len() <= limit.max(2) {
            return all;
        }
        let middle = all.len() - 2 * tail;
        let stride = middle.div_ceil(middle_budget);
        let is_kept = |i: usize| {
            i < tail.max(1) || i + tail.max(1) >= all.len() || (i - tail).is_multiple_of(stride)
        };
        all.iter()
            .enumerate()
            .filter(|(i, _)| is_kept(*i))
            .map(|(_, step)| *step)
            .collect()
    }

    fn all_steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for (index, value) in self.sorted.iter().enumerate() {
            let step = Step {
                value: *value,
                at_or_below: index + 1,
            };
            match steps.last_mut() {
                Some(last) if last.value == *value => *last = step,
                _ => steps.push(step),
            }
        }
        steps
    }
}

impl FromIterator<Duration> for Distribution {
    fn from_iter<I: IntoIterator<Item = Duration>>(samples: I) -> Self {
        Self::new(samples.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn durations(nanos: &[u64]) -> Vec<Duration> {
        nanos.iter().map(|n| Duration::from_nanos(*n)).collect()
    }

    /// The definition read aloud, in quadratic time.
    fn quantile_by_counting(samples: &[Duration], unfinished: usize, ppm: u32) -> Option<Duration> {
        let total = (samples.len() + unfinished) as u128;
        let reaches = |candidate: &&Duration| {
            let at_or_below = samples.iter().filter(|s| s <= candidate).count() as u128;
            at_or_below * 1_000_000 >= total * u128::from(ppm)
        };
        samples.iter().filter(reaches).min().copied()
    }

    proptest! {
        #[test]
        fn quantiles_equal_their_definition(nanos in prop::collection::vec(0u64..50, 0..60), unfinished in 0usize..20, ppm in 0u32..=1_000_000) {
            let samples = durations(&nanos);
            let distribution = Distribution::new(samples.clone()).with_unfinished(unfinished);
            prop_assert_eq!(distribution.quantile(Quantile::parts_per_million(ppm)), quantile_by_counting(&samples, unfinished, ppm));
        }

        #[test]
        fn beyond_counts_what_exceeds_the_limit(nanos in prop::collection::vec(0u64..50, 0..60), limit in 0u64..60) {
            let distribution = Distribution::new(durations(&nanos)).with_unfinished(3);
            prop_assert_eq!(distribution.beyond(Duration::from_nanos(limit)), nanos.iter().filter(|n| **n > limit).count() + 3);
        }

        #[test]
        fn thinned_steps_are_exact_and_keep_both_tails(nanos in prop::collection::vec(0u64..5_000, 1..800), limit in 4usize..100) {
            let distribution = Distribution::new(durations(&nanos));
            let (all, thin) = (distribution.steps(usize::MAX), distribution.steps(limit));
            prop_assert!(thin.len() <= limit + 2);
            prop_assert!(thin.iter().all(|step| all.contains(step)));
            prop_assert!(thin.windows(2).all(|pair| pair[0].value < pair[1].value));
            let tail = (limit / 4).min(all.len());
            prop_assert_eq!(&thin[..tail], &all[..tail]);
            prop_assert_eq!(&thin[thin.len() - tail..], &all[all.len() - tail..]);
        }

        #[test]
        fn every_step_counts_its_samples(nanos in prop::collection::vec(0u64..40, 1..100)) {
            for step in Distribution::new(durations(&nanos)).steps(usize::MAX) {
                prop_assert_eq!(step.at_or_below, nanos.iter().filter(|n| Duration::from_nanos(**n) <= step.value).count());
            }
        }
    }

    #[test]
    fn without_samples_there_are_no_quantiles() {
        let empty = Distribution::default();
        assert_eq!(empty.quantile(Quantile::MEDIAN), None);
        assert_eq!((empty.min(), empty.mean(), empty.max()), (None, None, None));
    }

    #[test]
    fn a_job_that_never_finished_leaves_no_maximum() {
        let distribution = Distribution::new(durations(&[1, 2, 3])).with_unfinished(1);
        assert_eq!(distribution.max(), None);
        assert_eq!(
            distribution.longest_measured(),
            Some(Duration::from_nanos(3))
        );
        assert_eq!(distribution.quantile(Quantile::P99), None);
    }
}

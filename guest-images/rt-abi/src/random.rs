//! Randomness that depends on (seed, task, job) only, so that a run is the same whatever the order in which jobs execute.
//!
//! SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014; constants as in
//! Vigna's public-domain `splitmix64.c`. Not for secrets.

use crate::taskset::Task;

/// 2^64 divided by the golden ratio, made odd: the step of the generator.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A generator of 64-bit numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The generator with this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The generator of job `job` of the task at place `task` of the task set.
    #[must_use]
    pub fn for_job(seed: u64, task: usize, job: u64) -> Self {
        // Hashed in a chain: neighbouring seeds, tasks and jobs end up at unrelated states.
        let of_task = Self::new(seed).next() ^ task as u64;
        Self::new(Self::new(of_task).next() ^ job)
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "it never ends: there is no `Option` to return"
    )]
    pub fn next(&mut self) -> u64 {
        let before = self.state;
        self.state = before.wrapping_add(STEP);
        mixed(before)
    }

    /// A number from `min` to `max`, both included, all equally likely; `min` if `max` is smaller.
    ///
    /// Multiplication and rejection: Lemire, "Fast random integer generation in an interval", TOMACS 2019, algorithm 5.
    pub fn uniform(&mut self, min: u64, max: u64) -> u64 {
        let Some(count) = max.saturating_sub(min).checked_add(1) else {
            return self.next();
        };
        let unfair = count.wrapping_neg() % count;
        loop {
            let (high, low) = split(u128::from(self.next()) * u128::from(count));
            if low >= unfair {
                return min + high;
            }
        }
    }
}

/// The first number of the generator with the seed `value`: one that looks unrelated.
#[inline]
#[must_use]
pub const fn mixed(value: u64) -> u64 {
    let z = value.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The high and the low half of `value`.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
fn split(value: u128) -> (u64, u64) {
    ((value >> 64) as u64, value as u64)
}

/// Execution time in nanoseconds of job `job` of `task`, which is at place `index` of the task set with this `seed`.
#[must_use]
pub fn execution(seed: u64, index: usize, task: &Task, job: u64) -> u64 {
    match task.stepped(job) {
        Some(step) => step.c,
        None => Random::for_job(seed, index, job).uniform(task.c_min, task.c_max),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::taskset::Name;
    use proptest::prelude::*;

    #[test]
    fn the_numbers_are_those_of_the_published_generator() {
        // First outputs of splitmix64.c for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let published = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(published, core::array::from_fn(|_| random.next()));
    }

    #[test]
    fn every_value_of_a_range_is_equally_likely() {
        let mut random = Random::new(7);
        let mut counts = [0i64; 10];
        for _ in 0..100_000 {
            counts[usize::try_from(random.uniform(5, 14) - 5).unwrap()] += 1;
        }
        // 5 standard deviations of a binomial (100000, 0.1).
        assert!(
            counts.iter().all(|n| (n - 10_000).abs() < 475),
            "{counts:?}"
        );
    }

    #[test]
    fn a_range_that_does_not_divide_all_numbers_is_fair() {
        // Of 3 * 2^62 values, the multiples of three would come twice as often as the others without rejection.
        let mut random = Random::new(9);
        let most = 3 * (1 << 62) - 1;
        let multiples = (0..30_000).filter(|_| random.uniform(0, most).is_multiple_of(3));
        assert!(multiples.count().abs_diff(10_000) < 410);
    }

    #[test]
    fn jobs_and_tasks_that_are_neighbours_differ() {
        let mut firsts: std::vec::Vec<u64> = (0..32)
            .flat_map(|task| (0..1000).map(move |job| Random::for_job(1, task, job).next()))
            .collect();
        firsts.sort_unstable();
        firsts.dedup();
        assert_eq!(firsts.len(), 32_000);
    }

    #[test]
    fn a_task_that_steps_takes_turns_from_its_first_release_on() {
        let mut task = Task::periodic(Name::new("t").unwrap(), 8, 40);
        task.step = Some(crate::taskset::Step { c: 24, every: 120 });
        let times: [u64; 9] = core::array::from_fn(|job| execution(0, 0, &task, job as u64));
        assert_eq!(times, [8, 8, 8, 24, 24, 24, 8, 8, 8]);
    }

    proptest! {
        #[test]
        fn a_number_lies_in_its_range(seed: u64, a: u64, b: u64) {
            let (min, max) = (a.min(b), a.max(b));
            prop_assert!((min..=max).contains(&Random::new(seed).uniform(min, max)));
        }

        #[test]
        fn an_execution_time_depends_on_seed_task_and_job_alone(seed: u64, index in 0usize..32, jobs in proptest::collection::vec(0u64..100, 1..50)) {
            let mut task = Task::periodic(Name::new("t").unwrap(), 3_000_000, 10_000_000);
            task.c_max = 8_000_000;
            let in_order: std::vec::Vec<u64> = (0..100).map(|job| execution(seed, index, &task, job)).collect();
            for job in jobs {
                prop_assert_eq!(execution(seed, index, &task, job), in_order[usize::try_from(job).unwrap()]);
            }
        }
    }
}

//! Random task sets, for experiments that compare tests and policies.
//!
//! A set is drawn in two steps: how the utilisation is shared among the tasks ([`uunifast`], [`randfixedsum`]), and how
//! long their periods are ([`log_uniform`]; Emberson, Stafford and Davis, "Techniques for the synthesis of multiprocessor
//! tasksets", WATERS 2010). The same generator gives the same set on every machine: there is no power or logarithm in
//! here, whose last digit differs among mathematical libraries, but comparisons, the four operations and square roots, which
//! IEEE 754 rounds in one way only.

use std::time::Duration;

use super::task::Task;
use crate::random::Random;
use crate::reservation::nanos;

/// Utilisations of `tasks` tasks that sum up to `total`, all such equally likely (Bini and Buttazzo, "Measuring the
/// performance of schedulability tests", Real-Time Systems 30, 2005). A single one may be above 1 if `total` is.
///
/// Drawn as that paper's UUniSort, the distances between sorted uniform numbers, which has the distribution of UUniFast
/// without its roots.
pub fn uunifast(random: &mut Random, tasks: usize, total: f64) -> Vec<f64> {
    if tasks == 0 {
        return Vec::new();
    }
    let mut cuts: Vec<f64> = (1..tasks).map(|_| random.unit() * total).collect();
    cuts.push(total);
    cuts.sort_unstable_by(f64::total_cmp);
    let mut before = 0.0;
    let distance = |cut: f64| cut - std::mem::replace(&mut before, cut);
    cuts.into_iter().map(distance).collect()
}

/// Utilisations of `tasks` tasks, each from `least` to `most`, that sum up to `total`, all such equally likely (Stafford,
/// "Random vectors with fixed sum", 2006, as used by Emberson, Stafford and Davis 2010); none if there are no such.
///
/// The polytope is cut into simplices; the volumes of the cuts (`volumes`) choose one, and a point in it is drawn with
/// maxima of uniform numbers in place of the published roots of one.
pub fn randfixedsum(
    random: &mut Random,
    (tasks, total): (usize, f64),
    (least, most): (f64, f64),
) -> Option<Vec<f64>> {
    let count = tasks as f64;
    let is_possible = least <= most && (least * count..=most * count).contains(&total);
    if tasks == 0 || !is_possible {
        return None;
    }
    let width = most - least;
    if width == 0.0 {
        return Some(vec![least; tasks]);
    }
    let sum = ((total - least * count) / width).clamp(0.0, count);
    let mut cube = point_of_sum(random, tasks, sum);
    shuffle(random, &mut cube);
    Some(
        cube.into_iter()
            .map(|x| (least + width * x).clamp(least, most))
            .collect(),
    )
}

/// A point of the unit cube of this sum, its coordinates not yet in random order.
fn point_of_sum(random: &mut Random, n: usize, sum: f64) -> Vec<f64> {
    // The whole part of the sum, such that both it and the next one bound the sum.
    let mut whole = (1..n).take_while(|k| *k as f64 <= sum).count();
    let choices = volumes(n, (whole, sum));
    let (mut rest, mut shift, mut scale) = (sum, 0.0, 1.0);
    let mut point = Vec::with_capacity(n);
    for i in (1..n).rev() {
        let is_upper = random.unit() <= choices[i - 1][whole];
        let root = (0..i).map(|_| random.unit()).fold(0.0, f64::max);
        shift += (1.0 - root) * scale * rest / (i + 1) as f64;
        scale *= root;
        point.push(shift + if is_upper { scale } else { 0.0 });
        if is_upper {
            rest -= 1.0;
            whole = whole.saturating_sub(1);
        }
    }
    point.push(shift + scale * rest);
    point
}

/// For every dimension from 2 to `n` and every whole part of the sum that is left: the probability that the next cut goes
/// to the upper side (Stafford's table `t`).
fn volumes(n: usize, (whole, sum): (usize, f64)) -> Vec<Vec<f64>> {
    let above = |i: usize| sum - whole as f64 + i as f64;
    let below = |i: usize| (whole + n - i) as f64 - sum;
    let mut weights = vec![0.0; n + 1];
    weights[1] = f64::MAX;
    let mut choices = Vec::with_capacity(n - 1);
    for i in 2..=n {
        let mut next = vec![0.0; n + 1];
        let mut row = vec![0.0; n];
        for j in 0..i {
            let lower = weights[j + 1] * above(j) / i as f64;
            let upper = weights[j] * below(n - i + j) / i as f64;
            next[j + 1] = lower + upper;
            let both = next[j + 1] + f64::from_bits(1);
            row[j] = if below(n - i + j) > above(j) {
                upper / both
            } else {
                1.0 - lower / both
            };
        }
        weights = next;
        choices.push(row);
    }
    choices
}

/// Every order equally likely (Fisher and Yates).
fn shuffle<T>(random: &mut Random, items: &mut [T]) {
    for last in (1..items.len()).rev() {
        items.swap(last, random.below(last + 1));
    }
}

/// The range of periods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Periods {
    /// The shortest; a multiple of the granularity.
    pub shortest: Duration,
    /// The longest; a multiple of the granularity.
    pub longest: Duration,
    /// What all periods are multiples of: it keeps the hyperperiod in bounds.
    pub granularity: Duration,
}

/// A period whose logarithm is uniform in the range, so that every order of magnitude is as likely (Davis, Zabos and
/// Burns, IEEE Transactions on Computers 57, 2008).
pub fn log_uniform(random: &mut Random, periods: Periods) -> Duration {
    let Periods {
        shortest,
        longest,
        granularity,
    } = periods;
    // The range to the power of a number of 32 random binary digits: a square root for each digit.
    let end = longest + granularity;
    let mut root = end.as_secs_f64() / shortest.as_secs_f64();
    let mut factor = 1.0;
    for _ in 0..32 {
        root = root.sqrt();
        if random.between(0, 1) == 1 {
            factor *= root;
        }
    }
    let drawn = nanos(shortest.mul_f64(factor));
    let step = nanos(granularity).max(1);
    Duration::from_nanos(drawn / step * step).clamp(shortest, longest)
}

/// Tasks with these utilisations, their execution times rounded to the nanosecond and at least one, and `period` for
/// every period.
pub fn tasks(
    random: &mut Random,
    utilisations: &[f64],
    mut period: impl FnMut(&mut Random) -> Duration,
) -> Vec<Task> {
    let task = |(number, share): (usize, &f64)| {
        let period = period(random);
        let execution = period.mul_f64(share.max(0.0));
        let execution = execution.max(Duration::from_nanos(1));
        Task::new(format!("t{number}"), execution, period)
    };
    utilisations.iter().enumerate().map(task).collect()
}

/// Periods of the processes of [`avionics`], in milliseconds.
const RATES: [u64; 4] = [25, 50, 100, 200];
/// Processes in a partition, at least and at most.
const PROCESSES: (u64, u64) = (2, 5);

/// Partitions of an avionics-like workload with a total utilisation: 2 to 5 processes each, with harmonic periods of 25
/// to 200 ms, and utilisations by [`uunifast`] over all processes.
///
/// Of the kind that ARINC 653 partitions have and that RT-Xen was evaluated with (Lee, Xi and others, RTAS 2012, after
/// Easwaran, Lee, Sokolsky and Vestal, "A compositional scheduling framework for digital avionics systems", RTCSA 2009).
/// It is not the table of any of these papers: numbers of processes, rates and utilisations are drawn.
pub fn avionics(random: &mut Random, partitions: usize, total: f64) -> Vec<Vec<Task>> {
    let (fewest, most) = PROCESSES;
    let count = |random: &mut Random| usize::try_from(random.between(fewest, most)).unwrap_or(2);
    let counts: Vec<usize> = (0..partitions).map(|_| count(random)).collect();
    let shares = uunifast(random, counts.iter().sum(), total);
    let rate = |random: &mut Random| Duration::from_millis(RATES[random.below(RATES.len())]);
    let mut processes = tasks(random, &shares, rate).into_iter();
    counts
        .into_iter()
        .map(|count| processes.by_ref().take(count).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn random(seed: u64) -> Random {
        Random::stream(seed, 0)
    }

    /// Mean and variance of the first of the utilisations, and the share of draws in which it is below `limit`.
    fn moments(mut draw: impl FnMut() -> Vec<f64>, limit: f64) -> [f64; 3] {
        const DRAWS: u32 = 40_000;
        let firsts: Vec<f64> = (0..DRAWS).map(|_| draw()[0]).collect();
        let mean =
            |of: &dyn Fn(f64) -> f64| firsts.iter().map(|x| of(*x)).sum::<f64>() / f64::from(DRAWS);
        let first = mean(&|x| x);
        let below = mean(&|x| f64::from(u8::from(x < limit)));
        [first, mean(&|x| (x - first).powi(2)), below]
    }

    fn agree(found: [f64; 3], expected: [f64; 3]) {
        for (found, expected) in found.iter().zip(expected) {
            // Over five standard deviations of a mean over 40000 draws.
            assert!((found - expected).abs() < 0.013, "{found} {expected}");
        }
    }

    #[test]
    fn uunifast_is_uniform_on_the_simplex() {
        // Of n shares of 1, one is above x with probability (1 - x)^(n-1): mean 1/n, variance (n-1)/(n^2 (n+1)).
        for n in [2usize, 3, 6, 12] {
            let count = n as f64;
            let mut random = random(n as u64);
            let found = moments(|| uunifast(&mut random, n, 1.0), 0.2);
            let variance = (count - 1.0) / (count * count * (count + 1.0));
            let below = 1.0 - 0.8f64.powf(count - 1.0);
            agree(found, [1.0 / count, variance, below]);
        }
    }

    #[test]
    fn randfixedsum_is_uunifast_without_the_sets_that_leave_the_range() {
        for (n, total) in [(3usize, 0.8), (3, 1.5), (4, 1.3), (4, 2.0), (5, 2.2)] {
            let (mut one, mut other) = (random(1), random(2));
            let bounds = (0.0, 1.0);
            let found = moments(|| randfixedsum(&mut one, (n, total), bounds).unwrap(), 0.4);
            let mut discarding = || loop {
                let drawn = uunifast(&mut other, n, total);
                if drawn.iter().all(|share| *share <= 1.0) {
                    return drawn;
                }
            };
            agree(found, moments(&mut discarding, 0.4));
        }
    }

    #[test]
    fn randfixedsum_mirrors_what_is_above_half_the_cube() {
        let (mut one, mut other) = (random(3), random(4));
        let high = moments(
            || randfixedsum(&mut one, (4, 3.3), (0.0, 1.0)).unwrap(),
            0.7,
        );
        let low = moments(
            || randfixedsum(&mut other, (4, 0.7), (0.0, 1.0)).unwrap(),
            0.3,
        );
        agree(high, [1.0 - low[0], low[1], 1.0 - low[2]]);
    }

    #[test]
    fn sums_that_no_tasks_have_are_refused() {
        let mut random = random(0);
        for (tasks, total, range) in [
            (0, 0.0, (0.0, 1.0)),
            (3, 3.1, (0.0, 1.0)),
            (3, 0.2, (0.1, 1.0)),
            (3, 1.0, (0.5, 0.2)),
            (3, f64::NAN, (0.0, 1.0)),
        ] {
            assert_eq!(randfixedsum(&mut random, (tasks, total), range), None);
        }
        assert_eq!(
            randfixedsum(&mut random, (2, 0.5), (0.25, 0.25)),
            Some(vec![0.25; 2])
        );
        assert!(uunifast(&mut random, 0, 1.0).is_empty());
    }

    #[test]
    fn the_logarithm_of_a_period_is_uniform() {
        let periods = Periods {
            shortest: MS,
            longest: MS * 1_000,
            granularity: Duration::from_micros(1),
        };
        let mut random = random(5);
        let logarithm = || vec![log_uniform(&mut random, periods).as_secs_f64().log10() + 3.0];
        agree(moments(logarithm, 1.0), [1.5, 0.75, 1.0 / 3.0]);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_for_ever() {
        let periods = Periods {
            shortest: MS * 10,
            longest: MS * 200,
            granularity: MS,
        };
        let mut random = random(42);
        let drawn: Vec<_> = (0..4).map(|_| log_uniform(&mut random, periods)).collect();
        assert_eq!(drawn, KNOWN_PERIODS.map(|n| MS * n));
        let bits: Vec<u64> = uunifast(&mut random, 3, 0.9)
            .into_iter()
            .map(f64::to_bits)
            .collect();
        assert_eq!(bits, KNOWN_SHARES);
        let fixed = randfixedsum(&mut random, (3, 1.7), (0.0, 1.0)).unwrap();
        assert_eq!(
            fixed.into_iter().map(f64::to_bits).collect::<Vec<_>>(),
            KNOWN_FIXED
        );
    }

    const KNOWN_PERIODS: [u32; 4] = [25, 177, 85, 22];
    const KNOWN_SHARES: [u64; 3] = [
        4_599_358_577_843_252_108,
        4_601_108_904_225_011_262,
        4_595_345_453_142_699_936,
    ];
    const KNOWN_FIXED: [u64; 3] = [
        4_606_151_221_632_914_824,
        4_605_477_797_508_449_252,
        4_570_763_045_181_913_728,
    ];

    proptest! {
        #[test]
        fn utilisations_sum_up_to_the_total_and_keep_their_range(
            seed: u64, n in 1usize..40, least in 0.0f64..0.3, width in 0.0f64..0.7, part in 0.0f64..=1.0,
        ) {
            let most = least + width;
            let total = (n as f64 * (least + part * width)).clamp(n as f64 * least, n as f64 * most);
            let fixed = randfixedsum(&mut random(seed), (n, total), (least, most)).unwrap();
            prop_assert!((fixed.iter().sum::<f64>() - total).abs() < 1e-9, "{:?}", fixed);
            prop_assert!(fixed.iter().all(|x| (least..=most).contains(x)));
            let free = uunifast(&mut random(seed), n, total);
            prop_assert!((free.iter().sum::<f64>() - total).abs() < 1e-9);
            prop_assert!(free.iter().all(|x| (0.0..=total).contains(x)));
            prop_assert_eq!((fixed.len(), free.len()), (n, n));
            prop_assert_eq!(randfixedsum(&mut random(seed), (n, total), (least, most)), Some(fixed));
        }

        #[test]
        fn execution_times_give_the_utilisation_to_the_rounding_of_a_nanosecond(
            seed: u64, n in 1usize..30, total in 0.05f64..1.0,
        ) {
            let periods = Periods { shortest: MS * 10, longest: MS * 200, granularity: MS };
            let mut random = random(seed);
            let shares = uunifast(&mut random, n, total);
            let drawn = tasks(&mut random, &shares, |random| log_uniform(random, periods));
            let used: f64 = drawn.iter().map(Task::utilisation).sum();
            let rounding: f64 = drawn.iter().map(|task| 1e-9 / task.period.as_secs_f64()).sum();
            prop_assert!((used - total).abs() <= rounding + 1e-9, "{used} {total}");
            for task in &drawn {
                prop_assert!((periods.shortest..=periods.longest).contains(&task.period));
                prop_assert!(nanos(task.period).is_multiple_of(nanos(MS)) && !task.execution.is_zero());
            }
        }

        #[test]
        fn partitions_are_harmonic_and_share_the_utilisation(seed: u64, count in 1usize..8, total in 0.05f64..1.0) {
            let partitions = avionics(&mut random(seed), count, total);
            prop_assert_eq!(partitions.len(), count);
            let all: Vec<&Task> = partitions.iter().flatten().collect();
            for (a, b) in all.iter().flat_map(|a| all.iter().map(move |b| (a, b))) {
                let (short, long) = (a.period.min(b.period), a.period.max(b.period));
                prop_assert!(nanos(long).is_multiple_of(nanos(short)));
            }
            prop_assert!(partitions.iter().all(|partition| (2..=5).contains(&partition.len())));
            let used: f64 = all.iter().map(|task| task.utilisation()).sum();
            prop_assert!((used - total).abs() < 1e-6);
            prop_assert_eq!(avionics(&mut random(seed), count, total), partitions);
        }
    }
}

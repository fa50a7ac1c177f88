//! What is said of response times: minimum, mean, maximum, standard deviation, and how sure the mean is.

use std::time::Duration;

/// The figures of many runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Statistics {
    /// Responses.
    pub count: usize,
    /// The shortest, seconds.
    pub min: f64,
    /// The mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
    /// The standard deviation of single responses.
    pub sd: f64,
    /// The half width of the 90 % confidence interval of the mean; unknown with a single run.
    pub confidence: Option<f64>,
}

impl Statistics {
    /// Of the response times of `runs`; nothing if there are none.
    ///
    /// Responses of one run wait for one another and are not independent, runs are: the interval is that of Student's
    /// distribution for the means of the runs.
    pub fn of(runs: &[Vec<Duration>]) -> Option<Self> {
        let times: Vec<f64> = runs.iter().flatten().map(Duration::as_secs_f64).collect();
        let avg = mean(&times)?;
        let means: Vec<f64> = runs
            .iter()
            .filter_map(|run| mean(&run.iter().map(Duration::as_secs_f64).collect::<Vec<_>>()))
            .collect();
        Some(Self {
            count: times.len(),
            min: times.iter().copied().fold(f64::INFINITY, f64::min),
            avg,
            max: times.iter().copied().fold(0.0, f64::max),
            sd: deviation(&times).unwrap_or(0.0),
            confidence: half_width(&means),
        })
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The standard deviation of a sample.
fn deviation(values: &[f64]) -> Option<f64> {
    let mean = mean(values)?;
    let degrees = values.len().checked_sub(1).filter(|degrees| *degrees > 0)?;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((squares / degrees as f64).sqrt())
}

fn half_width(means: &[f64]) -> Option<f64> {
    let error = deviation(means)? / (means.len() as f64).sqrt();
    Some(error * student(means.len() - 1))
}

/// The 95 % quantile of Student's distribution with so many degrees of freedom (any table of it), which leaves 90 %
/// between it and its negative.
fn student(degrees: usize) -> f64 {
    const QUANTILES: [f64; 30] = [
        6.314, 2.920, 2.353, 2.132, 2.015, 1.943, 1.895, 1.860, 1.833, 1.812, 1.796, 1.782, 1.771,
        1.761, 1.753, 1.746, 1.740, 1.734, 1.729, 1.725, 1.721, 1.717, 1.714, 1.711, 1.708, 1.706,
        1.703, 1.701, 1.699, 1.697,
    ];
    let place = degrees.saturating_sub(1);
    QUANTILES.get(place).copied().unwrap_or(1.697)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn runs(millis: &[&[u64]]) -> Vec<Vec<Duration>> {
        let run = |run: &&[u64]| run.iter().map(|ms| Duration::from_millis(*ms)).collect();
        millis.iter().map(run).collect()
    }

    #[test]
    fn the_figures_of_a_known_sample() {
        let found = Statistics::of(&runs(&[&[100, 300], &[200, 400]])).unwrap();
        assert_eq!((found.count, found.min, found.max), (4, 0.1, 0.4));
        assert!((found.avg - 0.25).abs() < 1e-12);
        assert!((found.sd - 0.129_099).abs() < 1e-6);
        // Means 0.2 and 0.3: standard error 0.05, one degree of freedom.
        assert!((found.confidence.unwrap() - 0.05 * 6.314).abs() < 1e-9);
        assert_eq!(Statistics::of(&[]), None);
        assert_eq!(Statistics::of(&runs(&[&[5]])).unwrap().confidence, None);
    }

    proptest! {
        #[test]
        fn the_mean_lies_between_the_extremes(millis in prop::collection::vec(prop::collection::vec(1u64..100_000, 1..20), 1..30)) {
            let runs: Vec<Vec<Duration>> = millis.iter().map(|run| run.iter().map(|ms| Duration::from_millis(*ms)).collect()).collect();
            let found = Statistics::of(&runs).unwrap();
            prop_assert!(found.min <= found.avg + 1e-9 && found.avg <= found.max + 1e-9);
            prop_assert!(found.sd <= (found.max - found.min) + 1e-9);
            prop_assert_eq!(found.confidence.is_some(), runs.len() > 1);
        }
    }
}

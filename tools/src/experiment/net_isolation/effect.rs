//! When a change of shares took effect, from the bytes that classes had passed at some instants: pure.

use std::time::Duration;

/// What a class had passed when, since the change.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Since the change was asked for; before it when negative, seconds.
    pub at: f64,
    /// Bits passed.
    pub bits: f64,
}

/// How long after it was asked for a change took effect: the delay with which a class that passes `rates.0` bits per
/// second before and `rates.1` after fits the `samples` best (least squares over all delays from zero on in steps of
/// `step`). Nothing if there are too few samples after the change.
///
/// A class passes whole frames, so a single sample says little; all of them together say to a fraction of a frame when
/// the slope changed.
pub fn delay(samples: &[Sample], rates: (f64, f64), step: Duration) -> Option<Duration> {
    let last = samples.last().filter(|sample| sample.at > 0.0)?.at;
    if samples.len() < 8 {
        return None;
    }
    let step = step.as_secs_f64();
    let candidates = (0u32..).map(|count| f64::from(count) * step);
    let mut best = None;
    for delay in candidates.take_while(|delay| *delay < last) {
        let error = misfit(samples, rates, delay);
        if best.is_none_or(|(_, least)| error < least) {
            best = Some((delay, error));
        }
    }
    best.map(|(delay, _)| Duration::from_secs_f64(delay))
}

/// The variance of what the samples have beyond two straight lines that meet at `delay`: where the lines lie does not
/// matter, only how well their shape fits.
fn misfit(samples: &[Sample], (before, after): (f64, f64), delay: f64) -> f64 {
    let rest = samples.iter().map(|sample| {
        let passed = before * sample.at.min(delay) + after * (sample.at - delay).max(0.0);
        sample.bits - passed
    });
    let rest: Vec<f64> = rest.collect();
    let mean = rest.iter().sum::<f64>() / rest.len() as f64;
    rest.iter().map(|value| (value - mean).powi(2)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_delay_is_found_to_a_frame_and_a_sample(
            delay_us in 0u32..60_000,
            before in 2.0f64..10.0,
            change in prop::sample::select(vec![-1.5, 3.0, 6.0]),
            // The 200 samples go on for 79 ms at least after the change.
            interval_us in 650u32..3_000,
            frame in prop::sample::select(vec![0.0f64, 11_536.0]),
        ) {
            let rates = (before * 1e6, (before + change) * 1e6);
            let meant = f64::from(delay_us) / 1e6;
            let samples: Vec<Sample> = (0..200).map(|number| {
                let at = f64::from(number * interval_us) / 1e6 - 0.05;
                let bits = rates.0 * at.min(meant) + rates.1 * (at - meant).max(0.0);
                let bits = if frame > 0.0 { (bits / frame).floor() * frame } else { bits };
                Sample { at, bits }
            }).collect();
            let found = super::delay(&samples, rates, Duration::from_micros(250)).unwrap().as_secs_f64();
            let tolerance = 0.0003 + 1.2 * frame / (rates.1 - rates.0).abs();
            prop_assert!((found - meant).abs() <= tolerance, "{} for {}", found, meant);
        }
    }

    #[test]
    fn without_samples_after_the_change_nothing_is_known() {
        let sample = |at| Sample { at, bits: 0.0 };
        let before: Vec<Sample> = (0..20)
            .map(|n| sample(f64::from(n) / 100.0 - 1.0))
            .collect();
        assert_eq!(delay(&before, (1.0, 2.0), Duration::from_millis(1)), None);
        assert_eq!(delay(&[], (1.0, 2.0), Duration::from_millis(1)), None);
    }
}

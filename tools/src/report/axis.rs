//! Mapping from measured values to positions on paper, and where the ticks go.

use std::time::Duration;

/// The unit that keeps the tick labels of a time axis short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
}

impl TimeUnit {
    /// The unit for an axis that ends at `longest`.
    pub fn for_axis(longest: Duration) -> Self {
        if longest < Duration::from_millis(2) {
            Self::Micros
        } else if longest < Duration::from_secs(10) {
            Self::Millis
        } else {
            Self::Seconds
        }
    }

    /// The unit's symbol.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Micros => "µs",
            Self::Millis => "ms",
            Self::Seconds => "s",
        }
    }

    /// `value` as a number of this unit.
    pub fn of(self, value: Duration) -> f64 {
        let seconds = value.as_secs_f64();
        match self {
            Self::Micros => seconds * 1e6,
            Self::Millis => seconds * 1e3,
            Self::Seconds => seconds,
        }
    }
}

/// A given time in the unit that suits its size, without needless zeros: `150 ms`, `30.3 ms`.
pub fn time_label(value: Duration) -> String {
    let (number, decimals, unit) = sized(value);
    format!("{} {unit}", short_number(number, decimals))
}

/// A measured time with three significant digits or so, zeros kept: `93.0 ms`.
pub fn measured_label(value: Duration) -> String {
    let (number, decimals, unit) = sized(value);
    format!("{number:.decimals$} {unit}")
}

fn sized(value: Duration) -> (f64, usize, &'static str) {
    let unit = TimeUnit::for_axis(value);
    let number = unit.of(value);
    let decimals = match number {
        n if n >= 100.0 => 0,
        n if n >= 10.0 => 1,
        _ => 2,
    };
    (number, decimals, unit.symbol())
}

/// `value` with at most `decimals` digits after the point and no trailing zeros.
pub fn short_number(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.'),
        false => text.as_str(),
    };
    if text == "-0" {
        "0".to_owned()
    } else {
        text.replace('-', "\u{2212}")
    }
}

/// A share between 0 and 1 as a percentage, with as many digits as it needs to be told from zero.
pub fn percent(share: f64) -> String {
    let value = share * 100.0;
    let decimals = match value {
        v if v == 0.0 || v >= 10.0 => 0,
        v if v >= 1.0 => 1,
        v if v >= 0.1 => 2,
        v if v >= 0.01 => 3,
        _ => 5,
    };
    format!("{} %", short_number(value, decimals))
}

/// How values are spread along an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spread {
    /// Equal distances for equal differences.
    Linear,
    /// Equal distances for equal ratios; values at or below the lower end sit on it.
    Log,
    /// Near-linear up to the given value and logarithmic above, so that zero has a place.
    Symlog(f64),
}

/// One axis: a range of values laid over a range of positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Axis {
    /// How values are spread.
    pub spread: Spread,
    /// The values at both ends.
    pub values: (f64, f64),
    /// The positions of both ends; decreasing for a vertical axis.
    pub positions: (f64, f64),
}

impl Axis {
    /// The position of `value`. Linear axes go on beyond their ends; the caller clips.
    pub fn at(&self, value: f64) -> f64 {
        let (from, to) = self.values;
        let share = match self.spread {
            Spread::Linear => (value - from) / (to - from),
            Spread::Log => (value.max(from) / from).ln() / (to / from).ln(),
            Spread::Symlog(knee) => {
                ((value - from).max(0.0) / knee).ln_1p() / ((to - from) / knee).ln_1p()
            }
        };
        self.positions.0 + share * (self.positions.1 - self.positions.0)
    }

    /// Round values inside the axis, at most about `count` of them, with their labels.
    pub fn ticks(&self, count: usize) -> Vec<(f64, String)> {
        match self.spread {
            Spread::Log => self.log_ticks(),
            Spread::Linear | Spread::Symlog(_) => self.linear_ticks(count),
        }
    }

    fn linear_ticks(&self, count: usize) -> Vec<(f64, String)> {
        let (from, to) = self.values;
        let (step, decimals) = round_step((to - from) / count.max(1) as f64);
        let slack = step * 1e-6;
        let mut ticks = Vec::new();
        let mut multiple = (from / step - 1e-6).ceil();
        while multiple * step <= to + slack {
            let value = multiple * step;
            ticks.push((value, short_number(value, decimals)));
            multiple += 1.0;
        }
        ticks
    }

    fn log_ticks(&self) -> Vec<(f64, String)> {
        let (from, to) = self.values;
        let within_two_decades = to / from < 150.0;
        let multiples: &[f64] = if within_two_decades {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let mut ticks = Vec::new();
        let mut decade = 10f64.powf(from.log10().floor());
        while decade <= to * 1.000_001 {
            let values = multiples.iter().map(|m| m * decade);
            let inside = values.filter(|v| *v >= from * 0.999_999 && *v <= to * 1.000_001);
            ticks.extend(inside.map(|value| (value, short_number(value, 9))));
            decade *= 10.0;
        }
        ticks
    }
}

/// The smallest of 1, 2, 5, 10, ... times a power of ten that is at least `raw`, and the decimals it needs.
fn round_step(raw: f64) -> (f64, usize) {
    let mut decade = 1e9;
    let mut decimals = 0usize;
    while decade > raw && decimals < 9 {
        decade /= 10.0;
        if decade < 0.9 {
            decimals += 1;
        }
    }
    let step = [1.0, 2.0, 5.0]
        .map(|m| m * decade)
        .into_iter()
        .find(|step| *step >= raw);
    step.map_or((decade * 10.0, decimals.saturating_sub(1)), |step| {
        (step, decimals)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn linear(from: f64, to: f64) -> Axis {
        Axis {
            spread: Spread::Linear,
            values: (from, to),
            positions: (0.0, 100.0),
        }
    }

    #[test]
    fn ticks_are_round_and_labelled_with_the_digits_they_need() {
        let labels = |axis: Axis, n| axis.ticks(n).into_iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(
            labels(linear(24.0, 34.0), 10),
            [
                "24", "25", "26", "27", "28", "29", "30", "31", "32", "33", "34"
            ]
        );
        assert_eq!(labels(linear(0.0, 1.0), 4), ["0", "0.5", "1"]);
        assert_eq!(
            labels(linear(0.0, 0.5), 5),
            ["0", "0.1", "0.2", "0.3", "0.4", "0.5"]
        );
        assert_eq!(
            labels(linear(-0.02, 0.02), 4),
            ["−0.02", "−0.01", "0", "0.01", "0.02"]
        );
    }

    #[test]
    fn a_log_axis_of_few_decades_also_shows_twos_and_fives() {
        let axis = Axis {
            spread: Spread::Log,
            values: (10.0, 200.0),
            positions: (0.0, 1.0),
        };
        let labels: Vec<_> = axis.ticks(9).into_iter().map(|t| t.1).collect();
        assert_eq!(labels, ["10", "20", "50", "100", "200"]);
    }

    #[test]
    fn times_are_labelled_in_a_unit_of_their_size() {
        assert_eq!(time_label(Duration::from_micros(66)), "66 µs");
        assert_eq!(time_label(Duration::from_micros(30_360)), "30.4 ms");
        assert_eq!(time_label(Duration::from_secs(12)), "12 s");
        assert_eq!(measured_label(Duration::from_millis(93)), "93.0 ms");
    }

    #[test]
    fn small_percentages_are_told_from_zero() {
        assert_eq!(percent(0.0), "0 %");
        assert_eq!(percent(0.000_01), "0.001 %");
        assert_eq!(percent(0.085), "8.5 %");
    }

    proptest! {
        #[test]
        fn ticks_lie_inside_and_are_not_more_than_asked(from in -1e3f64..1e3, span in 1e-3f64..1e4, count in 2usize..12) {
            let ticks = linear(from, from + span).ticks(count);
            prop_assert!(ticks.len() <= count + 1);
            prop_assert!(ticks.iter().all(|(v, _)| *v >= from - span * 1e-3 && *v <= from + span * 1.001));
        }

        #[test]
        fn positions_grow_with_values(a in 0.0f64..1.0, b in 0.0f64..1.0) {
            for spread in [Spread::Linear, Spread::Symlog(0.001)] {
                let axis = Axis { spread, values: (0.0, 1.0), positions: (0.0, 100.0) };
                prop_assert_eq!(a < b, axis.at(a) < axis.at(b));
            }
        }
    }
}

//! What a row says: values against targets, what a peer reached, and what should be known beside them.

use std::time::Duration;

use sched::noise::CpuNoise;
use serde::Serialize;

use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// What a value has to be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
    /// No further from it than the tolerance.
    Within {
        /// The value meant.
        of: f64,
        /// The tolerance.
        tolerance: f64,
    },
    /// Stands beside the others and is not judged.
    None,
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(limit) => value <= limit,
            Self::AtLeast(limit) => value >= limit,
            Self::Within { of, tolerance } => (value - of).abs() <= tolerance,
            Self::None => true,
        }
    }

    /// The target in words, with its unit.
    pub fn text(self, unit: &str) -> String {
        match self {
            Self::AtMost(limit) => format!("≤ {limit} {unit}"),
            Self::AtLeast(limit) => format!("≥ {limit} {unit}"),
            Self::Within { of, tolerance } => format!("{of} ± {tolerance} {unit}"),
            Self::None => String::new(),
        }
    }
}

/// One value.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Which value of the row.
    pub label: String,
    /// The value.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What it has to be.
    pub target: Target,
    /// Whether it is.
    pub met: bool,
    /// The same of the peer, or of this program in another mode.
    pub beside: Option<String>,
}

impl Check {
    /// The median of `times` in microseconds, at most `limit`, with the 99th percentile beside it.
    pub fn median_micros(label: &str, times: Vec<Duration>, limit: f64) -> Self {
        let times = Distribution::new(times);
        let micros = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e6;
        let median = micros(times.quantile(Quantile::MEDIAN));
        Self::new(label, (median, "us"), Target::AtMost(limit)).beside(format!(
            "p99 {:.0} us",
            micros(times.quantile(Quantile::P99))
        ))
    }

    /// A value with its target.
    pub fn new(
        label: impl Into<String>,
        (value, unit): (f64, &'static str),
        target: Target,
    ) -> Self {
        Self {
            label: label.into(),
            value,
            unit,
            target,
            met: target.is_met(value),
            beside: None,
        }
    }

    /// The same, with what a peer reached.
    #[must_use]
    pub fn beside(self, text: impl Into<String>) -> Self {
        Self {
            beside: Some(text.into()),
            ..self
        }
    }
}

/// A row of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is measured.
    pub what: &'static str,
    /// The values.
    pub checks: Vec<Check>,
    /// What should be known beside them.
    pub notes: Vec<String>,
    /// Why nothing could be measured.
    pub failed: Option<String>,
    /// The noise of the CPU before and after.
    pub noise: Vec<CpuNoise>,
}

impl Row {
    /// A row of these values.
    pub fn new(checks: Vec<Check>) -> Self {
        Self {
            name: "",
            what: "",
            checks,
            notes: Vec::new(),
            failed: None,
            noise: Vec::new(),
        }
    }

    /// A row that could not be measured.
    pub fn failed(why: Failure) -> Self {
        Self {
            failed: Some(why.to_string()),
            ..Self::new(Vec::new())
        }
    }

    /// The same, with something that should be known.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Whether it was measured and every target was reached.
    pub fn is_met(&self) -> bool {
        self.failed.is_none() && self.checks.iter().all(|check| check.met)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_met_up_to_and_including_its_limit() {
        assert!(Target::AtMost(2.5).is_met(2.5) && !Target::AtMost(2.5).is_met(2.51));
        assert!(Target::AtLeast(9.9).is_met(9.9) && !Target::AtLeast(9.9).is_met(9.89));
        let share = Target::Within {
            of: 25.0,
            tolerance: 0.25,
        };
        assert!(share.is_met(25.25) && share.is_met(24.75) && !share.is_met(24.7));
    }

    #[test]
    fn a_row_that_was_not_measured_has_not_reached_its_targets() {
        assert!(!Row::failed(Failure::new("no KVM")).is_met());
        assert!(Row::new(Vec::new()).is_met());
    }
}

//! How fast a host is: how long fixed pieces of work take on it.
//!
//! The work itself stands with what measures it. Figures can be compared that come from the same program.

use std::fmt;

use sched::analysis::task::{Speed, TaskSetError};
use serde::{Deserialize, Serialize};

use crate::units::Span;

/// How long three fixed pieces of work take on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpeedFigures {
    /// Integer arithmetic.
    pub integer: Span,
    /// Floating-point arithmetic.
    pub float: Span,
    /// Reads from memory that no cache holds, each after the one before.
    pub memory: Span,
}

impl SpeedFigures {
    /// The speed of the host with these figures, for execution times measured on one with those of `reference`: that of
    /// the work in which it does worst, as nothing is known about what tasks do.
    ///
    /// # Errors
    /// When a figure is 0 or too long.
    pub fn beside(&self, reference: &Self) -> Result<Speed, TaskSetError> {
        let mut worst = (self.integer, reference.integer);
        for (here, there) in [
            (self.integer, reference.integer),
            (self.float, reference.float),
            (self.memory, reference.memory),
        ] {
            Speed::measured(here.duration(), there.duration())?;
            let nanos = |span: Span| span.duration().as_nanos();
            // Both at most an hour: their products fit.
            if nanos(here) * nanos(worst.1) > nanos(worst.0) * nanos(there) {
                worst = (here, there);
            }
        }
        Speed::measured(worst.0.duration(), worst.1.duration())
    }
}

impl fmt::Display for SpeedFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            integer,
            float,
            memory,
        } = self;
        write!(
            f,
            "{{ integer = \"{integer}\", float = \"{float}\", memory = \"{memory}\" }}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn figures(times: [u64; 3]) -> SpeedFigures {
        let [integer, float, memory] = times.map(|ms| Span::from(Duration::from_millis(ms)));
        SpeedFigures {
            integer,
            float,
            memory,
        }
    }

    #[test]
    fn a_host_is_as_fast_as_in_the_work_that_it_does_worst() {
        let reference = figures([10, 20, 30]);
        let of = |times| {
            let speed = figures(times).beside(&reference).unwrap();
            speed.of(Duration::from_millis(100))
        };
        assert_eq!(of([10, 20, 30]), Duration::from_millis(100));
        assert_eq!(of([5, 30, 15]), Duration::from_millis(150));
        assert_eq!(of([5, 10, 24]), Duration::from_millis(80));
        assert!(figures([1, 0, 1]).beside(&reference).is_err());
        assert!(reference.beside(&figures([7_200_000, 1, 1])).is_err());
    }

    #[test]
    fn figures_are_printed_as_a_specification_takes_them() {
        let figures = figures([10, 20, 30]);
        let text = format!("reference = {figures}");
        let read: std::collections::HashMap<String, SpeedFigures> = toml::from_str(&text).unwrap();
        assert_eq!(read["reference"], figures);
    }
}

//! The pair (Q, P): a runtime of Q in every period of P, by a deadline D after each period's beginning.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use crate::request::{BackendKind, Enforcement, Placement, VcpuRequest};

/// The least runtime SCHED_DEADLINE accepts: `1 << DL_SCALE` nanoseconds (`kernel/sched/deadline.c`, `__checkparam_dl`).
pub const LEAST_RUNTIME: Duration = Duration::from_nanos(1024);

/// The kernel's default for `kernel.sched_deadline_period_min_us`.
const DEFAULT_LEAST_PERIOD: Duration = Duration::from_micros(100);

/// The kernel's default for `kernel.sched_deadline_period_max_us`: 2^22 us, about 4.19 s.
const DEFAULT_LONGEST_PERIOD: Duration = Duration::from_micros(1 << 22);

/// A hard reservation: `runtime` of CPU time in every `period`, never more, supplied `deadline` after the period's
/// beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Reservation {
    runtime: Duration,
    deadline: Duration,
    period: Duration,
}

/// How a reservation is written down: whole nanoseconds. A deadline that is the period is left out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    runtime_ns: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ns: Option<u64>,
    period_ns: u64,
}

/// Why a pair of durations is no reservation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReservationError {
    /// The period is below `kernel.sched_deadline_period_min_us`.
    #[error("period {} is below the kernel's minimum of {}: use a longer period or lower kernel.sched_deadline_period_min_us", human(*.period), human(*.least))]
    PeriodTooShort {
        /// The period asked for.
        period: Duration,
        /// The shortest the kernel accepts.
        least: Duration,
    },
    /// The period is above `kernel.sched_deadline_period_max_us`.
    #[error("period {} is above the kernel's maximum of {}: use a shorter period or raise kernel.sched_deadline_period_max_us", human(*.period), human(*.longest))]
    PeriodTooLong {
        /// The period asked for.
        period: Duration,
        /// The longest the kernel accepts.
        longest: Duration,
    },
    /// The runtime is below [`LEAST_RUNTIME`].
    #[error("runtime {} is below the kernel's minimum of 1024 ns: ask for more", human(*.runtime))]
    RuntimeTooShort {
        /// The runtime asked for.
        runtime: Duration,
    },
    /// The runtime does not fit into the period.
    #[error("runtime {} is longer than its period of {}: lower the runtime or lengthen the period", human(*.runtime), human(*.period))]
    RuntimeAbovePeriod {
        /// The runtime asked for.
        runtime: Duration,
        /// The period asked for.
        period: Duration,
    },
    /// D < Q.
    #[error("deadline {} is shorter than the runtime of {}: lengthen the deadline or lower the runtime", human(*.deadline), human(*.runtime))]
    DeadlineTooShort {
        /// The deadline asked for.
        deadline: Duration,
        /// Q.
        runtime: Duration,
    },
    /// D > P.
    #[error("deadline {} is longer than the period of {}: shorten the deadline or lengthen the period", human(*.deadline), human(*.period))]
    DeadlineTooLong {
        /// The deadline asked for.
        deadline: Duration,
        /// P.
        period: Duration,
    },
}

/// The periods a kernel accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeriodRange {
    /// `kernel.sched_deadline_period_min_us`.
    pub least: Duration,
    /// `kernel.sched_deadline_period_max_us`.
    pub longest: Duration,
}

impl PeriodRange {
    /// The kernel's defaults.
    pub const DEFAULT: Self = Self {
        least: DEFAULT_LEAST_PERIOD,
        longest: DEFAULT_LONGEST_PERIOD,
    };

    /// The range in force on this host, read once; the defaults where the kernel does not tell.
    pub fn of_this_host() -> Self {
        static RANGE: OnceLock<PeriodRange> = OnceLock::new();
        *RANGE.get_or_init(|| Self {
            least: sysctl_us("sched_deadline_period_min_us").unwrap_or(DEFAULT_LEAST_PERIOD),
            longest: sysctl_us("sched_deadline_period_max_us").unwrap_or(DEFAULT_LONGEST_PERIOD),
        })
    }
}

impl Reservation {
    /// A reservation of `runtime` in every `period`, within what this host's kernel accepts, with the deadline at the
    /// period's end.
    ///
    /// # Errors
    /// When the kernel would not take the pair as SCHED_DEADLINE parameters.
    pub fn new(runtime: Duration, period: Duration) -> Result<Self, ReservationError> {
        Self::within(runtime, period, PeriodRange::of_this_host())
    }

    /// As [`Reservation::new`], for a host with the given range of periods.
    ///
    /// # Errors
    /// When the pair is outside the range, too short, or Q > P.
    pub fn within(
        runtime: Duration,
        period: Duration,
        range: PeriodRange,
    ) -> Result<Self, ReservationError> {
        let PeriodRange { least, longest } = range;
        if period < least {
            return Err(ReservationError::PeriodTooShort { period, least });
        }
        if period > longest {
            return Err(ReservationError::PeriodTooLong { period, longest });
        }
        if runtime < LEAST_RUNTIME {
            return Err(ReservationError::RuntimeTooShort { runtime });
        }
        if runtime > period {
            return Err(ReservationError::RuntimeAbovePeriod { runtime, period });
        }
        Ok(Self {
            runtime,
            deadline: period,
            period,
        })
    }

    /// The same with Q supplied this long after each period's beginning.
    ///
    /// # Errors
    /// Unless Q <= D <= P.
    pub fn with_deadline(self, deadline: Duration) -> Result<Self, ReservationError> {
        let (runtime, period) = (self.runtime, self.period);
        if deadline < runtime {
            return Err(ReservationError::DeadlineTooShort { deadline, runtime });
        }
        if deadline > period {
            return Err(ReservationError::DeadlineTooLong { deadline, period });
        }
        Ok(Self { deadline, ..self })
    }

    /// The same with another Q.
    ///
    /// # Errors
    /// Unless 1024 ns <= Q <= D.
    pub fn with_runtime(self, runtime: Duration) -> Result<Self, ReservationError> {
        Self::new(runtime, self.period)?.with_deadline(self.deadline)
    }

    /// The same with another P. A deadline at the end of the period stays there.
    ///
    /// # Errors
    /// When the kernel would not take the period, or it is shorter than Q or D.
    pub fn with_period(self, period: Duration) -> Result<Self, ReservationError> {
        let new = Self::new(self.runtime, period)?;
        if self.is_constrained() {
            new.with_deadline(self.deadline)
        } else {
            Ok(new)
        }
    }

    /// Q: the CPU time in every period.
    pub fn runtime(&self) -> Duration {
        self.runtime
    }

    /// D: the deadline, counted from the period's beginning.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Whether the deadline comes before the period's end.
    pub fn is_constrained(&self) -> bool {
        self.deadline < self.period
    }

    /// P: the period.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Q / P: the speed of the virtual CPU, in 0..=1.
    pub fn utilisation(&self) -> f64 {
        self.runtime.as_secs_f64() / self.period.as_secs_f64()
    }
}

impl fmt::Display for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({}, {}", human(self.runtime), human(self.period))?;
        if self.is_constrained() {
            write!(f, ", deadline {}", human(self.deadline))?;
        }
        write!(f, ")")
    }
}

impl TryFrom<Wire> for Reservation {
    type Error = ReservationError;

    fn try_from(wire: Wire) -> Result<Self, ReservationError> {
        let pair = Self::new(
            Duration::from_nanos(wire.runtime_ns),
            Duration::from_nanos(wire.period_ns),
        )?;
        match wire.deadline_ns {
            Some(deadline) => pair.with_deadline(Duration::from_nanos(deadline)),
            None => Ok(pair),
        }
    }
}

impl From<Reservation> for Wire {
    fn from(reservation: Reservation) -> Self {
        Self {
            runtime_ns: nanos(reservation.runtime),
            deadline_ns: reservation
                .is_constrained()
                .then(|| nanos(reservation.deadline)),
            period_ns: nanos(reservation.period),
        }
    }
}

/// A duration in whole nanoseconds, saturated at 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// As [`nanos`], signed; saturated at 292 years.
pub(crate) fn signed_nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// A duration as people write it: `28 ms`, `2.5 ms`, `100 us`, `1024 ns`.
pub fn human(duration: Duration) -> String {
    let ns = nanos(duration);
    let (unit, scale) = if ns < 10_000 && !ns.is_multiple_of(1_000) {
        ("ns", 1)
    } else if ns < 1_000_000 {
        ("us", 1_000)
    } else if ns < 10_000_000_000 {
        ("ms", 1_000_000)
    } else {
        ("s", 1_000_000_000)
    };
    let (whole, rest) = (ns / scale, ns % scale);
    if rest == 0 {
        return format!("{whole} {unit}");
    }
    let digits = format!("{:.3}", rest as f64 / scale as f64);
    let fraction = digits.trim_start_matches('0').trim_end_matches('0');
    format!("{whole}{} {unit}", fraction.trim_end_matches('.'))
}

fn sysctl_us(name: &str) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
    text.trim().parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_reservation_is_printed_as_the_pair_people_write() {
        let text = |q, p| {
            Reservation::within(q, p, PeriodRange::DEFAULT)
                .unwrap()
                .to_string()
        };
        assert_eq!(text(ms(28), ms(50)), "(28 ms, 50 ms)");
        assert_eq!(text(Duration::from_micros(2500), ms(10)), "(2.5 ms, 10 ms)");
        assert_eq!(
            text(LEAST_RUNTIME, Duration::from_micros(100)),
            "(1024 ns, 100 us)"
        );
        assert_eq!(human(Duration::from_nanos(10_050_000)), "10.05 ms");
    }

    #[test]
    fn each_bound_is_refused_with_its_own_reason() {
        let why = |q, p| Reservation::within(q, p, PeriodRange::DEFAULT).unwrap_err();
        let us = Duration::from_micros;
        assert!(matches!(
            why(us(5), us(99)),
            ReservationError::PeriodTooShort { .. }
        ));
        assert!(matches!(
            why(ms(5), us((1 << 22) + 1)),
            ReservationError::PeriodTooLong { .. }
        ));
        assert!(matches!(
            why(Duration::from_nanos(1023), ms(1)),
            ReservationError::RuntimeTooShort { .. }
        ));
        assert!(matches!(
            why(us(1001), ms(1)),
            ReservationError::RuntimeAbovePeriod { .. }
        ));
        assert_eq!(
            why(us(5), us(5)).to_string(),
            "period 5 us is below the kernel's minimum of 100 us: use a longer period or lower kernel.sched_deadline_period_min_us"
        );
    }

    #[test]
    fn a_deadline_outside_runtime_and_period_is_refused_with_both_values() {
        let pair = Reservation::within(ms(10), ms(50), PeriodRange::DEFAULT).unwrap();
        let text = |deadline| pair.with_deadline(deadline).unwrap_err().to_string();
        assert!(text(ms(9)).contains("9 ms is shorter than the runtime of 10 ms"));
        assert!(text(ms(51)).contains("51 ms is longer than the period of 50 ms"));
        let constrained = pair.with_deadline(ms(30)).unwrap();
        assert_eq!(constrained.to_string(), "(10 ms, 50 ms, deadline 30 ms)");
        assert!(constrained.with_runtime(ms(31)).is_err());
        assert!(constrained.with_period(ms(29)).is_err());
        assert_eq!(constrained.with_period(ms(40)).unwrap().deadline(), ms(30));
        assert_eq!(pair.with_period(ms(40)).unwrap().deadline(), ms(40));
    }

    #[test]
    fn what_was_written_down_without_a_deadline_is_due_at_the_end_of_the_period() {
        let read = |text| serde_json::from_str::<Reservation>(text);
        let pair = read(r#"{"runtime_ns":10000000,"period_ns":50000000}"#).unwrap();
        assert_eq!(pair.deadline(), ms(50));
        assert!(!serde_json::to_string(&pair).unwrap().contains("deadline"));
        assert!(read(r#"{"runtime_ns":10000000,"deadline_ns":9,"period_ns":50000000}"#).is_err());
    }

    proptest! {
        #[test]
        fn a_reservation_survives_being_written_down(
            q in 1024u64..4_194_304_000, p in 100_000u64..4_194_304_000, slack in 0u64..4_194_304_000,
        ) {
            let pair = (Duration::from_nanos(q.min(p)), Duration::from_nanos(p));
            let made = Reservation::within(pair.0, pair.1, PeriodRange::DEFAULT).unwrap();
            let deadline = Duration::from_nanos((q.min(p) + slack).min(p));
            let made = made.with_deadline(deadline).unwrap();
            let text = serde_json::to_string(&made).unwrap();
            prop_assert_eq!(serde_json::from_str::<Reservation>(&text).unwrap(), made);
        }

        #[test]
        fn what_the_kernel_would_refuse_cannot_be_read_back_either(q in 0u64..200_000, p in 0u64..200_000) {
            let text = format!("{{\"runtime_ns\":{q},\"period_ns\":{p}}}");
            let read = serde_json::from_str::<Reservation>(&text).is_ok();
            prop_assert_eq!(read, p >= 100_000 && (1024..=p).contains(&q));
        }
    }
}

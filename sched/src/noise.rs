//! Noise: what the host takes from a thread that should have a CPU to itself.
//!
//! A thread spins on one CPU at the highest SCHED_FIFO priority and looks at the clock; every gap in what it sees is time
//! that interrupts, firmware or a hypervisor below took, and that no reservation can give. SCHED_DEADLINE threads
//! already running on the CPU show up too.

use std::fmt;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::histogram::{Histogram, Summary};
use crate::kernel::{Policy, Tid, monotonic, set_policy};
use crate::reservation::{Reservation, human};

/// A gap below this is the loop itself and the caches.
pub const THRESHOLD: Duration = Duration::from_micros(10);

/// Spinning and resting alternate, so that real-time throttling (95 % by default) never takes part.
const SPIN: Duration = Duration::from_millis(90);
const REST: Duration = Duration::from_millis(10);

/// How many of the longest gaps are kept.
const LONGEST: usize = 64;

/// A period in this many may be disturbed: the 99.9th percentile.
const PERIODS: u32 = 1000;

/// The noise of one CPU.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuNoise {
    /// The CPU.
    pub cpu: u32,
    /// How long the thread spun.
    pub observed: Duration,
    /// Whether it had SCHED_FIFO; as an ordinary thread it counts all other threads as noise.
    pub real_time: bool,
    /// All gaps of at least [`THRESHOLD`].
    pub gaps: Summary,
    /// The longest gaps, longest first.
    pub longest: Vec<Duration>,
}

impl CpuNoise {
    /// The share of time the gaps took.
    pub fn share(&self) -> f64 {
        self.gaps.total.as_secs_f64() / self.observed.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The gap that fewer than one period in a thousand exceeds.
    pub fn gap_at(&self, period: Duration) -> Duration {
        let thousand_periods = period.saturating_mul(PERIODS).as_nanos().max(1);
        let allowed = self.observed.as_nanos() / thousand_periods;
        let allowed = usize::try_from(allowed).unwrap_or(usize::MAX);
        // Past those that were kept, the shortest kept is an upper bound.
        let index = allowed.min(self.longest.len().saturating_sub(1));
        self.longest.get(index).copied().unwrap_or_default()
    }
}

impl fmt::Display for CpuNoise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary {
            count, p999, max, ..
        } = self.gaps;
        write!(
            f,
            "CPU {}: {count} gaps over {} in {}, p99.9 {}, longest {}, {:.2} % of the time",
            self.cpu,
            human(THRESHOLD),
            human(self.observed),
            human(p999),
            human(max),
            self.share() * 100.0
        )?;
        if !self.real_time {
            write!(f, " (measured as an ordinary thread)")?;
        }
        Ok(())
    }
}

/// A reservation finer than what the host can keep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{reservation} is finer than the noise of CPU {cpu}, where one period in a thousand loses {}: lengthen the period, quieten the host, or force it", human(*.gap))]
pub struct TooFine {
    /// What was asked for.
    pub reservation: Reservation,
    /// The CPU.
    pub cpu: u32,
    /// The gap.
    pub gap: Duration,
}

/// Refuses a promise that the host's own noise would break.
///
/// A gap as long as Q can take a whole budget, and one as long as D - Q can make any budget late; the gap that one period
/// in a thousand suffers has to be shorter than both.
///
/// # Errors
/// [`TooFine`], with the gap.
pub fn check(reservation: Reservation, noise: &CpuNoise) -> Result<(), TooFine> {
    let (runtime, period) = (reservation.runtime(), reservation.period());
    let gap = noise.gap_at(period);
    if gap <= runtime && gap <= reservation.deadline() - runtime {
        return Ok(());
    }
    Err(TooFine {
        reservation,
        cpu: noise.cpu,
        gap,
    })
}

/// Measures each of `cpus` in turn for `duration`.
///
/// # Errors
/// When a thread cannot be started; a CPU that cannot be measured (offline, outside the process's cpuset) is left out.
pub fn measure(cpus: &[u32], duration: Duration) -> std::io::Result<Vec<CpuNoise>> {
    let mut all = Vec::with_capacity(cpus.len());
    for &cpu in cpus {
        let spinner = std::thread::Builder::new()
            .name(format!("noise-cpu{cpu}"))
            .spawn(move || observe(cpu, duration))?;
        if let Ok(Some(noise)) = spinner.join() {
            all.push(noise);
        }
    }
    Ok(all)
}

fn observe(cpu: u32, duration: Duration) -> Option<CpuNoise> {
    let mut set = CpuSet::new();
    set.set(cpu as usize).ok()?;
    sched_setaffinity(Pid::from_raw(0), &set).ok()?;
    let real_time = set_policy(Tid::current(), Policy::Fifo { priority: 99 }).is_ok();
    let mut gaps = Gaps::new();
    let mut observed = Duration::ZERO;
    while observed < duration {
        observed += gaps.spin(SPIN.min(duration - observed));
        std::thread::sleep(REST);
    }
    Some(CpuNoise {
        cpu,
        observed,
        real_time,
        gaps: gaps.histogram.summary(),
        longest: gaps.longest,
    })
}

struct Gaps {
    histogram: Histogram,
    longest: Vec<Duration>,
}

impl Gaps {
    fn new() -> Self {
        Self {
            histogram: Histogram::new(),
            longest: Vec::with_capacity(LONGEST + 1),
        }
    }

    /// Looks at the clock for `length`; how long it took.
    fn spin(&mut self, length: Duration) -> Duration {
        let started = monotonic();
        let mut last = started;
        while last - started < length {
            let now = monotonic();
            if now - last >= THRESHOLD {
                self.record(now - last);
            }
            last = now;
        }
        last - started
    }

    fn record(&mut self, gap: Duration) {
        self.histogram.record(gap);
        let at = self.longest.partition_point(|&longer| longer >= gap);
        self.longest.insert(at, gap);
        self.longest.truncate(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn noise(observed: Duration, longest: &[Duration]) -> CpuNoise {
        CpuNoise {
            cpu: 1,
            observed,
            real_time: true,
            gaps: Summary::default(),
            longest: longest.to_vec(),
        }
    }

    #[test]
    fn a_gap_that_one_period_in_a_thousand_suffers_is_allowed() {
        let rare = noise(ms(50_000), &[ms(30), ms(1)]);
        let reservation = Reservation::new(ms(28), ms(50)).unwrap();
        assert_eq!(rare.gap_at(ms(50)), ms(1));
        assert_eq!(check(reservation, &rare), Ok(()));
        let short_look = noise(ms(1_000), &[ms(30), ms(1)]);
        assert_eq!(check(reservation, &short_look).unwrap_err().gap, ms(30));
    }

    #[test]
    fn a_gap_longer_than_the_budget_or_than_the_slack_is_refused() {
        let noise = noise(ms(1_000), &[ms(3)]);
        let fits = |q, p| check(Reservation::new(ms(q), ms(p)).unwrap(), &noise).is_ok();
        assert!(fits(3, 6) && fits(28, 50));
        assert!(!fits(2, 50), "shorter than the gap");
        assert!(!fits(48, 50), "slack shorter than the gap");
    }

    #[test]
    fn a_quiet_cpu_refuses_nothing() {
        let finest = Reservation::new(Duration::from_micros(50), Duration::from_micros(100));
        assert_eq!(check(finest.unwrap(), &noise(ms(1_000), &[])), Ok(()));
    }

    #[test]
    fn the_longest_gaps_are_kept_in_order_and_no_more_than_that() {
        let mut gaps = Gaps::new();
        (0..200).for_each(|i| gaps.record(ms(i * 37 % 200)));
        assert_eq!(gaps.longest.len(), LONGEST);
        assert_eq!(gaps.longest[0], ms(199));
        assert!(gaps.longest.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn a_cpu_is_observed_for_as_long_as_asked() {
        let all = measure(&[0, 65_000], ms(120)).unwrap();
        assert_eq!(all.len(), 1, "a CPU that does not exist is left out");
        assert!(all[0].observed >= ms(120));
        assert!(all[0].gaps.total <= all[0].observed);
        assert_eq!(all[0].gaps.count == 0, all[0].longest.is_empty());
    }
}

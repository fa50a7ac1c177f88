//! The configurations of `edge`: what runs, which budgets are swept, and what theory predicts for it.

use std::time::Duration;

use guest_images::taskset::{Builder, nanos};
use rt_abi::taskset::{Policy, TaskSet};
use sched::admission::{Limits, demand};
use sched::analysis::{self, Phase, Scheduler, Supply, Task};
use sched::budget::default_surplus;
use sched::request::VcpuRequest;
use sched::reservation::Reservation;

use crate::experiment::ExperimentError;
use crate::experiment::scenario::{OVERHEAD, built};

/// P.
pub const PERIOD: Duration = Duration::from_millis(50);
/// The neighbour's period. Shorter than P, so that its deadline can come before the guest's and delay a whole budget;
/// and no divisor of anything here, so that it drifts through every phase.
pub const NEIGHBOUR_PERIOD: Duration = Duration::from_millis(47);
/// How long the guest is up before its first release if no phase is added.
const START: Duration = Duration::from_millis(20);
/// What is left free when the neighbour fills the CPU, so that rounding does not decide.
const SLACK: Duration = Duration::from_micros(5);
/// One configuration and its sweep.
pub struct Configuration {
    /// Its short name, in files and keys.
    pub key: &'static str,
    /// Its name in the figure.
    pub name: &'static str,
    /// Which supply is assumed, and why.
    pub note: &'static str,
    /// Whether a busy loop at the lowest priority keeps the guest awake.
    pub hog: bool,
    /// Whether a neighbour fills the CPU.
    pub neighbour: bool,
    /// Run by run: how long after the beginning of a server's period the releases fall, where a hog keeps the server
    /// going; otherwise what is added to the first release.
    pub phases: Vec<Duration>,
    /// The budgets.
    pub budgets: Vec<Duration>,
    /// The length of each run.
    pub duration: Duration,
}

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The tasks, as the analysis has them.
fn tasks() -> Result<analysis::TaskSet, analysis::TaskSetError> {
    analysis::TaskSet::new([
        Task::new("t1", ms(30), ms(150)),
        Task::new("t2", ms(50), ms(200)),
    ])
}

/// The task set of one run.
pub fn task_set(
    configuration: &Configuration,
    phase: Duration,
) -> Result<TaskSet, ExperimentError> {
    // The hog begins with the run: waking for it starts the server's first period, and the others follow. Releases
    // that come later by an offset find the server at that phase for good.
    let (start, offset) = match configuration.hog {
        true => (START, phase),
        false => (START + phase, Duration::ZERO),
    };
    let later = |task| rt_abi::taskset::Task {
        offset: nanos(offset),
        ..task
    };
    let set = Builder::new(Policy::RateMonotonic, configuration.duration)
        .periodic_with("t1", ms(30), ms(150), later)
        .periodic_with("t2", ms(50), ms(200), later)
        .options(|set| set.start = nanos(start));
    built(if configuration.hog { set.hog(0) } else { set })
}

/// 24 to 34 ms in steps of half a millisecond.
fn all_budgets() -> Vec<Duration> {
    (48..=68)
        .map(|half| Duration::from_micros(half * 500))
        .collect()
}

/// Budgets in tenths of a millisecond.
fn budgets(tenths: &[u64]) -> Vec<Duration> {
    tenths
        .iter()
        .map(|t| Duration::from_micros(t * 100))
        .collect()
}

/// As many phases, evenly spread over the period.
fn spread_phases(count: u64) -> Vec<Duration> {
    let step = nanos(PERIOD) / count;
    (0..count).map(|n| Duration::from_nanos(n * step)).collect()
}

/// The configurations; the quick ones look only around the predictions.
pub fn configurations(quick: bool) -> Vec<Configuration> {
    let near = budgets(&[250, 260, 265, 270, 280]);
    let lengths = |full: u64, short: u64| ms(if quick { short } else { full });
    let phases = |full: u64, short: u64| spread_phases(if quick { short } else { full });
    // Just after the budget of a period and well before the next: where supply is least.
    let worst = vec![ms(21)];
    let low = || if quick { near.clone() } else { all_budgets() };
    let high = if quick {
        budgets(&[280, 290, 300, 310, 320])
    } else {
        all_budgets()
    };
    let aligned = "waking starts a period with a full budget";
    let base = |key, name, note| Configuration {
        key,
        name,
        note,
        hog: false,
        neighbour: false,
        phases: vec![Duration::ZERO],
        budgets: low(),
        duration: lengths(3_000, 1_200),
    };
    vec![
        base("alone", "alone", aligned),
        Configuration {
            phases: phases(5, 2),
            duration: lengths(1_200, 1_200),
            ..base("phases", "alone, release phases swept", aligned)
        },
        Configuration {
            neighbour: true,
            duration: lengths(6_000, 1_800),
            ..base(
                "neighbour",
                "admitted neighbour to 90 %",
                "as alone; a budget may come anywhere in its period",
            )
        },
        Configuration {
            hog: true,
            phases: phases(5, 2),
            duration: lengths(1_800, 1_200),
            ..base(
                "hog",
                "hog in the guest, phases swept",
                "never sleeps: any phase, but strictly periodic supply",
            )
        },
        Configuration {
            hog: true,
            neighbour: true,
            phases: if quick { worst } else { spread_phases(5) },
            budgets: high,
            // The neighbour drifts by 3 ms in 50: it takes this long to meet the guest's critical instants, every 600
            // ms, at every phase.
            duration: lengths(6_000, 5_400),
            ..base(
                "both",
                "hog and neighbour, phases swept",
                "any phase, budgets as late as EDF lets the neighbour make them",
            )
        },
    ]
}

impl Configuration {
    /// What the server supplies at this budget.
    fn supply(&self, budget: Duration, limits: Limits) -> Supply {
        let neighbours = match self.neighbour {
            true => neighbour_beside(budget, limits),
            false => None,
        };
        let others: Vec<_> = neighbours
            .iter()
            .map(|n| (n.runtime(), n.period()))
            .collect();
        Supply {
            budget,
            period: PERIOD,
            latest: analysis::latest_under_edf(budget, PERIOD, &others),
            phase: if self.hog { Phase::Any } else { Phase::Aligned },
        }
    }

    /// The least budget that suffices.
    pub fn predicted(&self, limits: Limits) -> Duration {
        let supply = |budget| self.supply(budget, limits);
        let least = |tasks: analysis::TaskSet| {
            analysis::least_budget(&tasks, Scheduler::RATE_MONOTONIC, PERIOD, supply)
        };
        tasks().ok().and_then(least).unwrap_or(PERIOD)
    }

    /// The time all its runs take.
    pub fn run_time(&self) -> Duration {
        let runs = u32::try_from(self.phases.len() * self.budgets.len()).unwrap_or(u32::MAX);
        (self.duration + OVERHEAD) * runs
    }
}

/// The largest neighbour that is admitted beside a guest with this budget.
pub fn neighbour_beside(budget: Duration, limits: Limits) -> Option<Reservation> {
    let left = limits.per_cpu() - demand(&request(budget)?);
    let surplus = default_surplus(Reservation::new(ms(1), NEIGHBOUR_PERIOD).ok()?);
    let runtime = left.of(NEIGHBOUR_PERIOD).checked_sub(surplus + SLACK)?;
    Reservation::new(runtime, NEIGHBOUR_PERIOD).ok()
}

/// What the guest asks for.
pub fn request(budget: Duration) -> Option<VcpuRequest> {
    Some(VcpuRequest {
        reservation: Some(Reservation::new(budget, PERIOD).ok()?),
        ..VcpuRequest::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::neighbour;

    fn predicted(key: &str) -> Duration {
        let all = configurations(false);
        let of = all.iter().find(|c| c.key == key).unwrap();
        of.predicted(Limits::modern())
    }

    #[test]
    fn only_hog_and_neighbour_together_come_near_the_worst_case() {
        for key in ["alone", "phases", "neighbour", "hog"] {
            assert_eq!(predicted(key), Duration::from_micros(26_667), "{key}");
        }
        let both = predicted("both");
        assert!(both > ms(30) && both < ms(32), "{both:?}");
    }

    #[test]
    fn the_neighbour_fills_the_cpu_and_no_more() {
        for budget in all_budgets() {
            let limits = Limits::modern();
            let neighbour = neighbour_beside(budget, limits).unwrap();
            let pair = (neighbour.runtime(), neighbour.period());
            let used = demand(&request(budget).unwrap())
                + demand(&neighbour::request(None, pair).unwrap());
            let left = limits.per_cpu() - used;
            assert!(used <= limits.per_cpu() && left.as_f64() < 0.001, "{left}");
        }
    }

    #[test]
    fn every_sweep_encloses_its_prediction() {
        for quick in [false, true] {
            for configuration in configurations(quick) {
                let predicted = configuration.predicted(Limits::modern());
                let budgets = &configuration.budgets;
                assert!(budgets[0] < predicted && *budgets.last().unwrap() > predicted);
            }
        }
    }

    #[test]
    fn a_quick_run_takes_less_than_90_seconds() {
        let whole: Duration = configurations(true)
            .iter()
            .map(Configuration::run_time)
            .sum();
        assert!(
            whole + Duration::from_millis(500) * 2 < Duration::from_secs(90),
            "{whole:?}"
        );
    }
}

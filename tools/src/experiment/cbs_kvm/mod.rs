//! Experiment `cbs-kvm`: the response times of one task set on the host, in a guest, in a guest beside real-time load,
//! and in a guest inside a hard reservation beside the same load.
//!
//! After Cucinotta, Anastasi and Abeni, "Providing performance guarantees to virtual machines using real-time
//! scheduling": task set {(30 ms, 150 ms), (50 ms, 200 ms)}, load {(50 ms, 120 ms), (20 ms, 80 ms)}, reservation
//! (28 ms, 50 ms). Beyond the paper, the last step once more for each mechanism that could hold the reservation, and
//! with budgets ended on the kernel's tick.

mod figures;
mod report;

pub use report::figure_cells;

use std::time::Duration;

use rt_abi::taskset::TaskSet;
use sched::request::{BackendKind, Enforcement};
use sched::reservation::Reservation;

use super::ExperimentError;
use super::guest::Share;
use super::host::HostBefore;
use super::progress::Progress;
use super::scenario::{OVERHEAD, Place, Ran, Scenario, paper_tasks};
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;

/// How long a scenario runs: hyperperiods of 600 ms.
const FULL: Duration = Duration::from_secs(60);
const QUICK: Duration = Duration::from_millis(4_800);
/// How long the CPU is listened to before and after.
const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);

/// The reservation of the paper.
pub fn paper_reservation() -> Result<Reservation, ExperimentError> {
    Ok(Reservation::new(
        Duration::from_millis(28),
        Duration::from_millis(50),
    )?)
}

/// A scenario and what came of it.
pub struct Measured {
    /// What was run.
    pub scenario: Scenario,
    /// The outcome, or why it could not be run here.
    pub outcome: Result<Ran, String>,
}

/// All of the experiment.
pub struct Results {
    /// The CPU measured on.
    pub cpu: u32,
    /// The run time of each scenario.
    pub duration: Duration,
    /// What the reservations rested on.
    pub promise: Promise,
    /// The scenarios in their order.
    pub measured: Vec<Measured>,
}

impl Results {
    /// What came of the scenario with this key.
    pub fn of(&self, key: &str) -> Option<&Ran> {
        let found = self.measured.iter().find(|m| m.scenario.key == key);
        found.and_then(|measured| measured.outcome.as_ref().ok())
    }
}

/// The four scenarios of the paper.
pub fn paper_scenarios() -> Result<Vec<Scenario>, ExperimentError> {
    let reserved = Share::reserved(BackendKind::Deadline, paper_reservation()?);
    let scenario = |key, title: &str, place, loaded| Scenario {
        key,
        title: title.to_owned(),
        place,
        loaded,
        optional: false,
    };
    Ok(vec![
        scenario("1", "1 host, FIFO", Place::Host, false),
        scenario("2", "2 guest, idle", Place::Guest(Share::ORDINARY), false),
        scenario("3", "3 guest, loaded", Place::Guest(Share::ORDINARY), true),
        scenario("4-idle", "4 (28, 50), idle", Place::Guest(reserved), false),
        scenario(
            "4-loaded",
            "4 (28, 50), loaded",
            Place::Guest(reserved),
            true,
        ),
    ])
}

/// The fourth scenario with the other mechanisms, and with budgets ended by the tick.
fn other_mechanisms() -> Result<Vec<Scenario>, ExperimentError> {
    let reservation = paper_reservation()?;
    let tick = Share {
        enforcement: Enforcement::Tick,
        ..Share::reserved(BackendKind::Deadline, reservation)
    };
    let by = |backend| Share::reserved(backend, reservation);
    let variants = [
        ("tick-idle", "tick-loaded", "tick only", tick),
        (
            "rt-cgroup-idle",
            "rt-cgroup-loaded",
            "rt-cgroup",
            by(BackendKind::RtCgroup),
        ),
        (
            "cfs-quota-idle",
            "cfs-quota-loaded",
            "cfs-quota",
            by(BackendKind::CfsQuota),
        ),
        ("fifo-idle", "fifo-loaded", "fifo", by(BackendKind::Fifo)),
    ];
    let both = |(idle, loaded, name, share)| {
        [(idle, false, "idle"), (loaded, true, "loaded")].map(|(key, loaded, host)| Scenario {
            key,
            title: format!("{name}, {host}"),
            place: Place::Guest(share),
            loaded,
            optional: true,
        })
    };
    Ok(variants.into_iter().flat_map(both).collect())
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let (duration, listen) = if args.quick {
        (QUICK, QUICK_LISTEN)
    } else {
        (FULL, LISTEN)
    };
    let cpu = choose_cpu(args.cpu)?;
    let mut scenarios = paper_scenarios()?;
    scenarios.extend(other_mechanisms()?);
    let count = u32::try_from(scenarios.len()).unwrap_or(u32::MAX);
    let whole = (duration + OVERHEAD) * count + listen * 2;
    let mut progress = Progress::new(whole, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let set = paper_tasks(duration)?;
    let measured = measure_all(&stage, scenarios, &set, &mut progress);
    stage.clear()?;
    let results = Results {
        cpu,
        duration,
        promise,
        measured: measured?,
    };
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &results.promise.to_string(), listen);
    Ok(report::report(&results, args, host))
}

fn measure_all(
    stage: &Stage,
    scenarios: Vec<Scenario>,
    set: &TaskSet,
    progress: &mut Progress,
) -> Result<Vec<Measured>, ExperimentError> {
    scenarios
        .into_iter()
        .map(|scenario| {
            let outcome = match scenario.run(stage, set, progress) {
                Ok(ran) => Ok(ran),
                Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
                Err(error) if scenario.optional => Err(error.to_string()),
                Err(error) => return Err(error),
            };
            Ok(Measured { scenario, outcome })
        })
        .collect()
}

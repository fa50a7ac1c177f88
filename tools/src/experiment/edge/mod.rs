//! Experiment `edge`: the least budget with which a guest meets its deadlines, measured beside what theory predicts.
//!
//! Q is swept for one task set in (Q, 50 ms). What theory predicts depends on the configuration, through the two things
//! that decide what a server supplies ([`sched::analysis`]): where in its period a release finds it, and where in its
//! period the budget comes.
//!
//! | configuration | a release finds the server | the budget comes | least Q |
//! |---|---|---|---|
//! | alone | at the beginning of a period: the guest slept, and waking starts one | at once | 26.67 ms |
//! | release phases swept | the same: it is the release that starts the period | at once | 26.67 ms |
//! | neighbours | the same | anywhere: all releases and deadlines are at ends of periods | 26.67 ms |
//! | hog | anywhere: the guest never sleeps | at once, so supply is strictly periodic | 26.67 ms |
//! | hog and neighbours | anywhere | early in one period, late in another | up to 32 ms |
//!
//! Only the last one approaches the worst case of the periodic resource model. How near depends on how long admitted
//! neighbours can delay a budget, which [`sched::analysis::latest_under_edf`] bounds.

mod configuration;
mod report;

use std::time::Duration;

use sched::admission::{Limits, demand};
use sched::request::BackendKind;
use sched::reservation::Reservation;
use vmm::units::Span;

use super::guest::{GuestPlan, Share};
use super::host::HostBefore;
use super::jobs::rows;
use super::part::owner;
use super::process::Part;
use super::progress::Progress;
use super::scenario::OVERHEAD;
use super::stage::{Promise, Stage, choose_cpu};
use super::{ExperimentError, interrupt, neighbour};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use crate::report::edge_plot::EdgePoint;
use crate::report::jobs_csv::JobRow;
use configuration::{Configuration, PERIOD, configurations, neighbour_beside, request, task_set};

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);

/// One budget of a configuration.
pub struct Point {
    /// Misses and jobs over all phases.
    pub counts: EdgePoint,
    /// The neighbour's (Q, P), if there was one.
    pub neighbour: Option<Reservation>,
    /// What was admitted in all, surplus included, as a share of the CPU.
    pub admitted: f64,
}

/// A configuration and what came of it.
pub struct Swept {
    /// What was run.
    pub configuration: Configuration,
    /// The least budget that theory says suffices.
    pub predicted: Duration,
    /// The sweep.
    pub points: Vec<Point>,
    /// Every job.
    pub rows: Vec<JobRow>,
}

/// All of the experiment.
pub struct Results {
    /// The CPU measured on.
    pub cpu: u32,
    /// What reservations rested on.
    pub promise: Promise,
    /// The configurations.
    pub swept: Vec<Swept>,
    /// Why some configuration was left out.
    pub left_out: Option<String>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let listen = if args.quick { QUICK_LISTEN } else { LISTEN };
    let configurations = configurations(args.quick);
    let whole = configurations
        .iter()
        .map(Configuration::run_time)
        .sum::<Duration>()
        + listen * 2;
    let mut progress = Progress::new(whole, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    let limits = host.limits();
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let (configurations, left_out) = possible(configurations, &promise);
    let swept = configurations
        .into_iter()
        .map(|configuration| sweep(&stage, configuration, limits, &mut progress))
        .collect();
    stage.clear()?;
    let results = Results {
        cpu,
        promise,
        swept: Result::from_iter::<Vec<_>>(swept)?,
        left_out,
    };
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &results.promise.to_string(), listen);
    Ok(report::report(&results, args, host))
}

/// Without a partition there is no CPU that a neighbour could fill: those configurations are left out.
fn possible(
    configurations: Vec<Configuration>,
    promise: &Promise,
) -> (Vec<Configuration>, Option<String>) {
    let Promise::Global { why } = promise else {
        return (configurations, None);
    };
    let kept = configurations
        .into_iter()
        .filter(|c| !c.neighbour)
        .collect();
    let left_out = format!("The configurations with a neighbour need a one-CPU partition: {why}.");
    (kept, Some(left_out))
}

fn sweep(
    stage: &Stage,
    configuration: Configuration,
    limits: Limits,
    progress: &mut Progress,
) -> Result<Swept, ExperimentError> {
    let mut swept = Swept {
        predicted: configuration.predicted(limits),
        configuration,
        points: Vec::new(),
        rows: Vec::new(),
    };
    for budget in swept.configuration.budgets.clone() {
        let (point, rows) = measure(stage, (&swept.configuration, budget), limits, progress)?;
        swept.points.push(point);
        swept.rows.extend(rows);
    }
    Ok(swept)
}

/// All runs with one budget.
fn measure(
    stage: &Stage,
    (configuration, budget): (&Configuration, Duration),
    limits: Limits,
    progress: &mut Progress,
) -> Result<(Point, Vec<JobRow>), ExperimentError> {
    let reservation = Reservation::new(budget, PERIOD)?;
    let neighbour = match configuration.neighbour {
        true => neighbour_beside(budget, limits),
        false => None,
    };
    let share = Share::reserved(BackendKind::Deadline, reservation);
    let mut all = Vec::new();
    let budget_ms = budget.as_secs_f64() * 1e3;
    for (index, phase) in configuration.phases.iter().enumerate() {
        interrupt::check()?;
        let what = format!("{}: Q = {budget_ms} ms", configuration.key);
        progress.step(&what, configuration.duration + OVERHEAD);
        let beside = neighbour.map(|n| start_neighbour(stage, n)).transpose()?;
        let set = task_set(configuration, *phase)?;
        let run = GuestPlan {
            set: &set,
            share,
            seats: &[],
        }
        .run(stage, progress)?;
        drop(beside);
        let name = format!("{} Q={budget_ms}ms phase {index}", configuration.key);
        all.extend(rows(&name, &set, &run.events));
    }
    let requests = request(budget)
        .into_iter()
        .chain(neighbour.and_then(|n| neighbour::request(None, (n.runtime(), n.period())).ok()));
    let point = Point {
        counts: EdgePoint {
            budget,
            missed: all.iter().filter(|row| row.is_missed()).count(),
            jobs: all.len(),
        },
        neighbour,
        admitted: requests.map(|request| demand(&request).as_f64()).sum(),
    };
    Ok((point, all))
}

fn start_neighbour(stage: &Stage, reservation: Reservation) -> Result<Part, ExperimentError> {
    let mut arguments = stage.arguments("neighbour");
    arguments.extend(["--cpu", &stage.cpu.to_string()].map(str::to_owned));
    let (runtime, period) = (
        Span::from(reservation.runtime()),
        Span::from(reservation.period()),
    );
    arguments.extend(
        [
            "--runtime",
            &runtime.to_string(),
            "--period",
            &period.to_string(),
        ]
        .map(str::to_owned),
    );
    arguments.extend([
        "--name".to_owned(),
        format!("neighbour-{}", std::process::id()),
    ]);
    arguments.extend(owner());
    let mut part = Part::spawn("the neighbour", &stage.folder, &arguments)?;
    part.ready()?;
    Ok(part)
}

//! Experiment `lock-holder`: what a spin lock that two vCPUs share costs, by how their budgets lie to one another.
//!
//! A vCPU whose budget ends in a critical section makes the other spin for up to a blackout: lock-holder preemption, and
//! with it uneven progress. The survey's open problem for guests with several vCPUs; here each vCPU has a constant
//! bandwidth server of its own, and the question is what it does to have their periods begin together.

mod case;
mod measure;
mod report;

use std::time::Duration;

use sched::cpus;
use sched::partition::Partition;
use sched::request::BackendKind;

use self::case::{Case, Place, cases};
use self::measure::{Measured, measured};
use super::ExperimentError;
use super::guest::{GuestPlan, Share};
use super::host::HostBefore;
use super::jobs::{TaskFigures, rows};
use super::progress::Progress;
use super::scenario::OVERHEAD;
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use crate::report::jobs_csv::JobRow;
use crate::report::timeline_plot::TimelinePlot;

const FULL: Duration = Duration::from_secs(10);
const QUICK: Duration = Duration::from_secs(3);
const LISTEN: Duration = Duration::from_secs(5);
const QUICK_LISTEN: Duration = Duration::from_secs(1);

/// A run and what came of it.
pub struct Ran {
    /// What was run.
    pub case: Case,
    /// What the two vCPUs did.
    pub measured: Measured,
    /// The tasks' figures.
    pub tasks: Vec<TaskFigures>,
    /// Every job.
    pub rows: Vec<JobRow>,
    /// A stretch of its schedule.
    pub timeline: TimelinePlot,
}

/// All of the experiment.
pub struct Results {
    /// The CPUs of the vCPUs.
    pub cpus: (u32, Option<u32>),
    /// What reservations rested on.
    pub promise: Promise,
    /// How long each run was.
    pub duration: Duration,
    /// The runs.
    pub ran: Vec<Ran>,
    /// Why some were left out.
    pub left_out: Option<String>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let (duration, listen) = if args.quick {
        (QUICK, QUICK_LISTEN)
    } else {
        (FULL, LISTEN)
    };
    let cpu = choose_cpu(args.cpu)?;
    let cases = cases(args.quick)?;
    let count = u32::try_from(cases.len()).unwrap_or(u32::MAX);
    let mut progress = Progress::new((duration + OVERHEAD) * count + listen * 2, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let second = second_cpu(cpu);
    let (cases, left_out) = possible(cases, &promise, second);
    let ran = cases
        .into_iter()
        .map(|case| one(&stage, case, (duration, second), &mut progress))
        .collect::<Result<Vec<_>, _>>();
    stage.clear()?;
    let results = Results {
        cpus: (cpu, second),
        promise,
        duration,
        ran: ran?,
        left_out,
    };
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &results.promise.to_string(), listen);
    Ok(report::report(&results, args, host))
}

/// Another CPU where a reservation is exact: the one that the partition leaves, or another partition.
fn second_cpu(cpu: u32) -> Option<u32> {
    let others: Vec<u32> = cpus::online()
        .into_iter()
        .filter(|other| *other != cpu)
        .collect();
    match others[..] {
        [other] => Some(other),
        _ => others
            .into_iter()
            .find(|other| Partition::of(*other).is_some()),
    }
}

/// What this host cannot do is left out, and said.
fn possible(
    cases: Vec<Case>,
    promise: &Promise,
    second: Option<u32>,
) -> (Vec<Case>, Option<String>) {
    let (without, why) = match (promise, second) {
        (Promise::Global { why }, _) => (Place::Together, format!("a one-CPU partition: {why}")),
        (_, None) => {
            let why =
                "two partitions: `chronovisor host prepare --cpus` with two CPUs before".to_owned();
            (Place::Apart, why)
        }
        _ => return (cases, None),
    };
    let kept = cases.into_iter().filter(|case| case.place != without);
    let what = match without {
        Place::Together => "The runs on one CPU need",
        Place::Apart => "The runs with a CPU each need",
    };
    (kept.collect(), Some(format!("{what} {why}.")))
}

fn one(
    stage: &Stage,
    case: Case,
    (duration, second): (Duration, Option<u32>),
    progress: &mut Progress,
) -> Result<Ran, ExperimentError> {
    progress.step(&case.title(), duration + OVERHEAD);
    let set = case.tasks(duration)?;
    let plan = GuestPlan {
        set: &set,
        share: Share::reserved(BackendKind::Deadline, case.reservation),
        seats: &case.seats(stage, second),
    };
    let events = plan.run(stage, progress)?.events;
    let rows = rows(&case.key, &set, &events);
    let period = case.reservation.period();
    Ok(Ran {
        measured: measured(&set, &events, period),
        tasks: TaskFigures::of(&set, &rows),
        timeline: report::timeline(&case, &set, &events),
        rows,
        case,
    })
}

//! What computes: a VTM, a guest in a reservation, a plain process, a process under a quota.

use std::time::{Duration, Instant};

use guest_images::taskset::{Builder, nanos};
use rt_abi::taskset::{Policy, Task, TaskSet};
use sched::framework::{Manager, Scheduler};
use sched::ledger::Ledger;
use sched::request::BackendKind;
use sched::reservation::Reservation;
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, VtmConfig, VtmScheduler};
use vmm::telemetry::Event;
use vmm::units::Span;

use super::Condition;
use crate::experiment::ExperimentError;
use crate::experiment::guest::{GuestPlan, Share, path, read_events, records};
use crate::experiment::jobs::{TaskFigures, rows};
use crate::experiment::part::owner;
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::scenario::built;
use crate::experiment::stage::{Promise, Stage};
use crate::experiment::trace::Trace;
use crate::report::jobs_csv::JobRow;
use crate::report::stats::Distribution;

/// Q, a slot of the VTM.
pub const BUDGET: Duration = Duration::from_millis(10);
/// P.
pub const PERIOD: Duration = Duration::from_millis(40);
/// The task, which meets every phase of P.
const EXECUTION: Duration = Duration::from_millis(15);
/// Its period.
const TASK_PERIOD: Duration = Duration::from_millis(90);
/// What counts as a stretch without the CPU.
const GAP: Duration = Duration::from_micros(100);
/// Until then everything is set up.
pub const START: Duration = Duration::from_millis(250);
/// The name of the VTM.
pub const VTM: &str = "computation";
/// A computation may take this much longer than its set says: little CPU time was left for it.
const GRACE: Duration = Duration::from_secs(15);

/// Who computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Candidate {
    /// A job of a VTM with 10 ms of every 40 ms.
    Vtm,
    /// A guest in a SCHED_DEADLINE reservation of 10 ms in every 40 ms.
    Guest,
    /// An ordinary process.
    Plain,
    /// An ordinary process in a group with a quota of 10 ms in every 40 ms.
    Quota,
}

impl Candidate {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Vtm, Self::Guest, Self::Plain, Self::Quota];

    /// Its name in tables and figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vtm => "VTM",
            Self::Guest => "guest in a reservation",
            Self::Plain => "plain process",
            Self::Quota => "group with a quota",
        }
    }

    /// Its name as the head of a column.
    pub fn short_name(self) -> &'static str {
        match self {
            Self::Vtm => "VTM",
            Self::Guest => "guest",
            Self::Plain => "process",
            Self::Quota => "quota",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Vtm => "vtm",
            Self::Guest => "guest",
            Self::Plain => "plain",
            Self::Quota => "quota",
        }
    }

    /// The share of the CPU that it is given, where it is given one.
    pub fn promised(self) -> Option<f64> {
        let share = BUDGET.as_secs_f64() / PERIOD.as_secs_f64();
        (self != Self::Plain).then_some(share)
    }
}

/// What is computed: a task of 15 ms every 90 ms, and a busy loop below it.
pub fn task_set(duration: Duration) -> Result<TaskSet, ExperimentError> {
    let with_gaps = |task| Task { gaps: true, ..task };
    built(
        Builder::new(Policy::RateMonotonic, duration)
            .periodic_with("t", EXECUTION, TASK_PERIOD, with_gaps)
            .hog(0)
            .options(|set| {
                set.gap = nanos(GAP);
                set.start = nanos(START);
            }),
    )
}

/// What came of a computation.
#[derive(Clone, Debug)]
pub struct Run {
    /// Who computed.
    pub candidate: Candidate,
    /// The share of the CPU that it had; unknown if it never ran.
    pub share: Option<f64>,
    /// When it was without.
    pub blackouts: Distribution,
    /// The task's figures.
    pub task: TaskFigures,
    /// Its jobs.
    pub rows: Vec<JobRow>,
}

impl Run {
    fn of(of: (Candidate, Condition), set: &TaskSet, events: &[Event]) -> Option<Self> {
        let (candidate, condition) = of;
        let rows = rows(
            &format!("{}-{}", candidate.key(), condition.key()),
            set,
            events,
        );
        let trace = Trace::new(set, events);
        Some(Self {
            candidate,
            share: trace.share(),
            blackouts: Distribution::new(trace.blackout_lengths()),
            task: TaskFigures::of(set, &rows).into_iter().next()?,
            rows,
        })
    }
}

/// Has a candidate compute beside whatever runs already.
pub fn run(
    (candidate, condition): (Candidate, Condition),
    stage: &Stage,
    set: &TaskSet,
    progress: &Progress,
) -> Result<Run, ExperimentError> {
    let events = match candidate {
        Candidate::Guest => guest(set)?.run(stage, progress)?.events,
        _ => on_host(candidate, stage, set, progress)?,
    };
    Run::of((candidate, condition), set, &events)
        .ok_or_else(|| ExperimentError::Tasks("it has no periodic task".to_owned()))
}

/// The guest.
pub fn guest(set: &TaskSet) -> Result<GuestPlan<'_>, ExperimentError> {
    let reservation = Reservation::new(BUDGET, PERIOD)?;
    Ok(GuestPlan {
        seats: &[],
        set,
        share: Share::reserved(BackendKind::Deadline, reservation),
    })
}

fn on_host(
    candidate: Candidate,
    stage: &Stage,
    set: &TaskSet,
    progress: &Progress,
) -> Result<Vec<Event>, ExperimentError> {
    let part = start(candidate, stage, set)?;
    let vtms = match candidate {
        Candidate::Vtm => Some(scheduler(stage)?),
        _ => None,
    };
    let vtms = vtms.map(|vtms| with_job(vtms, part.pid())).transpose()?;
    let patience = Duration::from_nanos(set.duration) + GRACE;
    let ended = part.finish(patience, || progress.tick());
    drop(vtms);
    ended?;
    read_events(&records(stage))
}

/// Starts the computation as a process that is ready to compute.
pub fn start(candidate: Candidate, stage: &Stage, set: &TaskSet) -> Result<Part, ExperimentError> {
    let mut arguments = stage.arguments("computation");
    arguments.extend(["--cpu".to_owned(), stage.cpu.to_string()]);
    arguments.extend(["--records".to_owned(), path(&records(stage))]);
    if candidate == Candidate::Quota {
        let (quota, period) = (Span::from(BUDGET), Span::from(PERIOD));
        arguments.extend(["--quota".to_owned(), quota.to_string()]);
        arguments.extend(["--period".to_owned(), period.to_string()]);
    }
    arguments.extend(owner());
    arguments.push(set.to_string());
    let mut part = Part::spawn("the computation", &stage.folder, &arguments)?;
    part.ready()?;
    Ok(part)
}

/// A scheduler of VTMs on the stage's CPU.
pub fn scheduler(stage: &Stage) -> Result<VtmScheduler, ExperimentError> {
    let ledger = match stage.promise {
        Promise::Partition { .. } => Some(Ledger::open(&stage.folder)?),
        Promise::Global { .. } => None,
    };
    Ok(VtmScheduler::new(VtmConfig {
        slot: BUDGET,
        ledger,
        ..VtmConfig::on(stage.cpu)
    })?)
}

/// The share of the VTM, in slots of every period.
pub fn vtm_share(slots: u32) -> CpuShare {
    CpuShare {
        period: PERIOD,
        need: Need::Time(BUDGET * slots),
        max_delay: None,
    }
}

/// A scheduler that dispatches a process as the job of a VTM.
fn with_job(mut vtms: VtmScheduler, pid: i32) -> Result<VtmScheduler, ExperimentError> {
    add_vtm(&mut vtms, pid)?;
    vtms.schedule()?;
    Ok(vtms)
}

/// Makes a process the job of a VTM; when that began.
pub fn add_vtm(vtms: &mut VtmScheduler, pid: i32) -> Result<Instant, ExperimentError> {
    let begin = Instant::now();
    vtms.create(VTM, RoundRobin::default())?;
    vtms.reserve(VTM, &vtm_share(1))?;
    vtms.add_job(VTM, &JobSource::Process(pid))?;
    Ok(begin)
}

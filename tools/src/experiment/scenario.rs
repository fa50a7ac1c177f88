//! One run: a task set on the host or in a guest, with or without load beside it.

use std::time::{Duration, Instant};

use guest_images::taskset::Builder;
use rt_abi::taskset::{Policy, Task, TaskSet};
use sched::account::AccountSnapshot;
use sched::request::Granted;
use vmm::telemetry::Event;

use super::guest::{GuestPlan, Share, path, read_events, records};
use super::jobs::{TaskFigures, rows};
use super::part::owner;
use super::process::Part;
use super::progress::Progress;
use super::stage::Stage;
use super::{ExperimentError, host, interrupt};
use crate::report::jobs_csv::JobRow;

/// What runs the task set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Threads of the host under SCHED_FIFO.
    Host,
    /// A guest with this share of the CPU.
    Guest(Share),
}

/// One run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Its short name, in files and keys: "4-loaded".
    pub key: &'static str,
    /// Its name in figures and tables.
    pub title: String,
    /// Where the task set runs.
    pub place: Place,
    /// Whether the periodic real-time tasks run beside it.
    pub loaded: bool,
    /// Whether the experiment makes sense without it: then a host that cannot do it is no failure.
    pub optional: bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Every job.
    pub rows: Vec<JobRow>,
    /// What they were made of, gaps included.
    pub events: Vec<Event>,
    /// The share of the CPU that anything but the vCPU used, on a host without our load.
    pub others: Option<f64>,
    /// The figures of each task.
    pub tasks: Vec<TaskFigures>,
    /// What the vCPU was supplied.
    pub account: Option<AccountSnapshot>,
    /// What was granted.
    pub granted: Option<Granted>,
}

/// The load's SCHED_FIFO priority, below that of vCPUs under SCHED_FIFO.
pub const LOAD_PRIORITY: u8 = 50;
/// The priority of the task set on the host.
const TASKS_PRIORITY: u8 = 60;
/// From the start of a process to the first release, and its end: what a run takes beyond its duration.
pub const OVERHEAD: Duration = Duration::from_millis(300);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The task set of the paper, rate monotonic: t1 (30 ms, 150 ms), t2 (50 ms, 200 ms).
pub fn paper_tasks(duration: Duration) -> Result<TaskSet, ExperimentError> {
    let with_gaps = |task| Task { gaps: true, ..task };
    built(
        Builder::new(Policy::RateMonotonic, duration)
            .periodic_with("t1", ms(30), ms(150), with_gaps)
            .periodic_with("t2", ms(50), ms(200), with_gaps),
    )
}

/// The host load of the paper: periodic real-time tasks (50 ms, 120 ms) and (20 ms, 80 ms).
pub fn paper_load() -> Result<TaskSet, ExperimentError> {
    built(
        Builder::new(Policy::RateMonotonic, Duration::from_secs(1))
            .periodic("load1", ms(50), ms(120))
            .periodic("load2", ms(20), ms(80)),
    )
}

/// The set a builder was given.
pub fn built(builder: Builder) -> Result<TaskSet, ExperimentError> {
    builder
        .build()
        .map_err(|error| ExperimentError::Tasks(error.to_string()))
}

impl Scenario {
    /// Runs it.
    pub fn run(
        &self,
        stage: &Stage,
        set: &TaskSet,
        progress: &mut Progress,
    ) -> Result<Ran, ExperimentError> {
        interrupt::check()?;
        progress.step(&self.title, Duration::from_nanos(set.duration) + OVERHEAD);
        // Ends when it goes out of scope, also on an error.
        let load = self.loaded.then(|| start_load(stage)).transpose()?;
        let ran = match self.place {
            Place::Host => self.on_host(stage, set, progress),
            Place::Guest(share) => self.in_guest(
                stage,
                &GuestPlan {
                    set,
                    share,
                    seats: &[],
                },
                progress,
            ),
        };
        drop(load);
        ran
    }

    fn in_guest(
        &self,
        stage: &Stage,
        plan: &GuestPlan,
        progress: &Progress,
    ) -> Result<Ran, ExperimentError> {
        let (began, busy) = (Instant::now(), host::busy(stage.cpu));
        let run = plan.run(stage, progress)?;
        let (lasted, busy) = (began.elapsed(), host::busy(stage.cpu).saturating_sub(busy));
        let vcpu = run.outcome.status.vcpus.into_iter().next();
        let (account, granted) = vcpu.map_or((None, None), |v| (v.account, Some(v.granted)));
        let others = account.as_ref().filter(|_| !self.loaded).map(|account| {
            busy.saturating_sub(account.consumed).as_secs_f64() / lasted.as_secs_f64()
        });
        Ok(Ran {
            account,
            granted,
            others,
            ..self.ran(plan.set, run.events)
        })
    }

    fn on_host(
        &self,
        stage: &Stage,
        set: &TaskSet,
        progress: &Progress,
    ) -> Result<Ran, ExperimentError> {
        let records = records(stage);
        let mut arguments = tasks_arguments((stage, stage.cpu), set, TASKS_PRIORITY);
        arguments.extend(["--records".to_owned(), path(&records)]);
        let mut part = Part::spawn("the task set on the host", &stage.folder, &arguments)?;
        part.ready()?;
        let patience = Duration::from_nanos(set.duration) + Duration::from_secs(10);
        part.finish(patience, || progress.tick())?;
        Ok(self.ran(set, read_events(&records)?))
    }

    fn ran(&self, set: &TaskSet, events: Vec<Event>) -> Ran {
        let rows = rows(self.key, set, &events);
        Ran {
            tasks: TaskFigures::of(set, &rows),
            rows,
            events,
            others: None,
            account: None,
            granted: None,
        }
    }
}

/// Starts the load on the stage's CPU.
pub fn start_load(stage: &Stage) -> Result<Part, ExperimentError> {
    start_load_on(stage, stage.cpu, ("the load", &paper_load()?))
}

/// Starts these tasks on a CPU as a load, under this name.
pub fn start_load_on(
    stage: &Stage,
    cpu: u32,
    (name, set): (&str, &TaskSet),
) -> Result<Part, ExperimentError> {
    let arguments = tasks_arguments((stage, cpu), set, LOAD_PRIORITY);
    let mut part = Part::spawn(name, &stage.folder, &arguments)?;
    part.ready()?;
    Ok(part)
}

fn tasks_arguments((stage, cpu): (&Stage, u32), set: &TaskSet, priority: u8) -> Vec<String> {
    let mut arguments = stage.arguments("tasks");
    arguments.extend(["--cpu", &cpu.to_string()].map(str::to_owned));
    arguments.extend(["--priority", &priority.to_string()].map(str::to_owned));
    arguments.push(set.to_string());
    arguments.extend(owner());
    arguments
}

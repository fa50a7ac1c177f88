//! Experiment `vtm-vs-guest`: the same computation as a VTM, as a guest in a reservation, as a plain process, and as a
//! process under a quota.
//!
//! ```text
//! candidate.rs  a task of 15 ms every 90 ms and a busy loop below it, given 10 ms of every 40 ms
//!   beside      nothing, load, a fork bomb, a busy SCHED_FIFO process          on the same CPU
//! handling.rs   how long it takes to start and to adapt each, and its memory
//! ```

mod candidate;
mod handling;
mod report;

use std::time::Duration;

use super::bomb::Bomb;
use super::host::HostBefore;
use super::process::Part;
use super::progress::Progress;
use super::scenario::{LOAD_PRIORITY, start_load};
use super::stage::{Promise, Stage, choose_cpu};
use super::{ExperimentError, spin};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use candidate::{Candidate, Run, START, task_set};
use handling::Handling;

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
/// How long each computation is measured.
const LENGTH: Duration = Duration::from_secs(10);
const QUICK_LENGTH: Duration = Duration::from_millis(1_800);
/// How often each candidate is started.
const STARTS: u32 = 20;
const QUICK_STARTS: u32 = 3;
/// What a run takes beyond its length: processes that start and end.
const OVERHEAD: Duration = Duration::from_millis(900);

/// What runs on the same CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Idle,
    /// Two busy processes, and periodic SCHED_FIFO tasks that take 67 % of the CPU.
    Loaded,
    /// A fork bomb of ordinary processes.
    Bomb,
    /// A busy SCHED_FIFO process.
    Fifo,
}

impl Condition {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 4] = [Self::Idle, Self::Loaded, Self::Bomb, Self::Fifo];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "nothing",
            Self::Loaded => "load",
            Self::Bomb => "a fork bomb",
            Self::Fifo => "busy FIFO",
        }
    }

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Loaded => "loaded",
            Self::Bomb => "bomb",
            Self::Fifo => "fifo",
        }
    }

    fn start(self, stage: &Stage) -> Result<Neighbours, ExperimentError> {
        let mut neighbours = Neighbours::default();
        match self {
            Self::Idle => {}
            Self::Loaded => {
                for name in ["busy process 1", "busy process 2"] {
                    neighbours.parts.push(spin::start(stage, name, None)?);
                }
                neighbours.parts.push(start_load(stage)?);
            }
            Self::Bomb => neighbours.bomb = Some(Bomb::start(stage)?),
            Self::Fifo => {
                let part = spin::start(stage, "the FIFO neighbour", Some(LOAD_PRIORITY))?;
                neighbours.parts.push(part);
            }
        }
        Ok(neighbours)
    }
}

/// What runs beside a computation. Dropping it ends all of it.
#[derive(Default)]
struct Neighbours {
    parts: Vec<Part>,
    bomb: Option<Bomb>,
}

/// All of the experiment.
pub struct Results {
    /// The CPU.
    pub cpu: u32,
    /// What reservations rested on.
    pub promise: Promise,
    /// How long each computation was measured.
    pub length: Duration,
    /// Every candidate under every condition; why one was not measured.
    pub runs: Vec<(Candidate, Condition, Result<Run, String>)>,
    /// Handling each candidate.
    pub handling: Vec<(Candidate, Result<Handling, String>)>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let plan = Plan::new(args.quick);
    let mut progress = Progress::new(plan.duration(), context.json);
    progress.step("listening to the CPU", plan.listen);
    let host = HostBefore::look(cpu, plan.listen);
    let stage = Stage::set(context, cpu)?;
    let results = plan.carry_out(&stage, &mut progress);
    stage.clear()?;
    let results = results?;
    progress.step("listening to the CPU", plan.listen);
    let host = host.after(cpu, &results.promise.to_string(), plan.listen);
    Ok(report::report(&results, args, host))
}

/// How long everything takes.
struct Plan {
    listen: Duration,
    length: Duration,
    starts: u32,
}

impl Plan {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                listen: QUICK_LISTEN,
                length: QUICK_LENGTH,
                starts: QUICK_STARTS,
            },
            false => Self {
                listen: LISTEN,
                length: LENGTH,
                starts: STARTS,
            },
        }
    }

    fn each_run(&self) -> Duration {
        START + self.length + OVERHEAD
    }

    fn each_handling(&self) -> Duration {
        Duration::from_millis(1_000) + Duration::from_millis(120) * self.starts
    }

    fn duration(&self) -> Duration {
        let runs = self.each_run() * 16;
        self.listen * 2 + runs + self.each_handling() * 4
    }

    fn carry_out(
        &self,
        stage: &Stage,
        progress: &mut Progress,
    ) -> Result<Results, ExperimentError> {
        let set = task_set(self.length)?;
        let mut runs = Vec::new();
        for condition in Condition::ALL {
            for candidate in Candidate::ALL {
                let what = format!("{} beside {}", candidate.name(), condition.name());
                progress.step(&what, self.each_run());
                let ran = condition.start(stage).and_then(|neighbours| {
                    let ran = candidate::run((candidate, condition), stage, &set, progress);
                    drop(neighbours);
                    ran
                });
                runs.push((candidate, condition, ExperimentError::told(ran)?));
            }
        }
        // Longer than handling takes; all of them are ended before.
        let set = task_set(Duration::from_secs(60))?;
        let mut handling = Vec::new();
        for candidate in Candidate::ALL {
            let what = format!("starting and adapting, {}", candidate.name());
            progress.step(&what, self.each_handling());
            let handled = handling::measure(candidate, stage, (&set, self.starts), progress);
            handling.push((candidate, ExperimentError::told(handled)?));
        }
        Ok(Results {
            cpu: stage.cpu,
            promise: stage.promise.clone(),
            length: self.length,
            runs,
            handling,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds() {
        let whole = Plan::new(true).duration();
        assert!(whole < Duration::from_secs(80), "{whole:?}");
    }
}

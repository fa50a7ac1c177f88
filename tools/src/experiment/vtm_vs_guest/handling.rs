//! What handling a candidate takes: starting it, its memory, and giving it another share while it runs.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rt_abi::taskset::TaskSet;
use sched::cgroup::{Hierarchy, Version};
use sched::framework::{Manager, Scheduler};
use sched::kernel::Tid;
use sched::reservation::Reservation;
use sched::vtm::VtmScheduler;
use vmm::control::{Request, client};

use super::candidate::{
    BUDGET, Candidate, PERIOD, VTM, add_vtm, guest, scheduler, start, vtm_share,
};
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};
use crate::report::stats::Distribution;

/// Changes of a share, as many as the papers have.
pub const CHANGES: u32 = 30;
/// Between two changes: no part of a period.
const PAUSE: Duration = Duration::from_millis(17);
/// Between two looks at a VTM that is to have its first turn.
const GLANCE: Duration = Duration::from_millis(1);
const PATIENCE: Duration = Duration::from_secs(5);

/// What it took.
#[derive(Clone, Debug)]
pub struct Handling {
    /// From the request until it computed in its share.
    pub start: Distribution,
    /// The memory that its processes add (Pss, proc_pid_smaps(5)), in KiB.
    pub memory: Option<u64>,
    /// How long a change of its share took, where it can be changed.
    pub adaptation: Option<Distribution>,
}

/// Starts a candidate so many times, and handles the last one.
pub fn measure(
    candidate: Candidate,
    stage: &Stage,
    (set, starts): (&TaskSet, u32),
    progress: &Progress,
) -> Result<Handling, ExperimentError> {
    let mut times = Vec::new();
    for _ in 1..starts {
        let (_, time) = Subject::start(candidate, stage, set)?;
        times.push(time);
        progress.tick();
    }
    let (mut subject, time) = Subject::start(candidate, stage, set)?;
    times.push(time);
    interrupt::sleep(Duration::from_millis(300), || progress.tick())?;
    let memory = subject.memory();
    let mut changes = Vec::new();
    for change in 0..CHANGES {
        interrupt::sleep(PAUSE, || progress.tick())?;
        changes.extend(subject.adapt(stage, change % 2 == 0)?);
    }
    Ok(Handling {
        start: Distribution::new(times),
        memory,
        adaptation: (!changes.is_empty()).then(|| Distribution::new(changes)),
    })
}

/// A candidate that computes. Its scheduler goes first: it leaves the process as it was found.
struct Subject {
    candidate: Candidate,
    vtms: Option<VtmScheduler>,
    part: Part,
}

impl Subject {
    fn start(
        candidate: Candidate,
        stage: &Stage,
        set: &TaskSet,
    ) -> Result<(Self, Duration), ExperimentError> {
        let mut vtms = match candidate {
            Candidate::Vtm => Some(scheduler(stage)?),
            _ => None,
        };
        if let Some(vtms) = &mut vtms {
            vtms.schedule()?;
        }
        let begin = Instant::now();
        let part = match candidate {
            Candidate::Guest => start_guest(stage, set)?,
            _ => start(candidate, stage, set)?,
        };
        if let Some(vtms) = &mut vtms {
            add_vtm(vtms, part.pid())?;
            until_turn(vtms)?;
        }
        let time = begin.elapsed();
        let subject = Self {
            candidate,
            vtms,
            part,
        };
        Ok((subject, time))
    }

    fn memory(&self) -> Option<u64> {
        let guardian = self.vtms.as_ref().map(|vtms| vtms.status().guardian);
        let own = pss(self.part.pid())?;
        Some(own + guardian.and_then(pss).unwrap_or(0))
    }

    /// Gives it a larger share or takes that back; how long that took.
    fn adapt(&mut self, stage: &Stage, more: bool) -> Result<Option<Duration>, ExperimentError> {
        let slots = if more { 2 } else { 1 };
        if let Some(vtms) = &mut self.vtms {
            let change = [vtm_share(slots).of(VTM)];
            let begin = Instant::now();
            vtms.adapt(&change)?;
            return Ok(Some(begin.elapsed()));
        }
        let reservation = Reservation::new(BUDGET * slots, PERIOD)?;
        match self.candidate {
            Candidate::Guest => adapt_guest(stage, reservation).map(Some),
            Candidate::Quota => adapt_quota(self.part.pid(), reservation).map(Some),
            Candidate::Vtm | Candidate::Plain => Ok(None),
        }
    }
}

fn start_guest(stage: &Stage, set: &TaskSet) -> Result<Part, ExperimentError> {
    let mut part = guest(set)?.start(stage, false)?;
    // Its first line comes from the guest.
    part.line("")?;
    Ok(part)
}

fn until_turn(vtms: &VtmScheduler) -> Result<(), ExperimentError> {
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        let status = vtms.status();
        let jobs = status.vtms.iter().flat_map(|vtm| &vtm.jobs);
        if jobs.map(|job| job.turns).sum::<u64>() > 0 {
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            return Err(ExperimentError::NotInForce { patience: PATIENCE });
        }
        std::thread::sleep(GLANCE);
    }
}

/// As `chronovisor adapt` does it, connecting included.
fn adapt_guest(stage: &Stage, reservation: Reservation) -> Result<Duration, ExperimentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExperimentError::io("set up a client"))?;
    let request = Request::Adapt {
        vcpu: 0,
        reservation,
    };
    let name = format!("experiment-{}", std::process::id());
    let begin = Instant::now();
    runtime.block_on(client::call(&stage.folder, &name, request))?;
    Ok(begin.elapsed())
}

/// Writes the quota where the kernel has it (Documentation/scheduler/sched-bwc.rst).
fn adapt_quota(pid: i32, reservation: Reservation) -> Result<Duration, ExperimentError> {
    let failed = |source| ExperimentError::Group {
        action: "find the group with a quota".to_owned(),
        source,
    };
    let hierarchy = Hierarchy::of("cpu").map_err(failed)?;
    let group: PathBuf = hierarchy.group_of(Tid(pid), "cpu").map_err(failed)?;
    let quota = reservation.runtime().as_micros();
    let period = reservation.period().as_micros();
    let (file, text) = match hierarchy.version {
        Version::V1 => ("cpu.cfs_quota_us", quota.to_string()),
        Version::V2 => ("cpu.max", format!("{quota} {period}")),
    };
    let file = group.join(file);
    let begin = Instant::now();
    fs::write(&file, text).map_err(ExperimentError::io(format!("write {}", file.display())))?;
    Ok(begin.elapsed())
}

/// The proportional set size of a process, in KiB.
fn pss(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.split_whitespace().next()?.parse().ok()
}

//! What a dispatch costs, over the number of VTMs and of their jobs.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use sched::framework::{Manager, Scheduler};
use sched::histogram::Summary;
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, Suspend, VtmConfig, VtmScheduler};

use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::sleepers::Sleepers;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt, pid_max, spin};

/// Short enough that 200 VTMs have their turn within the second in which real-time throttling leaves a twentieth of the
/// CPU to other processes.
pub const SLOT: Duration = Duration::from_millis(4);
/// Besides the jobs there are the processes of the host, which had about as many ids before.
const OTHERS: u32 = 2_000;
/// The kernel's limit for a row that needs more ids than its default gives.
const RAISED: u32 = 1 << 17;

/// One row: how many VTMs, how many jobs in each.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Size {
    /// VTMs.
    pub vtms: u32,
    /// Jobs of each.
    pub jobs: u32,
    /// Whether the jobs are busy; they sleep otherwise, and only their handling costs.
    pub busy: bool,
    /// The paper's mean, in milliseconds.
    pub paper_ms: Option<f64>,
}

/// Our largest row with the kernel's default of 32768 process ids.
const VTMS: u32 = 200;
const JOBS: u32 = 150;

/// Table 4 of the paper, our row of 200 x 150, and two rows with busy jobs.
pub const SIZES: [Size; 12] = [
    Size::of_paper(2, 2, 0.008),
    Size::of_paper(2, 20, 0.008),
    Size::of_paper(2, 200, 0.008),
    Size::of_paper(20, 2, 0.023),
    Size::of_paper(20, 20, 0.050),
    Size::of_paper(20, 200, 0.260),
    Size::of_paper(200, 2, 0.039),
    Size::of_paper(200, 20, 0.053),
    Size::ours(VTMS, JOBS, false),
    Size::of_paper(200, 200, 0.265),
    Size::ours(2, 2, true),
    Size::ours(20, 2, true),
];

impl Size {
    const fn of_paper(vtms: u32, jobs: u32, paper_ms: f64) -> Self {
        Self {
            vtms,
            jobs,
            busy: false,
            paper_ms: Some(paper_ms),
        }
    }

    const fn ours(vtms: u32, jobs: u32, busy: bool) -> Self {
        Self {
            vtms,
            jobs,
            busy,
            paper_ms: None,
        }
    }

    /// Jobs in all.
    pub const fn processes(&self) -> u32 {
        self.vtms * self.jobs
    }

    /// "2 x 20".
    pub fn name(&self) -> String {
        let kind = if self.busy { ", busy" } else { "" };
        format!("{} x {}{kind}", self.vtms, self.jobs)
    }

    /// About the time it takes to start the jobs and to make them jobs.
    pub fn preparation(&self) -> Duration {
        Duration::from_millis(300) + Duration::from_micros(2_500) * self.processes()
    }
}

/// What came of a row.
#[derive(Clone, Debug)]
pub struct Dispatched {
    /// Which.
    pub size: Size,
    /// CPU time of the dispatcher for each dispatch; why it could not be measured otherwise.
    pub cost: Result<Summary, String>,
    /// From the start of the first job until all were jobs.
    pub ready: Duration,
    /// Whether `pid_max` was raised for it.
    pub raised: bool,
}

impl Dispatched {
    /// The mean cost.
    pub fn mean(&self) -> Option<Duration> {
        let cost = self.cost.as_ref().ok()?;
        Some(cost.total.div_f64(cost.count.max(1) as f64))
    }
}

/// Measures one row for `length`.
pub fn measure(
    stage: &Stage,
    size: Size,
    length: Duration,
    progress: &mut Progress,
) -> Result<Dispatched, ExperimentError> {
    let name = format!("{} jobs", size.name());
    progress.step(&name, size.preparation() + length);
    let begin = Instant::now();
    let mut ready = Duration::ZERO;
    let mut raised = false;
    let mut attempt = || {
        files(size)?;
        let limit = room(stage, size)?;
        raised = limit.is_some();
        let mut row = Row::build(stage, size, progress)?;
        ready = begin.elapsed();
        row.scheduler.schedule()?;
        interrupt::sleep(length, || progress.tick())?;
        Ok(row.scheduler.status().dispatches.cost)
    };
    let cost = match attempt() {
        Ok(cost) => Ok(cost),
        Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
        Err(error) => Err(error.to_string()),
    };
    Ok(Dispatched {
        size,
        cost,
        ready,
        raised,
    })
}

/// Lets this process have an open file for each job (RLIMIT_NOFILE, getrlimit(2)).
fn files(size: Size) -> Result<(), ExperimentError> {
    let needed = u64::from(size.processes() + OTHERS);
    let failed = |errno: Errno| ExperimentError::Io {
        action: format!("have {needed} files open, one for each job (raise `ulimit -Hn`)"),
        source: errno.into(),
    };
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(failed)?;
    if soft >= needed {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).map_err(failed)
}

/// The largest row with 200 VTMs for which there can be open files enough, where that is less than 150 jobs of each.
pub fn largest() -> Option<Size> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if files(Size::ours(VTMS, JOBS, false)).is_ok() {
        return None;
    }
    let jobs = hard.max(soft).saturating_sub(OTHERS.into()) / u64::from(VTMS);
    let jobs = u32::try_from(jobs).ok().filter(|&jobs| jobs > 0)?;
    Some(Size::ours(VTMS, jobs, false))
}

/// Makes room for so many processes, where there is none.
fn room(stage: &Stage, size: Size) -> Result<Option<Part>, ExperimentError> {
    let limit = pid_max::read().map_err(ExperimentError::io("read kernel.pid_max"))?;
    let needed = size.processes() + OTHERS;
    if needed <= limit {
        return Ok(None);
    }
    pid_max::raised(stage, RAISED.max(needed)).map(Some)
}

/// VTMs with their jobs. The scheduler is dropped first: it leaves the jobs as it found them.
struct Row {
    scheduler: VtmScheduler,
    sleepers: Sleepers,
    busy: Vec<Part>,
}

impl Row {
    fn build(stage: &Stage, size: Size, progress: &Progress) -> Result<Self, ExperimentError> {
        let mut row = Self {
            scheduler: VtmScheduler::new(VtmConfig {
                slot: SLOT,
                suspend: Suspend::Signals,
                ..VtmConfig::on(stage.cpu)
            })?,
            sleepers: Sleepers::default(),
            busy: Vec::new(),
        };
        // A tenth of the CPU stays free for processes that are not real-time.
        let share = CpuShare {
            period: SLOT * (size.vtms + size.vtms.div_ceil(9)),
            need: Need::Time(SLOT),
            max_delay: None,
        };
        for vtm in 0..size.vtms {
            let name = format!("vtm{vtm}");
            row.scheduler.create(&name, RoundRobin::default())?;
            row.scheduler.reserve(&name, &share)?;
            for job in 0..size.jobs {
                let pid = if size.busy {
                    let part = spin::start(stage, &format!("job {vtm}.{job}"), None)?;
                    row.busy.push(part);
                    row.busy.last().map_or(0, Part::pid)
                } else {
                    row.sleepers.start()?
                };
                let source = JobSource::Process(pid);
                row.scheduler.add_job(&name, &source)?;
                progress.tick();
            }
        }
        Ok(row)
    }
}

//! The two VTMs on the stage's CPU: gold for streams, best effort for transcoding.

use std::time::{Duration, Instant};

use sched::framework::{Manager, Scheduler};
use sched::kernel::{Policy, Tid, set_policy};
use sched::ledger::Ledger;
use sched::reservation::Reservation;
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, VtmConfig, VtmScheduler};

use super::quality::{BEST_EFFORT, GOLD, Pair};
use crate::experiment::ExperimentError;
use crate::experiment::stage::{Promise, Stage};

/// The quantum of the table: the paper's.
pub const SLOT: Duration = Duration::from_millis(8);
/// Of streams, the same as that of other jobs, but under SCHED_FIFO: frames are finished in the order in which they were due.
/// SCHED_RR puts a stream behind the others after every 100 ms of CPU time, in the middle of a frame.
const PRIORITY: u8 = 80;
/// The period of gold: a frame's time.
pub const FRAME: Duration = Duration::from_millis(40);

/// The VTMs. Dropping them leaves every job as it was found.
pub struct Vtms {
    scheduler: VtmScheduler,
    cpu: Pair,
}

impl Vtms {
    /// Both, without jobs. Of gold's `streams` all may run when it has the CPU: one that has sent its frame leaves what is
    /// left of a slot to the others.
    pub fn new(stage: &Stage, cpu: Pair, streams: u16) -> Result<Self, ExperimentError> {
        let ledger = match stage.promise {
            Promise::Partition { .. } => Some(Ledger::open(&stage.folder)?),
            Promise::Global { .. } => None,
        };
        let mut scheduler = VtmScheduler::new(VtmConfig {
            slot: SLOT,
            ledger,
            ..VtmConfig::on(stage.cpu)
        })?;
        let together = RoundRobin {
            quantum: SLOT,
            active: usize::from(streams)
                .try_into()
                .unwrap_or(std::num::NonZeroUsize::MIN),
        };
        let in_turn = RoundRobin {
            quantum: SLOT,
            ..RoundRobin::default()
        };
        scheduler.create(GOLD, together)?;
        scheduler.create(BEST_EFFORT, in_turn)?;
        scheduler.reserve(GOLD, &share(cpu.gold))?;
        scheduler.reserve(BEST_EFFORT, &share(cpu.best_effort))?;
        scheduler.schedule()?;
        Ok(Self { scheduler, cpu })
    }

    /// Makes a process a job of a VTM.
    pub fn add(&mut self, vtm: &str, pid: i32) -> Result<(), ExperimentError> {
        self.scheduler.add_job(vtm, &JobSource::Process(pid))?;
        if vtm == GOLD {
            let policy = Policy::Fifo { priority: PRIORITY };
            set_policy(Tid(pid), policy)
                .map_err(|errno| ExperimentError::io("let streams finish frames")(errno.into()))?;
        }
        Ok(())
    }

    /// CPU time that gold's jobs have had.
    pub fn gold_time(&self) -> Duration {
        let status = self.scheduler.status();
        let gold = status.vtms.iter().find(|vtm| vtm.name == GOLD);
        gold.map_or(Duration::ZERO, |gold| gold.cpu_time)
    }

    /// What both have.
    pub fn cpu(&self) -> Pair {
        self.cpu
    }

    /// Gives both other shares, at once; how long that took.
    pub fn adapt(&mut self, cpu: Pair) -> Result<Duration, ExperimentError> {
        let changes = [
            share(cpu.gold).of(GOLD),
            share(cpu.best_effort).of(BEST_EFFORT),
        ];
        let begin = Instant::now();
        self.scheduler.adapt(&changes)?;
        let took = begin.elapsed();
        self.cpu = cpu;
        Ok(took)
    }
}

fn share(reservation: Reservation) -> CpuShare {
    CpuShare {
        period: reservation.period(),
        need: Need::Time(reservation.runtime()),
        max_delay: None,
    }
}

//! How long it takes to give one VTM a slot of another, over the number of VTMs.

use std::time::{Duration, Instant};

use sched::framework::{Manager, Scheduler};
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, Suspend, Vtm, VtmConfig, VtmScheduler};

use crate::experiment::progress::Progress;
use crate::experiment::sleepers::Sleepers;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};
use crate::report::stats::Distribution;

/// Changes measured for each number of VTMs, as in the paper.
pub const CHANGES: u32 = 30;
/// Longer than any table takes to be in force.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks at which table is in force: each keeps the dispatcher from telling for a moment.
const GLANCE: Duration = Duration::from_millis(1);

/// A number of VTMs, and what the paper has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crowd {
    /// VTMs.
    pub vtms: u32,
    /// The length of a slot.
    pub slot: Duration,
    /// Slots of a period; each VTM has two of them.
    pub period: u32,
    /// What it may take.
    pub target: Duration,
    /// The paper's VTMs, microseconds.
    pub paper_us: u32,
    /// The paper's Xen 3.1, microseconds.
    pub xen_us: Option<u32>,
}

/// Table 5 of the paper. There every VTM has 20 ms of 400 ms, the 200 ones of 4000 ms, and 20 of them fill the CPU; here
/// a tenth is left to processes that are not real-time, and 200 VTMs have their turns in shorter slots, within the
/// second in which real-time throttling has to find that tenth.
pub const CROWDS: [Crowd; 4] = [
    Crowd::of(1, 99, Some(226_650)),
    Crowd::of(2, 99, Some(443_760)),
    Crowd::of(20, 436, None),
    Crowd {
        slot: Duration::from_millis(2),
        period: 440,
        target: Duration::from_micros(500),
        ..Crowd::of(200, 212_740, None)
    },
];

impl Crowd {
    const fn of(vtms: u32, paper_us: u32, xen_us: Option<u32>) -> Self {
        Self {
            vtms,
            slot: Duration::from_millis(10),
            period: 44,
            target: Duration::from_micros(50),
            paper_us,
            xen_us,
        }
    }

    fn share(&self, slots: u32) -> CpuShare {
        CpuShare {
            period: self.slot * self.period,
            need: Need::Time(self.slot * slots),
            max_delay: None,
        }
    }

    /// X with one slot more, and Y, where there is one, with one less; or everything as it was.
    fn change(&self, forth: bool) -> Vec<Vtm> {
        let (more, less) = if forth { (3, 1) } else { (2, 2) };
        let x = self.share(more).of("vtm0");
        let y = (self.vtms > 1).then(|| self.share(less).of("vtm1"));
        std::iter::once(x).chain(y).collect()
    }

    /// About the time it takes.
    pub fn duration(&self) -> Duration {
        Duration::from_millis(300) + (self.slot * 3) * CHANGES
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Adapted {
    /// Of how many VTMs.
    pub crowd: Crowd,
    /// How long the change took, until it was known to be possible and on its way.
    pub work: Distribution,
    /// How long until the new table was in force, as seen from outside.
    pub in_force: Distribution,
}

/// Gives and takes back a slot, again and again.
pub fn measure(
    stage: &Stage,
    crowd: Crowd,
    progress: &mut Progress,
) -> Result<Adapted, ExperimentError> {
    progress.step(
        &format!("adaptation of {} VTMs", crowd.vtms),
        crowd.duration(),
    );
    let mut scheduler = VtmScheduler::new(VtmConfig {
        slot: crowd.slot,
        suspend: Suspend::Signals,
        ..VtmConfig::on(stage.cpu)
    })?;
    let mut sleepers = Sleepers::default();
    for vtm in 0..crowd.vtms {
        let name = format!("vtm{vtm}");
        scheduler.create(&name, RoundRobin::default())?;
        scheduler.reserve(&name, &crowd.share(2))?;
        scheduler.add_job(&name, &JobSource::Process(sleepers.start()?))?;
    }
    scheduler.schedule()?;
    let (mut work, mut in_force) = (Vec::new(), Vec::new());
    for change in 0..CHANGES {
        // At every phase of a slot.
        let pause = crowd.slot + crowd.slot * change / CHANGES;
        interrupt::sleep(pause, || progress.tick())?;
        let change = crowd.change(change % 2 == 0);
        let begin = Instant::now();
        scheduler.adapt(&change)?;
        work.push(begin.elapsed());
        in_force.push(until_in_force(&scheduler, begin)?);
    }
    // Before its jobs, which it leaves as it found them.
    drop(scheduler);
    Ok(Adapted {
        crowd,
        work: Distribution::new(work),
        in_force: Distribution::new(in_force),
    })
}

fn until_in_force(scheduler: &VtmScheduler, begin: Instant) -> Result<Duration, ExperimentError> {
    loop {
        let status = scheduler.status();
        let elapsed = begin.elapsed();
        if status.tables_in_force == status.tables {
            return Ok(elapsed);
        }
        if elapsed > PATIENCE {
            return Err(ExperimentError::NotInForce { patience: PATIENCE });
        }
        interrupt::check()?;
        std::thread::sleep(GLANCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sched::vtm::{Placement, Policy, Table};

    #[test]
    fn every_change_of_the_paper_fits_and_leaves_a_share_to_other_processes() {
        for crowd in CROWDS {
            let all = (0..crowd.vtms).map(|vtm| crowd.share(2).of(&format!("vtm{vtm}")));
            let all: Vec<_> = all.collect();
            let (policy, placement) = (Policy::default(), Placement::default());
            let mut table = Table::new(crowd.slot, policy, placement, &all).unwrap();
            for forth in [true, false] {
                table.adapt(&crowd.change(forth)).unwrap();
                let idle = table.slots().iter().filter(|slot| slot.is_none()).count();
                let share = idle as f64 / table.slots().len() as f64;
                assert!(share > 0.05, "{crowd:?}: {share}");
                assert!(table.hyperperiod() < Duration::from_secs(1));
            }
        }
    }
}

//! Level 1: VTMs share a CPU by a dispatch table.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::config::{CpuShare, JobSource, Promise, RoundRobin, Rule, VtmConfig};
use super::error::VtmError;
use super::job::JobSpec;
use super::request::Vtm;
use super::roster::Roster;
use super::status::Status;
use super::team::Team;
use super::watcher::Watcher;
use crate::framework::{Factory, Levels, Manager, Resource, Scheduler};

/// Shares one CPU among VTMs by a dispatch table, from its own real-time thread.
///
/// [`Manager`] and [`Scheduler`] have most of its operations: `reserve` (the paper's `cpu_reservation`), `adapt`
/// (`cpu_adapt`, of any number of VTMs at once), `expel`, `suspend`, `resume`, `schedule`.
///
/// ```no_run
/// # use std::time::Duration;
/// # use sched::framework::{Manager, Scheduler};
/// # use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, VtmConfig, VtmError, VtmScheduler};
/// let mut vtms = VtmScheduler::new(VtmConfig::on(1))?;
/// vtms.create("gold", RoundRobin::default())?;
/// let share = |period, need| CpuShare { period: Duration::from_millis(period), need, max_delay: None };
/// vtms.reserve("gold", &share(40, Need::Usage(25.0)))?;
/// vtms.add_job("gold", &JobSource::Command(vec!["yes".to_owned()]))?;
/// vtms.schedule()?;
/// vtms.adapt(&[share(40, Need::Time(Duration::from_millis(20))).of("gold")])?;
/// # Ok::<(), VtmError>(())
/// ```
///
/// Dropping it releases every job as it was found: continued, unless somebody else had stopped it, with its own policy,
/// CPUs and control groups; commands that it has started run on. Should the process die, another one that it has forked does the same.
#[derive(Debug)]
pub struct VtmScheduler {
    roster: Arc<Mutex<Roster>>,
    watcher: Option<Watcher>,
}

impl VtmScheduler {
    /// A scheduler without VTMs, and its guardian. Nothing is dispatched before [`Scheduler::schedule`].
    ///
    /// # Errors
    /// When the CPU cannot be had, or real-time scheduling is not permitted.
    pub fn new(config: VtmConfig) -> Result<Self, VtmError> {
        let roster = Arc::new(Mutex::new(Roster::new(&config)?));
        let watcher = Watcher::start(&roster)?;
        Ok(Self {
            roster,
            watcher: Some(watcher),
        })
    }

    /// A VTM without a reservation and without jobs.
    ///
    /// # Errors
    /// When the name is taken or none, or the quantum is zero.
    pub fn create(&mut self, name: &str, rule: RoundRobin) -> Result<Resource, VtmError> {
        self.make((name.to_owned(), rule))
    }

    /// Releases a VTM's jobs as they were found, takes back its reservation and forgets it.
    ///
    /// # Errors
    /// When there is no such VTM; what could not be undone is in the log.
    pub fn release(&mut self, name: &str) -> Result<(), VtmError> {
        self.roster().release(name)
    }

    /// Makes a job of a VTM from a process, a process group or a command, and stops it until its turn comes: from then
    /// on it runs only in the VTM's slots, in real time on the VTM's CPU, and its children with it. Returns its name, which is
    /// the id of its first process.
    ///
    /// # Errors
    /// When there is no such process or it cannot be a job; it is as before then.
    pub fn add_job(&mut self, vtm: &str, source: &JobSource) -> Result<String, VtmError> {
        let spec = JobSpec {
            source: source.clone(),
            resource: None,
        };
        self.roster().add_job(vtm, None, spec)
    }

    /// Releases one job as it was found.
    ///
    /// # Errors
    /// When there is no such VTM or job.
    pub fn remove_job(&mut self, vtm: &str, job: &str) -> Result<(), VtmError> {
        self.roster().remove_job(vtm, job)
    }

    /// A VTM: as a job of this scheduler, and as the scheduler of its own jobs.
    ///
    /// # Errors
    /// When there is no such VTM.
    pub fn team(&mut self, name: &str) -> Result<Team<'_>, VtmError> {
        Team::of(self, name)
    }

    /// How everything stands.
    pub fn status(&self) -> Status {
        self.roster().status()
    }

    /// What the roster holds is whole between any two calls: a panic elsewhere leaves it so.
    pub(super) fn roster(&self) -> MutexGuard<'_, Roster> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for VtmScheduler {
    fn drop(&mut self) {
        drop(self.watcher.take());
        self.roster().release_all();
    }
}

/// Makes VTMs: a name, and the rule of its jobs.
impl Factory for VtmScheduler {
    type Specification = (String, RoundRobin);
    type Product = Resource;
    type Error = VtmError;

    fn make(&mut self, (name, rule): (String, RoundRobin)) -> Result<Resource, VtmError> {
        self.roster().create(&name, rule)
    }
}

impl Manager for VtmScheduler {
    type Request = CpuShare;
    type Change = Vtm;
    type Grant = Promise;
    type Held = Promise;
    type Policy = Rule;
    type Error = VtmError;

    fn admit(&self, vtm: &str, share: &CpuShare) -> Result<Vec<Promise>, VtmError> {
        let (_, promise) = self.roster().with(vtm, share)?;
        Ok(vec![promise])
    }

    /// The new table is in force from the next slot on, here and in [`Manager::adapt`] and [`Manager::expel`].
    fn reserve(&mut self, vtm: &str, share: &CpuShare) -> Result<Promise, VtmError> {
        let mut roster = self.roster();
        let (table, promise) = roster.with(vtm, share)?;
        roster.follow(Some(table))?;
        Ok(promise)
    }

    /// The VTM and its jobs stay, stopped.
    fn expel(&mut self, vtm: &str) -> Result<(), VtmError> {
        self.roster().expel(vtm)
    }

    fn adapt(&mut self, changes: &[Vtm]) -> Result<Vec<Promise>, VtmError> {
        self.roster().adapt(changes)
    }

    /// The CPU, and the VTMs.
    fn resources(&self) -> Result<Levels, VtmError> {
        let roster = self.roster();
        let vtms = roster.teams.iter().flatten();
        Ok(Levels {
            lowest: vec![roster.jobs.below.clone()],
            highest: vtms.map(|team| team.resource.clone()).collect(),
        })
    }

    fn policy(&self) -> Rule {
        self.roster().rule
    }

    fn set_policy(&mut self, rule: Rule) -> Result<(), VtmError> {
        self.roster().set_rule(rule)
    }
}

impl Scheduler for VtmScheduler {
    /// Its slots pass idle.
    fn suspend(&mut self, vtm: &str) -> Result<(), VtmError> {
        self.roster().suspend(vtm, true)
    }

    fn resume(&mut self, vtm: &str) -> Result<(), VtmError> {
        self.roster().suspend(vtm, false)
    }

    /// Starts the dispatcher.
    fn schedule(&mut self) -> Result<(), VtmError> {
        self.roster().schedule()
    }
}

//! Level 1: VTMs share a CPU by a dispatch table.

use std::marker::PhantomData;
use std::net::IpAddr;

use super::config::{CpuShare, JobSource, Promise, RoundRobin, Rule, VtmConfig};
use super::error::VtmError;
use super::request::Vtm;
use super::status::Status;
use crate::framework::{Job, Manager, Resource, Scheduler};

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
/// CPUs and control groups. Should the process die, another one that it has forked does the same.
#[derive(Debug)]
pub struct VtmScheduler {}

impl VtmScheduler {
    /// A scheduler without VTMs, and its guardian. Nothing is dispatched before [`Scheduler::schedule`].
    ///
    /// # Errors
    /// When the CPU cannot be had, or real-time scheduling is not permitted.
    pub fn new(_config: VtmConfig) -> Result<Self, VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// A VTM without a reservation and without jobs.
    ///
    /// # Errors
    /// When the name is taken or none, or the quantum is zero.
    pub fn create(&mut self, _name: &str, _rule: RoundRobin) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// Releases a VTM's jobs as they were found, takes back its reservation and forgets it.
    ///
    /// # Errors
    /// When there is no such VTM; what could not be undone is in the log.
    pub fn release(&mut self, _name: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// Makes a job of a VTM from a process, a process group or a command, and stops it until its turn comes: from then
    /// on it runs only in the VTM's slots, in real time on the VTM's CPU, and its children with it. Its name is that of its first
    /// process.
    ///
    /// # Errors
    /// When there is no such process or it cannot be a job; it is as before then.
    pub fn add_job(&mut self, _vtm: &str, _source: &JobSource) -> Result<String, VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// Releases one job as it was found.
    ///
    /// # Errors
    /// When there is no such VTM or job.
    pub fn remove_job(&mut self, _vtm: &str, _job: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// A VTM: as a job of this scheduler, and as the scheduler of its own jobs.
    ///
    /// # Errors
    /// When there is no such VTM.
    pub fn team(&mut self, _name: &str) -> Result<Team<'_>, VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// How everything stands.
    pub fn status(&self) -> Status {
        unimplemented!()
    }

    /// Would reserve a share of the network for a VTM.
    ///
    /// # Errors
    /// Always: network shares are not configured.
    pub fn network_reserve(
        &mut self,
        _vtm: &str,
        _bits_per_second: u64,
        _targets: &[IpAddr],
    ) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// Would change shares of the network of several VTMs at once.
    ///
    /// # Errors
    /// Always: network shares are not configured.
    pub fn network_adapt(&mut self, _changes: &[(&str, u64)]) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

impl Manager for VtmScheduler {
    type Request = CpuShare;
    type Change = Vtm;
    type Grant = Promise;
    type Held = Promise;
    type Policy = Rule;
    type Error = VtmError;

    fn admit(&self, _vtm: &str, _share: &CpuShare) -> Result<Promise, VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// The new table is in force from the next slot on, here and in [`Manager::adapt`] and [`Manager::expel`].
    fn reserve(&mut self, _vtm: &str, _share: &CpuShare) -> Result<Promise, VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// The VTM and its jobs stay, stopped.
    fn expel(&mut self, _vtm: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn adapt(&mut self, _changes: &[Vtm]) -> Result<Vec<Promise>, VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn resources(&self) -> Result<Vec<Resource>, VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn add_resource(&mut self, _resource: &Resource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn remove_resource(&mut self, _resource: &Resource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn policy(&self) -> Rule {
        Rule::default()
    }

    fn set_policy(&mut self, _rule: Rule) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

impl Scheduler for VtmScheduler {
    fn suspend(&mut self, _vtm: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn resume(&mut self, _vtm: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    /// Starts the dispatcher.
    fn schedule(&mut self) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

/// A VTM: a job of level 1, and at level 2 the scheduler of its own jobs, by round robin. Its [`Manager::reserve`] adds a
/// job under a name of the caller's choice, `expel` removes one, and `set_policy` changes the round robin.
#[derive(Debug)]
pub struct Team<'a> {
    _scheduler: PhantomData<&'a mut VtmScheduler>,
}

impl Job for Team<'_> {
    type Param = Option<CpuShare>;
    type Error = VtmError;

    fn resource(&self) -> &Resource {
        unimplemented!()
    }

    fn sched_param(&self) -> Option<CpuShare> {
        None
    }

    fn set_sched_param(&mut self, _share: Option<CpuShare>) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

impl Manager for Team<'_> {
    type Request = JobSource;
    type Change = (String, JobSource);
    type Grant = ();
    type Held = ();
    type Policy = RoundRobin;
    type Error = VtmError;

    fn admit(&self, _job: &str, _source: &JobSource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn reserve(&mut self, _job: &str, _source: &JobSource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn expel(&mut self, _job: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn adapt(&mut self, _changes: &[(String, JobSource)]) -> Result<Vec<()>, VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn resources(&self) -> Result<Vec<Resource>, VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn add_resource(&mut self, _resource: &Resource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn remove_resource(&mut self, _resource: &Resource) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn policy(&self) -> RoundRobin {
        RoundRobin::default()
    }

    fn set_policy(&mut self, _rule: RoundRobin) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

impl Scheduler for Team<'_> {
    fn suspend(&mut self, _job: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn resume(&mut self, _job: &str) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }

    fn schedule(&mut self) -> Result<(), VtmError> {
        Err(VtmError::NoNetwork)
    }
}

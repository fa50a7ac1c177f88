//! Level 2: the jobs of a VTM share its slots by round robin.

use super::config::{CpuShare, JobSource, RoundRobin};
use super::error::VtmError;
use super::job::JobSpec;
use super::scheduler::VtmScheduler;
use crate::framework::{Job, Kind, Levels, Manager, Pool, Resource, Scheduler};

/// A VTM: a job of level 1, and at level 2 the scheduler of its own jobs, by round robin. Its [`Manager::reserve`] adds a
/// job under a name of the caller's choice, `expel` removes one, and `set_policy` changes the round robin.
#[derive(Debug)]
pub struct Team<'a> {
    scheduler: &'a mut VtmScheduler,
    name: String,
    resource: Resource,
}

impl<'a> Team<'a> {
    pub(super) fn of(scheduler: &'a mut VtmScheduler, name: &str) -> Result<Self, VtmError> {
        let resource = scheduler.roster().team(name)?.resource.clone();
        Ok(Self {
            scheduler,
            name: name.to_owned(),
            resource,
        })
    }

    fn add(
        &mut self,
        name: Option<&str>,
        source: &JobSource,
        resource: Option<&Resource>,
    ) -> Result<String, VtmError> {
        let spec = JobSpec {
            source: source.clone(),
            resource: resource.cloned(),
        };
        self.scheduler.roster().add_job(&self.name, name, spec)
    }
}

impl Job for Team<'_> {
    /// None without a reservation.
    type Param = Option<CpuShare>;
    type Error = VtmError;

    fn resource(&self) -> &Resource {
        &self.resource
    }

    fn sched_param(&self) -> Option<CpuShare> {
        self.scheduler.roster().share(&self.name)
    }

    fn set_sched_param(&mut self, share: Option<CpuShare>) -> Result<(), VtmError> {
        let name = self.name.clone();
        match (self.sched_param(), share) {
            (None, None) => Ok(()),
            (None, Some(share)) => self.scheduler.reserve(&name, &share).map(drop),
            (Some(_), None) => self.scheduler.expel(&name),
            (Some(_), Some(share)) => self.scheduler.adapt(&[share.of(&name)]).map(drop),
        }
    }
}

impl Manager for Team<'_> {
    type Request = JobSource;
    type Change = (String, JobSource);
    type Grant = ();
    type Held = ();
    type Policy = RoundRobin;
    type Error = VtmError;

    fn admit(&self, job: &str, source: &JobSource) -> Result<Vec<()>, VtmError> {
        let mut roster = self.scheduler.roster();
        roster.admit_job(&self.name, job, source)?;
        Ok(vec![()])
    }

    fn reserve(&mut self, job: &str, source: &JobSource) -> Result<(), VtmError> {
        self.add(Some(job), source, None).map(drop)
    }

    fn expel(&mut self, job: &str) -> Result<(), VtmError> {
        self.scheduler.roster().remove_job(&self.name, job)
    }

    /// Replaces jobs by others of the same names.
    fn adapt(&mut self, changes: &[(String, JobSource)]) -> Result<Vec<()>, VtmError> {
        let mut roster = self.scheduler.roster();
        let specs = changes.iter().cloned();
        let specs = specs.map(|(name, source)| {
            let resource = None;
            (name, JobSpec { source, resource })
        });
        roster.replace_jobs(&self.name, specs.collect())
    }

    /// The processes, and the VTM that stands on them.
    fn resources(&self) -> Result<Levels, VtmError> {
        let mut lowest = self.resource.below();
        lowest.retain(|resource| resource.kind() == Kind::PROCESS);
        Ok(Levels {
            lowest,
            highest: vec![self.resource.clone()],
        })
    }

    fn policy(&self) -> RoundRobin {
        let roster = self.scheduler.roster();
        roster
            .team(&self.name)
            .map_or_else(|_| RoundRobin::default(), |team| team.rule)
    }

    fn set_policy(&mut self, rule: RoundRobin) -> Result<(), VtmError> {
        self.scheduler.roster().set_round_robin(&self.name, rule)
    }
}

/// The processes that the VTM stands on.
impl Pool for Team<'_> {
    /// Adds the process whose id is the resource's name.
    fn add_resource(&mut self, resource: &Resource) -> Result<(), VtmError> {
        let pid = resource.name().parse().ok();
        let Some(pid) = pid.filter(|_| resource.kind() == Kind::PROCESS) else {
            return Err(VtmError::Foreign {
                resource: resource.clone(),
                reason: "a VTM stands on processes, which are called by their ids",
            });
        };
        self.add(None, &JobSource::Process(pid), Some(resource))
            .map(drop)
    }

    fn remove_resource(&mut self, resource: &Resource) -> Result<(), VtmError> {
        let mut roster = self.scheduler.roster();
        let jobs = roster.team(&self.name)?.jobs.iter();
        let mut jobs = jobs.filter(|(_, job)| job.resource == *resource);
        let Some(name) = jobs.next().map(|(name, _)| name.clone()) else {
            return Err(VtmError::Foreign {
                resource: resource.clone(),
                reason: "the VTM does not stand on it",
            });
        };
        roster.remove_job(&self.name, &name)
    }
}

impl Scheduler for Team<'_> {
    fn suspend(&mut self, job: &str) -> Result<(), VtmError> {
        self.scheduler.roster().suspend_job(&self.name, job, true)
    }

    fn resume(&mut self, job: &str) -> Result<(), VtmError> {
        self.scheduler.roster().suspend_job(&self.name, job, false)
    }

    /// Gives others their turn before the quantum has passed, if the VTM has the CPU at the next slot.
    fn schedule(&mut self) -> Result<(), VtmError> {
        self.scheduler.roster().turn(&self.name)
    }
}

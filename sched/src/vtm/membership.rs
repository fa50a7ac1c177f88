//! Which jobs belong to which VTM.

use std::sync::atomic::Ordering;

use super::config::JobSource;
use super::dispatcher::Order;
use super::error::VtmError;
use super::job::{JobEntry, JobSpec};
use super::roster::{Roster, check_name};
use crate::framework::Factory;

impl Roster {
    /// What [`Roster::add_job`] would find wrong before it does anything.
    pub(super) fn admit_job(
        &mut self,
        vtm: &str,
        name: &str,
        source: &JobSource,
    ) -> Result<(), VtmError> {
        self.check_job_name(vtm, name)?;
        self.jobs.check(source)
    }

    fn check_job_name(&self, vtm: &str, name: &str) -> Result<(), VtmError> {
        check_name(name)?;
        if self.team(vtm)?.jobs.contains_key(name) {
            return Err(VtmError::JobNameTaken {
                vtm: vtm.to_owned(),
                job: name.to_owned(),
            });
        }
        Ok(())
    }

    /// Adds a job under `name`, or under the id of its first process.
    pub(super) fn add_job(
        &mut self,
        vtm: &str,
        name: Option<&str>,
        spec: JobSpec,
    ) -> Result<String, VtmError> {
        let number = self.number(vtm)?;
        name.map_or(Ok(()), |name| self.check_job_name(vtm, name))?;
        let job = self.jobs.make(spec)?;
        let name = name.map_or_else(|| job.pid.to_string(), str::to_owned);
        self.enter(number, &name, job)?;
        Ok(name)
    }

    /// Replaces jobs by others of the same names: all or none.
    pub(super) fn replace_jobs(
        &mut self,
        vtm: &str,
        specs: Vec<(String, JobSpec)>,
    ) -> Result<Vec<()>, VtmError> {
        let number = self.number(vtm)?;
        for (name, _) in &specs {
            self.job_mut(vtm, name)?;
        }
        let mut made = Vec::with_capacity(specs.len());
        for (name, spec) in specs {
            match self.jobs.make(spec) {
                Ok(job) => made.push((name, job)),
                Err(error) => {
                    for (_, job) in &made {
                        let job: &JobEntry = job;
                        self.jobs.undo(&job.record);
                    }
                    return Err(error);
                }
            }
        }
        let replace = |(name, job): (String, JobEntry)| {
            self.remove_job(vtm, &name)?;
            self.enter(number, &name, job)
        };
        made.into_iter().map(replace).collect()
    }

    fn enter(&mut self, number: usize, name: &str, mut job: JobEntry) -> Result<(), VtmError> {
        let vtm = self.team_mut(number).map(|team| team.name.clone());
        for &pid in job.processes.keys() {
            self.jobs
                .owners
                .insert(pid, vtm.clone().unwrap_or_default());
        }
        job.listed = !job.is_held();
        if job.listed
            && let Err(error) = self.link.order(Order::Add(number, job.handle()))
        {
            self.jobs.undo(&job.record);
            return Err(error);
        }
        if job.is_held() {
            self.held.insert(job.id);
        }
        self.index.insert(job.id, (number, name.to_owned()));
        self.fresh.insert(job.id);
        if let Some(team) = self.team_mut(number) {
            team.resource.stand_on(&job.resource);
            team.jobs.insert(name.to_owned(), job);
        }
        Ok(())
    }

    /// Gives the next jobs of a VTM their turn.
    pub(super) fn turn(&mut self, vtm: &str) -> Result<(), VtmError> {
        let number = self.number(vtm)?;
        self.link.order(Order::Turn(number))
    }

    /// A job and the number of its VTM.
    fn job_mut(&mut self, vtm: &str, name: &str) -> Result<(usize, &mut JobEntry), VtmError> {
        let number = self.number(vtm)?;
        let jobs = self.teams[number].as_mut().map(|team| &mut team.jobs);
        let known: Vec<String> = jobs.iter().flat_map(|jobs| jobs.keys().cloned()).collect();
        let job = jobs.and_then(|jobs| jobs.get_mut(name));
        let job = job.ok_or_else(|| VtmError::NoSuchJob {
            vtm: vtm.to_owned(),
            job: name.to_owned(),
            known,
        })?;
        Ok((number, job))
    }

    pub(super) fn remove_job(&mut self, vtm: &str, name: &str) -> Result<(), VtmError> {
        let (number, job) = self.job_mut(vtm, name)?;
        let (id, listed) = (job.id, job.listed);
        // It is left as it was found even if nobody dispatches it any more.
        let removed = if listed {
            self.link.remove(number, id).map(drop)
        } else {
            Ok(())
        };
        self.forget(number, name);
        removed
    }

    /// Lets a job have no turns, or lets it again.
    pub(super) fn suspend_job(
        &mut self,
        vtm: &str,
        name: &str,
        suspended: bool,
    ) -> Result<(), VtmError> {
        let (number, job) = self.job_mut(vtm, name)?;
        job.suspended = suspended;
        let (id, list) = (job.id, !suspended && !job.is_held());
        let order = match (job.listed, list) {
            (false, true) => Some(Order::Add(number, job.handle())),
            _ => None,
        };
        if job.listed && !list {
            let handle = self.link.remove(number, id)?;
            handle.stop.stop();
            handle.count.running.store(false, Ordering::Relaxed);
        }
        if let Some(order) = order {
            self.link.order(order)?;
        }
        let (_, job) = self.job_mut(vtm, name)?;
        job.listed = list;
        Ok(())
    }

    /// Leaves a job that the dispatcher does not have as it was found, and takes it from its VTM.
    pub(super) fn forget(&mut self, number: usize, name: &str) {
        let Some(team) = self.teams.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        let Some(mut job) = team.jobs.remove(name) else {
            return;
        };
        team.resource.leave(&job.resource);
        team.ended_cpu += job.cpu_time();
        if job.processes.is_empty() {
            team.ended += 1;
        }
        self.index.remove(&job.id);
        self.held.remove(&job.id);
        self.jobs.undo(&job.record);
        if let Some(child) = &mut job.child {
            // Only to be rid of a zombie, if it is one.
            let _ = child.try_wait();
        }
    }
}

//! The watcher: an ordinary thread that looks after jobs that may have changed by themselves: those that had a turn may
//! have ended or forked, those that somebody else had stopped may have been continued.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::dispatcher::Order;
use super::error::VtmError;
use super::job::{JobEntry, Jobs};
use super::processes::{Seen, Snapshot, look};
use super::record::ProcessRecord;
use super::roster::Roster;
use super::status::Means;

/// For so long a child may run outside its VTM's slots before it is seen, where there is no freezer.
const INTERVAL: Duration = Duration::from_millis(20);

/// All processes of the host are looked at in a tenth of the time at most.
const PART: u32 = 10;

/// The thread. Ends on drop.
#[derive(Debug)]
pub(super) struct Watcher {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub(super) fn start(roster: &Arc<Mutex<Roster>>) -> Result<Self, VtmError> {
        let end = Arc::new(AtomicBool::new(false));
        let (roster, told) = (Arc::clone(roster), Arc::clone(&end));
        let builder = thread::Builder::new().name("vtm-watcher".to_owned());
        let life = move || watch(&roster, &told);
        let thread = builder.spawn(life).map_err(|source| VtmError::SetUp {
            action: "start the watcher",
            source,
        })?;
        Ok(Self {
            end,
            thread: Some(thread),
        })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn watch(roster: &Mutex<Roster>, end: &AtomicBool) {
    let locked = || roster.lock().unwrap_or_else(PoisonError::into_inner);
    let mut all = Snapshot::default();
    while !end.load(Ordering::Relaxed) {
        thread::park_timeout(INTERVAL);
        let (due, by_parents) = locked().due();
        let mut by_parents = by_parents;
        if !by_parents.is_empty() && !all.refresh(PART) {
            locked().fresh.append(&mut by_parents);
        }
        for &id in due.union(&by_parents) {
            let all = by_parents.contains(&id).then_some(&all);
            if let Err(error) = locked().look_after(id, all) {
                tracing::warn!(%error, "a job is not looked after");
            }
        }
    }
}

impl Roster {
    /// The jobs that are to be looked at, and those of which children may be found by their parents only.
    fn due(&mut self) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let mut due = BTreeSet::new();
        if let Some(had_turn) = &mut self.had_turn {
            while let Ok(id) = had_turn.pop() {
                due.insert(id);
            }
        }
        let running = self.running.iter().filter(|&&id| self.is_running(id));
        due.extend(running);
        self.running.clone_from(&due);
        due.extend(&self.held);
        let mut by_parents = std::mem::take(&mut self.fresh);
        if !self.jobs.has_groups() {
            by_parents.extend(&due);
        }
        (due, by_parents)
    }

    fn is_running(&self, id: u64) -> bool {
        let job = self.index.get(&id).and_then(|(number, name)| {
            let team = self.teams.get(*number)?.as_ref()?;
            team.jobs.get(name)
        });
        job.is_some_and(|job| job.count.running.load(Ordering::Relaxed))
    }

    /// Finds processes of a job that have come, gone or were continued.
    fn look_after(&mut self, id: u64, all: Option<&Snapshot>) -> Result<(), VtmError> {
        let Some((number, name)) = self.index.get(&id).cloned() else {
            return Ok(());
        };
        let Self {
            teams,
            jobs,
            link,
            held,
            ..
        } = self;
        let team = teams.get_mut(number).and_then(Option::as_mut);
        let Some(team) = team else {
            return Ok(());
        };
        let Some(job) = team.jobs.get_mut(&name) else {
            return Ok(());
        };
        job.drop_ended(jobs);
        let born = job.born(all);
        if !born.is_empty() {
            let before = job.means;
            job.adopt(jobs, &team.name, &born)?;
            if job.listed && (job.means, before) != (Means::Freezer, Means::Freezer) {
                link.order(Order::Means(number, id, job.stop()))?;
            }
        }
        if job.processes.is_empty() {
            return self.remove_job_numbered(number, &name);
        }
        if job.has_been_continued() {
            held.remove(&id);
            jobs.guardian.job(&job.record)?;
            if !job.listed && !job.suspended {
                job.stop().stop();
                job.listed = true;
                link.order(Order::Add(number, job.handle()))?;
            }
        }
        Ok(())
    }

    fn remove_job_numbered(&mut self, number: usize, name: &str) -> Result<(), VtmError> {
        let team = self.team_mut(number).map(|team| team.name.clone());
        team.map_or(Ok(()), |team| self.remove_job(&team, name))
    }
}

impl JobEntry {
    fn drop_ended(&mut self, jobs: &mut Jobs) {
        let ended = self
            .processes
            .iter()
            .filter(|(_, process)| process.fd.has_ended());
        for pid in ended.map(|(&pid, _)| pid).collect::<Vec<_>>() {
            if let Some(mut process) = self.processes.remove(&pid) {
                self.ended_cpu += process.cpu_time();
                jobs.owners.remove(&pid);
            }
        }
        if let Some(child) = &mut self.child {
            // Whatever it says: the pidfd tells whether it has ended.
            let _ = child.try_wait();
        }
    }

    /// Processes of the job that are not known yet.
    fn born(&self, all: Option<&Snapshot>) -> Vec<Seen> {
        let mut pids = self
            .record
            .group
            .as_ref()
            .map_or_else(Vec::new, |group| group.members());
        if let Some(all) = all {
            let own: Vec<i32> = self.processes.keys().copied().collect();
            pids.extend(all.descendants(&own));
        }
        pids.sort_unstable();
        pids.dedup();
        pids.retain(|pid| !self.processes.contains_key(pid));
        pids.into_iter().filter_map(look).collect()
    }

    /// Enters children that were born while their parent was a job.
    fn adopt(&mut self, jobs: &mut Jobs, vtm: &str, born: &[Seen]) -> Result<(), VtmError> {
        let first = self.record.processes.len();
        for seen in born {
            let pid = seen.process.pid;
            let Some(parent) = self.record.processes.first() else {
                return Ok(());
            };
            if jobs.owners.contains_key(&pid) {
                continue;
            }
            let record: ProcessRecord = parent.child(seen.process);
            // One that has ended meanwhile needs nothing.
            let Ok(process) = Jobs::track(&record) else {
                continue;
            };
            self.processes.insert(pid, process);
            self.record.processes.push(record);
            jobs.owners.insert(pid, vtm.to_owned());
        }
        if self.freezer.is_some() && self.processes.len() > 1 {
            self.means = Means::Freezer;
        }
        jobs.guardian.job(&self.record)?;
        for record in &self.record.processes[first..] {
            let pid = record.process.pid;
            let joined = self.record.group.as_ref().map(|group| group.join(pid));
            let enlisted = jobs.enlist(record);
            if record.process.is_alive() {
                joined.transpose()?;
                enlisted?;
            }
        }
        Ok(())
    }

    /// Notes which processes are not stopped by somebody else any more. Whether all were, and some are not.
    fn has_been_continued(&mut self) -> bool {
        let held = self.is_held();
        for process in self.processes.values_mut().filter(|process| process.held) {
            let stopped = look(process.process.pid).is_none_or(|seen| seen.stopped);
            if stopped {
                continue;
            }
            process.held = false;
            let records = self.record.processes.iter_mut();
            for record in records.filter(|record| record.process == process.process) {
                record.held = false;
            }
        }
        held && !self.is_held()
    }
}

//! How a job was found, and leaving it like that again: by the scheduler when it releases a job, and by the guardian
//! when the scheduler has died.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use super::freezer::{self, Group};
use super::processes::{Snapshot, threads};
use crate::kernel::{PidFd, SchedAttr, Tid, attributes, set_attributes};
use crate::process::Process;

/// A job as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: u64,
    /// The first is what children that nobody has seen are left like.
    pub(super) processes: Vec<ProcessRecord>,
    /// The job's own group, if it has one.
    pub(super) group: Option<Group>,
    /// Whether its processes are stopped by signals.
    pub(super) signals: bool,
}

/// A process as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessRecord {
    pub(super) process: Process,
    /// Somebody else had stopped it.
    pub(super) held: bool,
    /// Its threads; the main one first.
    pub(super) threads: Vec<ThreadRecord>,
    /// The groups it is to be in: those that it was taken out of.
    pub(super) homes: Vec<PathBuf>,
}

/// A thread as it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ThreadRecord {
    pub(super) tid: i32,
    pub(super) policy: SchedAttr,
    pub(super) cpus: Vec<usize>,
}

impl ThreadRecord {
    pub(super) fn of(tid: i32) -> Result<Self, Errno> {
        let allowed = sched_getaffinity(Tid(tid).pid())?;
        let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap_or(false));
        Ok(Self {
            tid,
            policy: attributes(Tid(tid))?,
            cpus: cpus.collect(),
        })
    }

    fn restore(&self, tid: i32) -> Result<(), Errno> {
        set_attributes(Tid(tid), &self.policy)?;
        sched_setaffinity(Tid(tid).pid(), &set_of(&self.cpus))
    }
}

/// A set of CPUs for the kernel.
pub(super) fn set_of(cpus: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for &cpu in cpus {
        // One beyond the size of the set is not there either.
        let _ = set.set(cpu);
    }
    set
}

impl ProcessRecord {
    /// How a process is now.
    pub(super) fn of(process: Process, held: bool, homes: Vec<PathBuf>) -> Result<Self, Errno> {
        let mut tids = threads(process.pid);
        tids.sort_by_key(|&tid| tid != process.pid);
        let mut found = Vec::with_capacity(tids.len());
        for tid in tids {
            match ThreadRecord::of(tid) {
                Err(Errno::ESRCH) => {}
                thread => found.push(thread?),
            }
        }
        if found.is_empty() {
            return Err(Errno::ESRCH);
        }
        Ok(Self {
            process,
            held,
            threads: found,
            homes,
        })
    }

    /// A child that was born while its parent was a job.
    pub(super) fn child(&self, process: Process) -> Self {
        Self {
            process,
            held: false,
            threads: self.threads[..1].to_vec(),
            homes: self.homes.clone(),
        }
    }

    /// Leaves `process` as this one was.
    fn restore(&self, process: Process, signals: bool) -> Vec<String> {
        let pid = process.pid;
        let mut problems = Vec::new();
        let mut failed = |what: &str, why: &dyn std::fmt::Display| {
            problems.push(format!("cannot {what} of process {pid}: {why}"));
        };
        // The pidfd first: what has the same start time after it was opened is the process meant.
        let Ok(fd) = PidFd::open(pid) else {
            return problems;
        };
        if !process.is_alive() {
            return problems;
        }
        let (own, others): (Vec<&PathBuf>, Vec<_>) =
            self.homes.iter().partition(|home| !is_freezer(home));
        for home in own {
            if let Err(error) = freezer::join(home, pid) {
                failed("restore the control group", &error);
            }
        }
        for tid in threads(pid) {
            let known = self.threads.iter().find(|thread| thread.tid == tid);
            match known.unwrap_or(&self.threads[0]).restore(tid) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => failed("restore the policy", &error),
            }
        }
        if signals && !self.held {
            match fd.signal(Signal::SIGCONT) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => failed("continue a thread", &error),
            }
        }
        // Leaving a frozen group thaws.
        for home in others {
            if let Err(error) = freezer::join(home, pid) {
                failed("leave the freezer", &error);
            }
        }
        problems
    }
}

/// Whether a group is in the freezer's hierarchy.
fn is_freezer(group: &Path) -> bool {
    crate::cgroup::Hierarchy::of("freezer")
        .is_ok_and(|hierarchy| group.starts_with(&hierarchy.root))
}

impl Record {
    /// Leaves everything as it was found. What went wrong; a process that has ended is not wrong.
    pub(super) fn undo(&self, all: &Snapshot) -> Vec<String> {
        let mut problems = Vec::new();
        let mut done = BTreeSet::new();
        // A running job may fork meanwhile.
        for _ in 0..100 {
            let pending: Vec<_> = self
                .members(all)
                .into_iter()
                .filter(|process| !done.contains(&(process.pid, process.started)))
                .collect();
            if pending.is_empty() {
                break;
            }
            for process in pending {
                done.insert((process.pid, process.started));
                let known = self.processes.iter().find(|p| p.process == process);
                if let Some(found) = known {
                    problems.extend(found.restore(process, self.signals));
                } else if let Some(parent) = self.processes.first() {
                    problems.extend(parent.child(process).restore(process, self.signals));
                }
            }
        }
        if let Some(group) = &self.group {
            problems.extend(dissolve(group));
        }
        problems
    }

    fn members(&self, all: &Snapshot) -> Vec<Process> {
        let mut pids: Vec<i32> = self.processes.iter().map(|p| p.process.pid).collect();
        match &self.group {
            Some(group) => pids.extend(group.members()),
            None => pids.extend(all.descendants(&pids)),
        }
        pids.sort_unstable();
        pids.dedup();
        let alive = pids.into_iter().filter_map(Process::of);
        // A pid of the record that somebody else has now is not a member.
        let is_other = |process: &Process| {
            let mut known = self.processes.iter();
            known.any(|p| p.process.pid == process.pid && p.process != *process)
        };
        alive.filter(|process| !is_other(process)).collect()
    }
}

/// Removes a group that was left by all; a process that has just ended may still be listed for a moment.
fn dissolve(group: &Group) -> Option<String> {
    if let Ok(freezer) = group.freezer() {
        let _ = freezer.thaw();
    }
    let mut result = group.remove();
    for _ in 0..100 {
        if result.is_ok() {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
        result = group.remove();
    }
    result.err().map(|error| error.to_string())
}

//! The guardian: a process that leaves every job as it was found when the scheduler has died, in whatever way.
//!
//! It is forked when the scheduler is made, and reads what the scheduler is about to change from a pipe. The pipe's end is
//! the scheduler's. It runs in real time, above the jobs: one of them may be the reason why nothing else runs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;

use nix::sys::wait::waitpid;
use nix::unistd::{Pid, pipe2};
use serde::{Deserialize, Serialize};

use super::error::VtmError;
use super::processes::Snapshot;
use super::record::Record;
use crate::kernel::{Policy, Tid, fork, set_policy};

/// Below the dispatcher's, above the jobs'.
const PRIORITY: u8 = 98;

/// What the guardian is told, one in each line.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    /// A job as it was found; replaces what was said of it before.
    Job(Record),
    /// A job that was released.
    Forget(u64),
}

/// The scheduler's end of the guardian.
#[derive(Debug)]
pub(super) struct Guardian {
    /// Closed on drop, before waiting for the guardian's end.
    notes: Option<File>,
    pid: Pid,
}

impl Guardian {
    pub(super) fn start() -> Result<Self, VtmError> {
        let failed = |source: nix::errno::Errno| VtmError::SetUp {
            action: "start the guardian",
            source: source.into(),
        };
        let (reading, writing) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(failed)?;
        let pid = fork(reading, guard).map_err(failed)?;
        let guardian = Self {
            notes: Some(File::from(writing)),
            pid,
        };
        set_policy(Tid(pid.as_raw()), Policy::Fifo { priority: PRIORITY }).map_err(failed)?;
        Ok(guardian)
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// To be told before anything of the job is changed.
    pub(super) fn job(&mut self, record: &Record) -> Result<(), VtmError> {
        self.tell(&Note::Job(record.clone()))
    }

    pub(super) fn forget(&mut self, id: u64) -> Result<(), VtmError> {
        self.tell(&Note::Forget(id))
    }

    fn tell(&mut self, note: &Note) -> Result<(), VtmError> {
        let mut told = || -> io::Result<()> {
            let mut line = serde_json::to_vec(note)?;
            line.push(b'\n');
            match &mut self.notes {
                Some(notes) => notes.write_all(&line),
                None => Ok(()),
            }
        };
        told().map_err(|_| VtmError::Ended { what: "guardian" })
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        drop(self.notes.take());
        // It has ended already if somebody has killed it.
        let _ = waitpid(self.pid, None);
    }
}

/// The guardian's life.
fn guard(notes: OwnedFd) {
    let _ = nix::sys::prctl::set_name(c"vtm-guardian");
    let mut jobs = BTreeMap::new();
    let lines = BufReader::new(File::from(notes)).lines();
    for line in lines.map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Note::Job(record)) => drop(jobs.insert(record.id, record)),
            Ok(Note::Forget(id)) => drop(jobs.remove(&id)),
            // The scheduler died in the middle of a line: it had changed nothing of that job yet.
            Err(_) => {}
        }
    }
    if jobs.is_empty() {
        return;
    }
    let all = Snapshot::take();
    for record in jobs.values() {
        // There is nobody left to tell.
        let _ = record.undo(&all);
    }
}

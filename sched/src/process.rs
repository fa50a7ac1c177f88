//! Which process is meant: a pid together with its start time, as pids are used again.

use std::fs;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::kernel::{Policy, Tid, policy};

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat, proc_pid_stat(5)).
    pub started: u64,
}

impl Process {
    /// This process.
    pub fn current() -> Self {
        let pid = nix::unistd::getpid().as_raw();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// The live process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = started(&stat)?;
        Some(Self { pid, started })
    }

    /// Whether it still runs. A zombie does not: its threads and their bandwidth are gone.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The start time from the text of /proc/PID/stat, unless the process is a zombie or dead.
fn started(stat: &str) -> Option<u64> {
    // The command's name is in parentheses and may contain any character.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// The CPU a thread last ran on (field 39 of /proc/TID/stat).
pub(crate) fn last_cpu(tid: Tid) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    fields.nth(36)?.parse().ok()
}

/// A SCHED_DEADLINE thread found on the host.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlineThread {
    pub(crate) tid: Tid,
    pub(crate) pid: i32,
    pub(crate) policy: Policy,
}

/// All SCHED_DEADLINE threads of the host. About a millisecond for a hundred processes.
pub(crate) fn deadline_threads() -> Vec<DeadlineThread> {
    let mut found = Vec::new();
    for pid in numbers_in("/proc") {
        for tid in numbers_in(&format!("/proc/{pid}/task")).map(Tid) {
            if let Ok(policy @ Policy::Deadline { .. }) = policy(tid) {
                found.push(DeadlineThread { tid, pid, policy });
            }
        }
    }
    found
}

pub(crate) fn numbers_in(directory: &str) -> impl Iterator<Item = i32> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Whether a thread exists at all.
pub(crate) fn exists(tid: Tid) -> bool {
    policy(tid) != Err(Errno::ESRCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_parentheses_and_blanks_does_not_confuse_the_start_time() {
        let mut stat = String::from("42 (a) R (b c) S 1");
        for field in 5..=24 {
            stat.push_str(&format!(" {}", if field == 22 { 1234 } else { field }));
        }
        assert_eq!(started(&stat), Some(1234));
        assert_eq!(started(&stat.replace(") S", ") Z")), None);
    }

    #[test]
    fn this_process_is_alive_and_one_with_another_start_time_is_not() {
        let own = Process::current();
        assert!(own.is_alive());
        let started = own.started + 1;
        assert!(!Process { started, ..own }.is_alive());
    }

    #[test]
    fn this_thread_exists_and_is_not_under_sched_deadline() {
        assert!(exists(Tid::current()));
        assert!(deadline_threads().iter().all(|t| t.tid != Tid::current()));
    }
}

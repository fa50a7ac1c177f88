//! Which process is meant: a pid together with its start time, as pids are used again.

use std::fs;

use serde::{Deserialize, Serialize};

/// One process, for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// When it started, in clock ticks since boot (field 22 of /proc/PID/stat, proc_pid_stat(5)).
    pub started: u64,
}

impl Process {
    /// This process.
    #[must_use]
    pub fn current() -> Self {
        let pid = std::process::id();
        Self::of(pid).unwrap_or(Self { pid, started: 0 })
    }

    /// Whether it still runs.
    #[must_use]
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let started = started(&stat)?;
        Some(Self { pid, started })
    }
}

/// Whether this thread may change networks: it has CAP_NET_ADMIN (capabilities(7)), as far as can be known beforehand.
pub(crate) fn may_change_networks() -> bool {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    has_net_admin(&status).unwrap_or(true)
}

fn has_net_admin(status: &str) -> Option<bool> {
    const CAP_NET_ADMIN: u32 = 12;
    let mut lines = status.lines();
    let effective = lines.find_map(|line| line.strip_prefix("CapEff:"))?;
    let effective = u64::from_str_radix(effective.trim(), 16).ok()?;
    Some(effective >> CAP_NET_ADMIN & 1 == 1)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_is_read_from_the_effective_ones() {
        let status =
            |effective: &str| format!("CapPrm:\t{:016x}\nCapEff:\t{effective}\n", u64::MAX);
        assert_eq!(has_net_admin(&status("0000000000001000")), Some(true));
        assert_eq!(has_net_admin(&status("000001ffffffefff")), Some(false));
        assert_eq!(has_net_admin("Name:\tsh\n"), None);
    }

    #[test]
    fn this_process_is_alive_and_one_with_another_start_time_is_not() {
        let own = Process::current();
        assert!(own.is_alive());
        let started = own.started + 1;
        assert!(!Process { started, ..own }.is_alive());
    }
}

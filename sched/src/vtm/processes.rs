//! The processes of the host, as /proc shows them (proc_pid_stat(5)).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::kernel::monotonic;
use crate::process::{Process, numbers_in};

/// PF_KTHREAD (include/linux/sched.h).
const KERNEL_THREAD: u64 = 0x0020_0000;

/// One process that lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) process: Process,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// Stopped by a signal or a debugger.
    pub(super) stopped: bool,
    pub(super) kernel_thread: bool,
}

/// The process that has `pid`, unless it has ended.
pub(super) fn look(pid: i32) -> Option<Seen> {
    parse(pid, &fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse(pid: i32, stat: &str) -> Option<Seen> {
    // The command's name is in parentheses and may contain any character.
    let fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let fields: Vec<&str> = fields.collect();
    // `fields` begin with field 3 of the manual.
    let field = |number: usize| fields.get(number - 3).copied();
    let state = field(3)?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    let flags: u64 = field(9)?.parse().ok()?;
    Some(Seen {
        process: Process {
            pid,
            started: field(22)?.parse().ok()?,
        },
        parent: field(4)?.parse().ok()?,
        group: field(5)?.parse().ok()?,
        stopped: matches!(state, "T" | "t"),
        kernel_thread: flags & KERNEL_THREAD != 0,
    })
}

/// The threads of a process.
pub(super) fn threads(pid: i32) -> Vec<i32> {
    numbers_in(&format!("/proc/{pid}/task")).collect()
}

/// All processes at one time. Some 10 us for each of them.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    by_pid: BTreeMap<i32, Seen>,
    children: BTreeMap<i32, Vec<i32>>,
    taken: Duration,
    took: Duration,
}

impl Snapshot {
    pub(super) fn take() -> Self {
        let begin = monotonic();
        let by_pid = numbers_in("/proc").filter_map(|pid| Some((pid, look(pid)?)));
        let by_pid: BTreeMap<i32, Seen> = by_pid.collect();
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for seen in by_pid.values() {
            let siblings = children.entry(seen.parent).or_default();
            siblings.push(seen.process.pid);
        }
        let taken = monotonic();
        Self {
            by_pid,
            children,
            taken,
            took: taken.saturating_sub(begin),
        }
    }

    /// Takes another one if that has taken less than a `part` of the time since the last one. Whether it did.
    pub(super) fn refresh(&mut self, part: u32) -> bool {
        let due = monotonic().saturating_sub(self.taken) >= self.took * part;
        if due {
            *self = Self::take();
        }
        due
    }

    /// The processes of a group.
    pub(super) fn group(&self, group: i32) -> Vec<i32> {
        let members = self.by_pid.values().filter(|seen| seen.group == group);
        members.map(|seen| seen.process.pid).collect()
    }

    /// The children of processes, and their children, without the processes themselves.
    pub(super) fn descendants(&self, of: &[i32]) -> Vec<i32> {
        let mut found = Vec::new();
        let mut next = of.to_vec();
        while let Some(pid) = next.pop() {
            for &child in self.children.get(&pid).into_iter().flatten() {
                if !of.contains(&child) && !found.contains(&child) {
                    found.push(child);
                    next.push(child);
                }
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_from_its_line_whatever_it_is_called() {
        let line = "42 (a) R (b c) T 7 40 1 0 -1 2097152 1 2 3 4 5 6 7 8 20 0 1 0 1234 0";
        let seen = parse(42, line).unwrap();
        assert_eq!(
            (seen.parent, seen.group, seen.process.started),
            (7, 40, 1234)
        );
        assert!(seen.stopped && seen.kernel_thread);
        assert_eq!(parse(42, &line.replace(" T ", " Z ")), None);
    }

    #[test]
    fn this_process_is_found_below_its_parent() {
        let own = Process::current();
        let seen = look(own.pid).unwrap();
        assert_eq!(seen.process, own);
        let all = Snapshot::take();
        assert!(all.descendants(&[seen.parent]).contains(&own.pid));
        assert!(all.group(seen.group).contains(&own.pid));
        assert!(threads(own.pid).contains(&own.pid));
    }
}

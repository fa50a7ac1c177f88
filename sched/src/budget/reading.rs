//! What the kernel shows of a thread's budget.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::{BudgetError, Nanos};

/// What the kernel says of a thread's budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// Nanoseconds left, the surplus included, as of the kernel's last accounting.
    pub(super) remaining: Nanos,
    /// The absolute deadline, in nanoseconds of the scheduler's clock.
    pub(super) deadline: Option<Nanos>,
    /// How often the thread has slept so far.
    pub(super) sleeps: Option<i64>,
}

/// The kernel's own remaining budget of one thread, from its `sched` file in /proc, kept open.
#[derive(Debug)]
pub(super) struct RemainingBudget {
    file: File,
}

impl RemainingBudget {
    pub(super) fn open() -> Result<Self, BudgetError> {
        let file = File::open("/proc/thread-self/sched").map_err(BudgetError::NoSchedFile)?;
        Ok(Self { file })
    }

    /// `None` if not shown.
    pub(super) fn read(&mut self) -> Option<Reading> {
        // The whole file is 1.5 to 3 kB; the fields are in its first half.
        let mut text = [0u8; 4096];
        let length = self.file.read_at(&mut text, 0).ok()?;
        Some(Reading {
            remaining: field(&text[..length], b"dl.runtime")?,
            deadline: field(&text[..length], b"dl.deadline"),
            sleeps: field(&text[..length], b"nr_voluntary_switches"),
        })
    }
}

/// The integer behind `name ... :` in a file of such lines.
pub(super) fn field(text: &[u8], name: &[u8]) -> Option<i64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(name))?;
    let colon = line.iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&line[colon + 1..])
        .ok()?
        .trim()
        .parse()
        .ok()
}

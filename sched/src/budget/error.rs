//! Why budgets cannot be enforced exactly.

use std::io;

use nix::errno::Errno;

use crate::kernel::Tid;

/// Why budgets cannot be enforced exactly.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The thread has no SCHED_DEADLINE reservation.
    #[error(
        "thread {tid} has no SCHED_DEADLINE reservation: apply one before creating its budget timer"
    )]
    NoReservation {
        /// The thread.
        tid: Tid,
    },
    /// /proc/thread-self/sched does not exist.
    #[error(
        "cannot open /proc/thread-self/sched: the kernel needs CONFIG_SCHED_DEBUG for exact enforcement; enforcement = \"tick\" works without"
    )]
    NoSchedFile(#[source] io::Error),
    /// The remaining budget is not in /proc/thread-self/sched.
    #[error(
        "no dl.runtime in /proc/thread-self/sched: the kernel needs CONFIG_SCHED_DEBUG for exact enforcement; enforcement = \"tick\" works without"
    )]
    NoField,
    /// The timer could not be created.
    #[error(
        "cannot create a timer for signal {signal}: check the signal number and RLIMIT_SIGPENDING"
    )]
    Timer {
        /// The signal it would send.
        signal: libc::c_int,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// Another system call failed.
    #[error("cannot read the policy of thread {tid}")]
    Policy {
        /// The thread.
        tid: Tid,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
}

//! Why a reservation could not be put into force.

use std::time::Duration;

use nix::errno::Errno;

use crate::cgroup::CgroupError;
use crate::cpus;
use crate::kernel::{Policy, Tid};
use crate::request::BackendKind;
use crate::reservation::human;

/// A reservation could not be put into force, read back or changed.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// The thread is gone.
    #[error("thread {tid} has ended")]
    Gone {
        /// The thread.
        tid: Tid,
    },
    /// CAP_SYS_NICE is missing.
    #[error("{policy} needs the capability CAP_SYS_NICE{}: run as root, or give it with setcap cap_sys_nice+ep", if *.rlimit { " or an RLIMIT_RTPRIO above 0" } else { "" })]
    Capability {
        /// The policy.
        policy: &'static str,
        /// Whether a resource limit would do as well.
        rlimit: bool,
    },
    /// A SCHED_DEADLINE thread has to be allowed on every CPU of its root domain.
    #[error(
        "SCHED_DEADLINE refuses thread {tid}, which may run on CPUs {cpus} only: a pinned thread needs a one-CPU partition (host prepare)"
    )]
    Pinned {
        /// The thread.
        tid: Tid,
        /// Its CPUs.
        cpus: String,
    },
    /// The thread has not run since it was moved into its partition, so the kernel still has it on its old CPU.
    #[error(
        "thread {tid} sleeps on CPU {was_on} and gets to CPU {cpu} only when it wakes: wake it, or apply from the thread itself"
    )]
    Asleep {
        /// The thread.
        tid: Tid,
        /// Where it ran last.
        was_on: u32,
        /// Its partition's CPU.
        cpu: u32,
    },
    /// The kernel had no bandwidth left, also not after waiting for what other threads gave up.
    #[error("the kernel has no bandwidth left for this reservation after waiting {}: something outside the ledger holds it (chrt -d?)", human(*.waited))]
    Busy {
        /// How long was waited.
        waited: Duration,
    },
    /// The kernel has something else than what was set.
    #[error(
        "thread {tid} was to have {wanted:?}, but the kernel has {found:?}: something else changes its policy"
    )]
    NotInForce {
        /// The thread.
        tid: Tid,
        /// What was set.
        wanted: Policy,
        /// What was read back.
        found: Policy,
    },
    /// The thread is not where it was put.
    #[error(
        "thread {tid} was to run on CPU {cpu}, but the CPUs it may run on are now '{}': was CPU {cpu} taken offline, or does something else pin threads?", cpus::format(.cpus)
    )]
    Displaced {
        /// The thread.
        tid: Tid,
        /// Where it was put.
        cpu: u32,
        /// Where it may run.
        cpus: Vec<u32>,
    },
    /// A control group does not hold what was written.
    #[error("{file} was to hold '{wanted}', but holds '{found}': something else writes to it")]
    GroupNotInForce {
        /// The file.
        file: String,
        /// What was written.
        wanted: String,
        /// What was read back.
        found: String,
    },
    /// The partition that was granted is gone.
    #[error("CPU {cpu} is no valid partition any more: prepare it again")]
    NoPartition {
        /// The CPU.
        cpu: u32,
    },
    /// The back end holds no reservation that could be changed.
    #[error(
        "back end {backend} has no reservation to change: use deadline, rt-cgroup or cfs-quota"
    )]
    NoReservation {
        /// The back end.
        backend: BackendKind,
    },
    /// The back end cannot express the pair.
    #[error("back end {backend} cannot give this reservation: {reason}")]
    OutOfRange {
        /// The back end.
        backend: BackendKind,
        /// What it could.
        reason: String,
    },
    /// The thread could not be pinned.
    #[error("cannot pin thread {tid} to CPU {cpu}: is it online and in the process's cpuset?")]
    Affinity {
        /// The thread.
        tid: Tid,
        /// The CPU.
        cpu: u32,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// A control group could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Any other refusal.
    #[error("the kernel refused for thread {tid}: {source}")]
    Kernel {
        /// The thread.
        tid: Tid,
        /// The kernel's reason.
        source: Errno,
    },
}

impl BackendError {
    pub(crate) fn from_errno(tid: Tid, source: Errno) -> Self {
        match source {
            Errno::ESRCH => Self::Gone { tid },
            source => Self::Kernel { tid, source },
        }
    }
}

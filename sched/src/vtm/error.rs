//! Why something was refused or failed.

use std::io;
use std::time::Duration;

use nix::errno::Errno;

use super::config::JobSource;
use super::table::TableError;
use crate::cgroup::CgroupError;
use crate::cpus;
use crate::framework::Resource;
use crate::ledger::Refusal;
use crate::reservation::human;

/// A VTM operation was refused or failed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum VtmError {
    /// The table cannot be made.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A name that is not one.
    #[error(
        "'{name}' is no usable name: use 1 to 64 letters, digits, '.', '-' and '_', not beginning with '.'"
    )]
    BadName {
        /// The name.
        name: String,
    },
    /// Two VTMs of one name.
    #[error("there is a VTM called '{name}' already: use another name, or release that one")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// No VTM of this name.
    #[error("no VTM is called '{name}': {}", choose_from(.known, "create it"))]
    NoSuchVtm {
        /// The name.
        name: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// A VTM without a reservation.
    #[error("VTM '{name}' has no reservation: reserve for it first")]
    NotReserved {
        /// The name.
        name: String,
    },
    /// A VTM that has a reservation.
    #[error("VTM '{name}' has a reservation already: adapt it")]
    Reserved {
        /// The name.
        name: String,
    },
    /// No job of this name.
    #[error("VTM '{vtm}' has no job called '{job}': {}", choose_from(.known, "add one"))]
    NoSuchJob {
        /// The VTM.
        vtm: String,
        /// The job.
        job: String,
        /// Those there are.
        known: Vec<String>,
    },
    /// Two jobs of one name.
    #[error("VTM '{vtm}' has a job called '{job}' already: use another name")]
    JobNameTaken {
        /// The VTM.
        vtm: String,
        /// The job.
        job: String,
    },
    /// A quantum of no length.
    #[error("the quantum of '{name}' is zero: use for example 10 ms")]
    ZeroQuantum {
        /// The VTM.
        name: String,
    },
    /// More than the kernel lets real-time processes have.
    #[error("the table keeps the CPU busy for {} of {}, and real-time throttling ends that at {}: lower an execution time, or set kernel.sched_rt_runtime_us to -1",
        human(*.busy), human(*.window), human(*.most))]
    Throttled {
        /// The busiest interval's length.
        window: Duration,
        /// How much of it is given to VTMs, the dispatcher included.
        busy: Duration,
        /// What the kernel allows.
        most: Duration,
    },
    /// The CPU is not there.
    #[error("CPU {cpu} is not online: use one of {}", cpus::format(.online))]
    CpuOffline {
        /// The CPU.
        cpu: u32,
        /// Those that are.
        online: Vec<u32>,
    },
    /// The CPU's reservations leave no room for a table.
    #[error(
        "CPU {cpu} has reservations of virtual machines, which come before every VTM: stop them or use another CPU ({refusal})"
    )]
    CpuTaken {
        /// The CPU.
        cpu: u32,
        /// The ledger's answer.
        refusal: Box<Refusal>,
    },
    /// The CPU is not a partition, so nobody can keep reservations away from it.
    #[error(
        "CPU {cpu} is not a prepared partition, so virtual machines could take it from VTMs: prepare it, or use no ledger and promise nothing against them"
    )]
    NoPartition {
        /// The CPU.
        cpu: u32,
    },
    /// The CPU belongs to virtual machines, and no ledger was given.
    #[error(
        "CPU {cpu} is a partition for virtual machines: give the ledger to have it, or use another CPU"
    )]
    Partition {
        /// The CPU.
        cpu: u32,
    },
    /// A process that cannot be a job.
    #[error("{source_of_job}: process {pid} {reason}")]
    Refused {
        /// What was to be added.
        source_of_job: JobSource,
        /// The process.
        pid: i32,
        /// Why not, and what would work.
        reason: String,
    },
    /// A command that is none.
    #[error("an empty command cannot be started: name a program")]
    EmptyCommand,
    /// A command that could not be started.
    #[error("cannot start '{program}': {source}")]
    Start {
        /// The program.
        program: String,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A process could not be made a job.
    #[error("cannot {action} process {pid}: {}{}", .errno.desc(), permission(*.errno))]
    Process {
        /// What was tried.
        action: &'static str,
        /// The process or thread.
        pid: i32,
        /// The kernel's reason.
        errno: Errno,
    },
    /// The scheduler itself could not be set up.
    #[error("cannot {action}: {source}; run as root")]
    SetUp {
        /// What was tried.
        action: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A control group could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The dispatcher or the guardian has ended.
    #[error("the {what} has ended unexpectedly: release everything and start again")]
    Ended {
        /// Which.
        what: &'static str,
    },
    /// The dispatcher is running already.
    #[error("the VTMs are being dispatched already")]
    Dispatching,
    /// A resource that is not the VTM's.
    #[error("{resource} is not one of the VTM's: {reason}")]
    Foreign {
        /// The resource.
        resource: Resource,
        /// Why not.
        reason: &'static str,
    },
}

fn choose_from(known: &[String], otherwise: &str) -> String {
    if known.is_empty() {
        format!("there is none, {otherwise}")
    } else {
        format!("use one of {}", known.join(", "))
    }
}

fn permission(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM => {
            " (needs root, and a cpu control group with a real-time budget: move it to the root group)"
        }
        Errno::EINVAL => " (the CPU has to be in its cpuset: move it to the root cpuset)",
        _ => "",
    }
}

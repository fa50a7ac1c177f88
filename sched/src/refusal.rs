//! Why a reservation was not admitted: which bound, by how much, and the nearest that fits.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::admission::{Bandwidth, nearest};
use crate::cpus;
use crate::request::{BackendKind, VcpuRequest};
use crate::reservation::{Reservation, human};

/// The bound that a request breaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bound {
    /// The utilisation of one CPU partition.
    PartitionCpu {
        /// The CPU.
        cpu: u32,
    },
    /// The supply of one CPU partition in an interval, where deadlines come before the ends of periods.
    PartitionDemand {
        /// The CPU.
        cpu: u32,
        /// The length of the interval.
        within: Duration,
    },
    /// The global EDF test over all CPUs outside partitions.
    Global {
        /// How many CPUs.
        cpus: u32,
    },
    /// The runtime of all real-time groups together.
    RtGroups,
    /// The CPU wanted is not a prepared partition.
    NoPartition {
        /// The CPU.
        cpu: u32,
    },
    /// The CPU wanted is not online.
    CpuOffline {
        /// The CPU.
        cpu: u32,
        /// Those that are.
        online: Vec<u32>,
    },
    /// The back end enforces a reservation, and none was given.
    NoReservation {
        /// The back end.
        backend: BackendKind,
    },
    /// The back end knows no deadline before the end of the period.
    NoDeadline {
        /// The back end.
        backend: BackendKind,
    },
    /// No such SCHED_FIFO priority.
    FifoPriority {
        /// What was asked for.
        priority: u8,
    },
    /// Another live process runs a VM of this name.
    NameTaken {
        /// Its process id.
        pid: i32,
    },
    /// The name cannot be a file name.
    BadName {
        /// What is wrong with it.
        reason: String,
    },
    /// No entry for this VM or vCPU.
    NotAdmitted,
    /// The reservation is not what the request was made from.
    Changed,
    /// The ledger itself could not be used.
    Ledger {
        /// Why.
        reason: String,
    },
}

/// A refused request. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The VM.
    pub vm: Box<str>,
    /// The vCPU, where it is about one.
    pub vcpu: Option<usize>,
    /// The bound.
    pub bound: Bound,
    /// What was asked for, the surplus included; zero where the bound is no quantity.
    pub needed: Bandwidth,
    /// What is left.
    pub available: Bandwidth,
    /// The reservation with the same period that would have been admitted.
    pub nearest: Option<Box<Reservation>>,
    /// What else would have been admitted.
    #[serde(default)]
    pub otherwise: Box<Otherwise>,
}

/// What would have been admitted other than a smaller runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Otherwise {
    /// The same runtime in a longer period.
    pub longer: Option<Reservation>,
    /// The same on another CPU, where one was asked for.
    pub cpu: Option<u32>,
    /// The same once another vCPU has left its CPU.
    pub moving: Option<Moving>,
    /// The same, when what has just been given up is free.
    #[serde(default)]
    pub after: Option<Duration>,
}

/// A vCPU that would have to change its CPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Its VM.
    pub vm: String,
    /// Which of its vCPUs.
    pub vcpu: usize,
    /// Where it is, and what was refused would be.
    pub from: u32,
    /// Where it fits too.
    pub to: u32,
}

impl Refusal {
    pub(crate) fn new(vm: &str, bound: Bound) -> Self {
        Self {
            vm: vm.into(),
            vcpu: None,
            bound,
            needed: Bandwidth::ZERO,
            available: Bandwidth::ZERO,
            nearest: None,
            otherwise: Box::default(),
        }
    }

    pub(crate) fn of_vcpu(mut self, vcpu: usize) -> Self {
        self.vcpu = Some(vcpu);
        self
    }

    pub(crate) fn short_of(
        mut self,
        request: &VcpuRequest,
        needed: Bandwidth,
        left: Bandwidth,
    ) -> Self {
        self.needed = needed;
        self.available = left;
        self.nearest = nearest(request, left).map(Box::new);
        self
    }

    /// Whether something may have been freed by a process that died: worth another look at the kernel.
    pub(crate) fn may_be_stale(&self) -> bool {
        matches!(
            self.bound,
            Bound::PartitionCpu { .. }
                | Bound::PartitionDemand { .. }
                | Bound::Global { .. }
                | Bound::RtGroups
                | Bound::NameTaken { .. }
        )
    }

    fn amount(&self, f: &mut fmt::Formatter<'_>, whose: &str) -> fmt::Result {
        write!(
            f,
            "needs {} (surplus included) but {whose} has {} left",
            self.needed, self.available
        )?;
        match &self.nearest {
            Some(nearest) => write!(f, "; the nearest that fits is {nearest}")?,
            None => write!(f, "; nothing with this period fits, stop another VM")?,
        }
        write!(f, "{}", self.otherwise)
    }
}

impl fmt::Display for Otherwise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(longer) = self.longer {
            write!(f, ", or {longer}")?;
        }
        if let Some(after) = self.after {
            write!(f, ", or the same in {}", human(after))?;
        }
        if let Some(cpu) = self.cpu {
            write!(f, ", or the same on CPU {cpu}")?;
        }
        if let Some(moving) = &self.moving {
            let Moving { vm, vcpu, from, to } = moving;
            write!(
                f,
                ", or the same on CPU {from} with '{vm}' vcpu {vcpu} on CPU {to}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused: '{}'", self.vm)?;
        if let Some(vcpu) = self.vcpu {
            write!(f, " vcpu {vcpu}")?;
        }
        write!(f, " ")?;
        match &self.bound {
            Bound::PartitionCpu { cpu } => self.amount(f, &format!("CPU {cpu}")),
            Bound::PartitionDemand { cpu, within } => {
                self.amount(f, &format!("CPU {cpu} within {}", human(*within)))
            }
            Bound::Global { cpus } => {
                self.amount(f, &format!("the global EDF test over {cpus} CPUs"))
            }
            Bound::RtGroups => self.amount(f, "the real-time group limit"),
            Bound::NoPartition { cpu } => write!(
                f,
                "wants CPU {cpu}, which is not a prepared partition: `chronovisor host prepare --cpus {cpu}` makes it one; or name no CPU"
            ),
            Bound::CpuOffline { cpu, online } => write!(
                f,
                "wants CPU {cpu}, which is not online: use one of {}",
                cpus::format(online)
            ),
            Bound::NoReservation { backend } => {
                write!(f, "needs a runtime and a period for back end {backend}")
            }
            Bound::NoDeadline { backend } => write!(
                f,
                "has a deadline before the end of its period, which back end {backend} cannot keep: leave the deadline out, or use deadline"
            ),
            Bound::FifoPriority { priority } => {
                write!(f, "asks for SCHED_FIFO priority {priority}: use 1 to 99")
            }
            Bound::NameTaken { pid } => write!(
                f,
                "is the name of a VM that process {pid} runs: use another name or stop that one"
            ),
            Bound::BadName { reason } => write!(f, "is no usable name: {reason}"),
            Bound::NotAdmitted => write!(f, "is not in the ledger: is it running?"),
            Bound::Changed => write!(f, "has changed meanwhile: try again"),
            Bound::Ledger { reason } => write!(f, "cannot be admitted: {reason}"),
        }
    }
}

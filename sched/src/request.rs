//! What is asked for one vCPU, and what was granted.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget;
use crate::reservation::Reservation;

/// The kernel mechanism that enforces a reservation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BackendKind {
    /// SCHED_DEADLINE: the kernel's constant bandwidth server. The only one that keeps (Q, P).
    #[default]
    Deadline,
    /// A real-time cgroup (cgroup v1 `cpu.rt_runtime_us`), the thread in SCHED_FIFO.
    RtCgroup,
    /// CFS bandwidth control (`cpu.cfs_quota_us`, `cpu.max`), the thread in SCHED_OTHER.
    CfsQuota,
    /// Plain SCHED_FIFO: a priority, no reservation.
    Fifo,
    /// Plain SCHED_OTHER: what an ordinary VM gets.
    Other,
}

impl BackendKind {
    /// All back ends, in the order reports show them.
    pub const ALL: [Self; 5] = [
        Self::Deadline,
        Self::RtCgroup,
        Self::CfsQuota,
        Self::Fifo,
        Self::Other,
    ];

    /// Whether the back end enforces a reservation, and so needs one.
    pub fn needs_reservation(self) -> bool {
        matches!(self, Self::Deadline | Self::RtCgroup | Self::CfsQuota)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::RtCgroup => "rt-cgroup",
            Self::CfsQuota => "cfs-quota",
            Self::Fifo => "fifo",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No back end has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no back end is called '{name}': use deadline, rt-cgroup, cfs-quota, fifo or other")]
pub struct UnknownBackend {
    /// The name that was given.
    pub name: String,
}

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, UnknownBackend> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| UnknownBackend {
                name: name.to_owned(),
            })
    }
}

/// How precisely a SCHED_DEADLINE budget is ended. Other back ends have the kernel's own precision only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Enforcement {
    /// The thread ends its own budget with a high-resolution timer ([`crate::budget`]); the kernel's slightly larger
    /// budget is the backstop.
    #[default]
    Exact,
    /// The kernel ends the budget on its scheduler tick.
    Tick,
}

/// Where a vCPU's thread runs, and so what kind of promise it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// Alone with other admitted reservations on one CPU, in an exclusive one-CPU cpuset prepared beforehand.
    Partition {
        /// The CPU.
        cpu: u32,
    },
    /// On any CPU of the common root domain; the global EDF test of Goossens, Funk and Baruah (2003) was passed.
    Global,
    /// Affinity to one CPU, for back ends that make no promise.
    Pinned {
        /// The CPU.
        cpu: u32,
    },
    /// Wherever the host's scheduler puts it, for back ends that make no promise.
    Anywhere,
}

impl Placement {
    /// The one CPU, where there is one.
    pub fn cpu(self) -> Option<u32> {
        match self {
            Self::Partition { cpu } | Self::Pinned { cpu } => Some(cpu),
            Self::Global | Self::Anywhere => None,
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition { cpu } => write!(f, "partition of CPU {cpu}"),
            Self::Global => write!(f, "global EDF"),
            Self::Pinned { cpu } => write!(f, "pinned to CPU {cpu}"),
            Self::Anywhere => write!(f, "any CPU"),
        }
    }
}

/// What one vCPU asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuRequest {
    /// (Q, P); needed by deadline, rt-cgroup and cfs-quota.
    pub reservation: Option<Reservation>,
    /// The mechanism.
    pub backend: BackendKind,
    /// How precisely budgets end (deadline only).
    pub enforcement: Enforcement,
    /// The CPU wanted; any that fits otherwise.
    pub cpu: Option<u32>,
    /// The SCHED_FIFO priority, 1..=99 (fifo and rt-cgroup; [`DEFAULT_FIFO_PRIORITY`] otherwise).
    pub fifo_priority: Option<u8>,
}

/// The SCHED_FIFO priority of a vCPU that names none.
pub const DEFAULT_FIFO_PRIORITY: u8 = 60;

impl VcpuRequest {
    /// What the kernel is given beyond Q, so that the thread's own timer ends the budget and not the kernel's tick.
    ///
    /// Zero unless the budget is enforced exactly. It counts in admission.
    pub fn surplus(&self) -> Duration {
        match self.reservation {
            Some(reservation) if self.ends_its_own_budgets() => {
                budget::default_surplus(reservation)
            }
            _ => Duration::ZERO,
        }
    }

    /// [`VcpuRequest::surplus`] for a reservation with this period that leaves room for it.
    pub(crate) fn surplus_at(&self, period: Duration) -> Duration {
        if self.ends_its_own_budgets() {
            budget::surplus_of(period)
        } else {
            Duration::ZERO
        }
    }

    pub(crate) fn ends_its_own_budgets(&self) -> bool {
        (self.backend, self.enforcement) == (BackendKind::Deadline, Enforcement::Exact)
    }
}

/// Which admission test a vCPU passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AdmissionTest {
    /// EDF on one CPU: the sum of utilisations stays within the kernel's limit (Liu and Layland 1973).
    PartitionedEdf,
    /// Global EDF: U <= m - (m - 1) u_max (Goossens, Funk and Baruah 2003).
    GlobalEdf,
    /// The runtime of all real-time groups stays within the kernel's real-time limit.
    RtGroups,
    /// None: the back end makes no promise.
    None,
}

impl fmt::Display for AdmissionTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PartitionedEdf => "EDF on one CPU",
            Self::GlobalEdf => "global EDF (Goossens, Funk and Baruah)",
            Self::RtGroups => "real-time group limit",
            Self::None => "no promise",
        })
    }
}

/// What one vCPU was granted: the ticket for [`crate::backend::apply`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The VM's name.
    pub vm: String,
    /// The vCPU's index.
    pub vcpu: usize,
    /// What was asked for.
    pub request: VcpuRequest,
    /// Where it runs.
    pub placement: Placement,
    /// What the kernel is given beyond Q ([`VcpuRequest::surplus`]).
    pub surplus: Duration,
    /// The admission test it passed.
    pub test: AdmissionTest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_back_end_is_found_by_the_name_it_prints() {
        for kind in BackendKind::ALL {
            assert_eq!(kind.to_string().parse::<BackendKind>().unwrap(), kind);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("\"{kind}\""));
        }
        assert!("cbs".parse::<BackendKind>().is_err());
    }
}

//! One vCPU under the limit of a control group of its own.
//!
//! - A real-time group (Documentation/scheduler/sched-rt-group.rst): SCHED_FIFO under the runtime limit of a cgroup v1
//!   `cpu` group. The budget is per CPU, and a new group has none.
//! - CFS bandwidth control (Documentation/scheduler/sched-bwc.rst): SCHED_OTHER under a quota. A cap, but no promise:
//!   what is left of it depends on everything else that runs.

use std::time::Duration;

use super::fixed::{read_back, set_fixed};
use super::{BackendError, CpuReservation, InForce, in_place, pin};
use crate::account::Throttling;
use crate::cgroup::{CgroupError, Version};
use crate::kernel::{Policy, Tid};
use crate::request::{BackendKind, DEFAULT_FIFO_PRIORITY, Granted, Placement};
use crate::reservation::Reservation;
use crate::vcpu_group::VcpuGroup;

const RT_RUNTIME: &str = "cpu.rt_runtime_us";
const RT_PERIOD: &str = "cpu.rt_period_us";

/// The least quota and period, and the longest period, CFS takes (sched-bwc.rst).
const LEAST: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

/// The files that hold the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Files {
    RealTime,
    QuotaV1,
    QuotaV2,
}

impl Files {
    fn of(backend: BackendKind, version: Version) -> Result<Self, CgroupError> {
        match (backend, version) {
            (BackendKind::RtCgroup, Version::V1) => Ok(Self::RealTime),
            (BackendKind::RtCgroup, Version::V2) => Err(CgroupError::Unsupported {
                version: 2,
                feature: "real-time groups (CONFIG_RT_GROUP_SCHED is for cgroup v1)",
            }),
            (_, Version::V1) => Ok(Self::QuotaV1),
            (_, Version::V2) => Ok(Self::QuotaV2),
        }
    }

    fn check(self, reservation: Reservation) -> Result<(), BackendError> {
        let (runtime, period) = (reservation.runtime(), reservation.period());
        if self == Self::RealTime || runtime >= LEAST && (LEAST..=LONGEST_PERIOD).contains(&period)
        {
            return Ok(());
        }
        Err(BackendError::OutOfRange {
            backend: BackendKind::CfsQuota,
            reason: format!("{reservation} has a quota below 1 ms or a period outside 1 ms to 1 s"),
        })
    }

    /// The files, in the order to write them, and what they are to hold.
    fn settings(self, reservation: Reservation) -> Vec<(&'static str, String)> {
        let runtime = reservation.runtime().as_micros().to_string();
        let period = reservation.period().as_micros().to_string();
        match self {
            Self::RealTime => vec![(RT_PERIOD, period), (RT_RUNTIME, runtime)],
            Self::QuotaV1 => vec![("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", runtime)],
            Self::QuotaV2 => vec![("cpu.max", format!("{runtime} {period}"))],
        }
    }
}

/// One thread in a group of its own.
#[derive(Debug)]
pub(super) struct GroupServer {
    tid: Tid,
    kind: BackendKind,
    policy: Policy,
    placement: Placement,
    group: VcpuGroup,
    files: Files,
    reservation: Reservation,
}

impl GroupServer {
    pub(super) fn apply(tid: Tid, granted: &Granted) -> Result<Self, BackendError> {
        let request = &granted.request;
        let kind = request.backend;
        let reservation = request
            .reservation
            .ok_or(BackendError::NoReservation { backend: kind })?;
        let files = Files::of(kind, VcpuGroup::version()?)?;
        files.check(reservation)?;
        let policy = match files {
            Files::RealTime => Policy::Fifo {
                priority: request.fifo_priority.unwrap_or(DEFAULT_FIFO_PRIORITY),
            },
            Files::QuotaV1 | Files::QuotaV2 => Policy::Other,
        };
        let server = Self {
            tid,
            kind,
            policy,
            placement: granted.placement,
            group: VcpuGroup::create(granted, tid)?,
            files,
            reservation,
        };
        let in_force = server.start().and_then(|()| server.in_force());
        if let Err(error) = in_force {
            server.undo()?;
            return Err(error);
        }
        Ok(server)
    }

    fn start(&self) -> Result<(), BackendError> {
        self.write(self.reservation)?;
        self.group.join(self.tid)?;
        // On cgroup v2 the way into the group, which has a cpuset, undoes what pinned the thread before.
        pin(self.tid, self.placement)?;
        set_fixed(self.tid, self.policy)
    }

    fn write(&self, reservation: Reservation) -> Result<(), BackendError> {
        if self.files == Files::RealTime {
            // A runtime is checked against the period in force, so a shrinking one has to go first. The kernel takes
            // no 0 while there is a real-time thread in the group.
            let least = |value| self.group.set(RT_RUNTIME, value);
            least("0").or_else(|_| least("1"))?;
        }
        for (file, value) in self.files.settings(reservation) {
            self.group.set(file, &value)?;
        }
        Ok(())
    }

    fn undo(&self) -> Result<(), BackendError> {
        // Out of SCHED_FIFO first: the group it returns to may have no real-time runtime.
        match set_fixed(self.tid, Policy::Other) {
            Ok(()) | Err(BackendError::Gone { .. }) => Ok(self.group.remove(self.tid)?),
            Err(error) => Err(error),
        }
    }

    /// Reads a setting of the group back, and compares it with what it is to hold.
    fn holds(&self, file: &str, wanted: String) -> Result<(), BackendError> {
        let found = self.group.get(file)?;
        if found == wanted {
            return Ok(());
        }
        let file = self.group.path.join(file).display().to_string();
        Err(BackendError::GroupNotInForce {
            file,
            wanted,
            found,
        })
    }
}

impl CpuReservation for GroupServer {
    fn in_force(&self) -> Result<InForce, BackendError> {
        read_back(self.tid, self.policy)?;
        for (file, wanted) in self.files.settings(self.reservation) {
            self.holds(file, wanted)?;
        }
        Ok(InForce {
            backend: self.kind,
            reservation: Some(self.reservation),
            surplus: Duration::ZERO,
            cpus: in_place(self.tid, self.placement)?,
            note: None,
        })
    }

    fn adapt(&mut self, new: Reservation) -> Result<InForce, BackendError> {
        self.files.check(new)?;
        if let Err(error) = self.write(new) {
            self.write(self.reservation)?;
            return Err(error);
        }
        self.reservation = new;
        self.in_force()
    }

    fn release(&mut self) -> Result<(), BackendError> {
        self.undo()
    }

    /// Of real-time groups the kernel counts nothing.
    fn throttling(&self) -> Option<Throttling> {
        match self.files {
            Files::RealTime => None,
            Files::QuotaV1 | Files::QuotaV2 => Throttling::parse(&self.group.get("cpu.stat").ok()?),
        }
    }

    fn kind(&self) -> BackendKind {
        self.kind
    }
}

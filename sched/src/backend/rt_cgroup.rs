//! A real-time group of one vCPU: SCHED_FIFO under the runtime limit of a cgroup v1 `cpu` group.
//!
//! Documentation/scheduler/sched-rt-group.rst. The budget is per CPU, and a new group has none.

use std::time::Duration;

use super::fixed::{read_back, set_fixed};
use super::{BackendError, CpuReservation, InForce, affinity, holds, pin};
use crate::cgroup::{CgroupError, Version};
use crate::kernel::{Policy, Tid};
use crate::request::{BackendKind, DEFAULT_FIFO_PRIORITY, Granted};
use crate::reservation::Reservation;
use crate::vcpu_group::VcpuGroup;

const RUNTIME: &str = "cpu.rt_runtime_us";
const PERIOD: &str = "cpu.rt_period_us";

/// One thread in a real-time group of its own.
#[derive(Debug)]
pub(super) struct RtGroup {
    tid: Tid,
    group: VcpuGroup,
    reservation: Reservation,
    wanted: Policy,
}

impl RtGroup {
    pub(super) fn apply(tid: Tid, granted: &Granted) -> Result<Self, BackendError> {
        let backend = BackendKind::RtCgroup;
        let reservation = granted
            .request
            .reservation
            .ok_or(BackendError::NoReservation { backend })?;
        pin(tid, granted.placement)?;
        let group = VcpuGroup::create(granted, tid)?;
        let priority = granted
            .request
            .fifo_priority
            .unwrap_or(DEFAULT_FIFO_PRIORITY);
        let server = Self {
            tid,
            group,
            reservation,
            wanted: Policy::Fifo { priority },
        };
        let in_force = server.start().and_then(|()| server.in_force());
        if let Err(error) = in_force {
            server.undo()?;
            return Err(error);
        }
        Ok(server)
    }

    fn start(&self) -> Result<(), BackendError> {
        if self.group.hierarchy.version == Version::V2 {
            let feature = "real-time groups (CONFIG_RT_GROUP_SCHED is for cgroup v1)";
            return Err(CgroupError::Unsupported {
                version: 2,
                feature,
            }
            .into());
        }
        self.write(self.reservation)?;
        self.group.join(self.tid)?;
        set_fixed(self.tid, self.wanted)
    }

    /// A runtime is checked against the period in force, so a shrinking one has to go first.
    fn write(&self, reservation: Reservation) -> Result<(), BackendError> {
        let us = |duration: Duration| duration.as_micros().to_string();
        self.group
            .set(RUNTIME, "0")
            .or_else(|_| self.group.set(RUNTIME, "1"))?;
        self.group.set(PERIOD, &us(reservation.period()))?;
        self.group.set(RUNTIME, &us(reservation.runtime()))?;
        Ok(())
    }

    fn undo(&self) -> Result<(), BackendError> {
        // Out of SCHED_FIFO first: the group it returns to may have no real-time runtime.
        set_fixed(self.tid, Policy::Other).or_else(gone_is_fine)?;
        self.group.remove(self.tid).map_err(BackendError::from)
    }
}

impl CpuReservation for RtGroup {
    fn in_force(&self) -> Result<InForce, BackendError> {
        read_back(self.tid, self.wanted)?;
        for (file, wanted) in [
            (RUNTIME, self.reservation.runtime()),
            (PERIOD, self.reservation.period()),
        ] {
            holds(&self.group, file, wanted.as_micros().to_string())?;
        }
        Ok(InForce {
            backend: BackendKind::RtCgroup,
            reservation: Some(self.reservation),
            surplus: Duration::ZERO,
            cpus: affinity(self.tid)?,
            note: None,
        })
    }

    fn adapt(&mut self, new: Reservation) -> Result<InForce, BackendError> {
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

    fn kind(&self) -> BackendKind {
        BackendKind::RtCgroup
    }
}

pub(super) fn gone_is_fine(error: BackendError) -> Result<(), BackendError> {
    match error {
        BackendError::Gone { .. } => Ok(()),
        error => Err(error),
    }
}

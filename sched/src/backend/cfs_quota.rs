//! CFS bandwidth control of one vCPU: SCHED_OTHER under a quota (`cpu.cfs_quota_us`, or `cpu.max` on cgroup v2).
//!
//! Documentation/scheduler/sched-bwc.rst. A cap, but no promise: what is left of it depends on everything else that runs.

use std::time::Duration;

use super::fixed::{read_back, set_fixed};
use super::rt_cgroup::gone_is_fine;
use super::{BackendError, CpuReservation, InForce, affinity, holds, pin};
use crate::cgroup::Version;
use crate::kernel::{Policy, Tid};
use crate::request::{BackendKind, Granted};
use crate::reservation::Reservation;
use crate::vcpu_group::VcpuGroup;

/// The least quota and period, and the longest period, CFS takes (sched-bwc.rst).
const LEAST: Duration = Duration::from_millis(1);
const LONGEST_PERIOD: Duration = Duration::from_secs(1);

/// One thread in a quota group of its own.
#[derive(Debug)]
pub(super) struct CfsQuota {
    tid: Tid,
    group: VcpuGroup,
    reservation: Reservation,
}

impl CfsQuota {
    pub(super) fn apply(tid: Tid, granted: &Granted) -> Result<Self, BackendError> {
        let backend = BackendKind::CfsQuota;
        let reservation = granted
            .request
            .reservation
            .ok_or(BackendError::NoReservation { backend })?;
        in_range(reservation)?;
        pin(tid, granted.placement)?;
        let quota = Self {
            tid,
            group: VcpuGroup::create(granted, tid)?,
            reservation,
        };
        let in_force = quota.start().and_then(|()| quota.in_force());
        if let Err(error) = in_force {
            quota.undo()?;
            return Err(error);
        }
        Ok(quota)
    }

    fn start(&self) -> Result<(), BackendError> {
        if self.group.hierarchy.version == Version::V2 {
            self.group.make_threaded()?;
        }
        self.write(self.reservation)?;
        self.group.join(self.tid)?;
        set_fixed(self.tid, Policy::Other)
    }

    /// The files and what they are to hold.
    fn settings(&self, reservation: Reservation) -> Vec<(&'static str, String)> {
        let quota = reservation.runtime().as_micros().to_string();
        let period = reservation.period().as_micros().to_string();
        match self.group.hierarchy.version {
            Version::V1 => vec![("cpu.cfs_period_us", period), ("cpu.cfs_quota_us", quota)],
            Version::V2 => vec![("cpu.max", format!("{quota} {period}"))],
        }
    }

    fn write(&self, reservation: Reservation) -> Result<(), BackendError> {
        for (file, value) in self.settings(reservation) {
            self.group.set(file, &value)?;
        }
        Ok(())
    }

    fn undo(&self) -> Result<(), BackendError> {
        set_fixed(self.tid, Policy::Other).or_else(gone_is_fine)?;
        self.group.remove(self.tid).map_err(BackendError::from)
    }
}

impl CpuReservation for CfsQuota {
    fn in_force(&self) -> Result<InForce, BackendError> {
        read_back(self.tid, Policy::Other)?;
        for (file, wanted) in self.settings(self.reservation) {
            holds(&self.group, file, wanted)?;
        }
        Ok(InForce {
            backend: BackendKind::CfsQuota,
            reservation: Some(self.reservation),
            surplus: Duration::ZERO,
            cpus: affinity(self.tid)?,
            note: None,
        })
    }

    fn adapt(&mut self, new: Reservation) -> Result<InForce, BackendError> {
        in_range(new)?;
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
        BackendKind::CfsQuota
    }
}

fn in_range(reservation: Reservation) -> Result<(), BackendError> {
    if reservation.runtime() >= LEAST && (LEAST..=LONGEST_PERIOD).contains(&reservation.period()) {
        return Ok(());
    }
    Err(BackendError::OutOfRange {
        backend: BackendKind::CfsQuota,
        reason: format!("{reservation} has a quota below 1 ms or a period outside 1 ms to 1 s"),
    })
}

//! SCHED_FIFO and SCHED_OTHER: no reservation, for comparison.

use std::fs;

use nix::errno::Errno;

use super::{BackendError, CpuReservation, InForce, in_place, pin};
use crate::capability;
use crate::kernel::{Policy, Tid, policy, set_policy};
use crate::request::{BackendKind, DEFAULT_FIFO_PRIORITY, Granted, Placement};
use crate::reservation::Reservation;

/// One thread with a fixed policy.
#[derive(Debug)]
pub(super) struct Fixed {
    tid: Tid,
    kind: BackendKind,
    wanted: Policy,
    placement: Placement,
}

impl Fixed {
    pub(super) fn apply(tid: Tid, granted: &Granted) -> Result<Self, BackendError> {
        let kind = granted.request.backend;
        let priority = granted.request.fifo_priority;
        let wanted = match kind {
            BackendKind::Fifo => Policy::Fifo {
                priority: priority.unwrap_or(DEFAULT_FIFO_PRIORITY),
            },
            _ => Policy::Other,
        };
        pin(tid, granted.placement)?;
        set_fixed(tid, wanted)?;
        let fixed = Self {
            tid,
            kind,
            wanted,
            placement: granted.placement,
        };
        fixed.in_force()?;
        Ok(fixed)
    }
}

impl CpuReservation for Fixed {
    fn in_force(&self) -> Result<InForce, BackendError> {
        read_back(self.tid, self.wanted)?;
        Ok(InForce {
            backend: self.kind,
            reservation: None,
            surplus: std::time::Duration::ZERO,
            cpus: in_place(self.tid, self.placement)?,
            note: match self.kind {
                BackendKind::Fifo => throttling(),
                _ => None,
            },
        })
    }

    fn adapt(&mut self, _new: Reservation) -> Result<InForce, BackendError> {
        let backend = self.kind;
        Err(BackendError::NoReservation { backend })
    }

    fn release(&mut self) -> Result<(), BackendError> {
        match set_policy(self.tid, Policy::Other) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(BackendError::from_errno(self.tid, errno)),
        }
    }

    fn kind(&self) -> BackendKind {
        self.kind
    }
}

/// Sets a policy without bandwidth; EPERM is then a missing capability.
pub(super) fn set_fixed(tid: Tid, wanted: Policy) -> Result<(), BackendError> {
    set_policy(tid, wanted).map_err(|errno| match errno {
        Errno::EPERM if !capability::has_sys_nice() => BackendError::Capability {
            policy: "SCHED_FIFO",
            rlimit: true,
        },
        errno => BackendError::from_errno(tid, errno),
    })
}

pub(super) fn read_back(tid: Tid, wanted: Policy) -> Result<(), BackendError> {
    let found = policy(tid).map_err(|errno| BackendError::from_errno(tid, errno))?;
    if found != wanted {
        return Err(BackendError::NotInForce { tid, wanted, found });
    }
    Ok(())
}

/// Real-time throttling stops every SCHED_FIFO thread of a CPU once a second unless switched off
/// (Documentation/scheduler/sched-rt-group.rst).
fn throttling() -> Option<String> {
    let sysctl = |name| {
        let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<i64>().ok()
    };
    let (runtime, period) = (
        sysctl("sched_rt_runtime_us")?,
        sysctl("sched_rt_period_us")?,
    );
    if runtime < 0 || runtime >= period {
        return None;
    }
    Some(format!(
        "real-time throttling: a busy SCHED_FIFO thread loses {} ms in every {} ms",
        (period - runtime) / 1000,
        period / 1000
    ))
}

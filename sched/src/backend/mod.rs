//! The kernel mechanisms behind a reservation, and one way to use any of them.

mod deadline;
mod error;
mod fixed;
mod group;

use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};

pub use crate::kernel::Tid;
pub use error::BackendError;

use crate::account::Throttling;
use crate::cpus;
use crate::feedback::Envelope;
use crate::request::{BackendKind, Granted, Placement};
use crate::reservation::Reservation;

/// A reservation in force on one thread.
///
/// Not released on drop: the kernel gives everything back when the thread ends, and control groups are removed by
/// [`CpuReservation::release`] or, after a crash, by the next [`crate::ledger::Ledger::open`].
pub trait CpuReservation: Send {
    /// What the kernel has for the thread now.
    ///
    /// # Errors
    /// When it cannot be read, or is not what was set.
    fn in_force(&self) -> Result<InForce, BackendError>;

    /// Changes the reservation of the running thread, and reads it back.
    ///
    /// # Errors
    /// When the kernel refuses; the old reservation stays in force.
    fn adapt(&mut self, new: Reservation) -> Result<InForce, BackendError>;

    /// Returns the thread to SCHED_OTHER and removes what was made for it. A thread that is gone is no error.
    ///
    /// # Errors
    /// When something stays behind.
    fn release(&mut self) -> Result<(), BackendError>;

    /// How the kernel throttled the thread so far; not known where it does not count.
    fn throttling(&self) -> Option<Throttling> {
        None
    }

    /// The mechanism.
    fn kind(&self) -> BackendKind;
}

/// What the kernel reports of one thread, read back and not assumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The mechanism.
    pub backend: BackendKind,
    /// (Q, P), the surplus taken off; none for back ends without a reservation.
    pub reservation: Option<Reservation>,
    /// What the kernel has beyond Q.
    pub surplus: Duration,
    /// The CPUs the thread may run on.
    pub cpus: Vec<u32>,
    /// What limits it that is not in the pair: real-time throttling for SCHED_FIFO.
    pub note: Option<String>,
}

/// Puts a grant into force on a thread of this process: control group, policy, and a read-back that compares.
///
/// Cheapest from the thread itself: moving another thread into a control group waits for an RCU grace period, some 10 ms.
/// A vCPU thread has to have entered KVM_RUN once before (KVM starts a worker thread there, and a SCHED_DEADLINE thread
/// may not fork), which the caller sees to.
///
/// # Errors
/// What the kernel refused and what to change. The thread is back in SCHED_OTHER then.
pub fn apply(tid: Tid, granted: &Granted) -> Result<Box<dyn CpuReservation>, BackendError> {
    Ok(match granted.request.backend {
        BackendKind::Deadline => Box::new(deadline::DeadlineServer::apply(tid, granted, None)?),
        BackendKind::RtCgroup | BackendKind::CfsQuota => {
            Box::new(group::GroupServer::apply(tid, granted)?)
        }
        BackendKind::Fifo | BackendKind::Other => Box::new(fixed::Fixed::apply(tid, granted)?),
    })
}

/// As [`apply`], for a thread that changes its budget itself ([`crate::feedback::Follower`]): it begins with the
/// envelope's first budget, and any inside the envelope, whose greatest was granted, counts as in force.
///
/// # Errors
/// As [`apply`].
pub fn apply_within(
    tid: Tid,
    granted: &Granted,
    envelope: Envelope,
) -> Result<Box<dyn CpuReservation>, BackendError> {
    let server = deadline::DeadlineServer::apply(tid, granted, Some(envelope))?;
    Ok(Box::new(server))
}

/// Moves the calling thread to where a grant wants it, ahead of [`apply`]: joining a partition is waiting for the most
/// part, which the caller may spend otherwise. The thread then has the highest SCHED_FIFO priority until [`apply`].
///
/// # Errors
/// What [`apply`] would say.
pub fn move_ahead(granted: &Granted) -> Result<(), BackendError> {
    match granted.placement {
        Placement::Partition { cpu } => deadline::enter_partition(Tid::current(), cpu).map(|_| ()),
        _ => Ok(()),
    }
}

/// Restricts a thread to its CPU, where the placement is one.
fn pin(tid: Tid, placement: Placement) -> Result<(), BackendError> {
    let Placement::Pinned { cpu } = placement else {
        return Ok(());
    };
    let mut set = CpuSet::new();
    set.set(cpu as usize)
        .and_then(|()| sched_setaffinity(tid.pid(), &set))
        .map_err(|source| BackendError::Affinity { tid, cpu, source })
}

/// The CPUs a thread may run on, which have to be the one of its placement, where that is one.
fn in_place(tid: Tid, placement: Placement) -> Result<Vec<u32>, BackendError> {
    let cpus = affinity(tid)?;
    let (Placement::Pinned { cpu } | Placement::Partition { cpu }) = placement else {
        return Ok(cpus);
    };
    // The kernel leaves out a CPU that is being taken offline, which it may refuse yet.
    let is_leaving = cpus.is_empty() && cpus::online().contains(&cpu);
    if cpus == [cpu] || is_leaving {
        return Ok(vec![cpu]);
    }
    Err(BackendError::Displaced { tid, cpu, cpus })
}

/// The CPUs a thread may run on.
fn affinity(tid: Tid) -> Result<Vec<u32>, BackendError> {
    let set =
        sched_getaffinity(tid.pid()).map_err(|source| BackendError::from_errno(tid, source))?;
    let allowed = |&cpu: &u32| set.is_set(cpu as usize).unwrap_or(false);
    let count = u32::try_from(CpuSet::count()).unwrap_or(u32::MAX);
    Ok((0..count).filter(allowed).collect())
}

//! SCHED_DEADLINE: the kernel's constant bandwidth server with hard enforcement, under EDF.

use std::time::Duration;

use nix::errno::Errno;

use super::{BackendError, CpuReservation, InForce, affinity, in_place};
use crate::budget::default_surplus;
use crate::capability;
use crate::cpus;
use crate::feedback::Envelope;
use crate::kernel::{Policy, Tid, monotonic, policy, set_policy};
use crate::partition::{self, Partition};
use crate::request::{BackendKind, Enforcement, Granted, Placement};
use crate::reservation::Reservation;

/// How long to wait for bandwidth that another thread has given up.
///
/// The kernel returns it only when the last period of the thread that left is over ("0-lag time",
/// Documentation/scheduler/sched-deadline.rst, section 2.3), which for common periods is well within this.
const RETRY_FOR: Duration = Duration::from_millis(500);
const FIRST_WAIT: Duration = Duration::from_micros(200);
const LONGEST_WAIT: Duration = Duration::from_millis(10);

/// One thread under SCHED_DEADLINE.
#[derive(Debug)]
pub(super) struct DeadlineServer {
    tid: Tid,
    enforcement: Enforcement,
    reservation: Reservation,
    /// Where the thread changes its budget itself.
    envelope: Option<Envelope>,
    surplus: Duration,
    placement: Placement,
    home: Home,
}

/// The control group that was chosen for the thread.
#[derive(Debug)]
enum Home {
    Partition(Partition),
    /// That of all CPUs outside partitions.
    Rest,
    /// Where it was anyway.
    AsFound,
}

impl DeadlineServer {
    pub(super) fn apply(
        tid: Tid,
        granted: &Granted,
        envelope: Option<Envelope>,
    ) -> Result<Self, BackendError> {
        let Some(reservation) = granted.request.reservation else {
            let backend = BackendKind::Deadline;
            return Err(BackendError::NoReservation { backend });
        };
        let home = enter(tid, granted.placement)?;
        let server = Self {
            tid,
            enforcement: granted.request.enforcement,
            reservation,
            envelope,
            surplus: granted.surplus,
            placement: granted.placement,
            home,
        };
        let in_force = server.set_with_retry().and_then(|()| server.in_force());
        if let Err(error) = in_force {
            server.undo();
            return Err(error);
        }
        Ok(server)
    }

    /// What is set from here; a thread that follows its need changes it within the envelope.
    fn wanted(&self) -> Policy {
        let runtime = match &self.envelope {
            Some(envelope) => envelope.initial(),
            None => self.reservation.runtime(),
        };
        Policy::Deadline {
            runtime: runtime + self.surplus,
            deadline: self.reservation.deadline(),
            period: self.reservation.period(),
        }
    }

    /// The reservation that `found` is, if it is one that was granted.
    fn granted(&self, found: Policy) -> Option<Reservation> {
        let Some(envelope) = &self.envelope else {
            return (found == self.wanted()).then_some(self.reservation);
        };
        let Policy::Deadline {
            runtime,
            deadline,
            period,
        } = found
        else {
            return None;
        };
        let budget = runtime.checked_sub(self.surplus)?;
        let inside = envelope.contains(budget) && [deadline, period] == [envelope.period(); 2];
        Reservation::new(budget, period).ok().filter(|_| inside)
    }

    /// Sets the policy, waiting a bounded time for bandwidth that returns late.
    fn set_with_retry(&self) -> Result<(), BackendError> {
        let wanted = self.wanted();
        let started = monotonic();
        let mut wait = FIRST_WAIT;
        loop {
            let waited = monotonic() - started;
            match set_policy(self.tid, wanted) {
                Ok(()) => return Ok(()),
                Err(Errno::EBUSY) if waited < RETRY_FOR => std::thread::sleep(wait),
                Err(Errno::EBUSY) => return Err(BackendError::Busy { waited }),
                Err(Errno::EPERM) => return Err(self.not_permitted()),
                Err(errno) => return Err(BackendError::from_errno(self.tid, errno)),
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// The three things the kernel says EPERM for.
    fn not_permitted(&self) -> BackendError {
        let tid = self.tid;
        if !capability::has_sys_nice() {
            return BackendError::Capability {
                policy: "SCHED_DEADLINE",
                rlimit: false,
            };
        }
        let last_cpu = crate::process::last_cpu(tid);
        match (&self.home, last_cpu) {
            (Home::Partition(partition), Some(was_on)) if was_on != partition.cpu => {
                let cpu = partition.cpu;
                BackendError::Asleep { tid, was_on, cpu }
            }
            _ => BackendError::Pinned {
                tid,
                cpus: cpus::format(&affinity(tid).unwrap_or_default()),
            },
        }
    }

    fn leave(&self) -> Result<(), BackendError> {
        match self.home {
            Home::Partition(_) | Home::Rest => partition::leave(self.tid)?,
            Home::AsFound => {}
        }
        Ok(())
    }

    /// Puts the thread back where it was; what fails here would have failed the kernel too.
    fn undo(&self) {
        let back = set_policy(self.tid, Policy::Other).map_err(|errno| errno.to_string());
        let left = self.leave().map_err(|error| error.to_string());
        if let Err(error) = back.and(left) {
            tracing::debug!(tid = self.tid.0, %error, "thread not put back");
        }
    }
}

impl CpuReservation for DeadlineServer {
    fn in_force(&self) -> Result<InForce, BackendError> {
        let (tid, wanted) = (self.tid, self.wanted());
        let found = policy(tid).map_err(|errno| BackendError::from_errno(tid, errno))?;
        let Some(reservation) = self.granted(found) else {
            return Err(BackendError::NotInForce { tid, wanted, found });
        };
        Ok(InForce {
            backend: BackendKind::Deadline,
            reservation: Some(reservation),
            surplus: self.surplus,
            cpus: in_place(tid, self.placement)?,
            note: None,
        })
    }

    fn adapt(&mut self, new: Reservation) -> Result<InForce, BackendError> {
        let old = (self.reservation, self.surplus);
        self.reservation = new;
        self.surplus = match self.enforcement {
            Enforcement::Exact => default_surplus(new),
            Enforcement::Tick => Duration::ZERO,
        };
        if let Err(error) = self.set_with_retry() {
            (self.reservation, self.surplus) = old;
            return Err(error);
        }
        self.in_force()
    }

    fn release(&mut self) -> Result<(), BackendError> {
        match set_policy(self.tid, Policy::Other) {
            Ok(()) => {}
            Err(Errno::ESRCH) => return Ok(()),
            Err(errno) => return Err(BackendError::from_errno(self.tid, errno)),
        }
        self.leave()
    }

    fn kind(&self) -> BackendKind {
        BackendKind::Deadline
    }
}

/// Puts the thread where its promise holds, before it has a policy: a SCHED_DEADLINE thread cannot move between root
/// domains without a new admission.
fn enter(tid: Tid, placement: Placement) -> Result<Home, BackendError> {
    match placement {
        Placement::Partition { cpu } => {
            let partition = enter_partition(tid, cpu).inspect_err(|_| {
                if let Err(errno) = set_policy(tid, Policy::Other) {
                    tracing::debug!(tid = tid.0, %errno, "thread not put back");
                }
            })?;
            Ok(Home::Partition(partition))
        }
        Placement::Global => {
            let moved = partition::join_rest(tid)?;
            Ok(if moved { Home::Rest } else { Home::AsFound })
        }
        Placement::Pinned { .. } | Placement::Anywhere => Ok(Home::AsFound),
    }
}

/// As an ordinary thread it could wait there for most of a second behind a busy SCHED_FIFO thread, so it moves at the
/// highest priority.
pub(super) fn enter_partition(tid: Tid, cpu: u32) -> Result<Partition, BackendError> {
    let highest = Policy::Fifo { priority: 99 };
    if let Err(errno) = set_policy(tid, highest) {
        tracing::debug!(tid = tid.0, %errno, "moving as an ordinary thread");
    }
    let partition = Partition::of(cpu).ok_or(BackendError::NoPartition { cpu })?;
    partition.join(tid)?;
    Ok(partition)
}

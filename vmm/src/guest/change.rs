//! Why a running guest's reservation was not changed.

use std::time::Duration;

use sched::backend::BackendError;
use sched::ledger::Refusal;

/// Why a running guest's reservation was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// No such vCPU.
    #[error("vCPU {vcpu} does not exist; the guest has vCPUs 0 to {last}")]
    NoVcpu {
        /// The number given.
        vcpu: usize,
        /// The greatest that exists.
        last: usize,
    },
    /// It does not fit.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The kernel refused; the old reservation is in force and in the ledger.
    #[error("the kernel refused the change, the old reservation stays: {0}")]
    Kernel(#[from] BackendError),
    /// Its budget follows its need.
    #[error(
        "vCPU {vcpu} follows its need between {least:?} and {greatest:?} by itself; change least and greatest of [cpu.feedback] in its specification, save it, and restore it with that"
    )]
    Follows {
        /// Which vCPU.
        vcpu: usize,
        /// The least budget.
        least: Duration,
        /// The greatest.
        greatest: Duration,
    },
    /// There is nothing to change.
    #[error("vCPU {vcpu} has no reservation to change: its back end makes no promise")]
    NoReservation {
        /// Which vCPU.
        vcpu: usize,
    },
    /// The ledger says something else.
    #[error("the ledger does not grant this reservation to vCPU {vcpu}")]
    NotGranted {
        /// Which vCPU.
        vcpu: usize,
    },
}

impl ChangeError {
    /// When the same change fits, if it is refused only for what is not free yet.
    pub(super) fn fits_in(&self) -> Option<Duration> {
        match self {
            Self::Refused(refusal) => refusal.otherwise.after,
            _ => None,
        }
    }
}

impl From<Refusal> for ChangeError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

//! Why a tree cannot be had.

use crate::class::ClassId;
use crate::filter;
use crate::netlink::NetlinkError;
use crate::probe::{self, ProbeError};
use crate::share::ShareError;

/// Why a tree is not as it was to be. Nothing was changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The interface has a queueing discipline of somebody else's.
    #[error(
        "{interface} has a {kind} queueing discipline at its root ({handle:x}:) that is not Chronovisor's: delete it by `tc qdisc del dev {interface} root`, or use another interface"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Its discipline.
        kind: String,
        /// The discipline's number.
        handle: u32,
    },
    /// There is a tree already.
    #[error(
        "{interface} has a tree of Chronovisor's already, applied from another run directory: `chronovisor net clear --run-dir DIR` removes it, or where that is lost `chronovisor net clear --lost FILE`"
    )]
    Exists {
        /// The interface.
        interface: String,
    },
    /// There is no tree.
    #[error("{interface} has no tree of Chronovisor's: make one by `chronovisor net apply FILE`")]
    None {
        /// The interface.
        interface: String,
    },
    /// The tree has no such class.
    #[error("{interface} has no class {class}: see `tc class show dev {interface}`")]
    NoClass {
        /// The interface.
        interface: String,
        /// The class asked for.
        class: ClassId,
    },
    /// Every number for a filter is taken.
    #[error(
        "{interface} has {} filters, the most there can be: let fewer destinations share it",
        filter::LAST
    )]
    Full {
        /// The interface.
        interface: String,
    },
    /// No rate that HTB can keep.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The kernel refused or cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel lacks something.
    #[error(transparent)]
    Kernel(#[from] ProbeError),
}

impl TreeError {
    /// Whether a part of what failed stays.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        matches!(self, Self::Netlink(error) if error.is_in_part())
    }

    /// The same, or what the kernel lacks if that is why.
    pub(crate) fn explained(self) -> Self {
        match &self {
            Self::Netlink(error) => probe::reason(error).map_or(self, Self::Kernel),
            _ => self,
        }
    }
}

//! Why ports cannot be had.

use crate::netlink::NetlinkError;
use crate::probe::{self, ProbeError};
use crate::share::ShareError;
use crate::tap::TapError;
use crate::tree::TreeError;

/// Why ports are not as they were to be. Nothing was changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// There is an interface of a name that is needed.
    #[error(
        "there is an interface {name} that is not Chronovisor's: choose another name for the bridge, or remove that interface if nobody needs it"
    )]
    Foreign {
        /// The interface.
        name: String,
    },
    /// The bridge exists already.
    #[error(
        "there is a bridge {bridge} of Chronovisor's already, applied from another run directory: `chronovisor net clear --run-dir DIR` removes it, or where that is lost `chronovisor net clear --lost FILE`"
    )]
    Exists {
        /// The bridge.
        bridge: String,
    },
    /// There is no such bridge.
    #[error(
        "there is no bridge {bridge} of Chronovisor's: make it by `chronovisor net apply FILE`"
    )]
    None {
        /// The bridge.
        bridge: String,
    },
    /// There is no such port.
    #[error("the bridge {bridge} has no port {port}: see `chronovisor net status`")]
    NoPort {
        /// The bridge.
        bridge: String,
        /// The port asked for.
        port: String,
    },
    /// No room for one more.
    #[error("the bridge {bridge} has {most} ports, the most there can be: use another bridge")]
    Full {
        /// The bridge.
        bridge: String,
        /// So many.
        most: u16,
    },
    /// No rate that HTB can keep.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// No tap.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A tree refused.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kernel refused or cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel lacks something.
    #[error(transparent)]
    Kernel(#[from] ProbeError),
}

impl PortsError {
    /// Whether a part of what failed stays.
    #[must_use]
    pub fn is_in_part(&self) -> bool {
        match self {
            Self::Tree(error) => error.is_in_part(),
            Self::Netlink(error) => error.is_in_part(),
            _ => false,
        }
    }

    /// The same, or what the kernel lacks if that is why.
    pub(crate) fn explained(self) -> Self {
        match &self {
            Self::Netlink(error) | Self::Tree(TreeError::Netlink(error)) => {
                probe::reason(error).map_or(self, Self::Kernel)
            }
            _ => self,
        }
    }
}

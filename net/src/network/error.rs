//! Why the network could not be used or changed, and what then may not be as the state says.

use crate::marks::MarksError;
use crate::netlink::NetlinkError;
use crate::plan::PlanError;
use crate::ports::PortsError;
use crate::router::RouterError;
use crate::state::StateError;
use crate::tree::TreeError;

use super::Denied;

/// Why the network could not be used or changed. Nothing was changed then, unless it says so.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It is not to be had.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The plan is none.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bridge.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The queues of an interface.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Marks.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// A router.
    #[error(transparent)]
    Router(#[from] RouterError),
    /// It failed, and so did taking it back.
    #[error(
        "{failed}; nor could what was changed before that be taken back: {undoing}. What is there in part is mended by the next change, or by `chronovisor net apply FILE`"
    )]
    Partly {
        /// Why it failed.
        failed: Box<NetworkError>,
        /// Why a part of it stays.
        undoing: Box<NetworkError>,
    },
    /// Everything is cleared but routers.
    #[error(
        "this host is cleared, but not its routers: {source}; `chronovisor net clear` asks them again, and `chronovisor net clear --lost FILE`, with a plan without those that are no more, gives them up"
    )]
    ClearedHere {
        /// Why not.
        source: RouterError,
    },
}

impl NetworkError {
    /// Whether no network was applied here at all.
    #[must_use]
    pub fn is_not_applied(&self) -> bool {
        matches!(self, Self::State(StateError::NotApplied { .. }))
    }
}

/// What may differ from what the state says. The greater includes the less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Doubt {
    /// Marks, and what routers have.
    Beyond,
    /// Queues of this host.
    Queues,
}

impl NetworkError {
    /// Whether what was asked for was understood, and is not to be had: another request may be.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Denied(_) | Self::Plan(PlanError::Refused(_)) => true,
            Self::Router(error) => error.is_refusal(),
            _ => false,
        }
    }

    /// Both failures in one.
    pub(super) fn partly(failed: Self, undoing: Self) -> Self {
        Self::Partly {
            failed: Box::new(failed),
            undoing: Box::new(undoing),
        }
    }

    /// What is in doubt after a change that failed with this.
    pub(super) fn doubt(&self) -> Option<Doubt> {
        let is_in_part = match self {
            Self::Partly { failed, undoing } => return failed.doubt().max(Some(undoing.place())),
            Self::Router(error) => return error.is_in_part().then_some(Doubt::Beyond),
            Self::Ports(error) => error.is_in_part(),
            Self::Tree(error) => error.is_in_part(),
            Self::Netlink(error) => error.is_in_part(),
            _ => false,
        };
        is_in_part.then_some(Doubt::Queues)
    }

    /// Where it happened.
    pub(super) fn place(&self) -> Doubt {
        match self {
            Self::Router(_) | Self::Marks(_) => Doubt::Beyond,
            Self::Partly { failed, undoing } => failed.place().max(undoing.place()),
            _ => Doubt::Queues,
        }
    }

    /// Whether VMs can use the bridge all the same.
    pub(super) fn leaves_the_bridge(&self) -> bool {
        match self {
            Self::Router(_) | Self::Marks(_) | Self::Tree(_) => true,
            Self::Partly { failed, undoing } => {
                failed.leaves_the_bridge() && undoing.leaves_the_bridge()
            }
            _ => false,
        }
    }
}

//! What stops a device: what a guest can do wrong with its queues, and the loss of what the device stands on.

use serde::{Deserialize, Serialize};

/// Why a device has stopped until it is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Fault {
    /// A queue does not lie in guest memory, is not aligned, or was not made ready.
    #[error("a queue is not ready, not aligned or not in guest memory")]
    Queue = 1,
    /// More is said to be available than fits into the queue.
    #[error("the available index is further ahead than the queue is long")]
    Available,
    /// A chain loops, leaves its table, or has an indirect table in an indirect table.
    #[error("a descriptor chain loops, leaves its table, or has a table that cannot be")]
    Chain,
    /// A buffer that does not lie in guest memory.
    #[error("a buffer does not lie in guest memory")]
    Outside,
    /// A buffer to read where one to write must be, or the reverse.
    #[error("a buffer has the wrong direction")]
    Direction,
    /// A chain with more descriptors or bytes than there can be.
    #[error("a descriptor chain is longer than there can be")]
    TooLong,
    /// The host's end does not exist any more.
    #[error("its interface on the host is gone")]
    Gone,
    /// The host's end cannot do what the driver was offered.
    #[error("its interface on the host refuses the offloads that the driver has taken")]
    Offloads,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Queue,
        Self::Available,
        Self::Chain,
        Self::Outside,
        Self::Direction,
        Self::TooLong,
        Self::Gone,
        Self::Offloads,
    ];

    /// The fault with this number, if there is one.
    #[must_use]
    pub fn numbered(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| *fault as u8 == number)
    }
}

//! Classes of a hierarchical token bucket, and what they count.

use std::fmt;

use serde::{Deserialize, Serialize};
use units::{BitRate, ByteSize};

/// The major number of every queueing discipline at the root of an interface that this crate made: its sign of ownership.
/// The kernel gives numbers from 8000 on by itself; `CV` in ASCII.
pub const MAJOR: u16 = 0x4356;

/// A class of a tree of this crate. It prints as `tc` and `nft` read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClassId(u16);

impl ClassId {
    /// The class whose children share an interface's capacity.
    pub const LINK: Self = Self(1);
    /// The class of what nothing else matches.
    pub const DEFAULT: Self = Self(2);
    /// The least number for a class of somebody else's choice.
    pub const FIRST: u16 = 0x10;

    /// The class with this minor number; none for those that the tree has itself.
    #[must_use]
    pub const fn new(minor: u16) -> Option<Self> {
        if minor >= Self::FIRST {
            Some(Self(minor))
        } else {
            None
        }
    }

    /// The class with this minor number, whosever it is.
    pub(crate) const fn numbered(minor: u16) -> Self {
        Self(minor)
    }

    /// The class that the kernel numbers so; nothing if it is of another tree.
    #[must_use]
    pub fn of_handle(handle: u32) -> Option<Self> {
        let [a, b, c, d] = handle.to_be_bytes();
        (u16::from_be_bytes([a, b]) == MAJOR).then_some(Self(u16::from_be_bytes([c, d])))
    }

    /// The number in the tree.
    #[must_use]
    pub const fn minor(self) -> u16 {
        self.0
    }

    /// The kernel's number (`TC_H_MAKE`), which as a packet's priority (SO_PRIORITY) puts it into this class.
    #[must_use]
    pub fn handle(self) -> u32 {
        u32::from(MAJOR) << 16 | u32::from(self.0)
    }
}

impl fmt::Display for ClassId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{MAJOR:x}:{:x}", self.0))
    }
}

/// What a class has carried and dropped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes sent, with the Ethernet header.
    pub bytes: u64,
    /// Packets sent; one that the sender left to be segmented later counts as its segments.
    pub packets: u64,
    /// Packets that found the queue full.
    pub drops: u64,
    /// Bytes in the queue now.
    pub backlog: u64,
    /// How often a packet had to wait for its class's rate.
    pub overlimits: u64,
}

/// What a class is given, as the kernel reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rates {
    /// Assured, to the byte per second.
    pub assured: BitRate,
    /// At most.
    pub ceil: BitRate,
    /// 0 is served first.
    pub priority: u32,
    /// What may be sent at once at the assured rate.
    pub burst: ByteSize,
    /// Bytes by which it takes turns with classes of the same priority.
    pub quantum: u32,
}

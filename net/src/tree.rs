//! One HTB tree, owned on one interface: a class for the link's capacity, under it a class per share, one for what
//! nothing matches. Bandwidth is not admitted here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use units::BitRate;

use crate::class::{ClassId, Counters, Rates};
use crate::netlink::NetlinkError;
use crate::share::{Share, ShareError};

/// Why a tree is not as it was to be. Nothing was changed then.
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
        "{interface} has a tree of Chronovisor's already: open it, or remove it by `chronovisor net clear`"
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
    /// No rate that HTB can keep.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// The kernel refused or cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the packets of a class have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Match {
    /// Nothing: packets come by their priority (SO_PRIORITY, nft `meta priority set`, [`ClassId::handle`]).
    Marked,
    /// They go to a network whose first `prefix` bits are its own.
    Destination {
        /// An address of the network.
        network: IpAddr,
        /// How many bits are the network's.
        prefix: u8,
    },
    /// They have this mark (the upper six bits of IPv4's type of service and of IPv6's traffic class, RFC 2474).
    Dscp(u8),
}

/// A class to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewClass {
    /// Its number.
    pub id: ClassId,
    /// What it is given.
    pub share: Share,
    /// What goes into it; any of them suffices.
    pub matches: Vec<Match>,
}

/// A tree, by a socket of its own to the namespace of the thread that made or opened it. Dropping it changes nothing.
#[derive(Debug)]
pub struct Tree {}

impl Tree {
    /// Makes a tree on an interface that has no queueing discipline of its own choice. What no class matches shares what
    /// `default` says.
    ///
    /// # Errors
    /// When somebody's queueing discipline or a tree is there, a rate is out of range, or the kernel refuses.
    pub fn create(
        _interface: &str,
        _capacity: BitRate,
        _default: &Share,
    ) -> Result<Self, TreeError> {
        todo!()
    }

    /// The tree that was made on this interface.
    ///
    /// # Errors
    /// When there is none, or the root is somebody else's.
    pub fn open(_interface: &str) -> Result<Self, TreeError> {
        todo!()
    }

    /// Its interface.
    #[must_use]
    pub fn interface(&self) -> &str {
        todo!()
    }

    /// Changes the capacity; the sum of the assured rates is the caller's matter.
    ///
    /// # Errors
    /// When the rate is out of range or the kernel refuses.
    pub fn set_capacity(&mut self, _capacity: BitRate) -> Result<(), TreeError> {
        todo!()
    }

    /// Adds classes, all or none.
    ///
    /// # Errors
    /// When a number is taken, a rate out of range, or the kernel refuses.
    pub fn add(&mut self, _classes: &[NewClass]) -> Result<(), TreeError> {
        todo!()
    }

    /// Changes the shares of classes, all or none, in one send.
    ///
    /// # Errors
    /// When there is no such class, a rate is out of range, or the kernel refuses.
    pub fn change(&mut self, _shares: &[(ClassId, Share)]) -> Result<(), TreeError> {
        todo!()
    }

    /// Removes classes with what matches them. Their packets go to the default class from then on.
    ///
    /// # Errors
    /// When there is no such class or the kernel refuses.
    pub fn remove(&mut self, _classes: &[ClassId]) -> Result<(), TreeError> {
        todo!()
    }

    /// The classes as the kernel has them, with those of the tree itself.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn classes(&mut self) -> Result<BTreeMap<ClassId, (Rates, Counters)>, TreeError> {
        todo!()
    }

    /// Removes the tree; the interface then has what the kernel gives by itself.
    ///
    /// # Errors
    /// When the kernel refuses. A tree or an interface that is gone is no error.
    pub fn delete(self) -> Result<(), TreeError> {
        todo!()
    }
}

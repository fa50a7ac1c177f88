//! Ports of VMs: a bridge, a tap per VM, and two intermediate functional blocks with a tree each, into which everything
//! out of and into the VMs is redirected. Bandwidth is not admitted here.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::class::{Counters, Rates};
use crate::mac::Mac;
use crate::netlink::NetlinkError;
use crate::share::{Share, ShareError};
use crate::tap::{Tap, TapError};
use crate::tree::TreeError;

/// Why ports are not as they were to be. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// There is an interface of a name that is needed.
    #[error(
        "there is an interface {name} that is not Chronovisor's: choose another name for the bridge, or delete the interface by `ip link delete {name}`"
    )]
    Foreign {
        /// The interface.
        name: String,
    },
    /// The bridge exists already.
    #[error(
        "there is a bridge {bridge} of Chronovisor's already: open it, or remove it by `chronovisor net clear`"
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
}

/// What a bridge with ports is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortsConfig {
    /// Its name, at most 12 characters; the two blocks have names made of it.
    pub bridge: String,
    /// What all ports together may send, and what they may receive.
    pub capacity: BitRate,
    /// What all ports together may send to everybody (broadcast and multicast), in equal parts among those that do. A
    /// port receives it beside its share.
    pub broadcast: BitRate,
    /// Longest packet, in bytes.
    pub mtu: u16,
    /// The host's own address on the bridge, and the length of the network's prefix.
    pub address: Option<(IpAddr, u8)>,
}

/// A port to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortSpec {
    /// The only source address that its frames may have.
    pub mac: Mac,
    /// Its share, in each direction.
    pub share: Share,
}

/// A port as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortState {
    /// Its name, which is its tap's.
    pub name: String,
    /// What it may send.
    pub out: Rates,
    /// What it may receive.
    pub into: Rates,
    /// What it counted.
    pub counters: PortCounters,
}

/// What a port has carried and lost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortCounters {
    /// Out of the VM, to one receiver.
    pub out: Counters,
    /// Into the VM, from one sender to it.
    pub into: Counters,
    /// Out of the VM, to everybody.
    pub broadcast_out: Counters,
    /// Into the VM, as to everybody.
    pub broadcast_into: Counters,
    /// Frames with a source address that is not the port's, all dropped.
    pub foreign_mac_drops: u64,
    /// Frames into the VM that were dropped because the tap's reader did not read.
    pub link_drops: u64,
}

/// A bridge with ports, by a socket of its own to the namespace of the thread that made or opened it. Dropping it changes
/// nothing. Whoever changes ports must keep other processes from doing so meanwhile.
#[derive(Debug)]
pub struct Ports {}

impl Ports {
    /// Makes the bridge and its blocks.
    ///
    /// # Errors
    /// When an interface of such a name exists, a rate is out of range, or the kernel refuses.
    pub fn create(_config: &PortsConfig) -> Result<Self, PortsError> {
        todo!()
    }

    /// The bridge that was made under this name. Classes of ports whose taps are gone are removed.
    ///
    /// # Errors
    /// When there is none, or the kernel cannot be asked.
    pub fn open(_bridge: &str) -> Result<Self, PortsError> {
        todo!()
    }

    /// Makes a port: tap, classes, guard. The calling thread must be in the bridge's namespace.
    ///
    /// # Errors
    /// When the share is out of range, there are too many ports, or the kernel refuses.
    pub fn attach(&mut self, _port: &PortSpec) -> Result<Tap, PortsError> {
        todo!()
    }

    /// x
    ///
    /// # Errors
    /// x
    pub fn attach_interface(&mut self, _name: &str, _port: &PortSpec) -> Result<(), PortsError> {
        todo!()
    }

    /// Removes a port's classes; its tap goes when it is dropped.
    ///
    /// # Errors
    /// When there is no such port or the kernel refuses.
    pub fn detach(&mut self, _port: &str) -> Result<(), PortsError> {
        todo!()
    }

    /// Changes the shares of ports, in both directions, all or none, in one send.
    ///
    /// # Errors
    /// When there is no such port, a rate is out of range, or the kernel refuses.
    pub fn change(&mut self, _shares: &[(&str, Share)]) -> Result<(), PortsError> {
        todo!()
    }

    /// Changes capacity and broadcast rate.
    ///
    /// # Errors
    /// When a rate is out of range, or the kernel refuses.
    pub fn set_capacity(
        &mut self,
        _capacity: BitRate,
        _broadcast: BitRate,
    ) -> Result<(), PortsError> {
        todo!()
    }

    /// Every port as the kernel has it, in order of name.
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn list(&mut self) -> Result<Vec<PortState>, PortsError> {
        todo!()
    }

    /// Removes the classes of ports whose taps are gone; how many.
    ///
    /// # Errors
    /// When the kernel cannot be asked or refuses.
    pub fn repair(&mut self) -> Result<usize, PortsError> {
        todo!()
    }

    /// Removes the bridge and its blocks. Taps stay with those who hold them, without a bridge.
    ///
    /// # Errors
    /// When the kernel refuses. What is gone is no error.
    pub fn delete(self) -> Result<(), PortsError> {
        todo!()
    }
}

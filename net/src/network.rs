//! The network of this host: what is promised of its links, and the kernel's queues that keep it.

use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::admission::Wanted;
use crate::mac::Mac;
use crate::plan::NetworkPlan;
use crate::share::Share;
use crate::tap::Tap;

/// A port that a VM asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortRequest {
    /// The VM, unique on the host.
    pub vm: String,
    /// The one address that it may send from.
    pub mac: Mac,
    /// What it gets, in each direction.
    pub share: Share,
    /// The longest packet it is told; not above the bridge's.
    pub mtu: u16,
}

/// Why the network could not be used or changed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {}

/// The network of this host. Cloning shares the open files and sockets.
#[derive(Clone, Debug)]
pub struct Network {
    _inner: Arc<Mutex<()>>,
}

/// A VM's port. Dropping it takes the port, its classes and its entry away.
#[derive(Debug)]
#[must_use = "dropping it takes the port away"]
pub struct Port {
    /// Its interface on the host.
    pub name: String,
    /// Where its frames are read and written.
    pub tap: Tap,
    _network: Network,
}

impl Network {
    /// The network that was applied with this run directory; what crashed VMs left of it is cleared away.
    ///
    /// # Errors
    /// When none was applied (`chronovisor net apply FILE` does), or the files or the kernel's queues cannot be used.
    pub fn open(_run_dir: &Path) -> Result<Self, NetworkError> {
        todo!()
    }

    /// Puts a plan in force, in place of the one that is, all of it or nothing.
    ///
    /// # Errors
    /// When it does not fit, or the kernel or a router refuses.
    pub fn apply(_run_dir: &Path, _plan: &NetworkPlan) -> Result<Self, NetworkError> {
        todo!()
    }

    /// Removes everything that was applied with this run directory, and nothing else.
    ///
    /// # Errors
    /// When VMs have ports, or the kernel or a router refuses.
    pub fn clear(_run_dir: &Path) -> Result<(), NetworkError> {
        todo!()
    }

    /// The plan in force: for the bridge's capacity and MTU, say.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn plan(&self) -> Result<NetworkPlan, NetworkError> {
        todo!()
    }

    /// Whether `vm` would get a port with this share. Changes nothing.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub fn admit(&self, _request: &PortRequest) -> Result<(), NetworkError> {
        todo!()
    }

    /// Admits a VM, and makes its port.
    ///
    /// # Errors
    /// When its name or address is taken, its share does not fit, or the kernel refuses.
    pub fn attach(&self, _request: &PortRequest) -> Result<Port, NetworkError> {
        todo!()
    }

    /// Changes shares of VMs and VTMs, all or none, wherever they hold.
    ///
    /// # Errors
    /// When one does not fit, or the kernel or a router refuses.
    pub fn adapt(&self, _changes: &[Wanted]) -> Result<(), NetworkError> {
        todo!()
    }
}

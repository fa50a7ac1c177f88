//! The ports of VMs: admitted, made, and taken away with what holds them.

use crate::book::PortEntry;
use crate::mac::Mac;
use crate::passage::{Passage, PassageError};
use crate::plan::PlanError;
use crate::ports::{PortSpec, Ports, PortsError};
use crate::process::Process;
use crate::share::Share;
use crate::tap::Tap;

use super::{Denied, Network, NetworkError, Session};

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

/// A VM's port. Dropping it takes the port, its classes and its entry away.
#[derive(Debug)]
#[must_use = "dropping it takes the port away"]
pub struct Port {
    /// Its interface on the host.
    pub name: String,
    /// Where its frames are read and written.
    pub tap: Tap,
    mac: Mac,
    network: Network,
}

impl Port {
    /// What it takes to have its guest come or go.
    ///
    /// # Errors
    /// [`PassageError`].
    pub fn passage(&self) -> Result<Passage, PassageError> {
        Passage::of(&self.name, self.mac)
    }
}

impl Network {
    /// Whether `request` would get a port. Changes nothing.
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub fn admit(&self, request: &PortRequest) -> Result<(), NetworkError> {
        self.with(|session| session.admit(request))
    }

    /// Admits a VM and makes its port, in the calling thread's network namespace.
    ///
    /// # Errors
    /// When its name or address is taken, its share does not fit, or the kernel refuses.
    pub fn attach(&self, request: &PortRequest) -> Result<Port, NetworkError> {
        self.attach_by(request, Ports::attach)
    }

    /// The same for a VM that is still elsewhere: its frames do not come here until [`Passage::open`].
    ///
    /// # Errors
    /// As [`Network::attach`].
    pub fn attach_closed(&self, request: &PortRequest) -> Result<Port, NetworkError> {
        self.attach_by(request, Ports::attach_closed)
    }

    fn attach_by(
        &self,
        request: &PortRequest,
        attach: impl FnOnce(&mut Ports, &PortSpec) -> Result<Tap, PortsError>,
    ) -> Result<Port, NetworkError> {
        let tap = self.with(|session| {
            session.admit(request)?;
            session.attach(request, attach)
        })?;
        Ok(Port {
            name: tap.name().to_owned(),
            tap,
            mac: request.mac,
            network: self.clone(),
        })
    }

    /// Takes a port of this process away.
    fn detach(&self, name: &str) -> Result<(), NetworkError> {
        self.with(|session| {
            let is_it = |entry: &PortEntry| entry.port == name;
            if !session.book.ports.iter().any(is_it) {
                return Ok(());
            }
            session.locked.begin()?;
            let detached = session
                .queues
                .ports(&session.book)
                .map(|ports| ports.detach(name));
            session.book.ports.retain(|entry| !is_it(entry));
            session.write()?;
            session.settle()?;
            Ok(detached??)
        })
    }
}

impl Session<'_> {
    fn admit(&mut self, request: &PortRequest) -> Result<(), NetworkError> {
        let PortRequest {
            vm,
            mac,
            share,
            mtu,
        } = request;
        share.check().map_err(|source| PlanError::Share {
            key: "network".to_owned(),
            source,
        })?;
        let bridge = self.book.plan.bridge.as_ref().ok_or(Denied::NoBridge)?;
        if *mtu > bridge.mtu {
            let denied = Denied::Mtu {
                vm: vm.clone(),
                mtu: *mtu,
                most: bridge.mtu,
            };
            return Err(denied.into());
        }
        self.decide(|book| book.admit_port(vm, *mac, share))
    }

    fn attach(
        &mut self,
        request: &PortRequest,
        attach: impl FnOnce(&mut Ports, &PortSpec) -> Result<Tap, PortsError>,
    ) -> Result<Tap, NetworkError> {
        let spec = PortSpec {
            mac: request.mac,
            share: request.share,
        };
        self.locked.begin()?;
        let ports = self.queues.ports(&self.book);
        let attached = ports.and_then(|ports| Ok(attach(ports, &spec)?));
        if let Ok(tap) = &attached {
            self.book.ports.push(PortEntry {
                vm: request.vm.clone(),
                port: tap.name().to_owned(),
                mac: request.mac,
                share: request.share,
                process: Process::current(),
            });
            self.write()?;
        }
        self.settle()?;
        attached
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        if let Err(error) = self.network.detach(&self.name) {
            // The next process to open the network finds the tap gone and drops the rest.
            tracing::warn!(port = self.name, %error, "the port's classes and entry stay");
        }
    }
}

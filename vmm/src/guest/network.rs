//! The guest's network device as its owner sees it: port, thread, counters.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use net::mac::Mac;
use net::share::Share;
use net::{Network, NetworkError, Port, PortRequest};
use sched::backend::{BackendError, InForce};
use sched::request::Granted;
use serde::{Deserialize, Serialize};

use super::running::RunningVm;
use crate::device::virtio::Fault;
use crate::device::virtio::net::{Card, Identity, NetworkCounters, Offloads, Wire, Worker};
use crate::spec::NetworkPlan;

/// A network device: what it was granted, what it carried.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// Its interface on the host.
    pub port: String,
    /// Its address.
    pub mac: Mac,
    /// What it was admitted with; it may have been changed since (`chronovisor net status`).
    pub share: Share,
    /// Thread id of its thread.
    pub tid: i32,
    /// What its thread was admitted with.
    pub granted: Granted,
    /// What the kernel has in force for its thread, read back; text where that failed.
    pub in_force: Result<InForce, String>,
    /// Whether it stands still until the guest resets it.
    pub needs_reset: bool,
    /// What for; not known where the guest was saved so.
    pub fault: Option<Fault>,
    /// What passed, waited and was lost.
    pub counters: NetworkCounters,
    /// Frames that came while the guest was moved away from here, and were sent after it.
    #[serde(default)]
    pub passed_on_in_move: u64,
    /// Frames that came while the guest was moved here or away, and were lost: the tap had no room for them, or the kernel did not send
    /// them on.
    #[serde(default)]
    pub lost_in_move: u64,
}

/// How a port is attached.
pub(super) type Attach = fn(&Network, &PortRequest) -> Result<Port, NetworkError>;

/// The port that a plan asks for, admitted.
pub(super) fn attach(
    run_dir: &Path,
    plan: Option<&NetworkPlan>,
    attach: Attach,
) -> Result<Option<Arc<Port>>, NetworkError> {
    let Some(plan) = plan else {
        return Ok(None);
    };
    let port = attach(&Network::open(run_dir)?, &plan.port)?;
    Ok(Some(Arc::new(port)))
}

/// The device upon a port.
pub(super) fn card(plan: &NetworkPlan, port: &Arc<Port>) -> Card {
    Card {
        identity: Identity {
            mac: plan.port.mac.octets(),
            mtu: plan.port.mtu,
        },
        wire: Box::new(PortWire(Arc::clone(port))),
    }
}

/// The port belongs to the device as long as that lives.
struct PortWire(Arc<Port>);

impl Wire for PortWire {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.tap.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Wire::set_offloads(&self.0.tap, offloads)
    }
}

/// Why the device's thread has not what it was promised. A setting that cannot be read at the moment proves nothing.
pub(super) fn broken(worker: &Worker) -> Option<BackendError> {
    let error = worker.in_force().err()?;
    let is_broken = match error {
        BackendError::Displaced { .. } => true,
        BackendError::NotInForce { .. } | BackendError::GroupNotInForce { .. } => {
            worker.granted().request.reservation.is_some()
        }
        _ => false,
    };
    is_broken.then_some(error)
}

impl RunningVm {
    pub(super) fn network_status(&self) -> Option<NetworkStatus> {
        let (worker, port) = self.network.as_ref().zip(self.port.as_ref())?;
        let plan = self.plan.network.as_ref()?;
        Some(NetworkStatus {
            port: port.name.clone(),
            mac: plan.port.mac,
            share: plan.port.share,
            tid: worker.tid().0,
            granted: worker.granted().clone(),
            in_force: match worker.in_force() {
                Ok(Some(in_force)) => Ok(in_force),
                Ok(None) => Err("not started".to_owned()),
                Err(error) => Err(error.to_string()),
            },
            needs_reset: worker.desk().notifier().needs_reset(),
            fault: worker.desk().notifier().fault(),
            counters: worker.desk().counters(),
            passed_on_in_move: self.late().passed_on,
            lost_in_move: self.late().lost,
        })
    }

    /// Says once what the network device was stopped for.
    pub(super) fn say_network_fault(&self) {
        let Some((worker, port)) = self.network.as_ref().zip(self.port.as_ref()) else {
            return;
        };
        let (vm, port) = (self.name(), &port.name);
        match worker.desk().notifier().take_fault() {
            None => {}
            Some(Fault::Gone) => tracing::error!(
                "{vm}: its network device has stopped, because its interface {port} is gone; a new start of {vm} makes it anew"
            ),
            Some(fault) => tracing::warn!(
                "{vm}: its network device at {port} stands still until the guest resets it: {fault}"
            ),
        }
    }
}

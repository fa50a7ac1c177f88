//! Shares of the network for VTMs (`network_reserve` and `network_adapt` of Duran-Limon et al.): of this host's uplink, and
//! of the routers that its plan names.

use std::path::{Path, PathBuf};

use net::network::{Denied, NetworkError, StateError};
use net::plan::{SharePlan, Traffic};
use net::share::{Share, ShareError};
use net::{Network, plan};

use super::command::{Bandwidth, NetworkShare, ShareOfNetwork};

/// A share of the network was not to be had. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum ShareOfNetworkError {
    /// The network's own answer.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// Rates that are no share.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Nobody said where the network's state is.
    #[error(
        "network shares are not configured: give the machine a run directory in which `chronovisor net apply FILE` was done"
    )]
    NotConfigured,
    /// Whose packets?
    #[error(
        "whose packets are '{vtm}' to have the share for? Name one of: the addresses of hosts that they go to, --uid, --cgroup"
    )]
    NoTraffic {
        /// The VTM.
        vtm: String,
    },
    /// Packets of several kinds.
    #[error("'{vtm}' names more than one of targets, uid and cgroup: a share is for one of them")]
    Several {
        /// The VTM.
        vtm: String,
    },
}

/// What was reserved by commands, given up on drop.
#[derive(Debug, Default)]
pub(super) struct NetworkShares {
    run_dir: Option<PathBuf>,
    /// Opened when it is first needed: VTMs need no network.
    network: Option<Network>,
    reserved: Vec<String>,
}

impl NetworkShares {
    /// Those of the network that was applied with this run directory.
    pub(super) fn of(run_dir: &Path) -> Self {
        Self {
            run_dir: Some(run_dir.to_owned()),
            network: None,
            reserved: Vec::new(),
        }
    }

    fn network(&mut self) -> Result<&Network, ShareOfNetworkError> {
        let network = match (self.network.take(), &self.run_dir) {
            (Some(network), _) => network,
            (None, Some(run_dir)) => Network::open(run_dir)?,
            (None, None) => return Err(ShareOfNetworkError::NotConfigured),
        };
        Ok(self.network.insert(network))
    }

    /// Reserves for a VTM.
    pub(super) fn reserve(
        &mut self,
        wanted: &NetworkShare,
    ) -> Result<ShareOfNetwork, ShareOfNetworkError> {
        let traffic = traffic(wanted)?;
        let network = self.network()?;
        let widest = plan::NetworkPlan::widest(&network.plan()?);
        let usual = widest.map_or(wanted.bandwidth, |widest| widest.max(wanted.bandwidth));
        let ceil = wanted.ceil.unwrap_or(usual);
        let share = Share::new(wanted.bandwidth, ceil, wanted.priority)?;
        let vtm = wanted.vtm.clone();
        network.reserve(&SharePlan {
            name: vtm.clone(),
            share,
            traffic,
        })?;
        self.reserved.push(vtm.clone());
        Ok(ShareOfNetwork { vtm, share })
    }

    /// Changes what several are assured, all or none.
    pub(super) fn adapt(
        &mut self,
        changes: &[Bandwidth],
    ) -> Result<Vec<ShareOfNetwork>, ShareOfNetworkError> {
        let changes = changes.iter();
        let changes = changes.map(|change| (change.vtm.clone(), change.bandwidth));
        let changes: Vec<_> = changes.collect();
        let adapted = self.network()?.adapt_assured(&changes)?.into_iter();
        let adapted = adapted.map(|one| ShareOfNetwork {
            vtm: one.name,
            share: one.share,
        });
        Ok(adapted.collect())
    }

    /// Gives up what was reserved for a VTM, if anything was.
    pub(super) fn release(&mut self, vtm: &str) -> Result<(), ShareOfNetworkError> {
        let Some(at) = self.reserved.iter().position(|name| name == vtm) else {
            return Ok(());
        };
        match self.network()?.release(vtm) {
            // The network was cleared meanwhile, and the share with it; another may have the name by now.
            Err(
                NetworkError::State(StateError::NotApplied { .. })
                | NetworkError::Denied(Denied::NoShare { .. } | Denied::NotReserved { .. }),
            ) => {}
            released => released?,
        }
        self.reserved.remove(at);
        Ok(())
    }
}

impl Drop for NetworkShares {
    fn drop(&mut self) {
        for vtm in self.reserved.clone() {
            if let Err(error) = self.release(&vtm) {
                // Whoever opens the network next finds this process dead and gives it up.
                tracing::warn!(vtm, %error, "its share of the network stays");
            }
        }
    }
}

fn traffic(wanted: &NetworkShare) -> Result<Traffic, ShareOfNetworkError> {
    let vtm = || wanted.vtm.clone();
    let hosts = wanted.targets.clone();
    let given = [
        (!hosts.is_empty()).then_some(Traffic::Destinations(hosts)),
        wanted.uid.map(Traffic::Uid),
        wanted.cgroup.clone().map(Traffic::Cgroup),
    ];
    let mut given = given.into_iter().flatten();
    let traffic = given.next();
    if given.next().is_some() {
        return Err(ShareOfNetworkError::Several { vtm: vtm() });
    }
    traffic.ok_or_else(|| ShareOfNetworkError::NoTraffic { vtm: vtm() })
}

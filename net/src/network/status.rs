//! How everything stands: what is promised, and what the kernel has counted.

use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::admission::Link;
use crate::book::{Book, ShareEntry, migration_class};
use crate::cgroup;
use crate::class::{ClassId, Counters};
use crate::mac::Mac;
use crate::plan::Traffic;
use crate::ports::{PortCounters, PortState};
use crate::share::Share;

use super::{Network, NetworkError, Session};

/// How a host's network stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The VMs.
    pub bridge: Option<BridgeStatus>,
    /// Each interface towards other hosts.
    pub uplink: Vec<UplinkStatus>,
    /// The routers that are asked.
    pub routers: Vec<RouterStatus>,
    /// Which hosts' packets are marked, where this is an edge router: share, mark, how many hosts.
    pub marks: Vec<(String, u8, usize)>,
}

/// How a bridge stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgeStatus {
    /// What may be promised.
    pub link: Link,
    /// What is left of that.
    pub left: BitRate,
    /// The ports.
    pub ports: Vec<PortStatus>,
}

/// How a VM's port stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStatus {
    /// The VM.
    pub vm: String,
    /// Its interface on the host.
    pub port: String,
    /// The one address it may send from.
    pub mac: Mac,
    /// The process that holds it.
    pub pid: u32,
    /// What it has, in each direction.
    pub share: Share,
    /// What it has carried and lost.
    pub counters: PortCounters,
}

/// How an interface of the uplink stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// The interface.
    pub interface: String,
    /// What may be promised.
    pub link: Link,
    /// What is left of that.
    pub left: BitRate,
    /// The shares.
    pub shares: Vec<ShareStatus>,
    /// What migrations had, if there is a class for them.
    pub migration: Option<Counters>,
    /// What was nobody's share.
    pub others: Counters,
}

/// How a VTM's share stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShareStatus {
    /// Its name.
    pub name: String,
    /// What it has.
    pub share: Share,
    /// Of which packets.
    pub traffic: Traffic,
    /// The process that reserved it, if it is not the plan's.
    pub owner: Option<u32>,
    /// What it has carried and lost.
    pub counters: Counters,
    /// Why it carries nothing, if its control group is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<String>,
}

/// How a router stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Its name.
    pub name: String,
    /// How it stands, or why it cannot be asked.
    pub status: Result<NetworkStatus, String>,
}

impl Network {
    /// How everything stands, on the routers too. Nobody else waits for those.
    ///
    /// # Errors
    /// When the kernel cannot be asked. A router that cannot is in the answer.
    pub fn status(&self) -> Result<NetworkStatus, NetworkError> {
        let (mut status, book, mut routers) = self.with(|session| {
            session.tidy()?;
            let status = NetworkStatus {
                bridge: session.bridge()?,
                uplink: session.uplink()?,
                routers: Vec::new(),
                marks: marks(&session.book),
            };
            let routers = session.queues.lend_routers(&session.book);
            Ok((status, session.book.clone(), routers))
        })?;
        status.routers = routers.status(&book);
        let unused = self.inner().queues.take_routers(book.applied, routers);
        drop(unused);
        Ok(status)
    }
}

impl Session<'_> {
    fn bridge(&mut self) -> Result<Option<BridgeStatus>, NetworkError> {
        let Some(bridge) = &self.book.plan.bridge else {
            return Ok(None);
        };
        let link = bridge.link();
        let states = self.queues.ports(&self.book)?.list()?;
        let status = |state: PortState| {
            let mut entries = self.book.ports.iter();
            let entry = entries.find(|entry| entry.port == state.name)?;
            Some(PortStatus {
                vm: entry.vm.clone(),
                port: state.name,
                mac: entry.mac,
                pid: entry.process.pid,
                share: entry.share,
                counters: state.counters,
            })
        };
        Ok(Some(BridgeStatus {
            left: link.left(self.book.ports.iter().map(|entry| &entry.share)),
            link,
            ports: states.into_iter().filter_map(status).collect(),
        }))
    }

    fn uplink(&mut self) -> Result<Vec<UplinkStatus>, NetworkError> {
        let Some(uplink) = &self.book.plan.uplink else {
            return Ok(Vec::new());
        };
        let link = uplink.link();
        let has_migration = uplink.migration.is_some();
        let left = link.left(self.book.shares.iter().map(|entry| &entry.plan.share));
        let mut all = Vec::new();
        for tree in self.queues.uplink(&self.book)? {
            let classes = tree.classes()?;
            let counters = |class: ClassId| {
                let found = classes.get(&class);
                found.map_or(Counters::default(), |(_, counters)| *counters)
            };
            let status = |entry: &ShareEntry| ShareStatus {
                name: entry.plan.name.clone(),
                share: entry.plan.share,
                traffic: entry.plan.traffic.clone(),
                owner: entry.owner.map(|owner| owner.pid),
                counters: counters(entry.class),
                gone: gone(&entry.plan.traffic),
            };
            let migration = migration_class().filter(|_| has_migration);
            all.push(UplinkStatus {
                interface: tree.interface().to_owned(),
                link: link.clone(),
                left,
                shares: self.book.shares.iter().map(status).collect(),
                migration: migration.map(counters),
                others: counters(ClassId::DEFAULT),
            });
        }
        Ok(all)
    }
}

fn gone(traffic: &Traffic) -> Option<String> {
    let Traffic::Cgroup(path) = traffic else {
        return None;
    };
    cgroup::find(path).err().map(|error| error.to_string())
}

fn marks(book: &Book) -> Vec<(String, u8, usize)> {
    let marks = book.plan.marking.iter().flat_map(|marking| &marking.marks);
    marks
        .map(|mark| (mark.share.clone(), mark.dscp, mark.hosts.len()))
        .collect()
}

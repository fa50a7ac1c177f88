//! What is promised of this host's links, and the decisions about it. Pure: no kernel, no files.

mod denied;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::admission::Wanted;
use crate::class::ClassId;
use crate::mac::Mac;
use crate::marks::{Marks, Whose};
use crate::owner::Asker;
use crate::plan::{
    Mark, MarkingPlan, NetworkPlan, Role, RouterPlan, SharePlan, Traffic, UplinkPlan,
};
use crate::process::Process;
use crate::share::{Priority, Share};
use crate::tree::{Match, NewClass};

pub use denied::Denied;

/// The class of migrations on the uplink: its minor number.
const MIGRATION: u16 = ClassId::FIRST;
/// Marks in the order in which they are given: first those for local use (xxxx11, RFC 2474 section 6), then all others.
const DSCPS: std::ops::RangeInclusive<u8> = 1..=63;

/// Everything that is promised.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Book {
    /// When it was applied, in nanoseconds: tells one network from another of the same plan.
    pub(crate) applied: u64,
    /// What was applied.
    pub(crate) plan: NetworkPlan,
    /// What is being put in force, or could neither be put in force nor taken back: something of it may be there.
    pub(crate) pending: Option<Box<Book>>,
    /// Who asked for it, where this is a router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) asker: Option<Asker>,
    /// The ports of VMs.
    pub(crate) ports: Vec<PortEntry>,
    /// The shares of VTMs.
    pub(crate) shares: Vec<ShareEntry>,
}

/// A VM's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PortEntry {
    /// The VM.
    pub(crate) vm: String,
    /// The tap.
    pub(crate) port: String,
    /// The one address that it may send from.
    pub(crate) mac: Mac,
    /// What it has, in each direction.
    pub(crate) share: Share,
    /// Who holds it.
    pub(crate) process: Process,
}

/// A VTM's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShareEntry {
    /// What and whose.
    pub(crate) plan: SharePlan,
    /// Its class on the uplink.
    pub(crate) class: ClassId,
    /// Its mark on the routers.
    pub(crate) dscp: Option<u8>,
    /// Who reserved it, if it is not the plan's.
    pub(crate) owner: Option<Process>,
}

impl Book {
    /// Whether something is in force. What is left of something that was may be pending all the same.
    pub(crate) fn is_applied(&self) -> bool {
        self.applied != 0
    }

    /// This one, and what may be there of others.
    pub(crate) fn all(&self) -> Vec<&Self> {
        std::iter::successors(Some(self), |book| book.pending.as_deref()).collect()
    }

    /// What routers may have of it: nothing of this host, where others may have come to use the same names.
    pub(crate) fn on_routers(&self) -> Self {
        Self {
            plan: NetworkPlan {
                routers: self.plan.routers.clone(),
                ..NetworkPlan::default()
            },
            applied: self.applied,
            pending: self
                .pending
                .as_deref()
                .map(|book| Box::new(book.on_routers())),
            ..Self::default()
        }
    }

    /// Whether another has different shares, not counting those of VMs.
    pub(crate) fn has_other_shares(&self, other: &Self) -> bool {
        self.shares != other.shares
    }

    /// Whether `vm` may have a port.
    pub(crate) fn admit_port(&self, vm: &str, mac: Mac, share: &Share) -> Result<(), Denied> {
        if self.names().any(|name| name == vm) {
            let name = vm.to_owned();
            return Err(Denied::NameTaken { name });
        }
        if let Some(other) = self.ports.iter().find(|port| port.mac == mac) {
            return Err(Denied::MacTaken {
                mac,
                vm: other.vm.clone(),
                name: vm.to_owned(),
            });
        }
        self.admit_on_bridge(&[Wanted::new(vm, *share)])
    }

    /// Whether these fit beside the other ports.
    fn admit_on_bridge(&self, wanted: &[Wanted]) -> Result<(), Denied> {
        let bridge = self.plan.bridge.as_ref().ok_or(Denied::NoBridge)?;
        let held = self.ports.iter();
        let held: Vec<_> = held.map(|port| Wanted::new(&port.vm, port.share)).collect();
        Ok(bridge.link().admit(&held, wanted)?)
    }

    /// Whether these fit beside the other shares, on the uplink and on the routers that have queues for them.
    fn admit_on_uplink(&self, wanted: &[Wanted]) -> Result<(), Denied> {
        let held: Vec<_> = self.shares.iter().map(ShareEntry::wanted).collect();
        if let Some(uplink) = &self.plan.uplink {
            uplink.link().admit(&held, wanted)?;
        }
        let is_routed = |name: &str| {
            let entry = self.shares.iter().find(|entry| entry.plan.name == name);
            entry.is_some_and(|entry| entry.plan.is_known_to_routers())
        };
        let routed = |all: &[Wanted]| -> Vec<Wanted> {
            let all = all.iter().filter(|one| is_routed(&one.name));
            all.cloned().collect()
        };
        let (held, wanted) = (routed(&held), routed(wanted));
        for router in &self.plan.routers {
            if let Role::Core(core) = &router.role {
                let mut link = core.link();
                link.name = format!("router {:?}", router.name);
                link.admit(&held, &wanted)?;
            }
        }
        Ok(())
    }

    /// The book with these shares in place of what the names have.
    pub(crate) fn adapted(&self, changes: &[Wanted]) -> Result<Self, Denied> {
        for (index, change) in changes.iter().enumerate() {
            let name = change.name.clone();
            if changes[..index].iter().any(|other| other.name == name) {
                return Err(Denied::NamedTwice { name });
            }
            if !self.names().any(|known| known == name) {
                let known = self.names().map(str::to_owned).collect();
                return Err(Denied::NoShare { name, known });
            }
        }
        let is_port = |change: &&Wanted| self.ports.iter().any(|port| port.vm == change.name);
        let (ports, shares): (Vec<_>, Vec<_>) = changes.iter().cloned().partition(|c| is_port(&c));
        if !ports.is_empty() {
            self.admit_on_bridge(&ports)?;
        }
        if !shares.is_empty() {
            self.admit_on_uplink(&shares)?;
        }
        let mut after = self.clone();
        for change in changes {
            after.set(change);
        }
        Ok(after)
    }

    fn set(&mut self, change: &Wanted) {
        let ports = self.ports.iter_mut();
        let ports = ports.filter(|port| port.vm == change.name);
        ports.for_each(|port| port.share = change.share);
        let shares = self.shares.iter_mut();
        let shares = shares.filter(|entry| entry.plan.name == change.name);
        shares.for_each(|entry| entry.plan.share = change.share);
    }

    /// The book with one more share.
    pub(crate) fn reserved(&self, plan: &SharePlan, owner: Process) -> Result<Self, Denied> {
        let mut after = self.clone();
        after.add(plan.clone(), Some(owner), &self.shares)?;
        let wanted = Wanted::new(&plan.name, plan.share);
        // Held by nobody yet, but known by its kind.
        let mut before = after.clone();
        before.set(&Wanted::new(
            &plan.name,
            Share {
                assured: BitRate::new(0),
                ..plan.share
            },
        ));
        before.admit_on_uplink(&[wanted])?;
        Ok(after)
    }

    /// The book for another plan: its shares, and those that were reserved beside the plan's.
    pub(crate) fn applied(&self, plan: &NetworkPlan, now: u64) -> Result<Self, Denied> {
        let mut after = Self {
            applied: now,
            plan: plan.clone(),
            ports: self.ports.clone(),
            ..Self::default()
        };
        self.keeps_ports(plan)?;
        let plans = plan.shares.iter().map(|share| (share.clone(), None));
        let reserved = self.shares.iter().filter(|entry| entry.owner.is_some());
        let reserved = reserved.map(|entry| (entry.plan.clone(), entry.owner));
        for (share, owner) in plans.chain(reserved) {
            after.add(share, owner, &self.shares)?;
        }
        let all: Vec<_> = after.shares.iter().map(ShareEntry::wanted).collect();
        after.admit_on_uplink(&all)?;
        if !after.ports.is_empty() {
            let all = after.ports.iter();
            let all: Vec<_> = all.map(|port| Wanted::new(&port.vm, port.share)).collect();
            after.admit_on_bridge(&all)?;
        }
        Ok(after)
    }

    /// Ports stay only on a bridge that stays.
    fn keeps_ports(&self, plan: &NetworkPlan) -> Result<(), Denied> {
        let (Some(port), Some(old)) = (self.ports.first(), &self.plan.bridge) else {
            return Ok(());
        };
        let stays = |new: &crate::plan::BridgePlan| {
            new.name == old.name && new.mtu == old.mtu && new.address == old.address
        };
        if plan.bridge.as_ref().is_some_and(stays) {
            return Ok(());
        }
        Err(Denied::Attached {
            vm: port.vm.clone(),
            bridge: old.name.clone(),
        })
    }

    /// Enters a share with a class and, if routers can tell it, a mark: those that it has in `before`, for counters go with
    /// them, or new ones, which nothing in `before` has. Whether it fits is not asked.
    fn add(
        &mut self,
        plan: SharePlan,
        owner: Option<Process>,
        before: &[ShareEntry],
    ) -> Result<(), Denied> {
        let name = plan.name.clone();
        if self.names().any(|known| known == name) {
            return Err(Denied::NameTaken { name });
        }
        let is_routed = !self.plan.routers.is_empty() && plan.is_known_to_routers();
        if self.plan.uplink.is_none() && !is_routed {
            return Err(Denied::NoUplink { name });
        }
        self.has_free(&plan)?;
        let stays =
            |entry: &&ShareEntry| entry.plan.name == name && entry.plan.traffic == plan.traffic;
        let known = before.iter().find(stays);
        let class = match known {
            Some(known) => known.class,
            None => self.free_class(before)?,
        };
        let dscp = match known.and_then(|known| known.dscp) {
            _ if !is_routed => None,
            Some(dscp) => Some(dscp),
            None => Some(self.free_dscp(before)?),
        };
        self.shares.push(ShareEntry {
            plan,
            class,
            dscp,
            owner,
        });
        Ok(())
    }

    /// Whether no other share has its packets.
    fn has_free(&self, plan: &SharePlan) -> Result<(), Denied> {
        for packets in plan.traffic.kinds() {
            let mut others = self.shares.iter();
            let other = others.find(|other| other.plan.traffic.kinds().contains(&packets));
            if let Some(other) = other {
                return Err(Denied::PacketsTaken {
                    packets,
                    other: other.plan.name.clone(),
                    name: plan.name.clone(),
                });
            }
        }
        Ok(())
    }

    fn free_class(&self, before: &[ShareEntry]) -> Result<ClassId, Denied> {
        let all = self.shares.iter().chain(before);
        let used: BTreeSet<_> = all.map(|entry| entry.class.minor()).collect();
        let mut minors = MIGRATION + 1..=u16::MAX;
        let free = minors.find(|minor| !used.contains(minor));
        let most = used.len();
        free.and_then(ClassId::new).ok_or(Denied::TooMany { most })
    }

    fn free_dscp(&self, before: &[ShareEntry]) -> Result<u8, Denied> {
        let all = self.shares.iter().chain(before);
        let used: BTreeSet<_> = all.filter_map(|entry| entry.dscp).collect();
        let local = DSCPS.filter(|dscp| dscp & 0b11 == 0b11);
        let others = DSCPS.filter(|dscp| dscp & 0b11 != 0b11);
        let most = used.len();
        let mut all = local.chain(others);
        all.find(|dscp| !used.contains(dscp))
            .ok_or(Denied::TooMany { most })
    }

    /// Everybody who has a share.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let ports = self.ports.iter().map(|port| port.vm.as_str());
        let shares = self.shares.iter().map(|entry| entry.plan.name.as_str());
        ports.chain(shares)
    }

    /// The share of a VM or VTM.
    pub(crate) fn share_of(&self, name: &str) -> Result<Share, Denied> {
        let port = self.ports.iter().find(|port| port.vm == name);
        let entry = self.shares.iter().find(|entry| entry.plan.name == name);
        let share = port.map(|port| port.share);
        let share = share.or(entry.map(|entry| entry.plan.share));
        share.ok_or_else(|| Denied::NoShare {
            name: name.to_owned(),
            known: self.names().map(str::to_owned).collect(),
        })
    }

    /// The classes that each interface of the uplink is to have beside the tree's own.
    pub(crate) fn classes(&self, uplink: &UplinkPlan) -> Vec<NewClass> {
        let migration = uplink.migration.and_then(|assured| {
            Some(NewClass {
                id: ClassId::new(MIGRATION)?,
                share: Share {
                    assured,
                    ceil: uplink.capacity,
                    priority: Priority::BestEffort,
                },
                matches: vec![Match::Marked],
            })
        });
        let shares = self.shares.iter().map(ShareEntry::class);
        migration.into_iter().chain(shares).collect()
    }

    /// The book of nothing, unless VMs have ports.
    pub(crate) fn cleared(&self) -> Result<Self, Denied> {
        match (self.ports.first(), &self.plan.bridge) {
            (Some(port), Some(bridge)) => Err(Denied::InUse {
                vm: port.vm.clone(),
                bridge: bridge.name.clone(),
            }),
            _ => Ok(Self::default()),
        }
    }

    /// The book without the share of this name.
    pub(crate) fn released(&self, name: &str) -> Result<Self, Denied> {
        let is_it = |entry: &ShareEntry| entry.plan.name == name;
        if !self.shares.iter().any(is_it) {
            let known = self.shares.iter().map(|entry| entry.plan.name.clone());
            return Err(Denied::NoShare {
                name: name.to_owned(),
                known: known.collect(),
            });
        }
        let mut after = self.clone();
        after.shares.retain(|entry| !is_it(entry));
        Ok(after)
    }

    /// What is to be marked on this host.
    pub(crate) fn marks(&self) -> Marks {
        let whose = |entry: &ShareEntry| match &entry.plan.traffic {
            Traffic::Uid(uid) => Some((Whose::Uid(*uid), entry.class)),
            Traffic::Cgroup(path) => Some((Whose::Cgroup(path.clone()), entry.class)),
            Traffic::Destinations(_) | Traffic::Dscp(_) => None,
        };
        let uplink = self.plan.uplink.as_ref();
        Marks {
            uplink: uplink.map_or(Vec::new(), |uplink| uplink.interfaces.clone()),
            classes: self.shares.iter().filter_map(whose).collect(),
            marking: self.plan.marking.clone(),
        }
    }

    /// What `router` is to apply.
    pub(crate) fn plan_of(&self, router: &RouterPlan) -> NetworkPlan {
        let routed = self
            .shares
            .iter()
            .filter_map(|entry| Some((entry.dscp?, &entry.plan)));
        match &router.role {
            Role::Core(core) => NetworkPlan {
                uplink: Some(core.clone()),
                shares: routed
                    .map(|(dscp, plan)| SharePlan {
                        traffic: Traffic::Dscp(dscp),
                        ..plan.clone()
                    })
                    .collect(),
                ..NetworkPlan::default()
            },
            Role::Edge { interfaces } => NetworkPlan {
                marking: Some(MarkingPlan {
                    interfaces: interfaces.clone(),
                    marks: routed.filter_map(mark).collect(),
                }),
                ..NetworkPlan::default()
            },
        }
    }

    /// The shares that routers know.
    pub(crate) fn routed(&self) -> impl Iterator<Item = &ShareEntry> {
        self.shares.iter().filter(|entry| entry.dscp.is_some())
    }
}

/// The class of migrations on the uplink.
pub(crate) fn migration_class() -> Option<ClassId> {
    ClassId::new(MIGRATION)
}

fn mark((dscp, plan): (u8, &SharePlan)) -> Option<Mark> {
    let Traffic::Destinations(hosts) = &plan.traffic else {
        return None;
    };
    Some(Mark {
        share: plan.name.clone(),
        dscp,
        hosts: hosts.clone(),
    })
}

impl ShareEntry {
    fn wanted(&self) -> Wanted {
        Wanted::new(&self.plan.name, self.plan.share)
    }

    fn class(&self) -> NewClass {
        let matches = match &self.plan.traffic {
            Traffic::Uid(_) | Traffic::Cgroup(_) => vec![Match::Marked],
            Traffic::Dscp(dscp) => vec![Match::Dscp(*dscp)],
            Traffic::Destinations(hosts) => {
                let host = |host: &std::net::IpAddr| Match::Destination {
                    network: *host,
                    prefix: if host.is_ipv4() { 32 } else { 128 },
                };
                hosts.iter().map(host).collect()
            }
        };
        NewClass {
            id: self.class,
            share: self.plan.share,
            matches,
        }
    }
}

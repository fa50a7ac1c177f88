//! The network of a host as a user writes it (`network.toml`), and how it becomes a plan.
//!
//! What was written is a sheet; [`NetworkPlan`] is what will be done: units parsed, defaults filled in, ranges and sums
//! checked. An error names the key, the value, and what would fit.

mod check;
mod sheet;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use units::BitRate;

use crate::admission::{Link, Refusal, Wanted};
use crate::share::{Share, ShareError};

/// A plan with comments.
pub const EXAMPLE: &str = include_str!("plan/example.toml");
/// The longest name of an interface (IFNAMSIZ less the final zero, netdevice(7)).
pub const MAX_INTERFACE: usize = 15;
/// The longest name of a share.
pub const MAX_NAME: usize = 48;

/// What is written is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not TOML, a key that does not exist, a value of the wrong kind.
    #[error("{0}")]
    Syntax(Box<toml::de::Error>),
    /// A value out of range.
    #[error("{key} = {value}: {fits}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        fits: String,
    },
    /// A key that is missing.
    #[error("{key} is missing: {fits}")]
    Missing {
        /// The key.
        key: String,
        /// What to write.
        fits: String,
    },
    /// Rates that are no share.
    #[error("{key}: {source}")]
    Share {
        /// The table it stands in.
        key: String,
        /// Why.
        source: ShareError,
    },
    /// Shares that do not fit on their link.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// What is to be done to this host, and to the routers that are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPlan {
    /// Where VMs have their ports.
    pub bridge: Option<BridgePlan>,
    /// The queues towards other hosts.
    pub uplink: Option<UplinkPlan>,
    /// Shares of the uplink, and of the routers' links.
    pub shares: Vec<SharePlan>,
    /// Routers that are asked for the same shares.
    pub routers: Vec<RouterPlan>,
    /// Marks for packets that are forwarded, where this host is an edge router.
    pub marking: Option<MarkingPlan>,
}

/// The bridge of the VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BridgePlan {
    /// Its name.
    pub name: String,
    /// What all VMs together may send, and receive.
    pub capacity: BitRate,
    /// What is never promised.
    pub headroom: BitRate,
    /// For broadcast and multicast of all VMs together.
    pub broadcast: BitRate,
    /// Longest packet.
    pub mtu: u16,
    /// The host's own address there.
    pub address: Option<Cidr>,
}

/// Queues on the way out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UplinkPlan {
    /// The interfaces. Every share holds on each of them.
    pub interfaces: Vec<String>,
    /// What each of them carries.
    pub capacity: BitRate,
    /// What is never promised.
    pub headroom: BitRate,
    /// Assured for migrations.
    pub migration: Option<BitRate>,
}

/// A VTM's share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SharePlan {
    /// Its name.
    pub name: String,
    /// How much.
    pub share: Share,
    /// Of which traffic.
    pub traffic: Traffic,
}

/// Which packets belong to a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// To these hosts.
    Destinations(Vec<IpAddr>),
    /// Of this user's processes.
    Uid(u32),
    /// Of the processes in this control group (version 2), a path below its mount point.
    Cgroup(String),
    /// With this mark (DSCP, RFC 2474).
    Dscp(u8),
}

/// A router that is asked for shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterPlan {
    /// Its name.
    pub name: String,
    /// What it does.
    pub role: Role,
    /// How its agent is started.
    pub command: Vec<String>,
}

/// What a router does for a share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Marks the share's packets, to its destinations and from them.
    Edge {
        /// The interfaces towards the core.
        interfaces: Vec<String>,
    },
    /// Has a queue for every mark.
    Core(UplinkPlan),
}

/// Marks for packets that are forwarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkingPlan {
    /// Packets that leave by these are marked.
    pub interfaces: Vec<String>,
    /// How.
    pub marks: Vec<Mark>,
}

/// A share's mark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The share's name.
    pub share: String,
    /// The mark (DSCP).
    pub dscp: u8,
    /// Packets to these and from these get it.
    pub hosts: Vec<IpAddr>,
}

impl NetworkPlan {
    /// Reads and checks a plan.
    ///
    /// # Errors
    /// The key, its value, and what would fit.
    pub fn parse(text: &str) -> Result<Self, PlanError> {
        sheet::parse(text)
    }

    /// Whether everything is in range, of one name once, and fits on its link. For plans that were not parsed.
    ///
    /// # Errors
    /// As [`NetworkPlan::parse`].
    pub fn check(&self) -> Result<(), PlanError> {
        check::check(self)
    }

    /// What a share may use that says nothing: all of the narrowest link that it goes over.
    #[must_use]
    pub fn widest(&self) -> Option<BitRate> {
        let cores = self.routers.iter().filter_map(|router| match &router.role {
            Role::Core(core) => Some(core.capacity),
            Role::Edge { .. } => None,
        });
        let uplink = self.uplink.as_ref().map(|uplink| uplink.capacity);
        cores.chain(uplink).min()
    }

    /// The shares as admission takes them.
    #[must_use]
    pub fn wanted(&self) -> Vec<Wanted> {
        let wanted = |share: &SharePlan| Wanted::new(share.name.clone(), share.share);
        self.shares.iter().map(wanted).collect()
    }
}

impl SharePlan {
    /// Whether its name, rates and packets can be a share's.
    ///
    /// # Errors
    /// As [`NetworkPlan::parse`].
    pub fn check(&self) -> Result<(), PlanError> {
        check::check_share(self)
    }

    /// Whether routers can tell its packets.
    #[must_use]
    pub fn is_known_to_routers(&self) -> bool {
        matches!(self.traffic, Traffic::Destinations(_))
    }
}

impl Traffic {
    /// Its parts, in words. Two shares cannot have the same one.
    #[must_use]
    pub fn kinds(&self) -> Vec<String> {
        match self {
            Self::Destinations(hosts) => {
                let kind = |host: &IpAddr| format!("destination {host}");
                hosts.iter().map(kind).collect()
            }
            Self::Uid(uid) => vec![format!("uid {uid}")],
            Self::Cgroup(path) => vec![format!("cgroup {path:?}")],
            Self::Dscp(dscp) => vec![format!("dscp {dscp}")],
        }
    }
}

impl BridgePlan {
    /// The bridge as a link: the same in each direction.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            name: self.name.clone(),
            capacity: self.capacity,
            headroom: self.headroom,
            fixed: self.broadcast,
        }
    }
}

impl UplinkPlan {
    /// The interfaces as one link: each carries the same shares.
    #[must_use]
    pub fn link(&self) -> Link {
        Link {
            name: self.interfaces.join(" and "),
            capacity: self.capacity,
            headroom: self.headroom,
            fixed: self.migration.unwrap_or(BitRate::new(0)),
        }
    }
}

/// An address and the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits of the network.
    pub prefix: u8,
}

/// Not the address of a host.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address of a host; write one such as 192.0.2.10 (names are not looked up)")]
pub struct HostError {
    text: String,
}

/// The host that somebody wrote.
///
/// # Errors
/// When it is no address.
pub fn host(text: &str) -> Result<IpAddr, HostError> {
    text.trim().parse().map_err(|_| HostError {
        text: text.to_owned(),
    })
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// Not an address with a prefix.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no address with a prefix; write one such as 10.77.0.1/24")]
pub struct CidrError {
    text: String,
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let read = || {
            let (address, prefix) = text.trim().split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.parse().ok().filter(|&prefix| prefix <= most)?;
            Some(Self { address, prefix })
        };
        read().ok_or_else(|| CidrError {
            text: text.to_owned(),
        })
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

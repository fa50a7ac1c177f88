//! The file as written.

use std::fmt;
use std::net::IpAddr;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use units::BitRate;

use super::{
    BridgePlan, Cidr, NetworkPlan, PlanError, Role, RouterPlan, SharePlan, Traffic, UplinkPlan,
};
use crate::share::{Priority, Share};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sheet {
    bridge: Option<BridgeSheet>,
    uplink: Option<UplinkSheet>,
    #[serde(default, rename = "share")]
    shares: Vec<ShareSheet>,
    #[serde(default, rename = "router")]
    routers: Vec<RouterSheet>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeSheet {
    #[serde(default = "usual_bridge")]
    name: String,
    capacity: BitRate,
    headroom: Option<BitRate>,
    broadcast: Option<BitRate>,
    #[serde(default = "usual_mtu")]
    mtu: u16,
    address: Option<Cidr>,
}

fn usual_bridge() -> String {
    "chronovisor0".to_owned()
}

fn usual_mtu() -> u16 {
    1500
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UplinkSheet {
    interface: Interfaces,
    capacity: BitRate,
    headroom: Option<BitRate>,
    migration: Option<BitRate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShareSheet {
    name: String,
    assured: BitRate,
    ceil: Option<BitRate>,
    #[serde(default)]
    priority: Priority,
    destinations: Option<Vec<Host>>,
    uid: Option<u32>,
    cgroup: Option<String>,
    dscp: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouterSheet {
    name: String,
    role: RoleName,
    interface: Interfaces,
    capacity: Option<BitRate>,
    headroom: Option<BitRate>,
    command: Vec<String>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RoleName {
    Edge,
    Core,
}

/// A host, by its address.
struct Host(IpAddr);

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let host = super::host(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(host))
    }
}

/// One, or a list.
struct Interfaces(Vec<String>);

impl<'de> Deserialize<'de> for Interfaces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;

        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Interfaces;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an interface such as \"eth0\", or a list of them")
            }

            fn visit_str<E>(self, name: &str) -> Result<Interfaces, E> {
                Ok(Interfaces(vec![name.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Interfaces, A::Error> {
                let mut all = Vec::new();
                while let Some(name) = names.next_element()? {
                    all.push(name);
                }
                Ok(Interfaces(all))
            }
        }

        deserializer.deserialize_any(OneOrMore)
    }
}

/// The plan that `text` describes.
pub(super) fn parse(text: &str) -> Result<NetworkPlan, PlanError> {
    let sheet: Sheet = toml::from_str(text).map_err(|e| PlanError::Syntax(Box::new(e)))?;
    let uplink = sheet.uplink.map(UplinkSheet::plan);
    let routers: Vec<_> = sheet.routers.into_iter().map(RouterSheet::plan).collect();
    let routers: Vec<RouterPlan> = routers.into_iter().collect::<Result<_, _>>()?;
    let mut plan = NetworkPlan {
        bridge: sheet.bridge.map(BridgeSheet::plan),
        uplink,
        routers,
        ..NetworkPlan::default()
    };
    let widest = plan.widest();
    let shares = sheet.shares.into_iter().map(|share| share.plan(widest));
    plan.shares = shares.collect::<Result<_, _>>()?;
    plan.check()?;
    Ok(plan)
}

/// A twentieth.
fn usual_headroom(capacity: BitRate) -> BitRate {
    BitRate::new(capacity.bits_per_second() / 20)
}

impl BridgeSheet {
    fn plan(self) -> BridgePlan {
        let usual = BitRate::new(1_000_000.min(self.capacity.bits_per_second() / 100));
        BridgePlan {
            name: self.name,
            capacity: self.capacity,
            headroom: self.headroom.unwrap_or(usual_headroom(self.capacity)),
            broadcast: self.broadcast.unwrap_or(usual),
            mtu: self.mtu,
            address: self.address,
        }
    }
}

impl UplinkSheet {
    fn plan(self) -> UplinkPlan {
        UplinkPlan {
            interfaces: self.interface.0,
            capacity: self.capacity,
            headroom: self.headroom.unwrap_or(usual_headroom(self.capacity)),
            migration: self.migration,
        }
    }
}

impl ShareSheet {
    fn plan(self, widest: Option<BitRate>) -> Result<SharePlan, PlanError> {
        let key = format!("share {:?}", self.name);
        let all = || widest.map_or(self.assured, |widest| widest.max(self.assured));
        let share = Share::new(self.assured, self.ceil.unwrap_or_else(all), self.priority);
        let share = share.map_err(|source| PlanError::Share {
            key: key.clone(),
            source,
        })?;
        let given = [
            self.destinations
                .map(|hosts| Traffic::Destinations(hosts.iter().map(|host| host.0).collect())),
            self.uid.map(Traffic::Uid),
            self.cgroup.map(Traffic::Cgroup),
            self.dscp.map(Traffic::Dscp),
        ];
        let mut given = given.into_iter().flatten();
        let fits = "say whose packets it is for by exactly one of destinations, uid, cgroup, dscp";
        let missing = || PlanError::Missing {
            key: format!("{key}: destinations"),
            fits: fits.to_owned(),
        };
        let traffic = given.next().ok_or_else(missing)?;
        if given.next().is_some() {
            return Err(PlanError::Value {
                key: key.clone(),
                value: "two kinds of packets".to_owned(),
                fits: fits.to_owned(),
            });
        }
        Ok(SharePlan {
            name: self.name,
            share,
            traffic,
        })
    }
}

impl RouterSheet {
    fn plan(self) -> Result<RouterPlan, PlanError> {
        let key = |key: &str| format!("router {:?}: {key}", self.name);
        let role = match (self.role, self.capacity) {
            (RoleName::Edge, None) if self.headroom.is_none() => Role::Edge {
                interfaces: self.interface.0,
            },
            (RoleName::Edge, capacity) => {
                let value = capacity.or(self.headroom);
                return Err(PlanError::Value {
                    key: key("capacity"),
                    value: value.map_or(String::new(), |rate| rate.to_string()),
                    fits: "an edge router marks packets and has no queues; leave capacity and headroom out".to_owned(),
                });
            }
            (RoleName::Core, Some(capacity)) => Role::Core(UplinkPlan {
                interfaces: self.interface.0,
                capacity,
                headroom: self.headroom.unwrap_or(usual_headroom(capacity)),
                migration: None,
            }),
            (RoleName::Core, None) => {
                return Err(PlanError::Missing {
                    key: key("capacity"),
                    fits: "write what its interfaces carry, such as \"10Mbit/s\"".to_owned(),
                });
            }
        };
        Ok(RouterPlan {
            name: self.name,
            role,
            command: self.command,
        })
    }
}

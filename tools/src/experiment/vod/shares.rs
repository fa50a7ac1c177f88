//! The VTMs' shares of the bottleneck: packets marked at the edges by where they go, queued by their marks in the core.
//!
//! The routers are asked through their agents, which run in the routers' namespaces.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use net::Network as NetShares;
use net::admission::Wanted;
use net::namespace::Namespace;
use net::plan::{NetworkPlan, Role, RouterPlan, SharePlan, Traffic, UplinkPlan};
use net::share::{Priority, Share};
use sched::reservation::Reservation;
use units::BitRate;

use super::network::{BEST_EFFORT_TARGET, EAST, GOLD_TARGET, Network, WEST, failed, inside};
use super::quality::{BEST_EFFORT, GOLD, Pair, link_rate, link_time};
use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::stage::Stage;

/// What the bottleneck carries.
pub const CAPACITY: BitRate = BitRate::new(10_000_000);
/// What gold and best effort have with four streams.
const FIRST: (u64, u64) = (5_000_000, 5_000_000);
/// What gold has at most.
const MOST: u64 = 6_000_000;

/// The shares. The queues go with the routers.
pub struct Shares {
    network: NetShares,
    link: Pair,
}

/// What both have with four streams, as time on the link.
pub fn first() -> Result<Pair, ExperimentError> {
    Ok(Pair {
        gold: time(FIRST.0)?,
        best_effort: time(FIRST.1)?,
    })
}

/// What gold has with five.
pub fn greatest() -> Result<Duration, ExperimentError> {
    Ok(time(MOST)?.runtime())
}

fn time(rate: u64) -> Result<Reservation, ExperimentError> {
    let told = link_time(BitRate::new(rate), CAPACITY);
    told.map_err(|why| ExperimentError::Shares {
        action: "tell a rate as time on the link",
        why,
    })
}

impl Shares {
    /// Reserves both shares on all routers (`network_reserve` of the paper).
    pub fn reserve((stage, network): (&Stage, &Network)) -> Result<Self, ExperimentError> {
        let link = first()?;
        let folder = stage.folder.join("net");
        let plan = NetworkPlan {
            shares: vec![
                share(GOLD, (link.gold, Priority::Gold), GOLD_TARGET),
                share(
                    BEST_EFFORT,
                    (link.best_effort, Priority::BestEffort),
                    BEST_EFFORT_TARGET,
                ),
            ],
            routers: routers(stage, network),
            ..NetworkPlan::default()
        };
        let network = NetShares::apply(&folder, &plan)
            .map_err(|error| failed("reserve shares on the routers")(&error))?;
        Ok(Self { network, link })
    }

    /// What both have.
    pub fn link(&self) -> Pair {
        self.link
    }

    /// Gives both other shares, on all routers or none (`network_adapt` of the paper); how long that took.
    pub fn adapt(&mut self, link: Pair) -> Result<Duration, ExperimentError> {
        let changes = [
            Wanted::new(GOLD, rates((link.gold, Priority::Gold))),
            Wanted::new(BEST_EFFORT, rates((link.best_effort, Priority::BestEffort))),
        ];
        let begin = Instant::now();
        self.network
            .adapt(&changes)
            .map_err(|error| failed("change shares on the routers")(&error))?;
        let took = begin.elapsed();
        self.link = link;
        Ok(took)
    }

    /// The bytes of gold that the bottleneck's class has counted.
    pub fn gold_bytes(&self) -> Option<u64> {
        let status = self.network.status().ok()?;
        let core = status
            .routers
            .into_iter()
            .find(|router| router.name == CORE)?;
        let uplink = core.status.ok()?.uplink.into_iter().next()?;
        let gold = uplink.shares.into_iter().find(|share| share.name == GOLD)?;
        Some(gold.counters.bytes)
    }
}

fn rates((time, priority): (Reservation, Priority)) -> Share {
    Share {
        assured: link_rate(time, CAPACITY),
        ceil: CAPACITY,
        priority,
    }
}

fn share(name: &str, of: (Reservation, Priority), to: Ipv4Addr) -> SharePlan {
    SharePlan {
        name: name.to_owned(),
        share: rates(of),
        traffic: Traffic::Destinations(vec![IpAddr::V4(to)]),
    }
}

/// The router with the bottleneck's queue.
const CORE: &str = "core";

fn routers(stage: &Stage, network: &Network) -> Vec<RouterPlan> {
    let router = |name: &str, namespace: &Namespace, role| {
        let run_dir = path(&stage.folder.join(format!("net-{name}")));
        let words = ["/proc/self/exe", "--run-dir", &run_dir, "net", "agent"];
        RouterPlan {
            name: name.to_owned(),
            role,
            command: inside(namespace, &words.map(str::to_owned)),
        }
    };
    let edge = |interface: &str| Role::Edge {
        interfaces: vec![interface.to_owned()],
    };
    let core = |interface: &str| {
        Role::Core(UplinkPlan {
            interfaces: vec![interface.to_owned()],
            capacity: CAPACITY,
            headroom: BitRate::new(0),
            migration: None,
        })
    };
    vec![
        router("edge", &network.edge, edge(EAST)),
        router(CORE, &network.core, core(EAST)),
        router("far-core", &network.far_core, core(WEST)),
        router("far-edge", &network.far_edge, edge(WEST)),
    ]
}

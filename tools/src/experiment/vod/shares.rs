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

use super::need::{FIRST_STREAMS, STREAMS};
use super::network::{BEST_EFFORT_TARGET, EAST, GOLD_TARGET, Network, WEST};
use super::quality::{BEST_EFFORT, GOLD, Pair, link_rate, link_time};
use crate::experiment::ExperimentError;
use crate::experiment::guest::path;
use crate::experiment::namespaces::{failed, inside};
use crate::experiment::stage::Stage;

/// What the bottleneck carries.
pub const CAPACITY: BitRate = BitRate::new(10_000_000);
/// What gold has for each stream, in bit/s: the paper's 5 Mbit/s for four. That is 3 % more than a stream takes on the wire,
/// so that a queue that has filled up empties again. The paper's 6 Mbit/s for five are 1.15 % less than they take.
const EACH: u64 = 1_250_000;

/// What gold has for so many streams, in bit/s.
fn of_gold(streams: u16) -> u64 {
    EACH * u64::from(streams)
}

/// The shares. The queues go with the routers.
pub struct Shares {
    network: NetShares,
    link: Pair,
}

/// What both have with four streams, as time on the link.
pub fn first() -> Result<Pair, ExperimentError> {
    Ok(Pair {
        gold: time(of_gold(FIRST_STREAMS))?,
        best_effort: time(CAPACITY.bits_per_second() - of_gold(FIRST_STREAMS))?,
    })
}

/// What gold has with five.
pub fn greatest() -> Result<Duration, ExperimentError> {
    Ok(time(of_gold(STREAMS))?.runtime())
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

#[cfg(test)]
mod tests {
    use super::super::ffmpeg::WIRE_RATE;
    use super::super::quality::Held;
    use super::*;

    #[test]
    fn gold_has_a_little_more_than_its_streams_take_and_best_effort_the_rest() {
        let first = first().unwrap();
        let most = greatest().unwrap();
        let gold = [
            (FIRST_STREAMS, link_rate(first.gold, CAPACITY)),
            (
                STREAMS,
                link_rate(
                    Reservation::new(most, first.gold.period()).unwrap(),
                    CAPACITY,
                ),
            ),
        ];
        for (streams, rate) in gold {
            let taken = WIRE_RATE * u64::from(streams);
            let spare = rate.bits_per_second() as f64 / taken as f64 - 1.0;
            assert!((0.02..0.04).contains(&spare), "{streams} streams: {spare}");
        }
        let sum = |pair: Pair| {
            [pair.gold, pair.best_effort]
                .map(|held| link_rate(held, CAPACITY).bits_per_second())
                .iter()
                .sum::<u64>()
        };
        assert_eq!(sum(first), CAPACITY.bits_per_second());
        let rule = Held::Link.rule(first, most);
        assert_eq!(rule.strategy.step, most - first.gold.runtime());
        let left = rule.strategy.donor.unwrap().down_to;
        assert_eq!(most + left, first.gold.period());
    }
}

//! Changing the network shares of a pair of VMs: the call that changes the kernel's classes, and the whole of it with
//! admission, lock and state.

use std::time::Instant;

use net::admission::Wanted;
use net::mac::Mac;
use net::plan::NetworkPlan;
use net::ports::Ports;
use net::share::{Priority, Share};
use net::{Network, Port, PortRequest};
use vmm::units::BitRate;

use super::Bench;
use super::outcome::{Check, Row};
use crate::experiment::{interrupt, namespaces};
use crate::failure::Failure;

const BRIDGE: &str = "bench0";
const PLAN: &str = "[bridge]\nname = \"bench0\"\ncapacity = \"12Mbit/s\"\n";
const NAMES: [&str; 2] = ["bench-gold", "bench-best"];
/// Mbit/s of gold, in turns; best effort has the rest of ten.
const TURNS: [u64; 2] = [6, 5];
/// Both are known at the end of an even number of changes.
const FULL: usize = 2_000;
const QUICK: usize = 300;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    namespaces::sweep();
    let namespace = namespaces::create("bench")?;
    let folder = bench.scratch.path("network");
    std::fs::create_dir_all(&folder)?;
    let count = bench.pick(FULL, QUICK);
    let inside = || -> Result<Row, Failure> {
        let network = Network::apply(&folder, &NetworkPlan::parse(PLAN)?)?;
        let row = timed(&network, count);
        drop(network);
        let cleared = Network::clear(&folder);
        let row = row?;
        cleared?;
        Ok(row)
    };
    namespace.run(inside)?
}

fn timed(network: &Network, count: usize) -> Result<Row, Failure> {
    let ports = NAMES.into_iter().zip(shares(TURNS[0])?);
    let ports: Vec<Port> = ports
        .map(|(name, share)| {
            Ok(network.attach(&PortRequest {
                vm: name.to_owned(),
                mac: Mac::of_name(name),
                share,
                mtu: 1500,
            })?)
        })
        .collect::<Result<_, Failure>>()?;
    let mut kernel = Ports::open(BRIDGE)?;
    let (mut calls, mut whole) = (Vec::new(), Vec::new());
    for number in 0..count {
        interrupt::check()?;
        let from = shares(TURNS[number % TURNS.len()])?;
        let to = shares(TURNS[(number + 1) % TURNS.len()])?;
        let changes =
            [0, 1].map(|index: usize| (ports[index].name.as_str(), from[index], to[index]));
        let begin = Instant::now();
        kernel.replace(&changes)?;
        calls.push(begin.elapsed());
    }
    for number in 0..count {
        interrupt::check()?;
        let shares = shares(TURNS[number % TURNS.len()])?;
        let changes = [0, 1].map(|index: usize| Wanted {
            name: NAMES[index].to_owned(),
            share: shares[index],
        });
        let begin = Instant::now();
        network.adapt(&changes)?;
        whole.push(begin.elapsed());
    }
    Ok(Row::new(vec![
        Check::median_micros("call, median", calls, 20.0),
        Check::median_micros("API, median", whole, 200.0),
    ])
    .note("two VMs, both directions: four classes in one send"))
}

fn shares(gold: u64) -> Result<[Share; 2], Failure> {
    let share = |megabits: u64, priority| {
        let rate = |megabits: u64| BitRate::new(megabits * 1_000_000);
        Share::new(rate(megabits), rate(10), priority)
    };
    Ok([
        share(gold, Priority::Gold)?,
        share(10 - gold, Priority::BestEffort)?,
    ])
}

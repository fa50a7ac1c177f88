//! What runs beside the guest on both hosts: busy processes, periodic real-time tasks, and traffic on the link.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use guest_images::taskset::Builder;
use rt_abi::taskset::{Policy, TaskSet};
use units::BitRate;

use super::hosts::{Host, Hosts, NEIGHBOUR, NEIGHBOUR_TARGET};
use crate::experiment::namespaces::open_inside;
use crate::experiment::process::Part;
use crate::experiment::scenario::{built, paper_load, start_load_on};
use crate::experiment::{ExperimentError, spin};
use crate::traffic::Worker;
use crate::traffic::echo::sink;
use crate::traffic::flood::Flood;

/// What nobody promised anything sends, in each direction.
pub const FLOOD: BitRate = BitRate::new(100_000_000);
/// Where floods go (discard).
const SINK: u16 = 9;

/// A tenth of the paper's load. Where the processes of both hosts that are in no reservation share one CPU, as on a machine with two, the
/// whole of it above the guest's budget would leave them nothing.
fn light_load() -> Result<TaskSet, ExperimentError> {
    let ms = Duration::from_millis;
    built(
        Builder::new(Policy::RateMonotonic, Duration::from_secs(1))
            .periodic("load1", ms(5), ms(120))
            .periodic("load2", ms(2), ms(80)),
    )
}

/// The load. Dropping it ends all of it.
pub struct Load {
    parts: Vec<Part>,
    floods: Vec<Flood>,
    sinks: Vec<Worker>,
}

impl Load {
    /// Starts it on both hosts.
    pub fn start(hosts: &Hosts) -> Result<Self, ExperimentError> {
        let mut load = Self {
            parts: Vec::new(),
            floods: Vec::new(),
            sinks: Vec::new(),
        };
        load.flood((&hosts.a, &hosts.b), hosts.b.address, FLOOD)?;
        load.flood((&hosts.b, &hosts.a), hosts.a.address, FLOOD)?;
        // More than its share, so that it always has something to send.
        let offered = BitRate::new(NEIGHBOUR.bits_per_second() * 5 / 4);
        load.flood((&hosts.a, &hosts.b), NEIGHBOUR_TARGET, offered)?;
        load.processors(hosts)?;
        Ok(load)
    }

    fn processors(&mut self, hosts: &Hosts) -> Result<(), ExperimentError> {
        let sets = [light_load()?, paper_load()?];
        for ((name, host), set) in [("a", &hosts.a), ("b", &hosts.b)].into_iter().zip(sets) {
            let busy = format!("the busy process on {name}");
            self.parts
                .push(spin::start_on(hosts.stage, host.cpu, &busy, None)?);
            let tasks = format!("the load on {name}");
            self.parts
                .push(start_load_on(hosts.stage, host.cpu, (&tasks, &set))?);
        }
        Ok(())
    }

    fn flood(
        &mut self,
        (from, to): (&Host, &Host),
        address: Ipv4Addr,
        rate: BitRate,
    ) -> Result<(), ExperimentError> {
        let at = SocketAddrV4::new(address, SINK);
        // Taken by a bound socket, so that no answer says that nobody is there.
        let taking = open_inside(&to.namespace, || UdpSocket::bind(at))?;
        let taking = sink(taking).map_err(ExperimentError::io("receive datagrams"))?;
        self.sinks.push(taking);
        let sending = open_inside(&from.namespace, || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            socket.connect(at)?;
            Ok(socket)
        })?;
        let flood = Flood::start(sending, rate);
        self.floods
            .push(flood.map_err(ExperimentError::io("flood with datagrams"))?);
        Ok(())
    }

    /// What the flood from host A, the one from host B and the other VM offered so far, in bit/s.
    pub fn offered(&self) -> Vec<f64> {
        self.floods.iter().map(Flood::offered).collect()
    }
}

/// The other VM's bytes at an instant.
#[derive(Clone, Copy)]
pub struct Reading {
    at: Instant,
    bytes: u64,
}

impl Reading {
    /// Reads them at host A.
    pub fn take(hosts: &Hosts) -> Option<Self> {
        let bytes = hosts.a.neighbour_bytes()?;
        let at = Instant::now();
        Some(Self { at, bytes })
    }

    /// The rate since an earlier one, in bit/s.
    pub fn rate_since(&self, earlier: &Self) -> f64 {
        let bytes = self.bytes.saturating_sub(earlier.bytes);
        bytes as f64 * 8.0 / self.at.duration_since(earlier.at).as_secs_f64()
    }
}

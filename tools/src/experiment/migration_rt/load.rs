//! What runs beside the guest on both hosts: busy processes, periodic real-time tasks, and traffic on the link.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Instant;

use units::BitRate;

use super::hosts::{Host, Hosts, NEIGHBOUR, NEIGHBOUR_TARGET};
use crate::experiment::namespaces::open_inside;
use crate::experiment::process::Part;
use crate::experiment::scenario::start_load_on;
use crate::experiment::{ExperimentError, spin};
use crate::traffic::Worker;
use crate::traffic::echo::sink;
use crate::traffic::flood::Flood;

/// What nobody promised anything sends, in each direction.
pub const FLOOD: BitRate = BitRate::new(300_000_000);
/// Where floods go (discard).
const SINK: u16 = 9;

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
        for (name, host) in [("a", &hosts.a), ("b", &hosts.b)] {
            let busy = format!("the busy process on {name}");
            let part = spin::start_on(hosts.stage, host.cpu, &busy, None)?;
            load.parts.push(part);
            let tasks = format!("the load on {name}");
            let part = start_load_on(hosts.stage, host.cpu, &tasks)?;
            load.parts.push(part);
        }
        Ok(load)
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

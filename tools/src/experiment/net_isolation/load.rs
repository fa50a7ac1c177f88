//! The load of a case: who sends what to whom. Dropping it ends all of it.

use std::net::{Ipv4Addr, SocketAddrV4};

use net::mac::Mac;
use vmm::units::BitRate;

use super::case::{Case, Direction, Load};
use super::fabric::{self, Fabric, HOST, Kind, Machine, SINK};
use crate::experiment::ExperimentError;
use crate::traffic::flood::Flood;
use crate::traffic::frame::{BROADCAST, End};
use crate::traffic::{Worker, echo, stream};

/// TCP connections of each VM.
pub const FLOWS: usize = 16;

/// What sends. Everything ends with it.
#[derive(Default)]
pub struct Sending {
    floods: Vec<Flood>,
    workers: Vec<Worker>,
}

impl Sending {
    /// Starts the load of `case`.
    pub fn start(case: &Case, fabric: &Fabric) -> Result<Self, ExperimentError> {
        let mut sending = Self::default();
        for (machine, rate) in fabric.machines.iter().zip(case.offered()) {
            match (case.load, case.direction) {
                (Load::Tcp, direction) => sending.streams(machine, direction)?,
                (_, Direction::Out) => sending.outward(machine, rate)?,
                (_, Direction::In) => sending.inward(machine, rate)?,
            }
        }
        let [gold, other] = &fabric.machines;
        let rate = case.offered()[1];
        match case.load {
            Load::Udp | Load::Tcp => {}
            Load::Spoofed => {
                let played = played(other, (host_end(fabric::BRIDGE)?, rate), Some(gold.mac))?;
                sending.workers.extend(played);
            }
            Load::Broadcast => {
                let played = played(other, (everybody(), rate), None)?;
                sending.workers.extend(played);
            }
        }
        Ok(sending)
    }

    /// A flood out of one VM only.
    pub fn flood_out(machine: &Machine, rate: BitRate) -> Result<Self, ExperimentError> {
        let mut sending = Self::default();
        sending.outward(machine, rate)?;
        Ok(sending)
    }

    /// A flood into one VM only.
    pub fn flood_in(machine: &Machine, rate: BitRate) -> Result<Self, ExperimentError> {
        let mut sending = Self::default();
        sending.inward(machine, rate)?;
        Ok(sending)
    }

    /// What floods offered so far, bits per second, in the order they were started; without what is spoofed or goes to
    /// everybody.
    pub fn offered(&self) -> Vec<f64> {
        self.floods.iter().map(Flood::offered).collect()
    }

    fn outward(&mut self, machine: &Machine, rate: BitRate) -> Result<(), ExperimentError> {
        // Taken by a bound socket, so that no answer says that nobody is there.
        let to = SocketAddrV4::new(HOST, SINK);
        if self.workers.is_empty() {
            self.sink(fabric::receive(SINK))?;
        }
        match machine.inside(move || fabric::to(to))? {
            Some(socket) => self.flood(socket, rate),
            None => {
                let played = played(machine, (host_end(fabric::BRIDGE)?, rate), None)?;
                self.floods.extend(played.map(Flood::of));
                Ok(())
            }
        }
    }

    fn inward(&mut self, machine: &Machine, rate: BitRate) -> Result<(), ExperimentError> {
        if let Some(socket) = machine.inside(|| fabric::receive(SINK))? {
            self.sink(Ok(socket))?;
        }
        let socket = fabric::to(SocketAddrV4::new(machine.address, SINK));
        self.flood(socket.map_err(ExperimentError::io("make a socket"))?, rate)
    }

    fn sink(
        &mut self,
        socket: std::io::Result<std::net::UdpSocket>,
    ) -> Result<(), ExperimentError> {
        let sink = socket.and_then(echo::sink);
        self.workers
            .push(sink.map_err(ExperimentError::io("receive datagrams"))?);
        Ok(())
    }

    fn flood(&mut self, socket: std::net::UdpSocket, rate: BitRate) -> Result<(), ExperimentError> {
        let flood = Flood::start(socket, rate);
        self.floods
            .push(flood.map_err(ExperimentError::io("flood with datagrams"))?);
        Ok(())
    }

    fn streams(&mut self, machine: &Machine, direction: Direction) -> Result<(), ExperimentError> {
        let failed = || ExperimentError::io("carry TCP");
        // Each VM has a listener of its own, in or out.
        let port = SINK + u16::from(machine.address.octets()[3]);
        let (listener, streams) = match direction {
            Direction::Out => {
                let to = SocketAddrV4::new(HOST, port);
                let listener = fabric::listen(port).map_err(failed())?;
                (
                    Some(listener),
                    machine.inside(move || fabric::connections(to, FLOWS))?,
                )
            }
            Direction::In => {
                let listener = machine.inside(move || fabric::listen(port))?;
                let to = SocketAddrV4::new(machine.address, port);
                let streams = fabric::connections(to, FLOWS).map_err(failed())?;
                (listener, Some(streams))
            }
        };
        if let Some(listener) = listener {
            self.workers.push(stream::take(listener).map_err(failed())?);
        }
        for stream in streams.into_iter().flatten() {
            self.workers.push(stream::write(stream).map_err(failed())?);
        }
        Ok(())
    }
}

/// A flood of a guest that is played, if it is one.
fn played(
    machine: &Machine,
    (to, rate): (End, BitRate),
    claimed: Option<Mac>,
) -> Result<Option<Worker>, ExperimentError> {
    let Kind::Played(guest) = &machine.kind else {
        return Ok(None);
    };
    let flood = guest.flood(to, rate, claimed);
    flood
        .map(Some)
        .map_err(ExperimentError::io("flood through a tap"))
}

impl Drop for Sending {
    fn drop(&mut self) {
        // All at once, not one after the other.
        self.workers.iter().for_each(Worker::end);
        self.floods.iter().for_each(Flood::end);
    }
}

/// The host's end on `bridge`, as frames name it: a bridge has an address that it made up, or that of one of its ports.
pub fn host_end(bridge: &str) -> Result<End, ExperimentError> {
    let mut netlink = net::netlink::Netlink::open()?;
    let bridge = net::device::get(&mut netlink, bridge)?;
    let mac = bridge.address.first_chunk().copied().unwrap_or_default();
    Ok(End {
        mac,
        at: SocketAddrV4::new(HOST, SINK),
    })
}

fn everybody() -> End {
    End {
        mac: BROADCAST,
        at: SocketAddrV4::new(Ipv4Addr::BROADCAST, SINK),
    }
}

//! The hosts: one with the bridge, its two trees and its ports, and two VMs. The VMs are network namespaces at the end of a
//! cable, or guests that are played through their taps.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::mac::Mac;
use net::namespace::Namespace;
use net::ports::{PortCounters, PortSpec, Ports, PortsConfig};
use net::tap::Tap;

use super::case::{Link, NAMES};
use crate::experiment::ExperimentError;
use crate::experiment::namespaces::{self, Plug};
use crate::traffic::played::Played;
use crate::traffic::stream;

/// The bridge.
pub const BRIDGE: &str = "isolation0";
const PREFIX: u8 = 24;
const MTU: u16 = 1500;
/// The host's own address on the bridge.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// Where nobody listens but sinks of this experiment.
pub const SINK: u16 = 9;
/// Where echoes listen.
pub const ECHO: u16 = 7;

/// A VM: gold or best effort.
pub struct Machine {
    /// Its port's name.
    pub port: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its hardware address.
    pub mac: Mac,
    /// What it is made of.
    pub kind: Kind,
}

/// What a VM is made of.
pub enum Kind {
    /// A namespace with the kernel's own network.
    Namespace(Namespace),
    /// A program behind a tap.
    Played(Played),
}

/// The fabric of one link. Dropping it takes everything away but the namespace of the host.
pub struct Fabric {
    ports: Ports,
    /// Gold and best effort.
    pub machines: [Machine; 2],
}

/// The hardware address of VM `index`.
fn mac(index: usize) -> Mac {
    Mac::of_name(NAMES[index % NAMES.len()])
}

fn address(index: usize) -> Ipv4Addr {
    // There are two of them.
    Ipv4Addr::new(10, 77, 0, if index == 0 { 2 } else { 3 })
}

impl Fabric {
    /// Builds it in the calling thread's namespace; `is_played` says whether best effort is a played guest.
    pub fn build(link: &Link, is_played: bool) -> Result<Self, ExperimentError> {
        let mut ports = Ports::create(&PortsConfig {
            bridge: BRIDGE.to_owned(),
            capacity: link.whole(),
            broadcast: link.broadcast(),
            mtu: MTU,
            address: Some((IpAddr::V4(HOST), PREFIX)),
        })?;
        let machines = machines(&mut ports, link, is_played);
        match machines {
            Ok(machines) => Ok(Self { ports, machines }),
            Err(error) => {
                // The first error is the one that tells something.
                let _ = ports.delete();
                Err(error)
            }
        }
    }

    /// What each VM's port has counted, and when.
    pub fn counters(&mut self) -> Result<(Instant, [PortCounters; 2]), ExperimentError> {
        promptly(|| self.counters_once())
    }

    fn counters_once(&mut self) -> Result<[PortCounters; 2], ExperimentError> {
        let states = self.ports.list()?;
        let of = |machine: &Machine| {
            let state = states.iter().find(|state| state.name == machine.port);
            state.map(|state| state.counters).unwrap_or_default()
        };
        let [gold, other] = &self.machines;
        Ok([of(gold), of(other)])
    }

    /// The ports, and the names of the VMs'.
    pub fn ports(&mut self) -> (&mut Ports, [String; 2]) {
        let names = [0, 1].map(|index: usize| self.machines[index].port.clone());
        (&mut self.ports, names)
    }

    /// Takes it down.
    pub fn remove(self) -> Result<(), ExperimentError> {
        let Self { ports, machines } = self;
        drop(machines);
        Ok(ports.delete()?)
    }
}

fn machines(
    ports: &mut Ports,
    link: &Link,
    is_played: bool,
) -> Result<[Machine; 2], ExperimentError> {
    let shares = link.shares();
    let spec = |index: usize| PortSpec {
        mac: mac(index),
        share: shares[index],
    };
    let gold = in_namespace(ports, 0, &spec(0))?;
    let other = if is_played {
        played(ports, 1, &spec(1))?
    } else {
        in_namespace(ports, 1, &spec(1))?
    };
    Ok([gold, other])
}

fn in_namespace(
    ports: &mut Ports,
    index: usize,
    spec: &PortSpec,
) -> Result<Machine, ExperimentError> {
    let namespace = namespaces::create(["gold", "best"][index])?;
    let plug = Plug {
        device: "eth0",
        mac: spec.mac,
        address: (address(index), PREFIX),
    };
    let port = ports.attach_cable(spec, (plug.device, &namespace))?;
    namespaces::set_up(&namespace, &plug)?;
    Ok(Machine {
        port,
        address: address(index),
        mac: spec.mac,
        kind: Kind::Namespace(namespace),
    })
}

fn played(ports: &mut Ports, index: usize, spec: &PortSpec) -> Result<Machine, ExperimentError> {
    let tap: Arc<Tap> = Arc::new(ports.attach(spec)?);
    let port = tap.name().to_owned();
    let at = SocketAddrV4::new(address(index), SINK);
    let guest =
        Played::new(tap, spec.mac, at).map_err(ExperimentError::io("play a guest behind a tap"))?;
    Ok(Machine {
        port,
        address: address(index),
        mac: spec.mac,
        kind: Kind::Played(guest),
    })
}

impl Machine {
    /// Makes something in the VM, if it is a namespace: sockets stay there.
    pub fn inside<T: Send>(
        &self,
        make: impl FnOnce() -> io::Result<T> + Send,
    ) -> Result<Option<T>, ExperimentError> {
        let Kind::Namespace(namespace) = &self.kind else {
            return Ok(None);
        };
        let made = namespace.run(make)?;
        Ok(Some(made.map_err(ExperimentError::io(
            "make a socket in a namespace",
        ))?))
    }
}

/// An answer that took longer was interrupted: when it was true is known too badly.
const PROMPT: Duration = Duration::from_micros(500);
/// How often it is asked until there is a prompt one.
const ATTEMPTS: u32 = 8;

/// Asks what changes while others may have the CPU in between: until an answer is prompt, at most some times. The answer that took
/// the shortest, and the middle of the time that it took.
fn promptly<T, E>(mut ask: impl FnMut() -> Result<T, E>) -> Result<(Instant, T), E> {
    let mut once = || {
        let begin = Instant::now();
        let answer = ask()?;
        let took = begin.elapsed();
        Ok((took, begin + took / 2, answer))
    };
    let mut best = once()?;
    for _ in 1..ATTEMPTS {
        if best.0 <= PROMPT {
            break;
        }
        let next = once()?;
        if next.0 < best.0 {
            best = next;
        }
    }
    Ok((best.1, best.2))
}

/// A datagram socket of the calling thread's namespace that talks to `to`.
pub fn to(to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(to)?;
    Ok(socket)
}

/// Connections of the calling thread's namespace to `to`.
pub fn connections(to: SocketAddrV4, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| stream::connect(to, stream::PATIENCE))
        .collect()
}

/// Listens in the calling thread's namespace.
pub fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))
}

/// A datagram socket that others send to.
pub fn receive(port: u16) -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_was_interrupted_is_asked_for_again() {
        let mut asked = 0;
        let begin = Instant::now();
        let answer = promptly(|| {
            asked += 1;
            if asked == 1 {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok::<_, ()>(asked)
        });
        let (at, answer) = answer.unwrap();
        assert!(answer > 1 && at - begin >= Duration::from_millis(20));
    }

    #[test]
    fn where_no_answer_is_prompt_the_shortest_counts() {
        let mut waits = [9, 8, 3, 7, 7, 7, 7, 7, 1, 1]
            .map(Duration::from_millis)
            .into_iter();
        let answer = promptly(|| {
            let wait = waits.next().unwrap();
            std::thread::sleep(wait);
            Ok::<_, ()>(wait)
        });
        let (at, answer) = answer.unwrap();
        assert!(
            at < Instant::now() && answer < Duration::from_millis(7),
            "{answer:?}"
        );
        assert_eq!(waits.len(), 2);
        assert_eq!(promptly(|| Err::<(), _>("refused")), Err("refused"));
    }
}

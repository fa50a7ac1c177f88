//! The network task: the device's driver, the protocols (smoltcp), and the services that need no more than them.
//!
//! A job of it is a bounded piece of work: so many frames in, every service once, so many out. If there is more to do it releases
//! itself again, so that others of its priority get their turn; else it asks the device to interrupt, and the timer to go off
//! when a protocol needs it.

mod connections;
mod echo;
mod flow;
mod streams;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use rt_abi::taskset::{Interface as Settings, Kind, TaskSet};
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketSet, SocketStorage,
};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

use crate::console;
use crate::cpu::{Cpu, PENDING_DONE};
use crate::end::Exit;
use crate::memory::Arena;
use crate::system::{System, system};
use crate::task;
use crate::virtio::network::{self as device, NetworkDevice};
use connections::Connections;
use echo::Echo;
use flow::Flow;
use streams::Streams;

/// Bytes of the task's stack, on which all but the buffers lies.
const STACK: u64 = 96 << 10;
/// Frames in, and rounds of frames out, in a job.
const BOUND: u32 = 64;
/// Sockets of all services together.
const SOCKETS: usize = 2 + web_sockets() + 2 * flow::CONNECTIONS;
/// How long a protocol waits that wants to send and cannot, in nanoseconds.
const PATIENCE: u64 = 1_000_000;

const fn web_sockets() -> usize {
    crate::web::CONNECTIONS
}

/// What the device counted.
pub struct Counters {
    /// Frames and bytes received.
    received: [AtomicU64; 2],
    /// Frames and bytes sent.
    sent: [AtomicU64; 2],
    /// Received frames that were broken.
    dropped: AtomicU64,
}

/// Of the one device.
pub static COUNTERS: Counters = Counters {
    received: [const { AtomicU64::new(0) }; 2],
    sent: [const { AtomicU64::new(0) }; 2],
    dropped: AtomicU64::new(0),
};

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let [received, sent] = [&self.received, &self.sent].map(|pair| pair.each_ref().map(value));
        write!(
            f,
            "net received {} frames {} bytes, sent {} frames {} bytes, dropped {}",
            received[0],
            received[1],
            sent[0],
            sent[1],
            value(&self.dropped)
        )
    }
}

/// Bytes of memory that the network of `set` needs, in whole pages; none without a network.
pub fn needed(set: &TaskSet) -> u64 {
    if set.interface().is_none() {
        return 0;
    }
    let services = [
        set.services.echo.map_or(0, |_| echo::MEMORY),
        set.web_port().map_or(0, |_| connections::MEMORY),
        set.services.sink.map_or(0, |_| flow::MEMORY),
        set.services.source.map_or(0, |_| flow::MEMORY),
        streams::MEMORY,
    ];
    let sum: u64 = services.iter().sum();
    let sockets = (SOCKETS * size_of::<SocketStorage<'_>>()) as u64 + 64;
    (STACK + device::MEMORY + sockets + sum).next_multiple_of(4096)
}

/// Releases the network task. With the scheduler kept out.
pub fn wake(system: &System, now: u64) {
    if let Some(index) = system.network_task {
        // One may be under way that has looked already.
        task::state(index).wake(now, 2);
    }
}

/// What the network task's context runs.
pub extern "C" fn main(index: u64) -> ! {
    let system = system();
    let index = usize::try_from(index).unwrap_or(usize::MAX);
    let cpu = Cpu::get(0).expect("there is a first vCPU");
    let mut network = match Network::new(system) {
        Ok(network) => network,
        Err(why) => crate::fail(Exit::Machine, format_args!("{why}")),
    };
    console::line(format_args!("rt-guest: net {}", network.device));
    loop {
        let next = network.job(system);
        cpu.undisturbed(|| {
            let (state, now) = (task::state(index), system.clock.now());
            state.done_with(now);
            match next {
                Next::Now => state.wake(now, 1),
                Next::At(time) => sleep_until(state, time, now),
            }
            // The scheduler is to look, as if the timer had gone off.
            cpu.pending.fetch_or(PENDING_DONE, Ordering::Relaxed);
        });
    }
}

/// When the next job is.
#[derive(Clone, Copy)]
enum Next {
    Now,
    At(u64),
}

/// Sets the alarm, unless it goes off earlier already: to move it costs more than to be woken for nothing once.
fn sleep_until(state: &task::State, time: u64, now: u64) {
    let before = state.alarm.load(Ordering::Relaxed);
    if before <= now || time < before {
        state.alarm.store(time, Ordering::Relaxed);
    }
}

/// Everything of the network task.
struct Network {
    interface: Interface,
    sockets: SocketSet<'static>,
    device: NetworkDevice,
    echo: Option<Echo>,
    connections: Option<Connections>,
    flows: [Option<Flow>; 2],
    streams: Streams,
}

impl Network {
    fn new(system: &'static System) -> Result<Self, crate::virtio::Trouble> {
        use crate::virtio::Trouble::Memory;
        let set = &system.set;
        let settings = set.interface().ok_or(Memory)?;
        let mut range = system.network.ok_or(Memory)?;
        range.end -= STACK;
        // SAFETY:
        // - the range was set aside for the network task, which is one context and makes this once;
        // - its end, where this context's stack lies, is left out.
        let mut arena = unsafe { Arena::new(range) };
        let mut device = NetworkDevice::new(set, &mut arena)?;
        let interface = interface(&settings, &mut device, system);
        let mut sockets = SocketSet::new(storage(&mut arena).ok_or(Memory)?);
        let mut flow = |port: Option<u16>, kind, sockets: &mut _| match port {
            Some(port) => Flow::new(port, kind, sockets, &mut arena).map(Some),
            None => Some(None),
        };
        let flows = [
            flow(set.services.sink, flow::Kind::Sink, &mut sockets).ok_or(Memory)?,
            flow(set.services.source, flow::Kind::Source, &mut sockets).ok_or(Memory)?,
        ];
        let echo = match set.services.echo {
            Some(port) => Some(Echo::new(port, &mut sockets, &mut arena).ok_or(Memory)?),
            None => None,
        };
        let connections = match set.web_port() {
            Some(port) => Some(Connections::new(port, &mut sockets, &mut arena).ok_or(Memory)?),
            None => None,
        };
        let streams = Streams::new(&mut sockets, &mut arena).ok_or(Memory)?;
        Ok(Self {
            interface,
            sockets,
            device,
            echo,
            connections,
            flows,
            streams,
        })
    }

    /// One bounded piece of work.
    fn job(&mut self, system: &'static System) -> Next {
        self.device.begin();
        let mut left = BOUND;
        while left > 0 && self.take_in(system) {
            left -= 1;
        }
        let is_more_to_take = left == 0;
        let now = system.clock.now();
        for flow in self.flows.iter_mut().flatten() {
            flow.serve(&mut self.sockets);
        }
        if let Some(connections) = &mut self.connections {
            connections.serve(&mut self.sockets, system, now);
        }
        self.streams.serve(&mut self.sockets, system);
        let is_more_to_give = self.give_out(now);
        self.device.flush();
        self.count();
        let is_full = self.device.transmitter.is_short;
        if is_more_to_take || (is_more_to_give && !is_full) || self.device.listen() {
            return Next::Now;
        }
        let wish = self.interface.poll_at(instant(now), &self.sockets);
        let wish = wish.map_or(u64::MAX, |at| {
            u64::try_from(at.total_micros())
                .unwrap_or(0)
                .saturating_mul(1000)
        });
        let own = self
            .connections
            .as_ref()
            .map_or(u64::MAX, |c| c.next_look(now));
        Next::At(wish.max(now + PATIENCE).min(own))
    }

    /// Takes one frame, if there is one.
    fn take_in(&mut self, system: &System) -> bool {
        let now = system.clock.now();
        let taken =
            self.interface
                .poll_ingress_single(instant(now), &mut self.device, &mut self.sockets);
        if matches!(taken, PollIngressSingleResult::None) {
            return false;
        }
        if let Some(echo) = &self.echo {
            echo.serve(&mut self.sockets, &system.clock, now);
        }
        true
    }

    /// Sends what the sockets have; whether there is more.
    fn give_out(&mut self, now: u64) -> bool {
        (0..BOUND).all(|_| {
            let sent =
                self.interface
                    .poll_egress(instant(now), &mut self.device, &mut self.sockets);
            for flow in self.flows.iter_mut().flatten() {
                flow.serve(&mut self.sockets);
            }
            matches!(sent, PollResult::SocketStateChanged)
        })
    }

    fn count(&self) {
        let (receiver, transmitter) = (&self.device.receiver, &self.device.transmitter);
        let pairs = [
            (&COUNTERS.received, [receiver.frames, receiver.bytes]),
            (&COUNTERS.sent, [transmitter.frames, transmitter.bytes]),
        ];
        for (counters, values) in pairs {
            for (counter, value) in counters.iter().zip(values) {
                counter.store(value, Ordering::Relaxed);
            }
        }
        COUNTERS.dropped.store(receiver.dropped, Ordering::Relaxed);
    }
}

/// Room for the sockets.
fn storage(arena: &mut Arena) -> Option<&'static mut [SocketStorage<'static>]> {
    let slots = arena.values(SOCKETS, |_| SocketStorage::EMPTY)?;
    Some(slots)
}

fn interface(settings: &Settings, device: &mut NetworkDevice, system: &System) -> Interface {
    let mut config = Config::new(EthernetAddress(device.mac).into());
    config.random_seed = system.set.seed ^ crate::hw::rdtsc();
    let mut interface = Interface::new(config, device, instant(system.clock.now()));
    interface.update_ip_addrs(|addresses| {
        // There is room for one.
        let _ = addresses.push(IpCidr::new(settings.address.into(), settings.prefix));
    });
    if let Some(gateway) = settings.gateway {
        // There is room for one.
        let _ = interface.routes_mut().add_default_ipv4_route(gateway);
    }
    interface
}

/// The time as smoltcp has it.
fn instant(ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(ns / 1000).unwrap_or(i64::MAX))
}

/// The place of the network task in `set`.
pub fn task(set: &TaskSet) -> Option<usize> {
    set.tasks()
        .iter()
        .position(|task| matches!(task.kind, Kind::Network(_)))
}

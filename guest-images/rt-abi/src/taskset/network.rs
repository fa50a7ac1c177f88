//! The guest's network: its interface, its services, and where its virtio devices are.
//!
//! ```text
//! net=10.77.0.2/24[,10.77.0.1][,t=1ms][,prio=N]      address and prefix, gateway; the task that runs the network
//! echo=7 sink=9 source=19                            UDP echo (see [`crate::echo`]); TCP that takes, and gives, without end
//! http=80[,t=1s][,prio=N]                            HTTP whose requests rotate an image (see [`crate::image`])
//! rtp=10.77.0.1:5004[,c=5.68ms][,t=40ms][,rate=1214000][,o=TIME][,prio=N]    streams (see [`crate::rtp`]), any number
//! virtio_mmio.device=4K@0xd0000000:5                 size, address and interrupt, as Linux has it; any number up to 8
//! ```
//!
//! The network task runs on vCPU 0 whenever there is something to do, one bounded piece after the other; `t` gives it its
//! place among the tasks: its period for rate monotonic priorities, and how long after its release its deadline is under EDF.
//! The same holds for the task that serves HTTP requests. Streams are periodic tasks that send a frame at the end of each job.

use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};

use super::check::Of;
use super::error::Problem;
use super::parse::{Item, Seen};
use super::units::{self, Size, Time};
use super::{Kind, LEAST_PERIOD, Name, ParseError, Task, TaskSet};

#[cfg(test)]
mod tests;

/// Most virtio-mmio transports.
pub const MAX_TRANSPORTS: usize = 8;
/// The port that streams are sent from.
pub const STREAM_SOURCE_PORT: u16 = 5004;
/// Interrupts of the one I/O APIC that is supported.
const INTERRUPTS: u32 = 24;
/// Bytes of a virtio-mmio transport's registers before the device's own (virtio 1.2, 4.2.2).
const LEAST_TRANSPORT: u64 = 0x100;

/// The network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interface {
    /// Its address.
    pub address: Ipv4Addr,
    /// Leading bits that all of its network have in common.
    pub prefix: u8,
    /// Who forwards what goes elsewhere.
    pub gateway: Option<Ipv4Addr>,
}

/// A stream of constant bit rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Where it goes.
    pub to: SocketAddrV4,
    /// Bits per second on the wire, Ethernet headers included.
    pub rate: u64,
}

/// Services that are part of the network task, by their ports.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Services {
    /// UDP echo.
    pub echo: Option<u16>,
    /// TCP that takes what it is sent.
    pub sink: Option<u16>,
    /// TCP that sends without end.
    pub source: Option<u16>,
}

/// A virtio-mmio transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transport {
    /// Bytes of its registers.
    pub size: u64,
    /// Where they are.
    pub address: u64,
    /// Its interrupt: a pin of the I/O APIC.
    pub interrupt: u32,
}

impl Stream {
    /// The rate of the streams of the video-on-demand experiment.
    pub const RATE: u64 = 1_214_000;
    /// Nanoseconds between two frames: 25 frames per second.
    pub const PERIOD: u64 = 40_000_000;

    /// Bytes of a frame, counted on the wire, on average and rounded up.
    fn bytes(&self, period: u64) -> u128 {
        (u128::from(self.rate) * u128::from(period)).div_ceil(8_000_000_000)
    }
}

impl Task {
    /// The period of the network task if nothing else is said.
    pub const NETWORK_PERIOD: u64 = 1_000_000;
    /// The period of the task that serves HTTP if nothing else is said.
    pub const WEB_PERIOD: u64 = 1_000_000_000;

    /// The network task.
    #[must_use]
    pub const fn network(interface: Interface, period: u64) -> Self {
        let mut task = Self::periodic(Name::NETWORK, 0, period);
        task.kind = Kind::Network(interface);
        task
    }

    /// The task that serves HTTP requests to `port`.
    #[must_use]
    pub const fn web(port: u16, period: u64) -> Self {
        let mut task = Self::periodic(Name::WEB, 0, period);
        task.kind = Kind::Web(port);
        task
    }

    /// Stream number `number` of a set, each frame of which takes `execution` ns of processor time.
    #[must_use]
    pub const fn streaming(number: u8, stream: Stream, (execution, period): (u64, u64)) -> Self {
        let mut task = Self::periodic(Name::stream(number), execution, period);
        task.stream = Some(stream);
        task
    }

    /// The task without what may be different from one of its kind to the next.
    const fn plain(&self) -> Option<Self> {
        let mut plain = match (self.kind, self.stream) {
            (Kind::Network(interface), None) => Self::network(interface, self.period),
            (Kind::Web(port), None) => Self::web(port, self.period),
            (Kind::Periodic, Some(stream)) => {
                let mut plain = Self::streaming(0, stream, (self.c_min, self.period));
                plain.name = self.name;
                plain.offset = self.offset;
                plain
            }
            _ => return None,
        };
        plain.priority = self.priority;
        Some(plain)
    }
}

impl TaskSet {
    /// The network task's interface.
    #[must_use]
    pub fn interface(&self) -> Option<Interface> {
        self.tasks().iter().find_map(|task| match task.kind {
            Kind::Network(interface) => Some(interface),
            _ => None,
        })
    }

    /// The port of the HTTP service.
    #[must_use]
    pub fn web_port(&self) -> Option<u16> {
        self.tasks().iter().find_map(|task| match task.kind {
            Kind::Web(port) => Some(port),
            _ => None,
        })
    }

    /// The virtio-mmio transports.
    pub fn transports(&self) -> impl Iterator<Item = &Transport> {
        self.transports.iter().flatten()
    }

    /// Appends a transport.
    ///
    /// # Errors
    /// If there are [`MAX_TRANSPORTS`] already.
    pub fn add_transport(&mut self, transport: Transport) -> Result<(), ParseError> {
        match self.transports.iter_mut().find(|slot| slot.is_none()) {
            Some(slot) => {
                *slot = Some(transport);
                Ok(())
            }
            None => {
                let why = "is one too many; the guest looks at 8 devices at most";
                Err(Of(None).conflict(TRANSPORT, transport, why))
            }
        }
    }

    /// How many streams there are.
    fn streams(&self) -> u8 {
        let streams = self.tasks().iter().filter(|task| task.stream.is_some());
        u8::try_from(streams.count()).unwrap_or(u8::MAX)
    }
}

const TRANSPORT: &str = "virtio_mmio.device";

/// Takes the value of a word about the network into `set`; nothing if it is none.
pub(super) fn set(set: &mut TaskSet, item: &Item<'_>) -> Result<(), ParseError> {
    match item.key {
        "net" => set.add(network(item)?),
        "http" => set.add(web(item)?),
        "rtp" => set.add(streaming(set.streams(), item)?),
        "echo" => port(item).map(|port| set.services.echo = Some(port)),
        "sink" => port(item).map(|port| set.services.sink = Some(port)),
        "source" => port(item).map(|port| set.services.source = Some(port)),
        TRANSPORT => set.add_transport(transport(item)?),
        _ => Ok(()),
    }
}

fn port(item: &Item<'_>) -> Result<u16, ParseError> {
    item.number()
}

fn network(item: &Item<'_>) -> Result<Task, ParseError> {
    let expected = "ADDRESS/PREFIX[,GATEWAY][,t=TIME][,prio=N], such as 10.77.0.2/24,10.77.0.1";
    let malformed = || item.error(Problem::Malformed(expected));
    let mut words = item.value.split(',').peekable();
    let (address, prefix) = words
        .next()
        .and_then(|word| word.split_once('/'))
        .ok_or_else(malformed)?;
    let prefix = units::number(prefix).and_then(|prefix| u8::try_from(prefix).ok());
    let mut interface = Interface {
        address: address.parse().map_err(|_| malformed())?,
        prefix: prefix.ok_or_else(malformed)?,
        gateway: None,
    };
    if let Some(gateway) = words.next_if(|word| !word.contains('=')) {
        interface.gateway = Some(gateway.parse().map_err(|_| malformed())?);
    }
    place(Task::network(interface, Task::NETWORK_PERIOD), words)
}

fn web(item: &Item<'_>) -> Result<Task, ParseError> {
    let mut words = item.value.split(',');
    let port = Item {
        value: words.next().unwrap_or_default(),
        ..*item
    };
    place(Task::web(port.number()?, Task::WEB_PERIOD), words)
}

/// `task` with the period and priority that `words` say.
fn place<'a>(mut task: Task, words: impl Iterator<Item = &'a str>) -> Result<Task, ParseError> {
    let mut seen = Seen::default();
    for word in words {
        let item = Item::new(Some(task.name), word)?;
        seen.once(&item, "t, prio")?;
        match item.key {
            "t" => task.period = item.time()?,
            _ => task.priority = Some(item.number()?),
        }
    }
    task.deadline = task.period;
    Ok(task)
}

fn streaming(number: u8, item: &Item<'_>) -> Result<Task, ParseError> {
    let expected = "ADDRESS:PORT[,c=TIME][,t=TIME][,rate=BITS][,o=TIME][,prio=N]";
    let mut words = item.value.split(',');
    let to = words.next().and_then(|word| word.parse().ok());
    let mut stream = Stream {
        to: to.ok_or_else(|| item.error(Problem::Malformed(expected)))?,
        rate: Stream::RATE,
    };
    let mut task = Task::streaming(number, stream, (0, Stream::PERIOD));
    let mut seen = Seen::default();
    for word in words {
        let item = Item::new(Some(task.name), word)?;
        seen.once(&item, "c, t, rate, o, prio")?;
        match item.key {
            "c" => task.c_max = item.time()?,
            "t" => task.period = item.time()?,
            "rate" => stream.rate = item.number()?,
            "o" => task.offset = item.time()?,
            _ => task.priority = Some(item.number()?),
        }
    }
    Ok(Task {
        c_min: task.c_max,
        deadline: task.period,
        stream: Some(stream),
        ..task
    })
}

/// `SIZE@ADDRESS:INTERRUPT`, and `:ID` that does not matter here.
fn transport(item: &Item<'_>) -> Result<Transport, ParseError> {
    let read = || {
        let (size, rest) = item.value.split_once('@')?;
        let mut words = rest.split(':');
        let address = units::number(words.next()?)?;
        let interrupt = u32::try_from(units::number(words.next()?)?).ok()?;
        let id = words.next().map(units::number);
        if id == Some(None) || words.next().is_some() {
            return None;
        }
        let size = units::number(size).or_else(|| Size::parse(size).map(|size| size.0))?;
        Some(Transport {
            size,
            address,
            interrupt,
        })
    };
    let expected = "SIZE@ADDRESS:INTERRUPT, such as 4K@0xd0000000:5";
    read().ok_or_else(|| item.error(Problem::Malformed(expected)))
}

/// Checks what concerns the network of `set` as a whole.
pub(super) fn check(set: &TaskSet) -> Result<(), ParseError> {
    for transport in set.transports() {
        check_transport(transport)?;
    }
    let Services { echo, sink, source } = set.services;
    let ports = [
        ("echo", echo),
        ("http", set.web_port()),
        ("sink", sink),
        ("source", source),
    ];
    let mut given = ports
        .iter()
        .filter_map(|(key, port)| Some((*key, (*port)?)));
    if let Some((key, port)) = given.find(|(_, port)| *port == 0) {
        return Err(Of(None).conflict(key, port, "is no port to listen at; use 1 to 65535"));
    }
    let has_services = ports.iter().any(|(_, port)| port.is_some()) || set.streams() > 0;
    if has_services && set.interface().is_none() {
        let expected = "ADDRESS/PREFIX, such as net=10.77.0.2/24, for the services to be reached";
        return Err(ParseError::new(None, "net", "", Problem::Missing(expected)));
    }
    if let (Some(STREAM_SOURCE_PORT), true) = (echo, set.streams() > 0) {
        let why = "is the port that streams are sent from; use another";
        return Err(Of(None).conflict("echo", STREAM_SOURCE_PORT, why));
    }
    // Echo is UDP, all others are TCP.
    let tcp = ports.get(1..).unwrap_or_default();
    for (place, (key, port)) in tcp.iter().enumerate() {
        let before = tcp.get(..place).unwrap_or_default();
        if let (Some(port), true) = (port, before.iter().any(|(_, other)| other == port)) {
            let why = "is the port of another service; use one of its own";
            return Err(Of(None).conflict(key, port, why));
        }
    }
    Ok(())
}

fn check_transport(transport: &Transport) -> Result<(), ParseError> {
    let end = transport.address.checked_add(transport.size);
    let is_mapped = end.is_some_and(|end| end <= 1 << 32);
    let fits = is_mapped
        && transport.address.is_multiple_of(4)
        && transport.size >= LEAST_TRANSPORT
        && transport.interrupt < INTERRUPTS;
    if fits {
        return Ok(());
    }
    let why = "cannot be driven; it needs 256 bytes below 4 GiB and an interrupt below 24";
    Err(Of(None).conflict(TRANSPORT, transport, why))
}

/// Checks a network task, an HTTP task or a stream by itself; `before` are the tasks before it.
pub(super) fn check_task(task: &Task, before: &[Task]) -> Result<(), ParseError> {
    let of = Of(Some(task.name));
    if task.plain() != Some(*task) {
        let why = "is a service, which has a period and a priority only; a stream also an execution time and an offset";
        return Err(Of(None).conflict("task", task.name, why));
    }
    if task.vcpu != 0 {
        return Err(of.conflict("cpu", task.vcpu, "does not run the network; vCPU 0 does"));
    }
    match (task.kind, task.stream) {
        (Kind::Network(interface), _) => check_interface(of, &interface),
        (_, Some(stream)) => {
            let streams = before.iter().filter(|task| task.stream.is_some()).count();
            if u8::try_from(streams).map(Name::stream) != Ok(task.name) {
                let why = "is not how this stream is called; they are rtp0, rtp1 and so on";
                return Err(Of(None).conflict("task", task.name, why));
            }
            check_stream(of, &stream, task.period)
        }
        _ => Ok(()),
    }
}

fn check_interface(of: Of, interface: &Interface) -> Result<(), ParseError> {
    let Interface {
        address,
        prefix,
        gateway,
    } = *interface;
    of.at_least("net", prefix, ("the shortest prefix", 1))?;
    of.at_most("net", prefix, ("the longest prefix", 31))?;
    let mask = u32::MAX << (32 - u32::from(prefix));
    let is_host = |address: Ipv4Addr| {
        let host = address.to_bits() & !mask;
        let special = address.is_unspecified()
            || address.is_multicast()
            || address.is_broadcast()
            || address.is_loopback();
        !special && (prefix == 31 || (host != 0 && host != !mask))
    };
    if !is_host(address) {
        return Err(of.conflict("net", address, "is not the address of a host"));
    }
    match gateway {
        Some(gateway) if !is_host(gateway) || gateway == address => {
            Err(of.conflict("net", gateway, "is not the address of a gateway"))
        }
        Some(gateway) if (gateway.to_bits() ^ address.to_bits()) & mask != 0 => {
            Err(of.conflict("net", gateway, "is a gateway outside the network"))
        }
        _ => Ok(()),
    }
}

fn check_stream(of: Of, stream: &Stream, period: u64) -> Result<(), ParseError> {
    if stream.to.ip().is_unspecified() || stream.to.port() == 0 {
        return Err(of.conflict(
            "rtp",
            stream.to,
            "is nowhere to send to; write ADDRESS:PORT",
        ));
    }
    let bytes = u64::try_from(stream.bytes(period)).unwrap_or(u64::MAX);
    let (least, most) = (crate::rtp::LEAST_FRAME, crate::rtp::LARGEST_FRAME);
    if !(least..=most).contains(&bytes) {
        let why = "makes frames (rate times t) of less than 128 bytes or more than 64 KiB";
        return Err(of.conflict("rate", stream.rate, why));
    }
    Ok(())
}

/// Writes a network task, an HTTP task or a stream as it is read.
pub(super) fn display(task: &Task, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let usual = match (task.kind, task.stream) {
        (Kind::Network(interface), _) => {
            write!(f, "net={}/{}", interface.address, interface.prefix)?;
            if let Some(gateway) = interface.gateway {
                write!(f, ",{gateway}")?;
            }
            Task::NETWORK_PERIOD
        }
        (Kind::Web(port), _) => {
            write!(f, "http={port}")?;
            Task::WEB_PERIOD
        }
        (_, Some(stream)) => {
            write!(
                f,
                "rtp={},c={},rate={}",
                stream.to,
                Time(task.c_max),
                stream.rate
            )?;
            if task.offset != 0 {
                write!(f, ",o={}", Time(task.offset))?;
            }
            Stream::PERIOD
        }
        _ => return Ok(()),
    };
    if task.period != usual {
        write!(f, ",t={}", Time(task.period))?;
    }
    match task.priority {
        Some(priority) => write!(f, ",prio={priority}"),
        None => Ok(()),
    }
}

impl fmt::Display for Services {
    /// Each with a space before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ports = [
            ("echo", self.echo),
            ("sink", self.sink),
            ("source", self.source),
        ];
        for (key, port) in ports
            .into_iter()
            .filter_map(|(key, port)| Some((key, port?)))
        {
            write!(f, " {key}={port}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}@{:#x}:{}",
            Size(self.size),
            self.address,
            self.interrupt
        )
    }
}

const _: () = assert!(LEAST_PERIOD <= Task::NETWORK_PERIOD);

//! Packets of streams, seen where they leave and where they arrive, with the kernel's time stamps: what this program does
//! late is no jitter of theirs.

use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType,
    recvmsg, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use super::course::Seen;
use super::rtp::Header;
use crate::experiment::ExperimentError;

/// The port that the first stream goes to; every other one goes two further, as RTP has it (RFC 3550, 11).
const FIRST_PORT: u16 = 5_004;
/// Room for what comes while the listener does not run: seconds of it.
const ROOM: usize = 8 << 20;
/// Between two looks at whether it is over.
const GLANCE: u16 = 20;
/// More than a packet.
const LONGEST: usize = 2_048;
/// The protocol number of UDP (RFC 768).
const UDP: u8 = 17;

/// The port of stream `number`, counted from 0.
pub fn port(number: u16) -> u16 {
    FIRST_PORT + 2 * number
}

fn stream_of(port: u16) -> Option<usize> {
    let beyond = port.checked_sub(FIRST_PORT)?;
    (beyond % 2 == 0).then_some(usize::from(beyond / 2))
}

/// The time since the beginning of a run, on the clock of the kernel's time stamps.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Duration,
}

impl Clock {
    /// Begins now.
    pub fn start() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            begun: since.unwrap_or_default(),
        }
    }

    /// Now.
    pub fn now(self) -> Duration {
        Self::start().begun.saturating_sub(self.begun)
    }

    fn at(self, stamp: TimeSpec) -> Duration {
        Duration::from(stamp).saturating_sub(self.begun)
    }
}

/// What a socket brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Layer {
    /// The datagrams of one stream.
    Datagrams { stream: usize },
    /// All packets of an interface, by its index, from the network layer on.
    Packets { interface: usize },
}

/// Sockets that see streams. Opened inside the namespace in which they are to see them.
pub struct Place(Vec<(OwnedFd, Layer)>);

impl Place {
    /// Where `streams` arrive.
    pub fn arrival(streams: u16) -> io::Result<Self> {
        let open = |number| {
            let address = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port(number));
            let socket = OwnedFd::from(UdpSocket::bind(address)?);
            let stream = usize::from(number);
            Ok((stamped(socket)?, Layer::Datagrams { stream }))
        };
        (0..streams).map(open).collect::<io::Result<_>>().map(Self)
    }

    /// Where they leave: an interface (packet(7)).
    pub fn departure(interface: &str) -> io::Result<Self> {
        let index = nix::net::if_::if_nametoindex(interface)?;
        let interface = usize::try_from(index).unwrap_or_default();
        let socket = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        Ok(Self(vec![(stamped(socket)?, Layer::Packets { interface })]))
    }
}

fn stamped(socket: OwnedFd) -> io::Result<OwnedFd> {
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(&socket, sockopt::RcvBufForce, &ROOM)?;
    Ok(socket)
}

type Streams = Arc<Mutex<Vec<Vec<Seen>>>>;

/// Listens until it is dropped.
pub struct Listener {
    streams: Streams,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Begins to listen to `streams` at a place.
    pub fn start(place: Place, streams: u16, clock: Clock) -> Result<Self, ExperimentError> {
        let seen: Streams = Arc::new(Mutex::new(vec![Vec::new(); usize::from(streams)]));
        let over = Arc::new(AtomicBool::new(false));
        let (told, into) = (Arc::clone(&over), Arc::clone(&seen));
        let thread = std::thread::Builder::new()
            .name("listener".to_owned())
            .spawn(move || listen(&place, clock, (&told, &into)))
            .map_err(ExperimentError::io("start a thread"))?;
        Ok(Self {
            streams: seen,
            over,
            thread: Some(thread),
        })
    }

    /// What was seen of each stream, but for the first packets of each that are known.
    pub fn since(&self, known: &[usize]) -> Vec<Vec<Seen>> {
        let streams = lock(&self.streams);
        let new = |(stream, known): (&Vec<Seen>, &usize)| stream.get(*known..).map(<[_]>::to_vec);
        streams
            .iter()
            .zip(known)
            .map(|pair| new(pair).unwrap_or_default())
            .collect()
    }

    /// How many packets were seen of a stream.
    pub fn count(&self, stream: usize) -> usize {
        lock(&self.streams).get(stream).map_or(0, Vec::len)
    }

    /// All that was seen of each stream.
    pub fn all(&self) -> Vec<Vec<Seen>> {
        lock(&self.streams).clone()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

/// Packets are appended one by one: a panic elsewhere leaves what was seen whole.
fn lock(streams: &Mutex<Vec<Vec<Seen>>>) -> MutexGuard<'_, Vec<Vec<Seen>>> {
    streams.lock().unwrap_or_else(PoisonError::into_inner)
}

fn listen(place: &Place, clock: Clock, (over, into): (&AtomicBool, &Mutex<Vec<Vec<Seen>>>)) {
    while !over.load(Ordering::Relaxed) {
        let mut ready: Vec<PollFd> = place
            .0
            .iter()
            .map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
            .collect();
        // Interrupted or timed out: then there is nothing to read.
        if poll(&mut ready, PollTimeout::from(GLANCE)).is_err() {
            continue;
        }
        let ready: Vec<bool> = ready.iter().map(|one| one.any() == Some(true)).collect();
        for ((socket, layer), _) in place.0.iter().zip(ready).filter(|(_, ready)| *ready) {
            while let Some((stream, seen)) = receive(socket, *layer, clock) {
                let streams = &mut *lock(into);
                let packet = seen.zip(stream.and_then(|stream| streams.get_mut(stream)));
                if let Some((seen, stream)) = packet {
                    stream.push(seen);
                }
            }
        }
    }
}

/// The next packet: of which stream, and what of it; nothing when there is none.
fn receive(socket: &OwnedFd, layer: Layer, clock: Clock) -> Option<(Option<usize>, Option<Seen>)> {
    let mut bytes = [0; LONGEST];
    let mut space = nix::cmsg_space!(TimeSpec);
    let (length, at) = {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<LinkAddr>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags);
        let message = message.ok()?;
        let stamp = message.cmsgs().ok()?.find_map(|one| match one {
            ControlMessageOwned::ScmTimestampns(stamp) => Some(stamp),
            _ => None,
        });
        let from = message.address.map(|address| address.ifindex());
        let elsewhere = match layer {
            Layer::Packets { interface } => from != Some(interface),
            Layer::Datagrams { .. } => false,
        };
        if elsewhere {
            return Some((None, None));
        }
        (message.bytes, stamp.map(|stamp| clock.at(stamp)))
    };
    let bytes = bytes.get(..length)?;
    let (stream, datagram) = match layer {
        Layer::Datagrams { stream } => (Some(stream), bytes),
        Layer::Packets { .. } => match datagram(bytes) {
            Some((port, datagram)) => (stream_of(port), datagram),
            None => (None, bytes),
        },
    };
    let seen = Header::parse(datagram).ok().zip(at);
    Some((stream, seen.map(|(header, at)| Seen { header, at })))
}

/// The destination port of an IPv4 packet and its datagram, if it is UDP (RFC 791, 3.1; RFC 768).
fn datagram(packet: &[u8]) -> Option<(u16, &[u8])> {
    let first = *packet.first()?;
    if first >> 4 != 4 || *packet.get(9)? != UDP {
        return None;
    }
    let rest = packet.get(usize::from(first & 0x0f) * 4..)?;
    let port = u16::from_be_bytes([*rest.get(2)?, *rest.get(3)?]);
    Some((port, rest.get(8..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_is_found_behind_options_of_its_packet() {
        let mut packet = vec![0; 24];
        (packet[0], packet[9]) = (0x46, UDP);
        packet.extend([0x13, 0x88, 0x13, 0x8e, 0, 11, 0, 0, 1, 2, 3]);
        assert_eq!(datagram(&packet), Some((5_006, &[1, 2, 3][..])));
        assert_eq!(stream_of(5_006), Some(1));
        packet[9] = 6;
        assert_eq!(datagram(&packet), None);
        for length in 0..28 {
            packet[9] = UDP;
            assert_eq!(datagram(&packet[..length]), None, "{length}");
        }
    }

    #[test]
    fn ports_between_streams_and_below_belong_to_none() {
        assert_eq!(stream_of(port(4)), Some(4));
        assert_eq!(stream_of(5_005), None);
        assert_eq!(stream_of(53), None);
    }
}

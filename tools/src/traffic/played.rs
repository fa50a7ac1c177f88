//! A guest that is played: frames of any kind written to its tap, those that come for it taken, and ARP answered, so that
//! others can talk to it.

use std::io::{self, Read, Write};
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use net::Port;
use net::mac::Mac;
use net::tap::Tap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use vmm::units::BitRate;

use super::flood::{FRAME_BITS, HEADERS, PAYLOAD, batch};
use super::frame::{self, End};
use super::pace::Pace;
use super::{Run, Worker};

/// Before every frame there is a header that says what is left to do with it (VIRTIO 1.2, 5.1.6): nothing.
const HEADER: [u8; 12] = [0; 12];
/// `VIRTIO_NET_HDR_F_NEEDS_CSUM` and `VIRTIO_NET_HDR_GSO_UDP_L4`.
const NEEDS_CHECKSUM: u8 = 1;
const UDP_SEGMENTS: u8 = 5;
/// How long the reader waits before it looks whether it is to go on.
const GLANCE: u16 = 20;
const NAP: Duration = Duration::from_micros(200);
/// What one read takes at most: nothing is left to the reader, so frames are no longer than the link's.
const LONGEST: usize = 16 << 10;

/// Something with a tap.
pub trait Tapped: Send + Sync {
    /// Where its frames are read and written.
    fn tap(&self) -> &Tap;
}

impl Tapped for Tap {
    fn tap(&self) -> &Tap {
        self
    }
}

impl Tapped for Port {
    fn tap(&self) -> &Tap {
        &self.tap
    }
}

/// A guest behind a tap. Dropping it ends its reader.
pub struct Played {
    port: Arc<dyn Tapped>,
    end: End,
    _reader: Worker,
}

impl Played {
    /// A guest with this address behind `tap`.
    pub fn new(port: Arc<dyn Tapped>, mac: Mac, at: SocketAddrV4) -> io::Result<Self> {
        let own = Arc::clone(&port);
        let reader = Worker::start("guest", move |run| read(own.tap(), (mac, at), run))?;
        // The bridge may want to know where it is.
        write(port.tap(), &frame::announcement(mac, *at.ip()));
        Ok(Self {
            port,
            end: End::new(mac, at),
            _reader: reader,
        })
    }

    /// Sends datagrams to `to` at `rate`, as from this guest or from `claimed`. The count is that of datagrams
    /// handed over.
    pub fn flood(&self, to: End, rate: BitRate, claimed: Option<Mac>) -> io::Result<Worker> {
        let mut from = self.end;
        if let Some(mac) = claimed {
            from.mac = mac.octets();
        }
        // As a guest does it that leaves segmenting to others: many datagrams in one frame.
        let batch = batch(rate);
        let mut frame = unfinished(batch > 1).to_vec();
        frame.extend(frame::datagram((from, to), PAYLOAD * batch));
        let port = Arc::clone(&self.port);
        Worker::start("guest's flood", move |run| {
            send(port.tap(), &frame, (rate, batch), run);
        })
    }
}

/// The header of a frame whose datagrams are to be given their checksums, after they were cut apart if there are many.
fn unfinished(many: bool) -> [u8; HEADER.len()] {
    let field = |value: usize| u16::try_from(value).unwrap_or(u16::MAX).to_le_bytes();
    let mut header = HEADER;
    header[0] = NEEDS_CHECKSUM;
    if many {
        header[1] = UDP_SEGMENTS;
        header[2..4].copy_from_slice(&field(HEADERS));
        header[4..6].copy_from_slice(&field(PAYLOAD));
    }
    header[6..8].copy_from_slice(&field(frame::UDP_AT));
    header[8..10].copy_from_slice(&field(frame::CHECKSUM_AT - frame::UDP_AT));
    header
}

fn send(mut tap: &Tap, frame: &[u8], (rate, batch): (BitRate, usize), run: &Run) {
    let mut pace = Pace::new(rate, FRAME_BITS * batch as u64);
    let begin = Instant::now();
    while run.goes_on() {
        let due = pace.due(begin.elapsed());
        for _ in 0..due {
            if tap.write(frame).is_ok() {
                run.add(batch as u64);
            }
        }
        if due == 0 {
            std::thread::sleep(NAP);
        }
    }
}

/// Writes a frame; whether it was taken.
fn write(mut tap: &Tap, frame: &[u8]) -> bool {
    tap.write(&[&HEADER, frame].concat()).is_ok()
}

fn read(tap: &Tap, (mac, at): (Mac, SocketAddrV4), run: &Run) {
    let mut buffer = vec![0; LONGEST];
    while run.goes_on() {
        let mut wanted = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
        if !matches!(poll(&mut wanted, PollTimeout::from(GLANCE)), Ok(1..)) {
            continue;
        }
        let mut from = tap;
        while let Ok(length) = from.read(&mut buffer) {
            run.add(1);
            let received = buffer.get(HEADER.len()..length).unwrap_or_default();
            if let Some(reply) = frame::reply(received, mac, *at.ip()) {
                write(tap, &reply);
            }
        }
    }
}

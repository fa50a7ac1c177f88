//! Datagrams at a constant rate, whatever becomes of them.

use std::io;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use vmm::units::BitRate;

use super::pace::Pace;
use super::{Run, Worker};

/// The payload of a datagram: 1442 bytes on an Ethernet link, without preamble and checksum.
pub const PAYLOAD: usize = 1400;
/// Ethernet, IPv4 and UDP headers.
pub const HEADERS: usize = 14 + 20 + 8;
/// Bits of a datagram as HTB counts them.
pub const FRAME_BITS: u64 = ((PAYLOAD + HEADERS) * 8) as u64;
/// What one system call hands over at most: 45 datagrams are 63000 bytes, below the 65507 that UDP takes.
const MOST: usize = 45;
/// How long a call's datagrams may take at the rate, so that the load is even.
const GRAIN: Duration = Duration::from_micros(500);
/// Bytes that may be on their way.
const BUFFER: usize = 16 << 20;
/// Between two looks at the clock.
const NAP: Duration = Duration::from_micros(200);

/// How many datagrams a call hands over at `rate`.
pub fn batch(rate: BitRate) -> usize {
    let bits = u128::from(rate.bits_per_second()) * GRAIN.as_micros() / 1_000_000;
    let datagrams = bits / u128::from(FRAME_BITS);
    usize::try_from(datagrams).unwrap_or(MOST).clamp(1, MOST)
}

/// A flood; dropping it ends it. Its count is that of datagrams handed over.
#[derive(Debug)]
pub struct Flood {
    worker: Worker,
    begin: Instant,
}

impl Flood {
    /// Sends from a connected `socket` at `rate`, as HTB counts it.
    pub fn start(socket: UdpSocket, rate: BitRate) -> io::Result<Self> {
        let batch = batch(rate);
        if batch > 1 {
            // One call, many datagrams (udp(7), UDP_SEGMENT): a call for each would not fill a gigabit.
            let segment = i32::try_from(PAYLOAD).unwrap_or(i32::MAX);
            setsockopt(&socket.as_fd(), sockopt::UdpGsoSegment, &segment)?;
        }
        // Where the network pushes back a flood does not wait: what is too much is dropped at the queue. Without
        // CAP_NET_ADMIN it waits.
        let _ = setsockopt(&socket.as_fd(), sockopt::SndBufForce, &BUFFER);
        let worker = Worker::start("flood", move |run| send(&socket, (rate, batch), run))?;
        Ok(Self::of(worker))
    }

    /// What `worker`, which has just begun, counts as datagrams of this kind.
    pub fn of(worker: Worker) -> Self {
        Self {
            worker,
            begin: Instant::now(),
        }
    }

    /// Tells it to end, without waiting for that.
    pub fn end(&self) {
        self.worker.end();
    }

    /// What was offered to the network so far, per second, as HTB counts it.
    pub fn offered(&self) -> f64 {
        let bits = self.worker.count() as f64 * FRAME_BITS as f64;
        bits / self.begin.elapsed().as_secs_f64()
    }
}

fn send(socket: &UdpSocket, (rate, batch): (BitRate, usize), run: &Run) {
    let payload = vec![0x5a; PAYLOAD * batch];
    let mut pace = Pace::new(rate, FRAME_BITS * batch as u64);
    let begin = Instant::now();
    while run.goes_on() {
        let due = pace.due(begin.elapsed());
        for _ in 0..due {
            // A full queue, and a receiver that says it is not there, are what a flood is about.
            if socket.send(&payload).is_ok() {
                run.add(batch as u64);
            }
        }
        if due == 0 {
            std::thread::sleep(NAP);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_call_hands_over_what_fits_and_no_more_than_half_a_millisecond(rate in 1_000u64..20_000_000_000) {
            let batch = batch(BitRate::new(rate));
            prop_assert!((1..=MOST).contains(&batch) && batch * PAYLOAD <= 65_507);
            let lasts = batch as f64 * FRAME_BITS as f64 / rate as f64;
            prop_assert!(batch == 1 || lasts <= GRAIN.as_secs_f64());
        }
    }

    #[test]
    fn a_flood_offers_about_its_rate_and_the_datagrams_arrive() {
        let sink = UdpSocket::bind("127.0.0.1:0").unwrap();
        let source = UdpSocket::bind("127.0.0.1:0").unwrap();
        source.connect(sink.local_addr().unwrap()).unwrap();
        let flood = Flood::start(source, BitRate::new(100_000_000)).unwrap();
        let mut buffer = [0; 2048];
        assert_eq!(sink.recv(&mut buffer).unwrap(), PAYLOAD);
        std::thread::sleep(Duration::from_millis(200));
        let offered = flood.offered();
        assert!((2e7..1.2e8).contains(&offered), "{offered}");
    }
}

//! The traffic generator: datagrams at a constant rate, more than best effort's share of the link takes.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use units::BitRate;

use crate::experiment::ExperimentError;
use crate::traffic::{Run, Worker};

/// Bytes of a datagram; on the wire there are 42 more.
const PAYLOAD: usize = 1_328;
const HEADERS: usize = 42;
/// The port that nobody listens at (discard).
const PORT: u16 = 9;
/// How often it sends.
const EVERY: Duration = Duration::from_millis(5);

/// A socket for it. Opened inside the namespace that it is to come from.
pub fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
}

/// Sends to `to` at a rate on the wire, until it is dropped.
pub fn start(socket: UdpSocket, to: Ipv4Addr, rate: BitRate) -> Result<Worker, ExperimentError> {
    let to = SocketAddrV4::new(to, PORT);
    Worker::start("flood", move |run| send(&socket, to, (rate, run)))
        .map_err(ExperimentError::io("start a thread"))
}

fn send(socket: &UdpSocket, to: SocketAddrV4, (rate, run): (BitRate, &Run)) {
    let begin = Instant::now();
    let mut sent = 0;
    while run.goes_on() {
        let due = due(rate, begin.elapsed());
        // What was not sent for want of CPU time is not made up for beyond a tick's worth or two.
        sent = sent.max(due.saturating_sub(due_within(rate, EVERY * 4)));
        while sent < due {
            // Refused or dropped: a flood does not care.
            let _ = socket.send_to(&[0; PAYLOAD], to);
            sent += 1;
        }
        std::thread::sleep(EVERY);
    }
}

/// How many datagrams are to be sent by `time`.
fn due(rate: BitRate, time: Duration) -> u64 {
    let bits = u128::from(rate.bits_per_second()) * time.as_nanos() / 1_000_000_000;
    let bits = u64::try_from(bits).unwrap_or(u64::MAX);
    bits / ((PAYLOAD + HEADERS) as u64 * 8)
}

fn due_within(rate: BitRate, time: Duration) -> u64 {
    due(rate, time) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_what_is_on_the_wire() {
        let rate = BitRate::new(8_000_000);
        assert_eq!(due(rate, Duration::from_secs(1)), 729);
        assert_eq!(due(rate, Duration::ZERO), 0);
    }
}

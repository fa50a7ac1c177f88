//! Round trips of small datagrams.

use std::io;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::Worker;
use crate::report::stats::Distribution;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long a thread waits for a datagram before it looks whether it is to go on.
const GLANCE: Duration = Duration::from_millis(20);
/// The payload of a probe: its number, and padding.
const PROBE: usize = 64;

/// Sends back whatever arrives at `socket`, until it is dropped.
pub fn answer(socket: UdpSocket) -> io::Result<Worker> {
    socket.set_read_timeout(Some(GLANCE))?;
    Worker::start("echo", move |run| {
        let mut buffer = [0; 2048];
        while run.goes_on() {
            if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                // An answer that cannot be sent is one that does not arrive.
                let _ = socket.send_to(&buffer[..length], from);
                run.add(1);
            }
        }
    })
}

/// Takes whatever arrives at `socket`, until it is dropped. Its count is that of bytes.
pub fn sink(socket: UdpSocket) -> io::Result<Worker> {
    socket.set_read_timeout(Some(GLANCE))?;
    Worker::start("sink", move |run| {
        let mut buffer = vec![0; 1 << 16];
        while run.goes_on() {
            if let Ok(length) = socket.recv(&mut buffer) {
                run.add(length as u64);
            }
        }
    })
}

/// One round trip after the other from a connected `socket`, `pause` between them, until `length` has passed; answers
/// that did not come count as unfinished. `glance` is called for each and may end it.
pub fn round_trips<E>(
    socket: &UdpSocket,
    (length, pause): (Duration, Duration),
    mut glance: impl FnMut() -> Result<(), E>,
) -> Result<Distribution, EchoError<E>> {
    socket
        .set_read_timeout(Some(PATIENCE))
        .map_err(EchoError::Socket)?;
    let begin = Instant::now();
    let (mut times, mut lost) = (Vec::new(), 0);
    let mut number = 0u64;
    while begin.elapsed() < length {
        glance().map_err(EchoError::Ended)?;
        match round_trip(socket, number).map_err(EchoError::Socket)? {
            Some(time) => times.push(time),
            None => lost += 1,
        }
        number += 1;
        std::thread::sleep(pause);
    }
    Ok(Distribution::new(times).with_unfinished(lost))
}

/// Why there are no round trips.
#[derive(Debug)]
pub enum EchoError<E> {
    /// The socket failed.
    Socket(io::Error),
    /// Who watched it ended it.
    Ended(E),
}

fn round_trip(socket: &UdpSocket, number: u64) -> io::Result<Option<Duration>> {
    let mut probe = [0; PROBE];
    probe[..8].copy_from_slice(&number.to_be_bytes());
    let mut buffer = [0; 2048];
    let begin = Instant::now();
    socket.send(&probe)?;
    loop {
        match socket.recv(&mut buffer) {
            // A late answer to an earlier probe is none to this one.
            Ok(length) if length >= 8 && buffer[..8] == probe[..8] => {
                return Ok(Some(begin.elapsed()));
            }
            Ok(_) => {}
            Err(error) if is_late(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
        if begin.elapsed() > PATIENCE {
            return Ok(None);
        }
    }
}

/// Nothing came in time, or a signal did: it ends a wait that has a timeout (signal(7)).
fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    #[test]
    fn answers_are_timed_and_those_that_do_not_come_are_counted() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = server.local_addr().unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(at).unwrap();
        let go_on = || Ok::<(), Infallible>(());
        let span = (Duration::from_millis(30), Duration::from_millis(1));
        let echo = answer(server).unwrap();
        let times = round_trips(&client, span, go_on).unwrap();
        assert!(times.count() > 3 && times.unfinished() == 0);
        assert!(times.max().unwrap() < PATIENCE);
        drop(echo);
        let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(deaf.local_addr().unwrap()).unwrap();
        let times = round_trips(&client, span, go_on).unwrap();
        assert_eq!((times.count(), times.unfinished()), (1, 1));
    }
}

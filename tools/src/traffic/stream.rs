//! Bulk transfer over TCP connections.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::Duration;

use super::Worker;

/// How long a thread waits for the network before it looks whether it is to go on.
const GLANCE: Duration = Duration::from_millis(20);
/// What one call hands over.
const CHUNK: usize = 64 << 10;
/// How long a connection may take: a few times as long as the first packet is waited for before it is sent anew (RFC 6298, 2.1).
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Connects the calling thread's namespace to `to`; gives up after `patience`, where the kernel would try for minutes.
pub fn connect(to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::V4(to), patience).map_err(|error| {
        let why = format!("no connection to {to} within {patience:?}: {error}");
        io::Error::new(error.kind(), why)
    })
}

/// Takes whatever arrives on all connections that `listener` accepts, until it is dropped.
pub fn take(listener: TcpListener) -> io::Result<Worker> {
    listener.set_nonblocking(true)?;
    Worker::start("accept", move |run| {
        // Ended with this one.
        let mut readers = Vec::new();
        while run.goes_on() {
            match listener.accept() {
                Ok((stream, _)) => readers.extend(read(stream)),
                Err(_) => std::thread::sleep(GLANCE / 4),
            }
        }
    })
}

/// Takes what arrives on a connection. Its count is that of bytes.
pub fn read(mut stream: TcpStream) -> io::Result<Worker> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(GLANCE))?;
    Worker::start("reader", move |run| {
        let mut buffer = vec![0; CHUNK];
        while run.goes_on() {
            match stream.read(&mut buffer) {
                Ok(0) => return,
                Ok(length) => run.add(length as u64),
                Err(error) if is_late(&error) => {}
                Err(_) => return,
            }
        }
    })
}

/// Sends on a connection as much as the network takes. Its count is that of bytes.
pub fn write(mut stream: TcpStream) -> io::Result<Worker> {
    stream.set_write_timeout(Some(GLANCE))?;
    Worker::start("writer", move |run| {
        let buffer = vec![0x5a; CHUNK];
        while run.goes_on() {
            match stream.write(&buffer) {
                Ok(length) => run.add(length as u64),
                Err(error) if is_late(&error) => {}
                Err(_) => return,
            }
        }
    })
}

fn is_late(error: &io::Error) -> bool {
    // A signal ends a wait that has a timeout (signal(7)).
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, getsockname, listen, socket,
    };
    use std::os::fd::AsRawFd;
    use std::time::Instant;

    #[test]
    fn a_connection_that_nobody_takes_is_given_up_and_named() {
        // Nobody accepts, and no more than one connection may wait for that: the kernel drops the others' first packets.
        let listener = socket(
            AddressFamily::Inet,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .unwrap();
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let at: SockaddrIn = getsockname(listener.as_raw_fd()).unwrap();
        let to = SocketAddrV4::new(at.ip(), at.port());
        let _waiting = connect(to, PATIENCE).unwrap();
        let begin = Instant::now();
        let refused = connect(to, Duration::from_millis(50)).unwrap_err();
        assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
        assert_eq!(refused.kind(), ErrorKind::TimedOut);
        assert!(refused.to_string().contains(&to.to_string()), "{refused}");
    }

    #[test]
    fn what_is_written_is_taken() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let stream = TcpStream::connect(at).unwrap();
        let (other, _) = listener.accept().unwrap();
        let reader = read(other).unwrap();
        let writer = write(stream).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        drop(writer);
        assert!(reader.count() > CHUNK as u64, "{}", reader.count());
    }
}

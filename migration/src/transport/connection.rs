//! A connection: bytes in order, or an error that says why not.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout};
use rustls::{ClientConnection, ServerConnection};

use super::identity::{Security, server_name};
use super::{Settings, TransportError};

/// Bytes asked of the kernel at once. rustls alone asks for 4 KiB.
const READ_AHEAD: usize = 256 << 10;
/// Said by the side that was called once it took the caller's certificate, so that a refusal shows at once: the caller's handshake ends before.
const WELCOME: [u8; 1] = [1];

/// Bytes between two hosts.
pub struct Connection {
    socket: BufReader<TcpStream>,
    tls: Option<rustls::Connection>,
    peer: SocketAddr,
    stall: Duration,
}

/// Ends a connection from another thread, at once: every wait on it ends with an error.
#[derive(Debug)]
pub struct Breaker(TcpStream);

/// Waits for bytes of a connection that another thread may be sending on meanwhile.
#[derive(Debug)]
pub struct Watch(TcpStream);

impl Watch {
    /// Whether there is something to receive, or the other side is gone, before `limit` is over. What was read already and not yet taken does not count
    /// ([`Connection::holds_bytes`]).
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        readable(&self.0, limit)
    }
}

impl Breaker {
    pub(super) fn of(socket: &TcpStream, peer: SocketAddr) -> Result<Self, TransportError> {
        let socket = socket.try_clone();
        socket.map(Self).map_err(|source| TransportError::Socket {
            what: "watch",
            peer,
            source,
        })
    }

    /// Ends the connection.
    pub fn cut(&self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl Connection {
    /// Calls another host. `name` is what its certificate must be for.
    ///
    /// # Errors
    /// When nobody answers in time, or either side refuses the other's certificate.
    pub fn connect(
        address: SocketAddr,
        name: &str,
        security: &Security,
        settings: &Settings,
    ) -> Result<Self, TransportError> {
        let until = Instant::now() + settings.connect;
        let socket = TcpStream::connect_timeout(&address, settings.connect)
            .map_err(|source| TransportError::Connect { address, source })?;
        let mut connection = Self::over(socket, address, settings)?;
        if let Security::Tls(identity) = security {
            let tls = ClientConnection::new(identity.client.clone(), server_name(name)?)
                .map_err(|error| TransportError::from_tls(address, error))?;
            connection.tls = Some(tls.into());
            connection.handshake(until, settings.connect)?;
            connection.welcomed(until, settings.connect)?;
        }
        connection.wait_as_usual()?;
        Ok(connection)
    }

    /// Takes a call.
    pub(super) fn accept(
        socket: TcpStream,
        peer: SocketAddr,
        security: &Security,
        settings: &Settings,
    ) -> Result<Self, TransportError> {
        let until = Instant::now() + settings.connect;
        let mut connection = Self::over(socket, peer, settings)?;
        if let Security::Tls(identity) = security {
            let tls = ServerConnection::new(identity.server.clone())
                .map_err(|error| TransportError::from_tls(peer, error))?;
            connection.tls = Some(tls.into());
            let taken = connection.handshake(until, settings.connect);
            if taken.is_err() {
                connection.let_refusal_arrive();
            }
            taken?;
            connection.send(&WELCOME)?;
        }
        connection.wait_as_usual()?;
        Ok(connection)
    }

    fn over(
        socket: TcpStream,
        peer: SocketAddr,
        settings: &Settings,
    ) -> Result<Self, TransportError> {
        let failed = |what| move |source| TransportError::Socket { what, peer, source };
        socket.set_nodelay(true).map_err(failed("set up"))?;
        if let Some(priority) = settings.priority {
            // The kernel's int; the bits of a class are what counts.
            let priority = priority.cast_signed();
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Priority, &priority)
                .map_err(|errno| failed("prioritise")(errno.into()))?;
        }
        Ok(Self {
            socket: BufReader::with_capacity(READ_AHEAD, socket),
            tls: None,
            peer,
            stall: settings.stall,
        })
    }

    fn wait_as_usual(&self) -> Result<(), TransportError> {
        self.wait_at_most(self.stall)
    }

    fn wait_at_most(&self, limit: Duration) -> Result<(), TransportError> {
        let socket = self.socket.get_ref();
        // Zero would mean for ever.
        let limit = Some(limit.max(Duration::from_micros(1)));
        socket
            .set_read_timeout(limit)
            .and_then(|()| socket.set_write_timeout(limit))
            .map_err(|source| TransportError::Socket {
                what: "set limits on",
                peer: self.peer,
                source,
            })
    }

    /// One step at a time, so that slow steps cannot add up beyond the limit.
    fn handshake(&mut self, until: Instant, limit: Duration) -> Result<(), TransportError> {
        while self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            self.wait_at_most(until.saturating_duration_since(Instant::now()))?;
            if Instant::now() >= until {
                return Err(self.stalled("finish the TLS handshake", limit));
            }
            let step = if self.tls.as_ref().is_some_and(|tls| tls.wants_write()) {
                self.flush_tls()
            } else {
                self.pull().map(|_| ())
            };
            step.map_err(|error| match error {
                TransportError::Stalled { .. } => self.stalled("finish the TLS handshake", limit),
                other => other,
            })?;
        }
        self.flush_tls()
    }

    fn welcomed(&mut self, until: Instant, limit: Duration) -> Result<(), TransportError> {
        self.wait_at_most(until.saturating_duration_since(Instant::now()))?;
        let mut welcome = [0; 1];
        match self.receive(&mut welcome) {
            Err(TransportError::Stalled { .. }) => {
                Err(self.stalled("take this host's certificate", limit))
            }
            other => other,
        }
    }

    /// A socket that is closed with unread bytes resets the connection, and a reset overtakes what was written last: why it was refused.
    fn let_refusal_arrive(&mut self) {
        let socket = self.socket.get_mut();
        let _ = socket.shutdown(Shutdown::Write);
        let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
        let mut rest = [0; 4096];
        for _ in 0..16 {
            if !matches!(socket.read(&mut rest), Ok(1..)) {
                break;
            }
        }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// `SO_PRIORITY` of its packets, where the kernel says.
    #[must_use]
    pub fn priority(&self) -> Option<u32> {
        let socket = self.socket.get_ref();
        let priority = nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::Priority);
        priority.ok().map(i32::cast_unsigned)
    }

    /// What waits for its bytes in another thread.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn watch(&self) -> Result<Watch, TransportError> {
        self.breaker().map(|breaker| Watch(breaker.0))
    }

    /// What ends the connection from another thread.
    ///
    /// # Errors
    /// When the process has too many files open.
    pub fn breaker(&self) -> Result<Breaker, TransportError> {
        Breaker::of(self.socket.get_ref(), self.peer)
    }

    /// Sends all bytes.
    ///
    /// # Errors
    /// When the other side takes nothing within the limit, or is gone.
    pub fn send(&mut self, mut bytes: &[u8]) -> Result<(), TransportError> {
        let Some(tls) = &mut self.tls else {
            let sent = self.socket.get_mut().write_all(bytes);
            return sent.map_err(|error| self.broken(error, "take bytes"));
        };
        let peer = self.peer;
        while !bytes.is_empty() {
            // Encrypts into rustls's own buffer, which is bounded.
            let taken = tls.writer().write(bytes);
            bytes =
                &bytes[taken.map_err(|error| broken(peer, self.stall, error, "take bytes"))?..];
            while tls.wants_write() {
                if let Err(error) = tls.write_tls(self.socket.get_mut()) {
                    return Err(self.why_unsent(error));
                }
            }
        }
        Ok(())
    }

    fn flush_tls(&mut self) -> Result<(), TransportError> {
        while let Some(tls) = self.tls.as_mut().filter(|tls| tls.wants_write()) {
            if let Err(error) = tls.write_tls(self.socket.get_mut()) {
                return Err(self.broken(error, "take bytes"));
            }
        }
        Ok(())
    }

    /// Whoever refuses says so before it goes; that is the better reason.
    fn why_unsent(&mut self, error: io::Error) -> TransportError {
        let unsent = self.broken(error, "take bytes");
        if !matches!(unsent, TransportError::Closed { .. }) {
            return unsent;
        }
        match self.pull() {
            Err(
                said @ (TransportError::OurCertificate { .. } | TransportError::Damaged { .. }),
            ) => said,
            _ => unsent,
        }
    }

    /// Fills `into`.
    ///
    /// # Errors
    /// When the other side sends nothing within the limit, is gone, or its bytes are damaged.
    pub fn receive(&mut self, mut into: &mut [u8]) -> Result<(), TransportError> {
        while !into.is_empty() {
            match self.receive_some(into)? {
                0 => return Err(TransportError::Closed { peer: self.peer }),
                got => into = &mut into[got..],
            }
        }
        Ok(())
    }

    /// As many bytes as there are, at least one; none once the other side has closed in order.
    ///
    /// # Errors
    /// As [`Connection::receive`].
    pub fn receive_some(&mut self, into: &mut [u8]) -> Result<usize, TransportError> {
        loop {
            let got = match &mut self.tls {
                None => self.socket.get_mut().read(into),
                Some(tls) => match tls.reader().read(into) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        if self.pull()? == 0 {
                            return Err(TransportError::Closed { peer: self.peer });
                        }
                        continue;
                    }
                    other => other,
                },
            };
            return got.map_err(|error| self.broken(error, "send bytes"));
        }
    }

    /// Reads and decrypts what the kernel has, or waits for it; how many bytes came.
    fn pull(&mut self) -> Result<usize, TransportError> {
        let Some(tls) = &mut self.tls else {
            return Ok(0);
        };
        let got = match tls.read_tls(&mut self.socket) {
            Ok(got) => got,
            Err(error) => return Err(self.broken(error, "send bytes")),
        };
        if let Err(error) = tls.process_new_packets() {
            // The other side is told why, if it still listens.
            let _ = self.flush_tls();
            return Err(TransportError::from_tls(self.peer, error));
        }
        if got == 0 && self.tls.as_ref().is_some_and(|tls| tls.is_handshaking()) {
            return Err(TransportError::Closed { peer: self.peer });
        }
        Ok(got)
    }

    /// Waits until there is something to receive, or the other side is gone; whether there is.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn wait(&mut self, limit: Duration) -> Result<bool, TransportError> {
        if self.holds_bytes() {
            return Ok(true);
        }
        readable(self.socket.get_ref(), limit).map_err(|source| TransportError::Socket {
            what: "wait on",
            peer: self.peer,
            source,
        })
    }

    /// Whether bytes were read that nobody has taken yet.
    pub fn holds_bytes(&mut self) -> bool {
        !self.socket.buffer().is_empty() || self.holds_plain_bytes()
    }

    fn holds_plain_bytes(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            return false;
        };
        tls.process_new_packets()
            .is_ok_and(|state| state.plaintext_bytes_to_read() > 0)
    }

    /// Says that nothing more will be sent.
    ///
    /// # Errors
    /// When the other side takes nothing within the limit, or is gone.
    pub fn close(&mut self) -> Result<(), TransportError> {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        self.flush_tls()?;
        let closed = self.socket.get_ref().shutdown(Shutdown::Write);
        closed.map_err(|error| self.broken(error, "take bytes"))
    }

    fn stalled(&self, what: &'static str, limit: Duration) -> TransportError {
        TransportError::Stalled {
            peer: self.peer,
            what,
            limit,
        }
    }

    fn broken(&self, error: io::Error, what: &'static str) -> TransportError {
        broken(self.peer, self.stall, error, what)
    }
}

fn broken(
    peer: SocketAddr,
    limit: Duration,
    error: io::Error,
    what: &'static str,
) -> TransportError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            TransportError::Stalled { peer, what, limit }
        }
        ErrorKind::UnexpectedEof
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::WriteZero
        | ErrorKind::NotConnected => TransportError::Closed { peer },
        _ => TransportError::Socket {
            what: "use",
            peer,
            source: error,
        },
    }
}

/// Whether something can be read or accepted there before `limit` is over.
pub(super) fn readable(file: &impl AsFd, limit: Duration) -> io::Result<bool> {
    let until = Instant::now() + limit;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut files = [PollFd::new(file.as_fd(), PollFlags::POLLIN)];
        match nix::poll::poll(&mut files, timeout) {
            Ok(0) if left <= Duration::from_millis(1) => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(errno) => return Err(errno.into()),
        }
    }
}

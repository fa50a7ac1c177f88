//! HTTP connections: requests in, answers out. The work itself is that of the task in [`crate::web`].

use core::fmt::{self, Write};

use rt_abi::http::{self, Received, Request};
use rt_abi::image;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};

use crate::memory::Arena;
use crate::system::System;
use crate::web::{self, CONNECTIONS, Outcome};

/// Bytes that a connection holds in each direction.
const RECEIVE: usize = http::LONGEST;
const SEND: usize = 1024;
/// Bytes of memory that are needed.
pub const MEMORY: u64 = (CONNECTIONS * (RECEIVE + SEND + 128)) as u64;
/// A connection is given up when nothing comes for so long, in nanoseconds, and when its beginning takes so long.
const PATIENCE: u64 = 10_000_000_000;
const PATIENCE_TO_BEGIN: u64 = 1_000_000_000;
/// How often the clock is looked at for this while there is somebody to be patient with.
const LOOK: u64 = 500_000_000;

/// All connections.
pub struct Connections {
    port: u16,
    all: [Connection; CONNECTIONS],
}

/// One connection.
#[derive(Clone, Copy)]
struct Connection {
    socket: SocketHandle,
    phase: Phase,
    /// When it last got on, in nanoseconds, and what its state was then.
    since: u64,
    state: State,
}

/// How far it is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A request is expected.
    Open,
    /// A request is being worked on; what to do with the answer.
    Working { head: bool, keeps: bool },
}

impl Connections {
    /// Listens at `port`.
    pub fn new(port: u16, sockets: &mut SocketSet<'static>, arena: &mut Arena) -> Option<Self> {
        let handles = [(); CONNECTIONS].map(|()| {
            let [receive, send] = [RECEIVE, SEND].map(|size| arena.bytes(size));
            let socket = Socket::new(SocketBuffer::new(receive?), SocketBuffer::new(send?));
            Some(sockets.add(socket))
        });
        let connection = |socket| Connection {
            socket,
            phase: Phase::Open,
            since: 0,
            state: State::Closed,
        };
        let mut all = [connection(handles[0]?); CONNECTIONS];
        for (to, from) in all.iter_mut().zip(handles) {
            *to = connection(from?);
        }
        Some(Self { port, all })
    }

    /// Gets every connection on as far as it goes.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>, system: &'static System, now: u64) {
        for (index, connection) in self.all.iter_mut().enumerate() {
            let socket: &mut Socket = sockets.get_mut(connection.socket);
            connection.serve(socket, (index, self.port), system, now);
        }
    }

    /// When patience is to be looked at again.
    pub fn next_look(&self, now: u64) -> u64 {
        let is_quiet = |c: &Connection| matches!(c.state, State::Listen | State::Closed);
        match self.all.iter().all(is_quiet) {
            true => u64::MAX,
            false => now + LOOK,
        }
    }
}

impl Connection {
    fn serve(
        &mut self,
        socket: &mut Socket<'_>,
        (index, port): (usize, u16),
        system: &'static System,
        now: u64,
    ) {
        if self.state != socket.state() {
            self.state = socket.state();
            self.since = now;
        }
        if let Phase::Working { head, keeps } = self.phase {
            let Some(outcome) = web::finished(index) else {
                return;
            };
            self.phase = Phase::Open;
            self.since = now;
            if socket.may_send() {
                let body = if head { None } else { Some(outcome) };
                answer(socket, "200 OK", (body, keeps));
            }
        }
        if !socket.is_open() {
            // Fails for port 0 only, and for what is open.
            let _ = socket.listen(port);
        } else if socket.can_recv() && socket.may_send() && socket.send_queue() == 0 {
            self.read(socket, index, system, now);
        } else if !socket.may_recv() && socket.may_send() && self.state == State::CloseWait {
            socket.close();
        }
        let patience = match self.state {
            State::Established => PATIENCE,
            State::Listen | State::Closed => u64::MAX,
            _ => PATIENCE_TO_BEGIN,
        };
        if now.saturating_sub(self.since) > patience && self.phase == Phase::Open {
            socket.abort();
        }
    }

    /// Reads a request, if all of it is there.
    fn read(&mut self, socket: &mut Socket<'_>, index: usize, system: &'static System, now: u64) {
        let mut bytes = [0; http::LONGEST];
        let length = socket.peek_slice(&mut bytes).unwrap_or(0);
        match http::receive(bytes.get(..length).unwrap_or_default()) {
            Received::Part => {}
            Received::Bad(status) => {
                answer(socket, status, (None, false));
            }
            Received::Request(Request {
                length,
                head,
                target,
                keeps,
            }) => {
                let is_known = matches!(target, "/" | "/rotate");
                if !is_known {
                    answer(socket, "404 Not Found", (None, keeps));
                } else if web::ask(index, system, now) {
                    self.phase = Phase::Working { head, keeps };
                }
                self.since = now;
                // There is so much. Not `recv`, which stops where the buffer turns over.
                let _ = socket.recv_slice(bytes.get_mut(..length).unwrap_or_default());
            }
        }
    }
}

/// Answers, and closes the connection unless it stays open.
fn answer(socket: &mut Socket<'_>, status: &str, (outcome, keeps): (Option<Outcome>, bool)) {
    let mut body = Text::new();
    let _ = match outcome {
        Some(Outcome { checksum, took }) => writeln!(
            body,
            "rotated {side}x{side} by 20 degrees in {} us, adler32 {checksum:08x}",
            took / 1000,
            side = image::SIDE,
        ),
        None => Ok(()),
    };
    let mut text = Text::new();
    let connection = if keeps { "keep-alive" } else { "close" };
    // Shorter than a text, and than a connection's buffer, which is empty: one request at a time is answered.
    let _ = write!(
        text,
        "HTTP/1.1 {status}\r\nServer: rt-guest\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n",
        body.length
    );
    for part in [&text, &body] {
        let _ = socket.send_slice(part.bytes.get(..part.length).unwrap_or_default());
    }
    if !keeps {
        socket.close();
    }
}

/// A short text.
struct Text {
    bytes: [u8; 320],
    length: usize,
}

impl Text {
    const fn new() -> Self {
        Self {
            bytes: [0; 320],
            length: 0,
        }
    }
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        let room = self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?;
        room.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

//! TCP that takes whatever it is sent, or sends without end: to measure throughput.

use rt_abi::flow::fill;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer};
use smoltcp::time::Duration;

use crate::memory::Arena;

/// Connections of a service at the same time.
pub const CONNECTIONS: usize = 4;
/// Bytes that a connection holds in its one direction, and in the other.
const WIDE: usize = 256 << 10;
const NARROW: usize = 4 << 10;
/// Bytes of memory that a service needs.
pub const MEMORY: u64 = (CONNECTIONS * (WIDE + NARROW + 128)) as u64;
/// A connection whose other side is silent for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Which way it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To the guest.
    Sink,
    /// From the guest.
    Source,
}

/// The service.
pub struct Flow {
    kind: Kind,
    port: u16,
    sockets: [SocketHandle; CONNECTIONS],
    /// Bytes that each connection was given to send.
    sent: [usize; CONNECTIONS],
}

impl Flow {
    /// Listens at `port`.
    pub fn new(
        port: u16,
        kind: Kind,
        sockets: &mut SocketSet<'static>,
        arena: &mut Arena,
    ) -> Option<Self> {
        let (receive, send) = match kind {
            Kind::Sink => (WIDE, NARROW),
            Kind::Source => (NARROW, WIDE),
        };
        let handles = [(); CONNECTIONS].map(|()| {
            let [receive, send] = [receive, send].map(|size| arena.bytes(size));
            let buffers = (SocketBuffer::new(receive?), SocketBuffer::new(send?));
            let mut socket = Socket::new(buffers.0, buffers.1);
            socket.set_nagle_enabled(false);
            socket.set_timeout(Some(PATIENCE));
            socket.set_keep_alive(Some(PATIENCE / 2));
            Some(sockets.add(socket))
        });
        let mut all = [handles[0]?; CONNECTIONS];
        for (to, from) in all.iter_mut().zip(handles) {
            *to = from?;
        }
        Some(Self {
            kind,
            port,
            sockets: all,
            sent: [0; CONNECTIONS],
        })
    }

    /// Empties, or fills, what can be.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>) {
        for (handle, sent) in self.sockets.into_iter().zip(&mut self.sent) {
            let socket: &mut Socket = sockets.get_mut(handle);
            if !socket.is_open() {
                *sent = 0;
                // Fails for port 0 only, and for what is open.
                let _ = socket.listen(self.port);
            }
            // What comes to a source means nothing, and must not fill up.
            while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())) != Ok(0) {}
            if self.kind == Kind::Source && socket.may_send() {
                let next = |room: &mut [u8], sent| {
                    fill(room, sent);
                    (room.len(), room.len())
                };
                while let Ok(given @ 1..) = socket.send(|room| next(room, *sent)) {
                    *sent = sent.wrapping_add(given);
                }
            }
            let is_over = !socket.may_recv() && socket.is_active();
            if is_over && socket.may_send() {
                socket.close();
            }
        }
    }
}

//! UDP echo with times; see [`rt_abi::echo`].

use rt_abi::echo;
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket, UdpMetadata};

use crate::clock::Clock;
use crate::memory::Arena;

/// Datagrams, and bytes of them, that wait in each direction.
const DATAGRAMS: usize = 128;
const BYTES: usize = 64 << 10;
/// Bytes of memory that are needed, with some for bookkeeping.
pub const MEMORY: u64 = 2 * (BYTES as u64 + DATAGRAMS as u64 * 64) + 1024;
/// Bytes of the longest datagram.
const LONGEST: usize = 1472;

/// The service.
pub struct Echo {
    socket: SocketHandle,
}

impl Echo {
    /// Listens at `port`.
    pub fn new(port: u16, sockets: &mut SocketSet<'static>, arena: &mut Arena) -> Option<Self> {
        let mut socket = socket((DATAGRAMS, BYTES), arena)?;
        socket.bind(port).ok()?;
        Some(Self {
            socket: sockets.add(socket),
        })
    }

    /// Answers what came at the time `received`.
    pub fn serve(&self, sockets: &mut SocketSet<'_>, clock: &Clock, received: u64) {
        let socket: &mut Socket = sockets.get_mut(self.socket);
        let mut datagram = [0; LONGEST];
        while socket.can_recv() && socket.can_send() {
            // A datagram that is too long is dropped by this.
            let Ok((length, from)) = socket.recv_slice(&mut datagram) else {
                continue;
            };
            let bytes = datagram.get_mut(..length).unwrap_or_default();
            echo::stamp(bytes, received, clock.now());
            let to = UdpMetadata {
                local_address: from.local_address,
                ..from.endpoint.into()
            };
            // Without room for it the answer is lost, as on any way.
            let _ = socket.send_slice(bytes, to);
        }
    }
}

/// A UDP socket with room for so many datagrams and bytes in each direction.
pub fn socket((datagrams, bytes): (usize, usize), arena: &mut Arena) -> Option<Socket<'static>> {
    let mut buffer = || {
        let metadata = arena.values(datagrams, |_| PacketMetadata::EMPTY)?;
        Some(PacketBuffer::new(metadata, arena.bytes(bytes)?))
    };
    Some(Socket::new(buffer()?, buffer()?))
}

//! Sends the frames of streams whose tasks have made them; see [`rt_abi::rtp`].

use rt_abi::rtp::{Frame, Packet};
use rt_abi::taskset::network::STREAM_SOURCE_PORT;
use rt_abi::taskset::{MAX_TASKS, Stream, Task};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp::Socket;

use super::echo;
use crate::memory::Arena;
use crate::system::System;
use crate::task;

/// Packets, and bytes of them, that wait to be sent.
const PACKETS: usize = 128;
const BYTES: usize = 128 << 10;
/// Bytes of memory that are needed, with some for bookkeeping.
pub const MEMORY: u64 = 2 * (BYTES as u64 + PACKETS as u64 * 64) + 1024;
/// Source identifiers (SSRC) count on from here.
const FIRST_SOURCE: u32 = 0x4348_0000;

/// All streams.
pub struct Streams {
    socket: SocketHandle,
    next: [Position; MAX_TASKS],
}

/// What a stream sends next.
#[derive(Clone, Copy)]
struct Position {
    frame: u64,
    packet: u32,
    sequence: u16,
}

impl Streams {
    /// With nothing sent.
    pub fn new(sockets: &mut SocketSet<'static>, arena: &mut Arena) -> Option<Self> {
        let mut socket = echo::socket((PACKETS, BYTES), arena)?;
        socket.bind(STREAM_SOURCE_PORT).ok()?;
        let start = Position {
            frame: 0,
            packet: 0,
            sequence: 0,
        };
        Some(Self {
            socket: sockets.add(socket),
            next: [start; MAX_TASKS],
        })
    }

    /// Sends what was made, as far as there is room.
    pub fn serve(&mut self, sockets: &mut SocketSet<'_>, system: &System) {
        let socket: &mut Socket = sockets.get_mut(self.socket);
        // What comes means nothing, and must not fill up.
        while socket.recv().is_ok() {}
        let tasks = system.set.tasks().iter().enumerate();
        for (index, task) in tasks {
            let (Some(stream), Some(next)) = (task.stream, self.next.get_mut(index)) else {
                continue;
            };
            let source = FIRST_SOURCE + u32::try_from(index).unwrap_or(0);
            let made = task::state(index).jobs_done();
            while next.frame < made && next.send(socket, (task, &stream, source), system) {}
        }
    }
}

impl Position {
    /// Sends one packet and goes on; whether there was room.
    fn send(
        &mut self,
        socket: &mut Socket<'_>,
        (task, stream, source): (&Task, &Stream, u32),
        system: &System,
    ) -> bool {
        let frame = Frame::new(self.frame, stream.rate, task.period);
        let is_last = self.packet + 1 == frame.packets;
        let packet = Packet {
            last: is_last,
            sequence: self.sequence,
            timestamp: frame.timestamp(task.period),
            source,
            frame: self.frame,
            made: system.clock.now(),
        };
        let to = core::net::SocketAddr::V4(stream.to);
        let Ok(room) = socket.send(frame.size(self.packet), to) else {
            return false;
        };
        packet.write(room);
        self.sequence = self.sequence.wrapping_add(1);
        (self.frame, self.packet) = match is_last {
            true => (self.frame + 1, 0),
            false => (self.frame, self.packet + 1),
        };
        true
    }
}

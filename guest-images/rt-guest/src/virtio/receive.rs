//! Frames from the device.
//!
//! Receive buffers follow one another in memory and are offered in that order. A frame that needs several of them therefore lies
//! in one piece, but for its few bytes of header, unless it begins near the end of the last one or the device does as it likes:
//! then it is copied.

use smoltcp::phy;

use super::network::{HEADER, NEEDS_CHECKSUM};
use super::queue::{self, Queue};
use super::{Registers, Trouble};
use crate::memory::{self, Arena};

/// Bytes of a receive buffer.
const BUFFER: u32 = 2048;
/// Bytes of the longest frame with its header: 64 KiB that are to be segmented.
pub const LARGEST: usize = 65_536 + 256;
/// The flag in a frame's header that its checksum was checked.
const DATA_VALID: u8 = 2;
/// Which queue it is.
pub const INDEX: u32 = 0;
/// Bytes of memory that are needed.
pub const MEMORY: u64 = queue::MEMORY + BUFFER as u64 * queue::LONGEST as u64 + LARGEST as u64 + 64;

/// The receive queue and its buffers.
pub struct Receiver {
    queue: Queue,
    buffers: u64,
    /// For frames that do not lie in one piece.
    copy: &'static mut [u8],
    /// Whether frames whose checksum nobody checked are checked here.
    checks: bool,
    is_mergeable: bool,
    /// Frames and bytes received, and frames dropped.
    pub frames: u64,
    /// See `frames`.
    pub bytes: u64,
    /// See `frames`.
    pub dropped: u64,
}

/// A received frame that is still in its buffers.
#[derive(Debug, Clone, Copy)]
struct Place {
    /// Its buffers, in the order of use.
    count: u16,
    first: u16,
    /// Bytes with the header.
    length: usize,
    is_whole: bool,
}

impl Receiver {
    /// All buffers offered.
    pub fn new(
        arena: &mut Arena,
        queue: Queue,
        (checks, is_mergeable): (bool, bool),
    ) -> Result<Self, Trouble> {
        let size = u64::from(queue.size()) * u64::from(BUFFER);
        let mut receiver = Self {
            buffers: arena.take(size, 4096).ok_or(Trouble::Memory)?,
            copy: arena.bytes(LARGEST).ok_or(Trouble::Memory)?,
            queue,
            checks,
            is_mergeable,
            frames: 0,
            bytes: 0,
            dropped: 0,
        };
        for id in 0..receiver.queue.size() {
            let address = receiver.address(id);
            receiver.queue.describe(id, address, BUFFER, queue::WRITE);
            receiver.queue.offer(id);
        }
        Ok(receiver)
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Makes the device see the buffers that are free again.
    pub fn flush(&mut self, registers: &Registers) {
        if self.queue.publish() {
            registers.notify(INDEX);
        }
    }

    fn address(&self, id: u16) -> u64 {
        self.buffers + u64::from(id) * u64::from(BUFFER)
    }

    /// `length` bytes at the beginning of buffer `id` and of those that follow it.
    fn slice(&self, id: u16, length: usize) -> &[u8] {
        let end = u64::from(id) * u64::from(BUFFER) + length as u64;
        let bytes = match end <= u64::from(self.queue.size()) * u64::from(BUFFER) {
            true => memory::bytes(self.address(id), length as u64).unwrap_or_default(),
            false => &[],
        };
        // SAFETY:
        // - the bytes are those of buffers in the arena's memory that were taken for them only;
        // - the device has given these buffers back and writes no more to them until they are offered again, which takes
        //   `self` for itself.
        unsafe { core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len()) }
    }

    /// The next frame, if there is one.
    pub fn next(&mut self) -> Option<Token<'_>> {
        loop {
            let place = self.find()?;
            if self.is_good(place) {
                self.frames += 1;
                self.bytes += (place.length - HEADER) as u64;
                return Some(Token {
                    receiver: self,
                    place,
                });
            }
            self.dropped += 1;
            self.give_back(place.count);
        }
    }

    /// Where the next frame is. All of its buffers are used once the first one is (virtio 1.2, 5.1.6.4).
    fn find(&self) -> Option<Place> {
        let waiting = self.queue.waiting().min(self.queue.size());
        let (first, length) = (waiting > 0).then(|| self.queue.used(0))?;
        let count = match self.slice(first, HEADER) {
            [.., low, high] if self.is_mergeable => u16::from_le_bytes([*low, *high]),
            _ => 1,
        };
        let count = count.clamp(1, waiting);
        let mut place = Place {
            count,
            first,
            length: usize::try_from(length.min(BUFFER)).unwrap_or(0),
            is_whole: true,
        };
        for ahead in 1..count {
            let (id, length) = self.queue.used(ahead);
            let is_full = self.queue.used(ahead - 1).1 == BUFFER;
            place.is_whole &= is_full && id == first + ahead;
            place.length += usize::try_from(length.min(BUFFER)).unwrap_or(0);
        }
        Some(place)
    }

    /// Whether a frame is worth looking at; copies it into one piece if it is not in one.
    fn is_good(&mut self, place: Place) -> bool {
        if place.length <= HEADER || place.length > LARGEST {
            return false;
        }
        if !place.is_whole {
            self.gather(place);
        }
        let flags = self.slice(place.first, 1).first().copied().unwrap_or(0);
        let is_checked = flags & (NEEDS_CHECKSUM | DATA_VALID) != 0;
        !self.checks || is_checked || rt_abi::frame::is_intact(self.frame(place))
    }

    fn gather(&mut self, place: Place) {
        let mut copy = core::mem::take(&mut self.copy);
        let mut at = 0;
        for ahead in 0..place.count {
            let (id, length) = self.queue.used(ahead);
            let part = self.slice(id, usize::try_from(length.min(BUFFER)).unwrap_or(0));
            if let Some(room) = copy.get_mut(at..at + part.len()) {
                room.copy_from_slice(part);
            }
            at += part.len();
        }
        core::mem::swap(&mut self.copy, &mut copy);
    }

    /// The frame without its header.
    fn frame(&self, place: Place) -> &[u8] {
        let bytes = match place.is_whole {
            true => self.slice(place.first, place.length),
            false => self.copy.get(..place.length).unwrap_or_default(),
        };
        bytes.get(HEADER..).unwrap_or_default()
    }

    /// Offers the next `count` used buffers again.
    fn give_back(&mut self, count: u16) {
        for ahead in 0..count {
            let (id, _) = self.queue.used(ahead);
            self.queue.offer(id);
        }
        self.queue.take(count);
    }
}

/// A received frame; its buffers are offered again when it has been looked at.
pub struct Token<'a> {
    receiver: &'a mut Receiver,
    place: Place,
}

impl phy::RxToken for Token<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        let result = look(self.receiver.frame(self.place));
        self.receiver.give_back(self.place.count);
        result
    }
}

//! Frames to the device.
//!
//! They lie one after the other in one piece of memory that is used in turn, each in one piece with its header. A frame may be as
//! long as 64 KiB and is then segmented by the device, or by whoever is behind it.

use core::num::NonZeroU16;

use rt_abi::frame;
use smoltcp::phy::{self, PacketMeta};

use super::network::{HEADER, NEEDS_CHECKSUM};
use super::queue::{self, Queue};
use super::{Registers, Trouble};
use crate::memory::Arena;

/// Bytes of all frames that wait to be sent.
const SIZE: u64 = 512 << 10;
/// Frames start at multiples of this.
const ALIGN: u64 = 64;
/// Bytes that the longest frame takes up, with its header.
pub const LARGEST: u64 = (HEADER as u64 + u16::MAX as u64).next_multiple_of(ALIGN);
/// After so many bytes the device is told, though more may follow at once.
const BATCH: u64 = 128 << 10;
/// Which queue it is.
pub const INDEX: u32 = 1;
/// Bytes of memory that are needed.
pub const MEMORY: u64 = queue::MEMORY + SIZE + 4096;
/// `VIRTIO_NET_HDR_GSO_TCPV4`.
const GSO_TCP4: u8 = 1;

/// The transmit queue and its memory. Places in the memory are counted on beyond its end.
pub struct Transmitter {
    queue: Queue,
    memory: &'static mut [u8],
    registers: Registers,
    /// Whether the device computes checksums.
    leaves_checksums: bool,
    /// Place of the next frame, and of the oldest that the device may still read.
    head: u64,
    tail: u64,
    /// Frames offered, and of these the number of those that are done in this order.
    offered: u64,
    done: u64,
    /// For each descriptor: where its frame ends, and whether the device is done with it.
    ends: [(u64, bool); queue::LONGEST as usize],
    /// Bytes since the device was told.
    untold: u64,
    /// Whether a frame found no room since the last look.
    pub is_short: bool,
    /// Frames and bytes sent.
    pub frames: u64,
    /// See `frames`.
    pub bytes: u64,
}

impl Transmitter {
    /// With nothing to send.
    pub fn new(
        arena: &mut Arena,
        queue: Queue,
        registers: Registers,
        leaves_checksums: bool,
    ) -> Result<Self, Trouble> {
        queue.be_quiet();
        let size = usize::try_from(SIZE).map_err(|_| Trouble::Memory)?;
        Ok(Self {
            queue,
            memory: arena.bytes(size).ok_or(Trouble::Memory)?,
            registers,
            leaves_checksums,
            head: 0,
            tail: 0,
            offered: 0,
            done: 0,
            ends: [(0, false); queue::LONGEST as usize],
            untold: 0,
            is_short: false,
            frames: 0,
            bytes: 0,
        })
    }

    /// The queue.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Takes back the memory of frames that were sent.
    fn reclaim(&mut self) {
        while self.queue.waiting() > 0 {
            let (id, _) = self.queue.used(0);
            self.queue.take(1);
            if let Some((_, is_done)) = self.ends.get_mut(usize::from(id)) {
                *is_done = true;
            }
        }
        while self.done < self.offered {
            match self.ends.get(self.descriptor(self.done)) {
                Some((end, true)) => self.tail = *end,
                _ => break,
            }
            self.done += 1;
        }
    }

    /// Which descriptor the frame that is offered as number `number` has.
    fn descriptor(&self, number: u64) -> usize {
        usize::try_from(number % u64::from(self.queue.size())).unwrap_or(0)
    }

    /// A place for a frame of any length, if there is one, and room for `more` bytes after it.
    pub fn room(&mut self, more: u64) -> Option<Token<'_>> {
        self.reclaim();
        let place = match self.head % SIZE + LARGEST {
            ..=SIZE => self.head,
            _ => self.head.next_multiple_of(SIZE),
        };
        let has_descriptor = self.offered - self.done < u64::from(self.queue.size());
        if !has_descriptor || place + LARGEST + more > self.tail + SIZE {
            self.is_short = true;
            return None;
        }
        Some(Token {
            transmitter: self,
            place,
            segment: None,
        })
    }

    /// Makes the device see what is to be sent.
    pub fn flush(&mut self) {
        self.untold = 0;
        if self.queue.publish() {
            self.registers.notify(INDEX);
        }
    }

    /// Sends the `length` bytes of header and frame at `place`.
    fn send(&mut self, place: u64, length: usize, segment: Option<NonZeroU16>) {
        let start = usize::try_from(place % SIZE).unwrap_or(0);
        let Some(bytes) = self.memory.get_mut(start..start + length) else {
            return;
        };
        let (header, frame) = bytes.split_at_mut(HEADER);
        write_header(header, frame, (self.leaves_checksums, segment));
        let address = bytes.as_ptr().addr() as u64;
        let id = self.descriptor(self.offered);
        let end = (place + length as u64).next_multiple_of(ALIGN);
        if let (Some(slot), Ok(id)) = (self.ends.get_mut(id), u16::try_from(id)) {
            *slot = (end, false);
            let length = u32::try_from(length).unwrap_or(0);
            self.queue.describe(id, address, length, 0);
            self.queue.offer(id);
        }
        self.head = end;
        self.offered += 1;
        self.frames += 1;
        self.bytes += (length - HEADER) as u64;
        self.untold += length as u64;
        if self.untold >= BATCH {
            self.flush();
        }
    }
}

/// Fills in the header of a frame, `virtio_net_hdr` (virtio 1.2, 5.1.6), and leaves the checksum to the device if it may.
fn write_header(
    header: &mut [u8],
    frame: &mut [u8],
    (leaves_checksum, segment): (bool, Option<NonZeroU16>),
) {
    header.fill(0);
    let transport = match leaves_checksum {
        true => frame::leave_checksum(frame),
        false => None,
    };
    let Some(transport) = transport else { return };
    let [flags, kind, fields @ ..] = header else {
        return;
    };
    *flags = NEEDS_CHECKSUM;
    let mut length = 0;
    let mut size = 0;
    if let Some(segment) = segment {
        *kind = GSO_TCP4;
        (length, size) = (transport.headers, segment.get());
    }
    let values = [length, size, transport.start, transport.checksum];
    for (field, value) in fields.as_chunks_mut().0.iter_mut().zip(values) {
        *field = value.to_le_bytes();
    }
}

/// A place for a frame.
pub struct Token<'a> {
    transmitter: &'a mut Transmitter,
    place: u64,
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for Token<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let start = usize::try_from(self.place % SIZE).unwrap_or(0) + HEADER;
        let frame = self
            .transmitter
            .memory
            .get_mut(start..start + length)
            .expect("no frame is longer than the capabilities say");
        let result = fill(frame);
        self.transmitter
            .send(self.place, HEADER + length, self.segment);
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

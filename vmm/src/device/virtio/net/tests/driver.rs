//! A driver on the host's side: registers by the transport, queues by guest memory, as a guest's would.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;

use vm_memory::{Bytes, GuestAddress};

use crate::device::Device;
use crate::device::virtio::net::{Card, Desk, Identity, Net, Offloads, Wire};
use crate::device::virtio::{F_EVENT_IDX, F_VERSION_1, Notifier, Transport};
use crate::memory::Ram;

pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Descriptors of a queue.
pub const SIZE: u16 = 16;
/// Where the queues lie: table, available ring, used ring, each in a page.
const QUEUES: [u64; 2] = [0x1000, 0x4000];
/// Buffers lie from here on.
pub const BUFFERS: u64 = 0x1_0000;
pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// One end of a pair of sockets as the wire.
pub struct Socket(pub UnixDatagram);

impl Wire for Socket {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn set_offloads(&self, _: Offloads) -> io::Result<()> {
        Ok(())
    }
}

pub fn wire() -> (UnixDatagram, Box<Socket>) {
    let (host, device) = UnixDatagram::pair().unwrap();
    host.set_nonblocking(true).unwrap();
    device.set_nonblocking(true).unwrap();
    (host, Box::new(Socket(device)))
}

/// A machine's memory with a hole, a device, and what its driver knows.
pub struct Driver {
    pub ram: Ram,
    pub device: Transport<Net>,
    pub desk: Arc<Desk>,
    available: [u16; 2],
    seen: [u16; 2],
}

/// Memory with a hole between 0x40000 and 0x80000, and nothing from 0xc0000 on.
pub fn memory() -> Ram {
    let ranges = [
        (GuestAddress(0), 0x4_0000),
        (GuestAddress(0x8_0000), 0x4_0000),
    ];
    Ram::from_ranges(&ranges).unwrap()
}

impl Driver {
    pub fn new(wire: Box<dyn Wire>) -> Self {
        Self::of(memory(), wire)
    }

    pub fn of(ram: Ram, wire: Box<dyn Wire>) -> Self {
        let notifier = Arc::new(Notifier::new().unwrap());
        let identity = Identity {
            mac: MAC,
            mtu: 1500,
        };
        let card = Card { identity, wire };
        let (net, desk) = Net::new(card, &ram, Arc::clone(&notifier)).unwrap();
        Self {
            ram,
            device: Transport::new(net, notifier),
            desk,
            available: [0; 2],
            seen: [0; 2],
        }
    }

    pub fn set(&mut self, offset: u64, value: u32) {
        let _ = self.device.write(offset, &value.to_le_bytes());
    }

    pub fn get(&mut self, offset: u64) -> u32 {
        let mut word = [0; 4];
        self.device.read(offset, &mut word);
        u32::from_le_bytes(word)
    }

    /// Resets and initialises the device as virtio 1.2, section 3.1.1, says.
    pub fn start(&mut self, features: u64) -> &mut Self {
        self.negotiate(features);
        for queue in 0..2 {
            self.set_queue(queue);
        }
        self.set(0x70, 15);
        self
    }

    pub fn negotiate(&mut self, features: u64) {
        self.set(0x70, 0);
        self.set(0x70, 1);
        self.set(0x70, 3);
        let features = features | F_VERSION_1;
        let words = [features & 0xffff_ffff, features >> 32];
        for (number, word) in (0..).zip(words) {
            self.set(0x24, number);
            self.set(0x20, u32::try_from(word).unwrap());
        }
        self.set(0x70, 11);
        (self.available, self.seen) = ([0; 2], [0; 2]);
    }

    pub fn set_queue(&mut self, queue: usize) {
        let at = QUEUES[queue];
        self.ram
            .write_slice(&[0; 0x3000], GuestAddress(at))
            .unwrap();
        self.set(0x30, u32::try_from(queue).unwrap());
        self.set(0x38, u32::from(SIZE));
        for (register, page) in [(0x80, 0), (0x90, 1), (0xa0, 2)] {
            self.set(register, u32::try_from(at + 0x1000 * page).unwrap());
            self.set(register + 4, 0);
        }
        self.set(0x44, 1);
    }

    /// Writes a descriptor into a queue's table.
    pub fn describe(
        &self,
        queue: usize,
        index: u16,
        (address, length): (u64, u32),
        (flags, next): (u16, u16),
    ) {
        self.describe_at(QUEUES[queue], index, (address, length), (flags, next));
    }

    pub fn describe_at(
        &self,
        table: u64,
        index: u16,
        (address, length): (u64, u32),
        (flags, next): (u16, u16),
    ) {
        let at = GuestAddress(table + 16 * u64::from(index));
        self.ram.write_obj(address, at).unwrap();
        let rest = u64::from(next) << 48 | u64::from(flags) << 32 | u64::from(length);
        self.ram.write_obj(rest, GuestAddress(at.0 + 8)).unwrap();
    }

    /// Makes the chain that begins at `head` available.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let ring = QUEUES[queue] + 0x1000;
        let slot = u64::from(self.available[queue] % SIZE);
        self.ram
            .write_obj(head, GuestAddress(ring + 4 + 2 * slot))
            .unwrap();
        self.available[queue] = self.available[queue].wrapping_add(1);
        self.set_available(queue, self.available[queue]);
    }

    pub fn set_available(&self, queue: usize, index: u16) {
        self.ram
            .write_obj(index, GuestAddress(QUEUES[queue] + 0x1002))
            .unwrap();
    }

    /// Interrupts again only after the used index has passed `index` (event index).
    pub fn set_used_event(&self, queue: usize, index: u16) {
        let at = QUEUES[queue] + 0x1004 + 2 * u64::from(SIZE);
        self.ram.write_obj(index, GuestAddress(at)).unwrap();
    }

    /// Head and length of the next element that the device has used.
    pub fn used(&mut self, queue: usize) -> Option<(u32, u32)> {
        let ring = QUEUES[queue] + 0x2000;
        let index: u16 = self.ram.read_obj(GuestAddress(ring + 2)).unwrap();
        if index == self.seen[queue] {
            return None;
        }
        let at = ring + 4 + 8 * u64::from(self.seen[queue] % SIZE);
        self.seen[queue] = self.seen[queue].wrapping_add(1);
        let head = self.ram.read_obj(GuestAddress(at)).unwrap();
        Some((head, self.ram.read_obj(GuestAddress(at + 4)).unwrap()))
    }

    /// Offers `count` buffers of `length` bytes for frames, one after the other.
    pub fn offer_buffers(&mut self, count: u16, length: u32) {
        for index in 0..count {
            let address = BUFFERS + u64::from(index) * u64::from(length);
            self.describe(0, index, (address, length), (WRITE, 0));
            self.offer(0, index);
        }
    }

    pub fn bytes(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.ram
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub fn needs_reset(&mut self) -> bool {
        self.get(0x70) & 64 != 0
    }
}

/// With an event index.
pub const EVENT_INDEX: u64 = F_EVENT_IDX;

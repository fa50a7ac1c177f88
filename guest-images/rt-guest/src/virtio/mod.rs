//! Virtio devices behind virtio-mmio (virtio 1.2, 4.2), version 2 only.

pub mod network;
mod queue;
mod receive;
mod transmit;

use core::fmt;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, Ordering};

use rt_abi::taskset::Transport;

use crate::memory;
use queue::Queue;

/// The vendor whose devices signal every event as an edge, acknowledged or not: this project.
const OWN_VENDOR: u32 = u32::from_le_bytes(*b"CHRV");
/// "virt".
const MAGIC: u32 = 0x7472_6976;
const VERSION: u32 = 2;
/// Register offsets (virtio 1.2, table 4.1).
const MAGIC_VALUE: usize = 0x00;
const DEVICE_VERSION: usize = 0x04;
const DEVICE_ID: usize = 0x08;
const VENDOR_ID: usize = 0x0c;
const DEVICE_FEATURES: usize = 0x10;
const DEVICE_FEATURES_SELECT: usize = 0x14;
const DRIVER_FEATURES: usize = 0x20;
const DRIVER_FEATURES_SELECT: usize = 0x24;
const QUEUE_SELECT: usize = 0x30;
const QUEUE_SIZE_MAX: usize = 0x34;
const QUEUE_SIZE: usize = 0x38;
const QUEUE_READY: usize = 0x44;
const QUEUE_NOTIFY: usize = 0x50;
const INTERRUPT_ACKNOWLEDGE: usize = 0x64;
const STATUS: usize = 0x70;
const QUEUE_ADDRESSES: [usize; 3] = [0x80, 0x90, 0xa0];
const CONFIGURATION: u64 = 0x100;
/// Bits of the status.
const ACKNOWLEDGE: u32 = 1;
const DRIVER: u32 = 2;
const DRIVER_OK: u32 = 4;
const FEATURES_OK: u32 = 8;
/// Bits of the interrupt status: used buffers, and a changed configuration.
const INTERRUPTS: u32 = 3;
/// Features of every device.
const EVENT_INDEX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

/// Why a device cannot be driven.
#[derive(Debug, Clone, Copy)]
pub enum Trouble {
    /// There is no device of this kind at any transport.
    NoDevice,
    /// The transport is of the version before virtio 1.0.
    Legacy(u64),
    /// A feature that is needed is missing, or the features are not taken.
    Features(u64),
    /// A queue is missing or too short.
    Queue(u32),
    /// Not enough memory.
    Memory,
    /// The interrupt goes nowhere.
    Interrupt(u32),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDevice => f.write_str(
                "no virtio-net device; name its transport with virtio_mmio.device=SIZE@ADDRESS:INTERRUPT",
            ),
            Self::Legacy(address) => write!(
                f,
                "the virtio device at {address:#x} is a legacy one; under QEMU, say -global virtio-mmio.force-legacy=false"
            ),
            Self::Features(missing) => {
                write!(f, "the virtio device lacks features {missing:#x}")
            }
            Self::Queue(queue) => write!(f, "queue {queue} of the virtio device is too short"),
            Self::Memory => f.write_str("the virtio queues do not fit into memory"),
            Self::Interrupt(pin) => write!(f, "interrupt {pin} has no pin at the I/O APIC"),
        }
    }
}

/// The registers of a device.
#[derive(Debug, Clone, Copy)]
pub struct Registers {
    address: u64,
    words: &'static [AtomicU32],
    /// Whether the line stays up until an interrupt is acknowledged.
    wants_acknowledgement: bool,
}

impl Registers {
    /// The registers at `transport`, if there is a device of kind `id`.
    ///
    /// # Errors
    /// If it is a legacy one.
    fn find(transport: &Transport, id: u32) -> Result<Option<Self>, Trouble> {
        let count = transport.size.min(CONFIGURATION) / 4;
        let Some(words) = memory::half_words(transport.address, count) else {
            return Ok(None);
        };
        let mut registers = Self {
            address: transport.address,
            words,
            wants_acknowledgement: true,
        };
        let is_one = registers.read(MAGIC_VALUE) == MAGIC;
        if !is_one || registers.read(DEVICE_ID) != id {
            return Ok(None);
        }
        registers.wants_acknowledgement = registers.read(VENDOR_ID) != OWN_VENDOR;
        match registers.read(DEVICE_VERSION) {
            VERSION => Ok(Some(registers)),
            _ => Err(Trouble::Legacy(transport.address)),
        }
    }

    fn read(&self, offset: usize) -> u32 {
        self.words
            .get(offset / 4)
            .map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn write(&self, offset: usize, value: u32) {
        if let Some(word) = self.words.get(offset / 4) {
            word.store(value, Ordering::Release);
        }
    }

    /// Resets the device and settles on the features in `wanted` that it has; those of `needed` it must have.
    fn negotiate(&self, wanted: u64, needed: u64) -> Result<u64, Trouble> {
        self.write(STATUS, 0);
        self.write(STATUS, ACKNOWLEDGE | DRIVER);
        let offered = [0, 1].map(|half| {
            self.write(DEVICE_FEATURES_SELECT, half);
            self.read(DEVICE_FEATURES)
        });
        let [low, high] = offered.map(u64::from);
        let features = (low | high << 32) & (wanted | needed);
        if features & needed != needed {
            return Err(Trouble::Features(needed & !features));
        }
        for (half, shift) in [(0, 0), (1, 32)] {
            let bits = u32::try_from(features >> shift & 0xffff_ffff).unwrap_or(0);
            self.write(DRIVER_FEATURES_SELECT, half);
            self.write(DRIVER_FEATURES, bits);
        }
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
        match self.read(STATUS) & FEATURES_OK {
            0 => Err(Trouble::Features(features)),
            _ => Ok(features),
        }
    }

    /// The length that queue `index` may have.
    fn queue_size(&self, index: u32) -> u32 {
        self.write(QUEUE_SELECT, index);
        self.read(QUEUE_SIZE_MAX)
    }

    /// Hands `queue` over as queue `index`.
    fn set_queue(&self, index: u32, queue: &Queue) {
        self.write(QUEUE_SELECT, index);
        self.write(QUEUE_SIZE, queue.size().into());
        for (register, address) in QUEUE_ADDRESSES.into_iter().zip(queue.addresses()) {
            // Everything lies below 4 GiB.
            self.write(register, u32::try_from(address).unwrap_or(0));
            self.write(register + 4, 0);
        }
        self.write(QUEUE_READY, 1);
    }

    fn set_ready(&self) {
        self.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    }

    /// Tells the device that there is something in queue `index`.
    fn notify(&self, index: u32) {
        self.write(QUEUE_NOTIFY, index);
    }

    /// Lets the device interrupt again where its line is high until it is told so.
    fn acknowledge(&self) {
        if self.wants_acknowledgement {
            self.write(INTERRUPT_ACKNOWLEDGE, INTERRUPTS);
        }
    }

    /// `count` bytes of the configuration from `offset` on, each read by itself.
    fn configuration_bytes(&self, offset: u64, count: u64) -> Option<&'static [AtomicU8]> {
        memory::bytes(self.address + CONFIGURATION + offset, count)
    }

    /// Two bytes of the configuration.
    fn configuration_u16(&self, offset: u64) -> Option<u16> {
        let word: &AtomicU16 =
            memory::quarter_words(self.address + CONFIGURATION + offset, 1)?.first()?;
        Some(word.load(Ordering::Relaxed))
    }
}

//! The network device (virtio 1.2, 5.1), as smoltcp wants it.

use core::fmt;
use core::num::NonZeroUsize;
use core::sync::atomic::Ordering;

use rt_abi::taskset::TaskSet;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::queue::{self, Queue};
use super::{EVENT_INDEX, Registers, Trouble, VERSION_1, receive, transmit};
use crate::io_apic;
use crate::memory::Arena;

/// Bytes of memory that the device needs.
pub const MEMORY: u64 = receive::MEMORY + transmit::MEMORY;
/// Bytes of the header in front of each frame, with the number of its buffers.
pub const HEADER: usize = 12;
/// The flag in it that the checksum is to be computed.
pub const NEEDS_CHECKSUM: u8 = 1;

/// The kind of device.
const NETWORK: u32 = 1;
/// Features (virtio 1.2, 5.1.3).
const CHECKSUM: u64 = 1 << 0;
const GUEST_CHECKSUM: u64 = 1 << 1;
const MTU: u64 = 1 << 3;
const MAC: u64 = 1 << 5;
const GUEST_TSO4: u64 = 1 << 7;
const GUEST_ECN: u64 = 1 << 9;
const HOST_TSO4: u64 = 1 << 11;
const MERGEABLE_BUFFERS: u64 = 1 << 15;
const WANTED: u64 = CHECKSUM
    | GUEST_CHECKSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_ECN
    | HOST_TSO4
    | MERGEABLE_BUFFERS
    | EVENT_INDEX;
/// Offset of the MTU in the configuration.
const CONFIGURATION_MTU: u64 = 10;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Largest MTU: what streams are made for.
const LARGEST_MTU: u16 = 1500;
/// Least MTU of IPv4 (RFC 791, 68) and of what makes sense here.
const LEAST_MTU: u16 = 576;
/// A room that is left for answers where others may not send any more: the longest is an echoed ICMP message.
const ROOM_FOR_ANSWERS: u64 = transmit::LARGEST;

/// The device.
pub struct NetworkDevice {
    registers: Registers,
    /// Whether the device was asked to interrupt and may have.
    listens: bool,
    features: u64,
    mtu: u16,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// What comes.
    pub receiver: receive::Receiver,
    /// What goes.
    pub transmitter: transmit::Transmitter,
}

impl NetworkDevice {
    /// Drives the first network device at the transports of `set`.
    ///
    /// # Errors
    /// If there is none, or it lacks what is needed.
    pub fn new(set: &TaskSet, arena: &mut Arena) -> Result<Self, Trouble> {
        let mut found = Err(Trouble::NoDevice);
        for transport in set.transports() {
            if let Some(registers) = Registers::find(transport, NETWORK)? {
                found = Ok((registers, transport.interrupt));
                break;
            }
        }
        let (registers, interrupt) = found?;
        let mut features = registers.negotiate(WANTED, VERSION_1)?;
        if features & MERGEABLE_BUFFERS == 0 && features & GUEST_TSO4 != 0 {
            // Long frames would need long buffers.
            features = registers.negotiate(WANTED & !GUEST_TSO4, VERSION_1)?;
        }
        let queues = [receive::INDEX, transmit::INDEX].map(|index| {
            let longest = registers.queue_size(index).min(queue::LONGEST.into());
            let size = u16::try_from(longest).ok().filter(|size| *size >= 16);
            let size = size.ok_or(Trouble::Queue(index))?;
            let size = 1 << size.ilog2();
            let has_event_index = features & EVENT_INDEX != 0;
            let queue = Queue::new(arena, size, has_event_index).ok_or(Trouble::Memory)?;
            registers.set_queue(index, &queue);
            Ok(queue)
        });
        let [receiving, sending] = queues;
        let mergeable = features & MERGEABLE_BUFFERS != 0;
        let checks = features & GUEST_CHECKSUM != 0;
        let receiver = receive::Receiver::new(arena, receiving?, (checks, mergeable))?;
        let leaves = features & CHECKSUM != 0;
        let transmitter = transmit::Transmitter::new(arena, sending?, registers, leaves)?;
        io_apic::enable(interrupt).ok_or(Trouble::Interrupt(interrupt))?;
        registers.set_ready();
        Ok(Self {
            mac: mac(&registers, features),
            mtu: mtu(&registers, features),
            registers,
            listens: true,
            features,
            receiver,
            transmitter,
        })
    }

    /// Takes note of interrupts and asks for no more.
    pub fn begin(&mut self) {
        self.transmitter.is_short = false;
        if !core::mem::take(&mut self.listens) {
            return;
        }
        self.registers.acknowledge();
        self.receiver.queue().be_quiet();
        self.transmitter.queue().be_quiet();
    }

    /// Shows the device what is new.
    pub fn flush(&mut self) {
        self.receiver.flush(&self.registers);
        self.transmitter.flush();
    }

    /// Asks to be interrupted when there is something to do; whether there is already.
    #[must_use]
    pub fn listen(&mut self) -> bool {
        self.listens = true;
        let has_received = self.receiver.queue().listen();
        let has_room = self.transmitter.is_short && self.transmitter.queue().listen();
        has_received || has_room
    }
}

/// The device's address, or one of those that anybody may use.
fn mac(registers: &Registers, features: u64) -> [u8; 6] {
    let mut mac = [2, 0, 0, 0, 0, 1];
    if let (true, Some(bytes)) = (features & MAC != 0, registers.configuration_bytes(0, 6)) {
        for (to, from) in mac.iter_mut().zip(bytes) {
            *to = from.load(Ordering::Relaxed);
        }
    }
    mac
}

fn mtu(registers: &Registers, features: u64) -> u16 {
    let own = match features & MTU {
        0 => None,
        _ => registers.configuration_u16(CONFIGURATION_MTU),
    };
    own.unwrap_or(LARGEST_MTU).clamp(LEAST_MTU, LARGEST_MTU)
}

impl Device for NetworkDevice {
    type RxToken<'a> = receive::Token<'a>;
    type TxToken<'a> = transmit::Token<'a>;

    fn receive(&mut self, _: Instant) -> Option<(receive::Token<'_>, transmit::Token<'_>)> {
        let answer = self.transmitter.room(0)?;
        Some((self.receiver.next()?, answer))
    }

    fn transmit(&mut self, _: Instant) -> Option<transmit::Token<'_>> {
        self.transmitter.room(ROOM_FOR_ANSWERS)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + ETHERNET;
        let checksum = match (
            self.features & GUEST_CHECKSUM != 0,
            self.features & CHECKSUM != 0,
        ) {
            (true, true) => Checksum::None,
            (true, false) => Checksum::Tx,
            (false, true) => Checksum::Rx,
            (false, false) => Checksum::Both,
        };
        capabilities.checksum.tcp = checksum;
        capabilities.checksum.udp = checksum;
        if self.features & HOST_TSO4 != 0 {
            // With the Ethernet header: no more than `transmit::LARGEST` has room for.
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(usize::from(u16::MAX));
        }
        capabilities
    }
}

impl fmt::Display for NetworkDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.mac.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "mac " } else { ":" })?;
        }
        write!(f, " mtu {}", self.mtu)?;
        let names = [
            (CHECKSUM, "csum"),
            (GUEST_CHECKSUM, "guest_csum"),
            (HOST_TSO4, "tso"),
            (GUEST_TSO4, "guest_tso"),
            (MERGEABLE_BUFFERS, "mergeable"),
            (EVENT_INDEX, "event_idx"),
        ];
        for (_, name) in names.iter().filter(|(bit, _)| self.features & bit != 0) {
            write!(f, " {name}")?;
        }
        Ok(())
    }
}

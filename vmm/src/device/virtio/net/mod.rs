//! The network device (virtio 1.2, section 5.1): one pair of queues between the guest and a tap.
//!
//! ```text
//! tap --readv--> receive queue --> guest        Engine: both queues at work, under one lock
//! tap <-writev-- transmit queue <-- guest       Worker: the thread that drives it, in a reservation of its own
//! ```
//!
//! The lock is taken by the thread for each stretch of work, by a vCPU thread that starts or resets the device, and by the
//! owner, who has it for a moment only unless the thread stands still. The thread only tries it, and has it for no call
//! that may wait.

mod counters;
mod pace;
mod receive;
mod transmit;
mod wire;
mod worker;

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::Ram;

use super::ring::Ring;
use super::{
    Backend, F_EVENT_IDX, F_INDIRECT_DESC, Fault, Notifier, RingState, notifier::USED_BUFFER,
};
use counters::Counters;
use receive::{Pause, Receiver};
use transmit::Transmitter;

pub use counters::NetworkCounters;
pub use wire::{Offloads, Wire};
pub use worker::{Worker, WorkerError};

/// Bytes of the header before every frame (`struct virtio_net_hdr_v1`).
pub const HEADER: usize = 12;
/// Descriptors of either queue at most.
const QUEUE_SIZE: u16 = 256;
const QUEUES: [u16; 2] = [QUEUE_SIZE; 2];
/// Queue numbers.
const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

/// VIRTIO_NET_F_*, by bit (virtio 1.2, section 5.1.3).
mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}
use feature::{
    CSUM, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, HOST_ECN, HOST_TSO4, HOST_TSO6, MAC,
    MRG_RXBUF, MTU, STATUS,
};

const OFFERED: u64 = F_INDIRECT_DESC
    | F_EVENT_IDX
    | CSUM
    | GUEST_CSUM
    | MTU
    | MAC
    | GUEST_TSO4
    | GUEST_TSO6
    | GUEST_ECN
    | HOST_TSO4
    | HOST_TSO6
    | HOST_ECN
    | MRG_RXBUF
    | STATUS;

/// The features on the left need one of those on the right (section 5.1.3.1).
const NEEDS: [(u64, u64); 6] = [
    (GUEST_TSO4, GUEST_CSUM),
    (GUEST_TSO6, GUEST_CSUM),
    (GUEST_ECN, GUEST_TSO4 | GUEST_TSO6),
    (HOST_TSO4, CSUM),
    (HOST_TSO6, CSUM),
    (HOST_ECN, HOST_TSO4 | HOST_TSO6),
];

/// VIRTIO_NET_S_LINK_UP.
const LINK_UP: u16 = 1;
/// Frames of one direction before the other has its turn.
const BUDGET: usize = 16;

/// What a guest reads of its device, and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Its address.
    pub mac: [u8; 6],
    /// The longest packet, without Ethernet header.
    pub mtu: u16,
}

/// What a network device is made of.
pub struct Card {
    /// What the guest reads of it.
    pub identity: Identity,
    /// The host's end.
    pub wire: Box<dyn Wire>,
}

/// The device's side towards its registers.
pub struct Net {
    identity: Identity,
    desk: Arc<Desk>,
}

/// What the device, its thread and their owner share.
pub struct Desk {
    engine: Mutex<Engine>,
    wire: Box<dyn Wire>,
    wake: worker::Wake,
    notifier: Arc<Notifier>,
    counters: Counters,
}

/// Both queues at work.
struct Engine {
    ram: Ram,
    mtu: u16,
    receiver: Receiver,
    transmitter: Transmitter,
    /// The driver has set it to work.
    works: bool,
    /// The owner has it stand still.
    stands: bool,
    /// What frames may come with, and what the wire was told of that.
    offloads: Offloads,
    told: Option<Offloads>,
}

/// What may have something for the device's thread to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Ready {
    /// The tap has frames, and the guest may have buffers.
    receive: bool,
    /// The guest may have frames, and the tap may take them.
    transmit: bool,
    /// There is no tap any more.
    gone: bool,
}

impl Ready {
    /// There may be anything to do.
    fn all(&mut self) {
        (self.receive, self.transmit) = (true, true);
    }
}

/// When there is something to do again, the latest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Next {
    /// When somebody says so.
    Wait,
    /// Now.
    Now,
}

impl From<Pause> for Next {
    fn from(pause: Pause) -> Self {
        match pause {
            Pause::Budget => Self::Now,
            Pause::Empty | Pause::Starved => Self::Wait,
        }
    }
}

impl Net {
    /// A device, and what it shares with its thread.
    ///
    /// # Errors
    /// If no eventfd can be had.
    pub fn new(card: Card, ram: &Ram, notifier: Arc<Notifier>) -> io::Result<(Self, Arc<Desk>)> {
        let Card { identity, wire } = card;
        let engine = Engine {
            ram: ram.clone(),
            mtu: identity.mtu,
            receiver: Receiver::new(ram.clone(), QUEUE_SIZE),
            transmitter: Transmitter::new(ram.clone(), QUEUE_SIZE),
            works: false,
            stands: false,
            offloads: Offloads::default(),
            told: None,
        };
        let desk = Arc::new(Desk {
            engine: Mutex::new(engine),
            wire,
            wake: worker::Wake::new(QUEUES.len())?,
            notifier,
            counters: Counters::default(),
        });
        let net = Self {
            identity,
            desk: Arc::clone(&desk),
        };
        Ok((net, desk))
    }

    /// How many queues it has.
    #[must_use]
    pub fn queue_count() -> usize {
        QUEUES.len()
    }
}

impl Desk {
    /// What KVM is to signal when the guest notifies a queue (ioeventfd).
    #[must_use]
    pub fn notification(&self, queue: usize) -> &vmm_sys_util::eventfd::EventFd {
        self.wake.kick(queue)
    }

    /// Its interrupt.
    #[must_use]
    pub fn notifier(&self) -> &Arc<Notifier> {
        &self.notifier
    }

    /// The counters now.
    #[must_use]
    pub fn counters(&self) -> NetworkCounters {
        self.counters.now()
    }

    fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does all there is to do, on the calling thread: for who has no [`Worker`].
    pub fn work_off(&self) {
        let mut ready = Ready::default();
        ready.all();
        while self.work(&mut ready) != Next::Wait {}
    }

    /// Does what is to be done, but not for long.
    fn work(&self, ready: &mut Ready) -> Next {
        let Ok(mut engine) = self.engine.try_lock() else {
            // Whoever has it wakes the thread afterwards.
            return Next::Wait;
        };
        if !engine.works || engine.stands {
            // The first look after it has begun to work is at everything.
            ready.all();
            return Next::Wait;
        }
        if engine.told != Some(engine.offloads) {
            return self.tell(engine);
        }
        let worked = match ready.gone {
            true => Err(Fault::Gone),
            false => engine.work(self, ready),
        };
        worked.unwrap_or_else(|fault| self.fail(&mut engine, fault))
    }

    /// Tells the wire what the driver takes. The kernel has its lock of all interfaces meanwhile, for which no vCPU thread
    /// that wants `engine` is to wait.
    fn tell(&self, mut engine: MutexGuard<'_, Engine>) -> Next {
        let offloads = engine.offloads;
        engine.told = None;
        drop(engine);
        let told = self.wire.set_offloads(offloads);
        let Ok(mut engine) = self.engine.try_lock() else {
            return Next::Wait;
        };
        if engine.stands {
            // It is asked again when it goes on.
            return Next::Wait;
        }
        match told {
            Ok(()) => engine.told = Some(offloads),
            Err(_) if !engine.works => {}
            Err(error) if wire::is_gone(&error) => return self.fail(&mut engine, Fault::Gone),
            Err(_) => return self.fail(&mut engine, Fault::Offloads),
        }
        Next::Now
    }

    /// Stops the device until it is reset.
    fn fail(&self, engine: &mut Engine, fault: Fault) -> Next {
        engine.stop();
        match fault {
            Fault::Gone | Fault::Offloads => self.counters.tap_errors.add(1),
            _ => self.counters.faults.add(1),
        }
        self.notifier.fail(fault);
        Next::Wait
    }
}

impl Engine {
    fn start(&mut self, features: u64, queues: &[RingState]) -> Result<(), Fault> {
        self.stop();
        let ring = |number: usize| {
            let state = queues.get(number).ok_or(Fault::Queue)?;
            Ring::new(state, QUEUE_SIZE, features & F_EVENT_IDX != 0, &self.ram)
        };
        let (receive, transmit) = (ring(RECEIVE)?, ring(TRANSMIT)?);
        let has = |feature: u64| features & feature != 0;
        self.offloads = Offloads {
            checksum: has(GUEST_CSUM),
            tcp4: has(GUEST_TSO4),
            tcp6: has(GUEST_TSO6),
            ecn: has(GUEST_ECN),
            udp: false,
        };
        let is_whole = !(self.offloads.tcp4 || self.offloads.tcp6);
        let frame = is_whole.then(|| HEADER + 14 + 4 + usize::from(self.mtu));
        self.receiver.start(receive, has(MRG_RXBUF), frame);
        self.transmitter.start(transmit);
        self.works = true;
        Ok(())
    }

    fn stop(&mut self) {
        self.works = false;
        self.receiver.stop();
        self.transmitter.stop();
    }

    fn work(&mut self, desk: &Desk, ready: &mut Ready) -> Result<Next, Fault> {
        let mut next = Next::Wait;
        let (ram, tap, counters) = (&self.ram, desk.wire.descriptor(), &desk.counters);
        let mut interrupt = false;
        if ready.transmit {
            let pause = self.transmitter.work(ram, tap, counters, BUDGET)?;
            ready.transmit = pause == Pause::Budget;
            next = next.max(pause.into());
            interrupt |= self.transmitter.wants_interrupt(ram)?;
            // A peer on this host has answered while the kernel took the frames: the answer shares their interrupt.
            ready.receive = true;
        }
        if ready.receive {
            let pause = self.receiver.work(ram, tap, counters, BUDGET)?;
            ready.receive = pause == Pause::Budget;
            next = next.max(pause.into());
            interrupt |= self.receiver.wants_interrupt(ram)?;
        }
        if interrupt {
            counters.interrupts.add(1);
            desk.notifier.raise(USED_BUFFER);
        }
        Ok(next)
    }
}

impl Identity {
    fn bytes(self) -> [u8; 8] {
        let [a, b, c, d, e, f] = self.mac;
        let [low, high] = self.mtu.to_le_bytes();
        [a, b, c, d, e, f, low, high]
    }
}

impl Backend for Net {
    fn id(&self) -> u32 {
        1
    }

    fn kind(&self) -> &'static str {
        "virtio-net"
    }

    fn features(&self) -> u64 {
        OFFERED
    }

    fn takes(&self, features: u64) -> bool {
        NEEDS
            .iter()
            .all(|(wanting, needed)| features & wanting == 0 || features & needed != 0)
    }

    fn queues(&self) -> &'static [u16] {
        &QUEUES
    }

    /// `struct virtio_net_config` (section 5.1.4): address, status, one pair of queues, mtu.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let [a, b, c, d, e, f] = self.identity.mac;
        let [up, up_high] = LINK_UP.to_le_bytes();
        let [mtu, mtu_high] = self.identity.mtu.to_le_bytes();
        let config = [a, b, c, d, e, f, up, up_high, 1, 0, mtu, mtu_high];
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let bytes = config.iter().skip(from).chain(std::iter::repeat(&0));
        data.iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
    }

    fn activate(&mut self, features: u64, queues: &[RingState]) -> Result<(), Fault> {
        let started = self.desk.engine().start(features, queues);
        self.desk.wake.all();
        started
    }

    fn deactivate(&mut self) {
        self.desk.engine().stop();
        self.desk.wake.all();
    }

    fn progress(&self) -> Option<Vec<RingState>> {
        let engine = self.desk.engine();
        let both = [engine.receiver.progress()?, engine.transmitter.progress()?];
        Some(both.to_vec())
    }

    /// Address, MTU, and the frame that waits for the guest's room, if one does.
    fn save(&self) -> Vec<u8> {
        let mut bytes = self.identity.bytes().to_vec();
        bytes.extend(self.desk.engine().receiver.held());
        bytes
    }

    fn take_up(&mut self, saved: &[u8]) {
        let held = saved.get(self.identity.bytes().len()..);
        let mut engine = self.desk.engine();
        if !engine.receiver.hold(held.unwrap_or_default()) {
            self.desk.counters.too_long.add(1);
        }
    }

    fn is_like(&self, saved: &[u8]) -> Result<(), String> {
        let Some((identity, held)) = saved.split_first_chunk() else {
            return Err("it has no address".to_owned());
        };
        if held.len() > receive::LONGEST {
            return Err(format!("it holds a frame of {} bytes", held.len()));
        }
        if *identity == self.identity.bytes() {
            return Ok(());
        }
        let [mac @ .., low, high] = *identity;
        let mtu = u16::from_le_bytes([low, high]);
        let octets = mac.map(|octet| format!("{octet:02x}")).join(":");
        Err(format!(
            "the guest has mac = \"{octets}\" and mtu = {mtu}; write that into [network] of its specification"
        ))
    }
}

#[cfg(test)]
mod tests;

//! The registers of a device (virtio 1.2, section 4.2): negotiation, queues, status, interrupt, configuration.
//!
//! Runs on the vCPU thread that touches it. The data path does not come here: notifications are eventfds, interrupts
//! irqfds, and acknowledgements are held back by KVM ([`Notifier`]).

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{F_VERSION_1, Fault, Notifier, RingState};
use crate::device::{Device, DeviceState, Effect, RestoreError};

/// Bytes of a device's window.
pub const WINDOW: u64 = 0x1000;
/// Where the driver notifies, by the number of the queue.
pub const QUEUE_NOTIFY: u64 = 0x50;
/// Where the driver acknowledges interrupts.
pub const INTERRUPT_ACK: u64 = 0x64;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"CHRV");
const CONFIG: u64 = 0x100;

const FEATURES_OK: u32 = 8;
const DRIVER_OK: u32 = 4;
const NEEDS_RESET: u32 = 64;
/// ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK, FAILED.
const DRIVERS: u32 = 1 | 2 | DRIVER_OK | FEATURES_OK | 128;

const STATE_VERSION: u16 = 2;

/// A kind of device behind a transport.
pub trait Backend: Send {
    /// Its number (virtio 1.2, section 5).
    fn id(&self) -> u32;
    /// The name of its saved form.
    fn kind(&self) -> &'static str;
    /// The features it offers; the transport adds its own.
    fn features(&self) -> u64;
    /// Whether it can work with these of its features.
    fn takes(&self, features: u64) -> bool;
    /// The longest that each of its queues can be.
    fn queues(&self) -> &'static [u16];
    /// Reads its configuration; what there is not is 0.
    fn read_config(&self, offset: u64, data: &mut [u8]);
    /// Goes to work.
    ///
    /// # Errors
    /// [`Fault`]; it does not work then.
    fn activate(&mut self, features: u64, queues: &[RingState]) -> Result<(), Fault>;
    /// Stops working. When this returns the device touches no guest memory any more.
    fn deactivate(&mut self);
    /// How far the queues have come, if it works.
    fn progress(&self) -> Option<Vec<RingState>>;
    /// What of it is saved beside registers and queues.
    fn save(&self) -> Vec<u8>;
    /// Takes up what was saved, which is of a device like this and worked as this one does now.
    fn take_up(&mut self, saved: &[u8]);
    /// Whether what was saved is of a device like this.
    ///
    /// # Errors
    /// Why it is not.
    fn is_like(&self, saved: &[u8]) -> Result<(), String>;
}

/// A device's registers.
pub struct Transport<B> {
    backend: B,
    notifier: Arc<Notifier>,
    registers: Registers,
}

/// What the driver has set, as saved.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Registers {
    status: u32,
    device_features_word: u32,
    driver_features_word: u32,
    driver_features: u64,
    queue: u32,
    queues: Vec<RingState>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StateV2 {
    registers: Registers,
    events: u32,
    needs_reset: bool,
    backend: Vec<u8>,
}

impl<B: Backend> Transport<B> {
    /// A device in reset.
    #[must_use]
    pub fn new(backend: B, notifier: Arc<Notifier>) -> Self {
        let registers = Registers::new(&backend);
        Self {
            backend,
            notifier,
            registers,
        }
    }

    fn features(&self) -> u64 {
        self.backend.features() | F_VERSION_1
    }

    fn register(&self, offset: u64) -> u32 {
        let registers = &self.registers;
        match offset {
            0x00 => MAGIC,
            0x04 => VERSION,
            0x08 => self.backend.id(),
            0x0c => VENDOR,
            0x10 => word(self.features(), registers.device_features_word),
            0x34 => {
                let queue = usize::try_from(registers.queue).unwrap_or(usize::MAX);
                let size = self.backend.queues().get(queue);
                size.map_or(0, |&size| u32::from(size))
            }
            0x44 => registers.selected().map_or(0, |ring| ring.ready.into()),
            0x60 => self.notifier.show(),
            0x70 => self.status(),
            // There is no shared memory: its length is -1 (section 4.2.2).
            0xb0..=0xbc => u32::MAX,
            _ => 0,
        }
    }

    fn status(&self) -> u32 {
        let broken = self.notifier.needs_reset();
        self.registers.status | if broken { NEEDS_RESET } else { 0 }
    }

    fn set_register(&mut self, offset: u64, value: u32) {
        match offset {
            0x14 => self.registers.device_features_word = value,
            0x20 if self.registers.status & FEATURES_OK == 0 => {
                let at = &mut self.registers.driver_features;
                match self.registers.driver_features_word {
                    0 => *at = *at >> 32 << 32 | u64::from(value),
                    1 => *at = u64::from(value) << 32 | *at & 0xffff_ffff,
                    _ => {}
                }
            }
            0x24 => self.registers.driver_features_word = value,
            0x30 => self.registers.queue = value,
            0x44 => self.set_ready(value & 1 == 1),
            INTERRUPT_ACK => self.notifier.acknowledge(value),
            0x70 => self.set_status(value),
            0x38 | 0x80..=0xa4 => self.registers.set_queue(offset, value),
            _ => {}
        }
    }

    fn set_ready(&mut self, ready: bool) {
        let is_at_work = self.registers.status & DRIVER_OK != 0;
        let Some(ring) = self.registers.selected_mut() else {
            return;
        };
        if is_at_work && ready {
            return;
        }
        ring.ready = ready;
        if is_at_work {
            // Taken away from a device at work: it does without all of them.
            self.backend.deactivate();
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        // A driver adds bits, and removes them only by a reset.
        let mut added = value & DRIVERS & !self.registers.status;
        if added & FEATURES_OK != 0 && !self.are_features_good() {
            added &= !FEATURES_OK;
        }
        if (self.registers.status | added) & FEATURES_OK == 0 {
            added &= !DRIVER_OK;
        }
        self.registers.status |= added;
        if added & DRIVER_OK != 0 {
            self.activate();
        }
    }

    fn are_features_good(&self) -> bool {
        let features = self.registers.driver_features;
        features & !self.features() == 0
            && features & F_VERSION_1 != 0
            && self.backend.takes(features)
    }

    fn activate(&mut self) {
        let Registers {
            driver_features,
            queues,
            ..
        } = &self.registers;
        if let Err(fault) = self.backend.activate(*driver_features, queues) {
            self.notifier.fail(fault);
        }
    }

    fn reset(&mut self) {
        self.backend.deactivate();
        self.notifier.reset();
        self.registers = Registers::new(&self.backend);
    }

    fn taken_up(&self, bytes: &[u8]) -> Result<StateV2, String> {
        let (saved, rest): (StateV2, _) =
            postcard::take_from_bytes(bytes).map_err(|e| e.to_string())?;
        if !rest.is_empty() {
            return Err(format!("{} bytes are left over", rest.len()));
        }
        self.backend.is_like(&saved.backend)?;
        let wanted = self.backend.queues().len();
        if saved.registers.queues.len() != wanted {
            let found = saved.registers.queues.len();
            return Err(format!("{found} queues, not {wanted}"));
        }
        let negotiated = saved.registers.status & FEATURES_OK != 0;
        if negotiated && saved.registers.driver_features & !self.features() != 0 {
            return Err("its driver uses features that this device has not".to_owned());
        }
        Ok(saved)
    }
}

impl Registers {
    fn new(backend: &impl Backend) -> Self {
        let sizes = backend.queues().iter();
        let queues = sizes.map(|&size| RingState {
            size,
            ..RingState::default()
        });
        Self {
            queues: queues.collect(),
            ..Self::default()
        }
    }

    fn selected(&self) -> Option<&RingState> {
        self.queues.get(usize::try_from(self.queue).ok()?)
    }

    fn selected_mut(&mut self) -> Option<&mut RingState> {
        self.queues.get_mut(usize::try_from(self.queue).ok()?)
    }

    /// Sets up the selected queue, unless it is ready. Whether it can be used is seen when the device goes to work.
    fn set_queue(&mut self, offset: u64, value: u32) {
        let Some(ring) = self.selected_mut().filter(|ring| !ring.ready) else {
            return;
        };
        let half = |address: &mut u64, is_high: bool| {
            *address = if is_high {
                u64::from(value) << 32 | *address & 0xffff_ffff
            } else {
                *address >> 32 << 32 | u64::from(value)
            };
        };
        match offset {
            // A size of 0 is never good.
            0x38 => ring.size = u16::try_from(value).unwrap_or(0),
            0x80 | 0x84 => half(&mut ring.descriptors, offset == 0x84),
            0x90 | 0x94 => half(&mut ring.available, offset == 0x94),
            0xa0 | 0xa4 => half(&mut ring.used, offset == 0xa4),
            _ => {}
        }
    }
}

fn word(features: u64, which: u32) -> u32 {
    let [a, b, c, d, e, f, g, h] = features.to_le_bytes();
    match which {
        0 => u32::from_le_bytes([a, b, c, d]),
        1 => u32::from_le_bytes([e, f, g, h]),
        _ => 0,
    }
}

impl<B: Backend> Device for Transport<B> {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(CONFIG) {
            return self.backend.read_config(offset, data);
        }
        // Registers are read as whole words (section 4.2.2.2).
        match <&mut [u8; 4]>::try_from(&mut *data) {
            Ok(word) if offset.is_multiple_of(4) => *word = self.register(offset).to_le_bytes(),
            _ => data.fill(0),
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if let (Ok(word), true) = (<[u8; 4]>::try_from(data), offset.is_multiple_of(4)) {
            self.set_register(offset, u32::from_le_bytes(word));
        }
        Effect::None
    }

    fn save(&self) -> DeviceState {
        let mut registers = self.registers.clone();
        if let Some(queues) = self.backend.progress() {
            registers.queues = queues;
        }
        let (events, needs_reset) = self.notifier.state();
        let state = StateV2 {
            registers,
            events,
            needs_reset,
            backend: self.backend.save(),
        };
        DeviceState {
            kind: self.backend.kind().to_owned(),
            version: STATE_VERSION,
            // Only running out of memory makes it fail, and that ends the process.
            bytes: postcard::to_allocvec(&state).unwrap_or_default(),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let kind = self.backend.kind();
        let damaged = |reason: String| RestoreError::Damaged { kind, reason };
        let bytes = state.expect(kind, STATE_VERSION)?;
        let saved = self.taken_up(bytes).map_err(damaged)?;
        // One that a queue was taken away from works no more.
        let is_whole = saved.registers.queues.iter().all(|ring| ring.ready);
        if saved.registers.status & DRIVER_OK != 0 && !saved.needs_reset && is_whole {
            let StateV2 { registers, .. } = &saved;
            let activated = self
                .backend
                .activate(registers.driver_features, &registers.queues);
            activated.map_err(|fault| damaged(fault.to_string()))?;
            self.backend.take_up(&saved.backend);
        }
        self.registers = saved.registers;
        self.notifier.restore((saved.events, saved.needs_reset));
        Ok(())
    }
}

/// What each queue of a device at `address` is notified by: where, and with which number.
pub fn notifications(address: u64, queues: usize) -> impl Iterator<Item = (u64, u32)> {
    let numbers = 0..u32::try_from(queues).unwrap_or(0);
    numbers.map(move |queue| (address + QUEUE_NOTIFY, queue))
}

/// The window of a device at `address`.
#[must_use]
pub fn window(address: u64) -> Range<u64> {
    address..address + WINDOW
}

//! The I/O APIC (82093AA, with the EOI register of its successors) over KVM's split irqchip.
//!
//! Its redirection entries become message-signalled routes, which the kernel follows when a device writes its irqfd: no
//! interrupt passes through this process. What does is the end of a level-triggered interrupt, which KVM tells of
//! (`KVM_EXIT_IOAPIC_EOI`); if the line is still up then, it interrupts again. Remote IRR and delivery status read as 0:
//! the messages that set them are not seen here.

use std::sync::Arc;

use super::virtio::Notifier;
use super::{Device, DeviceState, Effect, RestoreError};
use crate::exit::End;

/// Where the I/O APIC of every PC lies.
pub const IOAPIC: std::ops::Range<u64> = 0xfec0_0000..0xfec0_1000;
/// Pins of the I/O APIC; so many routes are reserved in the split irqchip.
pub const IOAPIC_PINS: usize = 24;
/// Here the end of a level-triggered interrupt is told, by its vector.
pub const IOAPIC_EOI: u64 = IOAPIC.start + EOI;

const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
const EOI: u64 = 0x40;

const REGISTER_ID: u8 = 0;
const REGISTER_VERSION: u8 = 1;
const FIRST_ENTRY: u8 = 0x10;
/// Version 0x20 (has an EOI register), 24 pins.
const VERSION: u32 = 0x0017_0020;

/// Bits of an entry's low word that can be written: not delivery status (12) and remote IRR (14).
const WRITABLE_LOW: u32 = 0x0001_afff;
/// The destination, in an entry's high word.
const WRITABLE_HIGH: u32 = 0xff00_0000;
const MASKED: u64 = 1 << 16;
const LEVEL: u64 = 1 << 15;
const LOGICAL: u64 = 1 << 11;
const LOWEST_PRIORITY: u64 = 1 << 8;

const KIND: &str = "ioapic";
const STATE_VERSION: u16 = 1;
const STATE_BYTES: usize = 2 + 8 * IOAPIC_PINS;

/// A message that a local APIC takes as an interrupt (Intel SDM volume 3, section "Message Signalled Interrupts").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The pin it stands for.
    pub pin: u32,
    /// Where it is written.
    pub address: u32,
    /// What is written.
    pub data: u32,
}

/// Makes the kernel follow these routes and no others.
pub type SetRoutes = Box<dyn Fn(&[Message]) -> Result<(), String> + Send>;

/// The device.
pub struct Ioapic {
    id: u8,
    select: u8,
    entries: [u64; IOAPIC_PINS],
    set_routes: SetRoutes,
    lines: Vec<(usize, Arc<Notifier>)>,
}

impl Ioapic {
    /// All pins masked.
    #[must_use]
    pub fn new(set_routes: SetRoutes, lines: Vec<(usize, Arc<Notifier>)>) -> Self {
        Self {
            id: 0,
            select: 0,
            entries: [MASKED; IOAPIC_PINS],
            set_routes,
            lines,
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            REGISTER_ID | 2 => u32::from(self.id) << 24,
            REGISTER_VERSION => VERSION,
            _ => self.entry().map_or(0, |(pin, is_high)| {
                let [low, high] = words(self.entries[pin]);
                if is_high { high } else { low }
            }),
        }
    }

    /// The entry that is selected, and whether its high word is.
    fn entry(&self) -> Option<(usize, bool)> {
        let word = self.select.checked_sub(FIRST_ENTRY)?;
        let pin = usize::from(word / 2);
        (pin < IOAPIC_PINS).then_some((pin, word % 2 == 1))
    }

    fn set_register(&mut self, value: u32) -> Effect {
        if self.select == REGISTER_ID {
            self.id = (value >> 24) as u8 & 0xf;
        }
        let Some((pin, is_high)) = self.entry() else {
            return Effect::None;
        };
        let before = self.entries[pin];
        let [low, high] = words(before);
        self.entries[pin] = if is_high {
            join(low, value & WRITABLE_HIGH)
        } else {
            join(value & WRITABLE_LOW, high)
        };
        let after = self.entries[pin];
        // A change of a masked pin changes no route, and routes are dear to change.
        if before == after || before & after & MASKED != 0 {
            return Effect::None;
        }
        let effect = self.follow();
        if before & MASKED != 0 {
            // What was signalled while it was masked went nowhere.
            self.remind(|other, _| other == pin);
        }
        effect
    }

    fn follow(&self) -> Effect {
        let messages = self.messages();
        match (self.set_routes)(&messages) {
            Ok(()) => Effect::None,
            Err(reason) => Effect::End(End::KvmFailure {
                detail: format!("KVM refused the routes of the I/O APIC: {reason}"),
            }),
        }
    }

    fn messages(&self) -> Vec<Message> {
        let entries = (0u32..).zip(self.entries);
        let open = entries.filter(|(_, entry)| entry & MASKED == 0);
        open.map(|(pin, entry)| message(pin, entry)).collect()
    }

    /// Signals the lines that are up, of those that `which` picks by pin and entry.
    fn remind(&self, which: impl Fn(usize, u64) -> bool) {
        for (pin, line) in &self.lines {
            if which(*pin, self.entries[*pin]) && line.is_up() {
                line.signal();
            }
        }
    }

    fn end_of_interrupt(&self, vector: u8) {
        let level =
            |_, entry: u64| entry & (MASKED | LEVEL) == LEVEL && entry.to_le_bytes()[0] == vector;
        self.remind(level);
    }
}

/// The message of an entry: destination in address bits 12 to 19, redirection hint in 3, destination mode in 2; data is the
/// entry's vector, delivery mode and trigger mode, with "assert" (14) for a level.
fn message(pin: u32, entry: u64) -> Message {
    let destination = u32::from(entry.to_le_bytes()[7]);
    let mut address = 0xfee0_0000 | destination << 12;
    if entry & LOGICAL != 0 {
        address |= 1 << 2;
    }
    let [low, _] = words(entry);
    let mut data = low & 0x7ff;
    if entry & 0x700 == LOWEST_PRIORITY {
        address |= 1 << 3;
    }
    if entry & LEVEL != 0 {
        data |= 1 << 15 | 1 << 14;
    }
    Message { pin, address, data }
}

fn words(entry: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = entry.to_le_bytes();
    [
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, g, h]),
    ]
}

fn join(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

impl Device for Ioapic {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let value = match offset {
            SELECT => u32::from(self.select),
            WINDOW => self.register(),
            _ => 0,
        };
        let bytes = value.to_le_bytes().into_iter().chain(std::iter::repeat(0));
        data.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        let Some(&first) = data.first() else {
            return Effect::None;
        };
        match (offset, <[u8; 4]>::try_from(data)) {
            (SELECT, _) => self.select = first,
            // The window is 32 bits wide (82093AA datasheet, section 3.0).
            (WINDOW, Ok(word)) => return self.set_register(u32::from_le_bytes(word)),
            (EOI, _) => self.end_of_interrupt(first),
            _ => {}
        }
        Effect::None
    }

    fn save(&self) -> DeviceState {
        let mut bytes = vec![self.id, self.select];
        bytes.extend(self.entries.iter().flat_map(|entry| entry.to_le_bytes()));
        DeviceState {
            kind: KIND.to_owned(),
            version: STATE_VERSION,
            bytes,
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        let damaged = |reason: String| RestoreError::Damaged { kind: KIND, reason };
        let bytes = state.expect(KIND, STATE_VERSION)?;
        let ([id, select], entries) = match bytes.split_first_chunk() {
            Some((head, entries)) if bytes.len() == STATE_BYTES => (*head, entries),
            _ => return Err(damaged(format!("{} bytes, not {STATE_BYTES}", bytes.len()))),
        };
        let before = (self.id, self.select, self.entries);
        (self.id, self.select) = (id & 0xf, select);
        for (entry, bytes) in self.entries.iter_mut().zip(entries.chunks_exact(8)) {
            let bytes = <[u8; 8]>::try_from(bytes).unwrap_or_default();
            let [low, high] = words(u64::from_le_bytes(bytes));
            *entry = join(low & WRITABLE_LOW, high & WRITABLE_HIGH);
        }
        (self.set_routes)(&self.messages()).map_err(|reason| {
            (self.id, self.select, self.entries) = before;
            damaged(reason)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    type Routes = Arc<Mutex<Vec<Vec<Message>>>>;

    fn ioapic(lines: Vec<(usize, Arc<Notifier>)>) -> (Ioapic, Routes) {
        let seen = Routes::default();
        let routes = Arc::clone(&seen);
        let set = move |messages: &[Message]| {
            routes.lock().unwrap().push(messages.to_vec());
            Ok(())
        };
        (Ioapic::new(Box::new(set), lines), seen)
    }

    fn set(ioapic: &mut Ioapic, register: u8, value: u32) {
        let _ = ioapic.write(SELECT, &[register, 0, 0, 0]);
        assert_eq!(ioapic.write(WINDOW, &value.to_le_bytes()), Effect::None);
    }

    fn get(ioapic: &mut Ioapic, register: u8) -> u32 {
        let _ = ioapic.write(SELECT, &[register]);
        let mut word = [0; 4];
        ioapic.read(WINDOW, &mut word);
        u32::from_le_bytes(word)
    }

    #[test]
    fn an_open_entry_becomes_a_message_and_a_masked_one_none() {
        let (mut ioapic, routes) = ioapic(Vec::new());
        set(&mut ioapic, 0x10 + 2 * 5 + 1, 3 << 24);
        assert!(routes.lock().unwrap().is_empty());
        set(&mut ioapic, 0x10 + 2 * 5, 0x41);
        let expected = Message {
            pin: 5,
            address: 0xfee0_3000,
            data: 0x41,
        };
        assert_eq!(*routes.lock().unwrap(), [vec![expected]]);
        set(&mut ioapic, 0x10 + 2 * 5, 0x1_0041);
        assert_eq!(routes.lock().unwrap().last().unwrap(), &[]);
    }

    #[test]
    fn logical_lowest_priority_level_entries_become_such_messages() {
        let sent = message(
            7,
            0xff00_0000_0000_0000 | LEVEL | LOGICAL | LOWEST_PRIORITY | 0x55,
        );
        let expected = Message {
            pin: 7,
            address: 0xfeef_f00c,
            data: 0xc155,
        };
        assert_eq!(sent, expected);
    }

    #[test]
    fn a_line_that_is_up_at_the_end_of_its_level_interrupt_interrupts_again() {
        let line = Arc::new(Notifier::new().unwrap());
        let (mut ioapic, _) = ioapic(vec![(5, Arc::clone(&line))]);
        set(&mut ioapic, 0x10 + 2 * 5, 0x8041);
        let _ = ioapic.write(EOI, &[0x41, 0, 0, 0]);
        assert!(!line.take_signal());
        line.raise(1);
        assert!(line.take_signal());
        let _ = ioapic.write(EOI, &[0x42, 0, 0, 0]);
        assert!(!line.take_signal());
        let _ = ioapic.write(EOI, &[0x41, 0, 0, 0]);
        assert!(line.take_signal());
        set(&mut ioapic, 0x10 + 2 * 5, 0x41);
        let _ = ioapic.write(EOI, &[0x41, 0, 0, 0]);
        assert!(!line.take_signal());
    }

    #[test]
    fn what_was_signalled_while_the_pin_was_masked_is_signalled_when_it_is_opened() {
        let line = Arc::new(Notifier::new().unwrap());
        let (mut ioapic, _) = ioapic(vec![(5, Arc::clone(&line))]);
        line.raise(1);
        assert!(line.take_signal());
        set(&mut ioapic, 0x10 + 2 * 5, 0x41);
        assert!(line.take_signal());
    }

    #[test]
    fn registers_hold_what_can_be_written_and_states_are_taken_up() {
        let (mut ioapic, _) = ioapic(Vec::new());
        set(&mut ioapic, 0x10, u32::MAX);
        set(&mut ioapic, 0x11, u32::MAX);
        set(&mut ioapic, 0xff, 1);
        assert_eq!(get(&mut ioapic, 0x10), WRITABLE_LOW);
        assert_eq!(get(&mut ioapic, 0x11), WRITABLE_HIGH);
        assert_eq!(get(&mut ioapic, 1), VERSION);
        let saved = ioapic.save();
        let (mut other, routes) = self::ioapic(Vec::new());
        set(&mut ioapic, 0x3e, 0x30);
        let opened = ioapic.save();
        other.restore(&opened).unwrap();
        assert_eq!((other.save(), routes.lock().unwrap().len()), (opened, 1));
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        for length in [0, 1, STATE_BYTES - 1, STATE_BYTES + 1] {
            let bytes = vec![0; length];
            assert!(
                other
                    .restore(&DeviceState {
                        bytes,
                        ..saved.clone()
                    })
                    .is_err()
            );
        }
    }
}

//! An address space of devices: which one answers at an address.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::{Device, DeviceState, Effect, RestoreError};

/// A range that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("address range {start:#x}..{end:#x} is empty or overlaps another device")]
pub struct BusError {
    start: u64,
    end: u64,
}

struct Slot {
    range: Range<u64>,
    // Shared between the vCPU threads of one guest only; every one of them runs in a reservation.
    device: Mutex<Box<dyn Device>>,
}

/// Ports or device memory. Filled before vCPUs run, then only read.
#[derive(Default)]
pub struct Bus {
    slots: Vec<Slot>,
}

impl Bus {
    /// Puts a device at a range of addresses.
    ///
    /// # Errors
    /// [`BusError`] if the range is empty or taken.
    pub fn insert(&mut self, range: Range<u64>, device: Box<dyn Device>) -> Result<(), BusError> {
        let at = self
            .slots
            .partition_point(|slot| slot.range.start < range.start);
        let free = self
            .slots
            .get(at)
            .is_none_or(|next| next.range.start >= range.end)
            && at
                .checked_sub(1)
                .is_none_or(|before| self.slots[before].range.end <= range.start);
        if range.is_empty() || !free {
            return Err(BusError {
                start: range.start,
                end: range.end,
            });
        }
        self.slots.insert(
            at,
            Slot {
                range,
                device: Mutex::new(device),
            },
        );
        Ok(())
    }

    /// Reads from the device at `address`; where there is none all bits are one, as on a real bus.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some(slot) => slot.with(|device| device.read(address - slot.range.start, data)),
            None => data.fill(0xff),
        }
    }

    /// Writes to the device at `address`; where there is none nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) -> Effect {
        match self.find(address) {
            Some(slot) => slot.with(|device| device.write(address - slot.range.start, data)),
            None => Effect::None,
        }
    }

    /// Saved forms of all devices, in order of address.
    #[must_use]
    pub fn save(&self) -> Vec<DeviceState> {
        self.slots
            .iter()
            .map(|slot| slot.with(|device| device.save()))
            .collect()
    }

    /// Takes up the saved forms that [`Bus::save`] of an equal bus gave.
    ///
    /// # Errors
    /// [`RestoreError`] if the devices are others.
    pub fn restore(&self, states: &[DeviceState]) -> Result<(), RestoreError> {
        if states.len() != self.slots.len() {
            return Err(RestoreError::Damaged {
                kind: "bus",
                reason: format!(
                    "it has {} devices, this machine {}",
                    states.len(),
                    self.slots.len()
                ),
            });
        }
        for (slot, state) in self.slots.iter().zip(states) {
            slot.with(|device| device.restore(state))?;
        }
        Ok(())
    }

    fn find(&self, address: u64) -> Option<&Slot> {
        let at = self.slots.partition_point(|slot| slot.range.end <= address);
        self.slots
            .get(at)
            .filter(|slot| slot.range.contains(&address))
    }
}

impl Slot {
    fn with<R>(&self, act: impl FnOnce(&mut dyn Device) -> R) -> R {
        // A device that panicked has ended the process already (panic = abort); in tests its state is still usable.
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        act(device.as_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Echo(u8);

    impl Device for Echo {
        fn read(&mut self, _: u64, data: &mut [u8]) {
            data.fill(self.0);
        }
        fn write(&mut self, _: u64, _: &[u8]) -> Effect {
            Effect::None
        }
        fn save(&self) -> DeviceState {
            DeviceState {
                kind: "echo".into(),
                version: 1,
                bytes: vec![self.0],
            }
        }
        fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
            self.0 = state.expect("echo", 1)?[0];
            Ok(())
        }
    }

    proptest! {
        /// Against the slow obvious oracle: the first device inserted whose range holds the address.
        #[test]
        fn every_address_reaches_the_device_that_owns_it(
            ranges in proptest::collection::vec((0u64..200, 0u64..30), 1..12),
            address in 0u64..240,
        ) {
            let mut bus = Bus::default();
            let mut taken: Vec<(Range<u64>, u8)> = Vec::new();
            for (number, (start, length)) in (1u8..).zip(ranges) {
                let range = start..start + length;
                let overlaps = taken.iter().any(|(r, _)| r.start < range.end && range.start < r.end);
                let inserted = bus.insert(range.clone(), Box::new(Echo(number)));
                prop_assert_eq!(inserted.is_ok(), !range.is_empty() && !overlaps);
                if inserted.is_ok() {
                    taken.push((range, number));
                }
            }
            let mut byte = [0];
            bus.read(address, &mut byte);
            let expected = taken.iter().find(|(r, _)| r.contains(&address)).map_or(0xff, |(_, n)| *n);
            prop_assert_eq!(byte[0], expected);
        }
    }

    #[test]
    fn a_bus_takes_up_what_an_equal_bus_saved_and_nothing_else() {
        let bus_of = |value| {
            let mut bus = Bus::default();
            bus.insert(4..8, Box::new(Echo(value))).unwrap();
            bus
        };
        let saved = bus_of(7).save();
        let other = bus_of(0);
        other.restore(&saved).unwrap();
        assert_eq!(other.save(), saved);
        assert!(Bus::default().restore(&saved).is_err());
    }
}

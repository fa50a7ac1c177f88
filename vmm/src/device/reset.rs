//! The part of a keyboard controller that resets a PC: command 0xfe to port 0x64.
//!
//! Not a keyboard: reads say that the controller is idle, everything else is ignored.

use super::{Device, DeviceState, Effect, RestoreError};
use crate::exit::End;

/// Ports of the controller.
pub const KEYBOARD_PORTS: std::ops::Range<u64> = 0x60..0x65;

const KIND: &str = "reset";
const COMMAND_OFFSET: u64 = 4;
const PULSE_RESET_LINE: u8 = 0xfe;

/// The device. It has no state.
pub struct Reset;

impl Device for Reset {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Effect {
        if offset == COMMAND_OFFSET && data.first() == Some(&PULSE_RESET_LINE) {
            return Effect::End(End::Reset);
        }
        Effect::None
    }

    fn save(&self) -> DeviceState {
        DeviceState {
            kind: KIND.to_owned(),
            version: 1,
            bytes: Vec::new(),
        }
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        state.expect(KIND, 1).map(|_| ())
    }
}

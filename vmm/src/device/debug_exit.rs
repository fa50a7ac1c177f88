//! The debug-exit port: a guest writes a byte and is over, like QEMU's `isa-debug-exit`.

use super::{Device, DeviceState, Effect, RestoreError};
use crate::exit::End;

/// Its port, the one usually given to QEMU's device.
pub const DEBUG_EXIT_PORT: u64 = 0xf4;

const KIND: &str = "debug-exit";

/// The device. It has no state.
pub struct DebugExit;

impl Device for DebugExit {
    fn read(&mut self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }

    fn write(&mut self, _: u64, data: &[u8]) -> Effect {
        match data.first() {
            Some(&value) => Effect::End(End::DebugExit { value }),
            None => Effect::None,
        }
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

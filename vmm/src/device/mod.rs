//! Devices, and the buses that lead to them.
//!
//! A device is called from the vCPU thread that touched it; it must not block, allocate or log. Every device states
//! its saved form: there is no default.

mod bus;
mod debug_exit;
mod ioapic;
mod reset;
mod serial;
pub mod virtio;

use serde::{Deserialize, Serialize};

pub use bus::{Bus, BusError};
pub use debug_exit::{DEBUG_EXIT_PORT, DebugExit};
pub use ioapic::{IOAPIC, IOAPIC_EOI, IOAPIC_PINS, Ioapic, Message, SetRoutes};
pub use reset::{KEYBOARD_PORTS, Reset};
pub use serial::{SERIAL_PORT, SERIAL_PORTS, Serial, SerialOutput, serial};

use crate::exit::End;

/// What a write to a device led to, beyond the device itself.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The guest is over.
    End(End),
}

/// The saved form of a device: `version` is that of `bytes`, which only the device understands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The kind of device.
    pub kind: String,
    /// Version of the form of `bytes`.
    pub version: u16,
    /// The state.
    pub bytes: Vec<u8>,
}

/// Why a device cannot take up a saved state.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// Another kind of device.
    #[error("saved state is of a `{found}`, not of a `{expected}`")]
    Kind {
        /// What it is.
        found: String,
        /// What was expected.
        expected: &'static str,
    },
    /// A version that this program does not know.
    #[error("saved state of `{kind}` has version {found}; this program reads version {supported}")]
    Version {
        /// Kind of device.
        kind: &'static str,
        /// Version found.
        found: u16,
        /// Version supported.
        supported: u16,
    },
    /// Bytes that make no sense.
    #[error("saved state of `{kind}` is damaged: {reason}")]
    Damaged {
        /// Kind of device.
        kind: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl DeviceState {
    /// The bytes, if this is a state of `kind` in `version`.
    ///
    /// # Errors
    /// [`RestoreError::Kind`], [`RestoreError::Version`].
    pub fn expect(&self, kind: &'static str, version: u16) -> Result<&[u8], RestoreError> {
        if self.kind != kind {
            return Err(RestoreError::Kind {
                found: self.kind.clone(),
                expected: kind,
            });
        }
        if self.version != version {
            return Err(RestoreError::Version {
                kind,
                found: self.version,
                supported: version,
            });
        }
        Ok(&self.bytes)
    }
}

/// A device as a bus sees it. Offsets are relative to the start of its range; any length and alignment may come.
pub trait Device: Send {
    /// Fills `data` as if read from `offset`.
    fn read(&mut self, offset: u64, data: &mut [u8]);
    /// Takes `data` as written to `offset`.
    fn write(&mut self, offset: u64, data: &[u8]) -> Effect;
    /// The saved form.
    fn save(&self) -> DeviceState;
    /// Takes up a saved form.
    ///
    /// # Errors
    /// [`RestoreError`]; the device is then unchanged.
    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError>;
}

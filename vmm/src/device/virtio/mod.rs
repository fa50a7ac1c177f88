//! Virtio 1.2 devices on the memory-mapped transport (OASIS, "Virtual I/O Device (VIRTIO) Version 1.2").
//!
//! ```text
//! guest --registers--> Transport (vCPU thread) --activate, deactivate--> device
//! guest --notify-----> ioeventfd ----------------------------------------> device's thread
//! guest <--interrupt-- irqfd, by the route of the I/O APIC <-------------- device's thread
//! ```
//!
//! Whatever the guest puts into its queues is a claim: a [`Fault`] stops the device (DEVICE_NEEDS_RESET) until the guest
//! resets it, and nothing else.

mod fault;
pub mod net;
mod notifier;
mod ring;
mod transport;

pub use fault::Fault;
pub use notifier::Notifier;
pub use ring::{Ring, RingState};
pub use transport::{Backend, INTERRUPT_ACK, Transport, WINDOW, notifications, window};

/// VIRTIO_F_INDIRECT_DESC.
pub const F_INDIRECT_DESC: u64 = 1 << 28;
/// VIRTIO_F_EVENT_IDX.
pub const F_EVENT_IDX: u64 = 1 << 29;
/// VIRTIO_F_VERSION_1.
pub const F_VERSION_1: u64 = 1 << 32;

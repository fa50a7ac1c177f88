//! The virtual machine monitor: the only crate that talks to /dev/kvm.
//!
//! It composes what `sched` promises with what KVM runs. It knows nothing of a command line.

pub mod boot;
pub mod clock;
pub mod control;
pub mod cpu;
pub mod design;
pub mod desk;
pub mod device;
pub mod dirty;
pub mod exit;
pub mod guest;
pub mod host;
pub mod kernel;
pub mod machine;
pub mod memory;
pub mod moving;
pub mod report;
pub mod snapshot;
pub mod spec;
pub mod speed;
mod sync;
pub mod telemetry;
pub use units;
pub mod vcpu;

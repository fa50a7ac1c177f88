//! What the system tests stand on: saying what a test needs, a host with ordinary KVM made by
//! emulation, and the project's own executables.
//!
//! Nothing here knows the crates under test, so each of them can use this library in its tests.

pub mod built;
pub mod emulated_host;
pub mod host_figures;
pub mod process;
pub mod requires;
pub mod turn;
pub mod user;
pub mod workspace;

pub use emulated_host::EmulatedHost;
pub use process::Busy;
pub use requires::Need;
pub use turn::Turn;
pub use user::User;

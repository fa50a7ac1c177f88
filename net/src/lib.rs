//! Shares of a link's bandwidth: admitted before they are promised, enforced by HTB, measured while they are used.
//!
//! Knows nothing of KVM or of CPU scheduling.

pub mod admission;
pub mod class;
pub mod device;
mod kernel;
pub mod mac;
pub mod namespace;
pub mod netlink;
pub mod network;
pub mod plan;
pub mod ports;
pub mod share;
pub mod tap;
pub mod tree;

pub use network::{Network, NetworkError, Port, PortRequest};

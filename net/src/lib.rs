//! Shares of a link's bandwidth: admitted before they are promised, enforced by HTB, measured while they are used.
//!
//! Knows nothing of KVM or of CPU scheduling.

pub mod admission;
pub mod agent;
pub mod announcement;
mod attributes;
mod book;
mod cgroup;
pub mod class;
pub mod device;
mod filter;
pub mod htb;
mod kernel;
pub mod mac;
pub mod marks;
pub mod namespace;
pub mod netlink;
pub mod network;
pub mod owner;
pub mod passage;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod process;
pub mod router;
pub mod share;
mod state;
pub mod tap;
pub mod tree;

pub use network::{Network, NetworkError, Port, PortRequest};

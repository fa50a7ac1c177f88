//! Shares of a link's bandwidth: admitted before they are promised, enforced by HTB, measured while they are used.
//!
//! Knows nothing of KVM or of CPU scheduling.

pub mod admission;
pub mod mac;
pub mod plan;
pub mod share;

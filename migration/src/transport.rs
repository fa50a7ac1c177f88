//! Connections between two hosts: TLS over TCP, with certificates of both sides, or plain TCP where somebody says so.
//!
//! Blocking, with an end to every wait: connecting, the handshake, each read and each write. A [`Connection`] carries bytes; [`Framed`] carries the
//! messages of [`crate::wire`]. Nothing here knows what a migration is.
//!
//! - [`identity`]: certificates, and what TLS makes of them.
//! - [`authority`]: makes certificates, for tests and for hosts without an authority of their own.
//! - [`connection`], [`listener`], [`framed`]: the bytes, how they are accepted, the messages.
//! - [`relay`]: a lossy middle for tests: cuts, stalls or corrupts at a byte.

pub mod authority;
pub mod connection;
pub mod error;
pub mod framed;
pub mod identity;
pub mod listener;
pub mod relay;
#[cfg(test)]
mod tests;

pub use connection::{Breaker, Connection, Watch};
pub use error::TransportError;
pub use framed::{Framed, Received};
pub use identity::{Identity, Security};
pub use listener::Listener;

use std::time::Duration;

/// How long to wait, and how the network shall treat the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// For a connection and its handshake, all together.
    pub connect: Duration,
    /// For the other side to take or to send anything at all, once it should.
    pub stall: Duration,
    /// `SO_PRIORITY` of the packets, by which the link's scheduler knows the migration's class: a minor and major number of a class, or 0 to 6.
    pub priority: Option<u32>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(5),
            priority: None,
        }
    }
}

//! Sessions for real: the state machines of [`crate::protocol`] with sockets, threads, files and a guest behind the traits of [`crate::ram`].
//!
//! Blocking threads, no runtime. A session's main thread owns the state machine, the guest and the journal; it takes one event after the other and does
//! what the machine answers. Listeners, streams and rounds have threads of their own that only hand events in.
//!
//! - [`source`]: [`Departure::migrate`] blocks until the guest is gone or stays.
//! - [`destination`]: [`Arrival::receive`] blocks until the guest runs here or nothing is left of it.
//! - [`journal`]: the records that outlive a process, as files.

mod control;
pub mod destination;
mod door;
pub mod journal;
pub mod source;
#[cfg(test)]
mod tests;

pub use destination::{Admitted, Arrival, DestinationHost};
pub use source::{Departing, Departure, Planner, Route, SourceHost, SourceRemote, Step};

use std::net::ToSocketAddrs;

use crate::protocol::desk::Peer;
use crate::transport::{Connection, Framed, Received, Security, Settings, TransportError};
use crate::wire::{Answer, Inquire, Message};

/// Why a host cannot do its part.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An error and what is behind it, in one line.
fn failure(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Asks another host where it stands; none where it gives no answer.
///
/// # Errors
/// When it cannot be reached.
pub fn inquire(
    address: &str,
    name: &str,
    security: &Security,
    settings: &Settings,
    question: Inquire,
) -> Result<Peer, TransportError> {
    let nowhere = |source| TransportError::Connect {
        address: (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
        source,
    };
    let mut addresses = address.to_socket_addrs().map_err(nowhere)?;
    let address = addresses
        .next()
        .ok_or_else(|| nowhere(std::io::ErrorKind::AddrNotAvailable.into()))?;
    let mut framed = Framed::new(Connection::connect(address, name, security, settings)?);
    framed.say(&Message::Inquire(question))?;
    match framed.hear(settings.stall)? {
        Some(Received::Message(Message::Answer(Answer { standing, boot }))) => {
            Ok(Peer { standing, boot })
        }
        _ => Err(TransportError::Closed { peer: address }),
    }
}

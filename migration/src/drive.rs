//! Sessions for real: the state machines of [`crate::protocol`] with sockets, threads, files and a guest behind the traits of [`crate::ram`].
//!
//! Blocking threads, no runtime. A session's main thread owns the state machine, the guest and the journal; it takes one event after the other and does
//! what the machine answers. Listeners, streams and rounds have threads of their own that only hand events in.
//!
//! - [`source`]: [`Departure::migrate`] blocks until the guest is gone or stays.
//! - [`destination`]: [`Arrival::receive`] blocks until the guest runs here or nothing is left of it.
//! - [`journal`]: the records that outlive a process, as files; [`desk`] answers from them for the dead.

mod control;
pub mod desk;
pub mod destination;
mod door;
mod inquiry;
pub mod journal;
mod measure;
mod reception;
pub mod source;
#[cfg(test)]
mod tests;

pub use desk::Desk;
pub use destination::{Admitted, Arrival, DestinationHost, DestinationRemote};
pub use inquiry::inquire;
pub use measure::{Measured, SwitchOver};
pub use source::{Departing, Departure, Planner, Route, SourceHost, SourceRemote, Step};

use std::io;

use crate::wire::Boot;

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

/// This life of this host.
///
/// # Errors
/// When the kernel does not say.
pub fn boot() -> io::Result<Boot> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let digits = text.trim().replace('-', "");
    let bits = u128::from_str_radix(&digits, 16);
    let bits = bits.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Boot(bits.to_be_bytes()))
}

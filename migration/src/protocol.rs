//! (doc below)

pub mod desk;
mod destination;
mod journal;
mod source;

use std::time::Duration;

pub use destination::{Destination, DestinationAction, DestinationEvent, DestinationSetup};
pub use journal::{Record, RecordError};
pub use source::{Source, SourceAction, SourceEvent, SourceSetup};

use crate::wire::Refuse;

/// How long to wait for what. Whoever waits for bytes of a round counts from the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For `Hello` and `Offer`.
    pub greeting: Duration,
    /// For `Accept` or `Refuse`.
    pub admission: Duration,
    /// For a page or the end of a round.
    pub round: Duration,
    /// For each step between `Switch` and `Prepared`.
    pub switching: Duration,
    /// For `Commit`, `Running` and `Done`.
    pub decision: Duration,
    /// Between two inquiries, and between two tries of a disk that does not write.
    pub inquiry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(5),
            admission: Duration::from_secs(10),
            round: Duration::from_secs(10),
            switching: Duration::from_secs(2),
            decision: Duration::from_secs(2),
            inquiry: Duration::from_millis(500),
        }
    }
}

/// How a session ended, the same at both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest is the source's, as if nothing had been.
    Stayed,
    /// The guest is the destination's.
    Moved,
}

/// What an operator knows who has looked at the other host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// No other copy runs, has run since the switch-over, or will: run this one.
    Run,
    /// Another copy runs, or is to be run: throw this one away. Only a destination does.
    Discard,
}

/// What whoever looks on is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The destination did not take the guest.
    Refused(Refuse),
    /// The try is over; the guest stays with the source.
    Aborted {
        /// Why.
        reason: String,
    },
    /// It cannot be cancelled any more.
    TooLate,
    /// The other host has started anew and forgotten the session: only an operator can tell whether a copy ran there.
    InDoubt,
    /// The last step failed and is tried again.
    Stuck {
        /// Why.
        reason: String,
    },
}

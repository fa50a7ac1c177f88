//! Admission of a migration, on both hosts, before the guest's first byte goes.
//!
//! ```text
//! source                                                                destination
//! Subject::of(guest)      what it is, what it has
//! Observed::watch         how it writes, watched for 0.3 s
//! SourceSide::propose     Promise | Refusal           (holds nothing)
//! SourceSide::hold        CPU time of the threads, raised Q
//!        ------------------ Offer { plan, Terms } ------------------->  DestinationSide::admit
//!                                                                       features, memory, (Q, P) for this host's speed, port,
//!        <----------------- Accept { Answer } | Refuse { nearest } ---  CPU time of the threads
//! HeldAtSource::agree     the promise with both hosts' means
//! ```
//!
//! All or nothing on each side, and given back when what is held is dropped. The threads' CPU time stands in the ledger as `NAME.migration`.

mod destination;
mod observed;
mod source;
mod threads;

pub use destination::{DestinationSide, HeldAtDestination};
pub use observed::{Observed, Watch};
pub use source::{HeldAtSource, Proposal, SourceSide, Subject};
pub use threads::SwitchBudget;

use std::path::Path;

use net::Network;

use super::promise::Refusal;
use crate::units::BitRate;

/// What the network's plan has for migrations: the rate, and what packets are marked with.
#[derive(Debug, Clone, Copy, Default)]
struct MigrationClass {
    rate: Option<BitRate>,
    priority: Option<u32>,
}

impl MigrationClass {
    /// Nothing where no network was applied.
    fn of(run_dir: &Path) -> Result<Self, Refusal> {
        let found = Network::open(run_dir).and_then(|network| {
            let uplink = network.plan()?.uplink;
            Ok(Self {
                rate: uplink.and_then(|uplink| uplink.migration),
                priority: network.migration_priority()?,
            })
        });
        match found {
            Err(error) if error.is_not_applied() => Ok(Self::default()),
            found => found.map_err(|error| Refusal::because(error.to_string())),
        }
    }
}

//! Quality of service: whether jobs get what they need, and what is done when they do not. These are the middleware hooks
//! of Duran-Limon et al. ("Using lightweight virtual machines to achieve resource adaptation in middleware", IET Software).
//!
//! ```text
//! Observation --Monitor--> Violation --Strategy--> Action --Activator--> done | refused
//!                 ^            Watch selects the strategy: the first rule that may act          |
//!                 +---------------- a change makes it forget what it saw before ----------------+
//! ```
//!
//! A job is whatever holds reservations under a name: a virtual machine, a virtual task machine. How it is observed and
//! how an action is carried out is its own affair; here is only what to do. Times are arguments, counted from any
//! beginning that all of them share.

mod monitor;
mod observation;
mod strategy;
mod watch;

pub use monitor::{Condition, Evidence, Monitor, Quality, Violation};
pub use observation::{Observation, Presence, TaskSeen, VcpuSeen};
pub use strategy::{Donor, Hold, LEAST_STEP, Strategy};
pub use watch::{Cause, Event, Rule, Watch};

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::reservation::{Reservation, nanos};

/// What a reservation belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// The name of the job.
    pub job: String,
    /// Its virtual CPU, from 0.
    pub vcpu: usize,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.job)?;
        match self.vcpu {
            0 => Ok(()),
            vcpu => write!(f, " vCPU {vcpu}"),
        }
    }
}

/// Another reservation for a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Whose.
    #[serde(flatten)]
    pub target: Target,
    /// What it has.
    pub before: Reservation,
    /// What it is to have.
    pub after: Reservation,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.target, self.before, self.after)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// One reservation changes.
    Adapt(Change),
    /// Bandwidth moves: both change, or none.
    Transfer {
        /// Gets more.
        to: Change,
        /// Gets less.
        from: Change,
    },
}

impl Action {
    /// Its changes.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        let (first, second) = match self {
            Self::Adapt(change) => (change, None),
            Self::Transfer { to, from } => (to, Some(from)),
        };
        std::iter::once(first).chain(second)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adapt(change) => change.fmt(f),
            Self::Transfer { to, from } => write!(f, "{to}, {from}"),
        }
    }
}

/// Carries actions out.
pub trait Activator {
    /// Carries one out.
    ///
    /// # Errors
    /// Why not, as text for the user. Nothing has changed then, nor if a target has not what the action says that it has.
    fn activate(&mut self, action: &Action) -> Result<(), String>;
}

fn as_nanos<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(nanos(*time))
}

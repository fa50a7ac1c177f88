//! Experiments: guests, load and neighbours as processes of their own on one CPU, what they recorded, and the report.
//!
//! ```text
//! Stage (one CPU, a partition if it can be had, everything undone at the end)
//!   └ Part (a process of this program: guest, periodic tasks on the host, neighbour) → records → JobRow → report
//! ```
//!
//! Nothing here decides how a guest runs or what a reservation is: a guest is `chronovisor run`, started as a user would.

pub mod bomb;
pub mod cbs_kvm;
pub mod computation;
pub mod date;
pub mod demo;
pub mod edge;
mod error;
pub mod feedback;
pub mod guest;
pub mod host;
pub mod interrupt;
pub mod jobs;
pub mod load;
pub mod lock_holder;
pub mod migration;
pub mod namespaces;
pub mod neighbour;
pub mod net_isolation;
pub mod part;
pub mod pid_max;
pub mod process;
pub mod progress;
pub mod scenario;
pub mod schedulability;
pub mod sleepers;
pub mod spin;
pub mod stage;
pub mod trace;
pub mod vod;
pub mod vtm_overhead;
pub mod vtm_vs_guest;
pub mod web;

pub use error::ExperimentError;

//! Virtual task machines: groups of jobs with a share of the CPU, without a guest (Duran-Limon et al., IET Software).
//!
//! A VTM is promised an execution time in every period. When each of them runs is decided beforehand by a dispatch
//! [`Table`], which is pure: no jobs, no clock. A [`VtmScheduler`] dispatches processes by it on one CPU, in two levels:
//! the table says which VTM has a slot, and round robin within that VTM which of its jobs runs.
//!
//! ```text
//! reserve, adapt --> Table --> admission (real-time throttling, the host's ledger)
//!                      |
//!  orders, wait-free   v        every slot: who is next?
//! VtmScheduler ----> dispatcher ------------> job stopped / continued (SIGSTOP, SIGCONT or a freezer)
//!      |                ^ one real-time thread
//!      | watcher: jobs that exit, fork, or are continued by somebody else
//!      v
//!  guardian: a process that undoes everything should the scheduler die
//! ```
//!
//! What a job does in the kernel's name (interrupts, kernel threads) is not accounted to it.

mod config;
mod dispatcher;
mod error;
mod freezer;
mod guardian;
mod interrupted;
mod job;
mod layout;
mod limit;
mod link;
mod making;
mod membership;
mod processes;
mod record;
mod request;
mod roster;
mod scheduler;
mod status;
pub mod table;
mod team;
mod turns;
mod watcher;

pub use config::{CpuShare, JobSource, Promise, RoundRobin, Rule, Suspend, VtmConfig};
pub use error::VtmError;
pub use limit::is_of_vtms;
pub use request::{Need, Quantity, Vtm};
pub use scheduler::VtmScheduler;
pub use status::{Dispatching, JobState, JobStatus, Means, Status, VtmStatus};
pub use table::{Placement, Policy, Table, TableError};
pub use team::Team;

//! The life of a guest: planned, admitted, built, running, over. Each step consumes the one before.
//!
//! ```text
//! VmPlan --admit--> AdmittedVm --build--> BuiltVm --start--> RunningVm --supervise--> Outcome
//!            |             |                 |                   |
//!            Refusal       error             error               the guest ends, is stopped, or fails
//! ```
//!
//! Whatever fails, dropping what there is gives everything back: threads end, the ledger's entry goes.

mod change;
mod moving;
mod network;
mod outcome;
mod passing;
mod recording;
mod running;
mod serve;
mod start;
mod supervise;
mod transfer;

pub use change::ChangeError;
pub use moving::{Lender, Loan, MoveError, MovingVm};
pub use network::NetworkStatus;
pub use outcome::{GuestStatus, Outcome, Records, SectionStatistics, TaskStatistics, VcpuStatus};
pub use recording::{Recording, RecordingError, RecordingRequest, RecordingStatus};
pub use running::RunningVm;
pub use start::{AdmittedVm, BuiltVm, StartError, Vms};
pub use supervise::{Observer, Reception, supervise};

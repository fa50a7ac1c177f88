//! Simulation of two-level scheduling: a host policy shares CPUs among vCPUs, and in each vCPU a guest policy shares what
//! it gets among tasks. Discrete events, whole nanoseconds, no clock: the same host and seed give the same trace.
//!
//! ```text
//! Host (cpus, Policy, Overheads, Vm > Vcpu > Task)  --simulate-->  Outcome (response times, misses, supply, events)
//!
//! queue    releases and ends of I/O                      guest    jobs of one vCPU, and which of them goes first
//! machine  the loop: next instant, advance, dispatch     policy   which vCPU goes first, and for how long at most
//! ```
//!
//! What it is for: an answer of [`crate::analysis`] is checked by schedules, not by the same algebra again. What it does
//! not model: caches, locks between vCPUs, devices, and any policy's implementation cost beyond [`Overheads`].

mod check;
mod dispatch;
mod guest;
mod machine;
mod model;
mod outcome;
pub mod policy;
mod queue;

pub use check::{Problem, SimError};
pub use model::{
    Blocking, GuestPolicy, Host, Overheads, Policy, Record, Run, Server, Slot, Step, Task, Vcpu, Vm,
};
pub use outcome::{CpuOutcome, Events, Execution, Job, Outcome, TaskOutcome, VcpuOutcome};

use policy::{
    Credit, Deadline, DispatchTable, HostPolicy, PeriodicServers, ProportionalShare,
    SporadicServers,
};

/// A time in nanoseconds: a length, or an instant counted from the beginning of the run.
pub type Time = u64;

/// Simulates `host` under its own policy.
///
/// # Errors
/// If the description contradicts itself, or is too much to be simulated; [`Problem`] lists how.
pub fn simulate(host: &Host, run: &Run) -> Result<Outcome, SimError> {
    check::check(host, run)?;
    match &host.policy {
        Policy::Deadline => machine::run(host, run, Deadline::new(host)),
        Policy::Deferrable => machine::run(host, run, PeriodicServers::deferrable(host)),
        Policy::Periodic => machine::run(host, run, PeriodicServers::periodic(host)),
        Policy::WorkConservingPeriodic => {
            machine::run(host, run, PeriodicServers::work_conserving(host))
        }
        Policy::Sporadic => machine::run(host, run, SporadicServers::new(host)),
        Policy::Credit { slice } => machine::run(host, run, Credit::new(host, *slice)),
        Policy::ProportionalShare {
            latency,
            granularity,
        } => machine::run(
            host,
            run,
            ProportionalShare::new(host, *latency, *granularity),
        ),
        Policy::Table(tables) => machine::run(host, run, DispatchTable::new(host, tables)),
    }
}

/// Simulates `host` under a policy from elsewhere; the host's own one is ignored.
///
/// # Errors
/// If the description contradicts itself, or is too much to be simulated; [`Problem`] lists how.
pub fn simulate_with<P: HostPolicy>(
    host: &Host,
    run: &Run,
    policy: P,
) -> Result<Outcome, SimError> {
    check::check(host, run)?;
    machine::run(host, run, policy)
}

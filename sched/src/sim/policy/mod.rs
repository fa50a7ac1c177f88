//! Host policies: which vCPU goes first on a CPU, and for how long at most.
//!
//! A policy is told what happens to vCPUs and answers with claims; it knows neither CPUs' contents nor tasks. Time and
//! all else are arguments.

mod credit;
mod deadline;
mod dispatch_table;
mod feedback;
mod periodic_server;
mod proportional_share;
mod sporadic_server;

pub use credit::Credit;
pub use deadline::Deadline;
pub use dispatch_table::DispatchTable;
pub use feedback::{BudgetChange, Feedback};
pub use periodic_server::PeriodicServers;
pub use proportional_share::ProportionalShare;
pub use sporadic_server::SporadicServers;

use super::Time;
use super::model::{Host, Server, Vcpu};

/// What a vCPU claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The smaller goes first; of equal ones the vCPU with the smaller number.
    pub order: u64,
    /// For how long at most until it has to be asked again; not 0.
    pub most: Time,
}

/// How a host shares its CPUs. vCPUs are numbered over all VMs.
pub trait HostPolicy {
    /// A vCPU has work again.
    fn wake(&mut self, vcpu: usize, now: Time);

    /// A vCPU has no work left.
    fn sleep(&mut self, vcpu: usize, now: Time);

    /// A vCPU comes to a CPU.
    fn start(&mut self, _vcpu: usize, _now: Time) {}

    /// A vCPU leaves its CPU.
    fn stop(&mut self, _vcpu: usize, _now: Time) {}

    /// A vCPU ran, or held a CPU that it had no work for, for `length` until `now`.
    fn ran(&mut self, vcpu: usize, now: Time, length: Time);

    /// When [`HostPolicy::timer`] has to be called; [`Time::MAX`] for never.
    fn next_timer(&self) -> Time;

    /// The time has come; what is next has to be later.
    fn timer(&mut self, now: Time);

    /// What a vCPU claims now; nothing if it may not run. One that sleeps may claim a CPU to hold it.
    fn claim(&self, vcpu: usize, now: Time) -> Option<Claim>;

    /// Whether a CPU that a sleeping vCPU holds goes to the next that has work.
    fn lends_idle_budget(&self) -> bool {
        false
    }
}

/// The place of every server in the order of fixed priorities: as given, then the shorter period first.
fn server_ranks(host: &Host) -> Vec<u64> {
    let key = |vcpu: &Vcpu| {
        let Server {
            priority, period, ..
        } = vcpu.server;
        (priority.is_none(), priority, period)
    };
    let keys: Vec<_> = host.vcpus().map(key).zip(0usize..).collect();
    let rank = |mine| keys.iter().filter(|other| *other < mine).count() as u64;
    keys.iter().map(rank).collect()
}

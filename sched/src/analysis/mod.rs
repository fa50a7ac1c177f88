//! Schedulability of a guest's tasks inside its reservation: how much CPU time a server supplies at least, how much the
//! tasks need at most, whether the one suffices for the other, and the least server for which it does.
//!
//! ```text
//! TaskSet (C, D, T, J, blocking) --scaled, inflated--> demand.rs: request bound | demand bound
//!                                                          |
//!                  fixed_priority.rs | edf.rs | global_edf.rs: Verdict { outcome, test, supply, witnesses }
//!                                                          |
//! supply.rs | pause.rs | mpr.rs: SupplyBound --------------+      design.rs: least Q, best (Q, P), split over vCPUs
//! servers.rs: whether a CPU keeps that supply up for all        generate.rs: random task sets for experiments
//! ```
//!
//! Everything here is computed: no clock, no kernel. Times are whole nanoseconds and all rounding is towards refusal.
//! Every answer names its test and its supply bound and carries the instants that show it. The answer for a guest is
//! only as good as the supply that is assumed for it; which one holds when is said at [`supply::Phase`] and
//! [`latest::latest_under_edf`].

pub mod demand;
pub mod design;
pub mod edf;
pub mod fixed_priority;
pub mod generate;
pub mod global_edf;
pub mod latest;
pub mod mpr;
pub mod overhead;
pub mod pause;
pub mod servers;
pub mod supply;
pub mod task;
pub mod verdict;

pub use demand::Priorities;
pub use design::{BUDGET_STEP, least_budget};
pub use latest::latest_under_edf;
pub use supply::{Phase, Supply, SupplyBound};
pub use task::{Task, TaskSet, TaskSetError};
pub use verdict::{Outcome, Verdict, Witness};

/// Who runs first inside one virtual processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// The task with the higher priority.
    FixedPriority(Priorities),
    /// The job with the earliest deadline.
    EarliestDeadlineFirst,
}

impl Scheduler {
    /// Fixed priorities, the shortest period first.
    pub const RATE_MONOTONIC: Self = Self::FixedPriority(Priorities::RateMonotonic);
    /// Fixed priorities, the shortest deadline first.
    pub const DEADLINE_MONOTONIC: Self = Self::FixedPriority(Priorities::DeadlineMonotonic);

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::FixedPriority(Priorities::RateMonotonic) => "rate monotonic",
            Self::FixedPriority(Priorities::DeadlineMonotonic) => "deadline monotonic",
            Self::FixedPriority(Priorities::Given) => "given priorities",
            Self::EarliestDeadlineFirst => "EDF",
        }
    }

    /// Whether the tasks meet their deadlines on this supply, and what shows it.
    pub fn check(self, set: &TaskSet, supply: &impl SupplyBound) -> Verdict {
        match self {
            Self::FixedPriority(priorities) => fixed_priority::check(set, priorities, supply),
            Self::EarliestDeadlineFirst => edf::check(set, supply),
        }
    }

    /// Whether the tasks meet their deadlines on this supply.
    pub fn meets(self, set: &TaskSet, supply: &impl SupplyBound) -> bool {
        match self {
            Self::FixedPriority(priorities) => {
                fixed_priority::is_schedulable(set, priorities, supply)
            }
            Self::EarliestDeadlineFirst => edf::is_schedulable(set, supply),
        }
    }
}

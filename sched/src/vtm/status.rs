//! What a VTM scheduler says of itself.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::{CpuShare, JobSource, Promise, RoundRobin, Rule};
use crate::histogram::Summary;

/// A VTM scheduler, its VTMs and their jobs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The CPU it shares.
    pub cpu: u32,
    /// The length of a slot.
    pub slot: Duration,
    /// By what rule its table is made.
    pub rule: Rule,
    /// After which time the table repeats; zero without a reservation.
    pub hyperperiod: Duration,
    /// What all VTMs together are promised, in 0..=1.
    pub utilisation: f64,
    /// Whether it dispatches.
    pub dispatching: bool,
    /// How often the table was changed.
    pub tables: u64,
    /// As [`Status::tables`], of the table that is in force.
    pub tables_in_force: u64,
    /// The process that undoes everything should this one die.
    pub guardian: i32,
    /// How dispatching went.
    pub dispatches: Dispatching,
    /// The VTMs, in the order in which they were created.
    pub vtms: Vec<VtmStatus>,
}

/// How dispatching went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Dispatching {
    /// For how long it has been dispatching.
    pub since: Duration,
    /// How many slots passed unseen because the dispatcher woke too late.
    pub missed_slots: u64,
    /// CPU time of the dispatcher for each dispatch, sleeping and waking included.
    pub cost: Summary,
    /// From a slot's boundary until the dispatcher was awake.
    pub lateness: Summary,
}

/// A VTM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VtmStatus {
    /// Its name.
    pub name: String,
    /// What it asked for, if it has a reservation.
    pub share: Option<CpuShare>,
    /// What it is promised, if it has a reservation.
    pub promise: Option<Promise>,
    /// Whether it is suspended.
    pub suspended: bool,
    /// The rule of its jobs.
    pub round_robin: RoundRobin,
    /// How many slots it had.
    pub slots: u64,
    /// For how long it had the CPU.
    pub supplied: Duration,
    /// How often it was given the CPU after another VTM or an idle slot.
    pub dispatches: u64,
    /// CPU time of its jobs since they were added, of those that have ended too.
    pub cpu_time: Duration,
    /// How many of its jobs have ended.
    pub ended: u64,
    /// Its jobs.
    pub jobs: Vec<JobStatus>,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name in its VTM.
    pub name: String,
    /// Where it comes from.
    pub source: JobSource,
    /// Its first process.
    pub pid: i32,
    /// Its processes that are known.
    pub processes: usize,
    /// What it is doing.
    pub state: JobState,
    /// How it is stopped.
    pub means: Means,
    /// How often it had its turn.
    pub turns: u64,
    /// CPU time of its processes since they were added.
    pub cpu_time: Duration,
}

/// What a job is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobState {
    /// It has its turn.
    Running,
    /// It waits for its turn, stopped.
    Waiting,
    /// It was suspended, and has no turns until it is resumed.
    Suspended,
    /// Somebody else had stopped it before it was added. It has no turns until it is continued.
    Held,
}

/// How a job is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// SIGSTOP and SIGCONT.
    Signals,
    /// A freezer.
    Freezer,
}

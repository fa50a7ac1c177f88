//! What a VTM scheduler, a VTM and a job are made from.

use std::fmt;
use std::num::NonZeroUsize;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::request::{Need, Vtm};
use super::table::{Placement, Policy};
use crate::ledger::Ledger;

/// What a VTM scheduler is made from.
#[derive(Clone, Debug)]
pub struct VtmConfig {
    /// The CPU that it shares among VTMs.
    pub cpu: u32,
    /// The length of a slot: the quantum of level 1.
    pub slot: Duration,
    /// By what rule its table is made.
    pub rule: Rule,
    /// How jobs are stopped.
    pub suspend: Suspend,
    /// The host's ledger, in which the CPU is then taken as a whole: SCHED_DEADLINE comes before everything else, so a
    /// table on a CPU that has reservations would be false. The CPU has to be a prepared partition. Without a ledger
    /// nothing is promised against virtual machines, and the CPU must not be a partition.
    pub ledger: Option<Ledger>,
}

impl VtmConfig {
    /// Slots of 10 ms on `cpu`, rate monotonic, the means of stopping chosen for each job, nothing promised against
    /// virtual machines.
    pub fn on(cpu: u32) -> Self {
        Self {
            cpu,
            slot: Duration::from_millis(10),
            rule: Rule::default(),
            suspend: Suspend::default(),
            ledger: None,
        }
    }
}

/// By what rule a table is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which VTM comes before another.
    pub policy: Policy,
    /// Where in their periods VTMs are placed.
    pub placement: Placement,
}

/// How jobs are stopped and continued.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Suspend {
    /// SIGSTOP and SIGCONT to every process of the job: the cheapest for one or few processes. A child whose parent has
    /// ended before it was seen escapes.
    Signals,
    /// A control group of its own for each job, frozen and thawed: no child escapes.
    Freezer,
    /// A control group of its own for each job, in which no child escapes; signals while there is one process in it, and
    /// frozen from when it forks. Signals only where no freezer is mounted.
    #[default]
    Auto,
}

/// The rule of level 2: which jobs of a VTM run when it has the CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundRobin {
    /// How long they run before others have their turn, if the VTM has the CPU for so long; every time the VTM is
    /// dispatched others have their turn too.
    pub quantum: Duration,
    /// How many run at once. They share the CPU as SCHED_RR does: up to 8 of them keep their places in its queue while their
    /// VTM does not have the CPU.
    pub active: NonZeroUsize,
}

impl Default for RoundRobin {
    /// One job at a time, 10 ms.
    fn default() -> Self {
        Self {
            quantum: Duration::from_millis(10),
            active: NonZeroUsize::MIN,
        }
    }
}

/// What a VTM asks for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CpuShare {
    /// Its period: a whole number of slots.
    pub period: Duration,
    /// What it needs of each period.
    pub need: Need,
    /// The latest start of its first slot in a period, counted from the period's beginning.
    pub max_delay: Option<Duration>,
}

impl CpuShare {
    /// The share of the VTM called `name`.
    pub fn of(self, name: &str) -> Vtm {
        Vtm {
            name: name.to_owned(),
            period: self.period,
            need: self.need,
            max_delay: self.max_delay,
        }
    }
}

/// What a VTM is promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Execution time in every period: whole slots.
    pub execution: Duration,
    /// The period.
    pub period: Duration,
}

impl Promise {
    /// The share of the CPU, in 0..=1.
    pub fn utilisation(self) -> f64 {
        self.execution.as_secs_f64() / self.period.as_secs_f64()
    }
}

/// Where a job comes from. Its children belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobSource {
    /// An existing process, by its id.
    Process(i32),
    /// An existing process group, by its id.
    Group(i32),
    /// A command to start: the program and its arguments. It gets a process group of its own, no input, and the
    /// scheduler's output.
    Command(Vec<String>),
}

impl fmt::Display for JobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process(pid) => write!(f, "process {pid}"),
            Self::Group(pgid) => write!(f, "process group {pgid}"),
            Self::Command(words) => write!(f, "command '{}'", words.join(" ")),
        }
    }
}

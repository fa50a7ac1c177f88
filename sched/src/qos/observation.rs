//! What is seen of a job.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Target;
use crate::reservation::Reservation;

/// Whether there is something to see.
#[derive(Clone, Debug, PartialEq)]
pub enum Presence {
    /// This.
    Here(Observation),
    /// It could not be asked.
    Silent {
        /// Why, for the user.
        reason: String,
    },
    /// There is no such job.
    Gone,
}

/// A job at one time. Counters count from the beginning of its life.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// Another number for another job of the same name: its process id.
    pub life: u64,
    /// Its tasks, by name.
    pub tasks: BTreeMap<String, TaskSeen>,
    /// Its virtual CPUs.
    pub vcpus: Vec<VcpuSeen>,
}

impl Observation {
    /// What a virtual CPU of the job `name` is promised.
    pub(super) fn promises(&self, name: &str) -> impl Iterator<Item = (Target, Reservation)> {
        let promised = |(vcpu, seen): (usize, &VcpuSeen)| {
            let job = name.to_owned();
            Some((Target { job, vcpu }, seen.promised?))
        };
        self.vcpus.iter().enumerate().filter_map(promised)
    }
}

/// How the jobs of a task went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSeen {
    /// Jobs that ended.
    pub jobs: u64,
    /// Of these, after their deadline.
    pub misses: u64,
    /// Response times of the last of them, in the order in which they ended.
    pub latest: Vec<Duration>,
}

/// How a virtual CPU was served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuSeen {
    /// What it is promised, if anything.
    pub promised: Option<Reservation>,
    /// CPU time it got.
    pub supplied: Duration,
    /// How long it could have run and did not, throttled or behind others, where that is known.
    pub waited: Option<Duration>,
}

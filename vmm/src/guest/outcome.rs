//! What is known of a guest while it runs and when it is over.

use std::collections::{BTreeMap, VecDeque};

use rt_abi::taskset::TaskSet;
use sched::account::{AccountSnapshot, Throttling};
use sched::request::Granted;
use serde::{Deserialize, Serialize};

use super::network::NetworkStatus;
use crate::exit::End;
use crate::report::Registers;
use crate::telemetry::{Event, Job, Losses, Section};

/// How the jobs of one task went. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatistics {
    /// Its name, if the task set is known.
    pub name: Option<String>,
    /// Jobs that ended.
    pub jobs: u64,
    /// Of these, after their deadline.
    pub misses: u64,
    /// Shortest response time.
    pub least_response: u64,
    /// Longest response time.
    pub greatest_response: u64,
    /// Sum of all, for the mean.
    pub total_response: u64,
    /// The last ones, in the order in which the jobs ended: for who looks from time to time and wants each.
    #[serde(default)]
    pub latest_responses: VecDeque<u64>,
    /// Its critical sections, if it has any.
    #[serde(default)]
    pub sections: SectionStatistics,
    /// Pages that each of its jobs writes, if the task set is known.
    #[serde(default)]
    pub pages_per_job: u32,
}

/// How the critical sections of one task went. Times in nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SectionStatistics {
    /// Sections that ended.
    pub count: u64,
    /// Longest time from asking for the lock to getting it.
    pub longest_wait: u64,
    /// Most processor time that was spun away for one section.
    pub longest_spin: u64,
    /// Processor time spun away in all.
    pub total_spin: u64,
}

impl SectionStatistics {
    fn add(&mut self, section: &Section) {
        self.count += 1;
        self.longest_wait = self.longest_wait.max(section.waited());
        self.longest_spin = self.longest_spin.max(section.spun);
        self.total_spin = self.total_spin.saturating_add(section.spun);
    }
}

/// Response times that are kept of a task. Who looks ten times a second sees all of a task with a period of 4 ms.
const LATEST: usize = 32;

impl TaskStatistics {
    /// Pages that the jobs which ended have written, each as often as it was.
    #[must_use]
    pub fn pages_written(&self) -> u64 {
        self.jobs.saturating_mul(u64::from(self.pages_per_job))
    }

    fn add(&mut self, job: &Job) {
        let response = job.response();
        self.least_response = if self.jobs == 0 {
            response
        } else {
            self.least_response.min(response)
        };
        self.greatest_response = self.greatest_response.max(response);
        self.total_response = self.total_response.saturating_add(response);
        self.misses += u64::from(job.missed());
        self.jobs += 1;
        if self.latest_responses.len() == LATEST {
            self.latest_responses.pop_front();
        }
        self.latest_responses.push_back(response);
    }
}

/// What the guest's records add up to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Records {
    /// Tasks by their number in the task set.
    pub tasks: BTreeMap<u16, TaskStatistics>,
    /// Longest gap that a busy task of the guest has seen, in nanoseconds.
    pub longest_gap: u64,
    /// Number of gaps.
    pub gaps: u64,
    /// What could not be used.
    pub losses: Losses,
}

/// Tasks a hostile guest can make us keep statistics of.
const MAX_TASKS: usize = 64;

impl Records {
    /// No records yet, of the tasks of `set`.
    #[must_use]
    pub fn named(set: Option<&TaskSet>) -> Self {
        let tasks = set.map_or(&[][..], TaskSet::tasks);
        let named = |(number, task): (u16, &rt_abi::taskset::Task)| {
            (
                number,
                TaskStatistics {
                    name: Some(task.name.to_string()),
                    pages_per_job: task.dirty.map_or(0, |dirty| dirty.pages),
                    ..TaskStatistics::default()
                },
            )
        };
        Self {
            tasks: (0..).zip(tasks).map(named).collect(),
            ..Self::default()
        }
    }

    /// The statistics of a task, unless there are too many already.
    fn task(&mut self, number: u16) -> Option<&mut TaskStatistics> {
        let is_room = self.tasks.len() < MAX_TASKS || self.tasks.contains_key(&number);
        is_room.then(|| self.tasks.entry(number).or_default())
    }

    /// Takes an event into account.
    pub fn add(&mut self, event: &Event) {
        match event {
            Event::Job(job) => {
                if let Some(task) = self.task(job.task) {
                    task.add(job);
                }
            }
            Event::Section(section) => {
                if let Some(task) = self.task(section.task) {
                    task.sections.add(section);
                }
            }
            Event::Gap(gap) => {
                self.gaps += 1;
                self.longest_gap = self.longest_gap.max(gap.end - gap.start);
            }
            Event::End { .. } => {}
        }
    }
}

/// A vCPU: what it was granted, what it got.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VcpuStatus {
    /// Thread id on the host.
    pub tid: i32,
    /// What was admitted.
    pub granted: Granted,
    /// What the kernel has in force, read back; text where that failed.
    pub in_force: Result<sched::backend::InForce, String>,
    /// What was supplied.
    pub account: Option<AccountSnapshot>,
    /// How the kernel throttled it, where it counts that.
    pub throttling: Option<Throttling>,
}

/// A guest that runs or stands still.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestStatus {
    /// Name of the VM.
    pub name: String,
    /// Process id of its monitor.
    pub pid: u32,
    /// `running` or `paused`.
    pub state: String,
    /// Seconds since it was started.
    pub uptime: f64,
    /// Bytes of RAM.
    pub memory: crate::units::ByteSize,
    /// vCPUs.
    pub vcpus: Vec<VcpuStatus>,
    /// What its tasks recorded.
    pub records: Records,
    /// Bytes of serial output lost because nobody read them.
    pub serial_lost: u64,
    /// Its network device, if it has one.
    #[serde(default)]
    pub network: Option<NetworkStatus>,
}

/// A guest that is over.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Why.
    pub end: End,
    /// The vCPU that ended it.
    pub vcpu: Option<usize>,
    /// Where that vCPU was.
    pub registers: Option<Registers>,
    /// The last status.
    pub status: GuestStatus,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.status.name, self.end)?;
        if let (true, Some(registers)) = (self.end.is_failure(), &self.registers) {
            write!(f, "\nvCPU {} was at\n{registers}", self.vcpu.unwrap_or(0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_response_times_are_kept_in_order_and_no_more_of_them() {
        let mut records = Records::default();
        for number in 0..100 {
            let job = Job {
                vcpu: 0,
                task: 3,
                job: number,
                release: 1_000 * number,
                woken: 0,
                start: 1_000 * number,
                finish: 1_000 * number + number,
                deadline: 1_000 * number + 50,
                executed: number,
            };
            records.add(&Event::Job(job));
        }
        let task = &records.tasks[&3];
        assert_eq!((task.jobs, task.misses), (100, 49));
        assert!(task.latest_responses.iter().copied().eq(68..100));
    }
}

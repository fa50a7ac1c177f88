//! What came out of a run.

use std::time::Duration;

use super::Time;
use super::model::{Host, Record, Run};
use crate::reservation::nanos;

/// What came out of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How much time passed.
    pub length: Duration,
    /// Every task, VM by VM and vCPU by vCPU.
    pub tasks: Vec<TaskOutcome>,
    /// Every vCPU, VM by VM.
    pub vcpus: Vec<VcpuOutcome>,
    /// Every CPU.
    pub cpus: Vec<CpuOutcome>,
    /// What happened how often.
    pub events: Events,
}

/// What came out for one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskOutcome {
    /// The number of its vCPU.
    pub vcpu: usize,
    /// Its place among the tasks of that vCPU.
    pub task: usize,
    /// Jobs that were done in time or late.
    pub finished: u64,
    /// Jobs that were done late, or not done although their deadlines passed before the end.
    pub missed: u64,
    /// The longest response time of a finished job.
    pub longest: Option<Duration>,
    /// Its jobs as they finished, then those that did not; see [`Record`].
    pub jobs: Vec<Job>,
}

/// One job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// When it arrived, from the beginning of the run.
    pub arrival: Duration,
    /// From its arrival to its end, if it ended.
    pub response: Option<Duration>,
    /// Whether it missed its deadline.
    pub missed: bool,
}

/// What came out for one vCPU.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuOutcome {
    /// How much its tasks executed.
    pub supplied: Duration,
    /// When, in order; see [`Record`].
    pub executions: Vec<Execution>,
}

/// A stretch in which one task executed on one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Its begin, in nanoseconds from the beginning of the run.
    pub from: Time,
    /// Its end.
    pub to: Time,
    /// The CPU.
    pub cpu: usize,
    /// The task's place on its vCPU.
    pub task: usize,
}

impl VcpuOutcome {
    /// How much was supplied between two instants, in nanoseconds. Needs every stretch of execution recorded.
    pub fn supplied_between(&self, from: Time, to: Time) -> Time {
        let first = self.executions.partition_point(|part| part.to <= from);
        let within = self.executions[first..]
            .iter()
            .take_while(|part| part.from < to);
        within
            .map(|part| part.to.min(to) - part.from.max(from))
            .sum()
    }
}

/// Where the time of one CPU went; the sum is the length of the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuOutcome {
    /// Tasks executed.
    pub supplied: Duration,
    /// The host switched.
    pub overhead: Duration,
    /// Nothing ran.
    pub idle: Duration,
}

/// What happened how often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Jobs were released.
    pub releases: u64,
    /// Jobs were done.
    pub completions: u64,
    /// Jobs went to wait for a device.
    pub blockings: u64,
    /// Devices answered.
    pub answers: u64,
    /// Quanta of round robin ended inside a vCPU.
    pub quanta: u64,
    /// Budgets, slices or slots ended.
    pub budget_ends: u64,
    /// The host policy acted at a time of its own: replenishments, ticks, slots.
    pub timers: u64,
    /// CPUs went over to a vCPU.
    pub switches: u64,
    /// vCPUs with work and budget lost their CPU to another.
    pub preemptions: u64,
    /// vCPUs went on on another CPU than before.
    pub migrations: u64,
}

impl Events {
    /// Everything that the simulation had to act on; switches, preemptions and migrations follow from it.
    pub fn total(&self) -> u64 {
        self.releases
            + self.completions
            + self.blockings
            + self.answers
            + self.quanta
            + self.budget_ends
            + self.timers
    }
}

/// An outcome in the making.
#[derive(Debug)]
pub struct Log {
    outcome: Outcome,
    record: Record,
    end: Time,
    /// Relative deadlines of all tasks.
    deadlines: Vec<Time>,
    /// The number of the first task of every vCPU.
    first_task: Vec<usize>,
    supplied: Vec<Time>,
    longest: Vec<Time>,
}

impl Log {
    /// Nothing has happened yet.
    pub fn new(host: &Host, run: &Run) -> Self {
        let mut log = Self {
            outcome: Outcome {
                length: run.length,
                ..Outcome::default()
            },
            record: run.record,
            end: nanos(run.length),
            deadlines: Vec::new(),
            first_task: Vec::new(),
            supplied: vec![0; host.vcpus().count()],
            longest: Vec::new(),
        };
        for (vcpu, description) in host.vcpus().enumerate() {
            log.first_task.push(log.deadlines.len());
            log.outcome.vcpus.push(VcpuOutcome::default());
            for (place, task) in description.tasks.iter().enumerate() {
                log.deadlines.push(nanos(task.deadline));
                log.longest.push(0);
                log.outcome.tasks.push(TaskOutcome {
                    vcpu,
                    task: place,
                    ..TaskOutcome::default()
                });
            }
        }
        log
    }

    /// The counts.
    pub fn events(&mut self) -> &mut Events {
        &mut self.outcome.events
    }

    /// A task executed.
    pub fn executed(&mut self, vcpu: usize, stretch: Execution) {
        self.supplied[vcpu] += stretch.to - stretch.from;
        if self.record < Record::Everything {
            return;
        }
        let executions = &mut self.outcome.vcpus[vcpu].executions;
        match executions.last_mut() {
            Some(last)
                if (last.to, last.cpu, last.task) == (stretch.from, stretch.cpu, stretch.task) =>
            {
                last.to = stretch.to;
            }
            _ => executions.push(stretch),
        }
    }

    /// A job was done.
    pub fn done(&mut self, (vcpu, task): (usize, usize), arrival: Time, now: Time) {
        let number = self.first_task[vcpu] + task;
        let response = now - arrival;
        let missed = response > self.deadlines[number];
        self.longest[number] = self.longest[number].max(response);
        let outcome = &mut self.outcome.tasks[number];
        outcome.finished += 1;
        outcome.missed += u64::from(missed);
        if self.record >= Record::Jobs {
            outcome.jobs.push(Job {
                arrival: Duration::from_nanos(arrival),
                response: Some(Duration::from_nanos(response)),
                missed,
            });
        }
    }

    /// A job was not done at the end.
    pub fn unfinished(&mut self, (vcpu, task): (usize, usize), arrival: Time) {
        let number = self.first_task[vcpu] + task;
        let missed = arrival.saturating_add(self.deadlines[number]) <= self.end;
        let outcome = &mut self.outcome.tasks[number];
        outcome.missed += u64::from(missed);
        if self.record >= Record::Jobs {
            outcome.jobs.push(Job {
                arrival: Duration::from_nanos(arrival),
                response: None,
                missed,
            });
        }
    }

    /// All that happened, with where the time of each CPU went.
    pub fn finish(mut self, cpus: Vec<CpuOutcome>) -> Outcome {
        self.outcome.cpus = cpus;
        for (vcpu, supplied) in self.outcome.vcpus.iter_mut().zip(self.supplied) {
            vcpu.supplied = Duration::from_nanos(supplied);
        }
        for (task, longest) in self.outcome.tasks.iter_mut().zip(self.longest) {
            task.longest = (task.finished > 0).then_some(Duration::from_nanos(longest));
        }
        self.outcome
    }
}

//! Periodic real-time tasks on the host: SCHED_FIFO, rate monotonic, one thread each, pinned to one CPU.
//!
//! In the paper these are both the reference (the task set without a guest) and the load beside the guest. Execution is
//! counted as the guest counts it: a loop looks at the clock, and a step much longer than usual was an interruption and
//! does not count.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use clap::Args;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_nanosleep};
use nix::unistd::Pid;
use rt_abi::policy::{deadline, next_release, ranks};
use rt_abi::taskset::{Task, TaskSet};
use sched::kernel::{Policy, Tid, monotonic, set_policy};
use sched::partition::Partition;
use vmm::telemetry::{Event, Job};

use super::process::READY;
use crate::failure::Failure;

/// `experiment part tasks`.
#[derive(Debug, Args)]
pub struct TasksArgs {
    /// The CPU.
    #[arg(long)]
    pub cpu: u32,
    /// The SCHED_FIFO priority of the first in rank; the others follow below.
    #[arg(long)]
    pub priority: u8,
    /// The task set, as on the command line of `rt-guest`.
    pub set: String,
    /// Where records go; none are kept otherwise, and the tasks run until they are ended.
    #[arg(long)]
    pub records: Option<PathBuf>,
    /// The process it ends with.
    #[arg(long)]
    pub owner: i32,
}

/// An interruption is longer than this, in nanoseconds, and than this many usual steps; as in the guest.
const LEAST_INTERRUPTION: u64 = 2_000;
const STEPS_IN_INTERRUPTION: u64 = 8;
/// The threads have this long to get ready before the first release.
const LEAD: u64 = 50_000_000;

/// When the run begins and ends, nanoseconds of CLOCK_MONOTONIC.
#[derive(Clone, Copy)]
struct Window {
    start: u64,
    end: u64,
}

/// Runs the tasks: for the set's duration and with records, or until this process is ended.
pub fn run(args: &TasksArgs) -> Result<u8, Failure> {
    let set = TaskSet::parse(&args.set).map_err(|e| Failure::new(e.to_string()))?;
    // Page faults of a real-time thread would count as its execution; not every user may lock memory.
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    let start = now() + LEAD;
    let end = match args.records {
        Some(_) => start + set.duration,
        None => u64::MAX,
    };
    let window = Window { start, end };
    let (ready_out, ready) = channel();
    let ranks = ranks(set.policy, set.tasks());
    let mut threads = Vec::new();
    for (index, task) in set.tasks().iter().enumerate() {
        let runner = Runner {
            index,
            task: *task,
            cpu: args.cpu,
            priority: args.priority.saturating_sub(ranks[index]),
            window,
            keeps: args.records.is_some(),
        };
        let ready_out = ready_out.clone();
        threads.push(std::thread::spawn(move || runner.run(&ready_out)));
    }
    drop(ready_out);
    for _ in &threads {
        ready
            .recv()
            .unwrap_or_else(|_| Err(Failure::new("a task thread ended during set-up")))?;
    }
    println!("{READY}");
    let mut jobs: Vec<Job> = Vec::new();
    for thread in threads {
        let thread_jobs = thread
            .join()
            .map_err(|_| Failure::new("a task thread panicked"))?;
        jobs.extend(thread_jobs);
    }
    if let Some(path) = &args.records {
        write(path, &jobs)?;
    }
    Ok(0)
}

fn write(path: &PathBuf, jobs: &[Job]) -> Result<(), Failure> {
    let mut out = BufWriter::new(File::create(path)?);
    for job in jobs {
        serde_json::to_writer(&mut out, &Event::Job(*job))?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(())
}

/// One task's thread.
struct Runner {
    index: usize,
    task: Task,
    cpu: u32,
    priority: u8,
    window: Window,
    keeps: bool,
}

impl Runner {
    fn run(&self, ready: &Sender<Result<(), Failure>>) -> Vec<Job> {
        let set_up = enter(self.cpu).and_then(|()| {
            let priority = self.priority;
            set_policy(Tid::current(), Policy::Fifo { priority }).map_err(|errno| {
                Failure::new(format!(
                    "SCHED_FIFO {priority} was refused ({errno}): needs CAP_SYS_NICE"
                ))
            })
        });
        let failed = set_up.is_err();
        // The receiver lives until every thread has answered.
        let _ = ready.send(set_up);
        if failed {
            return Vec::new();
        }
        let interruption = interruption();
        let expected = self.window.end.saturating_sub(self.window.start) / self.task.period.max(1);
        let mut jobs = Vec::with_capacity(
            usize::try_from(expected.min(1 << 20)).unwrap_or(0) * usize::from(self.keeps),
        );
        let mut number = 0;
        loop {
            let release = next_release(&self.task, number, self.window.start);
            if release >= self.window.end {
                return jobs;
            }
            let job = self.job(number, release, interruption);
            if job.finish > self.window.end {
                return jobs;
            }
            if self.keeps {
                jobs.push(job);
                number += 1;
            } else {
                // A load that cannot keep up skips what it has missed altogether.
                number = self.next_possible(job.finish).max(number + 1);
            }
        }
    }

    /// The first job whose period is not over at `now`.
    fn next_possible(&self, now: u64) -> u64 {
        now.saturating_sub(self.window.start) / self.task.period.max(1)
    }

    fn job(&self, number: u64, release: u64, interruption: u64) -> Job {
        sleep_until(release);
        let start = now();
        let mut executed = 0;
        let mut last = start;
        let wanted = self.task.stepped(number);
        let wanted = wanted.map_or(self.task.c_max, |step| step.c);
        while executed < wanted {
            let now = now();
            if now - last <= interruption {
                executed += now - last;
            }
            last = now;
        }
        Job {
            vcpu: 0,
            task: u16::try_from(self.index).unwrap_or(u16::MAX),
            job: number,
            release,
            woken: start,
            start,
            finish: last,
            deadline: deadline(&self.task, release),
            executed,
        }
    }
}

/// Moves the calling thread to `cpu`, into its partition if it is one.
pub fn enter(cpu: u32) -> Result<(), Failure> {
    if let Some(partition) = Partition::of(cpu) {
        partition.join(Tid::current())?;
    }
    let mut set = CpuSet::new();
    set.set(cpu as usize)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// How many nanoseconds a step of the loop takes at least when it was interrupted.
pub fn interruption() -> u64 {
    let mut steps = [0; 255];
    let mut last = now();
    for step in &mut steps {
        let now = now();
        *step = now - last;
        last = now;
    }
    steps.sort_unstable();
    LEAST_INTERRUPTION.max(steps[steps.len() / 2] * STEPS_IN_INTERRUPTION)
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now() -> u64 {
    u64::try_from(monotonic().as_nanos()).unwrap_or(u64::MAX)
}

pub fn sleep_until(time: u64) {
    let time = TimeSpec::from_duration(Duration::from_nanos(time));
    // Only a signal interrupts it, and none has a handler here.
    let _ = clock_nanosleep(
        ClockId::CLOCK_MONOTONIC,
        ClockNanosleepFlags::TIMER_ABSTIME,
        &time,
    );
}

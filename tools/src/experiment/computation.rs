//! What rt-guest computes, as a process of the host: a periodic task, and a busy loop below it, in one thread.
//!
//! The thread looks at the clock all the time. It is in a job from its release until it has executed for long enough, and
//! in the loop otherwise; a step that took longer than the set's gap is a stretch in which it did not run. So its records
//! are those of the guest, and the same figures come from them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use rt_abi::policy::{deadline, next_release};
use rt_abi::taskset::{Kind, Task, TaskSet};
use sched::backend::{self, CpuReservation};
use sched::framework::Manager;
use sched::kernel::Tid;
use sched::ledger::{Admitted, Ledger};
use sched::request::{BackendKind, VcpuRequest};
use sched::reservation::Reservation;
use vmm::telemetry::{Event, Gap, Job};
use vmm::units::Span;

use super::load::{enter, interruption, now};
use super::process::READY;
use crate::failure::Failure;

/// `experiment part computation`.
#[derive(Debug, Args)]
pub struct ComputationArgs {
    /// The CPU.
    #[arg(long)]
    cpu: u32,
    /// Where records go.
    #[arg(long)]
    records: PathBuf,
    /// The quota of its group; none otherwise.
    #[arg(long, requires = "period")]
    quota: Option<Span>,
    /// The quota's period.
    #[arg(long)]
    period: Option<Span>,
    /// The process it ends with.
    #[arg(long)]
    pub owner: i32,
    /// The task set, as on the command line of `rt-guest`: a periodic task and a hog.
    set: String,
}

/// The process: computes for the set's duration.
pub fn run(run_dir: &Path, args: &ComputationArgs) -> Result<u8, Failure> {
    let set = TaskSet::parse(&args.set).map_err(|e| Failure::new(e.to_string()))?;
    enter(args.cpu)?;
    let limited = limited(run_dir, args)?;
    let mut cycle = Cycle::new(&set, interruption())?;
    println!("{READY}");
    cycle.begin(now() + set.start);
    while cycle.step(now()) {}
    if let Some((mut group, admitted)) = limited {
        group.release()?;
        admitted.release()?;
    }
    let mut out = BufWriter::new(File::create(&args.records)?);
    for event in cycle.events() {
        serde_json::to_writer(&mut out, &event)?;
        out.write_all(b"\n")?;
    }
    out.flush()?;
    Ok(0)
}

type Limited = (Box<dyn CpuReservation>, Admitted);

/// Puts this process under its quota, if it has one.
fn limited(run_dir: &Path, args: &ComputationArgs) -> Result<Option<Limited>, Failure> {
    let (Some(quota), Some(period)) = (args.quota, args.period) else {
        return Ok(None);
    };
    let request = VcpuRequest {
        reservation: Some(Reservation::new(quota.duration(), period.duration())?),
        backend: BackendKind::CfsQuota,
        cpu: Some(args.cpu),
        ..VcpuRequest::default()
    };
    let name = format!("computation-{}", std::process::id());
    let admitted = Ledger::open(run_dir)?.reserve(&name, &[request])?;
    let granted = admitted
        .vcpu(0)
        .ok_or_else(|| Failure::new("nothing was granted"))?;
    let group = backend::apply(Tid::current(), granted)?;
    Ok(Some((group, admitted)))
}

/// The computation, step by step.
struct Cycle {
    task: Task,
    /// The numbers of the periodic task and of the hog in the set.
    numbers: (u16, u16),
    gap: u64,
    interruption: u64,
    duration: u64,
    start: u64,
    last: u64,
    /// The number of the next job, or of the one that runs.
    number: u64,
    running: Option<Running>,
    jobs: Vec<Job>,
    gaps: Vec<Gap>,
}

/// A job that has begun.
#[derive(Clone, Copy)]
struct Running {
    start: u64,
    executed: u64,
}

impl Cycle {
    fn new(set: &TaskSet, interruption: u64) -> Result<Self, Failure> {
        let of = |kind| {
            let place = set.tasks().iter().position(|task| task.kind == kind);
            let number = place.and_then(|place| u16::try_from(place).ok());
            number.ok_or_else(|| Failure::new("the set needs a periodic task and a hog"))
        };
        let numbers = (of(Kind::Periodic)?, of(Kind::Hog)?);
        let task = set.tasks()[usize::from(numbers.0)];
        let jobs = set.duration / task.period.max(1) + 1;
        Ok(Self {
            task,
            numbers,
            gap: set.gap,
            interruption,
            duration: set.duration,
            start: 0,
            last: 0,
            number: 0,
            running: None,
            // Nothing is allocated while it computes, unless it is interrupted far more often than it should be.
            jobs: Vec::with_capacity(usize::try_from(jobs.min(1 << 20)).unwrap_or(0)),
            gaps: Vec::with_capacity(1 << 14),
        })
    }

    /// The run begins at `start`.
    fn begin(&mut self, start: u64) {
        self.start = start;
        self.last = start;
    }

    /// It is `now`. Whether the run goes on.
    fn step(&mut self, now: u64) -> bool {
        if now < self.start {
            return true;
        }
        let end = self.start + self.duration;
        let passed = now - self.last;
        if passed >= self.gap {
            let (periodic, hog) = self.numbers;
            self.gaps.push(Gap {
                vcpu: 0,
                task: if self.running.is_some() {
                    periodic
                } else {
                    hog
                },
                start: self.last,
                end: now.min(end),
            });
        }
        self.last = now;
        if now >= end {
            return false;
        }
        let release = next_release(&self.task, self.number, self.start);
        match &mut self.running {
            Some(job) => {
                if passed <= self.interruption {
                    job.executed += passed;
                }
                if job.executed >= self.task.c_max {
                    let finished = *job;
                    self.finish(finished, (release, now));
                }
            }
            None if now >= release => {
                self.running = Some(Running {
                    start: now,
                    executed: 0,
                });
            }
            None => {}
        }
        true
    }

    fn finish(&mut self, job: Running, (release, now): (u64, u64)) {
        self.jobs.push(Job {
            vcpu: 0,
            task: self.numbers.0,
            job: self.number,
            release,
            woken: job.start,
            start: job.start,
            finish: now,
            deadline: deadline(&self.task, release),
            executed: job.executed,
        });
        self.number += 1;
        self.running = None;
    }

    fn events(&self) -> impl Iterator<Item = Event> {
        let jobs = self.jobs.iter().copied().map(Event::Job);
        jobs.chain(self.gaps.iter().copied().map(Event::Gap))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    /// Steps of a microsecond, without those in which it is away.
    fn computed(away: &[(u64, u64)]) -> Cycle {
        let text = "sched=rm duration=1ms gap=50us task=a,c=100us,t=400us,gaps=1 hog=0";
        let mut cycle = Cycle::new(&TaskSet::parse(text).unwrap(), 2 * US).unwrap();
        cycle.begin(10 * US);
        for step in 0..2_000 {
            let is_away = away.iter().any(|(from, to)| (*from..*to).contains(&step));
            if !is_away && !cycle.step(step * US) {
                return cycle;
            }
        }
        panic!("it never ends");
    }

    #[test]
    fn a_job_executes_its_time_whoever_takes_the_cpu_meanwhile() {
        let cycle = computed(&[(60, 160)]);
        let first = cycle.jobs[0];
        assert_eq!(first.release, 10 * US);
        assert!((100 * US..=102 * US).contains(&first.executed));
        assert!(first.finish.abs_diff(210 * US) <= 3 * US, "{first:?}");
        let gaps: Vec<_> = cycle
            .gaps
            .iter()
            .map(|g| (g.task, g.start, g.end))
            .collect();
        assert_eq!(gaps, [(0, 59 * US, 160 * US)]);
        assert_eq!(cycle.jobs.len(), 3);
    }

    #[test]
    fn a_run_that_ends_while_it_is_away_is_a_gap_up_to_its_end() {
        let cycle = computed(&[(900, 1_500)]);
        let last = cycle.gaps.last().unwrap();
        assert_eq!((last.start, last.end), (899 * US, 1_010 * US));
        assert_eq!(cycle.jobs.len(), 2, "the third is not over in time");
    }
}

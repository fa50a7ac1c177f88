//! Tasks: what their contexts run, and what is known of their jobs.

use core::sync::atomic::{AtomicU64, Ordering};

use rt_abi::clock::ClockPage;
use rt_abi::policy::JobView;
use rt_abi::random::execution;
use rt_abi::record::{Kind, Record};
use rt_abi::taskset::{self, MAX_TASKS, Task};

use crate::cpu::Cpu;
use crate::lock::LOCK;
use crate::pages::Touches;
use crate::system::{System, system};
use crate::{clock, hw};

/// Released jobs of a task whose wake-ups are remembered.
const WAKE_UPS: usize = 8;

/// What has happened to one task. Written on its own vCPU only.
#[derive(Default)]
pub struct State {
    /// Jobs released, and jobs finished.
    pub released: AtomicU64,
    /// See `released`.
    pub done: AtomicU64,
    /// Of a service: when its job became the first to be done, in nanoseconds.
    since: AtomicU64,
    /// Of a service: when it is to be released even if nothing happens, in nanoseconds.
    pub alarm: AtomicU64,
    /// When the interrupt for a release came, by job number.
    woken: [AtomicU64; WAKE_UPS],
    /// Gaps seen.
    gaps: AtomicU64,
    /// Jobs finished that were more than a service's setting itself up.
    pub finished: AtomicU64,
    /// Jobs that finished late.
    pub misses: AtomicU64,
    /// Response times of finished jobs in nanoseconds.
    pub least: AtomicU64,
    /// See `least`.
    pub most: AtomicU64,
    /// See `least`.
    pub sum: AtomicU64,
    /// Pages written.
    pub written: AtomicU64,
    /// Pages that were not as the task had left them.
    pub wrong: AtomicU64,
}

static STATES: [State; MAX_TASKS] = [const {
    State {
        released: AtomicU64::new(0),
        done: AtomicU64::new(0),
        since: AtomicU64::new(0),
        alarm: AtomicU64::new(u64::MAX),
        woken: [const { AtomicU64::new(0) }; WAKE_UPS],
        gaps: AtomicU64::new(0),
        finished: AtomicU64::new(0),
        misses: AtomicU64::new(0),
        least: AtomicU64::new(u64::MAX),
        most: AtomicU64::new(0),
        sum: AtomicU64::new(0),
        written: AtomicU64::new(0),
        wrong: AtomicU64::new(0),
    }
}; MAX_TASKS];

/// The state of task `task`.
pub fn state(task: usize) -> &'static State {
    &STATES[task]
}

impl State {
    /// Releases one more job; `woken` is when the interrupt for it came, or 0.
    pub fn release(&self, woken: u64) {
        let job = self.released.load(Ordering::Relaxed);
        self.wake_up(job).store(woken, Ordering::Relaxed);
        self.released.store(job + 1, Ordering::Relaxed);
    }

    /// Releases one more job of a service, unless `most` wait already. With the scheduler kept out.
    pub fn wake(&self, now: u64, most: u64) {
        let (released, done) = (
            self.released.load(Ordering::Relaxed),
            self.done.load(Ordering::Relaxed),
        );
        if released == done {
            self.since.store(now, Ordering::Relaxed);
        }
        if released - done < most {
            self.released.store(released + 1, Ordering::Relaxed);
        }
    }

    /// Notes that a service's job is done. With the scheduler kept out.
    pub fn done_with(&self, now: u64) {
        self.done.fetch_add(1, Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }

    /// Jobs done.
    pub fn jobs_done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// Since when the first job of a service that is not done could have been.
    pub fn since(&self) -> u64 {
        self.since.load(Ordering::Relaxed)
    }

    /// The first job that is released and not finished.
    pub fn ready(&self) -> Option<u64> {
        let job = self.done.load(Ordering::Relaxed);
        (job < self.released.load(Ordering::Relaxed)).then_some(job)
    }

    fn wake_up(&self, job: u64) -> &AtomicU64 {
        let slots = WAKE_UPS as u64;
        &self.woken[usize::try_from(job % slots).unwrap_or(0)]
    }

    /// When the interrupt for the release of `job` came; 0 if there was none or it is too long ago to be known.
    fn woken(&self, job: u64) -> u64 {
        let waiting = self.released.load(Ordering::Relaxed) - job;
        if waiting > WAKE_UPS as u64 {
            return 0;
        }
        self.wake_up(job).load(Ordering::Relaxed)
    }

    /// Notes that a job is done.
    pub fn finish(&self, record: &Record) {
        let response = record.finish.saturating_sub(record.release);
        self.least.fetch_min(response, Ordering::Relaxed);
        self.most.fetch_max(response, Ordering::Relaxed);
        self.sum.fetch_add(response, Ordering::Relaxed);
        self.finished.fetch_add(1, Ordering::Relaxed);
        if record.finish > record.deadline {
            self.misses.fetch_add(1, Ordering::Relaxed);
        }
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// What a task's context runs.
pub extern "C" fn main(index: u64) -> ! {
    let system = system();
    let (task, index, cpu) = usize::try_from(index)
        .ok()
        .and_then(|i| {
            let task = system.set.tasks().get(i)?;
            Some((task, i, Cpu::get(task.vcpu.into())?))
        })
        .expect("contexts are prepared for tasks of the set");
    loop {
        let job = state(index).done.load(Ordering::Relaxed);
        let budget = match task.kind {
            taskset::Kind::Hog => u64::MAX,
            _ => execution(system.set.seed, index, task, job),
        };
        let run = Run::new(system, cpu, index, task);
        let record = run.job(job, budget);
        cpu.undisturbed(|| {
            state(index).finish(&record);
            push(system, cpu, &record);
            if task.stream.is_some() {
                crate::network::wake(system, record.finish);
            }
            // The scheduler is to look, as if the timer had gone off.
            cpu.pending
                .fetch_or(crate::cpu::PENDING_DONE, Ordering::Relaxed);
        });
    }
}

/// Records what `cpu` did. With the scheduler kept out.
pub fn push(system: &System, cpu: &Cpu, record: &Record) {
    if let Some(ring) = system.ring(cpu.index()) {
        ring.push(record);
    }
}

/// A task while one of its jobs runs.
struct Run {
    system: &'static System,
    cpu: &'static Cpu,
    index: usize,
    task: &'static Task,
    /// A step longer than this is recorded as a gap, in ticks; the end of time for tasks that record none.
    gap: u64,
}

impl Run {
    fn new(system: &'static System, cpu: &'static Cpu, index: usize, task: &'static Task) -> Self {
        let gap = if task.gaps {
            clock::ticks(&system.clock.page(), system.set.gap)
        } else {
            u64::MAX
        };
        Self {
            system,
            cpu,
            index,
            task,
            gap,
        }
    }

    /// Runs one job that takes `budget` nanoseconds of processor time, the critical section included.
    fn job(&self, job: u64, budget: u64) -> Record {
        let begin = hw::rdtsc();
        let page = self.system.clock.page();
        let critical = clock::ticks(&page, self.task.critical);
        let alone = clock::ticks(&page, budget).saturating_sub(critical);
        let mut touches = Touches::new(self.system, self.index, self.task, job);
        let mut ran = self.busy(begin, alone, Preemption::Allowed, || !touches.next());
        if critical > 0 {
            let mut section = Stretch::default();
            self.cpu.undisturbed(|| section = self.section(critical));
            ran.executed += section.executed;
            ran.end = section.end;
        }
        self.record(job, (page.ns_at(begin), ran.end), ran.executed)
    }

    /// Is busy from the TSC value `begin` until it has used `budget` ticks and `turn`, called in every round, has said
    /// that it is done.
    fn busy(
        &self,
        begin: u64,
        budget: u64,
        preemption: Preemption,
        mut turn: impl FnMut() -> bool,
    ) -> Stretch {
        let mut executed = 0;
        let mut last = begin;
        loop {
            let done = turn();
            let now = hw::rdtsc();
            let step = now.wrapping_sub(last);
            if step <= self.system.interruption {
                executed += step;
                if executed >= budget && done {
                    return Stretch { executed, end: now };
                }
            } else if step > self.gap {
                self.gap((last, now), preemption);
            }
            last = now;
        }
    }

    /// Spins for the lock, holds it for `length` ticks of processor time, and records both. Not to be preempted.
    fn section(&self, length: u64) -> Stretch {
        let asked = hw::rdtsc();
        let ticket = LOCK.ask();
        let spun = self.busy(asked, 0, Preemption::Off, || LOCK.is_given_to(ticket));
        let before = LOCK.sections();
        let got = hw::rdtsc_after_loads();
        let held = self.busy(got, length, Preemption::Off, || true);
        LOCK.give_back(ticket, before);
        let page = self.system.clock.page();
        let record = Record {
            release: page.ns_at(asked),
            start: page.ns_at(got),
            finish: page.ns_at(held.end),
            executed: clock::length(&page, spun.executed),
            ..self.blank(Kind::Section, before)
        };
        push(self.system, self.cpu, &record);
        held
    }

    /// The record of a job that started at the time `start` and ended at the TSC value `end`.
    fn record(&self, job: u64, (start, end): (u64, u64), executed: u64) -> Record {
        let page = self.system.clock.page();
        let view = JobView::new(self.index, self.task, job, self.system.start);
        Record {
            release: view.release,
            woken: state(self.index).woken(job),
            start,
            finish: page.ns_at(end),
            deadline: view.deadline,
            executed: clock::length(&page, executed),
            ..self.blank(Kind::Job, job)
        }
    }

    fn blank(&self, kind: Kind, job: u64) -> Record {
        Record {
            kind: kind as u16,
            vcpu: self.task.vcpu,
            task: u16::try_from(self.index).unwrap_or(u16::MAX),
            job,
            ..Record::default()
        }
    }

    #[cold]
    fn gap(&self, (from, to): (u64, u64), preemption: Preemption) {
        let page: ClockPage = self.system.clock.page();
        let before = state(self.index).gaps.fetch_add(1, Ordering::Relaxed);
        let record = Record {
            start: page.ns_at(from),
            finish: page.ns_at(to),
            ..self.blank(Kind::Gap, before)
        };
        let push = || push(self.system, self.cpu, &record);
        match preemption {
            Preemption::Allowed => self.cpu.undisturbed(push),
            Preemption::Off => push(),
        }
    }
}

/// What a busy stretch used.
#[derive(Clone, Copy, Default)]
struct Stretch {
    /// Ticks, interruptions left out.
    executed: u64,
    /// TSC at its end.
    end: u64,
}

/// Whether other tasks of this vCPU may run meanwhile.
#[derive(Clone, Copy)]
enum Preemption {
    Allowed,
    Off,
}

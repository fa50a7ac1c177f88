//! The dispatcher: the real-time thread that stops and continues jobs as the table says.
//!
//! It wakes at the absolute boundary of every slot, and where a turn ends within one, and does work for the jobs that had
//! their turn and those that have it now only: not for each VTM, not for each job. Orders reach it through a wait-free
//! queue, what it has no use for goes back through another: it waits for nobody, and only orders make it allocate.
//!
//! Its policy is SCHED_FIFO at the highest priority. Nothing comes before it on a CPU without SCHED_DEADLINE threads, and
//! unlike SCHED_DEADLINE it cannot be throttled in the middle of a dispatch that takes longer than usual.

use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use rtrb::{Consumer, Producer};

use super::config::RoundRobin;
use super::freezer::Freezer;
use super::interrupted::{self, Work};
use super::table::Table;
use super::turns::Turns;
use crate::histogram::Histogram;
use crate::kernel::{PidFd, monotonic, sleep_until, thread_cpu_time};
use crate::reservation::nanos;

/// How many orders it obeys in one dispatch.
const MOST_ORDERS: usize = 64;

/// A turn that would end so shortly before the slot ends with it.
const WORTH_WAKING: Duration = Duration::from_micros(100);

/// How a job is stopped and continued.
#[derive(Debug)]
pub(super) enum Stop {
    /// SIGSTOP and SIGCONT to each of its processes.
    Signals(Vec<Arc<PidFd>>),
    /// The freezer of its group.
    Freezer(Arc<Freezer>),
}

impl Stop {
    /// A process that has ended meanwhile is for the watcher to find.
    pub(super) fn stop(&self) {
        match self {
            Self::Signals(processes) => signal(processes, Signal::SIGSTOP),
            Self::Freezer(freezer) => drop(freezer.freeze()),
        }
    }

    pub(super) fn resume(&self) {
        match self {
            Self::Signals(processes) => signal(processes, Signal::SIGCONT),
            Self::Freezer(freezer) => drop(freezer.thaw()),
        }
    }
}

fn signal(processes: &[Arc<PidFd>], signal: Signal) {
    for process in processes {
        let _ = process.signal(signal);
    }
}

/// What the dispatcher tells of a job.
#[derive(Debug, Default)]
pub(super) struct JobCount {
    pub(super) turns: AtomicU64,
    pub(super) running: AtomicBool,
}

/// A job, as the dispatcher has it.
#[derive(Debug)]
pub(super) struct Handle {
    pub(super) id: u64,
    pub(super) stop: Stop,
    pub(super) count: Arc<JobCount>,
    pub(super) work: Work,
    /// Whether it was continued.
    pub(super) on: bool,
}

impl Handle {
    fn switch(&mut self, on: bool) {
        if self.on == on {
            return;
        }
        self.on = on;
        self.count.running.store(on, Ordering::Relaxed);
        if on {
            self.count.turns.fetch_add(1, Ordering::Relaxed);
            self.stop.resume();
        } else {
            self.stop.stop();
        }
    }
}

/// What the dispatcher tells of a VTM.
#[derive(Debug, Default)]
pub(super) struct TeamCount {
    pub(super) slots: AtomicU64,
    pub(super) dispatches: AtomicU64,
    pub(super) supplied_ns: AtomicU64,
}

/// The jobs of a VTM, as the dispatcher has them.
#[derive(Debug)]
struct TeamState {
    turns: Turns<Handle>,
    quantum: Duration,
    suspended: bool,
    count: Arc<TeamCount>,
}

/// A table in force.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// None where nothing is reserved.
    pub(super) table: Option<Arc<Table>>,
    /// The VTMs of the table, as the dispatcher counts them.
    pub(super) teams: Vec<usize>,
    /// How many there were before.
    pub(super) number: u64,
}

/// What the dispatcher is told. VTMs are given by number.
#[derive(Debug)]
pub(super) enum Order {
    /// Follow this table from now on.
    Follow(Box<Plan>),
    /// There is a VTM of this number, without jobs.
    Create(usize, RoundRobin, Arc<TeamCount>),
    /// There is no such VTM any more; its jobs come back, as they are.
    Release(usize),
    /// The rule of its jobs.
    Rule(usize, RoundRobin),
    /// Give its next jobs their turn, if it has the CPU.
    Turn(usize),
    /// Let it have no jobs running, or let it again.
    Suspend(usize, bool),
    /// It has a new job, which is stopped.
    Add(usize, Handle),
    /// It loses a job, which comes back as it is.
    Remove(usize, u64),
    /// A job is stopped in another way from now on.
    Means(usize, u64, Stop),
    /// Stop what runs, and end.
    End,
}

/// What comes back from the dispatcher.
#[derive(Debug)]
pub(super) enum Returned {
    /// Nobody needs it any more.
    Plan(#[expect(dead_code, reason = "only to be dropped outside the dispatcher")] Box<Plan>),
    /// A job that was removed.
    Job(Handle),
    /// All jobs of a VTM that was released.
    Team(usize, Vec<Handle>),
    /// Means of stopping that were replaced.
    Means(#[expect(dead_code, reason = "only to be dropped outside the dispatcher")] Stop),
}

/// Figures of the dispatcher.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) cost: Histogram,
    pub(super) lateness: Histogram,
    pub(super) missed_slots: u64,
    pub(super) began: Duration,
    pub(super) plan: u64,
}

/// One dispatch.
#[derive(Clone, Copy, Debug)]
struct Sample {
    cost: Duration,
    lateness: Option<Duration>,
    missed: u64,
}

/// The dispatcher's ends of the queues.
#[derive(Debug)]
pub(super) struct Queues {
    pub(super) orders: Consumer<Order>,
    pub(super) returned: Producer<Returned>,
    /// The jobs that had a turn.
    pub(super) ran: Producer<u64>,
}

/// The state of the dispatcher.
#[derive(Debug)]
pub(super) struct Dispatcher {
    slot: Duration,
    teams: Vec<Option<TeamState>>,
    plan: Box<Plan>,
    /// The VTM that has the CPU.
    current: Option<usize>,
    /// When the present turn ends.
    turn_ends: Duration,
    /// Until when the present VTM's time was counted.
    counted: Duration,
    figures: Arc<Mutex<Figures>>,
    /// What could not be counted yet as somebody was reading the figures.
    pending: Vec<Sample>,
    queues: Option<Queues>,
    ended: bool,
}

impl Dispatcher {
    pub(super) fn new(slot: Duration, figures: Arc<Mutex<Figures>>) -> Self {
        Self {
            slot,
            teams: Vec::new(),
            plan: Box::default(),
            current: None,
            turn_ends: Duration::MAX,
            counted: Duration::ZERO,
            figures,
            pending: Vec::with_capacity(64),
            queues: None,
            ended: false,
        }
    }

    /// Dispatches until it is told to end, or nobody is left to tell it.
    pub(super) fn run(mut self, queues: Queues) -> Self {
        self.queues = Some(queues);
        let origin = monotonic();
        if let Ok(mut figures) = self.figures.lock() {
            figures.began = origin;
        }
        // Slot 0 begins one slot after the start.
        let mut next_slot: u64 = 0;
        let mut cpu = thread_cpu_time();
        while !self.ended {
            let boundary = origin + self.until(next_slot);
            let wake = boundary.min(self.turn_end_before(boundary));
            sleep_until(wake);
            let now = monotonic();
            if now < wake {
                continue;
            }
            let mut sample = Sample {
                cost: Duration::ZERO,
                lateness: None,
                missed: 0,
            };
            if now >= boundary {
                let slot = self.slot_at(now - origin);
                sample.missed = slot - next_slot;
                sample.lateness = Some(now - boundary);
                next_slot = slot + 1;
                self.obey_all();
                self.begin_slot(slot, now);
            } else {
                self.next_turn(now);
            }
            let spent = thread_cpu_time();
            sample.cost = spent - cpu;
            cpu = spent;
            self.count(sample);
        }
        self.give_cpu_to(None, monotonic());
        self.queues = None;
        self
    }

    /// From the start until a slot begins.
    fn until(&self, slot: u64) -> Duration {
        Duration::from_nanos(nanos(self.slot).saturating_mul(slot + 1))
    }

    fn slot_at(&self, since: Duration) -> u64 {
        (nanos(since) / nanos(self.slot)).saturating_sub(1)
    }

    /// When to wake for the end of a turn; never where nobody else waits for one.
    fn turn_end_before(&self, boundary: Duration) -> Duration {
        let team = self.current.and_then(|team| self.teams.get(team)?.as_ref());
        let others = team.is_some_and(|team| team.turns.has_waiting());
        if others && self.turn_ends + WORTH_WAKING < boundary {
            self.turn_ends
        } else {
            Duration::MAX
        }
    }

    fn begin_slot(&mut self, slot: u64, now: Duration) {
        let owner = self.owner_of(slot);
        let owner = owner.filter(|&team| self.state(team).is_some_and(|team| !team.suspended));
        if let Some(team) = owner.and_then(|team| self.state(team)) {
            team.count.slots.fetch_add(1, Ordering::Relaxed);
        }
        if owner != self.current {
            self.give_cpu_to(owner, now);
        } else {
            self.account(now);
            if now + WORTH_WAKING >= self.turn_ends {
                self.next_turn(now);
            } else {
                self.fill_turn();
            }
        }
    }

    fn owner_of(&self, slot: u64) -> Option<usize> {
        let owners = self.plan.table.as_ref()?.slots();
        let at = usize::try_from(slot % owners.len() as u64).ok()?;
        self.plan.teams.get(owners[at]?).copied()
    }

    fn state(&mut self, team: usize) -> Option<&mut TeamState> {
        self.teams.get_mut(team)?.as_mut()
    }

    /// Stops the jobs that run and continues those of `next` whose turn it is.
    fn give_cpu_to(&mut self, next: Option<usize>, now: Duration) {
        self.account(now);
        if let Some(team) = self.current.and_then(|team| self.state(team)) {
            let running = team.turns.running();
            interrupted::order(running);
            running.iter_mut().for_each(|job| job.switch(false));
        }
        self.current = next;
        self.turn_ends = Duration::MAX;
        if let Some(team) = next.and_then(|team| self.state(team)) {
            team.count.dispatches.fetch_add(1, Ordering::Relaxed);
            self.next_turn(now);
        }
    }

    /// Gives the next jobs of the present VTM their turn.
    fn next_turn(&mut self, now: Duration) {
        let Some(team) = self
            .current
            .and_then(|team| self.teams.get_mut(team)?.as_mut())
        else {
            return;
        };
        self.turn_ends = now + team.quantum;
        let left = team.turns.next();
        team.turns
            .last_waiting(left)
            .for_each(|job| job.switch(false));
        interrupted::mark(team.turns.running());
        for job in team.turns.running() {
            job.switch(true);
            if let Some(queues) = &mut self.queues {
                // Where the watcher does not keep up the job comes again with its next turn.
                let _ = queues.ran.push(job.id);
            }
        }
    }

    /// Where nobody has a turn although somebody waits for one: jobs that came after the VTM got the CPU.
    fn fill_turn(&mut self) {
        let now = self.counted;
        let Some(team) = self.current.and_then(|team| self.state(team)) else {
            return;
        };
        interrupted::mark(team.turns.running());
        if team.turns.running().is_empty() && team.turns.has_waiting() {
            self.next_turn(now);
        }
    }

    fn account(&mut self, now: Duration) {
        let since = now.saturating_sub(mem::replace(&mut self.counted, now));
        if let Some(team) = self.current.and_then(|team| self.state(team)) {
            team.count
                .supplied_ns
                .fetch_add(nanos(since), Ordering::Relaxed);
        }
    }

    fn count(&mut self, sample: Sample) {
        if self.pending.len() < self.pending.capacity() {
            self.pending.push(sample);
        }
        let plan = self.plan.number;
        if let Ok(mut figures) = self.figures.try_lock() {
            figures.plan = plan;
            for sample in self.pending.drain(..) {
                figures.missed_slots += sample.missed;
                figures.cost.record(sample.cost);
                if let Some(lateness) = sample.lateness {
                    figures.lateness.record(lateness);
                }
            }
        }
    }

    fn obey_all(&mut self) {
        for _ in 0..MOST_ORDERS {
            let Some(queues) = &mut self.queues else {
                return;
            };
            let Ok(order) = queues.orders.pop() else {
                self.ended |= queues.orders.is_abandoned();
                return;
            };
            if let Some(returned) = self.obey(order)
                && let Some(queues) = &mut self.queues
            {
                // It has room for as many as there are orders.
                let _ = queues.returned.push(returned);
            }
        }
    }

    /// Does what it is told, and gives back what it has no use for.
    pub(super) fn obey(&mut self, order: Order) -> Option<Returned> {
        match order {
            Order::Follow(plan) => Some(Returned::Plan(mem::replace(&mut self.plan, plan))),
            Order::Create(team, rule, count) => {
                let state = TeamState {
                    turns: Turns::new(rule.active),
                    quantum: rule.quantum,
                    suspended: false,
                    count,
                };
                if self.teams.len() <= team {
                    self.teams.resize_with(team + 1, || None);
                }
                self.teams[team] = Some(state);
                None
            }
            Order::Release(team) => {
                if self.current == Some(team) {
                    self.give_cpu_to(None, monotonic());
                }
                let mut state = self.teams.get_mut(team)?.take()?;
                Some(Returned::Team(team, state.turns.drain()))
            }
            Order::Rule(team, rule) => {
                let state = self.state(team)?;
                state.turns.set_active(rule.active);
                state.quantum = rule.quantum;
                None
            }
            Order::Turn(team) => {
                if self.current == Some(team) {
                    self.turn_ends = self.counted;
                }
                None
            }
            Order::Suspend(team, suspended) => {
                self.state(team)?.suspended = suspended;
                None
            }
            Order::Add(team, job) => {
                self.state(team)?.turns.add(job);
                None
            }
            Order::Remove(team, id) => {
                let removed = self.state(team)?.turns.remove(|job| job.id == id)?;
                Some(Returned::Job(removed))
            }
            Order::Means(team, id, new) => {
                let job = self.state(team)?.turns.find(|job| job.id == id)?;
                if !job.on {
                    new.stop();
                    if matches!((&job.stop, &new), (Stop::Signals(_), Stop::Freezer(_))) {
                        job.stop.resume();
                    }
                }
                Some(Returned::Means(mem::replace(&mut job.stop, new)))
            }
            Order::End => {
                self.ended = true;
                None
            }
        }
    }
}

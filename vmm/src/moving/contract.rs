//! Whether a guest's tasks meet their deadlines although it stands still once, and what tracking its writes costs them. Decides only.
//!
//! Somewhere the guest is paused, once, for no longer than the promised downtime, and goes on in a new period of another host's server
//! ([`Resumption::Afresh`]). Its budget has to be enough for that beforehand: both hosts hold the same one. What tracking costs comes only while
//! the guest is being copied, and is paid by a budget that is raised for so long:
//!
//! ```text
//! Q  >= least Q with the pause, else refused with that least Q
//! Q' =  max(Q + share of the guest's time lost to faults * P, least Q with the pause and a fault for every page that a job writes)
//! ```

mod breach;

use std::time::Duration;

use rt_abi::policy::ranks;
use rt_abi::taskset::{Kind, TaskSet as GuestTasks};
use sched::analysis::overhead::Overheads;
use sched::analysis::pause::{Paused, Resumption};
use sched::analysis::task::Speed;
use sched::analysis::{Scheduler, Supply, Task, TaskSet, TaskSetError, least_budget};
use sched::request::{BackendKind, Enforcement, VcpuRequest};
use sched::reservation::Reservation;

use crate::design::scheduler_of;

pub use breach::Breach;

/// Shortest execution time per page that a job writes, for the writes to be within it: filling a page with random numbers takes less.
const TOUCH: Duration = Duration::from_micros(10);
/// The resolution of a raised budget.
const STEP: Duration = Duration::from_micros(1);

/// What runs on a vCPU, as far as it is known.
#[derive(Debug, Clone)]
pub enum Work {
    /// These tasks and nothing else with deadlines.
    Known(KnownWork),
    /// Nothing that has deadlines.
    Nothing,
    /// Tasks of which it cannot be said what they need.
    Unknown {
        /// Why not.
        why: String,
    },
}

/// Tasks that can be analysed.
#[derive(Debug, Clone)]
pub struct KnownWork {
    /// Execution times as they are without tracking, the highest priority first under fixed priorities.
    tasks: Vec<Task>,
    /// Pages that a job of each writes.
    pages: Vec<u32>,
    /// How the guest schedules them.
    scheduler: Scheduler,
}

/// A vCPU: what it has, and what for.
#[derive(Debug, Clone)]
pub struct VcpuTerms {
    /// What is asked of the host for it, with the reservation in force.
    pub request: VcpuRequest,
    /// What runs there.
    pub work: Work,
}

/// What a migration does to the guest, and a host to all guests.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The longest that it stands still.
    pub pause: Duration,
    /// Share of its time that tracking takes (faults per second, times what one takes).
    pub tracking: f64,
    /// What the first write to a page that is tracked takes.
    pub tracked_write: Duration,
    /// What scheduling costs on the host.
    pub overheads: Overheads,
}

/// What a vCPU has to have while the guest is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub vcpu: usize,
    /// What it has.
    pub now: Reservation,
    /// What it has to have while writes are tracked; at least that.
    pub raised: Reservation,
    /// The least budget with which its deadlines hold with the pause and without tracking, if they are known.
    pub least: Option<Duration>,
}

/// What is to be held, and what could not be checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    /// The vCPUs with reservations.
    pub held: Vec<Held>,
    /// Whose deadlines are not known to hold, and why; in words.
    pub unchecked: Vec<String>,
}

/// What runs on each of so many vCPUs; nothing is known of a guest without a task set.
#[must_use]
pub fn works(guest: Option<&GuestTasks>, vcpus: usize) -> Vec<Work> {
    let of = |vcpu: usize| match (guest, u16::try_from(vcpu)) {
        (Some(guest), Ok(vcpu)) => work_of(guest, vcpu),
        _ => Work::Unknown {
            why: "what runs there".to_owned(),
        },
    };
    (0..vcpus).map(of).collect()
}

fn work_of(guest: &GuestTasks, vcpu: u16) -> Work {
    let unknown = |why: String| Work::Unknown { why };
    let ranks = ranks(guest.policy, guest.tasks());
    let mut own: Vec<_> = ranks.iter().zip(guest.tasks()).collect();
    own.retain(|(_, task)| task.vcpu == vcpu && task.kind != Kind::Hog);
    own.sort_by_key(|(rank, _)| **rank);
    if own.is_empty() {
        return Work::Nothing;
    }
    let time = Duration::from_nanos;
    let mut work = KnownWork {
        tasks: Vec::new(),
        pages: Vec::new(),
        scheduler: Scheduler::RATE_MONOTONIC,
    };
    for (_, task) in own {
        let longest = time(task.step.map_or(task.c_max, |step| step.c.max(task.c_max)));
        let shortest = time(task.step.map_or(task.c_min, |step| step.c.min(task.c_min)));
        let pages = task.dirty.map_or(0, |dirty| dirty.pages);
        if task.kind != Kind::Periodic {
            return unknown(format!("how long {} keeps it busy", task.name));
        }
        if task.critical > 0 {
            return unknown(format!("how long task {} spins for its lock", task.name));
        }
        if shortest < TOUCH.saturating_mul(pages) {
            let name = &task.name;
            return unknown(format!("how long task {name} takes to write its memory"));
        }
        work.pages.push(pages);
        work.tasks.push(
            Task::new(task.name.as_str(), longest, time(task.period))
                .with_deadline(time(task.deadline)),
        );
    }
    match TaskSet::new(work.tasks.iter().cloned()) {
        Ok(set) => {
            work.scheduler = scheduler_of(guest.policy, &set);
            Work::Known(work)
        }
        Err(why) => unknown(format!("how its tasks could be served at all ({why})")),
    }
}

impl Work {
    /// The same work on a host of another speed.
    #[must_use]
    pub fn scaled(self, speed: Speed) -> Self {
        let Self::Known(mut work) = self else {
            return self;
        };
        for task in &mut work.tasks {
            task.execution = speed.of(task.execution);
        }
        Self::Known(work)
    }
}

impl KnownWork {
    /// The tasks, each of whose jobs pays `per_page` for every page that it writes, with what scheduling costs.
    fn set(&self, per_page: Duration, overheads: &Overheads) -> Result<TaskSet, TaskSetError> {
        let paying = |(task, pages): (&Task, &u32)| Task {
            execution: task.execution + per_page.saturating_mul(*pages),
            ..task.clone()
        };
        let tasks = self.tasks.iter().zip(&self.pages).map(paying);
        overheads.inflated(&TaskSet::new(tasks)?, self.scheduler)
    }
}

/// What a server of these supplies, whatever of it a switch takes.
#[derive(Debug, Clone, Copy)]
struct Server {
    reservation: Reservation,
    switch: Duration,
}

impl Server {
    fn supply(&self, budget: Duration, pause: Duration) -> Paused {
        let (period, deadline) = (self.reservation.period(), self.reservation.deadline());
        Paused {
            supply: Supply::explicit_deadline(budget, period, deadline),
            pause,
            resumption: match pause.is_zero() {
                true => Resumption::Continued,
                false => Resumption::Afresh,
            },
        }
    }

    /// The greatest budget that reaches the guest.
    fn most(&self) -> Duration {
        self.reservation.deadline().saturating_sub(self.switch)
    }

    /// The least budget to reserve.
    fn least(&self, set: &TaskSet, scheduler: Scheduler, pause: Duration) -> Option<Duration> {
        let supply = |budget| self.supply(budget, pause);
        least_budget(set, scheduler, self.reservation.period(), supply)
            .filter(|budget| *budget <= self.most())
            .map(|budget| budget + self.switch)
    }

    /// The longest pause with which the greatest budget would do, to a microsecond.
    fn longest_pause(
        &self,
        set: &TaskSet,
        scheduler: Scheduler,
        below: Duration,
    ) -> Option<Duration> {
        let holds = |pause: u32| {
            let pause = STEP.saturating_mul(pause).max(STEP);
            scheduler.meets(set, &self.supply(self.most(), pause))
        };
        let (mut good, mut bad) = (0, u32::try_from(below.as_micros()).unwrap_or(u32::MAX));
        if !holds(good) {
            return None;
        }
        while bad - good > 1 {
            let middle = good + (bad - good) / 2;
            if holds(middle) {
                good = middle;
            } else {
                bad = middle;
            }
        }
        Some(STEP.saturating_mul(good).max(STEP))
    }
}

/// What the vCPUs have to have so that all deadlines hold that are known; in the order of the vCPUs.
///
/// # Errors
/// [`Breach`]: the first that does not, and what would do.
pub fn judge(vcpus: &[VcpuTerms], terms: &Terms) -> Result<Judgement, Breach> {
    let mut judgement = Judgement::default();
    for (vcpu, own) in vcpus.iter().enumerate() {
        let Some(now) = own.request.reservation else {
            let why = "it has no reservation";
            judgement.unchecked.push(format!("vCPU {vcpu}: {why}"));
            continue;
        };
        let known = match (&own.work, supplies(&own.request)) {
            (Work::Unknown { why }, _) => Err(format!("{why} is not known")),
            (_, Err(why)) => Err(why),
            (Work::Known(work), Ok(())) => Ok(Some(work)),
            (Work::Nothing, Ok(())) => Ok(None),
        };
        let work = known.unwrap_or_else(|why| {
            judgement.unchecked.push(format!("vCPU {vcpu}: {why}"));
            None
        });
        judgement.held.push(held((vcpu, now), work, terms)?);
    }
    Ok(judgement)
}

/// Whether there is a supply bound for what enforces a reservation.
fn supplies(request: &VcpuRequest) -> Result<(), String> {
    match (request.backend, request.enforcement) {
        (BackendKind::Deadline, Enforcement::Exact) => Ok(()),
        (BackendKind::Deadline, Enforcement::Tick) => Err(
            "its budgets end on the kernel's tick, for which there is no supply bound".to_owned(),
        ),
        (backend, _) => Err(format!("back end {backend} has no supply bound")),
    }
}

fn held(
    (vcpu, now): (usize, Reservation),
    work: Option<&KnownWork>,
    terms: &Terms,
) -> Result<Held, Breach> {
    let paid = now.period().mul_f64(terms.tracking.clamp(0.0, 1.0));
    let mut wanted = now.runtime() + whole_steps(paid);
    let mut least = None;
    if let Some(work) = work {
        least = Some(least_with_pause((vcpu, now), work, terms)?);
        if terms.tracking > 0.0 {
            wanted = wanted.max(least_tracked((vcpu, now), work, terms)?);
        }
    }
    let no_room = |_| Breach::NoRoom {
        vcpu,
        now,
        tracking: terms.tracking,
        wanted,
        most: now.deadline(),
    };
    Ok(Held {
        vcpu,
        now,
        raised: now.with_runtime(wanted).map_err(no_room)?,
        least,
    })
}

fn whole_steps(time: Duration) -> Duration {
    let steps = time.as_nanos().div_ceil(STEP.as_nanos());
    STEP.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX))
}

/// The least budget with which deadlines hold with the pause; not more than there is.
fn least_with_pause(
    (vcpu, now): (usize, Reservation),
    work: &KnownWork,
    terms: &Terms,
) -> Result<Duration, Breach> {
    let overloaded = |source| Breach::Overloaded { vcpu, source };
    let set = work.set(Duration::ZERO, &terms.overheads);
    let set = set.map_err(overloaded)?;
    let server = Server {
        reservation: now,
        switch: terms.overheads.budget_switch,
    };
    let (scheduler, pause) = (work.scheduler, terms.pause);
    match server.least(&set, scheduler, pause) {
        Some(least) if least <= now.runtime() => Ok(least),
        Some(least) => Err(Breach::Budget {
            vcpu,
            now,
            pause,
            least,
            without: server.least(&set, scheduler, Duration::ZERO),
        }),
        None => Err(Breach::Never {
            vcpu,
            now,
            pause,
            longest: server.longest_pause(&set, scheduler, pause),
            verdict: Box::new(scheduler.check(&set, &server.supply(server.most(), pause))),
        }),
    }
}

/// The least budget with which deadlines hold with the pause where every page that a job writes costs a fault.
fn least_tracked(
    (vcpu, now): (usize, Reservation),
    work: &KnownWork,
    terms: &Terms,
) -> Result<Duration, Breach> {
    let server = Server {
        reservation: now,
        switch: terms.overheads.budget_switch,
    };
    let set = work.set(terms.tracked_write, &terms.overheads);
    let found = set.map(|set| server.least(&set, work.scheduler, terms.pause));
    match found {
        Ok(Some(least)) => Ok(least),
        Ok(None) | Err(_) => Err(Breach::Tracked {
            vcpu,
            now,
            tracked_write: terms.tracked_write,
        }),
    }
}

#[cfg(test)]
mod tests;

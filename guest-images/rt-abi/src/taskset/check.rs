//! Ranges and contradictions of a task set, whether it was parsed or put together by hand.

use core::fmt::Display;

use super::error::{Limit, Problem, Text};
use super::network;
use super::units::{Size, Time};
use super::{
    Dirty, Kind, LEAST_PERIOD, LONGEST, MAX_VCPUS, Mode, Name, PAGE, ParseError, Pattern, Policy,
    Task, TaskSet,
};

/// Largest region in bytes, 1 TiB: more than any guest's memory.
const LARGEST_REGION: u64 = 1 << 40;
/// Shortest gap in nanoseconds that a busy loop can tell from its own turns.
const SHORTEST_GAP: u64 = 1_000;

/// See [`TaskSet::check`].
pub(super) fn check(set: &TaskSet) -> Result<(), ParseError> {
    for (place, task) in set.tasks().iter().enumerate() {
        let before = set.tasks().get(..place).unwrap_or_default();
        vcpu(set, task)?;
        match task.kind {
            Kind::Hog => hog(task, before)?,
            Kind::Periodic | Kind::Network(_) | Kind::Web(_) => {
                periodic(set.policy, task, before)?;
            }
        }
    }
    options(set)?;
    network::check(set)?;
    mode(set)
}

fn options(set: &TaskSet) -> Result<(), ParseError> {
    let of = Of(None);
    of.at_least("vcpus", set.vcpus, ("one", 1))?;
    of.at_most("vcpus", set.vcpus, ("the most vCPUs", MAX_VCPUS))?;
    of.at_least(
        "duration",
        Time(set.duration),
        ("the shortest run", Time(1)),
    )?;
    of.at_least(
        "gap",
        Time(set.gap),
        ("the shortest gap", Time(SHORTEST_GAP)),
    )?;
    for (key, time) in [
        ("duration", set.duration),
        ("gap", set.gap),
        ("start", set.start),
    ] {
        of.at_most(key, Time(time), LONGEST_TIME)?;
    }
    if let Some(khz) = set.tsc_khz {
        // The range in which the clock page's fixed point is exact enough; see `ClockPage::new`.
        of.at_least("tsc_khz", khz, ("the slowest clock", 1_000))?;
        of.at_most("tsc_khz", khz, ("the fastest clock", 100_000_000))?;
    }
    Ok(())
}

const LONGEST_TIME: (&str, Time) = ("the longest time", Time(LONGEST));

fn mode(set: &TaskSet) -> Result<(), ParseError> {
    let of = Of(None);
    if let Mode::Bench { count, .. } = set.mode {
        of.at_least("n", count, ("one", 1))?;
    }
    match set.tasks().first() {
        Some(task) if set.mode != Mode::Tasks => {
            let why = "would not run beside bench, storm or fault; remove one or the other";
            Err(of.conflict("task", task.name, why))
        }
        _ => Ok(()),
    }
}

fn vcpu(set: &TaskSet, task: &Task) -> Result<(), ParseError> {
    let of = Of(Some(task.name));
    let highest = ("the highest vCPU", MAX_VCPUS - 1);
    of.at_most("cpu", task.vcpu, highest)?;
    let last = (
        "the last vCPU of this guest (see vcpus)",
        set.vcpus.saturating_sub(1),
    );
    of.at_most("cpu", task.vcpu, last)
}

fn hog(task: &Task, before: &[Task]) -> Result<(), ParseError> {
    if *task != Task::hog(task.vcpu) {
        let why = "has no times, priority, lock or memory of its own; use a periodic task";
        return Err(Of(None).conflict("hog", task.vcpu, why));
    }
    if before.contains(task) {
        let why = "is there twice, and the second would never run; remove one";
        return Err(Of(None).conflict("hog", task.vcpu, why));
    }
    Ok(())
}

fn periodic(policy: Policy, task: &Task, before: &[Task]) -> Result<(), ParseError> {
    if task.name == Name::HOG {
        return Err(Of(None).conflict("task", task.name, "is what hogs are called; rename it"));
    }
    if before.iter().any(|other| other.name == task.name) {
        let why = "is the name of two tasks; rename one";
        return Err(Of(None).conflict("task", task.name, why));
    }
    let of = Of(Some(task.name));
    if let (Some(priority), Policy::Edf) = (task.priority, policy) {
        let why = "has no meaning under sched=edf; remove it or use sched=rm";
        return Err(of.conflict("prio", priority, why));
    }
    times(task)?;
    if task.kind.is_service() || task.stream.is_some() {
        network::check_task(task, before)?;
    }
    task.dirty.map_or(Ok(()), |dirty| {
        memory(of, &dirty)?;
        phase(of, task, &dirty)
    })
}

fn phase(of: Of, task: &Task, dirty: &Dirty) -> Result<(), ParseError> {
    if dirty.phase == 0 {
        return Ok(());
    }
    let phase = Time(dirty.phase);
    if matches!(dirty.pattern, Pattern::Sequential | Pattern::Random) {
        let why = "has no meaning where no page is preferred; use pattern=hot or zipf";
        return Err(of.conflict("phase", phase, why));
    }
    of.at_least("phase", phase, ("its period", Time(task.period)))?;
    of.at_most("phase", phase, LONGEST_TIME)
}

/// Constrained deadlines: c <= d <= t.
fn times(task: &Task) -> Result<(), ParseError> {
    let of = Of(Some(task.name));
    let (least, most) = (Time(task.c_min), Time(task.c_max));
    let (period, deadline) = (Time(task.period), Time(task.deadline));
    of.at_least("t", period, ("the least period", Time(LEAST_PERIOD)))?;
    of.at_most("t", period, LONGEST_TIME)?;
    of.at_most("o", Time(task.offset), LONGEST_TIME)?;
    of.at_least("d", deadline, ("the least deadline", Time(1)))?;
    of.at_most("d", deadline, ("its period", period))?;
    of.at_least("c", most, ("the lower end of its range", least))?;
    of.at_most("c", most, ("its deadline", deadline))?;
    if let Some(step) = task.step {
        let second = Time(step.c);
        of.at_least("c2", second, ("the least execution time", Time(1)))?;
        of.at_least("c2", second, ("its critical section", Time(task.critical)))?;
        of.at_most("c2", second, ("its deadline", deadline))?;
        of.at_least("step", Time(step.every), ("its period", period))?;
        of.at_most("step", Time(step.every), LONGEST_TIME)?;
    }
    let works = task.dirty.is_none() && task.stream.is_none() && !task.kind.is_service();
    if works {
        of.at_least("c", most, ("the least execution time", Time(1)))?;
    }
    of.at_most(
        "s",
        Time(task.critical),
        ("the least execution time of its job", least),
    )?;
    Ok(())
}

fn memory(of: Of, dirty: &Dirty) -> Result<(), ParseError> {
    let region = Size(dirty.region);
    of.at_least("region", region, ("a page", Size(PAGE)))?;
    of.at_most(
        "region",
        region,
        ("the largest region", Size(LARGEST_REGION)),
    )?;
    if !dirty.region.is_multiple_of(PAGE) {
        return Err(of.conflict("region", region, "is not whole pages; use a multiple of 4K"));
    }
    of.at_least("dirty", dirty.pages, ("one page", 1))?;
    let pages = dirty.region / PAGE;
    of.at_most(
        "dirty",
        u64::from(dirty.pages),
        ("the pages of its region", pages),
    )
}

/// A quantity that can be compared and written.
pub(super) trait Quantity: Display + Copy {
    fn amount(self) -> u64;
}

impl<T: Into<u64> + Display + Copy> Quantity for T {
    fn amount(self) -> u64 {
        self.into()
    }
}

impl From<Time> for u64 {
    fn from(time: Time) -> Self {
        time.0
    }
}

impl From<Size> for u64 {
    fn from(size: Size) -> Self {
        size.0
    }
}

/// The task that an error is about, if it is about one.
#[derive(Clone, Copy)]
pub(super) struct Of(pub(super) Option<Name>);

impl Of {
    pub(super) fn at_least<T: Quantity>(
        self,
        key: &str,
        value: T,
        (what, least): (&'static str, T),
    ) -> Result<(), ParseError> {
        if value.amount() >= least.amount() {
            return Ok(());
        }
        let value_of = Text::new(least);
        let limit = Limit {
            what,
            value: value_of,
        };
        Err(ParseError::new(self.0, key, value, Problem::Below(limit)))
    }

    pub(super) fn at_most<T: Quantity>(
        self,
        key: &str,
        value: T,
        (what, most): (&'static str, T),
    ) -> Result<(), ParseError> {
        if value.amount() <= most.amount() {
            return Ok(());
        }
        let value_of = Text::new(most);
        let limit = Limit {
            what,
            value: value_of,
        };
        Err(ParseError::new(self.0, key, value, Problem::Above(limit)))
    }

    pub(super) fn conflict(self, key: &str, value: impl Display, why: &'static str) -> ParseError {
        ParseError::new(self.0, key, value, Problem::Conflict(why))
    }
}

//! How a guest fared before, while and after it moved, by its own records of both processes: pure.
//!
//! ```text
//! first release      command              pre-copy begins         stands still         end
//!      |--- before ----|----- watched -----|------ copied ---------|<- the switch ->|--- after ---|
//!                      |------------------- meanwhile -----------------------------|
//! ```

use std::collections::BTreeSet;
use std::time::Duration;

use rt_abi::taskset::{Kind, TaskSet};
use vmm::telemetry::{Event, Gap, Job};

use crate::experiment::jobs::{TaskFigures, rows};
use crate::experiment::trace::{Stretch, Trace};
use crate::report::jobs_csv::JobRow;

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Until the command was given.
    Before,
    /// Jobs that any of the move may have touched.
    Meanwhile,
    /// After the guest went on.
    After,
}

impl Phase {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Before, Self::Meanwhile, Self::After];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::Meanwhile => "meanwhile",
            Self::After => "after",
        }
    }
}

/// When what happened, in nanoseconds of guest time.
#[derive(Clone, Copy, Debug)]
pub struct Instants {
    /// The command was given.
    pub asked: u64,
    /// From the first byte of memory to the pause, as far as it is known.
    pub copied: Option<u64>,
    /// P.
    pub period: u64,
}

/// What the guest did with its time, as parts of it: jobs, and the busy loop below them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Before the command.
    pub before: Option<f64>,
    /// From the command to the pause.
    pub meanwhile: Option<f64>,
    /// While memory was copied.
    pub copied: Option<f64>,
    /// Afterwards.
    pub after: Option<f64>,
}

impl Progress {
    /// The part of what it did before that it did while memory was copied.
    pub fn kept(&self) -> Option<f64> {
        Some(self.copied.or(self.meanwhile)? / self.before?)
    }
}

/// How the guest fared.
pub struct Course {
    /// The blackout in which it changed hosts.
    pub switch: Stretch,
    /// When the command was given.
    asked: u64,
    /// Its longest other blackouts, phase by phase.
    pub longest: [Option<Duration>; 3],
    /// Its tasks, phase by phase.
    pub tasks: Vec<(Phase, Vec<TaskFigures>)>,
    /// Jobs that no process has a record of.
    pub unrecorded: usize,
    /// What it did with its time.
    pub progress: Progress,
    /// Every job.
    pub rows: Vec<JobRow>,
    /// Everything, in order.
    pub events: Vec<Event>,
}

impl Course {
    /// From the records of both processes; nothing where the second has none.
    pub fn new(
        (scenario, set): (&str, &TaskSet),
        (first, second): (&[Event], &[Event]),
        instants: &Instants,
    ) -> Option<Self> {
        let events: Vec<Event> = first.iter().chain(second).copied().collect();
        let trace = Trace::new(set, &events);
        let blackouts = trace.blackouts();
        // Whoever runs first there notes at once how long it was away.
        let seen = second.iter().filter_map(end).min()?;
        let within = |stretch: &&Stretch| (stretch.0..=stretch.1).contains(&seen);
        let switch = *blackouts.iter().find(within)?;
        let rows = rows(scenario, set, &events);
        let of = |phase| rows_of(&rows, (instants.asked, switch.1), phase);
        let tasks = Phase::ALL.map(|phase| (phase, TaskFigures::of(set, &of(phase))));
        let longest = Phase::ALL.map(|phase| longest(&blackouts, (instants.asked, switch), phase));
        Some(Self {
            longest,
            tasks: tasks.into(),
            unrecorded: unrecorded(set, &events),
            progress: progress(set, &events, (instants, switch)),
            asked: instants.asked,
            switch,
            rows,
            events,
        })
    }

    /// How long the guest stood still, as it saw it: with what its own supply would have been away for.
    pub fn away(&self) -> Duration {
        Duration::from_nanos(self.switch.1 - self.switch.0)
    }

    /// The jobs of a phase.
    pub fn rows_of(&self, phase: Phase) -> Vec<JobRow> {
        rows_of(&self.rows, (self.asked, self.switch.1), phase)
    }

    /// Deadlines missed in a phase, and jobs.
    pub fn missed(&self, wanted: Phase) -> (usize, usize) {
        let of = self.tasks.iter().filter(|(phase, _)| *phase == wanted);
        let tasks = of.flat_map(|(_, tasks)| tasks);
        tasks.fold((0, 0), |(missed, jobs), task| {
            (missed + task.misses, jobs + task.responses.count())
        })
    }

    /// The same over all phases; a job without a record may have missed its deadline.
    pub fn missed_in_all(&self) -> (usize, usize) {
        let phases = Phase::ALL.map(|phase| self.missed(phase));
        let sum = phases
            .into_iter()
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        (sum.0 + self.unrecorded, sum.1 + self.unrecorded)
    }
}

fn end(event: &Event) -> Option<u64> {
    match event {
        Event::Job(Job { finish, .. }) => Some(*finish),
        Event::Gap(Gap { end, .. }) => Some(*end),
        Event::Section(_) | Event::End { .. } => None,
    }
}

fn rows_of(rows: &[JobRow], instants: (u64, u64), wanted: Phase) -> Vec<JobRow> {
    let own = rows.iter().filter(|row| phase_of(row, instants) == wanted);
    own.cloned().collect()
}

/// A job belongs to the move if it was not over when that began, by its deadline, and released before the guest went on.
fn phase_of(row: &JobRow, (asked, went_on): (u64, u64)) -> Phase {
    if row.finish_ns.is_some_and(|finish| finish < asked) {
        Phase::Before
    } else if row.release_ns >= went_on {
        Phase::After
    } else {
        Phase::Meanwhile
    }
}

fn longest(
    blackouts: &[Stretch],
    (asked, switch): (u64, Stretch),
    phase: Phase,
) -> Option<Duration> {
    let is_in = |blackout: &&Stretch| match phase {
        Phase::Before => blackout.1 <= asked,
        Phase::Meanwhile => blackout.1 > asked && blackout.1 <= switch.0,
        Phase::After => blackout.0 >= switch.1,
    };
    let own = blackouts.iter().filter(is_in);
    let lengths = own.map(|(start, end)| Duration::from_nanos(end - start));
    lengths.max()
}

/// Jobs missing between those that were recorded.
fn unrecorded(set: &TaskSet, events: &[Event]) -> usize {
    let periodic = set.tasks().iter().enumerate();
    let periodic = periodic.filter(|(_, task)| task.kind == Kind::Periodic);
    let missing = periodic.map(|(index, _)| {
        let numbers: BTreeSet<u64> = jobs(events)
            .filter(|job| usize::from(job.task) == index)
            .map(|job| job.job)
            .collect();
        let expected = numbers.last().map_or(0, |last| last + 1);
        usize::try_from(expected).unwrap_or(usize::MAX) - numbers.len()
    });
    missing.sum()
}

fn jobs(events: &[Event]) -> impl Iterator<Item = &Job> {
    events.iter().filter_map(|event| match event {
        Event::Job(job) => Some(job),
        _ => None,
    })
}

fn progress(set: &TaskSet, events: &[Event], (instants, switch): (&Instants, Stretch)) -> Progress {
    let Instants {
        asked,
        copied,
        period,
    } = *instants;
    let release = jobs(events).map(|job| job.release).min().unwrap_or(asked);
    let last = events.iter().filter_map(end).max().unwrap_or(switch.1);
    let of = |from: u64, to: u64| worked(set, events, whole((from, to), period)?);
    Progress {
        before: of(release, asked),
        meanwhile: of(asked, switch.0),
        copied: copied.and_then(|length| of(switch.0.saturating_sub(length), switch.0)),
        after: of(switch.1, last),
    }
}

/// As many whole periods as lie in a stretch, from its end back.
fn whole((from, to): Stretch, period: u64) -> Option<Stretch> {
    let length = to.checked_sub(from)? / period.max(1) * period;
    (length > 0).then_some((to - length, to))
}

/// The part of a stretch in which work was done: what jobs executed, and the busy loop below them ran.
fn worked(set: &TaskSet, events: &[Event], (from, to): Stretch) -> Option<f64> {
    let hog = set.tasks().iter().position(|task| task.kind == Kind::Hog)?;
    let within = |start: u64, end: u64| end.min(to).saturating_sub(start.max(from));
    let executed = jobs(events).map(|job| {
        let length = (job.finish - job.start).max(1);
        job.executed as f64 * within(job.start, job.finish) as f64 / length as f64
    });
    let away = events.iter().map(|event| match event {
        Event::Gap(gap) if usize::from(gap.task) == hog => within(gap.start, gap.end),
        _ => 0,
    });
    let idle = (to - from) as f64 - away.sum::<u64>() as f64;
    Some((executed.sum::<f64>() + idle) / (to - from) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::migration_rt::guest::task_set;

    const MS: u64 = 1_000_000;

    fn job(task: u16, number: u64, (release, start, finish): (u64, u64, u64)) -> Event {
        let period = if task == 0 { 150 } else { 200 };
        Event::Job(Job {
            vcpu: 0,
            task,
            job: number,
            release: release * MS,
            woken: 0,
            start: start * MS,
            finish: finish * MS,
            deadline: (release + period) * MS,
            executed: (finish - start) * MS,
        })
    }

    fn gap(task: u16, start: u64, end: u64) -> Event {
        Event::Gap(Gap {
            vcpu: 0,
            task,
            start: start * MS,
            end: end * MS,
        })
    }

    fn set() -> TaskSet {
        task_set(Duration::from_millis(300)).unwrap()
    }

    /// t1 runs from 0 and 150, t2 from 30 and 200; the guest is away from 40 to 50, and moves from 210 to 235 in t2's second job.
    fn moved() -> (Vec<Event>, Vec<Event>) {
        let first = vec![
            job(0, 0, (0, 0, 30)),
            gap(1, 40, 50),
            job(1, 0, (0, 30, 90)),
            gap(2, 0, 90),
            gap(2, 150, 180),
            job(0, 1, (150, 150, 180)),
        ];
        let second = vec![
            gap(1, 210, 235),
            job(1, 1, (200, 200, 275)),
            gap(2, 200, 275),
        ];
        (first, second)
    }

    fn instants() -> Instants {
        Instants {
            asked: 120 * MS,
            copied: Some(50 * MS),
            period: 50 * MS,
        }
    }

    #[test]
    fn the_switch_is_the_blackout_that_the_destination_records_first_and_jobs_belong_to_what_they_met()
     {
        let (first, second) = moved();
        let course = Course::new(("x", &set()), (&first, &second), &instants()).unwrap();
        assert_eq!(course.switch, (210 * MS, 235 * MS));
        assert_eq!(course.missed(Phase::Before), (0, 2));
        assert_eq!(course.missed(Phase::Meanwhile), (0, 2));
        assert_eq!(course.missed(Phase::After), (0, 0));
        assert_eq!(course.longest[0], Some(Duration::from_millis(10)));
        assert_eq!(course.unrecorded, 0);
    }

    #[test]
    fn a_job_that_neither_process_recorded_counts_as_missed() {
        let (mut first, second) = moved();
        first.remove(0);
        let course = Course::new(("x", &set()), (&first, &second), &instants()).unwrap();
        assert_eq!(course.missed_in_all(), (1, 4));
    }

    #[test]
    fn progress_counts_jobs_and_the_loop_below_them_and_not_what_they_were_away() {
        let (first, second) = moved();
        let events: Vec<Event> = first.iter().chain(&second).copied().collect();
        // The loop ran from 90 to 100 and jobs in all the rest: what a job executed is what it says.
        let worked = worked(&set(), &events, (0, 100 * MS)).unwrap();
        assert!((worked - 1.0).abs() < 1e-9, "{worked}");
        let mut idle = events.clone();
        idle.push(gap(2, 90, 100));
        let less = super::worked(&set(), &idle, (0, 100 * MS)).unwrap();
        assert!((less - 0.9).abs() < 1e-9, "{less}");
    }

    #[test]
    fn without_a_record_from_the_destination_there_is_no_course() {
        let (first, _) = moved();
        assert!(Course::new(("x", &set()), (&first, &[]), &instants()).is_none());
    }
}

//! From a run's records to jobs and their figures: pure.

use std::time::Duration;

use rt_abi::policy::{deadline, next_release};
use rt_abi::taskset::{Kind, Task, TaskSet};
use serde::Serialize;
use vmm::telemetry::{Event, Job};

use crate::report::jobs_csv::JobRow;
use crate::report::stats::{Distribution, Quantile};

/// Every job of a run whose deadline lies in it, as a row; a job that never finished has no finish.
///
/// A job that finished is a row whatever its deadline: its response time is known.
pub fn rows(scenario: &str, set: &TaskSet, events: &[Event]) -> Vec<JobRow> {
    let jobs: Vec<&Job> = events
        .iter()
        .filter_map(|event| match event {
            Event::Job(job) => Some(job),
            _ => None,
        })
        .collect();
    let start = start(set, &jobs);
    let mut rows = Vec::new();
    for (index, task) in periodic(set) {
        let own: Vec<&Job> = jobs
            .iter()
            .filter(|job| usize::from(job.task) == index)
            .copied()
            .collect();
        rows.extend(own.iter().map(|job| finished(scenario, task, job)));
        let first_missing = own.iter().map(|job| job.job + 1).max().unwrap_or(0);
        let end = start.saturating_add(set.duration);
        rows.extend(
            (first_missing..)
                .map(|number| unfinished(scenario, task, (number, start)))
                .take_while(|row| row.deadline_ns <= end),
        );
    }
    rows
}

fn periodic(set: &TaskSet) -> impl Iterator<Item = (usize, &Task)> {
    let tasks = set.tasks().iter().enumerate();
    tasks.filter(|(_, task)| task.kind == Kind::Periodic)
}

/// When the run began. The first record tells; without any, the set does.
fn start(set: &TaskSet, jobs: &[&Job]) -> u64 {
    let of = |job: &&Job| {
        let task = set.tasks().get(usize::from(job.task))?;
        job.release.checked_sub(next_release(task, job.job, 0))
    };
    jobs.iter().find_map(of).unwrap_or(set.start)
}

fn finished(scenario: &str, task: &Task, job: &Job) -> JobRow {
    JobRow {
        scenario: scenario.to_owned(),
        vcpu: job.vcpu.into(),
        task: task.name.to_string(),
        job: job.job,
        release_ns: job.release,
        woken_ns: (job.woken != 0).then_some(job.woken),
        start_ns: Some(job.start),
        finish_ns: Some(job.finish),
        deadline_ns: job.deadline,
        executed_ns: job.executed,
    }
}

fn unfinished(scenario: &str, task: &Task, (number, start): (u64, u64)) -> JobRow {
    let release = next_release(task, number, start);
    JobRow {
        scenario: scenario.to_owned(),
        vcpu: task.vcpu.into(),
        task: task.name.to_string(),
        job: number,
        release_ns: release,
        deadline_ns: deadline(task, release),
        ..JobRow::default()
    }
}

/// The figures of one task in one run.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskFigures {
    /// Its name.
    pub name: String,
    /// Its relative deadline.
    pub deadline: Duration,
    /// Jobs that missed it, those that never finished included.
    pub misses: usize,
    /// Response times.
    pub responses: Distribution,
    /// The median time from a release to the interrupt that announced it, where one was needed.
    pub wake_up: Option<Duration>,
}

impl TaskFigures {
    /// The figures of every periodic task of `set`.
    pub fn of(set: &TaskSet, rows: &[JobRow]) -> Vec<Self> {
        periodic(set)
            .map(|(_, task)| {
                let name = task.name.to_string();
                let own = || rows.iter().filter(|row| row.task == name);
                let times = own()
                    .filter_map(JobRow::response_ns)
                    .map(Duration::from_nanos);
                let wake_ups = own()
                    .filter_map(|row| Some(row.woken_ns?.saturating_sub(row.release_ns)))
                    .map(Duration::from_nanos);
                let open = own().filter(|row| row.finish_ns.is_none()).count();
                Self {
                    deadline: Duration::from_nanos(task.deadline),
                    wake_up: wake_ups
                        .collect::<Distribution>()
                        .quantile(Quantile::MEDIAN),
                    misses: own().filter(|row| row.is_missed()).count(),
                    responses: times.collect::<Distribution>().with_unfinished(open),
                    name,
                }
            })
            .collect()
    }

    /// The same in milliseconds, for machines.
    pub fn summary(&self) -> TaskSummary {
        let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
        TaskSummary {
            task: self.name.clone(),
            deadline_ms: self.deadline.as_secs_f64() * 1e3,
            jobs: self.responses.count(),
            misses: self.misses,
            unfinished: self.responses.unfinished(),
            wake_up_ms: ms(self.wake_up),
            min_ms: ms(self.responses.min()),
            p1_ms: ms(self.responses.quantile(Quantile::P1)),
            avg_ms: ms(self.responses.mean()),
            p99_ms: ms(self.responses.quantile(Quantile::P99)),
            max_ms: ms(self.responses.longest_measured()),
        }
    }
}

/// The figures of a task for machines, times in milliseconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TaskSummary {
    /// The task.
    pub task: String,
    /// Its relative deadline.
    pub deadline_ms: f64,
    /// Jobs judged.
    pub jobs: usize,
    /// Deadlines missed.
    pub misses: usize,
    /// Of these, never finished.
    pub unfinished: usize,
    /// Shortest response time.
    pub min_ms: Option<f64>,
    /// The median time from a release to the interrupt that announced it.
    pub wake_up_ms: Option<f64>,
    /// 1 in 100 took at most this.
    pub p1_ms: Option<f64>,
    /// Mean of the jobs that finished.
    pub avg_ms: Option<f64>,
    /// 99 in 100 took at most this.
    pub p99_ms: Option<f64>,
    /// Longest of the jobs that finished.
    pub max_ms: Option<f64>,
}

/// How far two distributions are apart: at p1 to p99 at most, and at the maximum. `None` where one has no such value.
pub fn distance(a: &Distribution, b: &Distribution) -> Option<(Duration, Duration)> {
    let apart = |parts: u32| {
        let quantile = Quantile::parts_per_million(parts * 10_000);
        Some(a.quantile(quantile)?.abs_diff(b.quantile(quantile)?))
    };
    let inner: Option<Vec<Duration>> = (1..=99).map(apart).collect();
    Some((inner?.into_iter().max()?, a.max()?.abs_diff(b.max()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn set() -> TaskSet {
        TaskSet::parse("sched=rm duration=600ms task=a,c=10ms,t=100ms task=b,c=20ms,t=200ms hog=0")
            .unwrap()
    }

    fn job(task: u16, number: u64, release: u64, finish: u64) -> Event {
        let period = if task == 0 { 100 } else { 200 };
        Event::Job(Job {
            vcpu: 0,
            task,
            job: number,
            release: release * MS,
            woken: 0,
            start: release * MS,
            finish: finish * MS,
            deadline: (release + period) * MS,
            executed: MS,
        })
    }

    #[test]
    fn jobs_that_never_finished_are_misses_without_a_response_time() {
        // Started at 30 ms, ends at 630 ms. Task a finished 2 of 6 jobs, task b none of 3.
        let rows = rows("x", &set(), &[job(0, 0, 30, 45), job(0, 1, 130, 240)]);
        let figures = TaskFigures::of(&set(), &rows);
        assert_eq!(figures.len(), 2, "the hog has no jobs");
        assert_eq!((figures[0].misses, figures[0].responses.count()), (5, 6));
        assert_eq!(
            (figures[1].misses, figures[1].responses.unfinished()),
            (3, 3)
        );
        assert_eq!(figures[0].responses.min(), Some(Duration::from_millis(15)));
    }

    #[test]
    fn a_job_still_within_its_deadline_at_the_end_is_not_judged() {
        let events: Vec<Event> = (0..5)
            .map(|n| job(0, n, 30 + 100 * n, 41 + 100 * n))
            .collect();
        let rows = rows("x", &set(), &events);
        let a: Vec<_> = rows.iter().filter(|row| row.task == "a").collect();
        assert_eq!(a.len(), 6);
        assert!(
            a[5].finish_ns.is_none(),
            "its deadline is the end of the run"
        );
        let mut longer = set();
        longer.duration += 50 * MS;
        assert_eq!(super::rows("x", &longer, &events).len(), rows.len());
    }

    #[test]
    fn the_distance_of_distributions_is_the_greatest_over_their_quantiles() {
        let ms = Duration::from_millis;
        let of = |times: &[u64]| times.iter().map(|t| ms(*t)).collect::<Distribution>();
        assert_eq!(
            distance(&of(&[1, 5, 9]), &of(&[1, 7, 30])),
            Some((ms(21), ms(21)))
        );
        assert_eq!(distance(&of(&[1]), &of(&[1]).with_unfinished(1)), None);
    }
}

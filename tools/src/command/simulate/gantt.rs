//! The beginning of a schedule as a figure: one lane for every task.

use std::time::Duration;

use sched::sim::{Host, Outcome, Task, TaskOutcome};

use super::description::TaskName;
use crate::report::timeline_plot::{Deadline, Lane, Span, TimelinePlot};

/// Periods of the slowest task that are drawn.
const PERIODS: u32 = 3;

/// An SVG file. Needs every stretch of execution recorded.
pub fn draw(host: &Host, outcome: &Outcome, names: &[TaskName]) -> String {
    let tasks: Vec<&Task> = host.vcpus().flat_map(|vcpu| &vcpu.tasks).collect();
    // Load without end has no period.
    let periods = tasks.iter().map(|task| task.period);
    let slowest = periods.filter(|period| *period <= outcome.length).max();
    let end = slowest.map_or(outcome.length, |period| period.saturating_mul(PERIODS));
    let window = Span {
        from: Duration::ZERO,
        to: end.min(outcome.length),
    };
    let lanes = names.iter().zip(&outcome.tasks).zip(&tasks);
    let plot = TimelinePlot {
        title: "Schedule".to_owned(),
        window,
        lanes: lanes
            .map(|((name, task), description)| lane(outcome, (name, task), description))
            .collect(),
        blackouts: Vec::new(),
    };
    plot.figure("schedule", "").drawing.standalone()
}

fn lane(outcome: &Outcome, (name, task): (&TaskName, &TaskOutcome), description: &Task) -> Lane {
    let deadline = |job: &sched::sim::Job| {
        Some(Deadline {
            at: job.arrival.checked_add(description.deadline)?,
            missed: job.missed,
        })
    };
    let executions = outcome.vcpus[task.vcpu].executions.iter();
    let own = executions.filter(|part| part.task == task.task);
    Lane {
        name: format!("{} {}", name.vm, name.task),
        releases: task.jobs.iter().map(|job| job.arrival).collect(),
        deadlines: task.jobs.iter().filter_map(deadline).collect(),
        executions: own
            .map(|part| Span {
                from: Duration::from_nanos(part.from),
                to: Duration::from_nanos(part.to),
            })
            .collect(),
    }
}

//! The figures of `migration-rt`.

use std::time::Duration;

use super::course::Phase;
use super::{Kind, Moved, Results};
use crate::experiment::trace::Trace;
use crate::report::Figure;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::Distribution;

/// The tasks with deadlines, in the order of the set.
pub const TASKS: [&str; 2] = ["t1", "t2"];
/// What is shown of a schedule before and after the switch-over.
const BEFORE: Duration = Duration::from_millis(250);
const SHOWN: Duration = Duration::from_millis(600);

/// The schedule around the switch-over, one of each kind.
pub fn timelines(results: &Results) -> Vec<Figure> {
    let each = Kind::ALL.into_iter().filter_map(|kind| {
        let (number, moved) = results.moved(kind).next()?;
        Some(timeline(results, (kind, number), moved))
    });
    each.collect()
}

fn timeline(results: &Results, (kind, number): (Kind, u32), moved: &Moved) -> Figure {
    let rows = moved.course.rows.iter();
    let first = rows.map(|row| row.release_ns).min().unwrap_or(0);
    let switch = Duration::from_nanos(moved.course.switch.0.saturating_sub(first));
    let title = format!("{}, move {number}: the jobs around it", kind.title());
    let from = switch.saturating_sub(BEFORE);
    let trace = Trace::new(&results.set, &moved.course.events);
    let plot = trace.timeline(&title, from, SHOWN);
    plot.figure(
        &format!("switch-{}", kind.key()),
        &format!(
            "The guest changed hosts at {:.0} ms and was away for {:.2} ms. Boxes are executions, arrows up releases, arrows \
             down deadlines; shaded, the virtual CPU was away, for so many milliseconds.",
            switch.as_secs_f64() * 1e3,
            moved.course.away().as_secs_f64() * 1e3
        ),
    )
}

/// Response times of each task, of those jobs that met the move and of those before.
pub fn responses(results: &Results) -> Vec<Figure> {
    let each = TASKS.iter().filter_map(|task| {
        let plot = response(results, task);
        let caption = "Share of jobs that had finished after the time on the axis: before the command, and those that were not over \
                       when it was given and released before the guest went on.";
        (!plot.series.is_empty()).then(|| plot.figure(&format!("response-{task}"), caption))
    });
    each.collect()
}

fn response(results: &Results, task: &str) -> DistributionPlot {
    let mut series = Vec::new();
    for kind in Kind::ALL {
        for phase in [Phase::Before, Phase::Meanwhile] {
            let (times, deadline) = pooled(results, kind, (task, phase));
            if times.count() > 0 {
                series.push(Series {
                    name: format!("{}, {}", kind.title(), phase.name()),
                    times,
                    deadline,
                });
            }
        }
    }
    let deadline = series
        .iter()
        .find_map(|one| one.deadline)
        .unwrap_or_default();
    DistributionPlot {
        title: format!("Response times of {task}"),
        quantity: "response time".to_owned(),
        shape: Shape::Cumulative,
        time_axis: TimeAxis::Linear {
            from: Duration::ZERO,
            to: deadline.mul_f64(1.4),
        },
        series,
        marks: vec![Mark {
            at: deadline,
            label: "deadline".to_owned(),
            kind: FlagKind::Bound,
        }],
    }
}

/// The response times of a task in a phase of all moves of a kind, and its deadline.
fn pooled(
    results: &Results,
    kind: Kind,
    (task, phase): (&str, Phase),
) -> (Distribution, Option<Duration>) {
    let rows = results.moved(kind).flat_map(|(_, moved)| {
        let rows = moved.course.rows_of(phase);
        rows.into_iter().filter(|row| row.task == task)
    });
    let (mut times, mut open, mut deadline) = (Vec::new(), 0, None);
    for row in rows {
        deadline = Some(Duration::from_nanos(row.deadline_ns - row.release_ns));
        match row.response_ns() {
            Some(time) => times.push(Duration::from_nanos(time)),
            None => open += 1,
        }
    }
    (Distribution::new(times).with_unfinished(open), deadline)
}

//! The figures of `cbs-kvm`.

use std::time::Duration;

use super::Results;
use crate::experiment::jobs::TaskFigures;
use crate::experiment::scenario::{Ran, paper_tasks};
use crate::experiment::trace::Trace;
use crate::report::Figure;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::Distribution;

/// The tasks, in the order of the set.
pub const TASKS: [&str; 2] = ["t1", "t2"];
/// The keys of the scenarios that tell budgets ended exactly from those ended on the tick.
pub const ENFORCEMENTS: [&str; 4] = ["4-idle", "4-loaded", "tick-idle", "tick-loaded"];

/// Of 150 and 200 ms.
const HYPERPERIOD: Duration = Duration::from_millis(600);

/// One hyperperiod of the guest in its reservation, beside the load.
pub fn schedule(results: &Results) -> Option<Figure> {
    let set = paper_tasks(results.duration).ok()?;
    let ran = results.of("4-loaded")?;
    let title = "One hyperperiod in (28 ms, 50 ms), host loaded";
    let plot = Trace::new(&set, &ran.events).timeline(title, HYPERPERIOD, HYPERPERIOD);
    Some(plot.figure(
        "schedule",
        "Boxes are executions, arrows up releases, arrows down deadlines; shaded, the virtual CPU was away, for so many \
         milliseconds.",
    ))
}

/// Blackouts that the guest's tasks saw.
pub fn blackouts(results: &Results) -> Option<Figure> {
    let set = paper_tasks(results.duration).ok()?;
    let series = |key: &&str| {
        let measured = results.measured.iter().find(|m| m.scenario.key == *key)?;
        let ran = measured.outcome.as_ref().ok()?;
        Some(Series {
            name: measured.scenario.title.clone(),
            times: Distribution::new(Trace::new(&set, &ran.events).blackout_lengths()),
            deadline: None,
        })
    };
    let plot = DistributionPlot {
        title: "Blackouts in (28 ms, 50 ms), as the guest saw them".to_owned(),
        quantity: "blackout".to_owned(),
        shape: Shape::Complementary,
        time_axis: TimeAxis::Fitted,
        series: ENFORCEMENTS.iter().filter_map(series).collect(),
        marks: vec![Mark {
            at: Duration::from_millis(22),
            label: "P - Q".to_owned(),
            kind: FlagKind::Bound,
        }],
    };
    let caption = "Share of blackouts longer than the time on the axis.";
    (!plot.series.is_empty()).then(|| plot.figure("blackouts", caption))
}

/// One figure of response times per task.
pub fn figures(results: &Results, keys: &[&str], (stem, caption): (&str, &str)) -> Vec<Figure> {
    TASKS
        .iter()
        .map(|task| {
            let title = format!("Response times of {task} in (28 ms, 50 ms)");
            plot(results, (keys, task), &title, Vec::new())
                .figure(&format!("{stem}-{task}"), caption)
        })
        .collect()
}

/// Response times of one task in some scenarios.
pub fn plot(
    results: &Results,
    (keys, task): (&[&str], &str),
    title: &str,
    marks: Vec<Mark>,
) -> DistributionPlot {
    let runs = keys.iter().filter_map(|key| {
        let measured = results.measured.iter().find(|m| m.scenario.key == *key)?;
        Some((measured, figures_of(measured.outcome.as_ref().ok()?, task)?))
    });
    let series: Vec<Series> = runs
        .map(|(measured, figures)| Series {
            name: measured.scenario.title.clone(),
            times: figures.responses.clone(),
            deadline: Some(figures.deadline),
        })
        .collect();
    let deadline = series.iter().find_map(|s| s.deadline).unwrap_or_default();
    DistributionPlot {
        title: title.to_owned(),
        quantity: "response time".to_owned(),
        shape: Shape::Cumulative,
        time_axis: TimeAxis::Linear {
            from: Duration::ZERO,
            to: deadline.mul_f64(1.4),
        },
        series,
        marks,
    }
}

/// The figures of one task in a run.
pub fn figures_of<'a>(ran: &'a Ran, task: &str) -> Option<&'a TaskFigures> {
    ran.tasks.iter().find(|figures| figures.name == task)
}

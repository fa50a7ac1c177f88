//! The report of `edge`.

use std::time::Duration;

use serde_json::{Value, json};

use super::configuration::PERIOD;
use super::{Point, Results, Swept};
use crate::cli::ExperimentArgs;
use crate::report::edge_plot::{EdgeConfiguration, EdgePlot, Relation};
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

/// How far the first miss may lie from the prediction.
const TOLERANCE: Duration = Duration::from_millis(1);

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn drawn(swept: &Swept) -> EdgeConfiguration {
    EdgeConfiguration {
        name: swept.configuration.name.to_owned(),
        note: swept.configuration.note.to_owned(),
        predicted: swept.predicted,
        points: swept.points.iter().map(|point| point.counts).collect(),
    }
}

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "The edge: the least budget that keeps every deadline".to_owned(),
        summary: summary(results),
        command_line: args.command_line("edge"),
        host,
        sections: vec![
            edge_section(results),
            theory_section(),
            sweep_section(results),
        ],
        jobs: results
            .swept
            .iter()
            .flat_map(|swept| swept.rows.clone())
            .collect(),
        raw: raw(results),
    }
}

fn summary(results: &Results) -> String {
    let judged: Vec<bool> = results.swept.iter().map(|s| is_met(&drawn(s))).collect();
    let met = judged.iter().filter(|met| **met).count();
    format!(
        "A guest with rate-monotonic tasks (30 ms, 150 ms) and (50 ms, 200 ms) in a reservation of Q in every {} ms, on \
         CPU {}. As Q shrinks, the first deadline is missed within {} ms of the predicted budget in {met} of {} \
         configurations. Reservations rest on {}.",
        PERIOD.as_millis(),
        results.cpu,
        TOLERANCE.as_millis(),
        judged.len(),
        results.promise,
    )
}

/// Whether the first miss was found, and within the tolerance.
fn is_met(configuration: &EdgeConfiguration) -> bool {
    match configuration.finding() {
        Some((Relation::At, apart)) => apart.abs() <= millis(TOLERANCE),
        _ => false,
    }
}

fn edge_section(results: &Results) -> Section {
    let plot = EdgePlot {
        title: "Deadline misses over the budget".to_owned(),
        period: PERIOD,
        tolerance: TOLERANCE,
        configurations: results.swept.iter().map(drawn).collect(),
    };
    let caption = "Every strip asks whether the first miss, coming from large budgets, stands where theory puts it.";
    let rows = results.swept.iter().map(|swept| {
        let configuration = drawn(swept);
        let (first, apart) = match configuration.finding() {
            Some((Relation::At, apart)) => (
                Cell::millis(configuration.first_miss(), 1),
                Cell::number(apart, 2),
            ),
            Some((Relation::AtLeast, _)) => (Cell::text("at the greatest Q swept"), Cell::Missing),
            _ => (Cell::text("none, down to the least Q swept"), Cell::Missing),
        };
        vec![
            Cell::text(&configuration.name),
            Cell::text(&configuration.note),
            Cell::millis(configuration.predicted, 2),
            first,
            apart,
            Cell::judged(is_met(&configuration), "within 1 ms"),
        ]
    });
    Section {
        heading: "Predicted and measured".to_owned(),
        prose: results.left_out.iter().cloned().collect(),
        tables: vec![Table {
            caption: "The first miss is at the greatest budget with which a deadline was missed."
                .to_owned(),
            columns: vec![
                Column::new("configuration", ""),
                Column::new("supply assumed", ""),
                Column::new("predicted", "ms"),
                Column::new("first miss", "ms"),
                Column::new("apart", "ms"),
                Column::new("target", ""),
            ],
            rows: rows.collect(),
        }],
        figures: vec![plot.figure("edge", caption)],
    }
}

fn theory_section() -> Section {
    let prose = [
        "A task meets its deadline if at some instant before it the supply bound has caught up with the request bound: \
         the task's own execution and that of every release above it. For t2, that is 80 ms of supply by its first 150 \
         ms, or 110 ms by its deadline of 200 ms.",
        "The supply bound depends on two things. First, where in the server's period a release falls. A guest that \
         sleeps when idle is woken by the release, and the constant bandwidth server's wake-up rule begins a period \
         there. All task periods are multiples of 50 ms, so every release falls on the beginning of a period, and 3 Q \
         have to be at least 80 ms: Q = 26.67 ms, the paper's 27. It makes no difference where in its periods the budget \
         comes, nor when the guest's releases begin.",
        "A guest that never sleeps has a server whose periods follow one another whatever is released. Alone on its CPU \
         its budget comes at the beginning of each period: the supply repeats exactly, any 150 ms hold 3 Q, and the edge \
         stays at 26.67 ms for every phase. Only if budgets also move within their periods, early in one and late in \
         another, does the periodic resource model's worst case come near, which needs 5 Q - 50 ms >= 110 ms: 32 ms (Shin \
         and Lee, RTSS 2003).",
        "Neighbours move budgets, but not arbitrarily: under EDF an admitted neighbour delays a budget by what has its \
         release and its deadline before that budget's own deadline. The neighbour here takes all that admission leaves \
         and has a slightly shorter period, so that it drifts through every phase. The prediction uses this bound; 32 ms \
         remains the answer for neighbours one knows nothing of.",
    ];
    Section {
        heading: "What theory predicts, and why".to_owned(),
        prose: prose.map(str::to_owned).to_vec(),
        ..Section::default()
    }
}

fn sweep_section(results: &Results) -> Section {
    let tables = results.swept.iter().map(|swept| Table {
        caption: format!("The sweep: {}.", swept.configuration.name),
        columns: vec![
            Column::new("Q", "ms"),
            Column::new("jobs", ""),
            Column::new("missed", ""),
            Column::new("neighbour", ""),
            Column::new("admitted in all", "% of the CPU"),
        ],
        rows: swept.points.iter().map(point_cells).collect(),
    });
    Section {
        heading: "The sweeps".to_owned(),
        prose: vec![
            "Admitted shares include the surplus of a millisecond per period that each reservation is given so that its \
             own timer ends its budgets and not the kernel's tick; it is admitted, and not used."
                .to_owned(),
        ],
        tables: tables.collect(),
        figures: Vec::new(),
    }
}

fn point_cells(point: &Point) -> Vec<Cell> {
    let neighbour = point
        .neighbour
        .map_or(Cell::text("none"), |n| Cell::text(n.to_string()));
    vec![
        Cell::millis(point.counts.budget, 1),
        Cell::number(point.counts.jobs as f64, 0),
        Cell::number(point.counts.missed as f64, 0),
        neighbour,
        Cell::number(point.admitted * 100.0, 2),
    ]
}

fn raw(results: &Results) -> Value {
    let point = |point: &Point| {
        json!({
            "budget_ms": millis(point.counts.budget),
            "jobs": point.counts.jobs,
            "misses": point.counts.missed,
            "neighbour": point.neighbour,
            "admitted": point.admitted,
        })
    };
    let swept = |swept: &Swept| {
        let configuration = drawn(swept);
        json!({
            "key": swept.configuration.key,
            "name": swept.configuration.name,
            "predicted_ms": millis(swept.predicted),
            "first_miss_ms": configuration.first_miss().map(millis),
            "within_tolerance": is_met(&configuration),
            "seconds_per_run": swept.configuration.duration.as_secs_f64(),
            "phases": swept.configuration.phases.len(),
            "points": swept.points.iter().map(point).collect::<Vec<_>>(),
        })
    };
    json!({
        "experiment": "edge",
        "cpu": results.cpu,
        "period_ms": millis(PERIOD),
        "promise": results.promise,
        "left_out": results.left_out,
        "configurations": results.swept.iter().map(swept).collect::<Vec<_>>(),
    })
}

//! The report of `feedback`.

use serde_json::{Value, json};

use super::figures::{APART, Followed};
use super::{Measured, Results};
use crate::cli::ExperimentArgs;
use crate::experiment::jobs::TaskFigures;
use crate::report::follow_plot::FollowPlot;
use crate::report::table::{Cell, Column, Table};
use crate::report::{Figure, HostCheck, Report, Section};

/// The targets: what is reserved beyond what is needed, and misses.
const OVER_TARGET: f64 = 0.1;
const MISSES_TARGET: f64 = 0.01;

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let jobs = results.measured.iter().flat_map(|m| m.ran.rows.clone());
    Report {
        title: "Feedback: a reservation that follows a stepping need".to_owned(),
        summary: summary(results),
        command_line: args.command_line("feedback"),
        host,
        sections: vec![shares_section(results), figures_section(results)],
        jobs: jobs.collect(),
        raw: raw(results),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

fn summary(results: &Results) -> String {
    let told = results.measured.iter().map(|measured| {
        let Followed {
            over,
            missed_share,
            missed_apart,
            ..
        } = measured.followed;
        format!(
            "{}: {} reserved beyond the need, {} of jobs missed and {missed_apart} more in the first {APART} periods after a step",
            measured.scenario.title,
            percent(over),
            percent(missed_share),
        )
    });
    format!(
        "A guest on CPU {} whose need steps between {} and {} ms of every {} ms every {} s, for {} s, beside real-time \
         load. {}. The reservation that follows was admitted for {} to {} ms. It rests on {}.",
        results.cpu,
        results.need.low.as_millis(),
        results.need.high.as_millis(),
        results.need.period.as_millis(),
        results.need.turn.as_secs(),
        results.need.length.as_secs(),
        told.collect::<Vec<_>>().join("; "),
        results.envelope.least().as_millis(),
        results.envelope.greatest().as_millis(),
        results.promise,
    )
}

fn shares_section(results: &Results) -> Section {
    let columns = [
        ("reservation", ""),
        ("needed", "%"),
        ("reserved", "%"),
        ("over need", "%"),
        ("at low need", "%"),
        ("at high need", "%"),
        ("target", ""),
        ("jobs", ""),
        ("missed after a step", ""),
        ("missed otherwise", ""),
        ("share", "%"),
        ("target", ""),
        ("changes", ""),
    ];
    let measured = results.measured.iter();
    let rows = measured.map(|measured| row(&measured.scenario.title, &measured.followed));
    let predicted = results.predicted.iter();
    let predicted = predicted.map(|followed| row("follows the need, simulated", followed));
    Section {
        heading: "Reserved, needed, missed".to_owned(),
        prose: vec![
            "What is needed is what the task's jobs execute; interrupts, exits and the monitor's own work are not in it, \
             but in what is reserved. The surplus that the kernel gets as a backstop is not. Simulated: the same task and \
             the same controller on a host without overheads."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: format!(
                "Means over the whole run, steps included. The first {APART} periods after a step are reported apart: \
                 while a budget is too small, nobody can know by how much."
            ),
            columns: columns
                .map(|(title, unit)| Column::new(title, unit))
                .to_vec(),
            rows: rows.chain(predicted).collect(),
        }],
        figures: Vec::new(),
    }
}

fn row(title: &str, followed: &Followed) -> Vec<Cell> {
    let share = |share: f64| Cell::number(share * 100.0, 2);
    let count = |count: usize| Cell::number(count as f64, 0);
    vec![
        Cell::text(title),
        share(followed.needed),
        share(followed.reserved),
        share(followed.over),
        share(followed.over_low),
        share(followed.over_high),
        Cell::judged(followed.over <= OVER_TARGET, "≤ 10 %"),
        count(followed.jobs),
        count(followed.missed_apart),
        count(followed.missed),
        share(followed.missed_share),
        Cell::judged(followed.missed_share <= MISSES_TARGET, "≤ 1 %"),
        count(followed.changes),
    ]
}

fn figures_section(results: &Results) -> Section {
    Section {
        heading: "Over time".to_owned(),
        prose: Vec::new(),
        tables: Vec::new(),
        figures: results
            .measured
            .iter()
            .map(|measured| figure(results, measured))
            .collect(),
    }
}

fn figure(results: &Results, measured: &Measured) -> Figure {
    let plot = FollowPlot {
        title: format!(
            "Need, budget and response times: {}",
            measured.scenario.title
        ),
        length: results.need.length,
        period: results.need.period,
        deadline: results.need.period,
        need: results.need.levels(),
        budget: measured.budgets.clone(),
        responses: measured.responses.clone(),
    };
    plot.figure(
        &format!("follow-{}", measured.scenario.key),
        "Above: what the task needs in every period, and the budget that the kernel has in force. Below: the response \
         time of every job.",
    )
}

fn raw(results: &Results) -> Value {
    let scenarios: Vec<Value> = results
        .measured
        .iter()
        .map(|measured| {
            let tasks: Vec<_> = measured
                .ran
                .tasks
                .iter()
                .map(TaskFigures::summary)
                .collect();
            json!({
                "key": measured.scenario.key,
                "title": measured.scenario.title,
                "figures": measured.followed,
                "tasks": tasks,
                "account": measured.ran.account,
            })
        })
        .collect();
    json!({
        "cpu": results.cpu,
        "promise": results.promise,
        "envelope": results.envelope,
        "scenarios": scenarios,
        "predicted": results.predicted,
    })
}

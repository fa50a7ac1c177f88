//! `bench`: measures, and prints what was reached beside what was to be reached.

use std::fmt::Write;

use indicatif::{ProgressBar, ProgressStyle};

use super::Context;
use crate::bench::{self, Check, Options, Results, Row};
use crate::cli::BenchArgs;
use crate::failure::Failure;
use crate::report::table::{Cell, Column, Table};
use crate::report::terminal::{self, Screen};

/// Exit status when a target was missed or a row could not be measured.
const MISSED: u8 = 4;

/// Measures the rows asked for.
pub fn bench(context: &Context, args: &BenchArgs) -> Result<u8, Failure> {
    let options = Options {
        only: args.only.clone(),
        quick: args.quick,
        cpu: args.cpu,
    };
    // Shows nothing where standard error is no terminal.
    let progress = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed_precise}  {msg}") {
        progress.set_style(style);
    }
    progress.enable_steady_tick(std::time::Duration::from_millis(250));
    let results = bench::run(context, &options, |name| {
        progress.set_message(name.to_owned());
    });
    progress.finish_and_clear();
    let results = results?;
    context.print(&results, text)?;
    let all_met = results.rows.iter().all(Row::is_met);
    Ok(if all_met { 0 } else { MISSED })
}

fn text(results: &Results) -> String {
    let screen = Screen::of_stdout();
    let mut text = terminal::table(&table(results), screen);
    for row in &results.rows {
        let about: Vec<&str> = row.notes.iter().map(String::as_str).collect();
        let _ = writeln!(text, "\n{}: {}", row.name, row.what);
        if let Some(why) = &row.failed {
            let _ = writeln!(text, "  not measured: {why}");
        }
        for line in about {
            let _ = writeln!(text, "  {line}");
        }
        for (when, noise) in ["before", "after"].iter().zip(&row.noise) {
            let _ = writeln!(text, "  noise {when}: {noise}");
        }
    }
    text
}

fn table(results: &Results) -> Table {
    let mut rows = Vec::new();
    for row in &results.rows {
        if row.failed.is_some() {
            rows.push(vec![
                Cell::text(row.name),
                Cell::text("not measured"),
                Cell::Missing,
                Cell::Missing,
                Cell::Missing,
                Cell::text(noise(row)),
            ]);
        }
        for (index, check) in row.checks.iter().enumerate() {
            rows.push(cells(row, check, index == 0));
        }
    }
    let peer = results.peer.as_deref().unwrap_or("no QEMU installed");
    let length = if results.quick { "quick" } else { "full" };
    Table {
        caption: format!("CPU {}, {length} run, {peer}", results.cpu),
        columns: ["name", "value of", "value", "target", "beside", "noise"]
            .iter()
            .map(|title| Column::new(title, ""))
            .collect(),
        rows,
    }
}

fn cells(row: &Row, check: &Check, is_first: bool) -> Vec<Cell> {
    let once = |text: String| if is_first { text } else { String::new() };
    vec![
        Cell::text(once(row.name.to_owned())),
        Cell::text(&check.label),
        Cell::text(format!("{} {}", digits(check.value), check.unit)),
        match check.target.text(check.unit) {
            target if target.is_empty() => Cell::Missing,
            target => Cell::judged(check.met, target.trim_end()),
        },
        check.beside.as_ref().map_or(Cell::Missing, Cell::text),
        Cell::text(once(noise(row))),
    ]
}

/// Four digits that mean something.
fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => format!("{value:.0}"),
        size if size >= 100.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The longest gap of the control thread around the row, and the share that gaps took.
fn noise(row: &Row) -> String {
    let longest = row.noise.iter().map(|noise| noise.gaps.max).max();
    let share = row
        .noise
        .iter()
        .map(|noise| noise.share())
        .fold(0.0, f64::max);
    longest.map_or_else(
        || "not measured".to_owned(),
        |longest| {
            format!(
                "{:.2} ms, {:.2} %",
                longest.as_secs_f64() * 1e3,
                share * 100.0
            )
        },
    )
}

//! `experiment`: repeats an experiment and writes a report.

use std::path::PathBuf;

use serde::Serialize;

use super::Context;
use crate::cli::{ExperimentArgs, ExperimentCommand};
use crate::experiment::{ExperimentError, cbs_kvm, date, edge, feedback, lock_holder, part};
use crate::failure::Failure;
use crate::report::Report;
use crate::report::terminal::{self, Screen};

/// Exit status after a signal asked for the end: 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// What machines are told.
#[derive(Serialize)]
struct Answer<'a> {
    report: PathBuf,
    summary: &'a str,
    result: &'a serde_json::Value,
}

/// One of the experiments.
pub fn experiment(context: &Context, command: ExperimentCommand) -> Result<u8, Failure> {
    match command {
        ExperimentCommand::CbsKvm(args) => report(context, &args, "cbs-kvm", cbs_kvm::run),
        ExperimentCommand::Edge(args) => report(context, &args, "edge", edge::run),
        ExperimentCommand::Feedback(args) => report(context, &args, "feedback", feedback::run),
        ExperimentCommand::LockHolder(args) => {
            report(context, &args, "lock-holder", lock_holder::run)
        }
        ExperimentCommand::Part(command) => part::part(context, command),
    }
}

fn report(
    context: &Context,
    args: &ExperimentArgs,
    name: &str,
    run: impl FnOnce(&Context, &ExperimentArgs) -> Result<Report, ExperimentError>,
) -> Result<u8, Failure> {
    let report = run(context, args).map_err(failure)?;
    let folder = args
        .output
        .clone()
        .unwrap_or_else(|| PathBuf::from(format!("reports/{name}-{}", date::stamp())));
    let page = report.write(&folder)?;
    let answer = Answer {
        report: page,
        summary: &report.summary,
        result: &report.raw,
    };
    context.print(&answer, |answer| text(&report, answer))?;
    Ok(0)
}

/// An experiment's error as a failure of the command.
pub fn failure(error: ExperimentError) -> Failure {
    match error {
        ExperimentError::Interrupted => Failure::from(error).with_status(INTERRUPTED),
        error => Failure::from(error),
    }
}

fn text(report: &Report, answer: &Answer) -> String {
    let screen = Screen::of_stdout();
    let mut text = format!("{}\n", report.summary);
    // The rest is for those who open the report.
    for section in report.sections.iter().take(2) {
        for table in &section.tables {
            text += &format!("\n{}", terminal::table(table, screen));
        }
    }
    text + &format!("\nreport: {}\n", answer.report.display())
}

//! `experiment`: repeats an experiment and writes a report.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::Context;
use crate::cli::{ExperimentArgs, ExperimentCommand, SchedulabilityArgs};
use crate::experiment::{
    ExperimentError, cbs_kvm, date, edge, feedback, lock_holder, migration, net_isolation, part,
    schedulability, vod, vtm_overhead, vtm_vs_guest, web,
};
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
        ExperimentCommand::Migration(args) => report(context, &args, "migration", migration::run),
        ExperimentCommand::NetIsolation(args) => {
            report(context, &args, "net-isolation", net_isolation::run)
        }
        ExperimentCommand::Schedulability(args) => schedulability(context, &args),
        ExperimentCommand::Vod(args) => report(context, &args, "vod", vod::run),
        ExperimentCommand::VtmOverhead(args) => {
            report(context, &args, "vtm-overhead", vtm_overhead::run)
        }
        ExperimentCommand::VtmVsGuest(args) => {
            report(context, &args, "vtm-vs-guest", vtm_vs_guest::run)
        }
        ExperimentCommand::Web(args) => report(context, &args, "web", web::run),
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
    deliver(context, &report, (args.output.as_deref(), name), &[])?;
    Ok(0)
}

/// What a test accepted and a schedule refutes makes it fail, with the report written.
fn schedulability(context: &Context, args: &SchedulabilityArgs) -> Result<u8, Failure> {
    let (report, fractions, violations) = schedulability::run(context, args).map_err(failure)?;
    let place = (args.output.as_deref(), "schedulability");
    let page = deliver(context, &report, place, &[("fractions.csv", &fractions)])?;
    if violations > 0 {
        return Err(Failure::new(format!(
            "{violations} schedules of task sets that a test had accepted missed a deadline: {} lists them",
            page.display()
        )));
    }
    Ok(0)
}

/// Writes a report into its folder, with further files, and says what is in it; the path of its page.
fn deliver(
    context: &Context,
    report: &Report,
    (folder, name): (Option<&Path>, &str),
    files: &[(&str, &str)],
) -> Result<PathBuf, Failure> {
    let folder = folder.map_or_else(
        || PathBuf::from(format!("reports/{name}-{}", date::stamp())),
        Path::to_owned,
    );
    let page = report.write(&folder, files)?;
    let answer = Answer {
        report: page.clone(),
        summary: &report.summary,
        result: &report.raw,
    };
    context.print(&answer, |answer| text(report, answer))?;
    Ok(page)
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

//! Experiment `migration`: guests that write memory move from one host to another, by this program and by QEMU.
//!
//! ```text
//! case.rs    guests, links, movers
//! hosts.rs   namespace "source", CPU, run directory ── cable, HTB ── namespace "destination", CPU, run directory
//! own.rs     run, receive, migrate     qemu.rs   two QEMUs, qmp.rs      one trait for both: run::Pair
//! rings.rs   the guest's records as they lie in the memory of either process → silence.rs: the downtime that it saw
//! ```

mod case;
mod error;
mod figures;
mod hosts;
mod own;
mod qemu;
mod qmp;
mod report;
mod rings;
mod run;
mod silence;
mod targets;

pub use error::MigrationError;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use sched::cpus;

use super::host::HostBefore;
use super::progress::Progress;
use super::stage::{Promise, Stage, choose_cpu};
use super::{ExperimentError, interrupt, namespaces};
use crate::bench::peer::Qemu;
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use case::{Case, Mover};
use hosts::Hosts;
use qemu::Setting;
use run::Ended;

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
/// How long a guest runs before it is moved.
const SETTLE: Duration = Duration::from_millis(1500);
const QUICK_SETTLE: Duration = Duration::from_millis(800);

/// One migration.
pub struct Run {
    /// Of what.
    pub case: Case,
    /// By whom.
    pub mover: Mover,
    /// What came of it; why it was not measured.
    pub ended: Result<Ended, String>,
}

/// All of the experiment.
pub struct Results {
    /// The CPUs of source and destination.
    pub cpus: [u32; 2],
    /// What reservations rested on at the destination.
    pub promise: Promise,
    /// What QEMU calls itself, if there is one.
    pub qemu: Option<String>,
    /// What was to be measured.
    pub cases: Vec<Case>,
    /// Every migration.
    pub runs: Vec<Run>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let (listen, settle) = if args.quick {
        (QUICK_LISTEN, QUICK_SETTLE)
    } else {
        (LISTEN, SETTLE)
    };
    let cases = Case::all(args.quick);
    let mut progress = Progress::new(whole(&cases) + listen * 2, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    namespaces::sweep();
    // The last CPU outside partitions is one of its own without being made one.
    let is_alone = cpus::online().len() == 2;
    let other = hosts::other_cpu(cpu)?;
    let stage = Stage::set_on(context, cpu, (!is_alone).then_some(other))?;
    let results = on(&stage, cases, (settle, &mut progress));
    let promise = stage.promise.to_string();
    stage.clear()?;
    let results = results?;
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &promise, listen);
    Ok(report::report(&results, args, host))
}

/// About how long all of it takes.
fn whole(cases: &[Case]) -> Duration {
    let of = |case: &Case| {
        let runs = case.repeats * case.movers().len();
        case.length() * u32::try_from(runs).unwrap_or(1)
    };
    cases.iter().map(of).sum()
}

fn on(
    stage: &Stage,
    cases: Vec<Case>,
    (settle, progress): (Duration, &mut Progress),
) -> Result<Results, ExperimentError> {
    let mut hosts = Hosts::build(stage)?;
    let image = image(stage)?;
    let qemu = Qemu::find();
    let certified = own::certify(stage, &hosts).map_err(|error| error.to_string());
    let mut results = Results {
        cpus: [hosts.source.cpu, hosts.destination.cpu],
        promise: stage.promise.clone(),
        qemu: qemu.map(|qemu| qemu.version().to_owned()),
        cases: cases.clone(),
        runs: Vec::new(),
    };
    for case in cases {
        hosts.join_by(case.link)?;
        // Who is measured one after the other shares the state of the host.
        for repeat in 0..case.repeats {
            for mover in case.movers() {
                progress.step(&format!("{}: {}", case.name(), mover.name()), case.length());
                let setting = Setting {
                    hosts: &hosts,
                    folder: &stage.folder,
                    image: &image,
                    seed: 1 + repeat as u64,
                };
                let is_there = match mover.is_own() {
                    true => certified.clone(),
                    false if results.qemu.is_some() => Ok(()),
                    false => Err(MigrationError::NoQemu.to_string()),
                };
                let ended = match is_there {
                    Ok(()) => one((&case, mover), &setting, settle)?,
                    Err(why) => Err(why),
                };
                results.runs.push(Run { case, mover, ended });
            }
        }
    }
    Ok(results)
}

/// One migration; only the end that somebody asked for ends the experiment.
fn one(
    what: (&Case, Mover),
    setting: &Setting,
    settle: Duration,
) -> Result<Result<Ended, String>, ExperimentError> {
    interrupt::check()?;
    match run::migrate(what, setting, settle) {
        Err(ExperimentError::Interrupted) => Err(ExperimentError::Interrupted),
        other => Ok(other.map_err(|error| error.to_string())),
    }
}

/// The image as a file, for both monitors.
fn image(stage: &Stage) -> Result<PathBuf, ExperimentError> {
    let image = stage.folder.join("rt-guest");
    fs::write(&image, guest_images::RT_GUEST)
        .map_err(ExperimentError::io(format!("write {}", image.display())))?;
    Ok(image)
}

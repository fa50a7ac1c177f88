//! `host`: prepares this machine for promises, undoes that, and tells how fit it is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sched::admission::Fit;
use sched::framework::Manager;
use sched::host::HostCheck;
use sched::ledger::Ledger;
use sched::request::Granted;
use serde::Serialize;

use super::Context;
use crate::cli::HostCommand;
use crate::failure::Failure;

#[derive(Serialize)]
struct Prepared {
    cpus: Vec<u32>,
    fit: Fit,
}

#[derive(Serialize)]
struct Restored {
    restored: bool,
}

/// VTMs have no thread in the partition that would keep it, but the ledger's promise of the whole CPU.
fn refuse_while_vtms_are_dispatched(context: &Context) -> Result<(), Failure> {
    // A ledger that cannot be read does not keep a host prepared.
    let entries = Ledger::open(&context.run_dir).and_then(|ledger| ledger.entries());
    let entries = entries.unwrap_or_default();
    match entries
        .iter()
        .find(|entry| sched::vtm::is_of_vtms(&entry.vm))
    {
        None => Ok(()),
        Some(entry) => Err(Failure::new(format!(
            "process {} dispatches virtual task machines ({}) on a partition: end it first, a service by `chronovisor vtm quit`",
            entry.process.pid, entry.vm
        ))),
    }
}

/// One of the `host` commands.
pub fn host(context: &Context, command: HostCommand) -> Result<u8, Failure> {
    match command {
        HostCommand::Prepare { cpus, fit } => {
            let partitions = sched::prepare::prepare(&context.run_dir, &cpus)?;
            let cpus = partitions.iter().map(|partition| partition.cpu).collect();
            let mut ledger = Ledger::open(&context.run_dir)?;
            if let Some(fit) = fit {
                ledger.set_policy(fit)?;
            }
            let fit = ledger.policy();
            context.print(&Prepared { cpus, fit }, |prepared| {
                format!(
                    "prepared: one-CPU partitions {:?}, {} fit; `chronovisor host restore` undoes it",
                    prepared.cpus, prepared.fit
                )
            })?;
        }
        HostCommand::Restore => {
            refuse_while_vtms_are_dispatched(context)?;
            let restored = sched::prepare::restore(&context.run_dir)?;
            Ledger::open(&context.run_dir)?.set_policy(Fit::default())?;
            context.print(&Restored { restored }, |restored| {
                if restored.restored {
                    "restored"
                } else {
                    "nothing to restore"
                }
                .to_owned()
            })?;
        }
        HostCommand::Check { seconds } => check(context, Duration::from_secs(seconds))?,
        HostCommand::Measure { cpu } => measure(context, cpu)?,
    }
    Ok(0)
}

/// Measures the host, shows the result, and keeps it for the guests that will be started.
fn check(context: &Context, noise: Duration) -> Result<(), Failure> {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let total = noise * u32::try_from(cpus).unwrap_or(u32::MAX);
    let bar = (!context.json).then(|| {
        let bar = indicatif::ProgressBar::new_spinner();
        bar.set_message(format!(
            "listening to {cpus} CPUs, {} s in all",
            total.as_secs()
        ));
        bar.enable_steady_tick(Duration::from_millis(100));
        bar
    });
    let check = HostCheck::run(&vmm::host::kvm_kind(), noise);
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    std::fs::create_dir_all(&context.run_dir)?;
    let path = kept(&context.run_dir);
    let in_file = |e: std::io::Error| Failure::from(e).while_doing(&path.display().to_string());
    // Aside and renamed: whoever reads it meanwhile reads all of one check.
    let aside = path.with_extension("new");
    std::fs::write(&aside, serde_json::to_vec(&check)?).map_err(in_file)?;
    std::fs::rename(&aside, &path).map_err(in_file)?;
    context.print(&check, HostCheck::to_string)
}

/// Measures what the analysis needs to know of this host, and keeps it for the commands that use it.
fn measure(context: &Context, cpu: Option<u32>) -> Result<(), Failure> {
    // Shows nothing where standard error is no terminal.
    let progress = indicatif::ProgressBar::new_spinner();
    progress.enable_steady_tick(Duration::from_millis(100));
    let measured = crate::bench::host_figures(context, cpu, |what| {
        progress.set_message(format!("measuring {what}; 12 s in all"));
    });
    progress.finish_and_clear();
    let figures = measured?;
    let path = figures.keep(&context.run_dir)?;
    context.print(&figures, |figures| {
        format!("{figures}kept in {}", path.display())
    })
}

/// Where the last check of this host is kept.
fn kept(run_dir: &Path) -> PathBuf {
    run_dir.join("host-check.json")
}

/// Refuses promises finer than the noise that the last `host check` measured on the CPUs they were granted; passes where
/// none was made.
pub fn admits<'a>(
    context: &Context,
    promises: impl IntoIterator<Item = &'a Granted>,
) -> Result<(), Failure> {
    let path = kept(&context.run_dir);
    let Ok(bytes) = std::fs::read(&path) else {
        return Ok(());
    };
    let check = match serde_json::from_slice::<HostCheck>(&bytes) {
        Ok(check) if check.is_of_this_boot() => check,
        Ok(_) => {
            ignored(&path, "measured before the host was last started");
            return Ok(());
        }
        Err(_) => {
            ignored(&path, "written by another version");
            return Ok(());
        }
    };
    promises.into_iter().try_for_each(|granted| {
        check.admits(granted).map_err(|error| {
            Failure::from(error)
                .with_hint("--force (of run, restore and adapt) promises it all the same; `chronovisor host check` measures again")
                .refused()
        })
    })
}

fn ignored(path: &Path, why: &str) {
    eprintln!(
        "note: the noise in {} was {why} and is ignored; `chronovisor host check` measures it again",
        path.display()
    );
}

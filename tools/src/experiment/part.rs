//! The parts of an experiment that are processes of their own: what each is given, and its life.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Subcommand;
use net::namespace::Namespace;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use sched::kernel::Tid;
use sched::partition::{self, Partition};
use vmm::units::Span;

use super::{bomb, computation, load, neighbour, pid_max, spin, stage};
use crate::cli::{RunArgs, ShowArgs};
use crate::command::{Context, run};
use crate::failure::Failure;

/// Processes that experiments start; not for people.
#[derive(Debug, Subcommand)]
pub enum PartCommand {
    /// A guest, as `run`.
    Guest {
        /// The specification.
        spec: PathBuf,
        /// Where its records go.
        #[arg(long)]
        records: PathBuf,
        /// The process it ends with.
        #[arg(long)]
        owner: i32,
    },
    /// Periodic tasks of the host under SCHED_FIFO.
    Tasks(load::TasksArgs),
    /// A busy thread in a reservation.
    Neighbour {
        /// The CPU; any in a passed global test otherwise.
        #[arg(long)]
        cpu: Option<u32>,
        /// Q.
        #[arg(long)]
        runtime: Span,
        /// P.
        #[arg(long)]
        period: Span,
        /// Its name in the ledger.
        #[arg(long)]
        name: String,
        /// The process it ends with.
        #[arg(long)]
        owner: i32,
    },
    /// What a guest computes, as a process.
    Computation(computation::ComputationArgs),
    /// A fork bomb.
    Bomb(bomb::BombArgs),
    /// A busy process.
    Spin(spin::SpinArgs),
    /// A program.
    Program {
        /// The network namespace that it is in.
        #[arg(long)]
        namespace: Option<String>,
        /// The CPU that it keeps to.
        #[arg(long)]
        cpu: Option<u32>,
        /// The process it ends with.
        #[arg(long)]
        owner: i32,
        /// The program and its arguments.
        #[arg(last = true, required = true)]
        words: Vec<String>,
    },
    /// Raises the limit of process ids while it runs.
    PidMax {
        /// The limit.
        to: u32,
        /// The process it ends with.
        #[arg(long)]
        owner: i32,
    },
    /// Restores the host after an experiment that panicked.
    Restore {
        /// The experiment's folder.
        folder: PathBuf,
    },
}

/// Carries out a part.
pub fn part(context: &Context, command: PartCommand) -> Result<u8, Failure> {
    match command {
        PartCommand::Guest {
            spec,
            records,
            owner,
        } => {
            end_with(owner)?;
            let show = ShowArgs {
                records: Some(records),
                force: true,
            };
            run::run(context, &RunArgs { spec, show })
        }
        PartCommand::Tasks(args) => {
            end_with(args.owner)?;
            load::run(&args)
        }
        PartCommand::Neighbour {
            cpu,
            runtime,
            period,
            name,
            owner,
        } => {
            end_with(owner)?;
            let pair = (runtime.duration(), period.duration());
            neighbour::run(&context.run_dir, &name, cpu, pair)
        }
        PartCommand::Computation(args) => {
            end_with(args.owner)?;
            computation::run(&context.run_dir, &args)
        }
        PartCommand::Bomb(args) => {
            end_with(args.owner)?;
            bomb::run(&args)
        }
        PartCommand::Spin(args) => {
            end_with(args.owner)?;
            spin::run(&args)
        }
        PartCommand::Program {
            namespace,
            cpu,
            owner,
            words,
        } => {
            end_with(owner)?;
            if let Some(cpu) = cpu {
                keep_to(cpu)?;
            }
            become_program(namespace.as_deref(), &words)
        }
        PartCommand::PidMax { to, owner } => {
            end_with(owner)?;
            pid_max::run(to)
        }
        PartCommand::Restore { folder } => {
            stage::restore(&context.run_dir, Duration::from_secs(20))?;
            let _ = std::fs::remove_dir_all(folder);
            Ok(0)
        }
    }
}

/// This process is told to end when the thread of `owner` that started it does, and ends now if that has happened.
fn end_with(owner: i32) -> Result<(), Failure> {
    prctl::set_pdeathsig(Signal::SIGTERM)?;
    if nix::unistd::getppid().as_raw() != owner {
        return Err(Failure::new("the experiment that started this is over"));
    }
    Ok(())
}

/// This process, and what it becomes, stays on `cpu`: in its partition, or with the CPUs outside partitions, where its threads can
/// have reservations.
fn keep_to(cpu: u32) -> Result<(), Failure> {
    if Partition::of(cpu).is_none() {
        partition::join_rest(Tid::current())?;
    }
    load::enter(cpu)
}

/// Goes on as another program, which still ends with the experiment (prctl(2), PR_SET_PDEATHSIG: kept over execve(2)).
fn become_program(namespace: Option<&str>, words: &[String]) -> Result<u8, Failure> {
    let (program, arguments) = words
        .split_first()
        .ok_or_else(|| Failure::new("no program was named"))?;
    let mut command = match namespace {
        Some(name) => Namespace::open(name)?.command(program)?,
        None => Command::new(program),
    };
    let error = command.args(arguments).exec();
    Err(Failure::new(format!("cannot start {program}: {error}")))
}

/// The option that names this process as the owner of a part.
pub fn owner() -> [String; 2] {
    ["--owner".to_owned(), std::process::id().to_string()]
}

/// Starts a process that restores the host once the parts of this one, which is about to abort, are gone.
pub fn restore_later(run_dir: &Path, folder: &Path) {
    let _ = Command::new("/proc/self/exe")
        .arg("--run-dir")
        .arg(run_dir)
        .args(["experiment", "part", "restore"])
        .arg(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn();
}

//! A process that is busy: a job, an ordinary neighbour, or one under SCHED_FIFO.

use clap::Args;
use sched::kernel::{Policy, Tid, set_policy};

use super::ExperimentError;
use super::load::enter;
use super::part::owner;
use super::process::{Part, READY};
use super::stage::Stage;
use crate::failure::Failure;

/// `experiment part spin`.
#[derive(Debug, Args)]
pub struct SpinArgs {
    /// The CPU.
    #[arg(long)]
    cpu: u32,
    /// A SCHED_FIFO priority; it is an ordinary process otherwise.
    #[arg(long)]
    priority: Option<u8>,
    /// The process it ends with.
    #[arg(long)]
    pub owner: i32,
}

/// Starts one on the stage's CPU.
pub fn start(stage: &Stage, name: &str, priority: Option<u8>) -> Result<Part, ExperimentError> {
    start_on(stage, stage.cpu, name, priority)
}

/// Starts one on a CPU.
pub fn start_on(
    stage: &Stage,
    cpu: u32,
    name: &str,
    priority: Option<u8>,
) -> Result<Part, ExperimentError> {
    let mut arguments = stage.arguments("spin");
    arguments.extend(["--cpu".to_owned(), cpu.to_string()]);
    if let Some(priority) = priority {
        arguments.extend(["--priority".to_owned(), priority.to_string()]);
    }
    arguments.extend(owner());
    let mut part = Part::spawn(name, &stage.folder, &arguments)?;
    part.ready()?;
    Ok(part)
}

/// The process: busy until it is ended.
pub fn run(args: &SpinArgs) -> Result<u8, Failure> {
    enter(args.cpu)?;
    if let Some(priority) = args.priority {
        set_policy(Tid::current(), Policy::Fifo { priority })?;
    }
    println!("{READY}");
    loop {
        std::hint::spin_loop();
    }
}

//! The kernel's limit of process ids (`kernel.pid_max`), raised for an experiment by a process that puts it back when
//! it is told to end, or when the experiment is gone, however it ended.

use std::fs;
use std::io;

use nix::sys::signal::{SigSet, Signal};

use super::ExperimentError;
use super::part::owner;
use super::process::{Part, READY};
use super::stage::Stage;
use crate::failure::Failure;

const FILE: &str = "/proc/sys/kernel/pid_max";

/// The highest process id and one.
pub fn read() -> io::Result<u32> {
    let text = fs::read_to_string(FILE)?;
    text.trim().parse().map_err(io::Error::other)
}

/// Raises it while the part that comes back lives.
pub fn raised(stage: &Stage, to: u32) -> Result<Part, ExperimentError> {
    let mut arguments = stage.arguments("pid-max");
    arguments.push(to.to_string());
    arguments.extend(owner());
    let mut part = Part::spawn("what raises pid_max", &stage.folder, &arguments)?;
    part.ready()?;
    Ok(part)
}

/// The process: raises it, and puts it back when told to end.
pub fn run(to: u32) -> Result<u8, Failure> {
    // A Ctrl-C goes to all of a terminal's processes; this one ends after the experiment.
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    let before = read()?;
    fs::write(FILE, to.to_string())?;
    println!("{READY}");
    let mut awaited = SigSet::empty();
    awaited.add(Signal::SIGTERM);
    awaited.wait()?;
    // What somebody else has set meanwhile is theirs.
    if read()? == to {
        fs::write(FILE, before.to_string())?;
    }
    Ok(0)
}

//! `dirty`: which pages a guest writes, recorded, and migrations replayed over that.

mod record;
mod simulate;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use migration::model::{CpuCost, Path, Skewed};
use vmm::units::{BitRate, ByteSize, Span};

use super::Context;
use crate::failure::Failure;

/// What one fault costs the guest on the dearest kind of KVM known.
pub const FAULT: Duration = Duration::from_micros(27);
/// A window that is so old counts 1/e of a new one.
pub const MEMORY: Duration = Duration::from_secs(30);

/// A path of this rate, with the costs of a fast host: what they are on two hosts is measured when a guest is moved.
pub fn path_of_rate(rate: BitRate) -> Path {
    let cpu = CpuCost {
        per_page: Duration::from_micros(1),
        per_mebibyte: Duration::from_micros(500),
        share: 1.0,
    };
    Path {
        rate,
        rate_spread: 0.01,
        page_overhead: ByteSize::new(220),
        zero_pages: 0,
        compression: 1.0,
        compression_again: 1.0,
        round_cost: Duration::from_millis(1),
        pages_per_clear: 256,
        switch_delay: Duration::from_millis(1),
        switch_over: Skewed {
            median: Duration::from_micros(1500),
            p95: Duration::from_millis(3),
        },
        source: cpu,
        destination: cpu,
        tracked_write: FAULT,
    }
}

/// `dirty`.
#[derive(Debug, Subcommand)]
pub enum DirtyCommand {
    /// Record which pages a running guest writes.
    ///
    /// Windows follow each other without gaps. Each costs the guest a fault for every page written in it; where that would take more of
    /// its time than it may, windows get longer, up to 1s; where that is not enough the recording ends and says which cost would do.
    /// Ctrl-C ends the recording, and so does whatever kills this command, within 30s. The trace is complete then.
    Record(RecordArgs),
    /// Say what moving the guest of a trace would take: predicted from its first part, and replayed over the rest.
    Simulate(SimulateArgs),
}

/// `dirty record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// The guest.
    name: String,
    /// How long; the last window may end up to 1s later.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// The trace, which must not exist.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Length of a window, from 1ms to 1s.
    #[arg(long, default_value = "10ms", value_name = "TIME")]
    window: Span,
    /// Percent of the guest's time that faults may take; at most of one second more.
    #[arg(long, default_value_t = 5.0)]
    cost: f64,
    /// What one fault costs the guest; the default is of the dearest kind of KVM known.
    #[arg(long, default_value_t = Span::from(FAULT), value_name = "TIME")]
    fault: Span,
}

/// `dirty simulate`.
#[derive(Debug, Args)]
pub struct SimulateArgs {
    /// The trace.
    file: PathBuf,
    /// Rate reserved for the migration.
    #[arg(long)]
    rate: BitRate,
    /// Longest time for which the guest may stand still.
    #[arg(long, default_value = "20ms", value_name = "TIME")]
    downtime: Span,
    /// Longest time until it runs at its destination.
    #[arg(long, default_value = "60s", value_name = "TIME")]
    finish: Span,
    /// Percent of the trace that is watched before the migration begins.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=90))]
    watch: u32,
    /// Seed of what the trace leaves open: the instants of writes within a window.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Does it.
pub fn dirty(context: &Context, command: &DirtyCommand) -> Result<u8, Failure> {
    match command {
        DirtyCommand::Record(args) => record::record(context, args),
        DirtyCommand::Simulate(args) => simulate::simulate(context, args),
    }
}

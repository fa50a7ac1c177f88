//! `bench`: measures this program on this host, beside its peers and beside what the host itself disturbs.
//!
//! Every row is measured with guests that are real processes of this program, on one CPU made a partition for the
//! time being; the threads of the benchmark itself stay off that CPU, but for the load that belongs to a row. The
//! noise of the CPU is measured before and after each row, so that a value can be judged beside it.

mod adapt;
mod adapt_among;
mod adapt_net;
mod flood;
mod guest;
mod guest_net;
mod load;
mod memory;
mod noise;
mod outcome;
mod overheads;
pub mod peer;
mod pio;
mod scratch;
mod sleeper;
mod speed;
mod start;
mod supply;
mod timeline;
mod wait;
mod wake;

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

pub use outcome::{Check, Row};

use crate::command::Context;
use crate::experiment::stage::{Promise, Stage, choose_cpu};
use crate::experiment::{date, interrupt};
use crate::failure::Failure;
use crate::host_figures::{self, HostFigures};
use overheads::ReleaseCosts;
use peer::Qemu;
use scratch::Scratch;
use supply::SupplyRuns;

/// What to measure, and where.
pub struct Options {
    /// Rows by name; all if empty.
    pub only: Vec<String>,
    /// Shorter runs.
    pub quick: bool,
    /// The CPU to measure on; the last one that is online if not given.
    pub cpu: Option<u32>,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Results {
    /// The CPU that was measured on.
    pub cpu: u32,
    /// Whether the runs were short.
    pub quick: bool,
    /// The peer, if it is installed.
    pub peer: Option<String>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// What every row is given.
struct Bench {
    run_dir: PathBuf,
    cpu: u32,
    quick: bool,
    scratch: Scratch,
    qemu: Option<Qemu>,
    supplies: SupplyRuns,
}

impl Bench {
    /// `full`, or `short` with `--quick`.
    fn pick<T>(&self, full: T, short: T) -> T {
        if self.quick { short } else { full }
    }
}

type Measure = fn(&mut Bench) -> Result<Row, Failure>;

/// A row that can be asked for.
struct Kind {
    name: &'static str,
    what: &'static str,
    measure: Measure,
}

const fn kind(name: &'static str, what: &'static str, measure: Measure) -> Kind {
    Kind {
        name,
        what,
        measure,
    }
}

/// All rows, in the order of the table.
const KINDS: &[Kind] = &[
    kind(
        "start",
        "process start to the guest's first output byte",
        start::measure,
    ),
    kind(
        "memory",
        "Pss of the process without guest memory",
        memory::measure,
    ),
    kind(
        "share-10-40",
        "share of a busy guest in (10, 40) ms, loaded",
        supply::share_10_40,
    ),
    kind(
        "share-2.5-10",
        "share of a busy guest in (2.5, 10) ms, loaded",
        supply::share_2_10,
    ),
    kind(
        "blackout-10-40",
        "blackouts in (10, 40) ms, loaded",
        supply::blackout_10_40,
    ),
    kind(
        "blackout-2.5-10",
        "blackouts in (2.5, 10) ms, loaded",
        supply::blackout_2_10,
    ),
    kind(
        "blackout-1-5",
        "blackouts in (1, 5) ms, loaded",
        supply::blackout_1_5,
    ),
    kind(
        "blackout-neighbours",
        "blackouts in (10, 40) ms beside admitted neighbours",
        supply::blackout_neighbours,
    ),
    kind(
        "sleeper",
        "guest that sleeps and bursts in (10, 40) ms",
        sleeper::measure,
    ),
    kind(
        "wake",
        "10 ms periodic wake in the guest, loaded",
        wake::measure,
    ),
    kind(
        "flood",
        "share in (10, 40) ms while packets flood the CPU",
        flood::measure,
    ),
    kind(
        "adapt",
        "change of a running guest's reservation",
        adapt::measure,
    ),
    kind(
        "adapt-among",
        "change of a reservation among so many running guests",
        adapt_among::measure,
    ),
    kind(
        "adapt-net",
        "change of the network shares of two guests",
        adapt_net::measure,
    ),
    kind(
        "guest-net",
        "TCP and UDP of a guest, against the same image under QEMU",
        guest_net::measure,
    ),
    kind("pio", "round trip of a port access", pio::measure),
];

impl Bench {
    /// Sets the stage on a CPU, which has to be a partition.
    fn on_stage(context: &Context, cpu: Option<u32>) -> Result<(Self, Stage), Failure> {
        let cpu = choose_cpu(cpu)?;
        let stage = Stage::set(context, cpu)?;
        if let Promise::Global { why } = &stage.promise {
            return Err(Failure::new(format!(
                "measuring needs CPU {cpu} as a partition: {why}"
            )));
        }
        let bench = Self {
            run_dir: context.run_dir.clone(),
            cpu,
            quick: false,
            scratch: Scratch::new(&stage.folder)?,
            qemu: None,
            supplies: SupplyRuns::default(),
        };
        Ok((bench, stage))
    }
}

/// Measures what scheduling costs on a CPU, the last one that is online if not given, and how fast it is.
pub fn host_figures(
    context: &Context,
    cpu: Option<u32>,
    mut progress: impl FnMut(&str),
) -> Result<HostFigures, Failure> {
    let (bench, stage) = Bench::on_stage(context, cpu)?;
    progress("speed");
    let speed = speed::measure(bench.cpu)?;
    interrupt::check()?;
    progress("what releases cost");
    let ReleaseCosts { latency, exit } = bench.release_costs()?;
    interrupt::check()?;
    progress("what budget switches cost");
    let budget_switch = bench.switch_costs()?;
    interrupt::check()?;
    stage.clear()?;
    Ok(HostFigures {
        date: date::stamp(),
        cpu: bench.cpu,
        cpu_model: host_figures::cpu_model(),
        kernel: host_figures::kernel(),
        kvm: vmm::host::kvm_kind(),
        budget_switch,
        timer_latency: latency,
        exit,
        speed,
        optimised: !cfg!(debug_assertions),
    })
}

/// Measures the rows asked for; `progress` is told what is being measured.
pub fn run(
    context: &Context,
    options: &Options,
    mut progress: impl FnMut(&str),
) -> Result<Results, Failure> {
    let kinds = chosen(&options.only)?;
    let (bench, stage) = Bench::on_stage(context, options.cpu)?;
    let cpu = bench.cpu;
    let mut bench = Bench {
        quick: options.quick,
        qemu: Qemu::find(),
        ..bench
    };
    let mut rows = Vec::new();
    for kind in kinds {
        progress(kind.name);
        rows.push(measure(&mut bench, kind)?);
    }
    stage.clear()?;
    Ok(Results {
        cpu,
        quick: bench.quick,
        peer: bench.qemu.as_ref().map(|qemu| qemu.version().to_owned()),
        rows,
    })
}

/// One row with the noise around it. A row that cannot be measured says why and does not end the others.
fn measure(bench: &mut Bench, kind: &Kind) -> Result<Row, Failure> {
    let length = bench.pick(Duration::from_secs(1), Duration::from_millis(300));
    let before = noise::of_partition(bench.cpu, length);
    let measured = (kind.measure)(bench);
    interrupt::check()?;
    let after = noise::of_partition(bench.cpu, length);
    let mut row = measured.unwrap_or_else(Row::failed);
    row.name = kind.name;
    row.what = kind.what;
    row.noise = before.into_iter().chain(after).collect();
    Ok(row)
}

fn chosen(only: &[String]) -> Result<Vec<&'static Kind>, Failure> {
    for name in only {
        if !KINDS.iter().any(|kind| kind.name == name) {
            let names: Vec<_> = KINDS.iter().map(|kind| kind.name).collect();
            return Err(Failure::new(format!(
                "no benchmark is called `{name}`: choose from {}",
                names.join(", ")
            )));
        }
    }
    let wanted = |kind: &&Kind| only.is_empty() || only.iter().any(|name| name == kind.name);
    Ok(KINDS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_chosen_by_name_and_come_in_the_order_of_the_table() {
        let names = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(|name| (*name).to_owned()).collect();
            chosen(&only).map(|kinds| kinds.iter().map(|kind| kind.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["pio", "start"]).unwrap(), ["start", "pio"]);
        assert_eq!(names(&[]).unwrap().len(), KINDS.len());
        assert!(names(&["speed"]).is_err());
    }
}

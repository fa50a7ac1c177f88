//! Experiment `vtm-overhead`: what scheduling VTMs costs, beside Tables 4 and 5 of Duran-Limon et al. ("Using lightweight
//! virtual machines to achieve resource adaptation in middleware", IET Software).
//!
//! Table 4 is the CPU time of a dispatch over the number of VTMs and jobs, one job of each VTM active at a time. Table 5
//! is how long it takes to give a VTM a share of another, where the paper has Xen 3.1 beside it.

mod adaptation;
mod dispatch;
mod report;

use std::time::Duration;

use super::ExperimentError;
use super::host::HostBefore;
use super::progress::Progress;
use super::stage::{Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use adaptation::{Adapted, CROWDS, Crowd};
use dispatch::{Dispatched, SIZES, Size};

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
/// How long each row dispatches.
const LENGTH: Duration = Duration::from_secs(10);
const QUICK_LENGTH: Duration = Duration::from_secs(2);
/// The jobs of the largest row of a quick run.
const QUICK_PROCESSES: u32 = 400;

/// All of the experiment.
pub struct Results {
    /// The CPU dispatched on.
    pub cpu: u32,
    /// How long each row dispatched.
    pub length: Duration,
    /// Dispatches, by size.
    pub dispatched: Vec<Dispatched>,
    /// Changes, by the number of VTMs.
    pub adapted: Vec<Adapted>,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let (listen, length) = match args.quick {
        true => (QUICK_LISTEN, QUICK_LENGTH),
        false => (LISTEN, LENGTH),
    };
    let sizes = sizes(args.quick);
    let dispatching = sizes.iter().map(|size| size.preparation() + length);
    let whole = dispatching.sum::<Duration>()
        + CROWDS.iter().map(Crowd::duration).sum::<Duration>()
        + listen * 2;
    let mut progress = Progress::new(whole, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    let stage = Stage::without_partition(context, cpu)?;
    let results = measure_all(&stage, (&sizes, length), &mut progress);
    stage.clear()?;
    let results = results?;
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, "dispatch tables: no virtual machine runs here", listen);
    Ok(report::report(&results, args, host))
}

fn sizes(quick: bool) -> Vec<Size> {
    let fits = |size: &Size| !quick || size.processes() <= QUICK_PROCESSES;
    let sizes = SIZES.into_iter().chain(dispatch::largest());
    sizes.filter(fits).collect()
}

fn measure_all(
    stage: &Stage,
    (sizes, length): (&[Size], Duration),
    progress: &mut Progress,
) -> Result<Results, ExperimentError> {
    let adapted = CROWDS
        .into_iter()
        .map(|crowd| adaptation::measure(stage, crowd, progress));
    let adapted = adapted.collect::<Result<_, _>>()?;
    let dispatched = sizes
        .iter()
        .map(|size| dispatch::measure(stage, *size, length, progress));
    Ok(Results {
        cpu: stage.cpu,
        length,
        dispatched: dispatched.collect::<Result<_, _>>()?,
        adapted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds() {
        let rows = sizes(true);
        let dispatching: Duration = rows
            .iter()
            .map(|size| size.preparation() + QUICK_LENGTH)
            .sum();
        let adapting: Duration = CROWDS.iter().map(Crowd::duration).sum();
        assert!(dispatching + adapting + QUICK_LISTEN * 2 < Duration::from_secs(60));
        assert!(rows.iter().any(|size| size.vtms == 200), "the rows differ");
    }
}

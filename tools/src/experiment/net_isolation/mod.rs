//! Experiment `net-isolation`: two VMs share a link, gold and best effort, while one or both send far more than their
//! share: datagrams, many TCP connections, frames under the other's hardware address, broadcast storms.
//!
//! ```text
//! fabric.rs   host (namespace): bridge, two ifbs with a tree each, ports ── VM (namespace or played guest), two of them
//! load.rs     who sends what to whom                        case.rs     links, loads, directions
//! measure.rs  class counters over the middle of each run    sharing.rs  what HTB's rule says they should be
//! change.rs   shares that change under load                 effect.rs   when a change is seen in the counters
//! ```

mod case;
mod change;
mod effect;
mod fabric;
mod figures;
mod guest;
mod load;
mod measure;
mod report;
mod sharing;

use std::time::Duration;

use super::host::HostBefore;
use super::progress::Progress;
use super::stage::choose_cpu;
use super::{ExperimentError, interrupt, namespaces};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use crate::report::stats::Distribution;
use case::{Case, Direction, Lengths, Link};
use change::Changes;
use fabric::Fabric;
use measure::{Outcome, RoundTrips};

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
/// What a case or fabric takes beside its measurement.
const OVERHEAD: Duration = Duration::from_millis(300);

/// All of the experiment.
pub struct Results {
    /// How long things were measured.
    pub lengths: Lengths,
    /// Every case; why one was not measured.
    pub outcomes: Vec<(Case, Result<Outcome, String>)>,
    /// Gold's round trips.
    pub round_trips: Vec<RoundTrips>,
    /// Why there are none of a guest.
    pub no_guest: Option<String>,
    /// Changes under load.
    pub changes: Vec<Changes>,
    /// How long a change of a pair took without load.
    pub calls: Distribution,
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let lengths = Lengths::new(args.quick);
    let listen = if args.quick { QUICK_LISTEN } else { LISTEN };
    interrupt::watch()?;
    let mut progress = Progress::new(whole(&lengths) + listen * 2, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    namespaces::sweep();
    let namespace = namespaces::create("host")?;
    let mut results = namespace.run(|| carry_out(lengths, &mut progress))??;
    drop(namespace);
    progress.step(
        "a guest's round trips",
        (lengths.round_trips + lengths.settle) * 3,
    );
    match guest::round_trips(context, cpu, (&lengths, &progress)) {
        Ok(trips) => results.round_trips.extend(trips),
        Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
        Err(error) => results.no_guest = Some(error.to_string()),
    }
    progress.step("listening to the CPU", listen);
    let host = host.after(
        cpu,
        "HTB trees on two intermediate functional blocks",
        listen,
    );
    Ok(report::report(&results, args, host))
}

/// About how long all of it takes.
fn whole(lengths: &Lengths) -> Duration {
    let cases = Case::all();
    let shares: Duration = cases.iter().map(|case| lengths.of(case) + OVERHEAD).sum();
    let trips = (lengths.round_trips + lengths.settle + OVERHEAD) * 12;
    let changes = (Duration::from_millis(250) * u32::try_from(lengths.changes).unwrap_or(1)
        + lengths.settle)
        * 3;
    shares + trips + changes
}

fn carry_out(lengths: Lengths, progress: &mut Progress) -> Result<Results, ExperimentError> {
    let mut results = Results {
        lengths,
        outcomes: Vec::new(),
        round_trips: Vec::new(),
        no_guest: None,
        changes: Vec::new(),
        calls: Distribution::default(),
    };
    for cases in by_fabric(Case::all()) {
        let (link, is_played) = kind(&cases[0]);
        let mut fabric = Fabric::build(&link, is_played)?;
        let measured = on(&mut fabric, &cases, (&mut results, progress));
        let removed = fabric.remove();
        measured.and(removed)?;
    }
    Ok(results)
}

/// What a case needs of its fabric.
fn kind(case: &Case) -> (Link, bool) {
    (case.link, case.load.is_played())
}

/// Cases of one fabric together.
fn by_fabric(cases: Vec<Case>) -> Vec<Vec<Case>> {
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for case in cases {
        match groups
            .iter_mut()
            .find(|group| kind(&group[0]) == kind(&case))
        {
            Some(group) => group.push(case),
            None => groups.push(vec![case]),
        }
    }
    groups
}

/// All that is measured on one fabric.
fn on(
    fabric: &mut Fabric,
    cases: &[Case],
    (results, progress): (&mut Results, &mut Progress),
) -> Result<(), ExperimentError> {
    let lengths = results.lengths;
    for case in cases {
        interrupt::check()?;
        progress.step(&case.name(), lengths.of(case) + OVERHEAD);
        let outcome = match measure::shares(*case, fabric, (&lengths, progress)) {
            Err(ExperimentError::Interrupted) => return Err(ExperimentError::Interrupted),
            other => other.map_err(|error| error.to_string()),
        };
        results.outcomes.push((*case, outcome));
    }
    let (link, is_played) = kind(&cases[0]);
    if is_played || link.spare > 0 {
        return Ok(());
    }
    for flood in [None, Some(Direction::In), Some(Direction::Out)] {
        interrupt::check()?;
        progress.step("gold's round trips", lengths.round_trips + lengths.settle);
        let trips = measure::round_trips((link, flood), fabric, (&lengths, progress))?;
        results.round_trips.push(trips);
    }
    if link == Link::SMALL {
        results.calls = change::calls(&link, fabric, lengths.calls)?;
    }
    progress.step("changes of shares", lengths.settle);
    let changes = change::under_load(link, fabric, (&lengths, progress))?;
    results.changes.push(changes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_is_in_one_group_and_a_group_needs_one_fabric() {
        let groups = by_fabric(Case::all());
        let count: usize = groups.iter().map(Vec::len).sum();
        assert_eq!(count, Case::all().len());
        for group in &groups {
            assert!(group.iter().all(|case| kind(case) == kind(&group[0])));
        }
    }
}

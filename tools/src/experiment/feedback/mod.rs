//! Experiment `feedback`: a guest whose need steps, in a reservation that follows it, beside one sized for the peak and
//! one sized for the mean.
//!
//! The task takes 10 ms of every 50 ms, and 30 ms in every other turn. The host runs the real-time load of `cbs-kvm`
//! beside it, under SCHED_FIFO. The budget in force is read from the kernel from outside, every 2 ms.

mod figures;
mod prediction;
mod report;
mod sampler;

use std::time::Duration;

use guest_images::taskset::{Builder, nanos};
use rt_abi::taskset::{Policy, Step, Task, TaskSet};
use sched::feedback::Envelope;
use sched::request::BackendKind;

use super::ExperimentError;
use super::guest::Share;
use super::host::HostBefore;
use super::progress::Progress;
use super::scenario::{OVERHEAD, Place, Ran, Scenario, built};
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use crate::report::follow_plot::{Level, Response};
use figures::{Followed, Need, sized_for};
use sampler::Sampler;

const PERIOD: Duration = Duration::from_millis(50);
const NEED: Need = Need {
    period: PERIOD,
    low: Duration::from_millis(10),
    high: Duration::from_millis(30),
    turn: Duration::from_secs(10),
    length: Duration::from_secs(60),
};
/// A first look: still more than a hundred jobs a turn.
const QUICK: Need = Need {
    turn: Duration::from_secs(6),
    length: Duration::from_secs(18),
    ..NEED
};
/// What fixed budgets get beyond what the tasks need, for interrupts and exits of the guest.
const OVERHEADS: f64 = 0.05;
const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);

/// A scenario and what came of it.
struct Measured {
    scenario: Scenario,
    ran: Ran,
    budgets: Vec<Level>,
    responses: Vec<Response>,
    followed: Followed,
}

/// All of the experiment.
struct Results {
    cpu: u32,
    need: Need,
    envelope: Envelope,
    promise: Promise,
    measured: Vec<Measured>,
    predicted: Option<Followed>,
}

/// Between 4 and 80 % of the CPU, beginning with what the first turn needs.
fn envelope() -> Result<Envelope, ExperimentError> {
    let envelope = Envelope::new(PERIOD / 25, PERIOD * 4 / 5, PERIOD)
        .and_then(|envelope| envelope.beginning_with(NEED.low));
    envelope.map_err(|error| ExperimentError::Tasks(error.to_string()))
}

fn task_set(need: &Need) -> Result<TaskSet, ExperimentError> {
    let stepping = |task| Task {
        step: Some(Step {
            c: nanos(need.high),
            every: nanos(need.turn),
        }),
        ..task
    };
    built(Builder::new(Policy::Edf, need.length).periodic_with(
        "t",
        need.low,
        need.period,
        stepping,
    ))
}

fn scenarios(need: &Need, envelope: Envelope) -> Result<Vec<Scenario>, ExperimentError> {
    let mean = (need.low + need.high) / 2;
    let fixed = |need| {
        let reservation = sized_for(need, OVERHEADS, PERIOD)?;
        Ok::<_, ExperimentError>(Share::reserved(BackendKind::Deadline, reservation))
    };
    let shares = [
        ("feedback", "follows the need", Share::following(envelope)?),
        ("peak", "fixed, for the peak", fixed(need.high)?),
        ("mean", "fixed, for the mean", fixed(mean)?),
    ];
    Ok(shares
        .into_iter()
        .map(|(key, title, share)| Scenario {
            key,
            title: title.to_owned(),
            place: Place::Guest(share),
            loaded: true,
            optional: false,
        })
        .collect())
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let (need, listen) = if args.quick {
        (QUICK, QUICK_LISTEN)
    } else {
        (NEED, LISTEN)
    };
    let cpu = choose_cpu(args.cpu)?;
    let envelope = envelope()?;
    let scenarios = scenarios(&need, envelope)?;
    let count = u32::try_from(scenarios.len()).unwrap_or(u32::MAX);
    let mut progress = Progress::new((need.length + OVERHEAD) * count + listen * 2, context.json);
    progress.step("listening to the CPU", listen);
    let host = HostBefore::look(cpu, listen);
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let set = task_set(&need)?;
    let measured: Result<Vec<_>, _> = scenarios
        .into_iter()
        .map(|scenario| measure(&stage, scenario, (&need, &set), &mut progress))
        .collect();
    stage.clear()?;
    let results = Results {
        cpu,
        need,
        envelope,
        promise,
        measured: measured?,
        predicted: prediction::predict(&need, envelope),
    };
    progress.step("listening to the CPU", listen);
    let host = host.after(cpu, &results.promise.to_string(), listen);
    Ok(report::report(&results, args, host))
}

fn measure(
    stage: &Stage,
    scenario: Scenario,
    (need, set): (&Need, &TaskSet),
    progress: &mut Progress,
) -> Result<Measured, ExperimentError> {
    let sampler = Sampler::start()?;
    let ran = scenario.run(stage, set, progress);
    let levels = sampler.finish();
    let ran = ran?;
    let first = ran.rows.iter().map(|row| row.release_ns).min();
    let first = Duration::from_nanos(first.unwrap_or_default());
    let surplus = ran.granted.as_ref().map(|granted| granted.surplus);
    let surplus = surplus.unwrap_or_default();
    // The guest's clock starts with its reservation, to a millisecond or two.
    let budgets: Vec<Level> = levels
        .into_iter()
        .map(|level| Level {
            from: level.from.saturating_sub(first),
            value: level.value.saturating_sub(surplus),
        })
        .collect();
    let mut responses: Vec<Response> = ran
        .rows
        .iter()
        .map(|row| Response {
            at: Duration::from_nanos(row.release_ns).saturating_sub(first),
            time: row.response_ns().map(Duration::from_nanos),
        })
        .collect();
    responses.sort_by_key(|response| response.at);
    let followed = Followed::of(need, &budgets, &responses);
    Ok(Measured {
        scenario,
        ran,
        budgets,
        responses,
        followed,
    })
}

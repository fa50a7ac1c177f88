//! Migrations over a recorded trace: as predicted from its first part, and as replayed over the rest.

use std::fmt::Write;
use std::fs::File;
use std::io::BufReader;
use std::time::Duration;

use super::{MEMORY, SimulateArgs, path_of_rate};
use crate::command::Context;
use crate::failure::Failure;
use migration::model::{Estimator, Outcomes, Prediction, Random, Requirement, Sampling, predict};
use migration::trace::{Reader, Replay, Replayed, Timeline, watch};
use serde::Serialize;

/// Share of migrations that have to keep what is asked.
const CONFIDENCE: f64 = 0.95;

#[derive(Serialize)]
struct Answer {
    pages: u64,
    trace_s: f64,
    /// Whether the trace's end is missing, so that only its whole samples count.
    cut_off: bool,
    writes_per_second: f64,
    predicted: Predicted,
    replayed: Outcome,
    by_address: Outcome,
}

#[derive(Serialize)]
struct Predicted {
    total_s: [f64; 2],
    downtime_ms: [f64; 2],
    mebibytes: [f64; 2],
    rounds: u64,
    refused: Option<String>,
}

#[derive(Serialize)]
struct Outcome {
    total_s: f64,
    downtime_ms: f64,
    mebibytes: f64,
    pages_again: u64,
    rounds: usize,
    refused: Option<String>,
}

/// `dirty simulate`.
pub(super) fn simulate(context: &Context, args: &SimulateArgs) -> Result<u8, Failure> {
    let answer =
        simulated(args).map_err(|failure| failure.while_doing(&args.file.display().to_string()))?;
    let refused = answer.predicted.refused.is_some();
    context.print(&answer, |answer| text(answer, args))?;
    Ok(if refused { crate::failure::REFUSED } else { 0 })
}

fn simulated(args: &SimulateArgs) -> Result<Answer, Failure> {
    let mut random = Random::new(args.seed);
    let reader = Reader::new(BufReader::new(File::open(&args.file)?))?;
    let timeline = Timeline::of_trace(reader, &mut random)?;
    if timeline.is_cut_off() {
        tracing::warn!(
            "{} is cut off; its whole samples, of {:.1} s, are used",
            args.file.display(),
            timeline.length().as_secs_f64()
        );
    }
    let start = timeline.length().mul_f64(f64::from(args.watch) / 100.0);
    let path = path_of_rate(args.rate);
    let mut estimator = Estimator::new(timeline.pages(), MEMORY);
    let mut sampling = Sampling::new(1.0, path.tracked_write);
    watch(
        &timeline,
        (Duration::ZERO, start),
        &mut sampling,
        &mut estimator,
    )?;
    let writes = estimator.writes();
    let requirement = Requirement {
        downtime: args.downtime.duration(),
        finish: args.finish.duration(),
        confidence: CONFIDENCE,
    };
    let predicted = predict(&writes, &path, &requirement, &random)?;
    let replay = Replay {
        timeline: &timeline,
        path: &path,
        requirement,
        start,
    };
    Ok(Answer {
        pages: timeline.pages(),
        trace_s: timeline.length().as_secs_f64(),
        cut_off: timeline.is_cut_off(),
        writes_per_second: writes.rate(),
        predicted: predicted_answer(&predicted),
        replayed: outcome(&replay.run(&writes, &mut random.clone())?),
        by_address: outcome(&replay.run(&writes.by_address(), &mut random)?),
    })
}

fn predicted_answer(predicted: &Prediction) -> Predicted {
    let both = |of: fn(&Prediction, bool) -> f64| [of(predicted, false), of(predicted, true)];
    Predicted {
        total_s: both(|p, high| pick(&p.total, high).as_secs_f64()),
        downtime_ms: both(|p, high| pick(&p.downtime, high).as_secs_f64() * 1e3),
        mebibytes: both(|p, high| mebibytes(pick(&p.bytes, high))),
        rounds: predicted.rounds.median(),
        refused: predicted.converges.as_ref().err().map(ToString::to_string),
    }
}

/// The median, or what 95 % do not exceed.
fn pick<T: Copy + Ord + Default>(outcomes: &Outcomes<T>, high: bool) -> T {
    if high {
        outcomes.p95()
    } else {
        outcomes.median()
    }
}

fn outcome(replayed: &Replayed) -> Outcome {
    Outcome {
        total_s: replayed.total.as_secs_f64(),
        downtime_ms: replayed.downtime.as_secs_f64() * 1e3,
        mebibytes: mebibytes(replayed.bytes),
        pages_again: replayed.again,
        rounds: replayed.rounds.len(),
        refused: replayed.never.as_ref().map(ToString::to_string),
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn text(answer: &Answer, args: &SimulateArgs) -> String {
    let mut text = format!(
        "{} pages, {:.1} s, {:.0} writes/s; at {} with at most {} of downtime:\n",
        answer.pages, answer.trace_s, answer.writes_per_second, args.rate, args.downtime
    );
    let predicted = &answer.predicted;
    let ([total, total95], [downtime, downtime95]) = (predicted.total_s, predicted.downtime_ms);
    let _ = writeln!(
        text,
        "  predicted           total {total:.2} s (95 %: {total95:.2}), downtime {downtime:.1} ms (95 %: {downtime95:.1}), {:.1} MiB, {} rounds",
        predicted.mebibytes[0], predicted.rounds
    );
    for (name, outcome) in [
        ("replayed           ", &answer.replayed),
        ("in address order   ", &answer.by_address),
    ] {
        let _ = writeln!(
            text,
            "  {name} total {:.2} s, downtime {:.1} ms, {:.1} MiB, {} rounds, {} pages sent again",
            outcome.total_s,
            outcome.downtime_ms,
            outcome.mebibytes,
            outcome.rounds,
            outcome.pages_again
        );
    }
    if let Some(why) = &answer.predicted.refused {
        let _ = writeln!(text, "  not to be promised: {why}");
    }
    text
}

//! Has a guest's own process record, and says what that has cost the guest.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;
use vmm::control::{ControlError, Reply, Request, client};
use vmm::guest::{GuestStatus, RecordingRequest, RecordingStatus};

use super::RecordArgs;
use crate::command::Context;
use crate::command::signals::Signals;
use crate::failure::Failure;

/// How long the guest is watched before, to see what it does without a recording.
const BEFORE: Duration = Duration::from_secs(1);
/// How often it is asked whether the recording is over.
const POLL: Duration = Duration::from_millis(200);

#[derive(Serialize)]
struct Answer {
    name: String,
    file: std::path::PathBuf,
    recording: RecordingStatus,
    /// What a fault was taken to cost, in nanoseconds.
    fault_ns: u128,
    /// Share of the guest's time that faults have taken then.
    fault_share: f64,
    tasks: Vec<TaskAnswer>,
}

/// How a task of `rt-guest` did before and meanwhile; nothing where no job ended.
#[derive(Serialize)]
struct TaskAnswer {
    name: String,
    mean_response_before_ns: Option<u64>,
    mean_response_meanwhile_ns: Option<u64>,
    misses_meanwhile: u64,
    /// Pages that it wrote in a second, by its own account; a page that was written twice counts twice.
    writes_per_second: f64,
}

/// `dirty record`.
pub(super) fn record(context: &Context, args: &RecordArgs) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let answer = runtime.block_on(recorded(context, args))?;
    let error = answer.recording.error.clone();
    context.print(&answer, text)?;
    match error {
        None => Ok(0),
        Some(error) => Err(Failure::new(format!("the recording broke off: {error}"))),
    }
}

async fn recorded(context: &Context, args: &RecordArgs) -> Result<Answer, Failure> {
    let ask = |request| client::call(&context.run_dir, &args.name, request);
    // Before anything is asked for: from now on no signal ends this process and leaves the guest to be recorded.
    let mut signals = Signals::catch()?;
    let first = observe(ask(Request::Observe {}).await?)?;
    tokio::select! {
        () = tokio::time::sleep(BEFORE) => {}
        _ = signals.next() => return Err(Failure::new("stopped before the recording began")),
    }
    let before = observe(ask(Request::Observe {}).await?)?;
    let request = RecordingRequest {
        path: std::path::absolute(&args.out)?,
        length: Duration::from_secs(args.seconds),
        window: args.window.duration(),
        tracked_write: args.fault.duration(),
        share: args.cost / 100.0,
    };
    let file = request.path.clone();
    ask(Request::Record(request)).await?;
    let followed = follow(context, args, &mut signals).await;
    if followed.is_err() {
        // Nobody follows it any longer. The first error is the one to tell, and without a guest there is nothing to end.
        let _ = ask(Request::EndRecording {}).await;
    }
    let recording = followed?;
    let after = observe(ask(Request::Observe {}).await?)?;
    let cost = args.fault.duration().as_secs_f64() * recording.faults as f64;
    Ok(Answer {
        name: args.name.clone(),
        file,
        fault_ns: args.fault.duration().as_nanos(),
        fault_share: cost / recording.length.as_secs_f64().max(f64::MIN_POSITIVE),
        tasks: tasks(&first, &before, &after),
        recording,
    })
}

/// Asks how it goes until it is over, which keeps it going. A signal ends it.
async fn follow(
    context: &Context,
    args: &RecordArgs,
    signals: &mut Signals,
) -> Result<RecordingStatus, Failure> {
    let ask = |request| client::call(&context.run_dir, &args.name, request);
    loop {
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            _ = signals.next() => drop(ask(Request::EndRecording {}).await?),
        }
        match ask(Request::Recording {}).await {
            Ok(Reply::Recording(status)) if status.is_over => return Ok(status),
            Ok(Reply::Recording(_)) => {}
            Ok(_) => return Err(other_answer()),
            Err(ControlError::NoGuest { .. }) => {
                let what = format!(
                    "{} ended while it was recorded; {} ends there",
                    args.name,
                    args.out.display()
                );
                return Err(Failure::new(what));
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn observe(reply: Reply) -> Result<GuestStatus, Failure> {
    match reply {
        Reply::Status(status) => Ok(*status),
        _ => Err(other_answer()),
    }
}

fn other_answer() -> Failure {
    Failure::new("the guest gave an answer to another question")
}

fn tasks(first: &GuestStatus, before: &GuestStatus, after: &GuestStatus) -> Vec<TaskAnswer> {
    let of = |status: &GuestStatus, number: u16| {
        let task = status.records.tasks.get(&number);
        task.map_or((0, 0, 0), |task| {
            (task.jobs, task.total_response, task.misses)
        })
    };
    let mean = |from: (u64, u64, u64), to: (u64, u64, u64)| {
        to.1.saturating_sub(from.1)
            .checked_div(to.0.saturating_sub(from.0))
    };
    let seconds = (after.uptime - before.uptime).max(1e-3);
    let answer = |(number, task): (&u16, &vmm::guest::TaskStatistics)| {
        let [first, before, after] = [first, before, after].map(|status| of(status, *number));
        TaskAnswer {
            name: task.name.clone().unwrap_or_else(|| number.to_string()),
            mean_response_before_ns: mean(first, before),
            mean_response_meanwhile_ns: mean(before, after),
            misses_meanwhile: after.2.saturating_sub(before.2),
            writes_per_second: (after.0.saturating_sub(before.0) * u64::from(task.pages_per_job))
                as f64
                / seconds,
        }
    };
    after.records.tasks.iter().map(answer).collect()
}

fn text(answer: &Answer) -> String {
    let RecordingStatus {
        length,
        windows,
        faults,
        pages,
        ..
    } = answer.recording;
    let seconds = length.as_secs_f64();
    let mut text = format!(
        "{}: {seconds:.1} s of the writes to {pages} pages in {}\n",
        answer.name,
        answer.file.display()
    );
    let _ = writeln!(
        text,
        "  {windows} windows, the longest {:.1} ms; {:.0} pages written a second, each counted once per window",
        milliseconds(answer.recording.longest_window),
        faults as f64 / seconds.max(f64::MIN_POSITIVE)
    );
    let _ = writeln!(
        text,
        "  cost to the guest: {faults} faults, {:.2} % of its time at {:.0} us each",
        answer.fault_share * 100.0,
        answer.fault_ns as f64 / 1e3
    );
    let _ = writeln!(
        text,
        "  cost to the host: {:.2} % of a CPU; the log was read and cleared in {:.2} ms on average, {:.2} at most",
        answer.recording.consumed.as_secs_f64() / seconds.max(f64::MIN_POSITIVE) * 100.0,
        milliseconds(answer.recording.looks) / (windows as f64).max(1.0),
        milliseconds(answer.recording.longest_look)
    );
    for task in &answer.tasks {
        let mean = |response: Option<u64>| {
            response.map_or_else(|| "-".to_owned(), |ns| format!("{:.3} ms", ns as f64 / 1e6))
        };
        let _ = writeln!(
            text,
            "  task {}: mean response {} before, {} meanwhile; {} misses; {:.0} writes/s",
            task.name,
            mean(task.mean_response_before_ns),
            mean(task.mean_response_meanwhile_ns),
            task.misses_meanwhile,
            task.writes_per_second
        );
    }
    text
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

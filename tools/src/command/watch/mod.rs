//! `watch`: looks at guests, and adapts them by the rules of a file.

mod rules;
mod vm;
mod vtm;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::time::{Duration, Instant};

use sched::qos::{Action, Activator, Cause, Event, Presence, Watch};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{Context, say};
use crate::failure::Failure;
use rules::Rules;

/// Watches until it is told to end; without rules, prints an example.
pub fn watch(context: &Context, file: Option<&Path>) -> Result<u8, Failure> {
    let Some(file) = file else {
        say(rules::EXAMPLE)?;
        return Ok(0);
    };
    let rules = Rules::read(file)?;
    let mut watch = Watch::new(rules.rules);
    let mut kinds = Kinds {
        vms: vm::Adapter(context),
        vtms: vtm::Adapter(context),
    };
    let names = watch.jobs().map(str::to_owned);
    let (vtms, vms) = names.partition(|name| name.starts_with(vtm::PREFIX));
    let jobs = Jobs { vms, vtms };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut pace = runtime.block_on(async { Pace::new(rules.interval) })?;
    let begun = Instant::now();
    // Acting needs a runtime of its own: between the looks, not within one.
    while let Some(seen) = runtime.block_on(pace.look(&context.run_dir, &jobs)) {
        let at = begun.elapsed();
        for event in watch.step(at, &seen, &mut kinds) {
            show(context, at, &event)?;
        }
    }
    Ok(0)
}

/// The jobs to look at, by kind.
struct Jobs {
    vms: Vec<String>,
    vtms: Vec<String>,
}

/// Who acts on each kind of job. Rules keep to one kind.
struct Kinds<'a> {
    vms: vm::Adapter<'a>,
    vtms: vtm::Adapter<'a>,
}

impl Activator for Kinds<'_> {
    fn activate(&mut self, action: &Action) -> Result<(), String> {
        let is_vtm = |name: &str| name.starts_with(vtm::PREFIX);
        let kind: &mut dyn Activator = match action.changes().any(|c| is_vtm(&c.target.job)) {
            true => &mut self.vtms,
            false => &mut self.vms,
        };
        kind.activate(action)
    }
}

/// Whether an error says that nobody listens at a socket.
fn is_nobody(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused
    )
}

/// When to look, and when to end.
struct Pace {
    ticks: Interval,
    ending: [Signal; 3],
}

impl Pace {
    fn new(every: Duration) -> std::io::Result<Self> {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let [interrupt, terminate, hangup] = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
        ]
        .map(signal);
        Ok(Self {
            ticks,
            ending: [interrupt?, terminate?, hangup?],
        })
    }

    /// What is to be seen at the next tick; nothing at the end.
    async fn look(&mut self, run_dir: &Path, jobs: &Jobs) -> Option<BTreeMap<String, Presence>> {
        let [interrupt, terminate, hangup] = &mut self.ending;
        let ticks = &mut self.ticks;
        let seen = async {
            ticks.tick().await;
            let mut seen = vm::observe(run_dir, &jobs.vms).await;
            seen.append(&mut vtm::observe(run_dir, &jobs.vtms).await);
            seen
        };
        tokio::select! {
            seen = seen => Some(seen),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hangup.recv() => None,
        }
    }
}

/// One line.
fn show(context: &Context, at: Duration, event: &Event) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        /// Seconds since the watch began.
        at: f64,
        #[serde(flatten)]
        event: &'a Event,
    }
    let seconds = at.as_secs_f64();
    if context.json {
        let line = Line { at: seconds, event };
        return say(&serde_json::to_string(&line)?);
    }
    say(&format!("{seconds:>9.3} s  {}", text(event)))
}

fn text(event: &Event) -> String {
    match event {
        Event::Here { job } => format!("{job}: is here"),
        Event::Gone { job } => format!("{job}: is not here"),
        Event::Silent { job, reason } => format!("{job}: does not answer: {reason}"),
        Event::Violation {
            rule,
            job,
            violation,
            rests,
        } => {
            let rests = if *rests {
                "; too soon to act again"
            } else {
                ""
            };
            format!("{job}: {violation} [{rule}]{rests}")
        }
        Event::Held { rule, hold } => format!("  nothing to be done: {hold} [{rule}]"),
        Event::Decision {
            rule,
            action,
            cause,
        } => {
            let cause = match cause {
                Cause::Violation => "",
                Cause::Quiet => "quiet, give back: ",
                Cause::Gone => "gone, give back: ",
            };
            format!("  {cause}{action} [{rule}]")
        }
        Event::Done { .. } => "  done".to_owned(),
        Event::Refused { reason, .. } => format!("  refused: {reason}"),
    }
}

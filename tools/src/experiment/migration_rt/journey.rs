//! One move: the guest on host A, host B ready to receive it, the command, and what all of them left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rt_abi::taskset::TaskSet;
use serde::Deserialize;
use vmm::control::{Reply, Request, client};
use vmm::exit::End;
use vmm::guest::Outcome;
use vmm::telemetry::Event;
use vmm::units::Span;

use super::guest::{NAME, START, spec};
use super::hosts::{Host, Hosts};
use super::load::{Load, Reading};
use crate::experiment::guest::{Share, path, read_events};
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::{ExperimentError, interrupt};

/// What is promised for the pause.
pub const DOWNTIME: Duration = Duration::from_millis(20);
/// What of a pause lies before the guest is saved, and after it is let go on.
const AROUND: Duration = Duration::from_micros(500);
/// What is promised for the whole move. No more bandwidth is taken than this needs.
const FINISH: &str = "5s";
/// The command has given an answer by then.
const PATIENCE: Duration = Duration::from_secs(40);
/// Between two tries to reach a guest that starts.
const GLANCE: Duration = Duration::from_millis(50);
/// A guest may take this much longer than its set says.
const GRACE: Duration = Duration::from_secs(15);

/// What is to be done.
pub struct Journey<'a> {
    /// What the guest runs.
    pub set: &'a TaskSet,
    /// What CPU time it has.
    pub share: Share,
    /// Whether the pause is to take all that was promised for it.
    pub is_stretched: bool,
    /// Whether other things run on both hosts.
    pub is_loaded: bool,
    /// From the first release to the command.
    pub before: Duration,
}

/// Median and bound of something predicted, in seconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Predicted {
    /// As often less as more.
    pub median: f64,
    /// With the confidence asked for no more.
    pub bound: f64,
}

/// What was promised before the first byte.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Promised {
    /// For the whole move.
    pub total_s: Option<Predicted>,
    /// For the pause.
    pub downtime_s: Option<Predicted>,
    /// For the link.
    pub rate_bit_s: Option<f64>,
    /// Budgets of the vCPUs meanwhile.
    #[serde(default)]
    pub budgets: Vec<serde_json::Value>,
}

/// What the processes measured.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Measured {
    /// From the first byte of memory to the destination's word that the guest runs.
    pub total_s: f64,
    /// From the pause to that.
    pub downtime_s: f64,
    /// Bytes of memory.
    pub bytes: u64,
    /// Rounds.
    pub rounds: u64,
}

/// What `migrate --json` says.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Answer {
    /// `moved`, or what happened instead.
    pub outcome: String,
    /// Why.
    pub reason: Option<String>,
    /// What was promised.
    pub promise: Option<Promised>,
    /// What it took.
    pub measured: Option<Measured>,
}

impl Answer {
    /// That the guest runs at the destination, and nothing else.
    fn moved() -> Self {
        Self {
            outcome: "moved".to_owned(),
            ..Self::default()
        }
    }

    /// Whether the guest runs at the destination.
    pub fn is_moved(&self) -> bool {
        self.outcome == "moved"
    }

    /// Why it does not.
    pub fn why(&self) -> String {
        let reason = self.reason.as_deref().unwrap_or("no reason was given");
        format!("{}: {reason}", self.outcome)
    }
}

/// What a move left.
pub struct Left {
    /// The command's answer.
    pub answer: Answer,
    /// What the guest recorded on A, and on B.
    pub events: (Vec<Event>, Vec<Event>),
    /// The processes' last words, of A and of B.
    pub outcomes: (Outcome, Outcome),
    /// Guest time at which the command was given, in nanoseconds.
    pub asked: u64,
    /// Pages whose content was not what the guest had written, by its own account.
    pub wrong: Option<u64>,
    /// What the other VM sent while the guest moved, and before, in bit/s.
    pub neighbour: Option<(f64, f64)>,
    /// What the floods from A and B and the other VM offered, in bit/s.
    pub offered: Vec<f64>,
}

/// The two processes that have the guest, one after the other.
struct Ends {
    source: Part,
    destination: Part,
    records: (PathBuf, PathBuf),
}

impl Journey<'_> {
    /// Has the command say what it thinks of this, without load; the guest does not move on.
    pub fn ask(&self, hosts: &Hosts, progress: &Progress) -> Result<Answer, ExperimentError> {
        let _ends = self.start(hosts)?;
        interrupt::sleep(START + self.before, || progress.tick())?;
        self.migrate(hosts, progress)
    }

    /// Moves it.
    pub fn make(&self, hosts: &Hosts, progress: &Progress) -> Result<Left, ExperimentError> {
        let mut ends = self.start(hosts)?;
        let load = self.is_loaded.then(|| Load::start(hosts)).transpose()?;
        interrupt::sleep(START, || progress.tick())?;
        let first = Reading::take(hosts);
        interrupt::sleep(self.before, || progress.tick())?;
        let asked = uptime(hosts)?;
        let second = Reading::take(hosts);
        let answer = self.migrate(hosts, progress);
        let third = Reading::take(hosts);
        if let Some(answer) = answer.as_ref().ok().filter(|answer| !answer.is_moved()) {
            let why = answer.why();
            return Err(ExperimentError::NotMoved { why });
        }
        let patience = Duration::from_nanos(self.set.duration) + GRACE;
        let (_, left_at_a) = ends.source.end(patience, || progress.tick())?;
        let at_a = outcome(&mut ends.source, &left_at_a)?;
        // The command may come too late to hear the end of a move from a process that ends with it.
        let answer = match answer {
            Err(_) if at_a.end == End::Moved => Answer::moved(),
            other => other?,
        };
        let (_, left_at_b) = ends.destination.end(patience, || progress.tick())?;
        let offered = load.as_ref().map(Load::offered).unwrap_or_default();
        drop(load);
        let neighbour = first.zip(second).zip(third);
        let neighbour = neighbour
            .map(|((first, second), third)| (third.rate_since(&second), second.rate_since(&first)));
        Ok(Left {
            answer,
            events: (read_events(&ends.records.0)?, read_events(&ends.records.1)?),
            outcomes: (at_a, outcome(&mut ends.destination, &left_at_b)?),
            asked,
            wrong: wrong(ends.destination.stderr()),
            neighbour: neighbour.filter(|_| self.is_loaded),
            offered,
        })
    }

    /// Starts both processes; the guest answers.
    fn start(&self, hosts: &Hosts) -> Result<Ends, ExperimentError> {
        interrupt::check()?;
        let folder = &hosts.stage.folder;
        let file = folder.join("guest.toml");
        fs::write(&file, spec(hosts, self.set, &self.share))
            .map_err(ExperimentError::io(format!("write {}", file.display())))?;
        let records = (folder.join("a.records"), folder.join("b.records"));
        let destination = receive(hosts, self.is_stretched, &records.1)?;
        let words = [
            "run",
            &path(&file),
            "--force",
            "--records",
            &path(&records.0),
        ];
        let source = Part::start("the guest on a", folder, hosts.a.command(&words))?;
        let mut ends = Ends {
            source,
            destination,
            records,
        };
        let begun = Instant::now();
        while let Err(error) = uptime(hosts) {
            if let Some(failed) = ends.source.ended() {
                return Err(failed);
            }
            if begun.elapsed() > GRACE {
                return Err(error);
            }
            interrupt::sleep(GLANCE, || {})?;
        }
        Ok(ends)
    }

    fn migrate(&self, hosts: &Hosts, progress: &Progress) -> Result<Answer, ExperimentError> {
        let downtime = format!("{}ms", DOWNTIME.as_millis());
        let (door, certificate) = (hosts.b.door(), hosts.certificate(&hosts.a));
        let words = [
            "migrate",
            NAME,
            &door,
            "--downtime",
            &downtime,
            "--finish",
            FINISH,
            "--certificates",
            &certificate,
        ];
        let command = hosts.a.command(&words);
        let mut part = Part::start("the migration", &hosts.stage.folder, command)?;
        let (_, said) = part.end(PATIENCE, || progress.tick())?;
        // What could not even be tried is told on standard error alone.
        serde_json::from_str(&said).map_err(|_| part.failed())
    }
}

fn receive(hosts: &Hosts, is_stretched: bool, records: &Path) -> Result<Part, ExperimentError> {
    let (door, certificate) = (hosts.b.door(), hosts.certificate(&hosts.b));
    let records = path(records);
    let mut words = vec![
        "receive",
        &door,
        "--once",
        "--force",
        "--certificates",
        &certificate,
        "--records",
        &records,
    ];
    let stretched = Span::from(DOWNTIME - AROUND).to_string();
    if is_stretched {
        words.extend(["--stretch-pause", &stretched]);
    }
    let command = hosts.b.command(&words);
    let mut part = Part::start("the guest on b", &hosts.stage.folder, command)?;
    // It says where it listens.
    part.line("{")?;
    Ok(part)
}

fn outcome(part: &mut Part, said: &str) -> Result<Outcome, ExperimentError> {
    serde_json::from_str(said).map_err(|_| part.failed())
}

/// How long the guest has run, in nanoseconds of its own time.
fn uptime(hosts: &Hosts) -> Result<u64, ExperimentError> {
    let host: &Host = &hosts.a;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExperimentError::io("set up a client"))?;
    let reply = runtime.block_on(client::call(&host.folder, NAME, Request::Observe {}))?;
    let uptime = match reply {
        Reply::Status(status) => Duration::try_from_secs_f64(status.uptime).unwrap_or_default(),
        _ => Duration::ZERO,
    };
    Ok(u64::try_from(uptime.as_nanos()).unwrap_or(u64::MAX))
}

/// The sum of what the guest's tasks say at their end.
fn wrong(said: &Path) -> Option<u64> {
    wrong_pages(&fs::read_to_string(said).ok()?)
}

fn wrong_pages(said: &str) -> Option<u64> {
    let mut found = None;
    let mut words = said.split_whitespace();
    while let Some(word) = words.next() {
        if word == "wrong" {
            let count: u64 = words.next()?.parse().ok()?;
            found = Some(found.unwrap_or(0) + count);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_pages_are_summed_over_the_tasks_and_unknown_where_the_guest_said_nothing() {
        let said =
            "task t1 jobs 20 misses 0 pages 2000 wrong 0\ntask t2 jobs 15 pages 1500 wrong 3\n";
        assert_eq!(wrong_pages(said), Some(3));
        assert_eq!(wrong_pages("rt-guest: ready"), None);
    }

    #[test]
    fn an_answer_is_read_with_and_without_a_promise() {
        let moved = r#"{"name":"g","to":"b","outcome":"moved","promise":{"total_s":{"median":1.0,"bound":1.2},
            "downtime_s":{"median":0.004,"bound":0.012},"bytes":{"median":1,"bound":2},"rate_bit_s":4e8,
            "cpu":{"runtime_s":0.0004,"period_s":0.004},"budgets":[0.04]},
            "measured":{"total_s":1.1,"downtime_s":0.005,"bytes":7,"pages":2,"rounds":3},"rounds":[]}"#;
        let answer: Answer = serde_json::from_str(moved).unwrap();
        assert!(answer.is_moved());
        assert_eq!(answer.measured.unwrap().rounds, 3);
        let refused =
            r#"{"outcome":"refused","reason":"no","nearest":{"rate_bit_s":5e8},"rounds":[]}"#;
        let answer: Answer = serde_json::from_str(refused).unwrap();
        assert_eq!(answer.why(), "refused: no");
    }
}

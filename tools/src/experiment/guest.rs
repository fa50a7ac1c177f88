//! A guest of an experiment: its specification, its run as a process of its own, and what came of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rt_abi::taskset::TaskSet;
use sched::feedback::Envelope;
use sched::request::{BackendKind, Enforcement};
use sched::reservation::Reservation;
use vmm::guest::Outcome;
use vmm::telemetry::Event;
use vmm::units::Span;

use super::part::owner;
use super::process::Part;
use super::progress::Progress;
use super::stage::{Promise, Stage};
use super::{ExperimentError, interrupt};

/// What CPU time a guest is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The mechanism.
    pub backend: BackendKind,
    /// How precisely budgets end.
    pub enforcement: Enforcement,
    /// (Q, P), where the mechanism takes one.
    pub reservation: Option<Reservation>,
    /// Where the budget follows the need; the reservation is then the first one.
    pub envelope: Option<Envelope>,
}

impl Share {
    /// An ordinary process.
    pub const ORDINARY: Self = Self {
        backend: BackendKind::Other,
        enforcement: Enforcement::Exact,
        reservation: None,
        envelope: None,
    };

    /// A reservation by `backend`; back ends without reservations leave it out.
    pub fn reserved(backend: BackendKind, reservation: Reservation) -> Self {
        Self {
            backend,
            enforcement: Enforcement::Exact,
            reservation: backend.needs_reservation().then_some(reservation),
            envelope: None,
        }
    }

    /// A budget that follows the need.
    pub fn following(envelope: Envelope) -> Result<Self, ExperimentError> {
        let first = Reservation::new(envelope.initial(), envelope.period())?;
        Ok(Self {
            envelope: Some(envelope),
            ..Self::reserved(BackendKind::Deadline, first)
        })
    }
}

/// A guest to run.
pub struct GuestPlan<'a> {
    /// What its tasks are.
    pub set: &'a TaskSet,
    /// What CPU time it gets.
    pub share: Share,
    /// Where its vCPUs are; all of them on the stage's CPU if nothing is said.
    pub seats: &'a [Seat],
}

/// The place of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Its CPU; none where reservations rest on a global test.
    pub cpu: Option<u32>,
    /// How much after the instant that all have in common its periods begin; none if each begins when it happens to.
    pub phase: Option<Duration>,
}

/// What a guest left.
pub struct GuestRun {
    /// How it ended, and its account.
    pub outcome: Outcome,
    /// What its tasks recorded.
    pub events: Vec<Event>,
}

/// A guest may take this much longer than its task set says: start, a starved end.
const GRACE: Duration = Duration::from_secs(15);

impl GuestPlan<'_> {
    /// The specification, as a user would write it.
    pub fn spec(&self, stage: &Stage) -> String {
        let text = format!(
            "name = \"experiment-{}\"\n\n[guest]\ncommand_line = \"{}\"\n\n",
            std::process::id(),
            self.set,
        );
        text + &stage.cpu_table(&self.share, self.seats)
    }

    /// Starts the guest; with `json` its outcome is what it prints, what the guest writes otherwise.
    pub fn start(&self, stage: &Stage, json: bool) -> Result<Part, ExperimentError> {
        interrupt::check()?;
        let spec = stage.folder.join("guest.toml");
        fs::write(&spec, self.spec(stage))
            .map_err(ExperimentError::io(format!("write {}", spec.display())))?;
        let mut arguments = stage.arguments("guest");
        if !json {
            arguments.retain(|word| word != "--json");
        }
        arguments.extend([path(&spec), "--records".to_owned(), path(&records(stage))]);
        arguments.extend(owner());
        Part::spawn("the guest", &stage.folder, &arguments)
    }

    /// Runs the guest to its end.
    pub fn run(&self, stage: &Stage, progress: &Progress) -> Result<GuestRun, ExperimentError> {
        let part = self.start(stage, true)?;
        let patience = Duration::from_nanos(self.set.duration) + GRACE;
        let output = part.finish(patience, || progress.tick())?;
        let outcome = serde_json::from_str(&output).map_err(|source| ExperimentError::Answer {
            name: "the guest".to_owned(),
            source,
        })?;
        let events = read_events(&records(stage))?;
        Ok(GuestRun { outcome, events })
    }
}

fn seats(seats: &[Seat]) -> String {
    let aligned = seats.iter().all(|seat| seat.phase.is_some());
    let mut text = format!("aligned = {aligned}\n");
    for seat in seats {
        text += "[[cpu.vcpu]]\n";
        if let Some(cpu) = seat.cpu {
            text += &format!("cpu = {cpu}\n");
        }
        if let Some(phase) = seat.phase.filter(|_| aligned) {
            text += &format!("phase = \"{}\"\n", Span::from(phase));
        }
    }
    text
}

/// Where the records of a stage's computation go.
pub fn records(stage: &Stage) -> PathBuf {
    stage.folder.join("records")
}

impl Stage {
    /// The table of a guest's specification that gives it `share`: on the stage's CPU, or on `seats`.
    pub fn cpu_table(&self, share: &Share, at: &[Seat]) -> String {
        let Share {
            backend,
            enforcement,
            reservation,
            envelope,
        } = *share;
        let enforcement = match enforcement {
            Enforcement::Exact => "exact",
            Enforcement::Tick => "tick",
        };
        let mut text = format!("[cpu]\nbackend = \"{backend}\"\nenforcement = \"{enforcement}\"\n");
        if let Some(reservation) = reservation {
            let (runtime, period) = (Span::from(reservation.runtime()), reservation.period());
            text += &format!(
                "runtime = \"{runtime}\"\nperiod = \"{}\"\n",
                Span::from(period)
            );
        }
        if !at.is_empty() {
            return text + &seats(at);
        }
        // Without a partition SCHED_DEADLINE takes no thread that is bound to one CPU.
        let is_global = matches!(self.promise, Promise::Global { .. });
        if !(is_global && backend == BackendKind::Deadline) {
            text += &format!("cpu = {}\n", self.cpu);
        }
        if let Some(envelope) = envelope {
            let (least, greatest) = (envelope.least(), envelope.greatest());
            text += &format!(
                "[cpu.feedback]\nleast = \"{}\"\ngreatest = \"{}\"\nspan = {}\n",
                Span::from(least),
                Span::from(greatest),
                envelope.span()
            );
        }
        text
    }

    /// The beginning of the arguments of a part of this stage.
    pub fn arguments(&self, part: &str) -> Vec<String> {
        let words = [
            "--json",
            "--run-dir",
            &path(&self.folder),
            "experiment",
            "part",
            part,
        ];
        words.map(str::to_owned).to_vec()
    }
}

/// A path as an argument; ours are made of what the user gave and ASCII.
pub fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Reads records, one JSON object per line.
pub fn read_events(path: &Path) -> Result<Vec<Event>, ExperimentError> {
    let file = File::open(path).map_err(ExperimentError::io(format!("read {}", path.display())))?;
    let mut events = Vec::new();
    for line in BufReader::new(file).lines() {
        let line = line.map_err(ExperimentError::io(format!("read {}", path.display())))?;
        let event = serde_json::from_str(&line).map_err(|source| ExperimentError::Answer {
            name: format!("the records in {}", path.display()),
            source,
        })?;
        events.push(event);
    }
    Ok(events)
}

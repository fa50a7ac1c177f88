//! Real guests, run in reservations and recorded, two at a time; and what that has cost them.

use std::fs::{self, File};
use std::io::BufReader;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use migration::model::Random;
use migration::trace::{Reader, Timeline};
use serde::Serialize;
use tokio::runtime::Runtime;
use vmm::control::{ControlError, Reply, Request, client};
use vmm::guest::{GuestStatus, RecordingRequest, RecordingStatus};

use super::writer::WritingGuest;
use crate::command::dirty::FAULT;
use crate::experiment::guest::path;
use crate::experiment::part::owner;
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};

/// Guests that are recorded at a time.
pub const TOGETHER: usize = 2;
/// A window: short against bursts, and against rounds.
pub const WINDOW: Duration = Duration::from_millis(2);
/// How long a guest is watched before, to see what it takes without a recording.
const BEFORE: Duration = Duration::from_secs(1);
/// From the start of two guests until both write, and their end: what a recording takes beyond its length.
pub const OVERHEAD: Duration = Duration::from_millis(2_500);
const PATIENCE: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_millis(100);

/// A guest and what it wrote.
pub struct Recorded {
    /// Which.
    pub guest: WritingGuest,
    /// When it wrote each page.
    pub timeline: Timeline,
    /// What recording it took.
    pub cost: Cost,
}

/// What recording took.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Time that was recorded, in s.
    pub seconds: f64,
    /// Windows.
    pub windows: u64,
    /// The longest of them, in ms.
    pub longest_window_ms: f64,
    /// Pages seen written, counted anew in each window: each has cost a fault.
    pub faults: u64,
    /// Processor time of the guest in a second without a recording, in s.
    pub busy_before: f64,
    /// Processor time of the guest in a second of the recording, in s.
    pub busy_meanwhile: f64,
    /// Processor time of the recorder in a second, in s.
    pub recorder: f64,
    /// Reading and clearing the log once, on average, in ms.
    pub look_ms: f64,
    /// At most.
    pub longest_look_ms: f64,
    /// Jobs of the guest that ended too late before, and meanwhile.
    pub misses: (u64, u64),
}

impl Cost {
    fn new(status: &RecordingStatus, [first, before, after]: [&GuestStatus; 3]) -> Self {
        let seconds = status.length.as_secs_f64();
        let busy = |from: &GuestStatus, to: &GuestStatus| {
            let used = consumed(to).saturating_sub(consumed(from)).as_secs_f64();
            used / (to.uptime - from.uptime).max(1e-3)
        };
        let missed = |from, to| misses(to) - misses(from);
        Self {
            seconds,
            windows: status.windows,
            longest_window_ms: millis(status.longest_window),
            faults: status.faults,
            busy_before: busy(first, before),
            busy_meanwhile: busy(before, after),
            recorder: status.consumed.as_secs_f64() / seconds.max(1e-3),
            look_ms: millis(status.looks) / status.windows.max(1) as f64,
            longest_look_ms: millis(status.longest_look),
            misses: (missed(first, before), missed(before, after)),
        }
    }

    /// Faults in a second.
    pub fn fault_rate(&self) -> f64 {
        self.faults as f64 / self.seconds.max(1e-3)
    }

    /// Processor time that the recording took from the guest for each fault, in us: the fault itself, and what clearing the log and
    /// interrupting the guest for that costs.
    pub fn per_fault_us(&self) -> f64 {
        (self.busy_meanwhile - self.busy_before) * 1e6 / self.fault_rate().max(1.0)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn consumed(status: &GuestStatus) -> Duration {
    let accounts = status.vcpus.iter().filter_map(|v| v.account.as_ref());
    accounts.map(|account| account.consumed).sum()
}

fn misses(status: &GuestStatus) -> u64 {
    status.records.tasks.values().map(|task| task.misses).sum()
}

fn jobs(status: &GuestStatus) -> u64 {
    status.records.tasks.values().map(|task| task.jobs).sum()
}

/// Who asks guests.
struct Client<'a> {
    runtime: Runtime,
    stage: &'a Stage,
}

impl Client<'_> {
    fn ask(&self, guest: &WritingGuest, request: Request) -> Result<Reply, ControlError> {
        let name = guest.name();
        let call = client::call(&self.stage.folder, &name, request);
        self.runtime.block_on(call)
    }

    fn observe(&self, guest: &WritingGuest) -> Result<GuestStatus, ExperimentError> {
        match self.ask(guest, Request::Status {})? {
            Reply::Status(status) => Ok(*status),
            _ => Err(unusable(guest, "it answered another question")),
        }
    }

    fn all(&self, guests: &[WritingGuest]) -> Result<Vec<GuestStatus>, ExperimentError> {
        guests.iter().map(|guest| self.observe(guest)).collect()
    }

    /// Waits until it has written some pages.
    fn until_it_writes(
        &self,
        guest: &WritingGuest,
        part: &mut Part,
    ) -> Result<(), ExperimentError> {
        let begun = Instant::now();
        loop {
            if let Some(error) = part.ended() {
                return Err(error);
            }
            match self.observe(guest) {
                Ok(status) if jobs(&status) > 2 => return Ok(()),
                Ok(_) | Err(ExperimentError::Call(ControlError::NoGuest { .. })) => {}
                Err(error) => return Err(error),
            }
            if begun.elapsed() > PATIENCE {
                return Err(ExperimentError::Silent {
                    name: guest.key.to_owned(),
                    patience: PATIENCE,
                    stderr: part.stderr().to_owned(),
                });
            }
            interrupt::sleep(GLANCE, || {})?;
        }
    }

    /// Follows a recording to its end.
    fn follow(
        &self,
        guest: &WritingGuest,
        progress: &Progress,
    ) -> Result<RecordingStatus, ExperimentError> {
        loop {
            match self.ask(guest, Request::Recording {})? {
                Reply::Recording(status) if status.is_over => {
                    return match status.error {
                        Some(why) => Err(unusable(guest, why)),
                        None => Ok(status),
                    };
                }
                Reply::Recording(_) => interrupt::sleep(GLANCE, || progress.tick())?,
                _ => return Err(unusable(guest, "it answered another question")),
            }
        }
    }
}

fn unusable(guest: &WritingGuest, why: impl ToString) -> ExperimentError {
    ExperimentError::Trace {
        guest: guest.key.to_owned(),
        why: why.to_string(),
    }
}

fn trace_of(stage: &Stage, guest: &WritingGuest) -> PathBuf {
    stage.folder.join(format!("{}.trace", guest.key))
}

/// Runs guests at the same time and records each for `length`.
pub fn record(
    stage: &Stage,
    guests: &[WritingGuest],
    length: Duration,
    progress: &Progress,
) -> Result<Vec<Recorded>, ExperimentError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ExperimentError::io("set up a client"))?;
    let client = Client { runtime, stage };
    let starts = guests
        .iter()
        .zip(1..)
        .map(|(guest, seed)| start(stage, guest, seed));
    let mut parts = starts.collect::<Result<Vec<Part>, _>>()?;
    for (guest, part) in guests.iter().zip(&mut parts) {
        client.until_it_writes(guest, part)?;
    }
    let first = client.all(guests)?;
    interrupt::sleep(BEFORE, || progress.tick())?;
    let before = client.all(guests)?;
    for guest in guests {
        client.ask(guest, Request::Record(request(stage, guest, length)))?;
    }
    let mut recorded = Vec::new();
    for ((guest, first), before) in guests.iter().zip(&first).zip(&before) {
        let status = client.follow(guest, progress)?;
        let after = client.observe(guest)?;
        recorded.push((*guest, Cost::new(&status, [first, before, &after])));
    }
    drop(parts);
    let read = |(guest, cost)| {
        Ok(Recorded {
            timeline: timeline(stage, &guest)?,
            guest,
            cost,
        })
    };
    recorded.into_iter().map(read).collect()
}

fn request(stage: &Stage, guest: &WritingGuest, length: Duration) -> RecordingRequest {
    RecordingRequest {
        path: trace_of(stage, guest),
        length,
        window: WINDOW,
        tracked_write: FAULT,
        // A true picture is wanted, whatever it costs; that is told.
        share: 1.0,
    }
}

fn start(stage: &Stage, guest: &WritingGuest, seed: u64) -> Result<Part, ExperimentError> {
    interrupt::check()?;
    let spec = stage.folder.join(format!("{}.toml", guest.key));
    fs::write(&spec, guest.spec(stage, seed)?)
        .map_err(ExperimentError::io(format!("write {}", spec.display())))?;
    let mut arguments = stage.arguments("guest");
    let records = stage.folder.join(format!("{}.records", guest.key));
    arguments.extend([path(&spec), "--records".to_owned(), path(&records)]);
    arguments.extend(owner());
    Part::spawn(guest.key, &stage.folder, &arguments)
}

/// What the trace says, with the instants within a window drawn.
fn timeline(stage: &Stage, guest: &WritingGuest) -> Result<Timeline, ExperimentError> {
    let file = trace_of(stage, guest);
    let opened = File::open(&file);
    let opened = opened.map_err(ExperimentError::io(format!("read {}", file.display())))?;
    let reader = Reader::new(BufReader::new(opened)).map_err(|e| unusable(guest, e))?;
    Timeline::of_trace(reader, &mut Random::new(1)).map_err(|e| unusable(guest, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_costs_what_the_guest_used_more_than_before() {
        let cost = Cost {
            seconds: 10.0,
            windows: 5_000,
            longest_window_ms: 2.1,
            faults: 20_000,
            busy_before: 0.05,
            busy_meanwhile: 0.11,
            recorder: 0.1,
            look_ms: 0.1,
            longest_look_ms: 1.0,
            misses: (0, 0),
        };
        assert!((cost.fault_rate() - 2_000.0).abs() < 1e-6);
        assert!((cost.per_fault_us() - 30.0).abs() < 1e-6);
    }
}

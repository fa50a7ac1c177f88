//! One migration: a guest is started, watched, moved and watched on.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::case::{Case, Mover};
use super::error::MigrationError;
use super::own::OwnPair;
use super::qemu::{QemuPair, Setting};
use super::rings::Ring;
use super::silence::Life;
use crate::experiment::{ExperimentError, interrupt};

/// How long a guest may take until it records something: it writes all of its set first.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long it is watched after the move.
const AFTER: Duration = Duration::from_millis(300);
/// The guest's memory is looked at this often.
const GLANCE: Duration = Duration::from_millis(10);
/// Place of the writing task in the set.
const WRITER: u16 = 1;

/// A guest and its two monitors.
pub trait Pair {
    /// The process that it is in at first.
    fn source(&self) -> i32;
    /// The process that it goes to.
    fn destination(&self) -> i32;
    /// What the guest writes at first.
    fn serial(&self) -> &Path;
    /// Moves it; `glance` is called meanwhile.
    fn migrate(
        &mut self,
        patience: Duration,
        glance: &mut dyn FnMut(),
    ) -> Result<End, ExperimentError>;
}

/// What a monitor says came of a migration.
#[derive(Debug)]
pub enum End {
    /// The guest is elsewhere.
    Moved(Told),
    /// It is where it was, because of this.
    Stayed(String),
}

/// What a monitor says about a migration.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Told {
    /// How long it took.
    pub total: Duration,
    /// How long the guest stood still.
    pub downtime: Option<Duration>,
    /// Passes over its memory.
    pub rounds: Option<u64>,
    /// What was said beforehand.
    pub promise: Option<Promise>,
}

/// What was said beforehand: medians.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Promise {
    /// How long it would take, and with 95 % at most.
    pub total: (Duration, Duration),
    /// How long the guest would stand still, and with 95 % at most.
    pub downtime: (Duration, Duration),
}

/// A guest that was moved.
#[derive(Clone, Debug, Serialize)]
pub struct Moved {
    /// What the monitor says.
    pub told: Told,
    /// From the order to the answer, as somebody sees it who waits for it.
    pub waited: Duration,
    /// The guest's longest silence at the switch-over; why it is not known.
    pub silence: Result<Duration, String>,
    /// Its longest silence while it was copied.
    pub silence_before: Option<Duration>,
    /// Bytes that the source's end of the cable carried.
    pub bytes: u64,
    /// Pages that the guest wrote per second before, and while it was copied.
    pub writes: [Option<f64>; 2],
}

/// What came of one migration.
#[derive(Clone, Debug)]
pub enum Ended {
    /// It is elsewhere.
    Moved(Box<Moved>),
    /// It is where it was.
    Stayed(String),
}

/// Moves the guest of a case once; `settle` is how long it runs before.
pub fn migrate(
    (case, mover): (&Case, Mover),
    setting: &Setting,
    settle: Duration,
) -> Result<Ended, ExperimentError> {
    if mover.is_own() {
        let pair = OwnPair::start(setting, case, mover)?;
        measure(pair, case, (setting, settle))
    } else {
        let pair = QemuPair::start(setting, &case.guest, mover)?;
        measure(pair, case, (setting, settle))
    }
}

fn measure(
    mut pair: impl Pair,
    case: &Case,
    (setting, settle): (&Setting, Duration),
) -> Result<Ended, ExperimentError> {
    let mut watch = Watch::begin(&pair)?;
    let first = watch.life.latest();
    watch.on_for(settle)?;
    let (begun, lost, sent) = (watch.life.latest(), watch.life.lost, setting.hosts.sent()?);
    let begin = Instant::now();
    let end = pair.migrate(case.link.patience(), &mut || watch.look())?;
    let waited = begin.elapsed();
    let told = match end {
        End::Moved(told) => told,
        End::Stayed(why) => return Ok(Ended::Stayed(why)),
    };
    // Where the process is still there, this was the last it saw of the guest.
    watch.look();
    let left = watch.life.latest();
    watch.follow_to(&pair)?;
    let bytes = setting.hosts.sent()? - sent;
    let life = &watch.life;
    let silence = match life.lost - lost {
        0 => life
            .silence(left, u64::MAX)
            .ok_or_else(|| "it showed no sign of life afterwards".to_owned()),
        lost => Err(format!(
            "{lost} records were overwritten before they were read"
        )),
    };
    let writes = |from, to| {
        let jobs = life.jobs_per_second(WRITER, from, to)?;
        Some(jobs * f64::from(case.guest.pages_per_job()))
    };
    Ok(Ended::Moved(Box::new(Moved {
        told,
        waited,
        silence,
        silence_before: life.silence(begun, left),
        bytes,
        writes: [writes(first, begun), writes(begun, left)],
    })))
}

/// What is seen of a guest.
struct Watch {
    ring: Ring,
    next: u64,
    life: Life,
}

impl Watch {
    /// From its first sign of life on.
    fn begin(pair: &impl Pair) -> Result<Self, ExperimentError> {
        let ring = found(pair.source(), None, "the guest", pair.serial())?;
        let mut watch = Self {
            next: 0,
            ring,
            life: Life::default(),
        };
        let begin = Instant::now();
        while watch.life.latest() == 0 {
            interrupt::sleep(GLANCE, || {})?;
            watch.look();
            if begin.elapsed() > PATIENCE {
                return Err(lifeless("the guest", pair.serial()));
            }
        }
        Ok(watch)
    }

    /// Reads what is new. A process that has ended has nothing new.
    fn look(&mut self) {
        if let Ok(next) = self.ring.follow(self.next, &mut self.life) {
            self.next = next;
        }
    }

    /// Goes on at the destination, for a while.
    fn follow_to(&mut self, pair: &impl Pair) -> Result<(), ExperimentError> {
        let offset = Some(self.ring.offset());
        self.ring = found(
            pair.destination(),
            offset,
            "the guest that arrived",
            pair.serial(),
        )?;
        self.on_for(AFTER)
    }

    fn on_for(&mut self, span: Duration) -> Result<(), ExperimentError> {
        let begin = Instant::now();
        while begin.elapsed() < span {
            self.look();
            interrupt::sleep(GLANCE, || {})?;
        }
        Ok(())
    }
}

/// The ring of the guest in a process, as soon as there is one.
fn found(
    pid: i32,
    offset: Option<u64>,
    name: &'static str,
    serial: &Path,
) -> Result<Ring, ExperimentError> {
    let begin = Instant::now();
    loop {
        let unreadable = |source: io::Error| MigrationError::Memory { pid, source };
        if let Some(ring) = Ring::find(pid, offset).map_err(unreadable)? {
            return Ok(ring);
        }
        if begin.elapsed() > PATIENCE {
            return Err(lifeless(name, serial));
        }
        interrupt::sleep(GLANCE, || {})?;
    }
}

fn lifeless(name: &'static str, serial: &Path) -> ExperimentError {
    let error = MigrationError::Lifeless {
        name,
        patience: PATIENCE,
        serial: serial.to_owned(),
    };
    error.into()
}

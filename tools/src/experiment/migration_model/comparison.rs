//! Migrations of a recorded guest: as predicted from what was seen of it before, and as replayed over what it did then.

use std::time::Duration;

use migration::model::{
    Estimator, Path, Prediction, Random, Requirement, Sampling, Skewed, Writes, predict,
};
use migration::trace::{Replay, ReplayError, Replayed, watch};
use serde::Serialize;
use vmm::units::BitRate;

use super::recording::Recorded;
use crate::command::dirty::{FAULT, MEMORY, path_of_rate};
use crate::experiment::ExperimentError;

/// Rates of the link.
pub const RATES: [BitRate; 3] = [
    BitRate::new(200_000_000),
    BitRate::new(1_000_000_000),
    BitRate::new(4_000_000_000),
];
/// Share of the guest's time that watching it before a migration may cost.
pub const WATCHING: f64 = 0.02;
/// Replays of one migration that differ in the path's luck alone.
const LUCKS: u64 = 40;
/// As long as it takes here; that of `dirty simulate` is for slower hosts, and twice as long in one of 20 cases.
const SWITCH_OVER: Skewed = Skewed {
    median: Duration::from_micros(1_100),
    p95: Duration::from_micros(1_500),
};
/// Nothing is refused: what comes out is to be seen.
const GENEROUS: Requirement = Requirement {
    downtime: Duration::from_secs(5),
    finish: Duration::from_secs(60),
    confidence: 0.95,
};

/// What pages travel on.
pub fn path(rate: BitRate) -> Path {
    Path {
        switch_over: SWITCH_OVER,
        ..path_of_rate(rate)
    }
}

/// When guests are watched and moved within a recording.
#[derive(Clone, Copy, Debug)]
pub struct Course {
    /// How long a guest is watched before it is moved.
    pub watched: Duration,
    /// How many migrations there are.
    pub migrations: u32,
    /// From the beginning of one to that of the next.
    pub apart: Duration,
    /// What the last one has of the recording.
    pub last: Duration,
}

impl Course {
    /// When migrations begin.
    pub fn starts(&self) -> impl Iterator<Item = Duration> {
        let Self { watched, apart, .. } = *self;
        (0..self.migrations).map(move |migration| watched + apart * migration)
    }

    /// Length of the recording.
    pub fn length(&self) -> Duration {
        self.watched + self.apart * (self.migrations - 1) + self.last
    }
}

/// A figure as predicted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Foretold {
    /// Half are less.
    pub median: f64,
    /// 95 % are no more.
    pub bound: f64,
}

/// What came of a migration, or was predicted: in s, ms and MiB.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figures<T> {
    /// From the first byte until the guest runs at the destination.
    pub total_s: T,
    /// How long it stands still.
    pub downtime_ms: T,
    /// What is sent.
    pub mebibytes: T,
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Migration {
    /// Place of its rate in [`RATES`].
    pub rate: usize,
    /// What was predicted.
    pub foretold: Figures<Foretold>,
    /// What came of it, with as many lucks; none if the recording is too short.
    pub outcomes: Vec<Figures<f64>>,
    /// Rounds before the pause.
    pub rounds: usize,
    /// Pages sent more than once, by the order of the model.
    pub again: u64,
    /// The same in the order of addresses.
    pub again_by_address: u64,
}

/// What is known of a guest by watching it before each migration.
pub fn watched(recorded: &Recorded, course: &Course) -> Result<Vec<Writes>, ExperimentError> {
    let known = |start: Duration| {
        let timeline = &recorded.timeline;
        let mut estimator = Estimator::new(timeline.pages(), MEMORY);
        let mut sampling = Sampling::new(WATCHING, FAULT);
        let window = (start.saturating_sub(course.watched), start);
        watch(timeline, window, &mut sampling, &mut estimator).map_err(|e| failed(recorded, e))?;
        Ok(estimator.writes())
    };
    course.starts().map(known).collect()
}

/// An error of a guest's trace.
pub fn failed(recorded: &Recorded, why: impl ToString) -> ExperimentError {
    ExperimentError::Trace {
        guest: recorded.guest.key.to_owned(),
        why: why.to_string(),
    }
}

/// All migrations of a guest of which `known` is known before each.
pub fn migrations(
    recorded: &Recorded,
    course: &Course,
    known: &[Writes],
) -> Result<Vec<Migration>, ExperimentError> {
    let mut all = Vec::new();
    for rate in 0..RATES.len() {
        for (start, writes) in course.starts().zip(known) {
            all.push(migration(recorded, (rate, start), writes)?);
        }
    }
    Ok(all)
}

fn migration(
    recorded: &Recorded,
    (rate, start): (usize, Duration),
    writes: &Writes,
) -> Result<Migration, ExperimentError> {
    let path = path(RATES[rate]);
    // Lucks of their own for every guest, instant and rate.
    let name = recorded.guest.key.bytes();
    let name = name.fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
    let seed = Random::new(name ^ RATES[rate].bits_per_second()).bits() ^ start.as_secs();
    let prediction = predict(writes, &path, &GENEROUS, &Random::new(seed));
    let prediction = prediction.map_err(|e| failed(recorded, e))?;
    let replays = Replays {
        recorded,
        path: &path,
        requirement: GENEROUS,
    };
    let mut replayed = Vec::new();
    for luck in 0..LUCKS {
        replayed.extend(replays.run(writes, start, seed ^ (luck << 32))?);
    }
    let by_address = replays.run(&writes.by_address(), start, seed)?;
    let first = replayed.first();
    Ok(Migration {
        rate,
        foretold: foretold(&prediction),
        rounds: first.map_or(0, |replayed| replayed.rounds.len()),
        again: first.map_or(0, |replayed| replayed.again),
        again_by_address: by_address.map_or(0, |replayed| replayed.again),
        outcomes: replayed.iter().map(outcome).collect(),
    })
}

/// Replays over one recording on one path.
pub struct Replays<'a> {
    /// What is replayed over.
    pub recorded: &'a Recorded,
    /// What pages travel on.
    pub path: &'a Path,
    /// What is asked.
    pub requirement: Requirement,
}

impl Replays<'_> {
    /// A migration that begins at `start`; nothing if the recording ends before it.
    pub fn run(
        &self,
        writes: &Writes,
        start: Duration,
        seed: u64,
    ) -> Result<Option<Replayed>, ExperimentError> {
        let replay = Replay {
            timeline: &self.recorded.timeline,
            path: self.path,
            requirement: self.requirement,
            start,
        };
        match replay.run(writes, &mut Random::new(seed)) {
            Ok(replayed) => Ok(Some(replayed)),
            Err(ReplayError::TooShort { .. }) => Ok(None),
            Err(error) => Err(failed(self.recorded, error)),
        }
    }
}

fn foretold(prediction: &Prediction) -> Figures<Foretold> {
    let Prediction {
        total,
        downtime,
        bytes,
        ..
    } = prediction;
    let of = |median, bound| Foretold { median, bound };
    Figures {
        total_s: of(total.median().as_secs_f64(), total.p95().as_secs_f64()),
        downtime_ms: of(millis(downtime.median()), millis(downtime.p95())),
        mebibytes: of(mebibytes(bytes.median()), mebibytes(bytes.p95())),
    }
}

fn outcome(replayed: &Replayed) -> Figures<f64> {
    Figures {
        total_s: replayed.total.as_secs_f64(),
        downtime_ms: millis(replayed.downtime),
        mebibytes: mebibytes(replayed.bytes),
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_begin_after_the_guest_was_watched_and_end_within_the_recording() {
        let second = Duration::from_secs(1);
        let course = Course {
            watched: second * 10,
            migrations: 5,
            apart: second * 3,
            last: second * 6,
        };
        let starts: Vec<_> = course.starts().collect();
        assert_eq!((starts[0], starts[4]), (second * 10, second * 22));
        assert_eq!(course.length(), second * 28);
    }
}

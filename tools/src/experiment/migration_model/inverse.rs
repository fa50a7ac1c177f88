//! The least rate that a promise needs, and whether it is kept at that rate, and at less.

use std::time::Duration;

use migration::model::{
    CpuCost, Impossible, Limits, Need, Path, Random, Requirement, Writes, least,
};
use serde::Serialize;
use vmm::units::BitRate;

use super::comparison::{Course, Replays, failed, path};
use super::recording::Recorded;
use crate::experiment::ExperimentError;

/// What is promised.
pub const PROMISE: Requirement = Requirement {
    downtime: Duration::from_millis(10),
    finish: Duration::from_secs(4),
    confidence: 0.95,
};
/// What can be had.
const LIMITS: Limits = Limits {
    rate: BitRate::new(10_000_000_000),
    source: 1.0,
    destination: 1.0,
};
/// The rate beside it, in per cent of it.
pub const LESS: u64 = 80;
/// Replays that differ in the path's luck alone.
const LUCKS: u64 = 40;

/// The least rate of a guest, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Kept {
    /// The rate, in bit/s; none if no rate that can be had is enough.
    pub rate: Option<u64>,
    /// Why not.
    pub impossible: Option<String>,
    /// Migrations that were replayed at the rate.
    pub replays: usize,
    /// Share of them that kept both limits.
    pub kept: f64,
    /// The same at less than the rate.
    pub kept_at_less: f64,
}

/// Finds the least rate from what is known before the first migration, and replays all of them at it.
pub fn inverse(
    recorded: &Recorded,
    course: &Course,
    known: &[Writes],
) -> Result<Kept, ExperimentError> {
    let mut kept = Kept {
        rate: None,
        impossible: None,
        replays: 0,
        kept: 0.0,
        kept_at_less: 0.0,
    };
    let Some(first) = known.first() else {
        return Ok(kept);
    };
    let any = path(LIMITS.rate);
    let need = match least(first, &any, &PROMISE, &LIMITS, &Random::new(7)) {
        Ok(need) => need,
        Err(Impossible::NotKept { why, .. }) => {
            kept.impossible = Some(why.to_string());
            return Ok(kept);
        }
        Err(error) => return Err(failed(recorded, error)),
    };
    let at = |percent| replayed(recorded, (course, known), &path_of(&need, percent));
    let (enough, less) = (at(100)?, at(LESS)?);
    kept.rate = Some(need.rate.bits_per_second());
    kept.replays = enough.len();
    (kept.kept, kept.kept_at_less) = (share(&enough), share(&less));
    Ok(kept)
}

fn share(kept: &[bool]) -> f64 {
    kept.iter().filter(|kept| **kept).count() as f64 / kept.len().max(1) as f64
}

/// What was found to be needed, at some per cent of the rate.
fn path_of(need: &Need, percent: u64) -> Path {
    let path = path(BitRate::new(need.rate.bits_per_second() * percent / 100));
    let cpu = |cpu: CpuCost, share| CpuCost { share, ..cpu };
    Path {
        source: cpu(path.source, need.source),
        destination: cpu(path.destination, need.destination),
        ..path
    }
}

/// Whether each migration keeps the promise; one that the recording is too short for does not.
fn replayed(
    recorded: &Recorded,
    (course, known): (&Course, &[Writes]),
    path: &Path,
) -> Result<Vec<bool>, ExperimentError> {
    let replays = Replays {
        recorded,
        path,
        requirement: PROMISE,
    };
    let mut kept = Vec::new();
    for (start, writes) in course.starts().zip(known) {
        for luck in 0..LUCKS {
            let replayed = replays.run(writes, start, luck + 1)?;
            let keeps = replayed.is_some_and(|replayed| {
                replayed.downtime <= PROMISE.downtime && replayed.total <= PROMISE.finish
            });
            kept.push(keeps);
        }
    }
    Ok(kept)
}

//! The inverse problem: from downtime, finish time and confidence to the least bandwidth and CPU shares.
//!
//! More bandwidth never makes a migration longer, so that the least rate is found by bisection; CPU shares follow from it: as many pages per
//! second as the link carries.

use units::BitRate;

use super::convergence::WhyNot;
use super::distribution::{Random, duration, whole};
use super::path::{CpuCost, Path, PathError, Requirement};
use super::prediction::{Prediction, predict};
use super::writes::Writes;
use crate::ram::PAGE_SIZE;

/// What can be had at most.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Largest rate that can be reserved.
    pub rate: BitRate,
    /// Largest share of a CPU at the source.
    pub source: f64,
    /// Largest share of a CPU at the destination.
    pub destination: f64,
}

/// The least that keeps what is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Need {
    /// Rate to reserve.
    pub rate: BitRate,
    /// Share of a CPU at the source.
    pub source: f64,
    /// Share of a CPU at the destination.
    pub destination: f64,
    /// What the migration takes then.
    pub prediction: Prediction,
}

/// Not even all that can be had keeps what is asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Impossible {
    /// The path's parameters make no sense.
    #[error(transparent)]
    Path(#[from] PathError),
    /// It cannot be kept.
    #[error("{why}; possible with {} is a downtime of {:?} and an end after {:?}", .limits.rate, .nearest.downtime, .nearest.finish)]
    NotKept {
        /// Why not, with all that can be had.
        why: WhyNot,
        /// What can be had.
        limits: Limits,
        /// What can be kept with it.
        nearest: Requirement,
    },
}

/// The rate is found to one part in so many.
const PRECISION: f64 = 100.0;

/// The least rate and CPU shares with which a migration keeps what is asked. `path` says everything but these.
///
/// # Errors
/// When not even `limits` are enough: why, and what they would be enough for.
pub fn least(
    writes: &Writes,
    path: &Path,
    requirement: &Requirement,
    limits: &Limits,
    random: &Random,
) -> Result<Need, Impossible> {
    let attempt = |bits: f64| -> Result<(Path, Prediction), PathError> {
        let path = with_rate(path, bits, limits);
        let prediction = predict(writes, &path, requirement, random)?;
        Ok((path, prediction))
    };
    let most = limits.rate.bits_per_second() as f64;
    let (mut best, mut prediction) = attempt(most)?;
    if let Err(why) = prediction.converges.clone() {
        return Err(Impossible::NotKept {
            why,
            limits: *limits,
            nearest: nearest(writes, &best, requirement, random)?,
        });
    }
    let mut low = least_thinkable(writes, path, requirement).min(most);
    let mut high = most;
    while high - low > high / PRECISION && high - low > 1000.0 {
        // Halfway in ratio: rates differ by orders of magnitude.
        let middle = (low.max(1.0) * high).sqrt();
        let (path, found) = attempt(middle)?;
        if found.converges.is_ok() {
            (high, best, prediction) = (middle, path, found);
        } else {
            low = middle;
        }
    }
    Ok(Need {
        rate: best.rate,
        source: best.source.share,
        destination: best.destination.share,
        prediction,
    })
}

/// Bits per second below which not even the pages' overhead gets through in time.
fn least_thinkable(writes: &Writes, path: &Path, requirement: &Requirement) -> f64 {
    let zero = path.zero_pages.min(writes.pages());
    let full = (writes.pages() - zero) as f64 * PAGE_SIZE as f64 * path.compression;
    let overhead = writes.pages() as f64 * path.page_overhead.bytes() as f64;
    let seconds = requirement.finish.as_secs_f64().max(1e-3);
    // A path may turn out faster than reserved.
    (full + overhead) * 8.0 / seconds * 0.25
}

/// The path with this rate and the CPU shares that keep up with it, as far as they can be had.
fn with_rate(path: &Path, bits: f64, limits: &Limits) -> Path {
    let bits = bits.ceil();
    let smallest = PAGE_SIZE as f64 * path.compression.min(path.compression_again);
    let pages = bits / 8.0 / (smallest + path.page_overhead.bytes() as f64);
    let share = |cpu: &CpuCost, most: f64| CpuCost {
        share: (cpu.of_page() * pages).clamp(f64::MIN_POSITIVE, most),
        ..*cpu
    };
    Path {
        rate: BitRate::new(whole(bits)),
        source: share(&path.source, limits.source),
        destination: share(&path.destination, limits.destination),
        ..path.clone()
    }
}

/// What such a path is enough for: the shortest downtime that its rounds come to, and the time that takes.
fn nearest(
    writes: &Writes,
    path: &Path,
    requirement: &Requirement,
    random: &Random,
) -> Result<Requirement, PathError> {
    let patient = Requirement {
        finish: std::time::Duration::MAX,
        ..*requirement
    };
    let found = predict(writes, path, &patient, random)?;
    // Both limits are to be kept together.
    let each = (1.0 + requirement.confidence) / 2.0;
    let with_margin = |time: std::time::Duration| duration(time.as_secs_f64() * 1.02);
    Ok(Requirement {
        downtime: requirement
            .downtime
            .max(with_margin(found.downtime.quantile(each))),
        finish: requirement
            .finish
            .max(with_margin(found.total.quantile(each))),
        confidence: requirement.confidence,
    })
}

//! How a running guest writes its memory, and what is in it, seen in a short time at a bounded cost.
//!
//! The log is looked at and cleared at the ends of windows of several lengths: short ones tell pages apart that are written often, long ones those that
//! are written seldom. A window costs the guest a fault for each page written in it, and all windows together no more than their share of the time.

use std::time::{Duration, Instant};

use migration::model::{Estimator, EstimatorError, Writes};
use migration::page::{Encoder, EncoderSettings};
use migration::ram::{DirtyLog, GuestRam, PAGE_SIZE, PageNumber, RamError};

use super::super::promise::TRACKED_WRITE;

/// Lengths of windows, in the order in which they are tried: one for each kind that the estimator tells apart.
const WINDOWS: [Duration; 4] = [
    Duration::from_millis(2),
    Duration::from_millis(16),
    Duration::from_millis(100),
    Duration::from_millis(300),
];
/// What a window is expected to cost, in terms of what those before did: guests write in bursts.
const EXPECTED: f64 = 1.5;
/// Windows count alike: all are new.
const MEMORY: Duration = Duration::from_secs(30);
/// Pages read at once.
const BLOCK: usize = 64;
/// Most blocks that are read to find what memory is made of: 1 GiB.
const MOST_BLOCKS: u64 = 4096;
/// Pages that are compressed to find how well that goes.
const COMPRESSED: usize = 512;

/// How a guest is watched.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Watch {
    /// For how long, about.
    pub limit: Duration,
    /// Share of that time which faults may take.
    pub share: f64,
    /// Whether to find out how well its pages compress.
    pub compress: bool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            limit: Duration::from_millis(300),
            share: 0.05,
            compress: false,
        }
    }
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Observed {
    /// How it writes, as far as could be seen.
    pub writes: Writes,
    /// Pages of zeroes.
    pub zero_pages: u64,
    /// Bytes that compression leaves of a byte; 1 where it was not asked for.
    pub ratio: f64,
    /// Faults that watching has cost the guest.
    pub faults: u64,
    /// Time for which it was tracked.
    pub tracked: Duration,
}

/// Why a guest cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// Its log or memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Samples that do not fit.
    #[error(transparent)]
    Sample(#[from] EstimatorError),
    /// The compressor.
    #[error(transparent)]
    Page(#[from] migration::page::PageError),
}

impl Observed {
    /// Watches a guest. Nothing is tracked afterwards.
    ///
    /// # Errors
    /// When it cannot be tracked, or has ended.
    pub fn watch(
        ram: &dyn GuestRam,
        log: &mut impl DirtyLog,
        watch: &Watch,
    ) -> Result<Self, WatchError> {
        let (zero_pages, ratio) = content(ram, watch.compress)?;
        let mut estimator = Estimator::new(ram.pages(), MEMORY);
        log.start()?;
        let seen = windows(log, &mut estimator, watch);
        // In any case; the first error is the one to tell.
        let stopped = log.stop();
        let (faults, tracked) = seen?;
        stopped?;
        Ok(Self {
            writes: estimator.writes(),
            zero_pages,
            ratio,
            faults,
            tracked,
        })
    }

    /// Share of the guest's time that watching it took while it lasted.
    #[must_use]
    pub fn cost(&self) -> f64 {
        let faults = TRACKED_WRITE.as_secs_f64() * self.faults as f64;
        faults / self.tracked.as_secs_f64().max(1e-9)
    }
}

/// Which windows: decides only.
#[derive(Debug)]
struct Windows {
    left: Duration,
    /// Faults that may still come.
    budget: f64,
    next: usize,
    /// Written pages and seconds so far.
    seen: (f64, f64),
    /// Length and written pages of each window.
    most: Vec<(Duration, f64)>,
}

impl Windows {
    fn new(watch: &Watch) -> Self {
        Self {
            left: watch.limit,
            budget: watch.share * watch.limit.as_secs_f64() / TRACKED_WRITE.as_secs_f64(),
            next: 0,
            seen: (0.0, 0.0),
            most: Vec::new(),
        }
    }

    /// The next window, if there is time and budget for one. The first comes in any case: nothing is known before.
    fn next(&mut self) -> Option<Duration> {
        let first = self.seen.1 <= 0.0;
        let rate = self.seen.0 / self.seen.1.max(1e-9);
        let affordable = |window: &Duration| {
            // A guest that writes few pages over and over has written all of them in a short window already.
            let shorter = self.most.iter().filter(|(length, _)| length <= window);
            let most = shorter.map(|(_, most)| *most).fold(0.0, f64::max);
            first || most.max(rate * window.as_secs_f64()) * EXPECTED <= self.budget
        };
        let wanted = &WINDOWS[..=self.next];
        // What is left is a window, too, unless it is shorter than the shortest one.
        let fits = wanted.iter().rev().find(|window| affordable(window))?;
        let window = (*fits).min(self.left);
        if window < WINDOWS[0] {
            return None;
        }
        self.next = (self.next + 1) % WINDOWS.len();
        Some(window)
    }

    fn had(&mut self, length: Duration, written: u64) {
        self.budget -= written as f64;
        self.most.push((length, written as f64));
        self.seen.0 += written as f64;
        self.seen.1 += length.as_secs_f64();
        self.left = self.left.saturating_sub(length);
    }
}

fn windows(
    log: &mut impl DirtyLog,
    estimator: &mut Estimator,
    watch: &Watch,
) -> Result<(u64, Duration), WatchError> {
    let begun = Instant::now();
    let mut windows = Windows::new(watch);
    let (mut last, mut faults) = (Duration::ZERO, 0);
    while let Some(window) = windows.next() {
        let due = last + window;
        while begun.elapsed() < due {
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let at = begun.elapsed();
        let dirty = log.look()?;
        log.clear(&dirty)?;
        let seen = estimator.sample(&dirty, at, at - last)?;
        windows.had(at - last, seen.dirty);
        faults += seen.dirty;
        last = at;
    }
    Ok((faults, last))
}

/// How many pages are of zeroes, and how well the others compress. Of much memory, evenly spread parts are read.
fn content(ram: &dyn GuestRam, compress: bool) -> Result<(u64, f64), WatchError> {
    let pages = ram.pages();
    let blocks = pages.div_ceil(BLOCK as u64);
    let step = blocks.div_ceil(MOST_BLOCKS).max(1);
    let settings = EncoderSettings {
        compress,
        ..EncoderSettings::PLAIN
    };
    let mut encoder = Encoder::new(&settings, 1)?;
    let (mut read, mut zero) = (0u64, 0u64);
    let (mut tried, mut left) = (0usize, 0usize);
    let (mut buffer, mut encoded) = (vec![0; BLOCK * PAGE_SIZE], Vec::new());
    for block in (0..blocks).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
        let first = block * BLOCK as u64;
        let count = (pages - first).min(BLOCK as u64);
        let bytes = usize::try_from(count).unwrap_or(BLOCK) * PAGE_SIZE;
        let block = &mut buffer[..bytes];
        ram.read(PageNumber(first), block)?;
        read += count;
        let zeros = block.chunks(PAGE_SIZE).filter(|page| **page == ZERO);
        zero += zeros.count() as u64;
        if compress && tried < COMPRESSED * PAGE_SIZE {
            let (of, to) = compressed((&mut encoder, &mut encoded), PageNumber(first), block);
            tried += of;
            left += to;
        }
    }
    let zero_pages = u128::from(zero) * u128::from(pages) / u128::from(read.max(1));
    let ratio = match tried {
        0 => 1.0,
        tried => (left as f64 / tried as f64).clamp(0.01, 1.0),
    };
    Ok((u64::try_from(zero_pages).unwrap_or(pages), ratio))
}

const ZERO: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// Bytes of a block that are not of zeroes, and what is left of them.
fn compressed(
    (encoder, encoded): (&mut Encoder, &mut Vec<u8>),
    first: PageNumber,
    mut block: &[u8],
) -> (usize, usize) {
    let (mut of, mut to, mut at) = (0, 0, first);
    while !block.is_empty() {
        encoded.clear();
        let run = encoder.encode(at, block, encoded);
        let bytes = run.count as usize * PAGE_SIZE;
        if !matches!(run.encoding, migration::wire::Encoding::Zero) {
            of += bytes;
            to += encoded.len();
        }
        at = PageNumber(at.0 + u64::from(run.count));
        block = &block[bytes..];
    }
    (of, to)
}

#[cfg(test)]
mod tests;

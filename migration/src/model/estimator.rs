//! From dirty bitmaps sampled at known times to the rates at which pages are written.
//!
//! Per page 16 bytes: how often it was seen dirty in windows of four kinds of length, a short window telling hot pages apart and a long one
//! cold pages. Old windows count less; instead of aging all pages, newer windows are added with a greater weight (forward decay: Cormode,
//! Shkapenyuk, Srivastava and Xu, ICDE 2009), so that a sample's work is proportional to the pages that it shows dirty. Pages that were never
//! dirty have no record: memory is kept by 512 pages once one of them was written.

use std::collections::BTreeMap;
use std::time::Duration;

use super::class::{CLASSES, Class};
use super::mixture::{LENGTHS, Pattern, Posterior, Windows, fit, kinds};
use super::regime::{Look, Regime};
use super::writes::{Group, Portion, Writes};
use crate::ram::{PageNumber, PageSet};

/// Pages that share a piece of memory.
const CHUNK: usize = 512;
/// Windows shorter than these are of the first, second, third kind of length.
const BOUNDS: [Duration; LENGTHS - 1] = [
    Duration::from_millis(4),
    Duration::from_millis(32),
    Duration::from_millis(256),
];
/// Weight at which all are scaled down, well within the precision of `f32`.
const HEAVIEST: f64 = 1e6;
/// How much less counts what was seen before a change of phase.
const CHANGE: f64 = 64.0;
/// More patterns than these are put together more coarsely.
const MOST_PATTERNS: usize = 1024;

/// Fewer pages than these of one rate in a class are not worth a computation.
const NEGLIGIBLE: f64 = 0.02;

/// How often a page was seen dirty, weighted, by the kind of the window's length.
type Record = [f32; LENGTHS];
/// Windows in which a page was seen, coarsely, by the kind of their length.
type Key = [u8; LENGTHS];

/// A sample that does not fit the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EstimatorError {
    /// Another guest's.
    #[error("a sample of {sample} pages is of another guest: this one has {pages} pages")]
    OtherGuest {
        /// Pages in the sample.
        sample: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// Nothing can be dirty in no time.
    #[error("the window that ends at {at:?} has no length; sample later")]
    NoWindow {
        /// When it ended.
        at: Duration,
    },
    /// Samples overlap.
    #[error(
        "the window of {window:?} that ends at {at:?} begins before the last one's end at {last:?}; samples have to come in order"
    )]
    OutOfOrder {
        /// When the window ended.
        at: Duration,
        /// Its length.
        window: Duration,
        /// End of the last one.
        last: Duration,
    },
}

/// What a sample showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Seen {
    /// Dirty pages.
    pub dirty: u64,
    /// Dirty pages that were not known to be written.
    pub novel: u64,
    /// The guest behaves differently from now on.
    pub changed: bool,
}

/// Estimates how often pages are written.
#[derive(Debug)]
pub struct Estimator {
    pages: u64,
    memory: Duration,
    records: Vec<Option<Box<[Record; CHUNK]>>>,
    /// Weighted count and weighted sum of lengths in seconds.
    windows: [Windows; LENGTHS],
    regime: Regime,
    /// Instant at which a window's weight is 1, in seconds; moves back when a phase ends.
    base: f64,
    last: Duration,
    /// Weighted dirty pages of all windows.
    dirty: f64,
}

impl Estimator {
    /// Bytes per page of memory that was ever written.
    pub const BYTES_PER_PAGE: usize = size_of::<Record>();

    /// For a guest of `pages` pages; a window that is `memory` old counts 1/e of a new one.
    #[must_use]
    pub fn new(pages: u64, memory: Duration) -> Self {
        let mut records = Vec::new();
        records.resize_with(index(pages).div_ceil(CHUNK), || None);
        let memory = memory.max(Duration::from_millis(1));
        Self {
            pages,
            memory,
            records,
            windows: [Windows::default(); LENGTHS],
            regime: Regime::new(memory),
            base: 0.0,
            last: Duration::ZERO,
            dirty: 0.0,
        }
    }

    /// Pages of the guest.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// When the guest last began to behave differently.
    #[must_use]
    pub fn changed(&self) -> Option<Duration> {
        self.regime.changed()
    }

    /// Takes in which pages were written within the `window` that ended at `at` (a clock that began when watching did).
    ///
    /// # Errors
    /// When the sample is another guest's, or of no time, or not later than the last. Nothing changes then.
    pub fn sample(
        &mut self,
        dirty: &PageSet,
        at: Duration,
        window: Duration,
    ) -> Result<Seen, EstimatorError> {
        self.check(dirty, at, window)?;
        let length = BOUNDS.iter().filter(|&&bound| window >= bound).count();
        let weight = self.weight(at);
        let (mut count, mut novel) = (0, 0);
        for page in dirty.iter() {
            let record = self.record(page);
            let known: f32 = record.iter().sum();
            novel += u64::from(f64::from(known) < 0.1 * weight);
            record[length] += single(weight);
            count += 1;
        }
        self.windows[length].count += weight;
        self.windows[length].length += weight * window.as_secs_f64();
        self.dirty += weight * count as f64;
        self.last = at;
        let changed = self.regime.take(&Look {
            length,
            at,
            window,
            dirty: count as f64,
            novel: novel as f64,
        });
        if changed {
            self.base -= self.memory.as_secs_f64() * CHANGE.ln();
        }
        Ok(Seen {
            dirty: count,
            novel,
            changed,
        })
    }

    fn check(&self, dirty: &PageSet, at: Duration, window: Duration) -> Result<(), EstimatorError> {
        if dirty.pages() != self.pages {
            return Err(EstimatorError::OtherGuest {
                sample: dirty.pages(),
                pages: self.pages,
            });
        }
        if window.is_zero() {
            return Err(EstimatorError::NoWindow { at });
        }
        if at.checked_sub(window).is_none_or(|start| start < self.last) {
            return Err(EstimatorError::OutOfOrder {
                at,
                window,
                last: self.last,
            });
        }
        Ok(())
    }

    /// How much a window that ends at `at` counts; scales everything down before that becomes too much.
    fn weight(&mut self, at: Duration) -> f64 {
        let weight = self.weight_at(at);
        if weight < HEAVIEST {
            return weight;
        }
        for record in self
            .records
            .iter_mut()
            .flatten()
            .flat_map(|chunk| chunk.iter_mut())
        {
            *record = record.map(|seen| single(f64::from(seen) / weight));
        }
        for window in &mut self.windows {
            window.count /= weight;
            window.length /= weight;
        }
        self.dirty /= weight;
        self.base = at.as_secs_f64();
        1.0
    }

    fn weight_at(&self, at: Duration) -> f64 {
        ((at.as_secs_f64() - self.base) / self.memory.as_secs_f64()).exp()
    }

    fn record(&mut self, page: PageNumber) -> &mut Record {
        let place = index(page.0);
        let chunk =
            self.records[place / CHUNK].get_or_insert_with(|| Box::new([[0.0; LENGTHS]; CHUNK]));
        &mut chunk[place % CHUNK]
    }

    /// How often pages are written, as far as is known. Work proportional to the guest's memory: for when an answer is wanted.
    #[must_use]
    pub fn writes(&self) -> Writes {
        let weight = self.weight_at(self.last);
        let windows = self.windows.map(|window| Windows {
            count: window.count / weight,
            length: if window.count > 0.0 {
                window.length / window.count
            } else {
                0.0
            },
        });
        let patterns = self.patterns(&windows, weight);
        let list: Vec<Pattern> = patterns.by_key.values().copied().collect();
        let posteriors = fit(&list, &windows);
        let classes: BTreeMap<Key, Class> = patterns
            .by_key
            .keys()
            .copied()
            .zip(posteriors.iter().map(class_of))
            .collect();
        let groups = groups(&list, &posteriors);
        let watched: f64 = windows.iter().map(|w| w.count * w.length).sum();
        let known = (1.0 / (self.dirty / weight).max(1.0)).min(1.0);
        let spread = (self.regime.spread().powi(2) + known).sqrt();
        let class_bytes = self.class_bytes(&patterns, &classes);
        Writes::estimated(
            groups,
            class_bytes,
            spread,
            super::distribution::duration(watched),
        )
    }

    fn class_bytes(&self, patterns: &Patterns, classes: &BTreeMap<Key, Class>) -> Vec<u8> {
        let class = |key: &Key| classes.get(key).copied().unwrap_or(Class::IDLE).byte();
        let unseen = class(&[0; LENGTHS]);
        let mut bytes = vec![unseen; index(self.pages)];
        for (chunk, bytes) in self.records.iter().zip(bytes.chunks_mut(CHUNK)) {
            for (record, byte) in chunk.iter().flat_map(|chunk| chunk.iter()).zip(bytes) {
                *byte = class(&patterns.key(record));
            }
        }
        bytes
    }

    /// Pages put together that were seen about equally often.
    fn patterns(&self, windows: &[Windows; LENGTHS], weight: f64) -> Patterns {
        for resolution in [8.0, 4.0] {
            let patterns = self.patterns_at(windows, weight, resolution);
            if patterns.by_key.len() <= MOST_PATTERNS {
                return patterns;
            }
        }
        self.patterns_at(windows, weight, 2.0)
    }

    fn patterns_at(&self, windows: &[Windows; LENGTHS], weight: f64, resolution: f64) -> Patterns {
        let mut patterns = Patterns {
            by_key: BTreeMap::new(),
            windows: *windows,
            weight,
            resolution,
        };
        let mut recorded = 0u64;
        for record in self.records.iter().flatten().flat_map(|chunk| chunk.iter()) {
            if *record != [0.0; LENGTHS] {
                recorded += 1;
                patterns.add(record);
            }
        }
        let unseen = self.pages - recorded.min(self.pages);
        if unseen > 0 {
            let none = Pattern {
                seen: [0.0; LENGTHS],
                pages: unseen as f64,
            };
            patterns.by_key.insert([0; LENGTHS], none);
        }
        patterns
    }
}

struct Patterns {
    by_key: BTreeMap<Key, Pattern>,
    windows: [Windows; LENGTHS],
    weight: f64,
    resolution: f64,
}

impl Patterns {
    fn add(&mut self, record: &Record) {
        let key = self.key(record);
        let weight = self.weight;
        let pattern = self.by_key.entry(key).or_insert(Pattern {
            seen: [0.0; LENGTHS],
            pages: 0.0,
        });
        pattern.pages += 1.0;
        for (mean, &seen) in pattern.seen.iter_mut().zip(record) {
            *mean += (f64::from(seen) / weight - *mean) / pattern.pages;
        }
    }

    /// Fine where a page was seldom seen dirty or seldom clean.
    fn key(&self, record: &Record) -> Key {
        let mut key = [0; LENGTHS];
        for (at, &seen) in record.iter().enumerate() {
            if seen > 0.0 {
                let seen = f64::from(seen) / self.weight;
                let clean = (self.windows[at].count - seen).max(0.0);
                let step = |count: f64| (self.resolution * count.ln_1p()).round().min(126.0);
                let level = if clean < seen {
                    255.0 - step(clean)
                } else {
                    1.0 + step(seen)
                };
                key[at] = byte(level);
            }
        }
        key
    }
}

/// The class of the pages' mean rate.
fn class_of(posterior: &Posterior) -> Class {
    let rates = kinds().zip(posterior);
    Class::of_rate(rates.map(|((_, class), share)| class.rate() * share).sum())
}

/// Pages by class, with the rates that they may really have.
fn groups(patterns: &[Pattern], posteriors: &[Posterior]) -> Vec<Group> {
    let mut sums = [[0.0; 2 * CLASSES]; CLASSES];
    let mut pages = [0.0; CLASSES];
    for (pattern, posterior) in patterns.iter().zip(posteriors) {
        let class = class_of(posterior).index();
        pages[class] += pattern.pages;
        for (sum, share) in sums[class].iter_mut().zip(posterior) {
            *sum += share * pattern.pages;
        }
    }
    let group = |class: Class| {
        let pages = pages[class.index()];
        let rates = kinds().zip(sums[class.index()]);
        let most = sums[class.index()].iter().copied().fold(0.0, f64::max);
        let enough = NEGLIGIBLE.min(most / 2.0);
        let likely: Vec<_> = rates.filter(|(_, sum)| *sum > enough).collect();
        let all: f64 = likely.iter().map(|(_, sum)| sum).sum();
        Group {
            class,
            pages: super::distribution::whole(pages),
            mix: likely
                .iter()
                .map(|((rhythm, class), sum)| Portion {
                    share: sum / all,
                    rate: class.rate(),
                    rhythm: *rhythm,
                })
                .collect(),
        }
    };
    Class::all()
        .filter(|class| pages[class.index()] > 0.0)
        .map(group)
        .collect()
}

fn index(page: u64) -> usize {
    usize::try_from(page).expect("a guest's pages fit into this host's memory")
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "weights are far within the range; their last digits do not matter"
)]
fn single(value: f64) -> f32 {
    value as f32
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "`as` saturates, and levels are from 0 to 255"
)]
fn byte(level: f64) -> u8 {
    level as u8
}

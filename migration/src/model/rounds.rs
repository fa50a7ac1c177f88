//! One round in closed form.
//!
//! The papers' sum over positions j of 1 - (1 - p)^(n-j), by classes: all pages of a chunk are exposed from the instant at which the chunk
//! is cleared, so that the chances of a class's pages to stay clean are a geometric series. Chunks of one page are the sum itself.

use super::class::{CLASSES, Class};
use super::path::{Pace, Slot};
use super::writes::{Rhythm, Writes};

/// Pages of one class that are written at one rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cell {
    pub(crate) class: Class,
    /// Writes per second.
    pub(crate) rate: f64,
    pub(crate) rhythm: Rhythm,
    /// How many pages; not whole where the rates of a class's pages are known only as shares.
    pub(crate) pages: f64,
}

/// The cells of `writes`, by increasing class.
pub(crate) fn cells(writes: &Writes) -> Vec<Cell> {
    let groups = writes.groups().iter();
    groups
        .flat_map(|group| {
            group.mix.iter().map(|part| Cell {
                class: group.class,
                rate: part.rate,
                rhythm: part.rhythm,
                pages: group.pages as f64 * part.share,
            })
        })
        .collect()
}

/// Which pages are to be sent, as far as is known: of every cell how many are dirty.
#[derive(Debug, Clone)]
pub(crate) struct Dirty {
    /// Per cell.
    pub(crate) pages: Vec<f64>,
    /// Per class, whether its pages were not sent yet.
    pub(crate) fresh: [bool; CLASSES],
    /// Pages of zeroes not sent yet.
    pub(crate) zeroes: f64,
}

impl Dirty {
    /// Everything is to be sent.
    pub(crate) fn everything(cells: &[Cell], zero_pages: u64) -> Self {
        Self {
            pages: cells.iter().map(|cell| cell.pages).collect(),
            fresh: [true; CLASSES],
            zeroes: zero_pages as f64,
        }
    }

    pub(crate) fn total(&self) -> f64 {
        self.pages.iter().sum()
    }

    /// Pages by class.
    pub(crate) fn by_class(&self, cells: &[Cell]) -> [f64; CLASSES] {
        let mut sums = [0.0; CLASSES];
        for (cell, pages) in cells.iter().zip(&self.pages) {
            sums[cell.class.index()] += pages;
        }
        sums
    }

    /// Seconds, bytes and pages of zeroes that sending the class's pages takes.
    fn load(&self, class: usize, pages: f64, pace: &Pace) -> (Slot, f64) {
        let zeroes = if self.fresh[class] {
            self.zeroes.min(pages)
        } else {
            0.0
        };
        let full = if self.fresh[class] {
            pace.first
        } else {
            pace.again
        };
        let sum = |of: fn(&Slot) -> f64| zeroes * of(&pace.zero) + (pages - zeroes) * of(&full);
        let slot = Slot {
            bytes: sum(|slot| slot.bytes),
            seconds: sum(|slot| slot.seconds),
        };
        (slot, zeroes)
    }

    /// Seconds that sending everything dirty takes, and its bytes, in one go.
    pub(crate) fn whole_load(&self, cells: &[Cell], pace: &Pace) -> Slot {
        let mut zeroes_left = self.clone();
        let mut sum = Slot {
            bytes: 0.0,
            seconds: 0.0,
        };
        for (class, &pages) in self.by_class(cells).iter().enumerate() {
            let (slot, zeroes) = zeroes_left.load(class, pages, pace);
            zeroes_left.zeroes -= zeroes;
            sum.bytes += slot.bytes;
            sum.seconds += slot.seconds;
        }
        sum
    }
}

/// A round as expected.
#[derive(Debug, Clone)]
pub(crate) struct Round {
    /// From its first page until its dirty set is known, in seconds.
    pub(crate) seconds: f64,
    /// Pages sent.
    pub(crate) sent: f64,
    /// Bytes sent.
    pub(crate) bytes: f64,
    /// Writes that the guest paid for being tracked.
    pub(crate) faults: f64,
    /// Per cell, the variance of the dirty pages afterwards.
    pub(crate) variance: Vec<f64>,
    /// What is dirty afterwards.
    pub(crate) dirty: Dirty,
}

/// When each class's pages are sent in a round: (start, length) in seconds; `None` for those left out.
struct Times {
    classes: [Option<(f64, f64)>; CLASSES],
    end: f64,
    bytes: f64,
    zeroes: f64,
}

fn times(dirty: &Dirty, by_class: &[f64; CLASSES], send: &[bool; CLASSES], pace: &Pace) -> Times {
    let mut times = Times {
        classes: [None; CLASSES],
        end: 0.0,
        bytes: 0.0,
        zeroes: dirty.zeroes,
    };
    let mut left = dirty.clone();
    for (class, &pages) in by_class.iter().enumerate() {
        if send[class] {
            let (slot, zeroes) = left.load(class, pages, pace);
            left.zeroes -= zeroes;
            times.classes[class] = Some((times.end, slot.seconds));
            times.end += slot.seconds;
            times.bytes += slot.bytes;
        }
    }
    times.zeroes = left.zeroes;
    times.end += pace.round;
    times
}

/// Pages that are cleared in chunks and sent one after the other.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batch {
    /// How many pages.
    pub(crate) pages: f64,
    /// From when on, in seconds of the round.
    pub(crate) start: f64,
    /// For how long.
    pub(crate) length: f64,
    /// The round's end.
    pub(crate) end: f64,
    /// Pages cleared at once.
    pub(crate) chunk: f64,
}

impl Batch {
    /// The chance of its pages to stay clean until the round's end, when they have not been written for no particular time.
    pub(crate) fn survival(&self, rhythm: Rhythm, rate: f64) -> f64 {
        let chunks = (self.pages / self.chunk).ceil().max(1.0);
        let step = self.length / chunks;
        // The last chunk's pages are exposed for the shortest time.
        let shortest = self.end - self.start - self.length + step;
        match rhythm {
            Rhythm::Random => {
                let per_step = -(-rate * step).exp_m1();
                if per_step < 1e-12 {
                    return (-rate * (shortest + (self.length - step) / 2.0)).exp();
                }
                (-rate * shortest).exp() * -(-rate * self.length).exp_m1() / (chunks * per_step)
            }
            Rhythm::Periodic => {
                // Chunks that are exposed for less than a period, the last ones.
                let until = 1.0 / rate.max(1e-12);
                let short = ((until - shortest) / step.max(1e-12))
                    .ceil()
                    .clamp(0.0, chunks);
                let exposed = short * shortest + step * short * (short - 1.0) / 2.0;
                (short - rate * exposed) / chunks
            }
        }
    }
}

/// A cell's pages at the beginning of a round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Share {
    /// Dirty ones, all of them sent or none.
    pub(crate) dirty: f64,
    /// Whether they were never sent before.
    pub(crate) fresh: bool,
    /// When their class is sent, if it is.
    pub(crate) batch: Option<Batch>,
    /// The round's end.
    pub(crate) end: f64,
}

impl Cell {
    fn clean(&self, dirty: f64) -> f64 {
        (self.pages - dirty).max(0.0)
    }

    /// Pages written in turn that have their turn in the round.
    fn turn(&self, share: &Share, vigour: f64) -> f64 {
        self.pages * self.rhythm.chance(self.rate * vigour, share.end)
    }

    /// Pages that become dirty again among those that are sent.
    pub(crate) fn hits_of_sent(&self, share: &Share, vigour: f64) -> f64 {
        let Some(batch) = share.batch.filter(|_| share.dirty > 0.0 && self.rate > 0.0) else {
            return 0.0;
        };
        if self.rhythm == Rhythm::Periodic && !share.fresh {
            // Pages written longest ago come first: the clean ones, then those that the last round left dirty.
            return (self.turn(share, vigour) - self.clean(share.dirty)).clamp(0.0, share.dirty);
        }
        share.dirty * (1.0 - batch.survival(self.rhythm, self.rate * vigour))
    }

    /// Pages that become dirty among those that were clean.
    fn hits_of_clean(&self, share: &Share, vigour: f64) -> f64 {
        let clean = self.clean(share.dirty);
        if clean <= 0.0 || self.rate <= 0.0 {
            return 0.0;
        }
        if self.rhythm == Rhythm::Periodic && !share.fresh {
            return self.turn(share, vigour).min(clean);
        }
        clean * self.rhythm.chance(self.rate * vigour, share.end)
    }
}

/// The round that sends the dirty pages of the classes in `send`, by increasing class, to a guest that writes `vigour` times as often as
/// the cells say.
pub(crate) fn round(
    cells: &[Cell],
    dirty: &Dirty,
    send: &[bool; CLASSES],
    pace: &Pace,
    vigour: f64,
) -> Round {
    let by_class = dirty.by_class(cells);
    let times = times(dirty, &by_class, send, pace);
    let mut after = dirty.clone();
    after.zeroes = times.zeroes;
    let mut variance = vec![0.0; cells.len()];
    let mut faults = 0.0;
    for (at, cell) in cells.iter().enumerate() {
        let class = cell.class.index();
        let batch = times.classes[class].map(|(start, length)| Batch {
            pages: by_class[class],
            start,
            length,
            end: times.end,
            chunk: pace.chunk,
        });
        let share = Share {
            dirty: dirty.pages[at],
            fresh: dirty.fresh[class],
            batch,
            end: times.end,
        };
        let of_sent = cell.hits_of_sent(&share, vigour);
        let of_clean = cell.hits_of_clean(&share, vigour);
        let waiting = if batch.is_some() { 0.0 } else { share.dirty };
        let chance = |hits: f64, all: f64| hits * (1.0 - hits / all.max(1e-12)).max(0.0);
        variance[at] = chance(of_sent, share.dirty) + chance(of_clean, cell.clean(share.dirty));
        faults += of_sent + of_clean;
        after.pages[at] = waiting + of_sent + of_clean;
    }
    let mut sent = 0.0;
    for (class, span) in times.classes.iter().enumerate() {
        if span.is_some() {
            sent += by_class[class];
            after.fresh[class] = false;
        }
    }
    Round {
        seconds: times.end,
        sent,
        bytes: times.bytes,
        faults,
        variance,
        dirty: after,
    }
}

/// What becomes dirty while no page is sent, for `seconds`.
pub(crate) fn idle(cells: &[Cell], dirty: &mut Dirty, seconds: f64, vigour: f64) {
    for (cell, pages) in cells.iter().zip(&mut dirty.pages) {
        let share = Share {
            dirty: *pages,
            fresh: dirty.fresh[cell.class.index()],
            batch: None,
            end: seconds,
        };
        *pages += cell.hits_of_clean(&share, vigour);
    }
}

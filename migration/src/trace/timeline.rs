//! When each page was written.

use std::io::Read;
use std::time::Duration;

use super::{Reader, TraceError};
use crate::model::Random;
use crate::ram::{PageNumber, PageSet};

/// What a replay can hold: some 4 GiB of this host's memory at most.
const HOLDS: Holds = Holds {
    pages: 1 << 25,
    writes: 1 << 26,
};

/// A trace that nothing can be replayed over.
#[derive(Debug, thiserror::Error)]
pub enum TimelineError {
    /// It cannot be read.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// It would take more memory than it may.
    #[error("the trace has {found} {what}, and a replay holds {holds} at most; record {instead}")]
    TooLarge {
        /// Pages or writes.
        what: &'static str,
        /// How many it has, at least.
        found: u64,
        /// How many would do.
        holds: u64,
        /// What would have fewer.
        instead: &'static str,
    },
    /// Some time was not watched.
    #[error("nothing was recorded for {gap:?} before {at:?}; a replay needs a trace without gaps")]
    Gap {
        /// How long.
        gap: Duration,
        /// When recording went on.
        at: Duration,
    },
    /// A write that cannot be.
    #[error(
        "page {page} is written at {at:?}, outside a guest of {pages} pages that is watched for {length:?}"
    )]
    Outside {
        /// The page.
        page: PageNumber,
        /// When it is written.
        at: Duration,
        /// Pages of the guest.
        pages: u64,
        /// Time that is watched.
        length: Duration,
    },
}

/// The most that a replay may hold.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holds {
    /// Pages of the guest.
    pub(super) pages: u64,
    /// Writes, a page's counted once per window.
    pub(super) writes: u64,
}

impl Holds {
    fn check_pages(self, found: u64) -> Result<(), TimelineError> {
        if found <= self.pages {
            return Ok(());
        }
        Err(TimelineError::TooLarge {
            what: "pages",
            found,
            holds: self.pages,
            instead: "a smaller guest",
        })
    }

    fn check_writes(self, found: u64) -> Result<(), TimelineError> {
        if found <= self.writes {
            return Ok(());
        }
        Err(TimelineError::TooLarge {
            what: "writes",
            found,
            holds: self.writes,
            instead: "for less time, or with longer windows",
        })
    }
}

/// The instants at which each page was written.
#[derive(Debug, Clone)]
pub struct Timeline {
    length: u64,
    is_cut_off: bool,
    /// Per page where its instants begin; one more at the end.
    starts: Vec<usize>,
    /// Nanoseconds, ascending per page.
    instants: Vec<u64>,
}

impl Timeline {
    /// From a trace. A page that was dirty within a window was written at some instant of it, drawn from `random`: windows should be
    /// shorter than the rounds that are replayed. Of a trace that is cut off, the whole samples count.
    ///
    /// # Errors
    /// When the trace cannot be read, has gaps, or is larger than memory should be spent on.
    pub fn of_trace(reader: Reader<impl Read>, random: &mut Random) -> Result<Self, TimelineError> {
        Self::within(HOLDS, reader, random)
    }

    pub(super) fn within(
        holds: Holds,
        reader: Reader<impl Read>,
        random: &mut Random,
    ) -> Result<Self, TimelineError> {
        let pages = reader.pages();
        holds.check_pages(pages)?;
        let mut writes = Vec::new();
        let mut end = Duration::ZERO;
        let mut is_cut_off = false;
        for sample in reader {
            let sample = match sample {
                Err(TraceError::Truncated { samples: 1.. }) => {
                    is_cut_off = true;
                    break;
                }
                sample => sample?,
            };
            let gap = sample.at - sample.window - end;
            if !gap.is_zero() {
                return Err(TimelineError::Gap {
                    gap,
                    at: sample.at - sample.window,
                });
            }
            // Before they are held.
            holds.check_writes(writes.len() as u64 + sample.dirty.len())?;
            for page in sample.dirty.iter() {
                let before_end = sample.window.mul_f64(random.unit());
                writes.push((sample.at.saturating_sub(before_end), page));
            }
            end = sample.at;
        }
        let timeline = Self::of_writes(pages, end, &writes)?;
        Ok(Self {
            is_cut_off,
            ..timeline
        })
    }

    /// From single writes, in any order, of a guest that is watched for `length`.
    ///
    /// # Errors
    /// When a write is outside the guest or the time.
    pub fn of_writes(
        pages: u64,
        length: Duration,
        writes: &[(Duration, PageNumber)],
    ) -> Result<Self, TimelineError> {
        let outside = writes
            .iter()
            .find(|(at, page)| page.0 >= pages || *at > length);
        if let Some(&(at, page)) = outside {
            return Err(TimelineError::Outside {
                page,
                at,
                pages,
                length,
            });
        }
        let mut starts = vec![0; place(pages) + 1];
        for (_, page) in writes {
            starts[place(page.0) + 1] += 1;
        }
        for page in 1..starts.len() {
            starts[page] += starts[page - 1];
        }
        let mut next = starts.clone();
        let mut instants = vec![0; writes.len()];
        for (at, page) in writes {
            let page = place(page.0);
            instants[next[page]] = nanoseconds(*at);
            next[page] += 1;
        }
        for page in 1..starts.len() {
            instants[starts[page - 1]..starts[page]].sort_unstable();
        }
        Ok(Self {
            length: nanoseconds(length),
            is_cut_off: false,
            starts,
            instants,
        })
    }

    /// Pages of the guest.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// Time that was watched.
    #[must_use]
    pub fn length(&self) -> Duration {
        Duration::from_nanos(self.length)
    }

    /// Whether the trace went on: its end is missing.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Whether a page was written after one instant and not after another.
    #[must_use]
    pub fn written(&self, page: PageNumber, after: Duration, until: Duration) -> bool {
        let page = place(page.0);
        let instants = &self.instants[self.starts[page]..self.starts[page + 1]];
        let after = nanoseconds(after);
        let first = instants.partition_point(|&at| at <= after);
        instants
            .get(first)
            .is_some_and(|&at| at <= nanoseconds(until))
    }

    /// The pages that were written after one instant and not after another.
    #[must_use]
    pub fn dirty(&self, after: Duration, until: Duration) -> PageSet {
        let mut set = PageSet::empty(self.pages());
        for page in (0..self.pages()).map(PageNumber) {
            if self.written(page, after, until) {
                set.insert(page);
            }
        }
        set
    }
}

fn place(page: u64) -> usize {
    usize::try_from(page).expect("a guest's pages fit into this host's memory")
}

/// Nanoseconds; the longest time after 584 years.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

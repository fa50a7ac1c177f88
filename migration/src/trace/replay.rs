//! Pre-copy replayed over the instants at which a guest wrote its pages.

use std::time::Duration;

use super::Timeline;
use crate::model::{
    CLASSES, Decision, Estimator, EstimatorError, Path, PathError, Precopy, Random, Requirement,
    RoundPlan, Sampling, WhyNot, Writes,
};
use crate::model::{Pace, duration};
use crate::ram::{PageNumber, PageSet};

/// A migration that cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The path's parameters make no sense.
    #[error(transparent)]
    Path(#[from] PathError),
    /// What is known is of another guest.
    #[error("rates of {rates} pages do not belong to a trace of {pages} pages")]
    OtherGuest {
        /// Pages whose rates are known.
        rates: u64,
        /// Pages of the trace.
        pages: u64,
    },
    /// It is not known what the guest wrote later.
    #[error(
        "the trace ends at {length:?}, before the migration, which still runs at {at:?}; record longer, or replay a faster path"
    )]
    TooShort {
        /// Length of the trace.
        length: Duration,
        /// Time that would be needed at least.
        at: Duration,
    },
}

/// A round that was replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayedRound {
    /// Pages sent.
    pub sent: u64,
    /// Pages left to a later round.
    pub left: u64,
    /// Time that it took.
    pub took: Duration,
    /// Pages dirty afterwards.
    pub dirty: u64,
}

/// What came out.
#[derive(Debug, Clone, PartialEq)]
pub struct Replayed {
    /// From the first byte until the guest runs at the destination.
    pub total: Duration,
    /// Time for which the guest stood still.
    pub downtime: Duration,
    /// Bytes sent.
    pub bytes: u64,
    /// Pages sent, those while the guest stood still among them.
    pub pages: u64,
    /// Pages among them that had been sent before.
    pub again: u64,
    /// Each round before the pause.
    pub rounds: Vec<ReplayedRound>,
    /// Why the promise was not expected to be kept, if so. The outcome is then that of switching over nevertheless.
    pub never: Option<WhyNot>,
}

/// What is replayed.
#[derive(Debug, Clone, Copy)]
pub struct Replay<'a> {
    /// When the guest writes.
    pub timeline: &'a Timeline,
    /// What pages travel on.
    pub path: &'a Path,
    /// What is asked.
    pub requirement: Requirement,
    /// When the migration begins.
    pub start: Duration,
}

/// Lets an estimator watch a guest from `from` until `until`, as the sampling says.
///
/// # Errors
/// When the estimator is of another guest, or has seen later windows.
pub fn watch(
    timeline: &Timeline,
    (from, until): (Duration, Duration),
    sampling: &mut Sampling,
    estimator: &mut Estimator,
) -> Result<(), EstimatorError> {
    let mut step = sampling.next(Duration::ZERO, 0);
    let mut at = from;
    loop {
        let start = at.saturating_add(step.pause);
        let end = start.saturating_add(step.window);
        if end > until {
            return Ok(());
        }
        let seen = estimator.sample(&timeline.dirty(start, end), end, step.window)?;
        step = sampling.next(step.window, seen.dirty);
        at = end;
    }
}

/// A migration under way.
struct Run<'a> {
    replay: &'a Replay<'a>,
    pace: Pace,
    /// Seconds since the trace's beginning.
    clock: f64,
    /// Per page when it was last cleared, in seconds; `None` before it was sent.
    cleared: Vec<Option<f64>>,
    dirty: PageSet,
    zeroes: u64,
    bytes: f64,
    pages: u64,
    again: u64,
}

impl Replay<'_> {
    /// Migrates, with the order that `writes` say (`Writes::by_address` for that of addresses) and the luck of `random`.
    ///
    /// # Errors
    /// When the trace ends before the migration, or the parameters make no sense.
    pub fn run(&self, writes: &Writes, random: &mut Random) -> Result<Replayed, ReplayError> {
        let pages = self.timeline.pages();
        if writes.pages() != pages {
            return Err(ReplayError::OtherGuest {
                rates: writes.pages(),
                pages,
            });
        }
        let mut precopy = Precopy::new(writes, self.path, self.requirement)?;
        let mut run = Run::new(self, (self.path.rate_spread * random.normal()).exp());
        let mut rounds = Vec::new();
        let never = loop {
            match precopy.decide(run.elapsed()) {
                Decision::Another(plan) => {
                    let before = run.elapsed();
                    let (round, counts) = run.round(writes, &plan)?;
                    precopy.done(&plan, run.elapsed() - before, &counts);
                    rounds.push(round);
                }
                Decision::Switch { .. } => break None,
                Decision::Never(why) => break Some(why),
            }
        };
        let downtime = run.pause()? + self.path.switch_over.at(random.normal());
        Ok(Replayed {
            total: run.elapsed() + duration(downtime),
            downtime: duration(downtime),
            bytes: crate::model::whole(run.bytes),
            pages: run.pages,
            again: run.again,
            rounds,
            never,
        })
    }
}

impl<'a> Run<'a> {
    fn new(replay: &'a Replay<'a>, speed: f64) -> Self {
        let pages = replay.timeline.pages();
        let count = usize::try_from(pages).expect("a trace's pages fit into this host's memory");
        Self {
            replay,
            pace: replay.path.pace(speed),
            clock: replay.start.as_secs_f64(),
            cleared: vec![None; count],
            dirty: PageSet::full(pages),
            zeroes: replay.path.zero_pages,
            bytes: 0.0,
            pages: 0,
            again: 0,
        }
    }

    fn elapsed(&self) -> Duration {
        duration(self.clock - self.replay.start.as_secs_f64())
    }

    /// Sends one page that was cleared at `cleared`; the seconds that takes.
    fn send(&mut self, page: PageNumber, cleared: f64) -> f64 {
        let place = usize::try_from(page.0).expect("a page of the trace");
        let slot = if self.cleared[place].replace(cleared).is_some() {
            self.again += 1;
            self.pace.again
        } else if self.zeroes > 0 {
            self.zeroes -= 1;
            self.pace.zero
        } else {
            self.pace.first
        };
        self.pages += 1;
        self.bytes += slot.bytes;
        slot.seconds
    }

    fn round(
        &mut self,
        writes: &Writes,
        plan: &RoundPlan,
    ) -> Result<(ReplayedRound, [u64; CLASSES]), ReplayError> {
        let start = self.clock;
        let before = self.pages;
        let mut left = 0;
        let chunk = usize::try_from(self.replay.path.pages_per_clear).unwrap_or(usize::MAX);
        for (class, pages) in writes.split(&self.dirty) {
            if !plan.send.contains(&class) {
                left += pages.len();
                continue;
            }
            let pages: Vec<PageNumber> = pages.iter().collect();
            for chunk in pages.chunks(chunk) {
                let cleared = self.clock;
                for &page in chunk {
                    self.clock += self.send(page, cleared);
                }
            }
        }
        self.clock += self.pace.round;
        self.look()?;
        let round = ReplayedRound {
            sent: self.pages - before,
            left,
            took: duration(self.clock - start),
            dirty: self.dirty.len(),
        };
        Ok((round, writes.count(&self.dirty)))
    }

    /// Finds the pages that are dirty now: those never sent, and those written since they were cleared.
    fn look(&mut self) -> Result<(), ReplayError> {
        let now = duration(self.clock);
        let length = self.replay.timeline.length();
        if now > length {
            return Err(ReplayError::TooShort { length, at: now });
        }
        self.dirty = PageSet::empty(self.dirty.pages());
        for (page, cleared) in (0..).map(PageNumber).zip(&self.cleared) {
            let written = |cleared| self.replay.timeline.written(page, duration(cleared), now);
            if cleared.is_none_or(written) {
                self.dirty.insert(page);
            }
        }
        Ok(())
    }

    /// Pauses the guest and sends what is left; the seconds that takes.
    fn pause(&mut self) -> Result<f64, ReplayError> {
        self.clock += self.pace.delay;
        self.look()?;
        let pages: Vec<PageNumber> = self.dirty.iter().collect();
        let now = self.clock;
        Ok(pages.into_iter().map(|page| self.send(page, now)).sum())
    }
}

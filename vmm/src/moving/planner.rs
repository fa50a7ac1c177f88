//! What the source sends next: the model's decision after each round, made into sets of pages.

use std::sync::Arc;
use std::time::{Duration, Instant};

use migration::drive::{Planner, SourceRemote, Step};
use migration::model::{
    CpuCost, Decision, Path, PathError, Precopy, Requirement, RoundPlan, Skewed, Writes,
};
use migration::precopy::RoundSent;
use migration::protocol::SourceEvent;
use migration::ram::{PageRange, PageSet};

use super::source::Shared;
use crate::units::{BitRate, ByteSize};

/// What is taken to be the rate where none is reserved: the first round tells.
const UNKNOWN_RATE: BitRate = BitRate::new(10_000_000_000);
/// Pages whose dirty bits are cleared at once, just before they are read.
const PAGES_PER_CLEAR: u32 = 4096;

/// What pages travel on, as far as it is known before anything was measured.
pub(super) fn path(rate: Option<BitRate>) -> Path {
    let cpu = CpuCost {
        per_page: Duration::from_micros(1),
        per_mebibyte: Duration::from_micros(500),
        share: 1.0,
    };
    Path {
        rate: rate.unwrap_or(UNKNOWN_RATE),
        rate_spread: 0.1,
        page_overhead: ByteSize::new(220),
        zero_pages: 0,
        compression: 1.0,
        compression_again: 1.0,
        round_cost: Duration::from_millis(1),
        pages_per_clear: PAGES_PER_CLEAR,
        switch_delay: Duration::from_millis(2),
        switch_over: Skewed {
            median: Duration::from_millis(2),
            p95: Duration::from_millis(5),
        },
        source: cpu,
        destination: cpu,
        tracked_write: Duration::from_micros(26),
    }
}

/// Decides as the model does, and writes the rounds down.
pub(super) struct ModelPlanner {
    writes: Writes,
    precopy: Precopy,
    begun: Option<Instant>,
    plan: Option<RoundPlan>,
    shared: Arc<Shared>,
    remote: SourceRemote,
}

impl ModelPlanner {
    pub(super) fn new(
        writes: Writes,
        path: &Path,
        requirement: Requirement,
        (shared, remote): (Arc<Shared>, SourceRemote),
    ) -> Result<Self, PathError> {
        Ok(Self {
            precopy: Precopy::new(&writes, path, requirement)?,
            writes,
            begun: None,
            plan: None,
            shared,
            remote,
        })
    }

    /// The pages of the plan, class after class, in pieces that are cleared at once.
    fn pieces(&self, plan: &RoundPlan, dirty: &PageSet) -> Vec<PageSet> {
        let split = self.writes.split(dirty).into_iter();
        split
            .filter(|(class, _)| plan.send.contains(class))
            .flat_map(|(_, pages)| pieces(&pages, PAGES_PER_CLEAR.into()))
            .collect()
    }
}

impl Planner for ModelPlanner {
    fn next(&mut self, dirty: &PageSet, last: Option<&RoundSent>) -> Step {
        let begun = *self.begun.get_or_insert_with(|| self.shared.first_byte());
        if let Some(last) = last {
            if let Some(plan) = self.plan.take() {
                let left = self.writes.count(dirty);
                self.precopy.done(&plan, last.progress.elapsed, &left);
            }
        }
        match self.precopy.decide(begun.elapsed()) {
            Decision::Another(plan) => {
                let pieces = self.pieces(&plan, dirty);
                self.plan = Some(plan);
                Step::Round(pieces)
            }
            Decision::Switch { .. } => Step::Switch,
            Decision::Never(why) => {
                self.remote.hand_in(SourceEvent::Failed {
                    reason: format!("the promise cannot be kept: {why}"),
                });
                // Nothing is sent while the session hears of it.
                Step::Round(Vec::new())
            }
        }
    }
}

/// A set in pieces of at most so many pages, in the order of addresses.
fn pieces(pages: &PageSet, most: u64) -> Vec<PageSet> {
    let mut all = Vec::new();
    let (mut piece, mut room) = (PageSet::empty(pages.pages()), most);
    for range in pages.ranges() {
        let (mut first, end) = (range.first, range.end());
        while first.0 < end {
            let count = room.min(end - first.0);
            piece.insert_range(PageRange { first, count });
            first.0 += count;
            room -= count;
            if room == 0 {
                all.push(std::mem::replace(&mut piece, PageSet::empty(pages.pages())));
                room = most;
            }
        }
    }
    if !piece.is_empty() {
        all.push(piece);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use migration::ram::PageNumber;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_are_the_whole_and_none_is_too_large(
            pages in prop::collection::btree_set(0..500u64, 0..300),
            most in 1..60u64,
        ) {
            let mut set = PageSet::empty(500);
            pages.iter().for_each(|&page| set.insert(PageNumber(page)));
            let pieces = pieces(&set, most);
            let together: Vec<u64> = pieces.iter().flat_map(|piece| piece.iter().map(|page| page.0)).collect();
            prop_assert!(together.iter().eq(pages.iter()));
            prop_assert!(pieces.iter().all(|piece| (1..=most).contains(&piece.len())));
            prop_assert_eq!(pieces.len() as u64, (pages.len() as u64).div_ceil(most));
        }
    }
}

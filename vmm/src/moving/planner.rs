//! What the source sends next: the model's decision after each round, made into sets of pages.

use std::sync::Arc;
use std::time::Instant;

use migration::drive::{Planner, SourceRemote, Step};
use migration::model::{Decision, PathError, Precopy, RoundPlan, Writes};
use migration::precopy::RoundSent;
use migration::protocol::SourceEvent;
use migration::ram::{PageRange, PageSet};

use super::promise::Promise;
use super::source::Shared;

/// Decides as the model does, and writes the rounds down.
pub(super) struct ModelPlanner {
    writes: Writes,
    precopy: Precopy,
    begun: Option<Instant>,
    plan: Option<RoundPlan>,
    /// Pages whose dirty bits are cleared at once, just before they are read.
    pages_per_clear: u64,
    shared: Arc<Shared>,
    remote: SourceRemote,
}

impl ModelPlanner {
    pub(super) fn new(
        writes: Writes,
        promise: &Promise,
        (shared, remote): (Arc<Shared>, SourceRemote),
    ) -> Result<Self, PathError> {
        Ok(Self {
            precopy: Precopy::new(&writes, &promise.path, promise.wish.requirement())?,
            pages_per_clear: promise.path.pages_per_clear.max(1).into(),
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
            .flat_map(|(_, pages)| pieces(&pages, self.pages_per_clear))
            .collect()
    }
}

impl Planner for ModelPlanner {
    fn next(&mut self, dirty: &PageSet, last: Option<&RoundSent>) -> Step {
        let begun = *self.begun.get_or_insert_with(|| self.shared.first_byte());
        if let Some(last) = last
            && let Some(plan) = self.plan.take()
        {
            let left = self.writes.count(dirty);
            self.precopy.done(&plan, last.progress.elapsed, &left);
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
            for &page in &pages {
                set.insert(PageNumber(page));
            }
            let pieces = pieces(&set, most);
            let together: Vec<u64> = pieces.iter().flat_map(|piece| piece.iter().map(|page| page.0)).collect();
            prop_assert!(together.iter().eq(pages.iter()));
            prop_assert!(pieces.iter().all(|piece| (1..=most).contains(&piece.len())));
            prop_assert_eq!(pieces.len() as u64, (pages.len() as u64).div_ceil(most));
        }
    }
}

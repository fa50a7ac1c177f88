//! Round robin: whose turn it is. Pure.

use std::collections::VecDeque;
use std::num::NonZeroUsize;

/// The jobs of a VTM in the order of their turns.
#[derive(Debug)]
pub(super) struct Turns<J> {
    /// How many have their turn at once.
    active: NonZeroUsize,
    /// Those whose turn it is.
    running: Vec<J>,
    /// The others, the next one first.
    waiting: VecDeque<J>,
}

impl<J> Turns<J> {
    pub(super) fn new(active: NonZeroUsize) -> Self {
        Self {
            active,
            running: Vec::with_capacity(active.get().min(1024)),
            waiting: VecDeque::new(),
        }
    }

    /// From the next turn on.
    pub(super) fn set_active(&mut self, active: NonZeroUsize) {
        self.active = active;
    }

    /// Adds a job at the end.
    pub(super) fn add(&mut self, job: J) {
        self.waiting.push_back(job);
    }

    /// Takes out the job of which `is` holds.
    pub(super) fn remove(&mut self, is: impl Fn(&J) -> bool) -> Option<J> {
        if let Some(at) = self.running.iter().position(&is) {
            return Some(self.running.remove(at));
        }
        let at = self.waiting.iter().position(is)?;
        self.waiting.remove(at)
    }

    pub(super) fn find(&mut self, is: impl Fn(&J) -> bool) -> Option<&mut J> {
        let mut all = self.running.iter_mut().chain(&mut self.waiting);
        all.find(|job| is(job))
    }

    /// Moves those whose turn it was to the end, and gives the next ones their turn. Returns how many of the waiting, from the
    /// end, had their turn before.
    #[must_use = "those are to be stopped"]
    pub(super) fn next(&mut self) -> usize {
        let before = self.running.len();
        self.waiting.extend(self.running.drain(..));
        let next = self.active.get().min(self.waiting.len());
        self.running.extend(self.waiting.drain(..next));
        before.min(self.waiting.len())
    }

    /// Those whose turn it is.
    pub(super) fn running(&mut self) -> &mut [J] {
        &mut self.running
    }

    /// The last `count` that wait.
    pub(super) fn last_waiting(&mut self, count: usize) -> impl Iterator<Item = &mut J> {
        let skipped = self.waiting.len().saturating_sub(count);
        self.waiting.iter_mut().skip(skipped)
    }

    /// Whether another turn would be somebody else's.
    pub(super) fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes out all.
    pub(super) fn drain(&mut self) -> Vec<J> {
        let mut all: Vec<J> = self.running.drain(..).collect();
        all.extend(self.waiting.drain(..));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns(jobs: usize, active: usize) -> Turns<usize> {
        let mut turns = Turns::new(NonZeroUsize::new(active).unwrap());
        (0..jobs).for_each(|job| turns.add(job));
        turns
    }

    #[test]
    fn one_after_the_other_has_its_turn() {
        let mut turns = turns(3, 1);
        let mut order = Vec::new();
        for _ in 0..7 {
            let _ = turns.next();
            order.extend_from_slice(turns.running());
        }
        assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn a_job_that_is_removed_in_its_turn_is_followed_by_the_next() {
        let mut turns = turns(3, 1);
        let _ = turns.next();
        assert_eq!(turns.remove(|&job| job == 0), Some(0));
        assert_eq!(turns.remove(|&job| job == 0), None);
        let _ = turns.next();
        assert_eq!(turns.running(), [1]);
    }

    proptest! {
        #[test]
        fn turns_differ_by_one_at_most_and_those_that_had_theirs_are_told(jobs in 0usize..12, active in 1usize..5, rounds in 1usize..40) {
            let mut turns = turns(jobs, active);
            let mut had = vec![0usize; jobs];
            let mut before: Vec<usize> = Vec::new();
            for _ in 0..rounds {
                let count = turns.next();
                let leaving: Vec<usize> = turns.last_waiting(count).map(|job| *job).collect();
                let running = turns.running().to_vec();
                prop_assert_eq!(running.len(), active.min(jobs));
                for job in &before {
                    prop_assert!(running.contains(job) || leaving.contains(job));
                }
                running.iter().for_each(|&job| had[job] += 1);
                before = running;
            }
            let most = had.iter().max().copied().unwrap_or(0);
            let least = had.iter().min().copied().unwrap_or(0);
            prop_assert!(most - least <= 1, "{had:?}");
        }
    }
}

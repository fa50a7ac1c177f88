//! The pages that a task writes: see [`rt_abi::dirty`] for which and what.

use core::sync::atomic::{AtomicU64, Ordering};

use rt_abi::dirty::{Page, Pages, WORDS};
use rt_abi::taskset::{Content, Dirty, Task};

use crate::system::System;
use crate::task;

/// Writes all pages of all tasks that are to have content from the beginning.
pub fn fill(system: &System) {
    for (index, task) in system.set.tasks().iter().enumerate() {
        let Some((dirty, region)) = task.dirty.zip(system.region(index)) else {
            continue;
        };
        if dirty.content == Content::Counter {
            continue;
        }
        for (page, words) in region.chunks_exact(WORDS).enumerate() {
            let place = (index, page as u64);
            write(words, &Page::new(system.set.seed, dirty.content, place, 0));
        }
    }
}

/// From the first word to the last: an interrupted write can be told by that.
fn write(words: &[AtomicU64], page: &Page) {
    for (at, word) in words.iter().enumerate() {
        word.store(page.word(at), Ordering::Relaxed);
    }
}

/// The pages that a job still has to touch.
pub struct Touches {
    dirty: Option<(Dirty, &'static [AtomicU64])>,
    /// Seed, and the task's place in the set.
    origin: (u64, usize),
    pages: Option<Pages>,
    done: u32,
}

impl Touches {
    /// Those of job `job` of the task at place `index`.
    pub fn new(system: &System, index: usize, task: &Task, job: u64) -> Self {
        let origin = (system.set.seed, index);
        let dirty = task.dirty.zip(system.region(index));
        Self {
            pages: dirty.map(|(dirty, _)| Pages::new(origin, task, &dirty, job)),
            dirty,
            origin,
            done: 0,
        }
    }

    /// Touches one more page, if there is one left to touch.
    #[inline(always)]
    pub fn next(&mut self) -> bool {
        match self.dirty {
            Some((dirty, region)) if self.done < dirty.pages => {
                self.touch(dirty.content, region);
                true
            }
            _ => false,
        }
    }

    fn touch(&mut self, content: Content, region: &[AtomicU64]) {
        let page = self.pages.as_mut().map_or(0, |pages| pages.next(self.done));
        self.done += 1;
        let start = usize::try_from(page).map_or(usize::MAX, |page| page.saturating_mul(WORDS));
        let words = region.get(start..start.saturating_add(WORDS));
        let Some(words @ [first, .., last]) = words else {
            return;
        };
        let counter = first.load(Ordering::Relaxed);
        let state = task::state(self.origin.1);
        state.written.fetch_add(1, Ordering::Relaxed);
        if content == Content::Counter {
            first.store(counter.wrapping_add(1), Ordering::Relaxed);
            return;
        }
        let (seed, task) = self.origin;
        let found = Page::new(seed, content, (task, page), counter);
        let is_ours = words
            .get(2)
            .is_some_and(|word| word.load(Ordering::Relaxed) == found.word(2));
        if !is_ours || !found.is_closed_by(last.load(Ordering::Relaxed)) {
            state.wrong.fetch_add(1, Ordering::Relaxed);
        }
        write(words, &found.written(counter.wrapping_add(1)));
    }
}

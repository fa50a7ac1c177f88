//! Whether memory is as a page-writing task of `rt-guest` must have left it: for who has moved the guest meanwhile.

use rt_abi::dirty::{Page, Pages, Verdict, WORDS};

use crate::taskset::{Content, TaskSet};

/// What was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// Pages that the task has written, each as often as it was.
    pub writes: u64,
    /// Pages that it was just writing: one at most.
    pub torn: u64,
}

/// What is not as the task must have left it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unlike {
    /// There is nothing to check.
    #[error(
        "task {task} writes no content that could be checked (content = \"random\" or \"half\")"
    )]
    NoContent {
        /// Place of the task in its set.
        task: usize,
    },
    /// A page is not there.
    #[error("page {page} of the task's set is nowhere in memory")]
    Missing {
        /// Which.
        page: u64,
    },
    /// A page has something in it that was never written there.
    #[error("page {page} of the task's set has something else in it from word {word} on")]
    Wrong {
        /// Which.
        page: u64,
        /// The first word that does not belong there.
        word: usize,
    },
    /// More pages are torn than one task can be writing.
    #[error("{pages} pages are half written")]
    Torn {
        /// How many.
        pages: u64,
    },
    /// A page is not the one written last: after as many writes as all pages together say, it should have been written another
    /// number of times.
    #[error(
        "page {page} was written {found} times, but {expected} times after {writes} writes in all: it is out of date, or another is"
    )]
    Stale {
        /// Which.
        page: u64,
        /// What it says.
        found: u64,
        /// What it should say.
        expected: u64,
        /// What all say together.
        writes: u64,
    },
}

/// Looks for the pages of the task at place `index` of `set` in the guest's `memory`, and checks each against what the task
/// writes.
///
/// # Errors
/// [`Unlike`]: the first thing that is not as it must be.
pub fn check(set: &TaskSet, index: usize, memory: &[u8]) -> Result<Found, Unlike> {
    let described = set
        .tasks()
        .get(index)
        .and_then(|task| task.dirty.zip(Some(task)));
    let Some((dirty, task)) = described.filter(|(dirty, _)| dirty.content != Content::Counter)
    else {
        return Err(Unlike::NoContent { task: index });
    };
    let count = usize::try_from(dirty.region / rt_abi::taskset::PAGE).unwrap_or(usize::MAX);
    let mut counters = vec![None; count];
    let mut torn = 0;
    for words in memory.chunks_exact(8 * WORDS).map(words) {
        let [a, b, c, d, ..] = words;
        let Some(page) = Page::claimed([a, b, c, d], dirty.content) else {
            continue;
        };
        let (owner, number) = page.place();
        let slot = usize::try_from(number)
            .ok()
            .and_then(|at| counters.get_mut(at));
        let Some(slot) = slot.filter(|_| owner == index && page.seed() == set.seed) else {
            continue;
        };
        match page.judge(&words) {
            Verdict::Whole => {}
            Verdict::Torn => torn += 1,
            Verdict::Wrong { at } => {
                return Err(Unlike::Wrong {
                    page: number,
                    word: at,
                });
            }
        }
        *slot = Some(page.counter());
    }
    if torn > 1 {
        return Err(Unlike::Torn { pages: torn });
    }
    let found = (0..)
        .zip(&counters)
        .map(|(page, counter)| counter.ok_or(Unlike::Missing { page }));
    let found = found.collect::<Result<Vec<u64>, _>>()?;
    let writes = found.iter().sum();
    let mut expected = vec![0; count];
    let (mut job, mut left) = (0, writes);
    while left > 0 {
        let mut pages = Pages::new((set.seed, index), task, &dirty, job);
        let touches = u32::try_from(left).unwrap_or(u32::MAX).min(dirty.pages);
        for touch in 0..touches {
            let page = usize::try_from(pages.next(touch)).unwrap_or(0);
            expected[page] += 1;
        }
        left -= u64::from(touches);
        job += 1;
    }
    let mut both = (0..).zip(found.iter().zip(&expected));
    match both.find(|(_, (found, expected))| found != expected) {
        None => Ok(Found { writes, torn }),
        Some((page, (&found, &expected))) => Err(Unlike::Stale {
            page,
            found,
            expected,
            writes,
        }),
    }
}

fn words(bytes: &[u8]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut eight = [0; 8];
        eight.copy_from_slice(bytes);
        *word = u64::from_le_bytes(eight);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "seed=9 task=w,t=1ms,dirty=7,region=64K,pattern=zipf,content=half";

    /// Memory after so many writes, with something else before the task's region.
    fn memory(set: &TaskSet, writes: u32) -> Vec<u8> {
        let task = &set.tasks()[0];
        let dirty = task.dirty.unwrap();
        let mut counters = [0; 16];
        for number in 0..writes {
            let mut pages = Pages::new((9, 0), task, &dirty, u64::from(number / 7));
            let page = (0..=number % 7)
                .map(|touch| pages.next(touch))
                .last()
                .unwrap();
            counters[usize::try_from(page).unwrap()] += 1;
        }
        let mut bytes = vec![3; 8 * WORDS];
        for (page, counter) in (0..).zip(counters) {
            let page = Page::new(9, dirty.content, (0, page), counter);
            bytes.extend((0..WORDS).flat_map(|at| page.word(at).to_le_bytes()));
        }
        bytes
    }

    #[test]
    fn memory_as_it_was_left_passes_and_a_page_out_of_date_does_not() {
        let set = TaskSet::parse(LINE).unwrap();
        let now = memory(&set, 100);
        let found = Found {
            writes: 100,
            torn: 0,
        };
        assert_eq!(check(&set, 0, &now), Ok(found));
        let before = memory(&set, 60);
        let page = |bytes: &[u8], number: usize| bytes[number * 4096..][..4096].to_vec();
        let stale = (1..17)
            .find(|&n| page(&now, n) != page(&before, n))
            .unwrap();
        let mut mixed = now.clone();
        mixed[stale * 4096..][..4096].copy_from_slice(&page(&before, stale));
        assert!(matches!(check(&set, 0, &mixed), Err(Unlike::Stale { .. })));
    }

    #[test]
    fn a_page_that_is_missing_or_damaged_is_named() {
        let set = TaskSet::parse(LINE).unwrap();
        let mut memory = memory(&set, 100);
        memory[4096 * 4 + 800] ^= 1;
        let wrong = Unlike::Wrong { page: 3, word: 100 };
        assert_eq!(check(&set, 0, &memory), Err(wrong));
        memory[4096 * 4..][..4096].fill(0);
        assert_eq!(check(&set, 0, &memory), Err(Unlike::Missing { page: 3 }));
        let plain = TaskSet::parse("task=w,t=1ms,dirty=7").unwrap();
        assert_eq!(
            check(&plain, 0, &memory),
            Err(Unlike::NoContent { task: 0 })
        );
    }
}

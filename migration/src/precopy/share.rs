//! Which pages go over which stream: 64 at a time, in turn.

use crate::ram::{PageNumber, PageSet};

/// Pages that go together.
const BLOCK: u64 = 64;

/// One stream's part of a guest's pages. It is always the same, so that a page's contents come in the order in which they were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Which of the streams, from 0.
    pub index: u16,
    /// How many there are.
    pub of: u16,
}

impl Share {
    /// Whether a page is in it.
    #[must_use]
    pub fn owns(self, page: PageNumber) -> bool {
        page.0 / BLOCK % u64::from(self.of) == u64::from(self.index)
    }

    /// The pages of a set that are in it.
    #[must_use]
    pub fn part(self, pages: &PageSet) -> PageSet {
        let words = pages.words().iter().zip(0u64..);
        let mine = words.map(|(&word, at)| {
            if self.owns(PageNumber(at * BLOCK)) {
                word
            } else {
                0
            }
        });
        PageSet::from_words(pages.pages(), mine.collect()).expect("it has as many words as the set")
    }

    /// Number of a page among those of its own share, without gaps.
    #[must_use]
    pub fn dense(page: PageNumber, of: u16) -> u64 {
        page.0 / BLOCK / u64::from(of) * BLOCK + page.0 % BLOCK
    }
}

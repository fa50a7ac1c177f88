//! Sets of pages, one bit each.

use super::{PageNumber, RamError};

/// A set of the pages of one guest. Page 0 is bit 0 of word 0, as in the kernel's bitmaps; bits beyond the last page are never set.
///
/// Operations on two sets need sets of the same guest, that is of equal `pages()`, and page numbers below it; like an index beyond a slice,
/// others panic. Sets that come from elsewhere are checked once, by `from_words`.
#[derive(Clone, PartialEq, Eq)]
pub struct PageSet {
    pages: u64,
    words: Vec<u64>,
}

/// Pages that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageRange {
    /// The first.
    pub first: PageNumber,
    /// How many; at least one where a `PageSet` gives it.
    pub count: u64,
}

impl PageRange {
    /// Number of the page behind the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.first.0 + self.count
    }
}

/// Word and bit of a page.
fn place(page: u64) -> (usize, u64) {
    let word = usize::try_from(page / 64).expect("a set's words fit into this host's memory");
    (word, 1 << (page % 64))
}

fn words_for(pages: u64) -> usize {
    usize::try_from(pages.div_ceil(64)).expect("a guest's bitmap fits into this host's memory")
}

impl PageSet {
    /// No page, of a guest that has so many.
    #[must_use]
    pub fn empty(pages: u64) -> Self {
        Self {
            pages,
            words: vec![0; words_for(pages)],
        }
    }

    /// Every page of a guest that has so many.
    #[must_use]
    pub fn full(pages: u64) -> Self {
        let mut set = Self {
            pages,
            words: vec![u64::MAX; words_for(pages)],
        };
        set.mask_last();
        set
    }

    /// The set that a bitmap describes. Bits beyond the last page are ignored, as the kernel rounds its bitmaps up.
    ///
    /// # Errors
    /// When there are more or fewer words than so many pages need.
    pub fn from_words(pages: u64, words: Vec<u64>) -> Result<Self, RamError> {
        if words.len() != words_for(pages) {
            return Err(RamError::OtherGuest {
                set: words.len() as u64 * 64,
                pages,
            });
        }
        let mut set = Self { pages, words };
        set.mask_last();
        Ok(set)
    }

    fn mask_last(&mut self) {
        let used = self.pages % 64;
        if let (Some(last), true) = (self.words.last_mut(), used != 0) {
            *last &= (1 << used) - 1;
        }
    }

    /// Pages of the guest, in the set or not.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// How many pages are in the set.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// The bitmap.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Whether a page is in the set; none beyond the last is.
    #[must_use]
    pub fn contains(&self, page: PageNumber) -> bool {
        let (word, bit) = place(page.0);
        self.words.get(word).is_some_and(|found| found & bit != 0)
    }

    /// Puts a page in; whether it was not there before.
    pub fn insert(&mut self, page: PageNumber) -> bool {
        self.assert_has(page.0, 1);
        let (word, bit) = place(page.0);
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Puts pages in that follow one another.
    pub fn insert_range(&mut self, range: PageRange) {
        self.assert_has(range.first.0, range.count);
        let mut page = range.first.0;
        while page < range.end() {
            let (word, _) = place(page);
            let inside = page % 64;
            let here = (64 - inside).min(range.end() - page);
            self.words[word] |= ones(here) << inside;
            page += here;
        }
    }

    /// Takes a page out; whether it was there.
    pub fn remove(&mut self, page: PageNumber) -> bool {
        let there = self.contains(page);
        if there {
            let (word, bit) = place(page.0);
            self.words[word] &= !bit;
        }
        there
    }

    /// Adds the pages of another set.
    pub fn union_with(&mut self, other: &Self) {
        self.assert_same_guest(other);
        for (word, &more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Keeps only the pages that are also in another set.
    pub fn intersect_with(&mut self, other: &Self) {
        self.assert_same_guest(other);
        for (word, &kept) in self.words.iter_mut().zip(&other.words) {
            *word &= kept;
        }
    }

    /// Takes out the pages of another set.
    pub fn subtract(&mut self, other: &Self) {
        self.assert_same_guest(other);
        for (word, &less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }

    /// Adds what the bitmap of a part of memory says, for example of one memory slot: its bit 0 is page `range.first`. Bits beyond
    /// `range.count` are ignored.
    ///
    /// # Errors
    /// When there are too few words for the range, or the guest has no such pages.
    pub fn union_words(&mut self, range: PageRange, words: &[u64]) -> Result<(), RamError> {
        let fits = range
            .first
            .0
            .checked_add(range.count)
            .is_some_and(|end| end <= self.pages);
        if !fits || words.len() < words_for(range.count) {
            return Err(RamError::Outside {
                first: range.first,
                count: range.count,
                pages: self.pages,
            });
        }
        let (start, _) = place(range.first.0);
        let shift = range.first.0 % 64;
        let mut left = range.count;
        for (at, &bits) in words.iter().take(words_for(range.count)).enumerate() {
            let bits = bits & ones(left.min(64));
            left = left.saturating_sub(64);
            self.words[start + at] |= bits << shift;
            if shift > 0 && bits >> (64 - shift) != 0 {
                self.words[start + at + 1] |= bits >> (64 - shift);
            }
        }
        Ok(())
    }

    /// The pages in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = PageNumber> + '_ {
        self.words.iter().zip(0u64..).flat_map(|(&word, at)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                let bit = (rest != 0).then(|| u64::from(rest.trailing_zeros()))?;
                rest &= rest - 1;
                Some(PageNumber(at * 64 + bit))
            })
        })
    }

    /// The pages in ascending order, those that follow one another together, each range as long as can be.
    pub fn ranges(&self) -> impl Iterator<Item = PageRange> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let first = self.next(from, true)?;
            from = self.next(first, false).unwrap_or(self.pages);
            Some(PageRange {
                first: PageNumber(first),
                count: from - first,
            })
        })
    }

    /// First page from `from` on that is in the set, or is not.
    fn next(&self, from: u64, inside: bool) -> Option<u64> {
        let (start, bit) = place(from);
        let mut mask = !(bit - 1);
        for (&word, at) in self.words.get(start..)?.iter().zip(from / 64..) {
            let found = if inside { word } else { !word } & mask;
            if found != 0 {
                let page = at * 64 + u64::from(found.trailing_zeros());
                return (page < self.pages).then_some(page);
            }
            mask = u64::MAX;
        }
        None
    }

    fn assert_has(&self, first: u64, count: u64) {
        assert!(
            first
                .checked_add(count)
                .is_some_and(|end| end <= self.pages),
            "{count} pages from page {first} on are not of a guest of {} pages",
            self.pages
        );
    }

    fn assert_same_guest(&self, other: &Self) {
        assert_eq!(self.pages, other.pages, "sets of two guests do not mix");
    }
}

/// The lowest `count` bits, of at most 64.
fn ones(count: u64) -> u64 {
    if count == 64 {
        u64::MAX
    } else {
        (1 << count) - 1
    }
}

impl std::fmt::Debug for PageSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ranges = self.ranges().map(|range| range.first.0..range.end());
        write!(f, "PageSet of {}: ", self.pages)?;
        f.debug_set().entries(ranges).finish()
    }
}

//! A guest for tests: memory that threads write to, word by word, while others read it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{DirtyLog, GuestRam, PAGE_SIZE, PageNumber, PageSet, RamError};

const WORDS: usize = PAGE_SIZE / 8;

/// The guest's memory and its dirty bits.
pub(crate) struct FakeRam {
    words: Vec<AtomicU64>,
    dirty: Vec<AtomicU64>,
    tracked: AtomicBool,
}

/// Its log.
pub(crate) struct FakeLog(pub(crate) Arc<FakeRam>);

impl FakeRam {
    pub(crate) fn new(pages: usize) -> Arc<Self> {
        let zeros = |count| (0..count).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            words: zeros(pages * WORDS),
            dirty: zeros(pages.div_ceil(64)),
            tracked: AtomicBool::new(false),
        })
    }

    /// What a guest's write does: the word changes, and its page is dirty from then on.
    pub(crate) fn poke(&self, page: u64, word: usize, value: u64) {
        let at = usize::try_from(page).unwrap();
        self.words[at * WORDS + word % WORDS].store(value, Ordering::SeqCst);
        if self.tracked.load(Ordering::SeqCst) {
            self.dirty[at / 64].fetch_or(1 << (page % 64), Ordering::SeqCst);
        }
    }

    pub(crate) fn fill(&self, page: u64, mut value: impl FnMut(usize) -> u64) {
        (0..WORDS).for_each(|word| self.poke(page, word, value(word)));
    }

    pub(crate) fn content(&self) -> Vec<u64> {
        self.words
            .iter()
            .map(|word| word.load(Ordering::SeqCst))
            .collect()
    }

    fn slice(&self, first: PageNumber, bytes: usize) -> Result<&[AtomicU64], RamError> {
        if !bytes.is_multiple_of(PAGE_SIZE) {
            return Err(RamError::NotWholePages { bytes });
        }
        let from = usize::try_from(first.0)
            .unwrap_or(usize::MAX)
            .saturating_mul(WORDS);
        let found = self.words.get(from..from.saturating_add(bytes / 8));
        found.ok_or(RamError::Outside {
            first,
            count: (bytes / PAGE_SIZE) as u64,
            pages: self.pages(),
        })
    }
}

impl GuestRam for FakeRam {
    fn pages(&self) -> u64 {
        (self.words.len() / WORDS) as u64
    }

    fn read(&self, first: PageNumber, into: &mut [u8]) -> Result<(), RamError> {
        let words = self.slice(first, into.len())?;
        for (bytes, word) in into.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.load(Ordering::SeqCst).to_le_bytes());
        }
        Ok(())
    }

    fn write(&self, first: PageNumber, from: &[u8]) -> Result<(), RamError> {
        let words = self.slice(first, from.len())?;
        for (bytes, word) in from.chunks_exact(8).zip(words) {
            word.store(
                u64::from_le_bytes(bytes.try_into().unwrap()),
                Ordering::SeqCst,
            );
        }
        Ok(())
    }
}

impl DirtyLog for FakeLog {
    fn start(&mut self) -> Result<(), RamError> {
        self.0.tracked.store(true, Ordering::SeqCst);
        self.0
            .dirty
            .iter()
            .for_each(|word| word.store(0, Ordering::SeqCst));
        Ok(())
    }

    fn look(&mut self) -> Result<PageSet, RamError> {
        let words = self
            .0
            .dirty
            .iter()
            .map(|word| word.load(Ordering::SeqCst))
            .collect();
        PageSet::from_words(self.0.pages(), words)
    }

    fn clear(&mut self, pages: &PageSet) -> Result<(), RamError> {
        for (word, &gone) in self.0.dirty.iter().zip(pages.words()) {
            word.fetch_and(!gone, Ordering::SeqCst);
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), RamError> {
        self.0.tracked.store(false, Ordering::SeqCst);
        Ok(())
    }
}

//! Pages of guest memory that the monitor itself writes, noted while somebody wants to know.
//!
//! KVM's dirty log knows what vCPUs write and nothing of what devices do. Every write through `vm-memory` passes here, and the one writer
//! that does not ([`crate::kernel::Stretches`]) says so itself. While nobody wants to know, a write costs one load and a branch, and there
//! is no bitmap.
//!
//! A page is noted after it was written. Whoever takes the note away and then reads the page has the write in what was read, or finds the
//! note again.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, compiler_fence};

use vm_memory::bitmap::{Bitmap, NewBitmap, RefSlice, WithBitmapSlice};

use super::PAGE;

/// Notes of one region of guest memory.
#[derive(Debug, Default)]
pub struct WriteMarks {
    pages: usize,
    on: AtomicBool,
    /// A bit per page; made when they are first wanted.
    words: OnceLock<Box<[AtomicU64]>>,
}

impl WriteMarks {
    /// Nothing is noted any more, and from now on writes are, once [`crate::kernel::fence_all_threads`] has returned: a thread that
    /// was just writing may not have seen it before.
    pub fn begin(&self) {
        let words = self.words.get_or_init(|| {
            let count = self.pages.div_ceil(64);
            (0..count).map(|_| AtomicU64::new(0)).collect()
        });
        words
            .iter()
            .for_each(|word| word.store(0, Ordering::Relaxed));
        self.on.store(true, Ordering::SeqCst);
    }

    /// Writes are not noted any more.
    pub fn end(&self) {
        self.on.store(false, Ordering::SeqCst);
    }

    /// Whether writes are noted.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on.load(Ordering::Relaxed)
    }

    /// The notes, 64 pages a word.
    pub fn words(&self) -> impl Iterator<Item = u64> + '_ {
        let words = self.words.get().into_iter().flatten();
        words.map(|word| word.load(Ordering::Acquire))
    }

    /// Takes notes away: those of `pages`, which are the pages from 64 times `word` on.
    pub fn take(&self, word: usize, pages: u64) {
        if let Some(word) = self.words.get().and_then(|words| words.get(word)) {
            word.fetch_and(!pages, Ordering::AcqRel);
        }
    }

    #[cold]
    fn note(&self, offset: usize, length: usize) {
        let page = usize::try_from(PAGE).unwrap_or(usize::MAX);
        let Some(last) = length.checked_sub(1).and_then(|n| offset.checked_add(n)) else {
            return;
        };
        let words = self.words.get().map_or(&[][..], |words| words);
        for page in offset / page..=last / page {
            if let Some(word) = words.get(page / 64) {
                word.fetch_or(1 << (page % 64), Ordering::AcqRel);
            }
        }
    }
}

impl<'a> WithBitmapSlice<'a> for WriteMarks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for WriteMarks {
    #[inline]
    fn mark_dirty(&self, offset: usize, len: usize) {
        // Not looked at before the bytes are written; the processor's part is done by whoever begins.
        compiler_fence(Ordering::SeqCst);
        if self.is_on() {
            self.note(offset, len);
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset / usize::try_from(PAGE).unwrap_or(usize::MAX);
        let word = self.words.get().and_then(|words| words.get(page / 64));
        word.is_some_and(|word| word.load(Ordering::Acquire) & 1 << (page % 64) != 0)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

impl NewBitmap for WriteMarks {
    fn with_len(len: usize) -> Self {
        Self {
            pages: len.div_ceil(usize::try_from(PAGE).unwrap_or(usize::MAX)),
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Ram, marks};
    use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

    /// Numbers of the pages noted, in each region.
    fn noted(ram: &Ram) -> Vec<Vec<u64>> {
        let pages = |marks: &WriteMarks| {
            let words: Vec<u64> = marks.words().collect();
            let pages = (0..words.len() as u64 * 64).filter(|page| {
                let word = usize::try_from(page / 64).unwrap();
                words[word] & 1 << (page % 64) != 0
            });
            pages.collect()
        };
        ram.iter().map(|region| pages(marks(region))).collect()
    }

    #[test]
    fn what_is_written_is_noted_from_its_first_to_its_last_page_and_only_while_it_is_wanted() {
        let ram = Ram::from_ranges(&[(GuestAddress(0), 1 << 20), (GuestAddress(1 << 30), 1 << 20)]);
        let ram = ram.unwrap();
        ram.write_slice(&[1; 100], GuestAddress(0x1000)).unwrap();
        assert!(noted(&ram).iter().all(Vec::is_empty));
        for region in ram.iter() {
            marks(region).begin();
        }
        ram.write_slice(&[1; 8193], GuestAddress(0x4fff)).unwrap();
        ram.write_obj(7_u64, GuestAddress((1 << 30) + 0x4_5008))
            .unwrap();
        ram.store(7_u16, GuestAddress((1 << 30) + 0xf_f000), Ordering::Release)
            .unwrap();
        assert_eq!(noted(&ram), [vec![4, 5, 6], vec![0x45, 0xff]]);
        let first = ram.iter().next().unwrap();
        marks(first).take(0, 1 << 5);
        assert_eq!(noted(&ram)[0], [4, 6]);
        for region in ram.iter() {
            marks(region).end();
        }
        ram.write_obj(7_u64, GuestAddress(0x9000)).unwrap();
        assert_eq!(noted(&ram)[0], [4, 6]);
    }
}

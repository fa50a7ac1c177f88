//! What a stream sent last of its pages, as far as the memory for it reaches.

use crate::precopy::Share;
use crate::ram::{PAGE_SIZE, PageNumber};
use units::ByteSize;

/// Each page has one place, where it replaces what was there before.
pub(super) struct Sent {
    streams: u16,
    /// Which page a place holds.
    held: Vec<Option<PageNumber>>,
    contents: Vec<u8>,
}

impl Sent {
    /// One stream's part of `memory`; none where no page fits into it.
    pub(super) fn new(memory: ByteSize, streams: u16) -> Option<Self> {
        let bytes = usize::try_from(memory.bytes()).ok()? / usize::from(streams.max(1));
        let places = bytes / PAGE_SIZE;
        (places > 0).then(|| Self {
            streams,
            held: vec![None; places],
            contents: vec![0; places * PAGE_SIZE],
        })
    }

    fn place(&self, page: PageNumber) -> usize {
        let places = self.held.len() as u64;
        usize::try_from(Share::dense(page, self.streams) % places)
            .expect("it is less than a length")
    }

    /// What was sent last of a page, where it is still known.
    pub(super) fn base(&mut self, page: PageNumber) -> Option<&mut [u8]> {
        let place = self.place(page);
        (self.held[place] == Some(page))
            .then(|| &mut self.contents[place * PAGE_SIZE..][..PAGE_SIZE])
    }

    pub(super) fn keep(&mut self, page: PageNumber, content: &[u8]) {
        let place = self.place(page);
        self.held[place] = Some(page);
        self.contents[place * PAGE_SIZE..][..PAGE_SIZE].copy_from_slice(content);
    }

    pub(super) fn forget(&mut self, page: PageNumber) {
        let place = self.place(page);
        if self.held[place] == Some(page) {
            self.held[place] = None;
        }
    }
}

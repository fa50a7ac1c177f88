//! One stream's end at the source: reads pages, writes them down, sends them.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};

use super::control::Shared;
use super::{Pacer, PrecopyError, PrecopySettings, Share};
use crate::page::{Encoder, Run};
use crate::ram::{GuestRam, PAGE_SIZE, PageNumber, PageRange, PageSet};
use crate::transport::Framed;
use crate::wire::pages::MOST_PAGES;
use crate::wire::{EndOfRound, Kind, Message, PAGES_HEADER_BYTES, PagesHeader, RoundDigest};

/// Pages read at once where no rate is kept: as many as stay in a CPU's cache on their way to the network.
const READ_TOGETHER: usize = 32;
/// Bytes sent at once where no rate is kept.
const SENT_TOGETHER: usize = 128 << 10;

/// What a stream is told to do.
pub(super) enum Order {
    /// Send its share of these pages.
    Send {
        /// In this round.
        round: u32,
        /// The pages of all streams.
        pages: Arc<PageSet>,
    },
    /// Say that the round is over.
    End {
        /// Which.
        round: u32,
    },
}

/// Which stream, and what it said at a round's end.
pub(super) type Answer = (u16, Result<Option<EndOfRound>, PrecopyError>);

/// How much is read and sent at once.
pub(super) struct Chunk {
    pages: Vec<u8>,
    send: usize,
}

impl Chunk {
    pub(super) fn new(settings: &PrecopySettings) -> Self {
        let piece = Pacer::piece(settings.rate, settings.period);
        let send = piece
            .unwrap_or(SENT_TOGETHER)
            .clamp(PAGE_SIZE, SENT_TOGETHER);
        let pages = (send / PAGE_SIZE).clamp(1, READ_TOGETHER);
        Self {
            pages: vec![0; pages * PAGE_SIZE],
            send,
        }
    }
}

/// What was sent of a round.
#[derive(Default)]
pub(super) struct Sent {
    pages: u64,
    digest: RoundDigest,
}

pub(super) struct StreamSender {
    pub(super) framed: Framed,
    pub(super) encoder: Encoder,
    pub(super) ram: Arc<dyn GuestRam>,
    pub(super) share: Share,
    pub(super) shared: Arc<Shared>,
    pub(super) chunk: Chunk,
    pub(super) sent: Sent,
}

impl StreamSender {
    /// Does what it is told, until nobody tells it any more or it fails.
    pub(super) fn run(mut self, todo: &Receiver<Order>, answer: &Sender<Answer>) {
        for order in todo {
            let outcome = match order {
                Order::Send { round, pages } => self.send(round, &pages).map(|()| None),
                Order::End { round } => self.end(round).map(Some),
            };
            let failed = outcome.is_err();
            // Nobody listens any more where the one who directs has given up.
            if answer.send((self.share.index, outcome)).is_err() || failed {
                return;
            }
        }
        if let Err(error) = self.framed.connection().close() {
            let _ = answer.send((self.share.index, Err(error.into())));
        }
    }

    fn send(&mut self, round: u32, pages: &PageSet) -> Result<(), PrecopyError> {
        let mine;
        let pages = if self.share.of == 1 {
            pages
        } else {
            mine = self.share.part(pages);
            &mine
        };
        for range in pages.ranges() {
            self.range(round, range)?;
        }
        self.flush()
    }

    fn range(&mut self, round: u32, range: PageRange) -> Result<(), PrecopyError> {
        let mut first = range.first.0;
        let together = (self.chunk.pages.len() / PAGE_SIZE) as u64;
        while first < range.end() {
            let count = together.min(range.end() - first);
            let bytes = usize::try_from(count).map_or(0, |count| count * PAGE_SIZE);
            self.ram
                .read(PageNumber(first), &mut self.chunk.pages[..bytes])?;
            self.chunk(round, PageNumber(first), bytes)?;
            first += count;
        }
        Ok(())
    }

    /// Writes down and sends what was read into the first bytes of the chunk.
    fn chunk(&mut self, round: u32, first: PageNumber, bytes: usize) -> Result<(), PrecopyError> {
        debug_assert!(bytes <= MOST_PAGES as usize * PAGE_SIZE);
        let (mut done, mut first) = (0, first);
        while done < bytes {
            let run = self.frame(round, first, done..bytes)?;
            let pages = u64::from(run.count);
            self.sent.pages += pages;
            self.shared.count(pages, 0);
            done += run.count as usize * PAGE_SIZE;
            first.0 += pages;
            if self.framed.unsent() >= self.chunk.send {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn frame(
        &mut self,
        round: u32,
        first: PageNumber,
        content: std::ops::Range<usize>,
    ) -> Result<Run, PrecopyError> {
        let Self {
            framed,
            encoder,
            chunk,
            sent,
            ..
        } = self;
        let mut written = None;
        framed.add(Kind::Pages, |into| {
            let start = into.len();
            into.extend([0; PAGES_HEADER_BYTES]);
            let run = encoder.encode(first, &chunk.pages[content], into);
            let bytes = into.len() - start - PAGES_HEADER_BYTES;
            let header = PagesHeader {
                first,
                round,
                count: run.count,
                encoding: run.encoding,
                bytes: u32::try_from(bytes).expect("no encoding is longer than the pages"),
            };
            into[start..start + PAGES_HEADER_BYTES].copy_from_slice(&header.to_bytes());
            sent.digest
                .add(&header, &into[start + PAGES_HEADER_BYTES..]);
            written = Some(run);
        })?;
        Ok(written.expect("a frame's payload is written before the frame is done"))
    }

    fn flush(&mut self) -> Result<(), PrecopyError> {
        let bytes = self.framed.unsent();
        if bytes > 0 {
            self.shared.pace(bytes)?;
            self.framed.flush()?;
            self.shared.count(0, bytes as u64);
        }
        Ok(())
    }

    fn end(&mut self, round: u32) -> Result<EndOfRound, PrecopyError> {
        let end = EndOfRound {
            round,
            pages: std::mem::take(&mut self.sent.pages),
            digest: self.sent.digest.take(),
        };
        self.framed.say(&Message::EndOfRound(end))?;
        Ok(end)
    }
}

//! One stream's end at the destination: takes pages and puts them into memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::PrecopyError;
use crate::page::Decoder;
use crate::ram::GuestRam;
use crate::transport::{Framed, Received};
use crate::wire::{EndOfRound, Message, PagesHeader, RoundDigest};

/// A stream's round that is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoundReceived {
    /// The stream.
    pub stream: u16,
    /// What its sender said at the round's end, which is also what came.
    pub end: EndOfRound,
}

/// Takes one stream's pages.
pub struct StreamReceiver {
    framed: Framed,
    index: u16,
    ram: Arc<dyn GuestRam>,
    decoder: Decoder,
    digest: RoundDigest,
    round: u32,
    pages: u64,
    arrived: Arc<AtomicU64>,
}

impl StreamReceiver {
    /// Of a stream that has shown its token.
    ///
    /// # Errors
    /// When no decompressor can be made.
    pub fn new(framed: Framed, index: u16, ram: Arc<dyn GuestRam>) -> Result<Self, PrecopyError> {
        Ok(Self {
            framed,
            index,
            ram,
            decoder: Decoder::new()?,
            digest: RoundDigest::default(),
            round: 0,
            pages: 0,
            arrived: Arc::default(),
        })
    }

    /// Counts in `arrived` the pages that come, beside other streams.
    #[must_use]
    pub fn counting(mut self, arrived: Arc<AtomicU64>) -> Self {
        self.arrived = arrived;
        self
    }

    /// Takes pages until the stream ends in order between two rounds. `idle` is how long the source may send nothing, between rounds too; `ended` hears
    /// of each round of this stream that is in memory.
    ///
    /// # Errors
    /// When the stream fails, stops, or carries what it should not.
    pub fn run(
        mut self,
        idle: Duration,
        ended: &mut dyn FnMut(RoundReceived),
    ) -> Result<(), PrecopyError> {
        loop {
            match self.framed.hear(idle)? {
                Some(Received::Pages(header, bytes)) => {
                    let mut place = Place {
                        ram: &*self.ram,
                        decoder: &mut self.decoder,
                        index: self.index,
                        round: self.round,
                    };
                    place.put(&header, bytes)?;
                    self.digest.add(&header, bytes);
                    self.pages += u64::from(header.count);
                    self.arrived
                        .fetch_add(header.count.into(), Ordering::Relaxed);
                }
                Some(Received::Message(Message::EndOfRound(end))) => ended(self.end(end)?),
                Some(Received::Message(other)) => {
                    return Err(PrecopyError::Misplaced {
                        stream: self.index,
                        kind: format!("{:?}", other.kind()),
                    });
                }
                None if self.pages == 0 => return Ok(()),
                None => {
                    return Err(PrecopyError::Unfinished {
                        stream: self.index,
                        round: self.round,
                        pages: self.pages,
                    });
                }
            }
        }
    }

    fn end(&mut self, end: EndOfRound) -> Result<RoundReceived, PrecopyError> {
        let here = EndOfRound {
            round: self.round,
            pages: std::mem::take(&mut self.pages),
            digest: self.digest.take(),
        };
        if end != here {
            return Err(PrecopyError::Disagreement {
                stream: self.index,
                got_round: end.round,
                got_pages: end.pages,
                got: end.digest,
                round: here.round,
                pages: here.pages,
                expected: here.digest,
            });
        }
        self.round += 1;
        Ok(RoundReceived {
            stream: self.index,
            end,
        })
    }
}

/// Where a frame's pages go.
struct Place<'a> {
    ram: &'a dyn GuestRam,
    decoder: &'a mut Decoder,
    index: u16,
    round: u32,
}

impl Place<'_> {
    fn put(&mut self, header: &PagesHeader, bytes: &[u8]) -> Result<(), PrecopyError> {
        if header.round != self.round {
            return Err(PrecopyError::Round {
                stream: self.index,
                page: header.first,
                got: header.round,
                expected: self.round,
            });
        }
        let (end, pages) = (
            header.first.0.saturating_add(header.count.into()),
            self.ram.pages(),
        );
        if end > pages {
            return Err(PrecopyError::Beyond { end, pages });
        }
        let now = |into: &mut [u8]| {
            self.ram
                .read(header.first, into)
                .map_err(PrecopyError::from)
        };
        let content = self.decoder.decode(header, bytes, now)?;
        self.ram.write(header.first, content)?;
        Ok(())
    }
}

//! Why memory does not go over.

use crate::page::PageError;
use crate::ram::{PageNumber, RamError};
use crate::transport::TransportError;
use crate::wire::Digest;

/// Memory does not go over.
#[derive(Debug, thiserror::Error)]
pub enum PrecopyError {
    /// It was stopped from outside.
    #[error("the migration was cancelled")]
    Cancelled,
    /// There must be one at least.
    #[error("no stream to send memory over, expected 1 to 64")]
    NoStreams,
    /// A set that was made for another guest.
    #[error("a class over {set} pages is used with a guest of {pages} pages")]
    OtherGuest {
        /// Pages that the class can hold.
        set: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// A stream's thread could not begin.
    #[error("cannot begin a stream's thread in its reservation")]
    Thread(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A stream failed before and was used again.
    #[error("a stream of this migration has failed before; begin a new one")]
    Ended,
    /// A page of another guest.
    #[error("pages up to {end} came for a guest of {pages} pages")]
    Beyond {
        /// Behind the last page that came.
        end: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// Pages of another round than the stream's.
    #[error("stream {stream} sent page {page} of round {got} in round {expected}")]
    Round {
        /// The stream.
        stream: u16,
        /// The page.
        page: PageNumber,
        /// Its round.
        got: u32,
        /// The round it should be.
        expected: u32,
    },
    /// The two sides do not agree on what was sent.
    #[error(
        "stream {stream} ended round {got_round} with {got_pages} pages and digest {got}, expected round {round}, {pages} pages and digest {expected}"
    )]
    Disagreement {
        /// The stream.
        stream: u16,
        /// What the sender says of the round's number.
        got_round: u32,
        /// Of its pages.
        got_pages: u64,
        /// Of their digest.
        got: Digest,
        /// What came.
        round: u32,
        /// Pages that came.
        pages: u64,
        /// Their digest.
        expected: Digest,
    },
    /// Something else than pages came over a stream.
    #[error("stream {stream} carried a {kind}, expected pages or the end of a round")]
    Misplaced {
        /// The stream.
        stream: u16,
        /// What came.
        kind: String,
    },
    /// A stream ended in the middle of a round.
    #[error("stream {stream} ended after {pages} pages of round {round}, expected the round's end")]
    Unfinished {
        /// The stream.
        stream: u16,
        /// The round.
        round: u32,
        /// Pages that came of it.
        pages: u64,
    },
    /// The guest's memory or its dirty log failed.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Contents cannot be written down or read.
    #[error(transparent)]
    Page(#[from] PageError),
    /// The connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
}

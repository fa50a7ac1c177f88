//! What goes over the wire: frames, messages, the layout of pages, versions.
//!
//! - [`frame`]: head, payload, checksum; numbered, bounded.
//! - [`message`]: what the two sides say to each other. Small things are postcard, whose left-over bytes are an error.
//! - [`pages`], [`part`]: the bulk, in fixed layouts that are written and read in place.
//! - [`version`]: which forms two releases share.
//! - [`digest`]: what both sides compute over the last round and the state.
//!
//! Everything here is pure: bytes in, values or errors out. Reading and writing sockets is `transport`'s.
//!
//! # Connections
//!
//! ```text
//! control   Hello →  ← Hello | Refuse     then the messages of `protocol`, one frame each
//! data      Stream → (token, index)       then Pages and EndOfRound
//! inquiry   Inquire →  ← Answer           and closed
//! ```
//!
//! Streams and inquiries use the version that the session's `Hello` agreed upon. A form is never changed, only added to in a new version: the bytes of
//! version 1 are kept in `migration/tests/fixtures`.

pub mod digest;
mod error;
pub mod frame;
pub mod message;
pub mod pages;
pub mod part;
pub mod version;

pub use digest::{Digest, RoundDigest, StateDigest};
pub use error::{FrameError, MessageError};
pub use frame::{Cut, HEAD_BYTES, Head, Incoming, Kind, Outgoing, TRAILER_BYTES};
pub use message::{
    Accept, Answer, Boot, EndOfRound, Hello, Inquire, MOST_STREAMS, Message, Offer, Prepare,
    Refuse, Session, Side, Standing, Stream, Token,
};
pub use pages::{Encoding, PAGES_HEADER_BYTES, PagesHeader};
pub use part::Tally;
pub use version::{NEWEST, SPOKEN, Version, VersionError, Versions};

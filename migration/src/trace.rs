//! Recorded traces of a guest's writes: file format, reader, writer, and pre-copy replayed over them at any bandwidth.
//!
//! A trace is what the dirty log showed, window by window. The file, version 1; numbers are little endian, `varint` is LEB128:
//!
//! ```text
//! header   8 bytes "CHRDIRTY", u16 version, u16 bits of a page's size (12), u64 pages, u32 CRC of all these
//! sample   u8 1, varint length, payload, u32 CRC of the payload
//!          payload: varint ns since the last window's end, varint ns of the window, varint number of ranges,
//!                   per range varint pages skipped since the last range's end, varint pages in the range less one
//! end      u8 0, u64 number of samples, u32 CRC of that
//! ```
//!
//! A recorder that dies leaves a file without its end: the reader hands out every whole sample and then says that the trace is truncated.

mod checksum;
mod read;
mod replay;
mod timeline;
mod write;

#[cfg(test)]
mod tests;

pub use read::{Reader, TraceError};
pub use replay::{Replay, ReplayError, Replayed, ReplayedRound, watch};
pub use timeline::{Timeline, TimelineError};
pub use write::Writer;

use std::time::Duration;

use crate::ram::PageSet;

const MAGIC: [u8; 8] = *b"CHRDIRTY";
const VERSION: u16 = 1;
const PAGE_BITS: u16 = 12;
const SAMPLE: u8 = 1;
const END: u8 = 0;
/// Pages of 4 TiB.
const MOST_PAGES: u64 = 1 << 30;
/// A window that is longer says nothing of when a page was written.
const LONGEST_WINDOW: Duration = Duration::from_secs(60);

/// Which pages were written within a window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// End of the window since the trace's beginning.
    pub at: Duration,
    /// Length of the window.
    pub window: Duration,
    /// The pages.
    pub dirty: PageSet,
}

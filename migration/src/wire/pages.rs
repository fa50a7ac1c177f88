//! The payload of a `Pages` frame: a header of fixed layout, then the pages' bytes.
//!
//! | offset | bytes | field | |
//! |---|---|---|---|
//! | 0 | 8 | first page | number of a guest page |
//! | 8 | 4 | round | from 0 |
//! | 12 | 4 | count | of pages, 1 to 256, consecutive |
//! | 16 | 1 | encoding | [`Encoding`] |
//! | 17 | 3 | | 0 |
//! | 20 | 4 | bytes | after this header; not more than 4096 per page |
//!
//! The checksum over header and bytes is that of the frame, so that every byte is hashed once. What the bytes of an encoding mean is `page`'s.

use super::error::MessageError;
use crate::ram::{PAGE_SIZE, PageNumber};

/// Bytes before the pages' own.
pub const PAGES_HEADER_BYTES: usize = 24;
/// Most pages in one frame.
pub const MOST_PAGES: u32 = 256;

/// How the bytes of pages are written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Encoding {
    /// All zero; no bytes.
    Zero = 0,
    /// As they are.
    Raw = 1,
    /// Compressed.
    Compressed = 2,
    /// As differences from what the destination has.
    Delta = 3,
}

impl Encoding {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Zero, Self::Raw, Self::Compressed, Self::Delta];

    /// Whether `count` pages can take `bytes` in it.
    fn fits(self, count: u32, bytes: u32) -> bool {
        let pages = usize::try_from(count).unwrap_or(usize::MAX);
        let plain = pages.saturating_mul(PAGE_SIZE);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match self {
            Self::Zero => bytes == 0,
            Self::Raw => bytes == plain,
            Self::Compressed | Self::Delta => (1..=plain).contains(&bytes),
        }
    }
}

/// What the bytes of a `Pages` frame are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PagesHeader {
    /// First page.
    pub first: PageNumber,
    /// Round it is sent in.
    pub round: u32,
    /// How many consecutive pages.
    pub count: u32,
    /// How they are written down.
    pub encoding: Encoding,
    /// Bytes after the header.
    pub bytes: u32,
}

impl PagesHeader {
    /// As it is on the wire.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PAGES_HEADER_BYTES] {
        let mut bytes = [0; PAGES_HEADER_BYTES];
        bytes[..8].copy_from_slice(&self.first.0.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.round.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.count.to_le_bytes());
        bytes[16] = self.encoding as u8;
        bytes[20..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Header and bytes of a frame's payload. That the pages are the guest's is for the receiver to check, who knows how many it has.
    ///
    /// # Errors
    /// [`MessageError::Pages`] where the header contradicts itself or the payload's length.
    pub fn parse(payload: &[u8]) -> Result<(Self, &[u8]), MessageError> {
        let short = || MessageError::Pages {
            reason: format!(
                "{} bytes, expected a header of {PAGES_HEADER_BYTES} at least",
                payload.len()
            ),
        };
        let (header, bytes) = payload
            .split_first_chunk::<PAGES_HEADER_BYTES>()
            .ok_or_else(short)?;
        let header = Self::from_header(header)?;
        if usize::try_from(header.bytes) != Ok(bytes.len()) {
            return Err(MessageError::Pages {
                reason: format!(
                    "{} bytes after the header, which says {}",
                    bytes.len(),
                    header.bytes
                ),
            });
        }
        Ok((header, bytes))
    }

    fn from_header(header: &[u8; PAGES_HEADER_BYTES]) -> Result<Self, MessageError> {
        let refused = |reason: String| MessageError::Pages { reason };
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&header[at..at + 4]);
            u32::from_le_bytes(word)
        };
        let first = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (round, count, bytes) = (word(8), word(12), word(20));
        let encoding = Encoding::ALL
            .into_iter()
            .find(|encoding| *encoding as u8 == header[16])
            .ok_or_else(|| refused(format!("unknown encoding {}, expected 0 to 3", header[16])))?;
        if header[17..20] != [0; 3] {
            return Err(refused(format!(
                "reserved bytes {:02x?}, expected zeros",
                &header[17..20]
            )));
        }
        if !(1..=MOST_PAGES).contains(&count) || first.checked_add(u64::from(count)).is_none() {
            return Err(refused(format!(
                "{count} pages from page {first} on, expected 1 to {MOST_PAGES} that exist"
            )));
        }
        if !encoding.fits(count, bytes) {
            return Err(refused(format!(
                "{count} pages as {encoding:?} cannot take {bytes} bytes"
            )));
        }
        Ok(Self {
            first: PageNumber(first),
            round,
            count,
            encoding,
            bytes,
        })
    }
}

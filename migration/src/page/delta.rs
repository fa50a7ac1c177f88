//! A page by what changed since it was sent last.
//!
//! First four bytes: the low half of XXH3-64 of the page as it must come out, so that a base that is not the sender's is noticed. Then, until the bytes
//! end: how many words of 8 bytes stay as they are, how many come new, and these. Both numbers take one byte below 128, else two (7 bits each, low half
//! first, as in LEB128).

use crate::ram::PAGE_SIZE;
use xxhash_rust::xxh3::xxh3_64;

const WORD: usize = 8;
const CHECK: usize = 4;
/// Most bytes of a page's changes; with more, the page goes whole.
pub const MOST_BYTES: usize = PAGE_SIZE / 2;

/// Changes that cannot be applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// The bytes end inside of a change.
    #[error("its changes are cut off")]
    Truncated,
    /// A change reaches beyond the page.
    #[error("its changes reach beyond the page")]
    Beyond,
    /// A number takes more than two bytes.
    #[error("a length in its changes is too long")]
    Number,
    /// A change without new words.
    #[error("a change in it is empty")]
    Empty,
    /// The outcome is another page than the sender's.
    #[error(
        "the page that comes out is not the one that was sent: the two hosts hold different pages"
    )]
    Base,
}

fn check(page: &[u8]) -> [u8; CHECK] {
    let [b0, b1, b2, b3, ..] = xxh3_64(page).to_le_bytes();
    [b0, b1, b2, b3]
}

/// Writes down what turns `base` into `now`; how many bytes of `into` (at least [`MOST_BYTES`]) that takes, `None` where it takes too many. Both pages are
/// of one length, at most [`PAGE_SIZE`].
pub fn encode(base: &[u8], now: &[u8], into: &mut [u8]) -> Option<usize> {
    let into = into.get_mut(..MOST_BYTES)?;
    let (mut written, mut at) = (CHECK, 0);
    while let Some((from, to)) = next_change(base, now, at) {
        put(from - at, into, &mut written)?;
        put(to - from, into, &mut written)?;
        let new = &now[from * WORD..to * WORD];
        into.get_mut(written..written + new.len())?
            .copy_from_slice(new);
        written += new.len();
        at = to;
    }
    into[..CHECK].copy_from_slice(&check(now));
    Some(written)
}

/// First words from `at` on that differ: from and to.
fn next_change(base: &[u8], now: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = base[at * WORD..]
        .chunks_exact(WORD)
        .zip(now[at * WORD..].chunks_exact(WORD));
    let mut differ = rest.map(|(a, b)| a != b);
    let from = at + differ.position(|differs| differs)?;
    let length = 1 + differ.take_while(|&differs| differs).count();
    Some((from, from + length))
}

fn put(number: usize, into: &mut [u8], written: &mut usize) -> Option<()> {
    let low = u8::try_from(number & 0x7f).ok()?;
    let high = u8::try_from(number >> 7).ok()?;
    let bytes: &[u8] = if high == 0 {
        &[low]
    } else {
        &[low | 0x80, high]
    };
    into.get_mut(*written..*written + bytes.len())?
        .copy_from_slice(bytes);
    *written += bytes.len();
    Some(())
}

fn take(bytes: &mut &[u8]) -> Result<usize, DeltaError> {
    let mut next = || {
        let (&byte, rest) = bytes.split_first().ok_or(DeltaError::Truncated)?;
        *bytes = rest;
        Ok(usize::from(byte))
    };
    let low = next()?;
    if low < 0x80 {
        return Ok(low);
    }
    match next()? {
        high if high < 0x80 => Ok(low & 0x7f | high << 7),
        _ => Err(DeltaError::Number),
    }
}

/// Turns `page` into the one that was sent.
///
/// # Errors
/// [`DeltaError`]; `page` may then hold some of the changes.
pub fn apply(bytes: &[u8], page: &mut [u8]) -> Result<(), DeltaError> {
    let (expected, mut bytes) = bytes
        .split_first_chunk::<CHECK>()
        .ok_or(DeltaError::Truncated)?;
    let mut at = 0;
    while !bytes.is_empty() {
        let from = at + take(&mut bytes)? * WORD;
        let length = take(&mut bytes)? * WORD;
        if length == 0 {
            return Err(DeltaError::Empty);
        }
        let place = page
            .get_mut(from..from + length)
            .ok_or(DeltaError::Beyond)?;
        let (new, rest) = bytes
            .split_at_checked(length)
            .ok_or(DeltaError::Truncated)?;
        place.copy_from_slice(new);
        bytes = rest;
        at = from + length;
    }
    if check(page) == *expected {
        Ok(())
    } else {
        Err(DeltaError::Base)
    }
}

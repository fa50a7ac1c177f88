//! How the contents of pages are written down, and read again.
//!
//! | encoding | bytes | count |
//! |---|---|---|
//! | zero | none | up to 256 |
//! | raw | the pages as they are | up to 256 |
//! | compressed | one Zstandard frame that becomes exactly the pages | up to 16 |
//! | delta | what changed since the page was sent last ([`delta`]) | 1 |
//!
//! An [`Encoder`] belongs to one stream and chooses; a [`Decoder`] takes what comes from another host, which may be anything: it never writes more
//! than the pages announced, and whatever does not become exactly these pages is an error. Neither allocates once it is made.

pub mod delta;
mod sent;
#[cfg(test)]
mod tests;

use crate::ram::{PAGE_SIZE, PageNumber};
use crate::wire::pages::{Encoding, MOST_PAGES, PagesHeader};
use sent::Sent;
use units::ByteSize;

/// Pages that are compressed together: long enough for the compressor to find its feet, short enough to begin sending early.
const COMPRESSED_TOGETHER: usize = 16;
/// Zstandard's fastest ordinary level; higher ones cost more time than they save bytes at migration's rates.
const LEVEL: i32 = 1;
const MOST_BYTES: usize = MOST_PAGES as usize * PAGE_SIZE;
static ZEROS: [u8; MOST_BYTES] = [0; MOST_BYTES];

/// Contents of pages that cannot be written down or read.
#[derive(Debug, thiserror::Error)]
pub enum PageError {
    /// The compressor could not be made.
    #[error("cannot make a compressor")]
    Compressor(#[source] std::io::Error),
    /// The bytes do not become the pages that they should.
    #[error("{count} pages from page {first} on, sent as {encoding:?}, cannot be read: {reason}")]
    Content {
        /// First page.
        first: PageNumber,
        /// How many.
        count: u32,
        /// How they were sent.
        encoding: Encoding,
        /// What is wrong.
        reason: String,
    },
}

/// What an encoder may do beside leaving out zeros. Without either, pages go as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderSettings {
    /// Compress what becomes smaller by it. Pays where the link is slower than the compressor.
    pub compress: bool,
    /// Memory that keeps what was sent, so that later only differences are. Nothing for zero.
    pub remember: ByteSize,
}

impl EncoderSettings {
    /// Zeros are left out, everything else goes as it is.
    pub const PLAIN: Self = Self {
        compress: false,
        remember: ByteSize::new(0),
    };
}

/// Writes pages of one stream down.
pub struct Encoder {
    compressor: Option<zstd::bulk::Compressor<'static>>,
    sent: Option<Sent>,
    scratch: Vec<u8>,
}

/// Pages that were written down together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// How many, from the first on.
    pub count: u32,
    /// How.
    pub encoding: Encoding,
}

impl Encoder {
    /// An encoder for one of `streams` streams that share the guest's pages by [`crate::precopy::Share`], and the memory for what was sent.
    ///
    /// # Errors
    /// When the compressor cannot be made.
    pub fn new(settings: &EncoderSettings, streams: u16) -> Result<Self, PageError> {
        let compressor = settings
            .compress
            .then(|| zstd::bulk::Compressor::new(LEVEL))
            .transpose()
            .map_err(PageError::Compressor)?;
        let together = COMPRESSED_TOGETHER * PAGE_SIZE;
        Ok(Self {
            compressor,
            sent: Sent::new(settings.remember, streams),
            scratch: vec![0; together.max(delta::MOST_BYTES)],
        })
    }

    /// Writes the first pages of `content` down, as many as share an encoding, at the end of `into`. `content` is whole pages, at least one and at most
    /// 256 of them, beginning with page `first`.
    pub fn encode(&mut self, first: PageNumber, content: &[u8], into: &mut Vec<u8>) -> Run {
        let zeros = leading(content, is_zero);
        if zeros > 0 {
            self.forget(first, zeros);
            return run(zeros, Encoding::Zero);
        }
        if self.changes(first, &content[..PAGE_SIZE], into) {
            return run(1, Encoding::Delta);
        }
        let content = &content[..self.plain(first, content) * PAGE_SIZE];
        let run = self.whole(content, into);
        if let Some(sent) = &mut self.sent {
            for (page, number) in pages(&content[..run.count as usize * PAGE_SIZE]).zip(first.0..) {
                sent.keep(PageNumber(number), page);
            }
        }
        run
    }

    fn forget(&mut self, first: PageNumber, count: usize) {
        if let Some(sent) = &mut self.sent {
            (first.0..)
                .take(count)
                .for_each(|page| sent.forget(PageNumber(page)));
        }
    }

    /// Writes a page down by what changed in it, where that is known and little.
    fn changes(&mut self, page: PageNumber, now: &[u8], into: &mut Vec<u8>) -> bool {
        let Some(base) = self.sent.as_mut().and_then(|sent| sent.base(page)) else {
            return false;
        };
        let Some(bytes) = delta::encode(base, now, &mut self.scratch) else {
            return false;
        };
        into.extend_from_slice(&self.scratch[..bytes]);
        base.copy_from_slice(now);
        true
    }

    /// How many of the first pages go whole and together: not zero, and behind the first none that may be sent by its changes.
    fn plain(&mut self, first: PageNumber, content: &[u8]) -> usize {
        let most = match self.compressor {
            Some(_) => COMPRESSED_TOGETHER,
            None => MOST_PAGES as usize,
        };
        let sent = &mut self.sent;
        let more = pages(&content[PAGE_SIZE..])
            .zip(first.0 + 1..)
            .take(most - 1);
        let known = |page| {
            sent.as_mut()
                .is_some_and(|sent| sent.base(PageNumber(page)).is_some())
        };
        1 + more
            .map_while({
                let mut known = known;
                move |(page, number)| (!is_zero(page) && !known(number)).then_some(())
            })
            .count()
    }

    fn whole(&mut self, content: &[u8], into: &mut Vec<u8>) -> Run {
        let count = content.len() / PAGE_SIZE;
        // A sixteenth less at least, or reading it costs more than it saves. What does not fit is an error of the compressor's.
        let worth = content.len() - content.len() / 16;
        if let Some(compressor) = &mut self.compressor
            && let Ok(bytes) = compressor.compress_to_buffer(content, &mut self.scratch[..worth])
        {
            into.extend_from_slice(&self.scratch[..bytes]);
            return run(count, Encoding::Compressed);
        }
        into.extend_from_slice(content);
        run(count, Encoding::Raw)
    }
}

fn run(count: usize, encoding: Encoding) -> Run {
    Run {
        count: u32::try_from(count).expect("at most 256 pages are given"),
        encoding,
    }
}

fn pages(content: &[u8]) -> impl Iterator<Item = &[u8]> {
    content.chunks_exact(PAGE_SIZE)
}

fn leading(content: &[u8], which: impl Fn(&[u8]) -> bool) -> usize {
    pages(content).take_while(|page| which(page)).count()
}

fn is_zero(page: &[u8]) -> bool {
    page == &ZEROS[..PAGE_SIZE]
}

/// Reads pages that were written down elsewhere.
pub struct Decoder {
    decompressor: zstd::bulk::Decompressor<'static>,
    content: Vec<u8>,
}

impl Decoder {
    /// A decoder; it holds 1 MiB.
    ///
    /// # Errors
    /// When the decompressor cannot be made.
    pub fn new() -> Result<Self, PageError> {
        Ok(Self {
            decompressor: zstd::bulk::Decompressor::new().map_err(PageError::Compressor)?,
            content: vec![0; MOST_BYTES],
        })
    }

    /// The content of the pages of a frame. `now` reads what memory holds of these pages, the base of differences.
    ///
    /// # Errors
    /// [`PageError::Content`], and what `now` fails with.
    pub fn decode<'a, E: From<PageError>>(
        &'a mut self,
        header: &PagesHeader,
        bytes: &'a [u8],
        now: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<&'a [u8], E> {
        let refused = |reason: String| PageError::Content {
            first: header.first,
            count: header.count,
            encoding: header.encoding,
            reason,
        };
        let length = header.count as usize * PAGE_SIZE;
        let Some(content) = self.content.get_mut(..length) else {
            return Err(refused(format!("expected at most {MOST_PAGES} pages")).into());
        };
        match header.encoding {
            Encoding::Zero if bytes.is_empty() => Ok(&ZEROS[..length]),
            Encoding::Raw if bytes.len() == length => Ok(bytes),
            Encoding::Zero | Encoding::Raw => {
                Err(refused(format!("{} bytes do not fit", bytes.len())).into())
            }
            Encoding::Compressed => {
                let got = self.decompressor.decompress_to_buffer(bytes, content);
                match got {
                    Ok(got) if got == length => Ok(content),
                    Ok(got) => {
                        Err(refused(format!("they become {got} bytes, expected {length}")).into())
                    }
                    Err(error) => Err(refused(error.to_string()).into()),
                }
            }
            Encoding::Delta => {
                now(content)?;
                delta::apply(bytes, content).map_err(|error| refused(error.to_string()))?;
                Ok(content)
            }
        }
    }
}

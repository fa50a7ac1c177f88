//! Reading a trace.

use std::io::{self, Read};
use std::time::Duration;

use super::checksum::crc;
use super::{END, LONGEST_WINDOW, MAGIC, MOST_PAGES, PAGE_BITS, SAMPLE, Sample, VERSION};
use crate::ram::{PageNumber, PageRange, PageSet};

/// A trace that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file could not be read.
    #[error("cannot read the trace")]
    Io(#[from] io::Error),
    /// Something else.
    #[error("this is not a dirty trace: it does not begin with \"CHRDIRTY\"")]
    NotATrace,
    /// From another program.
    #[error("the trace is of version {found}; this program reads version {VERSION}")]
    Version {
        /// Version found.
        found: u16,
    },
    /// A header of nonsense.
    #[error("the trace's header says {what} {value}; it has to be {valid}")]
    Header {
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
        /// What would do.
        valid: &'static str,
    },
    /// Its end is missing.
    #[error(
        "the trace is cut off after {samples} whole samples; these can be used, or record it again"
    )]
    Truncated {
        /// Samples before.
        samples: u64,
    },
    /// Bytes have changed.
    #[error("the checksum of {place} is wrong: the trace is damaged after {samples} good samples")]
    Damaged {
        /// What part.
        place: &'static str,
        /// Samples before.
        samples: u64,
    },
    /// A sample that says what cannot be.
    #[error("sample {sample} of the trace makes no sense: {what}")]
    Nonsense {
        /// Its number, from 0.
        sample: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The end does not agree with what came before.
    #[error("the trace says that it has {said} samples, and has {found}")]
    Count {
        /// Number in the file.
        said: u64,
        /// Number found.
        found: u64,
    },
    /// More than a trace.
    #[error("bytes follow the trace's end: the file is not one trace")]
    LeftOver,
}

/// Reads a trace, sample by sample. After an error, and after the last sample, there is nothing more.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    pages: u64,
    samples: u64,
    last: Duration,
    over: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is not that of a trace that can be read.
    pub fn new(mut from: R) -> Result<Self, TraceError> {
        let mut magic = [0; 8];
        fill(&mut from, &mut magic, TraceError::NotATrace)?;
        if magic != MAGIC {
            return Err(TraceError::NotATrace);
        }
        let cut = || TraceError::Truncated { samples: 0 };
        let (mut version, mut bits, mut pages, mut sum) = ([0; 2], [0; 2], [0; 8], [0; 4]);
        fill(&mut from, &mut version, cut())?;
        if u16::from_le_bytes(version) != VERSION {
            return Err(TraceError::Version {
                found: u16::from_le_bytes(version),
            });
        }
        fill(&mut from, &mut bits, cut())?;
        fill(&mut from, &mut pages, cut())?;
        fill(&mut from, &mut sum, cut())?;
        let header = [&magic[..], &version, &bits, &pages].concat();
        if crc(&header) != u32::from_le_bytes(sum) {
            return Err(TraceError::Damaged {
                place: "the header",
                samples: 0,
            });
        }
        let (bits, pages) = (u16::from_le_bytes(bits), u64::from_le_bytes(pages));
        check_header(bits, pages)?;
        Ok(Self {
            from,
            pages,
            samples: 0,
            last: Duration::ZERO,
            over: false,
        })
    }

    /// Pages of the guest.
    #[must_use]
    pub fn pages(&self) -> u64 {
        self.pages
    }

    fn frame(&mut self) -> Result<Option<Sample>, TraceError> {
        let mut tag = [0];
        self.fill(&mut tag)?;
        match tag[0] {
            SAMPLE => self.sample().map(Some),
            END => self.end().map(|()| None),
            _ => Err(self.nonsense("it is neither a sample nor the end")),
        }
    }

    fn sample(&mut self) -> Result<Sample, TraceError> {
        let length = self.varint()?;
        // Two numbers of at most ten bytes for every other page, and three before them.
        if length > 30 + 20 * self.pages.div_ceil(2) {
            return Err(self.nonsense("it is longer than a sample of all pages"));
        }
        let mut payload = Vec::new();
        let got = self.from.by_ref().take(length).read_to_end(&mut payload)?;
        if (got as u64) < length {
            return Err(self.truncated());
        }
        let mut sum = [0; 4];
        self.fill(&mut sum)?;
        if crc(&payload) != u32::from_le_bytes(sum) {
            return Err(TraceError::Damaged {
                place: "a sample",
                samples: self.samples,
            });
        }
        let sample = self.parse(&payload).map_err(|what| self.nonsense(what))?;
        self.samples += 1;
        self.last = sample.at;
        Ok(sample)
    }

    fn parse(&self, mut rest: &[u8]) -> Result<Sample, &'static str> {
        let mut number = || take_varint(&mut rest);
        let (gap, window, ranges) = (number()?, number()?, number()?);
        if window == 0 {
            return Err("its window has no length");
        }
        let window = Duration::from_nanos(window);
        if window > LONGEST_WINDOW {
            return Err("its window is longer than 60s");
        }
        let at = self.last.checked_add(Duration::from_nanos(gap));
        let at = at.and_then(|start| start.checked_add(window));
        let mut dirty = PageSet::empty(self.pages);
        let mut end = 0u64;
        for range in 0..ranges {
            let (skip, more) = (number()?, number()?);
            if range > 0 && skip == 0 {
                return Err("two of its ranges are one");
            }
            let first = end.checked_add(skip).filter(|&first| first < self.pages);
            let first = first.ok_or("it has pages that the guest does not have")?;
            if more >= self.pages - first {
                return Err("it has pages that the guest does not have");
            }
            dirty.insert_range(PageRange {
                first: PageNumber(first),
                count: more + 1,
            });
            end = first + more + 1;
        }
        if !rest.is_empty() {
            return Err("bytes follow its last range");
        }
        let at = at.ok_or("it ends later than can be")?;
        Ok(Sample { at, window, dirty })
    }

    fn end(&mut self) -> Result<(), TraceError> {
        let (mut count, mut sum) = ([0; 8], [0; 4]);
        self.fill(&mut count)?;
        self.fill(&mut sum)?;
        if crc(&count) != u32::from_le_bytes(sum) {
            return Err(TraceError::Damaged {
                place: "the end",
                samples: self.samples,
            });
        }
        let said = u64::from_le_bytes(count);
        if said != self.samples {
            return Err(TraceError::Count {
                said,
                found: self.samples,
            });
        }
        let mut more = Vec::new();
        self.from.by_ref().take(1).read_to_end(&mut more)?;
        if more.is_empty() {
            Ok(())
        } else {
            Err(TraceError::LeftOver)
        }
    }

    fn varint(&mut self) -> Result<u64, TraceError> {
        let mut bytes = Vec::new();
        loop {
            let mut byte = [0];
            self.fill(&mut byte)?;
            bytes.push(byte[0]);
            if byte[0] < 0x80 || bytes.len() > 10 {
                return take_varint(&mut bytes.as_slice()).map_err(|what| self.nonsense(what));
            }
        }
    }

    fn fill(&mut self, into: &mut [u8]) -> Result<(), TraceError> {
        let cut = self.truncated();
        fill(&mut self.from, into, cut)
    }

    fn truncated(&self) -> TraceError {
        TraceError::Truncated {
            samples: self.samples,
        }
    }

    fn nonsense(&self, what: &'static str) -> TraceError {
        TraceError::Nonsense {
            sample: self.samples,
            what,
        }
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<Sample, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let item = self.frame().transpose();
        self.over = !matches!(item, Some(Ok(_)));
        item
    }
}

fn check_header(bits: u16, pages: u64) -> Result<(), TraceError> {
    if bits != PAGE_BITS {
        return Err(TraceError::Header {
            what: "bits of a page's size:",
            value: bits.into(),
            valid: "12 (4 KiB)",
        });
    }
    if !(1..=MOST_PAGES).contains(&pages) {
        return Err(TraceError::Header {
            what: "pages:",
            value: pages,
            valid: "from 1 to 1073741824 (4 TiB)",
        });
    }
    Ok(())
}

/// Fills `into`; `cut` when there is not enough.
fn fill(from: &mut impl Read, into: &mut [u8], cut: TraceError) -> Result<(), TraceError> {
    from.read_exact(into).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => cut,
        _ => TraceError::Io(error),
    })
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0u64;
    for place in 0..10 {
        let (&byte, after) = rest.split_first().ok_or("it ends within a number")?;
        *rest = after;
        let part = u64::from(byte & 0x7f);
        let shifted = part << (7 * place);
        if shifted >> (7 * place) != part {
            return Err("one of its numbers is beyond 64 bits");
        }
        value |= shifted;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err("one of its numbers is beyond 64 bits")
}

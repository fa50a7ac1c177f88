//! Writing a trace.

use std::io::{self, Write};
use std::time::Duration;

use super::checksum::crc;
use super::{END, LONGEST_WINDOW, MAGIC, MOST_PAGES, PAGE_BITS, SAMPLE, Sample, VERSION};

/// Writes a trace, sample by sample.
#[derive(Debug)]
pub struct Writer<W> {
    to: W,
    pages: u64,
    samples: u64,
    last: Duration,
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl<W: Write> Writer<W> {
    /// Begins a trace of a guest of `pages` pages.
    ///
    /// # Errors
    /// When it cannot be written, or the guest has no pages, or more than a trace can hold.
    pub fn new(mut to: W, pages: u64) -> io::Result<Self> {
        if !(1..=MOST_PAGES).contains(&pages) {
            return Err(refused(format!(
                "a trace is of 1 to {MOST_PAGES} pages, not of {pages}"
            )));
        }
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(PAGE_BITS.to_le_bytes());
        header.extend(pages.to_le_bytes());
        let sum = crc(&header);
        header.extend(sum.to_le_bytes());
        to.write_all(&header)?;
        Ok(Self {
            to,
            pages,
            samples: 0,
            last: Duration::ZERO,
        })
    }

    /// Adds a sample.
    ///
    /// # Errors
    /// When it cannot be written, or is another guest's, or of no time or more than 60 s, or begins before the last one's end.
    pub fn add(&mut self, sample: &Sample) -> io::Result<()> {
        let pages = sample.dirty.pages();
        if pages != self.pages {
            return Err(refused(format!(
                "a sample of {pages} pages does not belong to a trace of {} pages",
                self.pages
            )));
        }
        let gap = sample.at.checked_sub(sample.window);
        let gap = gap.and_then(|start| start.checked_sub(self.last));
        let Some(gap) = gap.filter(|_| !sample.window.is_zero()) else {
            return Err(refused(format!(
                "a window of {:?} that ends at {:?} does not follow the last one, which ended at {:?}",
                sample.window, sample.at, self.last
            )));
        };
        if sample.window > LONGEST_WINDOW {
            return Err(refused(format!(
                "a window of {:?} is too long for a trace; {LONGEST_WINDOW:?} is the longest",
                sample.window
            )));
        }
        let payload = payload(sample, gap)?;
        let mut frame = vec![SAMPLE];
        put(&mut frame, payload.len() as u64);
        frame.extend(&payload);
        frame.extend(crc(&payload).to_le_bytes());
        self.to.write_all(&frame)?;
        self.samples += 1;
        self.last = sample.at;
        Ok(())
    }

    /// Ends the trace and gives back what it was written to.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        let count = self.samples.to_le_bytes();
        self.to.write_all(&[END])?;
        self.to.write_all(&count)?;
        self.to.write_all(&crc(&count).to_le_bytes())?;
        self.to.flush()?;
        Ok(self.to)
    }
}

fn payload(sample: &Sample, gap: Duration) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for time in [gap, sample.window] {
        let nanoseconds = u64::try_from(time.as_nanos());
        put(
            &mut bytes,
            nanoseconds.map_err(|_| refused(format!("{time:?} is too long for a trace")))?,
        );
    }
    put(&mut bytes, sample.dirty.ranges().count() as u64);
    let mut end = 0;
    for range in sample.dirty.ranges() {
        put(&mut bytes, range.first.0 - end);
        put(&mut bytes, range.count - 1);
        end = range.end();
    }
    Ok(bytes)
}

/// LEB128: seven bits per byte, the lowest first; the eighth says that more follow.
fn put(bytes: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            bytes.push(low & 0x7f);
            return;
        }
        bytes.push(low | 0x80);
    }
}

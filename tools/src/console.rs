//! A guest's output on the terminal, or wherever standard output leads, without ever waiting for a reader.
//!
//! The thread that shows output also serves the control socket and the signals. A reader that does not read (a pager, a
//! stopped terminal, a full pipe) must not hold that up; what it does not take waits here, within a bound.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A descriptor that polls as writable takes this much without blocking (POSIX: PIPE_BUF is at least 512; Linux: 4096).
const CHUNK: usize = 4096;
/// What waits for a reader at most.
const WAITING: usize = 1 << 20;
/// How long a reader may take to fetch the rest when the guest is over.
const FAREWELL: Duration = Duration::from_secs(2);

/// Standard output or standard error.
pub struct Console {
    to_stderr: bool,
    waiting: Vec<u8>,
    lost: usize,
}

impl Console {
    /// Standard output, or standard error.
    pub fn new(to_stderr: bool) -> Self {
        Self {
            to_stderr,
            waiting: Vec::new(),
            lost: 0,
        }
    }

    /// Shows bytes, now or when the reader takes them.
    pub fn show(&mut self, bytes: &[u8]) {
        let room = WAITING - self.waiting.len();
        let fits = bytes.len().min(room);
        self.waiting.extend_from_slice(&bytes[..fits]);
        self.lost += bytes.len() - fits;
        self.pass_on();
    }

    /// Writes what waits, as far as the reader takes it now.
    pub fn pass_on(&mut self) {
        while !self.waiting.is_empty() && self.is_writable() {
            let length = self.waiting.len().min(CHUNK);
            match self.write(length) {
                Ok(0) => break,
                Ok(written) => drop(self.waiting.drain(..written)),
                // The reader went away: that does not end the guest.
                Err(_) => self.waiting.clear(),
            }
        }
    }

    /// Writes the rest, for a reader that takes it in time; bytes lost in all.
    pub fn finish(mut self) -> usize {
        let deadline = Instant::now() + FAREWELL;
        self.pass_on();
        while !self.waiting.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
            self.pass_on();
        }
        self.lost + self.waiting.len()
    }

    /// Unbuffered: the standard library's buffer would block at a moment of its own choice.
    fn write(&self, length: usize) -> io::Result<usize> {
        let bytes = &self.waiting[..length];
        let written = match self.to_stderr {
            true => nix::unistd::write(io::stderr(), bytes),
            false => nix::unistd::write(io::stdout(), bytes),
        };
        written.map_err(io::Error::from)
    }

    fn is_writable(&self) -> bool {
        let (out, err) = (io::stdout(), io::stderr());
        let descriptor = if self.to_stderr {
            err.as_fd()
        } else {
            out.as_fd()
        };
        let mut polled = [PollFd::new(descriptor, PollFlags::POLLOUT)];
        matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
    }
}

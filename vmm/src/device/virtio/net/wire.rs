//! The host's end of the wire.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

pub use net::tap::Offloads;
use net::tap::{Tap, TapError};
use nix::errno::Errno;

/// Where frames come from and go to, each with a header of [`super::HEADER`] bytes; reads and writes never wait.
pub trait Wire: Send + Sync {
    /// Frames are read from here and written here.
    fn descriptor(&self) -> BorrowedFd<'_>;
    /// Has frames come with these offloads and no others. It may wait.
    ///
    /// # Errors
    /// What the kernel answers.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

impl Wire for Tap {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn set_offloads(&self, offloads: Offloads) -> io::Result<()> {
        Tap::set_offloads(self, offloads).map_err(|error| match error {
            TapError::Refused { source, .. } => source.into(),
            other => io::Error::other(other),
        })
    }
}

/// Whether the interface does not exist any more, as a tap's open file says it.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::EBADFD as i32)
}

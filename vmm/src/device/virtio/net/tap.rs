//! The host's end of the wire.

use std::io;
use std::os::fd::AsFd;

/// What the driver takes off the kernel's hands for frames to the guest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// Checksums may be left to be completed.
    pub checksum: bool,
    /// TCP over IPv4 may come in trains of packets.
    pub tso4: bool,
    /// TCP over IPv6 may.
    pub tso6: bool,
    /// Trains may carry congestion marks.
    pub ecn: bool,
}

/// Where frames come from and go to, each with a header of [`super::HEADER`] bytes; reads and writes never wait.
pub trait Wire: AsFd + Send {
    /// Has frames come with these offloads and no others.
    ///
    /// # Errors
    /// What the kernel answers.
    fn set_offloads(&self, offloads: Offloads) -> io::Result<()>;
}

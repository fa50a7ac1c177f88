//! What is moved, as traits: a guest's memory, the log of pages that it writes, its devices and its life.
//!
//! Nothing here knows where memory lies or how writes are noticed; a monitor implements the traits over KVM, tests over plain vectors.

mod page_set;
#[cfg(test)]
mod page_set_tests;

pub use page_set::{PageRange, PageSet};

use std::fmt;

/// Bytes in a page, the unit in which writes are noticed and memory is sent.
pub const PAGE_SIZE: usize = 4096;

/// Number of a guest page: index of a 4 KiB page counted through the guest's RAM ranges in ascending order (no holes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(pub u64);

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Memory could not be read, written or tracked.
#[derive(Debug, thiserror::Error)]
pub enum RamError {
    /// The pages asked for are not all there.
    #[error("{count} pages from page {first} on reach beyond the guest's {pages} pages")]
    Outside {
        /// First page asked for.
        first: PageNumber,
        /// How many.
        count: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// Memory is moved by whole pages.
    #[error("{bytes} bytes are not a whole number of pages of {PAGE_SIZE} bytes")]
    NotWholePages {
        /// Length given.
        bytes: usize,
    },
    /// A set that was made for another guest, or for one with other memory.
    #[error("a set over {set} pages is used with a guest of {pages} pages")]
    OtherGuest {
        /// Pages that the set can hold.
        set: u64,
        /// Pages of the guest.
        pages: u64,
    },
    /// The host refused.
    #[error("cannot {what}")]
    Host {
        /// What was tried, in words that follow "cannot".
        what: &'static str,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A guest's memory.
pub trait GuestRam: Send + Sync {
    /// How many pages the guest has.
    fn pages(&self) -> u64;

    /// Copies pages as they are now. The guest may be writing to them: torn reads are allowed, such a page is dirty again.
    ///
    /// # Errors
    /// When `into` is not whole pages, or the pages are not all there.
    fn read(&self, first: PageNumber, into: &mut [u8]) -> Result<(), RamError>;

    /// Sets pages.
    ///
    /// # Errors
    /// When `from` is not whole pages, or the pages are not all there.
    fn write(&self, first: PageNumber, from: &[u8]) -> Result<(), RamError>;
}

/// Which pages the guest and its devices write.
pub trait DirtyLog: Send {
    /// Tracking begins; everything counts as clean.
    ///
    /// # Errors
    /// When the host cannot track writes.
    fn start(&mut self) -> Result<(), RamError>;

    /// Pages written since they were last cleared; this call does not clear them.
    ///
    /// # Errors
    /// When the host does not answer.
    fn look(&mut self) -> Result<PageSet, RamError>;

    /// Clears exactly these pages. Every later write shows in `look` again, so this is called just before the pages are read and sent
    /// (`KVM_CLEAR_DIRTY_LOG`).
    ///
    /// # Errors
    /// When the host does not do it, or the set is another guest's.
    fn clear(&mut self, pages: &PageSet) -> Result<(), RamError>;

    /// Tracking ends, and with it its cost.
    ///
    /// # Errors
    /// When the host does not do it.
    fn stop(&mut self) -> Result<(), RamError>;
}

/// What is moved beside memory, and the guest's life on one host.
pub trait Machine: Send {
    /// Why a step failed.
    type Error: std::error::Error + Send + Sync + 'static;

    /// Returns when no vCPU runs and no device writes to memory any more.
    ///
    /// # Errors
    /// When the guest does not come to rest.
    fn pause(&mut self) -> Result<(), Self::Error>;

    /// The source's guest goes on after an abort; the destination's begins after the commit.
    ///
    /// # Errors
    /// When it cannot run.
    fn resume(&mut self) -> Result<(), Self::Error>;

    /// State of vCPUs and devices, while paused.
    ///
    /// # Errors
    /// When a part cannot be saved.
    fn save(&mut self) -> Result<Vec<Part>, Self::Error>;

    /// Sets the state of vCPUs and devices, before they run.
    ///
    /// # Errors
    /// When a part is missing, unknown or not to be had on this host.
    fn restore(&mut self, parts: &[Part]) -> Result<(), Self::Error>;
}

/// A piece of saved state: what it is, how it is written down, and itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Part {
    /// What it is the state of; at most 32 bytes.
    pub kind: String,
    /// Form of `bytes`.
    pub version: u16,
    /// The state; at most 16 MiB.
    pub bytes: Vec<u8>,
}

impl Part {
    /// Longest `kind`, in bytes.
    pub const LONGEST_KIND: usize = 32;
    /// Most bytes in one part.
    pub const MOST_BYTES: usize = 16 << 20;
}

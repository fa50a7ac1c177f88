//! Guest memory: where it lies, how it is made, and the rule that it never changes once vCPUs run.
//!
//! Memory is a memfd (another process can map it), populated and locked before the first vCPU runs: a page fault
//! in the middle of a job would have no bound, and `mmap_lock` held by a throttled thread would block every vCPU.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::bitmap::NewBitmap;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{FileOffset, GuestAddress, GuestMemoryBackend, GuestRegionMmap, MmapRegion};

use crate::kernel;
use crate::units::ByteSize;

mod marks;

pub use marks::WriteMarks;

/// Guest memory. What the monitor writes to it is noted for whoever wants to know ([`WriteMarks`]).
pub type Ram = vm_memory::GuestMemoryMmap<WriteMarks>;
/// One address range of it.
pub type Region = GuestRegionMmap<WriteMarks>;
/// Its mapping in this process.
pub type Mapping = MmapRegion<WriteMarks>;

/// The notes of what the monitor writes to a region.
#[must_use]
pub fn marks(region: &Region) -> &WriteMarks {
    let mapping: &Mapping = region;
    mapping.bitmap()
}

/// First address of the hole below 4 GiB that is kept for devices (MMIO, local APICs).
pub const DEVICE_HOLE_START: u64 = 0xc000_0000;
/// End of the device hole.
pub const DEVICE_HOLE_END: u64 = 0x1_0000_0000;

/// Page size of the host and the guest.
pub const PAGE: u64 = 4096;
/// Size of a huge page, which memory must be a multiple of if it is asked to be made of them.
pub const HUGE_PAGE: u64 = 2 << 20;

/// Why guest memory could not be made.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The memfd or its mapping failed.
    #[error("cannot make {size} of guest memory: {source}; {hint}")]
    Create {
        /// The size asked for.
        size: ByteSize,
        /// What the kernel said.
        source: io::Error,
        /// What would make it possible.
        hint: &'static str,
    },
    /// Locking failed.
    #[error(
        "cannot lock {size} of guest memory: {source}; raise RLIMIT_MEMLOCK (ulimit -l) or give the process CAP_IPC_LOCK"
    )]
    Lock {
        /// The size asked for.
        size: ByteSize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The regions do not form an address space.
    #[error("guest memory of {size} cannot be laid out: {reason}")]
    Layout {
        /// The size asked for.
        size: ByteSize,
        /// What vm-memory said.
        reason: String,
    },
}

/// The address ranges of RAM for a guest of `size` bytes: below the device hole, then from 4 GiB on.
#[must_use]
pub fn ranges(size: u64) -> Vec<(u64, u64)> {
    if size <= DEVICE_HOLE_START {
        return vec![(0, size)];
    }
    vec![
        (0, DEVICE_HOLE_START),
        (DEVICE_HOLE_END, size - DEVICE_HOLE_START),
    ]
}

/// Guest memory is populated in about so many pieces,
const PIECES: usize = 16;
/// none of which is smaller than this.
const LEAST_PIECE: usize = 256 << 10;

/// How guest memory is made.
#[derive(Debug, Clone, Copy)]
pub struct MemoryPlan {
    /// Bytes of RAM.
    pub size: ByteSize,
    /// Whether it must be made of huge pages (hugetlbfs), reserved on the host beforehand.
    pub hugepages: bool,
}

/// Makes guest memory, each page of which is locked as soon as it is there. [`Population`] has them all be there.
///
/// # Errors
/// [`MemoryError`] when the host has not enough memory, huge pages or lock limit.
pub fn create(plan: MemoryPlan) -> Result<Ram, MemoryError> {
    let failed = |source: io::Error| create_error(plan, source);
    if plan.size > CHECKED_FROM
        && available().is_some_and(|available| available < plan.size.bytes())
    {
        // Locking what is not there would end other processes (the kernel's OOM killer), not fail.
        return Err(failed(io::Error::from_raw_os_error(libc::ENOMEM)));
    }
    let file = memfd(plan).map_err(failed)?;
    map(&file, plan)
}

/// Maps guest memory that lies in `file`.
///
/// # Errors
/// As [`create`].
pub fn map(file: &File, plan: MemoryPlan) -> Result<Ram, MemoryError> {
    let mut regions = Vec::new();
    let mut offset = 0;
    for (start, length) in ranges(plan.size.bytes()) {
        let file = file
            .try_clone()
            .map_err(|source| create_error(plan, source))?;
        let length = usize::try_from(length).map_err(|e| layout_error(plan, &e))?;
        let region = MmapRegionBuilder::new_with_bitmap(length, WriteMarks::with_len(length))
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            .with_mmap_flags(libc::MAP_SHARED | libc::MAP_NORESERVE)
            .with_file_offset(FileOffset::new(file, offset))
            .build()
            .map_err(|e| layout_error(plan, &e))?;
        kernel::lock_on_fault(&region).map_err(|source| {
            // Huge pages are never paged out, so the kernel has no use for a lock on them, and populates them at once.
            if plan.hugepages && source.raw_os_error() == Some(libc::ENOMEM) {
                return create_error(plan, source);
            }
            MemoryError::Lock {
                size: plan.size,
                source,
            }
        })?;
        offset += region.size() as u64;
        let region = Region::new(region, GuestAddress(start))
            .ok_or_else(|| layout_error(plan, &"region ends beyond the address space"))?;
        regions.push(region);
    }
    Ram::from_regions(regions).map_err(|e| layout_error(plan, &e))
}

/// What several threads populate together: each takes the next piece until none is left.
#[derive(Debug)]
pub struct Population {
    ram: Ram,
    plan: MemoryPlan,
    piece: usize,
    next: AtomicUsize,
}

impl Population {
    /// Of `ram`, made by [`create`] or [`map`] with the same plan.
    #[must_use]
    pub fn new(ram: Ram, plan: MemoryPlan) -> Self {
        let bytes = usize::try_from(plan.size.bytes()).unwrap_or(usize::MAX);
        let piece = (bytes / PIECES).next_multiple_of(LEAST_PIECE);
        Self {
            ram,
            plan,
            piece,
            next: AtomicUsize::new(0),
        }
    }

    /// Populates pieces until none is left that nobody has taken. All is there once every thread has returned.
    ///
    /// # Errors
    /// [`MemoryError::Create`].
    pub fn work(&self) -> Result<(), MemoryError> {
        loop {
            let mut skip = self.next.fetch_add(1, Ordering::Relaxed);
            let piece = self.ram.iter().find_map(|region| {
                let pieces = region.size().div_ceil(self.piece);
                if skip < pieces {
                    return Some((region, skip * self.piece));
                }
                skip -= pieces;
                None
            });
            let Some((region, offset)) = piece else {
                return Ok(());
            };
            let length = self.piece.min(region.size() - offset);
            kernel::populate(region, offset, length)
                .map_err(|source| create_error(self.plan, source))?;
        }
    }
}

fn create_error(plan: MemoryPlan, source: io::Error) -> MemoryError {
    MemoryError::Create {
        size: plan.size,
        source,
        hint: hint(plan.hugepages),
    }
}

fn layout_error(plan: MemoryPlan, reason: &dyn std::fmt::Display) -> MemoryError {
    MemoryError::Layout {
        size: plan.size,
        reason: reason.to_string(),
    }
}

fn hint(hugepages: bool) -> &'static str {
    if hugepages {
        "reserve huge pages first (vm.nr_hugepages) or set guest.hugepages = false"
    } else {
        "give the guest less memory (guest.memory)"
    }
}

/// Sizes up to this are tried without asking: reading /proc/meminfo takes as long as making a small guest's memory.
const CHECKED_FROM: ByteSize = ByteSize::mebibytes(64);

/// Bytes the host has left, from `MemAvailable` (proc_meminfo(5)).
pub(crate) fn available() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find(|line| line.starts_with("MemAvailable:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn memfd(plan: MemoryPlan) -> io::Result<File> {
    let mut flags = MFdFlags::MFD_CLOEXEC;
    if plan.hugepages {
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
    }
    let file = File::from(memfd_create(c"chronovisor.guest", flags)?);
    file.set_len(plan.size.bytes())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{Bytes, GuestMemoryRegion};

    #[test]
    fn small_memory_is_one_range_and_large_memory_leaves_the_device_hole() {
        assert_eq!(ranges(64 << 20), vec![(0, 64 << 20)]);
        let split = ranges(5 << 30);
        assert_eq!(split[0], (0, DEVICE_HOLE_START));
        assert_eq!(split[1].0, DEVICE_HOLE_END);
        assert_eq!(split[0].1 + split[1].1, 5 << 30);
    }

    #[test]
    fn memory_is_zeroed_resident_and_shared_through_its_file() {
        let plan = MemoryPlan {
            size: ByteSize::mebibytes(2),
            hugepages: false,
        };
        let ram = create(plan).unwrap();
        let population = Population::new(ram.clone(), plan);
        std::thread::scope(|scope| {
            scope.spawn(|| population.work().unwrap());
            population.work().unwrap();
        });
        assert_eq!(ram.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 0);
        ram.write_obj(42u64, GuestAddress(0x1000)).unwrap();
        let region = ram.iter().next().unwrap();
        let file = region.file_offset().unwrap().file().try_clone().unwrap();
        // st_blocks counts 512 bytes each.
        assert_eq!(file.metadata().unwrap().blocks() * 512, plan.size.bytes());
        let other = map(&file, plan).unwrap();
        assert_eq!(other.read_obj::<u64>(GuestAddress(0x1000)).unwrap(), 42);
    }
}

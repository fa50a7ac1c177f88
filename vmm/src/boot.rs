//! Puts a guest image and what it is told at boot into guest memory: the PVH boot protocol.
//!
//! Source: "x86/HVM direct boot ABI" of the Xen project (docs/misc/pvh.pandoc), which QEMU, Cloud Hypervisor and
//! Firecracker speak too. What the VMM adds travels as boot modules: the clock page and the record rings.
//!
//! ```text
//! 0 .. 1 MiB        left to the guest (real-mode start-up code of further vCPUs)
//! 1 MiB ..          the image, where its program headers say
//! ..  end of RAM    [ start info + command line | clock page | record rings ], reserved in the memory map
//! ```

use std::io::Cursor;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, PT_LOAD};
use elf::endian::LittleEndian;
use linux_loader::loader::elf::start_info::{
    hvm_memmap_table_entry, hvm_modlist_entry, hvm_start_info,
};
use linux_loader::loader::elf::{Elf, PvhBootCapability};
use linux_loader::loader::{Error as LoaderError, KernelLoader};
use rt_abi::record::{self, RingHeader, ring_size};
use vm_memory::{Address, ByteValued, Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::Ram;
use crate::memory::{DEVICE_HOLE_END, DEVICE_HOLE_START, PAGE};

/// Magic number of `hvm_start_info` ("xEn3" with the high bit of the E set).
const START_INFO_MAGIC: u32 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const MEMMAP_RAM: u32 = 1;
/// `XEN_HVM_MEMMAP_TYPE_RESERVED`.
const MEMMAP_RESERVED: u32 = 2;
/// Longest command line, with its terminating zero.
pub const MAX_COMMAND_LINE: usize = 4 * 4096;
/// Where things lie in the first page of the boot area.
const MODULES_AT: u64 = 0x100;
const MEMMAP_AT: u64 = 0x200;
const NAMES_AT: u64 = 0x400;
const COMMAND_LINE_AT: u64 = PAGE;
/// The boot area: one page of tables and the command line.
const BOOT_AREA: u64 = PAGE + MAX_COMMAND_LINE as u64;

/// Records that fit into the ring of one vCPU.
pub const RING_CAPACITY: u64 = 4096;

/// Why an image cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// Not an ELF file for this machine.
    #[error("the guest image is not an x86-64 ELF file: {reason}")]
    NotElf {
        /// What is wrong.
        reason: String,
    },
    /// No PVH entry.
    #[error(
        "the guest image has no PVH entry note (XEN_ELFNOTE_PHYS32_ENTRY); build the kernel with PVH support"
    )]
    NoPvhEntry,
    /// The entry lies outside every loaded segment.
    #[error("the PVH entry {entry:#x} of the guest image lies in none of its segments")]
    WildEntry {
        /// The entry address.
        entry: u64,
    },
    /// A segment does not fit.
    #[error(
        "segment {start:#x}..{end:#x} of the guest image does not fit into the {usable} bytes that the guest can use; give the guest more memory (guest.memory)"
    )]
    DoesNotFit {
        /// First address.
        start: u64,
        /// Address after the last.
        end: u64,
        /// Bytes below the boot area.
        usable: u64,
    },
    /// Two segments overlap.
    #[error("segments of the guest image overlap at {address:#x}")]
    Overlap {
        /// The first address in both.
        address: u64,
    },
    /// The guest memory is too small for anything.
    #[error(
        "guest memory of {size} bytes is too small: {needed} bytes are needed for boot data alone"
    )]
    TooSmall {
        /// Bytes of RAM.
        size: u64,
        /// Bytes of the boot area.
        needed: u64,
    },
    /// The command line is too long.
    #[error("the guest command line has {length} bytes; at most {} fit", MAX_COMMAND_LINE - 1)]
    CommandLine {
        /// Its length.
        length: usize,
    },
    /// The loader refused the image.
    #[error("the guest image cannot be loaded: {0}")]
    Loader(LoaderError),
    /// Writing into guest memory failed.
    #[error("boot data cannot be written to guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Where everything is that the VMM keeps using while the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct BootLayout {
    /// Address of the start info, handed over in EBX.
    pub start_info: u64,
    /// Address of the clock page.
    pub clock: u64,
    /// Address of the first record ring.
    pub records: u64,
    /// Number of record rings, one per vCPU.
    pub rings: u64,
}

impl BootLayout {
    /// The layout for a guest of `size` bytes of RAM with `vcpus` vCPUs.
    ///
    /// # Errors
    /// [`BootError::TooSmall`].
    pub fn new(size: u64, vcpus: u64) -> Result<Self, BootError> {
        let records_size = (ring_size(RING_CAPACITY) * vcpus).next_multiple_of(PAGE);
        let needed = BOOT_AREA + PAGE + records_size;
        let end = size.min(DEVICE_HOLE_START) & !(PAGE - 1);
        let start = end
            .checked_sub(needed)
            .filter(|&start| start > FIRST_IMAGE_BYTE)
            .ok_or(BootError::TooSmall { size, needed })?;
        Ok(Self {
            start_info: start,
            clock: start + BOOT_AREA,
            records: start + BOOT_AREA + PAGE,
            rings: vcpus,
        })
    }
}

/// Images are loaded from here on; below lies what real-mode code needs.
const FIRST_IMAGE_BYTE: u64 = 1 << 20;

/// Loads `image` and returns the address of its PVH entry.
///
/// # Errors
/// [`BootError`]; guest memory may have been written in part.
pub fn load_image(ram: &Ram, image: &[u8], layout: &BootLayout) -> Result<GuestAddress, BootError> {
    let segments = check_segments(image, layout.start_info)?;
    let loaded = Elf::load(ram, None, &mut Cursor::new(image), None).map_err(BootError::Loader)?;
    let PvhBootCapability::PvhEntryPresent(entry) = loaded.pvh_boot_cap else {
        return Err(BootError::NoPvhEntry);
    };
    let address = entry.raw_value();
    if !segments
        .iter()
        .any(|&(start, end)| (start..end).contains(&address))
    {
        return Err(BootError::WildEntry { entry: address });
    }
    Ok(entry)
}

/// The loadable segments of `image` as address ranges, in order: inside usable memory and disjoint.
fn check_segments(image: &[u8], usable_end: u64) -> Result<Vec<(u64, u64)>, BootError> {
    let not_elf = |reason: &dyn std::fmt::Display| BootError::NotElf {
        reason: reason.to_string(),
    };
    let file = ElfBytes::<LittleEndian>::minimal_parse(image).map_err(|e| not_elf(&e))?;
    if file.ehdr.e_machine != EM_X86_64 || file.ehdr.class != elf::file::Class::ELF64 {
        return Err(not_elf(&"it is for another machine"));
    }
    let headers = file
        .segments()
        .ok_or_else(|| not_elf(&"it has no program headers"))?;
    let mut ranges = Vec::new();
    for header in headers
        .iter()
        .filter(|h| h.p_type == PT_LOAD && (h.p_memsz > 0 || h.p_filesz > 0))
    {
        if header.p_filesz > header.p_memsz {
            return Err(not_elf(&"a segment is longer in the file than in memory"));
        }
        let (start, end) = (
            header.p_paddr,
            header.p_paddr.saturating_add(header.p_memsz),
        );
        if start < FIRST_IMAGE_BYTE || end > usable_end {
            return Err(BootError::DoesNotFit {
                start,
                end,
                usable: usable_end,
            });
        }
        ranges.push((start, end));
    }
    ranges.sort_unstable();
    match ranges.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(BootError::Overlap { address: pair[1].0 }),
        None if ranges.is_empty() => Err(not_elf(&"it has nothing to load")),
        None => Ok(ranges),
    }
}

/// Writes start info, memory map, modules and command line, and the headers of the record rings.
///
/// # Errors
/// [`BootError::CommandLine`], [`BootError::Memory`].
pub fn write_boot_data(
    ram: &Ram,
    layout: &BootLayout,
    command_line: &str,
) -> Result<(), BootError> {
    if command_line.len() >= MAX_COMMAND_LINE || command_line.contains('\0') {
        return Err(BootError::CommandLine {
            length: command_line.len(),
        });
    }
    let base = layout.start_info;
    let modules = write_modules(ram, layout)?;
    let memmap = memory_map(ram, base);
    write_array(ram, base + MEMMAP_AT, &memmap)?;
    ram.write_slice(
        command_line.as_bytes(),
        GuestAddress(base + COMMAND_LINE_AT),
    )?;
    let start_info = hvm_start_info {
        magic: START_INFO_MAGIC,
        version: 1,
        nr_modules: modules,
        modlist_paddr: base + MODULES_AT,
        cmdline_paddr: base + COMMAND_LINE_AT,
        memmap_paddr: base + MEMMAP_AT,
        memmap_entries: u32::try_from(memmap.len()).unwrap_or(0),
        ..Default::default()
    };
    ram.write_obj(start_info, GuestAddress(base))?;
    write_ring_headers(ram, layout)
}

fn write_modules(ram: &Ram, layout: &BootLayout) -> Result<u32, BootError> {
    let contents = [
        (rt_abi::clock::MODULE, layout.clock, PAGE),
        (
            record::MODULE,
            layout.records,
            ring_size(RING_CAPACITY) * layout.rings,
        ),
    ];
    let mut name_at = layout.start_info + NAMES_AT;
    let mut entries = Vec::new();
    for (name, paddr, size) in contents {
        ram.write_slice(name.as_bytes(), GuestAddress(name_at))?;
        entries.push(hvm_modlist_entry {
            paddr,
            size,
            cmdline_paddr: name_at,
            ..Default::default()
        });
        name_at += name.len() as u64 + 1;
    }
    write_array(ram, layout.start_info + MODULES_AT, &entries)?;
    Ok(u32::try_from(entries.len()).unwrap_or(0))
}

fn write_array<T: ByteValued>(ram: &Ram, at: u64, items: &[T]) -> Result<(), BootError> {
    for (i, item) in (0u64..).zip(items) {
        ram.write_obj(*item, GuestAddress(at + i * size_of::<T>() as u64))?;
    }
    Ok(())
}

/// The memory map: RAM, but for the boot area, which starts at `reserved` and ends with low RAM.
fn memory_map(ram: &Ram, reserved: u64) -> Vec<hvm_memmap_table_entry> {
    let entry = |addr: u64, end: u64, type_: u32| hvm_memmap_table_entry {
        addr,
        size: end - addr,
        type_,
        reserved: 0,
    };
    let end = ram.last_addr().raw_value() + 1;
    let low_end = end.min(DEVICE_HOLE_START);
    let mut map = vec![
        entry(0, reserved, MEMMAP_RAM),
        entry(reserved, low_end, MEMMAP_RESERVED),
    ];
    if end > DEVICE_HOLE_END {
        map.push(entry(DEVICE_HOLE_END, end, MEMMAP_RAM));
    }
    map
}

fn write_ring_headers(ram: &Ram, layout: &BootLayout) -> Result<(), BootError> {
    for ring in 0..layout.rings {
        let header = RingHeader {
            magic: record::MAGIC,
            capacity: RING_CAPACITY,
            rings: layout.rings,
            head: 0,
            reserved: [0; 4],
        };
        let at = GuestAddress(layout.records + ring * ring_size(RING_CAPACITY));
        for (i, word) in (0u64..).zip([header.magic, header.capacity, header.rings, header.head]) {
            ram.write_obj(word, at.unchecked_add(i * 8))?;
        }
    }
    Ok(())
}

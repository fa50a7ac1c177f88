//! What the VMM says at boot: Xen's "x86/HVM direct boot ABI" (xen/include/public/arch-x86/hvm/start_info.h).

use core::sync::atomic::{AtomicU8, Ordering};

use crate::memory;

/// `XEN_HVM_START_MAGIC_VALUE`.
const MAGIC: u64 = 0x336e_c578;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const RAM: u64 = 1;
/// Bytes of an entry of the module list.
const MODULE_SIZE: u64 = 32;
/// Bytes of an entry of the memory map.
const MEMMAP_SIZE: u64 = 24;
/// Longest text that is read.
const LONGEST_TEXT: u64 = 16384;
/// Only what lies below is mapped.
const MAPPED_END: u64 = 1 << 32;

/// The start info.
#[derive(Debug, Clone, Copy)]
pub struct StartInfo {
    address: u64,
    modules: u64,
    module_list: u64,
    command_line: u64,
    memory_map: u64,
    memory_map_entries: u64,
}

/// A boot module.
#[derive(Debug, Clone, Copy)]
pub struct Module {
    /// Where it lies.
    pub address: u64,
    /// Its size in bytes.
    pub size: u64,
}

impl StartInfo {
    /// Reads the start info at `address`; `None` if there is none.
    pub fn read(address: u64) -> Option<Self> {
        let version = read(address + 4, 4)?;
        // The memory map came with version 1.
        let has_map = version >= 1;
        (read(address, 4)? == MAGIC).then_some(())?;
        Some(Self {
            address,
            modules: read(address + 12, 4)?,
            module_list: read(address + 16, 8)?,
            command_line: read(address + 24, 8)?,
            memory_map: if has_map { read(address + 40, 8)? } else { 0 },
            memory_map_entries: if has_map { read(address + 48, 4)? } else { 0 },
        })
    }

    /// The kernel command line, copied into `buffer`; empty if there is none, `None` if it is too long or no text.
    pub fn command_line<'a>(&self, buffer: &'a mut [u8]) -> Option<&'a str> {
        if self.command_line == 0 {
            return Some("");
        }
        let text = text(self.command_line)?;
        let room = buffer.get_mut(..text.len())?;
        for (to, from) in room.iter_mut().zip(text) {
            *to = from.load(Ordering::Relaxed);
        }
        core::str::from_utf8(room).ok()
    }

    /// The module whose command line is `name`.
    pub fn module(&self, name: &str) -> Option<Module> {
        self.modules().find_map(|(module, module_name)| {
            let text = text(module_name)?;
            let equal = text.len() == name.len()
                && text
                    .iter()
                    .zip(name.bytes())
                    .all(|(a, b)| a.load(Ordering::Relaxed) == b);
            equal.then_some(module)
        })
    }

    /// Every module, with the address of its command line.
    fn modules(&self) -> impl Iterator<Item = (Module, u64)> {
        let list = self.module_list;
        (0..self.modules.min(64)).filter_map(move |i| {
            let at = list.checked_add(i * MODULE_SIZE)?;
            let module = Module {
                address: read(at, 8)?,
                size: read(at + 8, 8)?,
            };
            Some((module, read(at + 16, 8)?))
        })
    }

    /// The end of the highest RAM below 4 GiB under which `size` bytes are free of boot data, lowered to a page boundary.
    pub fn free_ram(&self, size: u64) -> Option<u64> {
        self.ram()
            .filter_map(|(start, end)| {
                self.below_boot_data(start.max(memory::end_of_image()), end, size)
            })
            .max()
    }

    /// The end of the highest RAM below 4 GiB.
    pub fn end_of_ram(&self) -> u64 {
        self.ram().map(|(_, end)| end).max().unwrap_or(0)
    }

    /// The RAM below 4 GiB: start and end of each piece.
    fn ram(&self) -> impl Iterator<Item = (u64, u64)> {
        let map = self.memory_map;
        (0..self.memory_map_entries.min(256)).filter_map(move |i| {
            let at = map.checked_add(i * MEMMAP_SIZE)?;
            let (start, length) = (read(at, 8)?, read(at + 8, 8)?);
            let end = start.checked_add(length)?.min(MAPPED_END);
            (read(at + 16, 4)? == RAM && end > start).then_some((start, end))
        })
    }

    /// The highest end at or below `end` of `size` bytes from `start` on that no boot data lies in.
    fn below_boot_data(&self, start: u64, end: u64, size: u64) -> Option<u64> {
        let mut end = end & !0xfff;
        loop {
            let base = end.checked_sub(size).filter(|base| *base >= start)?;
            let overlaps = |m: &Module| m.address < end && m.address.saturating_add(m.size) > base;
            let data = [(self.address, 4096), (self.command_line, LONGEST_TEXT)]
                .map(|(address, size)| Module { address, size });
            match self.modules().map(|m| m.0).chain(data).find(overlaps) {
                Some(in_the_way) => end = in_the_way.address & !0xfff,
                None => return Some(end),
            }
        }
    }
}

/// A little-endian number of `size` bytes.
fn read(address: u64, size: u64) -> Option<u64> {
    let bytes = memory::bytes(address, size)?;
    let value = bytes.iter().rev().fold(0, |value, byte| {
        value << 8 | u64::from(byte.load(Ordering::Relaxed))
    });
    Some(value)
}

/// The bytes of a text before its terminating zero.
fn text(address: u64) -> Option<&'static [AtomicU8]> {
    let bytes = memory::bytes(address, LONGEST_TEXT.min(MAPPED_END.checked_sub(address)?))
        .or_else(|| memory::bytes(address, 64))?;
    let len = bytes.iter().position(|b| b.load(Ordering::Relaxed) == 0)?;
    bytes.get(..len)
}

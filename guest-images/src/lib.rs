//! Guest images built from source, ready to load.

pub mod pages;
pub mod taskset;

/// `rt-guest`: an ELF file with a PVH entry (Xen's "x86/HVM direct boot ABI"), stripped.
///
/// Its command line is a [`taskset::TaskSet`], written with `to_string`.
pub const RT_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rt-guest.elf"));

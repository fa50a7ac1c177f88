//! Guest images built from source, ready to load.

/// `rt-guest`: an ELF file with a PVH entry (Xen's "x86/HVM direct boot ABI"), stripped.
///
/// What its command line takes is told by the crate `rt-abi`.
pub const RT_GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/rt-guest.elf"));

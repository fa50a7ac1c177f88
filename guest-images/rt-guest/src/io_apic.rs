//! The I/O APIC (Intel 82093AA): lets devices interrupt the first vCPU.

use core::sync::atomic::Ordering;

use crate::{memory, timer};

/// Where it is on every machine that the guest runs on.
const REGISTERS: u64 = 0xfec0_0000;
/// Offsets of the register that selects and of the one that is selected.
const SELECT: u64 = 0x00;
const WINDOW: u64 = 0x10;
/// Index of the first redirection entry: two registers each.
const REDIRECTION: u32 = 0x10;
/// Vectors of asm/tables.S, by how the local APIC is told that an interrupt is over.
const VECTOR_X2APIC: u32 = 0x30;
const VECTOR_XAPIC: u32 = 0x31;

/// Lets `pin` interrupt the vCPU with APIC id 0: edge-triggered, active high, fixed, physical, not masked.
pub fn enable(pin: u32) -> Option<()> {
    let vector = match timer::is_deadline() {
        true => VECTOR_X2APIC,
        false => VECTOR_XAPIC,
    };
    write(REDIRECTION + 2 * pin + 1, 0)?;
    write(REDIRECTION + 2 * pin, vector)
}

fn write(index: u32, value: u32) -> Option<()> {
    memory::register(REGISTERS + SELECT)?.store(index, Ordering::Relaxed);
    memory::register(REGISTERS + WINDOW)?.store(value, Ordering::Relaxed);
    Some(())
}

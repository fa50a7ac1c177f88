//! The processor: instructions that Rust has no words for, and the kernel's services.

use core::arch::asm;

/// Services of asm/kernel.S, the value of EDI at `int3`.
#[derive(Debug, Clone, Copy)]
#[repr(u32)]
enum Service {
    WriteMsr = 0,
    WriteMsrAndIdle = 1,
    Idle = 2,
    ReadMsr = 3,
    InterruptsOn = 4,
    TripleFault = 5,
    Hang = 6,
    InvalidOpcode = 7,
    Stop = 8,
}

/// Asks the kernel. Takes and gives a 64-bit value, with `msr` for those that need one.
fn service(service: Service, msr: u32, value: u64) -> u64 {
    let (low, high) = (low32(value), low32(value >> 32));
    let (out_low, out_high): (u32, u32);
    // SAFETY:
    // - the kernel preserves every register but RAX, RCX and RDX, and touches no memory that Rust knows of;
    // - interrupts that the service lets in only write atomics of the vCPU's block.
    unsafe {
        asm!(
            "int3",
            inout("edi") service as u32 => _,
            inout("ecx") msr => _,
            inout("eax") low => out_low,
            inout("edx") high => out_high,
        );
    }
    u64::from(out_high) << 32 | u64::from(out_low)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
const fn low32(value: u64) -> u32 {
    value as u32
}

/// Writes a model-specific register.
pub fn write_msr(msr: u32, value: u64) {
    service(Service::WriteMsr, msr, value);
}

/// Stops this vCPU for good.
pub fn stop() -> ! {
    loop {
        service(Service::Stop, 0, 0);
    }
}

/// Ends the machine by an exception without any handler.
pub fn triple_fault() -> ! {
    service(Service::TripleFault, 0, 0);
    stop()
}

/// Reads a byte from a port.
pub fn read_u8(port: u16) -> u8 {
    let value;
    // SAFETY:
    // - port accesses reach devices only, and no device here does DMA.
    unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Writes a byte to a port.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY:
    // - as in `read_u8`.
    unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags)) };
}

/// Writes bytes to a port, one after the other, in one instruction.
pub fn write_bytes(port: u16, bytes: &[u8]) {
    // SAFETY:
    // - reads `bytes` only; otherwise as in `read_u8`.
    unsafe {
        asm!(
            "rep outsb",
            in("dx") port,
            inout("rsi") bytes.as_ptr() => _,
            inout("rcx") bytes.len() => _,
            options(readonly, nostack, preserves_flags),
        );
    }
}

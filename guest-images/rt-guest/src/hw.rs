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
    Cpuid = 8,
    Stop = 9,
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

/// Reads a model-specific register.
pub fn read_msr(msr: u32) -> u64 {
    service(Service::ReadMsr, msr, 0)
}

/// [`write_msr`], then [`idle`].
pub fn write_msr_and_idle(msr: u32, value: u64) {
    service(Service::WriteMsrAndIdle, msr, value);
}

/// Waits for the timer interrupt, unless one is pending in the vCPU's block.
pub fn idle() {
    service(Service::Idle, 0, 0);
}

/// Lets the timer interrupt this vCPU.
pub fn interrupts_on() {
    service(Service::InterruptsOn, 0, 0);
}

/// An endless loop at CPL 0 with interrupts off.
pub fn hang() -> ! {
    service(Service::Hang, 0, 0);
    stop()
}

/// An invalid opcode at CPL 0.
pub fn invalid_opcode() -> ! {
    service(Service::InvalidOpcode, 0, 0);
    stop()
}

/// Calls code at `address`, whatever is there.
pub fn call(address: u64) {
    // SAFETY:
    // - none: this is how a test makes the guest run wild. The guest ends in an exception.
    unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
}

/// Writes to an address that is not mapped.
pub fn write_unmapped() {
    // SAFETY:
    // - none: this is how a test makes the guest run wild. The guest ends in an exception.
    unsafe { asm!("mov qword ptr [{}], 0", in(reg) 1_u64 << 40) };
}

/// The time-stamp counter.
#[inline(always)]
pub fn rdtsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY:
    // - reads a counter, which CPL 3 may (CR4.TSD is clear).
    unsafe {
        asm!("rdtsc", out("eax") low, out("edx") high, options(nomem, nostack, preserves_flags))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// The time-stamp counter, read after all loads before it: a plain RDTSC may be executed while a load is under way (Intel
/// SDM, volume 2, RDTSC), and a lock then seem to be got before it was given back.
#[inline(always)]
pub fn rdtsc_after_loads() -> u64 {
    // SAFETY:
    // - waits for loads and changes nothing.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
    rdtsc()
}

/// EAX, EBX, ECX and EDX of a CPUID leaf, subleaf 0.
///
/// The kernel executes it: a monitor without hardware virtualisation may not be able to intercept CPUID at CPL 3, where
/// it would tell of the host's processor instead of the virtual one.
pub fn cpuid(leaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u64, u32, u32);
    // SAFETY:
    // - as in `service`; RBX, which is LLVM's own, is put back.
    unsafe {
        asm!(
            "mov {b}, rbx",
            "int3",
            "xchg {b}, rbx",
            b = out(reg) b,
            inout("edi") Service::Cpuid as u32 => _,
            inout("eax") leaf => a,
            inout("ecx") 0 => c,
            out("edx") d,
        );
    }
    [a, low32(b), c, d]
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
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// Writes a byte to a port.
pub fn write_u8(port: u16, value: u8) {
    // SAFETY:
    // - as in `read_u8`.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// Reads `1 << width` bytes, at most 4, from a port and drops them.
pub fn read_any(port: u16, width: u8) {
    // SAFETY:
    // - as in `read_u8`.
    unsafe {
        match width {
            0 => asm!("in al, dx", in("dx") port, out("al") _, options(nomem, nostack)),
            1 => asm!("in ax, dx", in("dx") port, out("ax") _, options(nomem, nostack)),
            _ => asm!("in eax, dx", in("dx") port, out("eax") _, options(nomem, nostack)),
        }
    }
}

/// Writes the lowest `1 << width` bytes, at most 4, of `value` to a port.
pub fn write_any(port: u16, width: u8, value: u32) {
    // SAFETY:
    // - as in `read_u8`.
    unsafe {
        match width {
            0 => asm!("out dx, al", in("dx") port, in("eax") value, options(nomem, nostack)),
            1 => asm!("out dx, ax", in("dx") port, in("eax") value, options(nomem, nostack)),
            _ => asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack)),
        }
    }
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

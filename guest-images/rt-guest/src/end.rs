//! How a run ends.

use crate::{console, hw};

/// What the guest writes to the debug-exit port. QEMU's `isa-debug-exit` ends with the status `value * 2 + 1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// The run is over.
    Done = 0x10,
    /// The command line cannot be run; the console says why.
    CommandLine = 0x11,
    /// An exception or a panic; the console says which. asm/kernel.S knows this number.
    Exception = 0x12,
    /// The machine lacks something; the console says what.
    Machine = 0x13,
}

/// The debug-exit port.
pub const DEBUG_EXIT: u16 = 0xf4;
/// Command port of the keyboard controller, and its command to reset the machine.
pub const KEYBOARD: u16 = 0x64;
const RESET: u8 = 0xfe;

/// Ends the machine: by debug exit, or else by reset, or else by triple fault.
pub fn end(exit: Exit) -> ! {
    hw::write_u8(DEBUG_EXIT, exit as u8);
    hw::write_u8(KEYBOARD, RESET);
    hw::triple_fault()
}

/// Reports an exception; what asm/kernel.S goes to, on a stack of its own.
#[unsafe(no_mangle)]
extern "C" fn report_exception(
    vector: u64,
    code: u64,
    rip: u64,
    address: u64,
    selector: u64,
    stack: u64,
) -> ! {
    console::line(format_args!(
        "rt-guest: exception {vector} error {code:#x} rip {rip:#x} cr2 {address:#x} cpl {} rsp {stack:#x}",
        selector & 3
    ));
    end(Exit::Exception)
}

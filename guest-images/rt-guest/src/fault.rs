//! Ways to fail, to see what the VMM makes of them.

use core::sync::atomic::Ordering;

use rt_abi::taskset::Fault;

use crate::end::{self, Exit};
use crate::{hw, memory};

/// Where there is no code: device addresses, which no device answers here.
const NO_CODE: u64 = 0xd000_0000;
/// Where wild writes go: everything between the image and 4 GiB, a page at a time.
const WILD_STEP: u64 = 4096;

/// Fails.
pub fn run(fault: Fault) -> ! {
    match fault {
        Fault::Triple => hw::triple_fault(),
        Fault::InvalidOpcode => hw::invalid_opcode(),
        Fault::Hang => hw::hang(),
        Fault::Wild => hw::call(NO_CODE),
        Fault::WildMemory => write_everywhere(),
    }
    // Still here: whatever was there ran, and returned.
    end::end(Exit::Done)
}

fn write_everywhere() {
    let mut address = memory::end_of_image().next_multiple_of(WILD_STEP);
    while let Some([word, ..]) = memory::words(address, 1) {
        word.store(address, Ordering::Relaxed);
        address += WILD_STEP;
    }
    // Past everything that is mapped.
    hw::write_unmapped();
}

//! Random accesses to devices, to see whether the VMM withstands them.

use core::sync::atomic::Ordering;

use rt_abi::random::Random;
use rt_abi::taskset::{Storm, TaskSet};

use crate::clock::Clock;
use crate::end::{self, DEBUG_EXIT, Exit, KEYBOARD};
use crate::start_info::StartInfo;
use crate::{console, hw, memory};

/// Ports that CPL 3 may use end here (asm/tables.S).
const PORTS: u64 = 0x700;
/// The reset bits of PC chipsets.
const FAST_RESET: u16 = 0x92;
const RESET_CONTROL: u16 = 0xcf9;
/// Power management of QEMU's PC: it can switch the machine off.
const POWER: core::ops::Range<u16> = 0x600..0x640;
/// Where devices are, below 4 GiB.
const DEVICES: u64 = 3 << 30;
const DEVICES_END: u64 = 1 << 32;
/// The interrupt controllers' and the HPET's own addresses: writes there change this vCPU, not a device of the VMM.
const INTERRUPT_CONTROLLERS: core::ops::Range<u64> = 0xfec0_0000..0xfef0_0000;
/// Accesses between two looks at the clock.
const BATCH: u64 = 64;

/// Accesses devices at random until the duration of `set` is over, and ends the guest.
pub fn run(storm: Storm, set: &TaskSet, clock: &Clock, info: &StartInfo) -> ! {
    let mut random = Random::new(set.seed);
    let end = clock.now().saturating_add(set.duration);
    let mut accesses = 0_u64;
    while clock.now() < end {
        for _ in 0..BATCH {
            match storm {
                Storm::Pio => port(&mut random),
                Storm::Mmio => address(&mut random, info),
            }
        }
        accesses += BATCH;
    }
    console::reset();
    console::line(format_args!("storm {accesses} accesses"));
    end::end(Exit::Done)
}

fn port(random: &mut Random) {
    let width = u8::try_from(random.uniform(0, 2)).unwrap_or(0);
    let port = u16::try_from(random.uniform(0, PORTS - 1)).unwrap_or(0);
    let touched = port..port.saturating_add(1 << width);
    let ends = [KEYBOARD, FAST_RESET, RESET_CONTROL];
    let past_the_bitmap = u64::from(touched.end) > PORTS;
    let debug_exit = DEBUG_EXIT..DEBUG_EXIT + 4;
    let exits = debug_exit.start < touched.end && touched.start < debug_exit.end;
    if past_the_bitmap || exits || ends.iter().any(|p| touched.contains(p)) || POWER.contains(&port)
    {
        return;
    }
    let value = random.next();
    if value & 1 == 0 {
        hw::read_any(port, width);
    } else {
        let [_, _, _, _, a, b, c, d] = value.to_le_bytes();
        hw::write_any(port, width, u32::from_le_bytes([a, b, c, d]));
    }
}

fn address(random: &mut Random, info: &StartInfo) {
    // Half of them where devices are, half anywhere behind RAM.
    let ram = info.end_of_ram().min(DEVICES);
    let from = if random.next() & 1 == 0 { DEVICES } else { ram };
    let address = random.uniform(from, DEVICES_END - 8) & !7;
    if INTERRUPT_CONTROLLERS.contains(&address) {
        return;
    }
    let value = random.next();
    let write = value & 1 == 0;
    if value & 2 == 0 {
        let Some(word) = memory::register(address) else {
            return;
        };
        match write {
            true => word.store(u32::try_from(value >> 32).unwrap_or(0), Ordering::Relaxed),
            false => drop(word.load(Ordering::Relaxed)),
        }
    } else {
        let Some([word, ..]) = memory::words(address, 1) else {
            return;
        };
        match write {
            true => word.store(value, Ordering::Relaxed),
            false => drop(word.load(Ordering::Relaxed)),
        }
    }
}

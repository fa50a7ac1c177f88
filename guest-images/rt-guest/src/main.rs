//! `rt-guest`: a small real-time operating system on the bare (virtual) machine, to check what a VMM promises.
//!
//! Boots by PVH, runs the task set of its command line, writes a record for every job into a ring that the VMM can read
//! (and over the serial port when asked), prints a summary and ends the machine.
//!
//! CPL 0 holds mechanisms only (asm/kernel.S); the scheduler, the tasks and all output are Rust at CPL 3.
//! Addresses below 4 GiB are mapped one to one, and everything is below.
//!
//! Values written to the debug-exit port (0xf4) at the end: see [`end::Exit`].
#![no_std]
#![no_main]

mod console;
mod cpu;
mod end;
mod hw;

use core::panic::PanicInfo;

/// What the first vCPU runs, at CPL 3 with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn first_main(_start_info: u64) -> ! {
    console::line(format_args!("rt-guest: ready"));
    end::end(end::Exit::Done)
}

/// What every further vCPU runs, at CPL 3 with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn further_main(_index: u64) -> ! {
    hw::stop()
}

/// What schedules.
#[unsafe(no_mangle)]
extern "C" fn schedule(_index: u64) -> ! {
    hw::stop()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::line(format_args!("rt-guest: {info}"));
    end::end(end::Exit::Exception)
}

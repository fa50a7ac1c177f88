//! `rt-guest`: a small real-time operating system on the bare (virtual) machine, to check what a VMM promises.
//!
//! Boots by PVH, runs the task set of its command line (see `rt_abi::taskset`), writes a record for every job into a ring
//! that the VMM can read (and over the serial port when asked), prints a summary and ends the machine.
//!
//! CPL 0 holds mechanisms only (asm/kernel.S); the scheduler, the tasks and all output are Rust at CPL 3.
//! Addresses below 4 GiB are mapped one to one, and everything is below. Uses 0x60000..0x61000 to start further vCPUs.
//!
//! Values written to the debug-exit port (0xf4) at the end: see [`end::Exit`].
#![no_std]
#![no_main]

mod bench;
mod clock;
mod console;
mod cpu;
mod end;
mod fault;
mod hw;
mod io_apic;
mod lock;
mod memory;
mod network;
mod pages;
mod ring;
mod scheduler;
mod smp;
mod start_info;
mod storm;
mod system;
mod task;
mod timer;
mod virtio;
mod web;

use core::fmt::Arguments;
use core::panic::PanicInfo;

use rt_abi::taskset::{Mode, TaskSet};

use clock::Clock;
use cpu::Cpu;
use end::Exit;
use start_info::StartInfo;
use system::System;

/// Between the end of the preparations and the first release at least, in nanoseconds.
const LEAST_LEAD: u64 = 1_000_000;
/// Longest command line that is read, in bytes.
const COMMAND_LINE: usize = 4096;

/// What the first vCPU runs, at CPL 3 with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn first_main(start_info: u64) -> ! {
    let boot_tsc = hw::rdtsc();
    console::line(format_args!("rt-guest: ready"));
    let Some(info) = StartInfo::read(start_info) else {
        fail(
            Exit::Machine,
            format_args!("no PVH start info at {start_info:#x}"),
        )
    };
    let set = task_set(&info);
    let clock = Clock::of_vmm(&info).or_else(|| Clock::measured(boot_tsc, set.tsc_khz));
    let Some(clock) = clock else {
        fail(
            Exit::Machine,
            format_args!("no clock page, KVM clock or 8254 to learn the time from; say tsc_khz="),
        )
    };
    match set.mode {
        Mode::Tasks => run(&set, clock, &info, boot_tsc),
        Mode::Bench { port, count } => bench::run(port, count, &clock, &info),
        Mode::Storm(storm) => storm::run(storm, &set, &clock, &info),
        Mode::Fault(fault) => fault::run(fault),
    }
}

fn task_set(info: &StartInfo) -> TaskSet {
    let mut buffer = [0; COMMAND_LINE];
    let Some(line) = info.command_line(&mut buffer) else {
        fail(
            Exit::CommandLine,
            format_args!("the command line is no text of less than {COMMAND_LINE} bytes"),
        )
    };
    match TaskSet::parse(line) {
        Ok(set) => set,
        Err(error) => fail(Exit::CommandLine, format_args!("{error}")),
    }
}

/// Prepares everything and starts scheduling.
fn run(set: &TaskSet, clock: Clock, info: &StartInfo, boot_tsc: u64) -> ! {
    let boot = clock.page().ns_at(boot_tsc);
    timer::choose();
    timer::set_up();
    timer::calibrate(&clock);
    let mut system = match System::new(set, clock, info) {
        Ok(system) => system,
        Err(shortage) => fail(Exit::Machine, format_args!("{shortage}")),
    };
    pages::fill(&system);
    scheduler::prepare(&system);
    if let Err(vcpu) = smp::start_others(set.vcpus, &clock) {
        fail(Exit::Machine, format_args!("vCPU {vcpu} does not start"))
    }
    system.start = (boot + set.start).max(clock.now() + LEAST_LEAD);
    system.end = system.start.saturating_add(set.duration);
    system.publish();
    smp::go();
    match Cpu::get(0) {
        Some(cpu) => cpu.start(),
        None => hw::stop(),
    }
}

/// Says why the guest cannot run, and ends it.
fn fail(exit: Exit, why: Arguments<'_>) -> ! {
    console::line(format_args!("rt-guest: {why}"));
    end::end(exit)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::line(format_args!("rt-guest: {info}"));
    end::end(Exit::Exception)
}

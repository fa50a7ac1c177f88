//! The local APIC: each vCPU's timer, and starting other vCPUs.
//!
//! Where the processor has both x2APIC and the TSC-deadline timer, these; else xAPIC registers and its one-shot timer.

use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use rt_abi::clock::ClockPage;

use crate::clock::{self, Clock};
use crate::cpu::Cpu;
use crate::{hw, memory};

/// CPUID leaf 1, ECX.
const X2APIC: u32 = 1 << 21;
const TSC_DEADLINE: u32 = 1 << 24;
/// Model-specific registers; x2APIC registers are at `MSR_X2APIC` + offset / 16.
const MSR_APIC_BASE: u32 = 0x1b;
const MSR_TSC_DEADLINE: u32 = 0x6e0;
const MSR_X2APIC: u32 = 0x800;
/// Enable bits of `MSR_APIC_BASE`: x2APIC mode needs both.
const APIC_ENABLE: u64 = 1 << 11;
const X2APIC_ENABLE: u64 = 1 << 10;
/// Where xAPIC registers are.
const XAPIC: u64 = 0xfee0_0000;
/// Register offsets.
const TASK_PRIORITY: u32 = 0x80;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const DESTINATION: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDE: u32 = 0x3e0;
/// Values. The vectors are those of asm/tables.S.
const MASKED: u32 = 1 << 16;
const ENABLE_SPURIOUS: u32 = 0x1ff;
const DEADLINE_MODE: u32 = 1 << 18 | 0x20;
const ONE_SHOT_MODE: u32 = 0x21;
const DIVIDE_BY_1: u32 = 0xb;
const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;

static IS_DEADLINE: AtomicU8 = AtomicU8::new(0);
/// APIC timer ticks per nanosecond, 32.32 fixed point.
static ONE_SHOT_RATE: AtomicU64 = AtomicU64::new(0);

/// Whether the TSC-deadline timer is in use.
pub fn is_deadline() -> bool {
    IS_DEADLINE.load(Ordering::Relaxed) != 0
}

/// Chooses the kind of timer, on the first vCPU.
pub fn choose() {
    let features = hw::cpuid(1)[2];
    let both = X2APIC | TSC_DEADLINE;
    IS_DEADLINE.store(u8::from(features & both == both), Ordering::Relaxed);
}

/// Sets up this vCPU's local APIC: nothing but the timer interrupts, and devices where the I/O APIC lets them.
pub fn set_up() {
    if is_deadline() {
        let base = hw::read_msr(MSR_APIC_BASE) | APIC_ENABLE;
        hw::write_msr(MSR_APIC_BASE, base);
        hw::write_msr(MSR_APIC_BASE, base | X2APIC_ENABLE);
    }
    write(SPURIOUS, ENABLE_SPURIOUS);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, MASKED);
    write(TASK_PRIORITY, 0);
    if is_deadline() {
        write(LVT_TIMER, DEADLINE_MODE);
    } else {
        write(DIVIDE, DIVIDE_BY_1);
        write(LVT_TIMER, ONE_SHOT_MODE);
    }
}

/// Measures the one-shot timer, on the first vCPU.
pub fn calibrate(clock: &Clock) {
    const SAMPLE: u64 = 2_000_000;
    if is_deadline() {
        return;
    }
    write(LVT_TIMER, MASKED | ONE_SHOT_MODE);
    write(INITIAL_COUNT, u32::MAX);
    let (begin, first) = current_count(clock);
    clock.wait(SAMPLE);
    let (end, last) = current_count(clock);
    write(INITIAL_COUNT, 0);
    write(LVT_TIMER, ONE_SHOT_MODE);
    let counted = u64::from(first.saturating_sub(last)).max(1);
    let rate = (counted << 32) / (end - begin).max(1);
    ONE_SHOT_RATE.store(rate, Ordering::Relaxed);
}

/// A time and the timer's count at that time: the quickest reading of several, since one may be held up on its way.
fn current_count(clock: &Clock) -> (u64, u32) {
    let readings = (0..8).map(|_| {
        let before = clock.now();
        let count = read(CURRENT_COUNT);
        (clock.now() - before, before, count)
    });
    let (took, before, count) = readings.min().unwrap_or_default();
    (before + took / 2, count)
}

/// Makes the timer go off when the TSC reaches `tsc`.
pub fn arm(page: &ClockPage, tsc: u64) {
    if is_deadline() {
        hw::write_msr(MSR_TSC_DEADLINE, tsc);
    } else {
        arm_one_shot(page, tsc);
    }
}

/// [`arm`], then waits for an interrupt, unless one came in the meantime.
pub fn arm_and_idle(page: &ClockPage, tsc: u64) {
    if is_deadline() {
        hw::write_msr_and_idle(MSR_TSC_DEADLINE, tsc);
    } else {
        arm_one_shot(page, tsc);
        hw::idle();
    }
}

fn arm_one_shot(page: &ClockPage, tsc: u64) {
    let ns = clock::length(page, tsc.saturating_sub(hw::rdtsc()));
    let rate = ONE_SHOT_RATE.load(Ordering::Relaxed);
    let count = ((u128::from(ns) * u128::from(rate)) >> 32) + 1;
    write(INITIAL_COUNT, u32::try_from(count).unwrap_or(u32::MAX));
}

/// Starts the vCPU whose APIC id is `id` at the page `page` of memory. `attempt` 0 resets it first.
pub fn start_vcpu(id: u32, page: u8, clock: &Clock, attempt: u32) {
    // Intel SDM volume 3, "Typical BSP initialization sequence"; the waits are shorter: no vCPU needs 10 ms.
    if attempt == 0 {
        command(id, INIT);
        clock.wait(200_000);
    }
    command(id, STARTUP | u32::from(page));
}

fn command(id: u32, value: u32) {
    if is_deadline() {
        hw::write_msr(
            MSR_X2APIC + COMMAND / 16,
            u64::from(id) << 32 | u64::from(value),
        );
    } else {
        write(DESTINATION, id << 24);
        write(COMMAND, value);
    }
}

fn write(offset: u32, value: u32) {
    if is_deadline() {
        hw::write_msr(MSR_X2APIC + offset / 16, value.into());
    } else if let Some(register) = memory::register(XAPIC + u64::from(offset)) {
        register.store(value, Ordering::Relaxed);
    }
}

fn read(offset: u32) -> u32 {
    memory::register(XAPIC + u64::from(offset)).map_or(0, |r| r.load(Ordering::Relaxed))
}

/// What a timer interrupt programmed by itself, given the timer's `PENDING_` flags of `cpu` and what was programmed before.
pub fn programmed(cpu: &Cpu, pending: u8, before: u64) -> u64 {
    match pending {
        0 => before,
        crate::cpu::PENDING_REARMED => cpu.following.load(Ordering::Relaxed),
        _ => 0,
    }
}

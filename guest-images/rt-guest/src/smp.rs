//! Starting further vCPUs: INIT, start-up IPI, a trampoline below 1 MiB.
//!
//! A vCPU's number is its initial APIC id, so these must be 0, 1, 2 and so on, the first vCPU being 0.

use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::clock::Clock;
use crate::cpu::{self, Cpu, MAX_VCPUS};
use crate::{hw, memory, timer};

/// The page that further vCPUs start in. Nothing else may lie there.
const TRAMPOLINE_PAGE: u8 = 0x60;
/// How often a vCPU is asked to start, and how long each attempt may take, in nanoseconds.
const ATTEMPTS: u32 = 5;
const PATIENCE: u64 = 200_000_000;

static ONLINE: [AtomicBool; MAX_VCPUS] = [const { AtomicBool::new(false) }; MAX_VCPUS];
static GO: AtomicBool = AtomicBool::new(false);
static FINISHED: AtomicU32 = AtomicU32::new(0);

/// Starts vCPUs 1 to `vcpus` - 1.
///
/// # Errors
/// The number of a vCPU that does not start.
pub fn start_others(vcpus: u16, clock: &Clock) -> Result<(), u16> {
    if vcpus > 1 {
        copy_trampoline().ok_or(1_u16)?;
    }
    (1..vcpus).try_for_each(|vcpu| start(vcpu, clock).ok_or(vcpu))
}

fn copy_trampoline() -> Option<()> {
    let code = cpu::trampoline_code();
    let page = memory::bytes(u64::from(TRAMPOLINE_PAGE) << 12, code.len() as u64)?;
    for (to, from) in page.iter().zip(code) {
        to.store(*from, Ordering::Relaxed);
    }
    Some(())
}

fn start(vcpu: u16, clock: &Clock) -> Option<()> {
    let online = ONLINE.get(usize::from(vcpu))?;
    for attempt in 0..ATTEMPTS {
        timer::start_vcpu(vcpu.into(), TRAMPOLINE_PAGE, clock, attempt);
        let give_up = clock.now() + PATIENCE;
        while clock.now() < give_up {
            if online.load(Ordering::Acquire) {
                return Some(());
            }
            core::hint::spin_loop();
        }
    }
    None
}

/// Lets the vCPUs that wait schedule.
pub fn go() {
    GO.store(true, Ordering::Release);
}

/// Notes that a vCPU's run is over.
pub fn finished() {
    FINISHED.fetch_add(1, Ordering::AcqRel);
}

/// How many vCPUs' runs are over.
pub fn how_many_finished() -> u32 {
    FINISHED.load(Ordering::Acquire)
}

/// What every further vCPU runs, at CPL 3 with interrupts off.
#[unsafe(no_mangle)]
extern "C" fn further_main(index: u64) -> ! {
    let index = usize::try_from(index).unwrap_or(MAX_VCPUS);
    let (Some(online), Some(cpu)) = (ONLINE.get(index), Cpu::get(index)) else {
        hw::stop()
    };
    timer::set_up();
    online.store(true, Ordering::Release);
    while !GO.load(Ordering::Acquire) {
        core::hint::spin_loop();
    }
    cpu.start()
}

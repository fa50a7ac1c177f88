//! How a run ends.

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use rt_abi::policy::{self, next_release};
use rt_abi::record::{Kind, Record};
use rt_abi::taskset::{self, Task};

use crate::system::{System, system};
use crate::{console, hw, network, scheduler, smp, task};

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

/// How long vCPU 0 waits for the others at the end, in nanoseconds.
const PATIENCE: u64 = 200_000_000;

static IS_OVER: AtomicBool = AtomicBool::new(false);

/// Ends the run of `vcpu`, in its scheduler; vCPU 0 also sums up and ends the machine. Returns while there are records
/// to print first.
pub fn finish(vcpu: usize) {
    if vcpu != 0 {
        smp::finished();
        hw::stop()
    }
    let system = system();
    if !IS_OVER.swap(true, Ordering::Relaxed) {
        wait_for_others(system);
        push_end(system);
    }
    if scheduler::has_news(system) {
        return;
    }
    for (index, task) in system.set.tasks().iter().enumerate() {
        summarise(system, index, task);
    }
    end(Exit::Done)
}

fn wait_for_others(system: &System) {
    let others = u32::from(system.set.vcpus) - 1;
    let give_up = system.clock.now().saturating_add(PATIENCE);
    while smp::how_many_finished() < others && system.clock.now() < give_up {
        core::hint::spin_loop();
    }
}

fn push_end(system: &System) {
    if let Some(ring) = system.ring(0) {
        ring.push(&Record {
            kind: Kind::End as u16,
            task: u16::MAX,
            finish: system.clock.now(),
            ..Record::default()
        });
    }
}

/// Prints a task's line of the summary.
fn summarise(system: &System, index: usize, task: &Task) {
    match task.kind {
        taskset::Kind::Hog => return,
        taskset::Kind::Network(_) => {
            console::line(format_args!("{}", network::COUNTERS));
            return;
        }
        _ => {}
    }
    let state = task::state(index);
    let jobs = state.finished.load(Ordering::Relaxed);
    let late = |job: &u64| {
        !task.kind.is_service()
            && policy::deadline(task, next_release(task, *job, system.start)) <= system.end
    };
    // Jobs that never finished missed the deadlines that have passed.
    let unfinished = (jobs..state.released.load(Ordering::Relaxed)).filter(late);
    let misses = state.misses.load(Ordering::Relaxed) + unfinished.count() as u64;
    let least = if jobs == 0 {
        0
    } else {
        state.least.load(Ordering::Relaxed)
    };
    let written = task.dirty.map(|_| Written {
        pages: state.written.load(Ordering::Relaxed),
        wrong: state.wrong.load(Ordering::Relaxed),
    });
    console::line(format_args!(
        "task {} jobs {jobs} misses {misses} response {}/{}/{} us{}",
        task.name,
        least / 1000,
        state.sum.load(Ordering::Relaxed) / jobs.max(1) / 1000,
        state.most.load(Ordering::Relaxed) / 1000,
        written.unwrap_or_default()
    ));
}

/// What a task has written: nothing is said of one that has not.
#[derive(Default)]
struct Written {
    pages: u64,
    wrong: u64,
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { pages: 0, .. } => Ok(()),
            Self { pages, wrong } => write!(f, " pages {pages} wrong {wrong}"),
        }
    }
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

//! What the assembler and Rust share: the block of each vCPU, contexts, and the ways into and out of the scheduler.

use core::arch::global_asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64, Ordering, compiler_fence};

use rt_abi::taskset::MAX_TASKS;

use crate::hw;

/// Most vCPUs.
pub const MAX_VCPUS: usize = rt_abi::taskset::MAX_VCPUS as usize;
/// Bytes of each vCPU's scheduler stack.
const STACK_SIZE: usize = 8192;
/// Bytes of each context's stack.
const CONTEXT_STACK_SIZE: usize = 8192;
/// Contexts: one per task, and the one that prints records.
pub const CONTEXTS: usize = MAX_TASKS + 1;

/// [`Cpu::pending`]: the timer went off and was programmed with [`Cpu::following`].
pub const PENDING_REARMED: u8 = 1;
/// [`Cpu::pending`]: the timer went off and is not programmed.
pub const PENDING_SPENT: u8 = 2;

/// Selectors of asm/tables.S, and RFLAGS with interrupts on.
const USER_CODE: u64 = 0x33;
const USER_DATA: u64 = 0x2b;
const FLAGS: u64 = 0x202;
/// x87 control word and MXCSR as after reset: all exceptions masked.
const FCW: u16 = 0x37f;
const MXCSR: u32 = 0x1f80;

/// [`Cpu::pending`]: a job ended; the timer is as it was.
pub const PENDING_DONE: u8 = 4;
/// [`Cpu::pending`]: a device interrupted; the timer is as it was.
pub const PENDING_DEVICE: u8 = 8;

/// A stopped flow of CPL 3: its registers as asm/user.S saves and restores them.
#[repr(C, align(16))]
pub struct Context {
    fx: [u8; 512],
    rax: u64,
    rbx: u64,
    rcx: u64,
    rdx: u64,
    rsi: u64,
    rdi: u64,
    rbp: u64,
    r8_to_r15: [u64; 8],
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
    cpu: u64,
}

/// The block of one vCPU, right above its kernel stack.
#[repr(C)]
pub struct Cpu {
    /// The context that runs when the scheduler does not.
    pub current: AtomicPtr<Context>,
    /// TSC at the first instruction of the last timer interrupt.
    pub stamp: AtomicU64,
    /// What the timer interrupt programs the TSC deadline with; 0 for nothing.
    pub following: AtomicU64,
    /// End of the scheduler's stack.
    scheduler_stack: AtomicU64,
    /// `PENDING_` flags since the scheduler last looked.
    pub pending: AtomicU8,
    /// Whether the timer interrupt must not enter the scheduler.
    pub in_scheduler: AtomicU8,
    /// Which vCPU this is.
    index: AtomicU64,
}

/// A vCPU's page: the kernel stack grows down from the block.
#[repr(C, align(4096))]
struct CpuPage {
    stack: [u64; 256],
    cpu: Cpu,
}

/// A context and its stack. Only the scheduler of the vCPU it is bound to, and the assembler for it, touch it.
#[repr(C, align(16))]
struct Slot {
    context: UnsafeCell<Context>,
    stack: UnsafeCell<[u8; CONTEXT_STACK_SIZE]>,
}

// SAFETY:
// - a slot is set up by the first vCPU before others run, and then used by one vCPU only.
unsafe impl Sync for Slot {}

static SLOTS: [Slot; CONTEXTS] = [const {
    Slot {
        context: UnsafeCell::new(Context::ZERO),
        stack: UnsafeCell::new([0; CONTEXT_STACK_SIZE]),
    }
}; CONTEXTS];

unsafe extern "C" {
    /// The vCPUs' pages, from asm/layout.S; their kernel stacks are used by interrupts only.
    static cpus: [CpuPage; MAX_VCPUS];
    fn enter_scheduler(cpu: &Cpu);
    fn start_scheduler(cpu: &Cpu) -> !;
    static trampoline: u8;
    static trampoline_end: u8;
}

/// The code that further vCPUs start with, to be copied below 1 MiB.
pub fn trampoline_code() -> &'static [u8] {
    let (start, end) = (&raw const trampoline, &raw const trampoline_end);
    // SAFETY:
    // - both are labels in one section of asm/boot.S, in this order; the code is never written.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

impl Context {
    /// All zero, so that it takes no room in the file.
    const ZERO: Self = Self {
        fx: [0; 512],
        rax: 0,
        rbx: 0,
        rcx: 0,
        rdx: 0,
        rsi: 0,
        rdi: 0,
        rbp: 0,
        r8_to_r15: [0; 8],
        rip: 0,
        cs: 0,
        rflags: 0,
        rsp: 0,
        ss: 0,
        cpu: 0,
    };
}

/// What a context runs.
#[derive(Clone, Copy)]
pub struct Start {
    /// Where it starts.
    pub main: extern "C" fn(u64) -> !,
    /// With which argument.
    pub argument: u64,
    /// End of its stack, if not its own small one.
    pub stack_end: Option<u64>,
}

/// Makes context `slot` start so, on `cpu`. Before that vCPU schedules.
pub fn prepare(slot: usize, cpu: &'static Cpu, start: Start) {
    let Some(entry) = SLOTS.get(slot) else { return };
    let own = (entry.stack.get().addr() + CONTEXT_STACK_SIZE) as u64;
    let top = start.stack_end.unwrap_or(own);
    let mut context = Context {
        rip: start.main as *const () as u64,
        rdi: start.argument,
        cs: USER_CODE,
        rflags: FLAGS,
        ss: USER_DATA,
        // As after a call.
        rsp: top - 8,
        cpu: (&raw const *cpu).addr() as u64,
        ..Context::ZERO
    };
    context.fx[..2].copy_from_slice(&FCW.to_le_bytes());
    context.fx[24..28].copy_from_slice(&MXCSR.to_le_bytes());
    // SAFETY:
    // - nothing runs in this context yet (see above), so nobody else touches it.
    unsafe { *entry.context.get() = context };
}

/// Context `slot`, to be run.
pub fn context(slot: usize) -> *mut Context {
    SLOTS
        .get(slot)
        .map_or(core::ptr::null_mut(), |s| s.context.get())
}

impl Cpu {
    /// The block of vCPU `index`.
    pub fn get(index: usize) -> Option<&'static Self> {
        let block = (&raw const cpus).cast::<CpuPage>();
        (index < MAX_VCPUS).then(|| {
            // SAFETY:
            // - in bounds of what asm/layout.S reserves with this layout;
            // - all zero is a valid `Cpu`, and its fields are atomics;
            // - the reference is to the block, not to the stack beside it.
            let cpu = unsafe { &(*block.add(index)).cpu };
            cpu.index.store(index as u64, Ordering::Relaxed);
            cpu
        })
    }

    /// Which vCPU this is.
    pub fn index(&self) -> usize {
        usize::try_from(self.index.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// Lets the scheduler choose what runs next; returns when it is the caller.
    pub fn yield_now(&'static self) {
        // SAFETY:
        // - called in a context of this vCPU, where it saves what the calling convention asks for.
        unsafe { enter_scheduler(self) }
    }

    /// Starts scheduling on this vCPU.
    pub fn start(&'static self) -> ! {
        self.in_scheduler.store(1, Ordering::Relaxed);
        hw::interrupts_on();
        // SAFETY:
        // - on this vCPU, whose scheduler stack holds nothing that is still needed.
        unsafe { start_scheduler(self) }
    }

    /// Runs `work` without being preempted.
    pub fn undisturbed(&'static self, work: impl FnOnce()) {
        self.in_scheduler.store(1, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        work();
        compiler_fence(Ordering::SeqCst);
        self.in_scheduler.store(0, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        if self.pending.load(Ordering::Relaxed) != 0 {
            self.yield_now();
        }
    }
}

const _: () = {
    assert!(size_of::<CpuPage>() == 4096 && offset_of!(CpuPage, cpu) == 2048);
    assert!(offset_of!(Cpu, stamp) == 8 && offset_of!(Cpu, following) == 16);
    assert!(offset_of!(Cpu, scheduler_stack) == 24 && offset_of!(Cpu, pending) == 32);
    assert!(offset_of!(Cpu, in_scheduler) == 33 && offset_of!(Context, cs) == 640);
    assert!(offset_of!(Context, rflags) == 648 && offset_of!(Context, rsp) == 656);
    assert!(offset_of!(Context, rax) == 512 && offset_of!(Context, r8_to_r15) == 568);
    assert!(offset_of!(Context, rip) == 632 && offset_of!(Context, cpu) == 672);
    assert!(PENDING_DEVICE == 8);
    assert!(MAX_VCPUS == 16 && STACK_SIZE == 8192 && PENDING_REARMED == 1 && PENDING_SPENT == 2);
};

global_asm!(
    include_str!("asm/layout.S"),
    include_str!("asm/tables.S"),
    include_str!("asm/boot.S"),
    include_str!("asm/kernel.S"),
    include_str!("asm/user.S"),
    options(att_syntax, raw)
);

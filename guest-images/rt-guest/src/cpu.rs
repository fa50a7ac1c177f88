//! What the assembler and Rust share: the block of each vCPU, contexts, and the ways into and out of the scheduler.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicPtr, AtomicU8, AtomicU64};

/// Most vCPUs.
pub const MAX_VCPUS: usize = rt_abi::taskset::MAX_VCPUS as usize;
/// Bytes of each vCPU's scheduler stack.
const STACK_SIZE: usize = 16384;

/// [`Cpu::pending`]: the timer went off and was programmed with [`Cpu::following`].
pub const PENDING_REARMED: u8 = 1;
/// [`Cpu::pending`]: the timer went off and is not programmed.
pub const PENDING_SPENT: u8 = 2;

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
}

/// A vCPU's page: the kernel stack grows down from the block.
#[repr(C, align(4096))]
struct CpuPage {
    stack: [u64; 256],
    cpu: Cpu,
}

#[repr(C, align(16))]
struct Stack([u8; STACK_SIZE]);

const _: () = {
    assert!(size_of::<CpuPage>() == 4096 && offset_of!(CpuPage, cpu) == 2048);
    assert!(offset_of!(Cpu, stamp) == 8 && offset_of!(Cpu, following) == 16);
    assert!(offset_of!(Cpu, scheduler_stack) == 24 && offset_of!(Cpu, pending) == 32);
    assert!(offset_of!(Cpu, in_scheduler) == 33);
    assert!(offset_of!(Context, rax) == 512 && offset_of!(Context, r8_to_r15) == 568);
    assert!(offset_of!(Context, rip) == 632 && offset_of!(Context, cpu) == 672);
    assert!(MAX_VCPUS == 16 && STACK_SIZE == 16384 && PENDING_REARMED == 1 && PENDING_SPENT == 2);
};

global_asm!(
    include_str!("asm/layout.S"),
    include_str!("asm/tables.S"),
    include_str!("asm/boot.S"),
    include_str!("asm/kernel.S"),
    include_str!("asm/user.S"),
    options(att_syntax, raw)
);

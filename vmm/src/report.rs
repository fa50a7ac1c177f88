//! What is said about a guest that failed: why, and where it was.

use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

/// Registers of a vCPU, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// Flags.
    pub rflags: u64,
    /// rax, rbx, rcx, rdx, rsi, rdi, rbp, r8 to r15.
    pub general: [u64; 15],
    /// cr0, cr2, cr3, cr4, efer.
    pub control: [u64; 5],
    /// Code segment; its low two bits are the privilege level in most modes.
    pub cs: u16,
}

impl Registers {
    /// Reads the registers of a vCPU that does not run. `None` if KVM cannot tell.
    #[must_use]
    pub fn read(fd: &VcpuFd) -> Option<Self> {
        let regs = fd.get_regs().ok()?;
        let sregs = fd.get_sregs().ok()?;
        Some(Self {
            rip: regs.rip,
            rsp: regs.rsp,
            rflags: regs.rflags,
            general: [
                regs.rax, regs.rbx, regs.rcx, regs.rdx, regs.rsi, regs.rdi, regs.rbp, regs.r8,
                regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15,
            ],
            control: [sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.efer],
            cs: sregs.cs.selector,
        })
    }
}

impl std::fmt::Display for Registers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const NAMES: [&str; 15] = [
            "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12",
            "r13", "r14", "r15",
        ];
        writeln!(
            f,
            "rip {:#018x}  rsp {:#018x}  rflags {:#x}  cs {:#x}",
            self.rip, self.rsp, self.rflags, self.cs
        )?;
        for (i, (name, value)) in NAMES.iter().zip(self.general).enumerate() {
            let end = if i % 4 == 3 || i == 14 { "\n" } else { "  " };
            write!(f, "{name:<3} {value:#018x}{end}")?;
        }
        let [cr0, cr2, cr3, cr4, efer] = self.control;
        write!(
            f,
            "cr0 {cr0:#x}  cr2 {cr2:#x}  cr3 {cr3:#x}  cr4 {cr4:#x}  efer {efer:#x}"
        )
    }
}

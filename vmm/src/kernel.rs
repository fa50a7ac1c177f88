//! Everything in this crate that the compiler cannot check: the calls to KVM and to the kernel that need `unsafe`.
//!
//! Nothing is decided here. Each function is the smallest safe wrapper of one call.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd};

use kvm_bindings::{kvm_userspace_memory_region, kvm_xsave};
use kvm_ioctls::{VcpuFd, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MmapRegion};
use vmm_sys_util::ioctl::ioctl_with_ref;

/// Kind of the ioctls of KVM (`KVMIO` in linux/kvm.h).
const KVMIO: u32 = 0xae;

/// `struct kvm_signal_mask` with the 8-byte signal set that the kernel uses on x86-64.
#[repr(C)]
pub struct KvmSignalMask {
    len: u32,
    sigset: [u8; 8],
}

/// Request numbers that no crate defines.
mod request {
    vmm_sys_util::ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, super::KVMIO, 0x8b, u32);
}

/// Registers every region of `ram` with the VM, one memory slot each, in order.
///
/// # Errors
/// What `KVM_SET_USER_MEMORY_REGION` answers.
pub fn register_memory(vm: &VmFd, ram: &GuestMemoryMmap) -> Result<(), kvm_ioctls::Error> {
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY:
        // - the address range is a live mapping of exactly this length, owned by `ram`;
        // - no vCPU runs when `ram` goes: vCPU threads hold the `Machine` that owns it, and KVM gives up its own references
        //   to the pages when they are unmapped (mmu notifier);
        // - the regions of a GuestMemoryMmap do not overlap, and every slot number is used once.
        unsafe { vm.set_user_memory_region(slot)? };
    }
    Ok(())
}

/// Locks a mapping of guest memory, so that no page of it is ever taken away while vCPUs run.
///
/// # Errors
/// `EPERM` or `ENOMEM` when `RLIMIT_MEMLOCK` forbids it.
pub fn lock(region: &MmapRegion) -> io::Result<()> {
    // SAFETY: the range is a live mapping of exactly this length, and mlock changes no content of it.
    match unsafe { libc::mlock(region.as_ptr().cast(), region.size()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the signal mask that holds while the thread is inside `KVM_RUN` of this vCPU.
///
/// `blocked` has bit `n - 1` set for each blocked signal `n`.
///
/// # Errors
/// What `KVM_SET_SIGNAL_MASK` answers.
pub fn set_run_signal_mask(vcpu: &VcpuFd, blocked: u64) -> io::Result<()> {
    let mask = KvmSignalMask {
        len: 8,
        sigset: blocked.to_ne_bytes(),
    };
    // SAFETY:
    // - the argument has the layout of `struct kvm_signal_mask` followed by `len` bytes of signal set;
    // - the kernel copies it during the call and keeps no pointer to it.
    match unsafe { ioctl_with_ref(vcpu, request::KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Suberror and data of the last `KVM_EXIT_INTERNAL_ERROR`; meaningful only right after that exit.
pub fn internal_error(vcpu: &mut VcpuFd) -> (u32, Vec<u64>) {
    let run = vcpu.get_kvm_run();
    // SAFETY: every field of this union is plain integers, for which any content is valid.
    let internal = unsafe { run.__bindgen_anon_1.internal };
    let count = usize::try_from(internal.ndata).map_or(0, |n| n.min(internal.data.len()));
    (internal.suberror, internal.data[..count].to_vec())
}

/// The time-stamp counter of the processor that runs this.
#[must_use]
pub fn rdtsc() -> u64 {
    // SAFETY: the instruction reads a counter and touches no memory; every x86-64 processor has it, and Linux lets
    // user space execute it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The controlling descriptor of a vCPU, for calls that take a plain descriptor.
#[must_use]
pub fn vcpu_descriptor(vcpu: &VcpuFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `vcpu` is borrowed.
    unsafe { BorrowedFd::borrow_raw(vcpu.as_raw_fd()) }
}

/// A second [`VcpuFd`] of the same vCPU, with mappings of its own.
///
/// # Errors
/// What duplicating the descriptor or mapping it answers.
pub fn second_view(vm: &VmFd, vcpu: &VcpuFd) -> io::Result<VcpuFd> {
    let descriptor = vcpu_descriptor(vcpu).try_clone_to_owned()?;
    // SAFETY: the descriptor is a vCPU of this VM, open, and owned by nobody else from here on.
    unsafe { vm.create_vcpu_from_rawfd(descriptor.into_raw_fd()) }.map_err(io::Error::from)
}

/// Sets the floating-point state of a vCPU.
///
/// # Errors
/// What `KVM_SET_XSAVE` answers.
pub fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: no feature with state beyond the 4096 bytes of `kvm_xsave` is enabled for this process (that takes an
    // explicit arch_prctl(ARCH_REQ_XCOMP_GUEST_PERM)), so KVM reads no further than the structure.
    unsafe { vcpu.set_xsave(xsave) }
}

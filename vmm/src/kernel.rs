//! Everything in this crate that the compiler cannot check: the calls to KVM and to the kernel that need `unsafe`.
//!
//! Nothing is decided here. Each function is the smallest safe wrapper of one call.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{Ordering, compiler_fence};
use std::thread::JoinHandle;

use kvm_bindings::{
    KVM_MEM_LOG_DIRTY_PAGES, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1,
    kvm_coalesced_mmio, kvm_userspace_memory_region, kvm_xsave,
};
use kvm_ioctls::{VcpuFd, VmFd};
use nix::sched::CpuSet;
use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;

use crate::memory::{Mapping, Ram, marks};

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
    vmm_sys_util::ioctl_iowr_nr!(
        KVM_CLEAR_DIRTY_LOG,
        super::KVMIO,
        0xc0,
        kvm_bindings::kvm_clear_dirty_log
    );
}

/// Whether KVM notes the pages that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DirtyLogging {
    /// It does not.
    Off,
    /// It does.
    On,
}

/// Takes the descriptor that this process was started with under a number, which is said once; programs that this one starts do not get it.
///
/// # Errors
/// When it was started with none of that number.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: changes a flag of a descriptor of this process, if there is one, and reads no memory.
    let set = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    if set == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY:
    // - it is open: its flag was just set;
    // - nobody else in this process owns it: it was there before the program began, and its number was given to this call alone.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Registers every region of `ram` with the VM, one memory slot each, in order. Once more to switch logging: vCPUs may run
/// meanwhile.
///
/// # Errors
/// What `KVM_SET_USER_MEMORY_REGION` answers.
pub fn register_memory(
    vm: &VmFd,
    ram: &Ram,
    logging: DirtyLogging,
) -> Result<(), kvm_ioctls::Error> {
    let flags = match logging {
        DirtyLogging::Off => 0,
        DirtyLogging::On => KVM_MEM_LOG_DIRTY_PAGES,
    };
    for (slot, region) in (0u32..).zip(ram.iter()) {
        let slot = kvm_userspace_memory_region {
            slot,
            flags,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: region.as_ptr() as u64,
        };
        // SAFETY:
        // - the address range is a live mapping of exactly this length, owned by `ram`;
        // - no vCPU runs when `ram` goes: vCPU threads hold the `Machine` that owns it, and KVM gives up its own references
        //   to the pages when they are unmapped (mmu notifier);
        // - the regions of a Ram do not overlap, and every slot number is used once, always for the same region.
        unsafe { vm.set_user_memory_region(slot)? };
    }
    Ok(())
}

/// Takes pages out of the dirty log of a memory slot: those whose bits are set in `words`, whose first bit is page `first` of the
/// slot, a multiple of 64. Bits beyond `count` pages are not looked at. Later writes to them are logged again.
///
/// # Errors
/// What `KVM_CLEAR_DIRTY_LOG` answers: `EINVAL` for pages that the slot does not have, or where the last is neither a
/// multiple of 64 nor the slot's last.
pub fn clear_dirty_log(
    vm: &VmFd,
    slot: u32,
    (first, count): (u64, u32),
    words: &[u64],
) -> io::Result<()> {
    if usize::try_from(count.div_ceil(64)).is_ok_and(|needed| needed > words.len()) {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    let request = kvm_clear_dirty_log {
        slot,
        num_pages: count,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 {
            dirty_bitmap: words.as_ptr().cast_mut().cast(),
        },
    };
    // SAFETY:
    // - the argument is the structure that the request number says;
    // - the bitmap has a bit for each of `count` pages (checked above), and the kernel only reads it, during the call.
    match unsafe { ioctl_with_ref(vm, request::KVM_CLEAR_DIRTY_LOG(), &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has every thread of this process be past a full memory barrier (membarrier(2)): what a thread wrote before it read
/// something from memory is seen by everybody afterwards, and what it reads later is what stands there now.
///
/// # Errors
/// `ENOSYS` or `EINVAL` on a kernel that cannot (Linux before 4.14).
pub fn fence_all_threads() -> io::Result<()> {
    for command in [
        libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED,
        libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED,
    ] {
        // SAFETY: the call takes two numbers and touches no memory of the process.
        if unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Has every page of a mapping of guest memory be locked as soon as it is there, so that it is never taken away while
/// vCPUs run.
///
/// # Errors
/// `EPERM` or `ENOMEM` when `RLIMIT_MEMLOCK` forbids it.
pub fn lock_on_fault(region: &Mapping) -> io::Result<()> {
    let (start, length) = (region.as_ptr().cast(), region.size());
    // SAFETY: the range is a live mapping of exactly this length, and mlock2 changes no content of it.
    match unsafe { libc::mlock2(start, length, libc::MLOCK_ONFAULT) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes the pages of a part of guest memory be there, writable (`MADV_POPULATE_WRITE`, Linux 5.14).
///
/// # Errors
/// `EINVAL` when the part is not inside the region; `ENOMEM` or `EFAULT` when there is not enough memory of the kind.
pub fn populate(region: &Mapping, offset: usize, length: usize) -> io::Result<()> {
    let inside = offset
        .checked_add(length)
        .is_some_and(|end| end <= region.size());
    if !inside {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the part lies in a live mapping (checked above), and populating changes no content of it.
    match unsafe {
        let start = region.as_ptr().add(offset);
        libc::madvise(start.cast(), length, libc::MADV_POPULATE_WRITE)
    } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Restricts a thread that was just started to one CPU, at the highest SCHED_FIFO priority: as an ordinary thread it
/// could wait there behind a busy one with a priority.
///
/// # Errors
/// `EPERM` without the right to have that priority; `EINVAL` when the cpuset of the process does not have that CPU.
pub fn send_to(thread: &JoinHandle<()>, cpu: u32) -> io::Result<()> {
    let done = |error: i32| match error {
        0 => Ok(()),
        _ => Err(io::Error::from_raw_os_error(error)),
    };
    let mut set = CpuSet::new();
    set.set(usize::try_from(cpu).unwrap_or(usize::MAX))?;
    let highest = libc::sched_param { sched_priority: 99 };
    let id = thread.as_pthread_t();
    // SAFETY:
    // - the thread was not joined, so its pthread_t is valid;
    // - the call only reads the parameter.
    done(unsafe { libc::pthread_setschedparam(id, libc::SCHED_FIFO, &raw const highest) })?;
    let set = std::ptr::from_ref(&set).cast();
    // SAFETY:
    // - as above; CpuSet is the kernel's cpu_set_t.
    done(unsafe { libc::pthread_setaffinity_np(id, size_of::<CpuSet>(), set) })
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

/// Whether a write that KVM has held back is one to a port, and not to device memory.
#[must_use]
pub fn is_port(entry: &kvm_coalesced_mmio) -> bool {
    // SAFETY: both fields of this union are plain integers, for which any content is valid.
    unsafe { entry.__bindgen_anon_1.pio != 0 }
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

/// The descriptor of an eventfd, for calls that take a plain descriptor.
#[must_use]
pub fn descriptor(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open for as long as `event` is borrowed.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
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

/// Stretches of guest memory that a frame is scattered over or gathered from, in order. Those at the front are used up
/// while others are added at the back; there is room for a number that is fixed when it is made.
pub struct Stretches {
    /// Keeps the memory mapped that `list` points into.
    ram: Ram,
    list: Vec<libc::iovec>,
    /// Before this, `list` is used up.
    first: usize,
    room: usize,
    bytes: usize,
}

// SAFETY: the pointers lead into mappings that `ram` keeps alive on whichever thread this is, and whose contents anybody,
// the guest included, may change at any time.
unsafe impl Send for Stretches {}

/// A stretch does not lie in guest memory, or there is no room for another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoStretch;

/// The kernel takes so many stretches at once (`UIO_MAXIOV`).
const MOST_AT_ONCE: usize = 1024;

impl Stretches {
    /// None yet, of this memory, with room for `room`.
    #[must_use]
    pub fn new(ram: Ram, room: usize) -> Self {
        Self {
            ram,
            list: Vec::with_capacity(2 * room),
            first: 0,
            room,
            bytes: 0,
        }
    }

    /// Bytes of all stretches.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Number of stretches.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len() - self.first
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds a stretch, unless it is empty.
    ///
    /// # Errors
    /// [`NoStretch`]; nothing was added then.
    pub fn push(&mut self, start: GuestAddress, length: usize) -> Result<(), NoStretch> {
        if length == 0 {
            return Ok(());
        }
        if self.len() == self.room {
            return Err(NoStretch);
        }
        let total = self.bytes.checked_add(length).ok_or(NoStretch)?;
        let slice = self.ram.get_slice(start, length).map_err(|_| NoStretch)?;
        if self.list.len() == self.list.capacity() {
            // Moves at most `room` stretches once per `room` of them.
            self.list.drain(..self.first);
            self.first = 0;
        }
        self.list.push(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: length,
        });
        self.bytes = total;
        Ok(())
    }

    /// Takes the first `count` stretches away.
    pub fn drop_front(&mut self, count: usize) {
        let end = (self.first + count).min(self.list.len());
        self.bytes -= lengths(&self.list[self.first..end]);
        self.first = end;
    }

    /// Takes all away.
    pub fn clear(&mut self) {
        self.list.clear();
        (self.first, self.bytes) = (0, 0);
    }

    /// Reads from `file` into the first `count` stretches (readv(2)).
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn read_from(&mut self, file: impl AsFd, count: usize) -> io::Result<usize> {
        let list = self.head(count);
        // SAFETY:
        // - every element was made in `push` from a slice that lies in `ram`, whose mapping is writable and alive;
        // - nobody holds a Rust reference into guest memory, which others may write at the same time;
        // - the count is that of the slice, at most UIO_MAXIOV.
        let read = unsafe {
            let file = file.as_fd().as_raw_fd();
            libc::readv(file, list.as_ptr(), i32::try_from(list.len()).unwrap_or(0))
        };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        self.mark(0, read);
        Ok(read)
    }

    /// Writes all stretches to `file` (writev(2)).
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn write_to(&self, file: impl AsFd) -> io::Result<usize> {
        let list = self.head(self.len());
        // SAFETY: as for `read_from`; the kernel only reads.
        let written = unsafe {
            let file = file.as_fd().as_raw_fd();
            libc::writev(file, list.as_ptr(), i32::try_from(list.len()).unwrap_or(0))
        };
        usize::try_from(written).map_err(|_| io::Error::last_os_error())
    }

    /// Copies `bytes` into the stretches, from `offset` on. Returns how many found room.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) -> usize {
        let (mut skip, mut rest) = (offset, bytes);
        for stretch in &self.list[self.first..] {
            if rest.is_empty() {
                break;
            }
            let here = stretch.iov_len.saturating_sub(skip).min(rest.len());
            if here > 0 {
                // SAFETY:
                // - `skip + here` is at most the length of the stretch, which lies in `ram`, mapped, writable and alive;
                // - `rest` is at least `here` long, and no Rust object lies in guest memory.
                unsafe {
                    let to = stretch.iov_base.cast::<u8>().add(skip);
                    std::ptr::copy_nonoverlapping(rest.as_ptr(), to, here);
                }
                rest = &rest[here..];
            }
            skip = skip.saturating_sub(stretch.iov_len);
        }
        let put = bytes.len() - rest.len();
        self.mark(offset, put);
        put
    }

    /// Says that bytes were written, to whoever wants to know: neither readv nor a plain copy does.
    fn mark(&self, offset: usize, length: usize) {
        compiler_fence(Ordering::SeqCst);
        if !self.ram.iter().any(|region| marks(region).is_on()) {
            return;
        }
        let (mut skip, mut rest) = (offset, length);
        for stretch in &self.list[self.first..] {
            let here = stretch.iov_len.saturating_sub(skip).min(rest);
            if here > 0 {
                self.mark_at(stretch.iov_base.addr() + skip, here);
            }
            rest -= here;
            skip = skip.saturating_sub(stretch.iov_len);
        }
    }

    /// The same of bytes at an address in this process, all in one region.
    fn mark_at(&self, address: usize, length: usize) {
        for region in self.ram.iter() {
            let offset = address.wrapping_sub(region.as_ptr().addr());
            if offset < region.size() {
                marks(region).mark_dirty(offset, length);
            }
        }
    }

    fn head(&self, count: usize) -> &[libc::iovec] {
        let count = count.min(self.len()).min(MOST_AT_ONCE);
        &self.list[self.first..self.first + count]
    }
}

fn lengths(list: &[libc::iovec]) -> usize {
    list.iter().map(|stretch| stretch.iov_len).sum()
}

/// Gives back the pages of the executable's code and constants that were used so far. What is needed again comes back
/// from the page cache, a few pages at a time; what only served to start does not.
pub fn forget_start_up() {
    for (start, length) in executable_mappings() {
        let start = std::ptr::without_provenance_mut(start);
        // The process is only larger than it need be if this fails.
        // SAFETY: the range is a mapping of the executable's file that nobody can write, so its content comes back
        // unchanged from that file (MADV_DONTNEED in madvise(2)).
        let _ = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    }
}

/// Address and length of what is mapped of the executable read-only, as its program headers say (getauxval(3), elf(5)).
fn executable_mappings() -> Vec<(usize, usize)> {
    const PAGE: usize = 4096;
    // SAFETY: both only read what the kernel handed to the process when it started.
    let (headers, count) = unsafe {
        (
            libc::getauxval(libc::AT_PHDR),
            libc::getauxval(libc::AT_PHNUM),
        )
    };
    let (Ok(address), Ok(count)) = (usize::try_from(headers), usize::try_from(count)) else {
        return Vec::new();
    };
    if address == 0 {
        return Vec::new();
    }
    let first = std::ptr::with_exposed_provenance::<libc::Elf64_Phdr>(address);
    // SAFETY: the kernel says that so many program headers lie there; nobody writes or unmaps them.
    let table = unsafe { std::slice::from_raw_parts(first, count) };
    let place = |header: &libc::Elf64_Phdr| {
        let start = usize::try_from(header.p_vaddr).ok()?;
        Some((start, usize::try_from(header.p_memsz).ok()?))
    };
    // Where the executable lies differs from where it says it lies.
    let own = table
        .iter()
        .find(|header| header.p_type == libc::PT_PHDR)
        .and_then(place);
    let Some(moved) = own.and_then(|(said, _)| address.checked_sub(said)) else {
        return Vec::new();
    };
    table
        .iter()
        .filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0)
        .filter_map(place)
        .map(|(start, length)| {
            // Whole pages only: the last one may be shared with what follows.
            let (start, end) = (moved + start, moved + start + length);
            let (start, end) = (start - start % PAGE, end - end % PAGE);
            (start, end.saturating_sub(start))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgotten_code_comes_back() {
        let here = (forgotten_code_comes_back as *const ()).addr();
        let mappings = executable_mappings();
        let inside = |&(start, length): &(usize, usize)| (start..start + length).contains(&here);
        assert!(mappings.iter().any(inside), "{here:x} in {mappings:x?}");
        let resident = || std::fs::read_to_string("/proc/self/statm").unwrap();
        let shared = |statm: String| statm.split(' ').nth(2).unwrap().parse::<u64>().unwrap();
        let before = shared(resident());
        forget_start_up();
        assert!(shared(resident()) < before);
    }
}

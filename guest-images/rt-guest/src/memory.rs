//! Physical memory outside the image: boot data, modules, the tasks' regions. All of it shared with the host, so it is only
//! ever seen as atomics.

use core::cell::UnsafeCell;
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// What is mapped: one to one, by asm/tables.S.
const MAPPED_END: u64 = 1 << 32;
/// First byte of the image (link.ld).
const IMAGE_START: u64 = 0x10_0000;

unsafe extern "C" {
    /// End of the image, from link.ld.
    static image_end: u8;
}

/// First address after the image.
pub fn end_of_image() -> u64 {
    (&raw const image_end).addr() as u64
}

/// Whether `size` bytes at `address` are mapped, outside the image and not at 0.
fn is_foreign(address: u64, size: u64) -> bool {
    match address.checked_add(size) {
        Some(end) if address > 0 && end <= MAPPED_END => {
            end <= IMAGE_START || address >= end_of_image()
        }
        _ => false,
    }
}

/// A slice of `count` atomics at `address`; `None` if they are not all mapped, in foreign memory and aligned.
fn atomics<T>(address: u64, count: u64) -> Option<&'static [T]> {
    let bytes = count.checked_mul(size_of::<T>() as u64)?;
    let start = usize::try_from(address).ok()?;
    let count = usize::try_from(count).ok()?;
    if !is_foreign(address, bytes) || !start.is_multiple_of(align_of::<T>()) {
        return None;
    }
    // SAFETY:
    // - only called with atomic integers (below), which any bytes make and which may change at any time;
    // - the range is mapped, aligned, not null, and outside everything that Rust or the assembler owns;
    // - what is mapped stays mapped.
    Some(unsafe { core::slice::from_raw_parts(core::ptr::without_provenance::<T>(start), count) })
}

/// `count` bytes at `address`.
pub fn bytes(address: u64, count: u64) -> Option<&'static [AtomicU8]> {
    atomics(address, count)
}

/// `count` 64-bit words at `address`.
pub fn words(address: u64, count: u64) -> Option<&'static [AtomicU64]> {
    atomics(address, count)
}

/// `count` 32-bit words at `address`.
pub fn half_words(address: u64, count: u64) -> Option<&'static [AtomicU32]> {
    atomics(address, count)
}

/// `count` 16-bit words at `address`.
pub fn quarter_words(address: u64, count: u64) -> Option<&'static [AtomicU16]> {
    atomics(address, count)
}

/// A device register.
pub fn register(address: u64) -> Option<&'static AtomicU32> {
    atomics(address, 1)?.first()
}

/// `count` samples in RAM at `address`, for one caller: the bench, which is all that runs then.
pub fn samples(address: u64, count: u64) -> Option<&'static mut [u32]> {
    let words: &[AtomicU32] = atomics(address, count)?;
    let start = words.as_ptr().cast_mut().cast::<u32>();
    // SAFETY:
    // - valid for `words.len()` integers as shown by `words`, which is not used any more;
    // - called once, for RAM without boot data, which the VMM leaves alone.
    Some(unsafe { core::slice::from_raw_parts_mut(start, words.len()) })
}

/// A piece of RAM that is the guest's own: no boot data, and nothing that another part of the guest uses.
#[derive(Debug, Clone, Copy)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Address after the last.
    pub end: u64,
}

/// RAM given out piece by piece and never taken back.
#[derive(Debug)]
pub struct Arena(Range);

impl Arena {
    /// Gives out `range`.
    ///
    /// # Safety
    /// The range is as [`Range`] says, and only one arena is ever made of it.
    pub const unsafe fn new(range: Range) -> Self {
        Self(range)
    }

    /// The address of `size` bytes that start at a multiple of `align`, a power of two.
    pub fn take(&mut self, size: u64, align: u64) -> Option<u64> {
        let start = self.0.start.checked_next_multiple_of(align)?;
        let end = start.checked_add(size).filter(|end| *end <= self.0.end)?;
        self.0.start = end;
        Some(start)
    }

    /// `count` values, each made by `make`.
    pub fn values<T>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Option<&'static mut [T]> {
        let size = size_of::<T>().checked_mul(count)?;
        let start = self.take(size as u64, align_of::<T>() as u64)?;
        let first = bytes(start, size as u64)?.as_ptr().cast_mut().cast::<T>();
        for i in 0..count {
            // SAFETY:
            // - in bounds of what `bytes` has shown to be mapped, and aligned by `take`;
            // - given out once, and the arena is nobody else's (see `new`).
            unsafe { first.add(i).write(make(i)) };
        }
        // SAFETY:
        // - all `count` values were written above; otherwise as there.
        Some(unsafe { core::slice::from_raw_parts_mut(first, count) })
    }

    /// `size` bytes.
    pub fn bytes(&mut self, size: usize) -> Option<&'static mut [u8]> {
        let start = self.take(size as u64, 64)?;
        let bytes = bytes(start, size as u64)?.as_ptr().cast_mut().cast::<u8>();
        // SAFETY:
        // - valid for `size` bytes as shown by `bytes`;
        // - given out once, and the arena is nobody else's (see `new`).
        Some(unsafe { core::slice::from_raw_parts_mut(bytes, size) })
    }
}

/// A value set once, while only the first vCPU runs, and read by all later.
pub struct Once<T> {
    set: AtomicBool,
    value: UnsafeCell<MaybeUninit<T>>,
}

// SAFETY:
// - `value` is written before `set` is (release), and only read after `set` was seen (acquire).
unsafe impl<T: Sync> Sync for Once<T> {}

impl<T> Once<T> {
    /// Nothing yet.
    pub const fn new() -> Self {
        Self {
            set: AtomicBool::new(false),
            value: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Sets the value. Only the first vCPU does so, before others run.
    pub fn set(&self, value: T) {
        assert!(!self.set.load(Ordering::Relaxed), "set twice");
        // SAFETY:
        // - not set yet, so nobody reads; one vCPU runs, so nobody else writes.
        unsafe { (*self.value.get()).write(value) };
        self.set.store(true, Ordering::Release);
    }

    /// The value, once it is set.
    pub fn get(&self) -> Option<&T> {
        // SAFETY:
        // - set, hence initialised and never written again.
        self.set
            .load(Ordering::Acquire)
            .then(|| unsafe { (*self.value.get()).assume_init_ref() })
    }
}

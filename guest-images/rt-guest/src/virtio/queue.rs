//! Split virtqueues (virtio 1.2, 2.7). The device reads and writes them at any time: they are atomics.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence};

use crate::memory::{self, Arena};

/// Longest queue, and so many bytes of memory each may take.
pub const LONGEST: u16 = 256;
pub const MEMORY: u64 = 16 * LONGEST as u64 + 4096 + 4096;

/// The device writes to the buffer.
pub const WRITE: u16 = 2;
/// In the flags of the ring of available buffers: no interrupts.
const NO_INTERRUPT: u16 = 1;
/// In the flags of the ring of used buffers: no notifications.
const NO_NOTIFY: u32 = 1;

/// A queue.
pub struct Queue {
    size: u16,
    descriptors: &'static [AtomicU64],
    /// Flags, index, ring, used event.
    available: &'static [AtomicU16],
    /// Flags and index in one, ring of id and length, available event.
    used: &'static [AtomicU32],
    has_event_index: bool,
    /// Index of the next buffer to offer, and what the device was told of it.
    offered: u16,
    published: u16,
    /// Index of the next used buffer to take.
    taken: u16,
}

impl Queue {
    /// A queue of `size` buffers, a power of two.
    pub fn new(arena: &mut Arena, size: u16, has_event_index: bool) -> Option<Self> {
        let n = u64::from(size);
        let descriptors = arena.take(16 * n, 4096)?;
        let available = arena.take(6 + 2 * n, 4096)?;
        let used = arena.take(8 + 8 * n, 4096)?;
        let queue = Self {
            size,
            descriptors: memory::words(descriptors, 2 * n)?,
            available: memory::quarter_words(available, 3 + n)?,
            used: memory::half_words(used, 2 + 2 * n)?,
            has_event_index,
            offered: 0,
            published: 0,
            taken: 0,
        };
        for word in queue.available {
            word.store(0, Ordering::Relaxed);
        }
        for word in queue.used {
            word.store(0, Ordering::Relaxed);
        }
        Some(queue)
    }

    /// How many buffers fit.
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Where its three parts are.
    pub fn addresses(&self) -> [u64; 3] {
        [
            self.descriptors.as_ptr().addr() as u64,
            self.available.as_ptr().addr() as u64,
            self.used.as_ptr().addr() as u64,
        ]
    }

    /// Makes descriptor `id` the buffer of `length` bytes at `address`.
    pub fn describe(&self, id: u16, address: u64, length: u32, flags: u16) {
        let at = usize::from(id) * 2;
        if let Some([first, second]) = self.descriptors.get(at..at + 2) {
            first.store(address, Ordering::Relaxed);
            let rest = u64::from(length) | u64::from(flags) << 32;
            second.store(rest, Ordering::Relaxed);
        }
    }

    /// Offers descriptor `id` to the device, with the next [`Queue::publish`].
    pub fn offer(&mut self, id: u16) {
        let at = 2 + usize::from(self.offered & (self.size - 1));
        if let Some(slot) = self.available.get(at) {
            slot.store(id, Ordering::Relaxed);
        }
        self.offered = self.offered.wrapping_add(1);
    }

    /// Makes the device see what was offered; whether it wants to be notified of it.
    #[must_use]
    pub fn publish(&mut self) -> bool {
        let (before, now) = (self.published, self.offered);
        if before == now {
            return false;
        }
        let Some(index) = self.available.get(1) else {
            return false;
        };
        index.store(now, Ordering::Release);
        self.published = now;
        // The index is to be seen before the device's wish is looked at (virtio 1.2, 2.7.13.4.1).
        fence(Ordering::SeqCst);
        match self.has_event_index {
            true => {
                let event = self.used_word(2 * usize::from(self.size) + 1);
                let event = low16(event);
                now.wrapping_sub(event).wrapping_sub(1) < now.wrapping_sub(before)
            }
            false => self.used_word(0) & NO_NOTIFY == 0,
        }
    }

    /// How many used buffers wait to be taken.
    pub fn waiting(&self) -> u16 {
        let flags_and_index = self.used.first().map_or(0, |w| w.load(Ordering::Acquire));
        low16(flags_and_index >> 16).wrapping_sub(self.taken)
    }

    /// Id and length of used buffer number `ahead` of those that wait. The id is below the queue's size.
    pub fn used(&self, ahead: u16) -> (u16, u32) {
        let place = usize::from(self.taken.wrapping_add(ahead) & (self.size - 1));
        let id = low16(self.used_word(1 + 2 * place));
        (id & (self.size - 1), self.used_word(2 + 2 * place))
    }

    /// Takes `count` of those that wait.
    pub fn take(&mut self, count: u16) {
        self.taken = self.taken.wrapping_add(count);
    }

    /// Asks for no interrupts.
    pub fn be_quiet(&self) {
        match self.has_event_index {
            // The device will only pass this after 2^16 more buffers.
            true => self.set_used_event(self.taken.wrapping_sub(1)),
            false => self.set_flags(NO_INTERRUPT),
        }
    }

    /// Asks for an interrupt with the next used buffer; whether there is one already.
    #[must_use]
    pub fn listen(&self) -> bool {
        match self.has_event_index {
            true => self.set_used_event(self.taken),
            false => self.set_flags(0),
        }
        // The wish is to be seen before the index is looked at.
        fence(Ordering::SeqCst);
        self.waiting() > 0
    }

    fn set_flags(&self, flags: u16) {
        if let Some(word) = self.available.first() {
            word.store(flags, Ordering::Relaxed);
        }
    }

    fn set_used_event(&self, index: u16) {
        if let Some(word) = self.available.get(2 + usize::from(self.size)) {
            word.store(index, Ordering::Relaxed);
        }
    }

    fn used_word(&self, at: usize) -> u32 {
        self.used.get(at).map_or(0, |w| w.load(Ordering::Acquire))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
const fn low16(value: u32) -> u16 {
    value as u16
}

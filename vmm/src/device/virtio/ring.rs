//! One virtqueue: virtio-queue's, plus what a device needs that it does not do: used elements that appear together,
//! interrupts that a driver without an event index does not want, chains checked to their end.

use std::sync::atomic::{Ordering, fence};

use serde::{Deserialize, Serialize};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueState, QueueT};
use vm_memory::{Bytes, GuestAddress};

use crate::memory::Ram;

use super::Fault;

/// VIRTQ_AVAIL_F_NO_INTERRUPT.
const NO_INTERRUPT: u16 = 1;

/// A queue as its driver has set it up, and how far it has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingState {
    /// Descriptors.
    pub size: u16,
    /// Whether the driver has said that all is set.
    pub ready: bool,
    /// Address of the descriptor table.
    pub descriptors: u64,
    /// Address of the available ring.
    pub available: u64,
    /// Address of the used ring.
    pub used: u64,
    /// The next entry of the available ring to take.
    pub next_available: u16,
    /// The next entry of the used ring to fill.
    pub next_used: u16,
}

/// Which way buffers of a chain must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads them.
    Read,
    /// The device writes them.
    Write,
}

/// A queue at work.
#[derive(Debug)]
pub struct Ring {
    queue: Queue,
    has_event_index: bool,
    /// Elements written that the guest has not been shown.
    unseen: u16,
    /// The used index when it was last asked whether to interrupt.
    asked_at: u16,
    /// Whether the guest is to notify.
    listening: bool,
}

/// A chain of a ring.
pub type Chain<'a> = DescriptorChain<&'a Ram>;

impl Ring {
    /// The queue as set up.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn new(
        state: &RingState,
        max_size: u16,
        has_event_index: bool,
        ram: &Ram,
    ) -> Result<Self, Fault> {
        let queue = Queue::try_from(QueueState {
            max_size,
            next_avail: state.next_available,
            next_used: state.next_used,
            event_idx_enabled: has_event_index,
            size: state.size,
            ready: state.ready,
            desc_table: state.descriptors,
            avail_ring: state.available,
            used_ring: state.used,
        });
        let queue = queue.map_err(|_| Fault::Queue)?;
        // Address 0 is taken for "not set" by virtio-queue.
        if state.available == 0 || !queue.is_valid(ram) {
            return Err(Fault::Queue);
        }
        Ok(Self {
            queue,
            has_event_index,
            unseen: 0,
            asked_at: state.next_used,
            listening: true,
        })
    }

    /// How it is set up and how far it has come, as if the last `untaken` chains had not been taken.
    #[must_use]
    pub fn state(&self, untaken: u16) -> RingState {
        let state = self.queue.state();
        RingState {
            size: state.size,
            ready: state.ready,
            descriptors: state.desc_table,
            available: state.avail_ring,
            used: state.used_ring,
            next_available: state.next_avail.wrapping_sub(untaken),
            next_used: state.next_used,
        }
    }

    /// Descriptors.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// The next chain, if there is one.
    ///
    /// # Errors
    /// [`Fault::Available`].
    pub fn take<'a>(&mut self, ram: &'a Ram) -> Result<Option<Chain<'a>>, Fault> {
        let mut available = self.queue.iter(ram).map_err(|_| Fault::Available)?;
        Ok(available.next())
    }

    /// Gives the last chain that was taken back, to be taken again.
    pub fn put_back(&mut self) {
        self.queue.go_to_previous_position();
    }

    /// Walks a chain to its end, and hands every buffer to `each`.
    ///
    /// # Errors
    /// What is wrong with the chain, or what `each` says.
    pub fn walk(
        &self,
        mut chain: Chain<'_>,
        direction: Direction,
        mut each: impl FnMut(GuestAddress, usize) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut has_end = false;
        let mut left = self.queue.size();
        for buffer in &mut chain {
            left = left.checked_sub(1).ok_or(Fault::TooLong)?;
            if buffer.is_write_only() != (direction == Direction::Write) {
                return Err(Fault::Direction);
            }
            let length = usize::try_from(buffer.len()).map_err(|_| Fault::TooLong)?;
            each(buffer.addr(), length)?;
            has_end = !buffer.has_next();
        }
        // The iterator just stops at what cannot be.
        if has_end { Ok(()) } else { Err(Fault::Chain) }
    }

    /// Puts an element into the used ring, which the guest sees with the next [`Ring::publish`].
    ///
    /// # Errors
    /// [`Fault::Chain`] for a head that is none; [`Fault::Queue`].
    pub fn used(&mut self, ram: &Ram, head: u16, length: u32) -> Result<(), Fault> {
        let size = self.queue.size();
        if head >= size {
            return Err(Fault::Chain);
        }
        let slot = self.queue.next_used().wrapping_add(self.unseen) % size;
        let at = GuestAddress(self.queue.used_ring() + 4 + 8 * u64::from(slot));
        // `struct virtq_used_elem`: the head, then the length.
        let element = u64::from(length) << 32 | u64::from(head);
        ram.write_obj(element.to_le(), at)
            .map_err(|_| Fault::Queue)?;
        self.unseen = self.unseen.wrapping_add(1);
        Ok(())
    }

    /// Shows the guest all elements at once.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn publish(&mut self, ram: &Ram) -> Result<(), Fault> {
        let unseen = std::mem::take(&mut self.unseen);
        if unseen == 0 {
            return Ok(());
        }
        let next = self.queue.next_used().wrapping_add(unseen);
        self.queue.set_next_used(next);
        let at = GuestAddress(self.queue.used_ring() + 2);
        ram.store(next.to_le(), at, Ordering::Release)
            .map_err(|_| Fault::Queue)
    }

    /// Whether the guest wants to be interrupted for what was published since this was last asked.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn wants_interrupt(&mut self, ram: &Ram) -> Result<bool, Fault> {
        let next = self.queue.next_used();
        let before = std::mem::replace(&mut self.asked_at, next);
        if next == before {
            return Ok(false);
        }
        // What was published before what the guest wants is read (virtio 1.2, section 2.7.7).
        fence(Ordering::SeqCst);
        let load = |offset: u64| -> Result<u16, Fault> {
            let at = GuestAddress(self.queue.avail_ring() + offset);
            let value: u16 = ram.load(at, Ordering::Relaxed).map_err(|_| Fault::Queue)?;
            Ok(u16::from_le(value))
        };
        if !self.has_event_index {
            return Ok(load(0)? & NO_INTERRUPT == 0);
        }
        let event = load(4 + 2 * u64::from(self.queue.size()))?;
        let passed = next.wrapping_sub(event).wrapping_sub(1);
        Ok(passed < next.wrapping_sub(before))
    }

    /// Asks the guest to notify of what it makes available from now on. Whether there is something already.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn listen(&mut self, ram: &Ram) -> Result<bool, Fault> {
        self.listening = true;
        self.queue
            .enable_notification(ram)
            .map_err(|_| Fault::Queue)
    }

    /// Asks the guest not to notify.
    ///
    /// # Errors
    /// [`Fault::Queue`].
    pub fn stop_listening(&mut self, ram: &Ram) -> Result<(), Fault> {
        if !std::mem::take(&mut self.listening) {
            return Ok(());
        }
        self.queue
            .disable_notification(ram)
            .map_err(|_| Fault::Queue)
    }
}

//! From the tap to the guest.
//!
//! Buffers are taken from the guest ahead of the frame, so that the kernel writes it to where it belongs. Only when the
//! guest has made fewer bytes available than the longest frame has, the frame is read into memory of our own first, and
//! waits there until it fits. Without any buffer frames stay in the tap.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;

use super::HEADER;
use super::counters::Counters;
use super::wire::is_gone;
use crate::device::virtio::ring::{Direction, Ring};
use crate::device::virtio::{Fault, RingState};
use crate::kernel::Stretches;
use crate::memory::Ram;

/// The longest frame with its header, where the kernel may hand over trains of packets.
pub(super) const LONGEST: usize = HEADER + 14 + 4 + 65_535;
/// Offset of `num_buffers` in the header (virtio 1.2, section 5.1.6).
const NUM_BUFFERS: usize = 10;
/// So many stretches are read into at once, and no more need be ready.
const AT_ONCE: usize = 1024;

/// How a stretch of work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// The budget is used up; there may be more.
    Budget,
    /// The tap has no frame.
    Empty,
    /// The guest has no room; it has been asked to notify.
    Starved,
}

/// A chain that was taken from the guest and waits for a frame.
#[derive(Debug, Clone, Copy)]
struct Posted {
    head: u16,
    stretches: usize,
    bytes: usize,
}

/// The receive queue at work.
pub(super) struct Receiver {
    ring: Option<Ring>,
    buffers: Stretches,
    posted: VecDeque<Posted>,
    mergeable: bool,
    longest: usize,
    /// A frame that waits for room, in so many bytes of `memory`.
    held: Option<usize>,
    memory: Box<[u8]>,
    /// The most bytes that ever were available when a frame had to wait or was handed over.
    most: usize,
}

impl Receiver {
    pub(super) fn new(ram: Ram, queue_size: u16) -> Self {
        let size = usize::from(queue_size);
        Self {
            ring: None,
            // One chain may begin with the last stretch but one of those wanted.
            buffers: Stretches::new(ram, AT_ONCE + size),
            posted: VecDeque::with_capacity(size),
            mergeable: false,
            longest: LONGEST,
            held: None,
            memory: vec![0; LONGEST].into_boxed_slice(),
            most: 0,
        }
    }

    /// Goes to work. Frames without segmentation offload are no longer than `mtu` says.
    pub(super) fn start(&mut self, ring: Ring, mergeable: bool, frame: Option<usize>) {
        self.stop();
        self.ring = Some(ring);
        self.mergeable = mergeable;
        self.longest = frame.map_or(LONGEST, |frame| frame.min(LONGEST));
    }

    /// Forgets the queue, and a frame that waited.
    pub(super) fn stop(&mut self) {
        self.ring = None;
        self.buffers.clear();
        self.posted.clear();
        self.held = None;
        self.most = 0;
    }

    /// How far the queue has come: what waits for frames has not been taken.
    pub(super) fn progress(&self) -> Option<RingState> {
        let untaken = u16::try_from(self.posted.len()).unwrap_or(0);
        self.ring.as_ref().map(|ring| ring.state(untaken))
    }

    /// The frame that waits; no bytes if none does.
    pub(super) fn held(&self) -> &[u8] {
        let length = self.held.filter(|_| self.ring.is_some());
        &self.memory[..length.unwrap_or(0)]
    }

    /// Has a frame wait that waited when the device was saved, if there is one; whether it is one that can have waited. Room
    /// for one that is longer than what was negotiated would never come.
    pub(super) fn hold(&mut self, frame: &[u8]) -> bool {
        let fits = frame.len() <= self.longest;
        if fits {
            self.memory[..frame.len()].copy_from_slice(frame);
        }
        self.held = (fits && !frame.is_empty()).then_some(frame.len());
        fits
    }

    /// Hands at most `budget` frames over.
    pub(super) fn work(
        &mut self,
        ram: &Ram,
        tap: BorrowedFd<'_>,
        counters: &Counters,
        budget: usize,
    ) -> Result<Pause, Fault> {
        for _ in 0..budget {
            if self.held.is_none() {
                self.post(ram)?;
                if self.posted.is_empty() && !self.wait(ram, counters)? {
                    return Ok(Pause::Starved);
                }
                match self.read(ram, tap, counters) {
                    Ok(placed) => placed?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Pause::Empty),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if is_gone(&error) => return Err(Fault::Gone),
                    Err(_) => {
                        counters.tap_errors.add(1);
                        return Ok(Pause::Empty);
                    }
                }
            }
            if let Some(length) = self.held
                && !self.place_held(ram, counters, length)?
            {
                return Ok(Pause::Starved);
            }
        }
        Ok(Pause::Budget)
    }

    /// Whether the guest wants to be interrupted for what it was given.
    pub(super) fn wants_interrupt(&mut self, ram: &Ram) -> Result<bool, Fault> {
        self.ring
            .as_mut()
            .map_or(Ok(false), |ring| ring.wants_interrupt(ram))
    }

    /// Takes buffers until the longest frame fits, or there are no more.
    fn post(&mut self, ram: &Ram) -> Result<(), Fault> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        while self.buffers.bytes() < self.longest && self.buffers.len() < AT_ONCE {
            let Some(chain) = ring.take(ram)? else {
                return Ok(());
            };
            // Each has a descriptor of its own. Empty ones would be taken for as long as the guest offers them.
            if self.posted.len() >= usize::from(ring.size()) {
                return Err(Fault::Available);
            }
            let head = chain.head_index();
            let before = (self.buffers.len(), self.buffers.bytes());
            let buffers = &mut self.buffers;
            ring.walk(chain, Direction::Write, |start, length| {
                buffers.push(start, length).map_err(|_| Fault::Outside)
            })?;
            self.posted.push_back(Posted {
                head,
                stretches: self.buffers.len() - before.0,
                bytes: self.buffers.bytes() - before.1,
            });
        }
        Ok(())
    }

    /// Asks the guest to notify of buffers. Whether there are some already, which are taken then.
    fn wait(&mut self, ram: &Ram, counters: &Counters) -> Result<bool, Fault> {
        let Some(ring) = &mut self.ring else {
            return Ok(false);
        };
        if ring.listen(ram)? {
            ring.stop_listening(ram)?;
            self.post(ram)?;
            return Ok(true);
        }
        counters.waits_for_buffers.add(1);
        Ok(false)
    }

    /// Reads a frame to where it belongs if any would fit there, and into our memory otherwise.
    fn read(
        &mut self,
        ram: &Ram,
        tap: BorrowedFd<'_>,
        counters: &Counters,
    ) -> io::Result<Result<(), Fault>> {
        let (stretches, bytes) = match self.posted.front() {
            Some(first) if !self.mergeable => (first.stretches, first.bytes),
            _ => (self.buffers.len(), self.buffers.bytes()),
        };
        if bytes >= self.longest && stretches <= AT_ONCE {
            let length = self.buffers.read_from(tap, stretches)?;
            return Ok(self.hand_over(ram, counters, length));
        }
        let length = nix::unistd::read(tap, &mut self.memory[..self.longest])?;
        self.held = Some(length);
        Ok(Ok(()))
    }

    /// Puts the frame that waits into the guest's buffers. Whether it waits no longer.
    fn place_held(&mut self, ram: &Ram, counters: &Counters, length: usize) -> Result<bool, Fault> {
        self.post(ram)?;
        // Until there is room or the guest has been asked to notify: what came in between is not notified of.
        while !self.has_room(length) {
            if self.takes_no_more() {
                return Ok(self.lose(counters));
            }
            if self.wait(ram, counters)? {
                continue;
            }
            let (most, bytes) = (self.most, self.buffers.bytes());
            self.most = most.max(bytes);
            // As much as it ever makes available, in vain: no frame behind this one would ever get through. One that has
            // had room for such a frame is only slow.
            let is_in_vain = most > 0 && most < length && bytes >= most;
            return Ok(is_in_vain && self.lose(counters));
        }
        self.held = None;
        self.buffers.put(0, &self.memory[..length]);
        self.hand_over(ram, counters, length)?;
        Ok(true)
    }

    fn has_room(&self, length: usize) -> bool {
        match self.posted.front() {
            Some(first) if !self.mergeable => first.bytes >= length,
            _ => self.buffers.bytes() >= length,
        }
    }

    /// Whether no other buffer can help the frame that waits and has no room.
    fn takes_no_more(&self) -> bool {
        let is_bound_to_one = !self.mergeable && !self.posted.is_empty();
        is_bound_to_one || self.buffers.len() >= AT_ONCE
    }

    /// Drops the frame that waits, which waits no longer then.
    fn lose(&mut self, counters: &Counters) -> bool {
        counters.too_long.add(1);
        self.held = None;
        true
    }

    /// Gives the guest the frame that lies in the first `length` bytes of its buffers.
    fn hand_over(&mut self, ram: &Ram, counters: &Counters, length: usize) -> Result<(), Fault> {
        let Some(ring) = &mut self.ring else {
            return Ok(());
        };
        if length < HEADER {
            return Ok(());
        }
        self.most = self.most.max(self.buffers.bytes());
        let mut left = length;
        let mut count = 0_u16;
        for posted in &self.posted {
            left -= left.min(posted.bytes);
            count += 1;
            if left == 0 {
                break;
            }
        }
        self.buffers.put(NUM_BUFFERS, &count.to_le_bytes());
        let mut left = length;
        for _ in 0..count {
            let Some(posted) = self.posted.pop_front() else {
                break;
            };
            let here = left.min(posted.bytes);
            left -= here;
            ring.used(ram, posted.head, u32::try_from(here).unwrap_or(u32::MAX))?;
            self.buffers.drop_front(posted.stretches);
        }
        counters.received.add(1);
        counters.received_bytes.add((length - HEADER) as u64);
        // All buffers of a frame at once: a driver takes those missing for lost.
        ring.publish(ram)
    }
}

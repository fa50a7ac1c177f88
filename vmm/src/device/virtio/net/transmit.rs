//! From the guest to the tap.

use std::io::ErrorKind;
use std::os::fd::BorrowedFd;

use super::HEADER;
use super::counters::Counters;
use super::receive::Pause;
use super::wire::is_gone;
use crate::device::virtio::ring::{Direction, Ring};
use crate::device::virtio::{Fault, RingState};
use crate::kernel::Stretches;
use crate::memory::Ram;

/// The longest train of packets with its headers: no more than the kernel takes.
const LONGEST: usize = HEADER + 14 + 4 + 65_535;
/// Header and Ethernet header.
const SHORTEST: usize = HEADER + 14;

/// The transmit queue at work.
pub(super) struct Transmitter {
    ring: Option<Ring>,
    frame: Stretches,
}

impl Transmitter {
    pub(super) fn new(ram: Ram, queue_size: u16) -> Self {
        Self {
            ring: None,
            frame: Stretches::new(ram, usize::from(queue_size)),
        }
    }

    pub(super) fn start(&mut self, ring: Ring) {
        self.ring = Some(ring);
    }

    pub(super) fn stop(&mut self) {
        self.ring = None;
        self.frame.clear();
    }

    pub(super) fn progress(&self) -> Option<RingState> {
        self.ring.as_ref().map(|ring| ring.state(0))
    }

    /// Sends at most `budget` frames. [`Pause::Empty`]: there are no more, and the guest has been asked to notify;
    /// [`Pause::Starved`]: the tap takes no more.
    pub(super) fn work(
        &mut self,
        ram: &Ram,
        tap: BorrowedFd<'_>,
        counters: &Counters,
        budget: usize,
    ) -> Result<Pause, Fault> {
        let Some(ring) = &mut self.ring else {
            return Ok(Pause::Empty);
        };
        let frame = &mut self.frame;
        ring.stop_listening(ram)?;
        let mut pause = Pause::Budget;
        for _ in 0..budget {
            let Some(chain) = ring.take(ram)? else {
                if ring.listen(ram)? {
                    ring.stop_listening(ram)?;
                    continue;
                }
                pause = Pause::Empty;
                break;
            };
            let head = chain.head_index();
            frame.clear();
            ring.walk(chain, Direction::Read, |start, length| {
                frame.push(start, length).map_err(|_| Fault::Outside)
            })?;
            if frame.bytes() > LONGEST {
                return Err(Fault::TooLong);
            }
            if !send(frame, tap, counters)? {
                ring.put_back();
                counters.waits_for_tap.add(1);
                pause = Pause::Starved;
                break;
            }
            ring.used(ram, head, 0)?;
        }
        ring.publish(ram)?;
        Ok(pause)
    }

    /// Whether the guest wants to be interrupted for what was sent.
    pub(super) fn wants_interrupt(&mut self, ram: &Ram) -> Result<bool, Fault> {
        self.ring
            .as_mut()
            .map_or(Ok(false), |ring| ring.wants_interrupt(ram))
    }
}

/// Sends a frame, or counts it as refused. False if the tap is full.
fn send(frame: &Stretches, tap: BorrowedFd<'_>, counters: &Counters) -> Result<bool, Fault> {
    if frame.bytes() < SHORTEST {
        counters.refused.add(1);
        return Ok(true);
    }
    match frame.write_to(tap) {
        Ok(_) => {
            counters.sent.add(1);
            counters.sent_bytes.add((frame.bytes() - HEADER) as u64);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
        Err(error) if is_gone(&error) => return Err(Fault::Gone),
        // A header that makes no sense, or an interface that is down.
        Err(_) => counters.refused.add(1),
    }
    Ok(true)
}

//! What will happen whoever runs: releases, and ends of I/O. All else follows from who runs, and is not queued.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::Time;

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The next job of a task is released.
    Release,
    /// The job of a task has its answer from a device.
    Answered,
}

/// What happens when. The order settles events of the same instant, so that runs repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// When.
    pub at: Time,
    /// On which vCPU.
    pub vcpu: usize,
    /// To which of its tasks.
    pub task: usize,
    /// What.
    pub kind: Kind,
}

/// Events, the earliest first.
#[derive(Debug, Default)]
pub struct EventQueue(BinaryHeap<Reverse<Event>>);

impl EventQueue {
    /// Adds an event; what happens at the end of time does not happen.
    pub fn push(&mut self, event: Event) {
        if event.at < Time::MAX {
            self.0.push(Reverse(event));
        }
    }

    /// When the earliest event happens.
    pub fn next_at(&self) -> Time {
        self.0.peek().map_or(Time::MAX, |Reverse(event)| event.at)
    }

    /// Takes the earliest event if it is due.
    pub fn pop_due(&mut self, now: Time) -> Option<Event> {
        if self.next_at() > now {
            return None;
        }
        self.0.pop().map(|Reverse(event)| event)
    }
}

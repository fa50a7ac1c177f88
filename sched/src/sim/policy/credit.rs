//! Weights, credits and boost: like Xen's credit scheduler (xen/common/sched/credit.c).
//!
//! Who runs burns credit. Every slice, what all CPUs can do in one is earned again by those that were active, in
//! proportion to their weights. Who has credit is *under* and goes before who is *over*; who wakes with credit is
//! *boosted* ahead of both until the next tick at which it runs. Within a class it is in turn, each for a slice.
//! Credits stay within one slice on either side of zero. Not modelled: caps, rate limit, and the choice of a CPU (vCPUs
//! that are not bound share one queue).

use std::time::Duration;

use super::{Claim, HostPolicy};
use crate::reservation::signed_nanos;
use crate::sim::{Host, Time};

/// Ticks in a slice.
const TICKS: u64 = 3;
/// Turns are counted below the bits of the class.
const CLASS_SHIFT: u32 = 60;

/// The policy.
#[derive(Clone, Debug)]
pub struct Credit {
    slice: Time,
    next_tick: Time,
    ticks: u64,
    turns: u64,
    entities: Vec<Entity>,
    /// What every queue can do in a slice.
    capacity: Vec<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Boosted,
    Under,
    Over,
}

#[derive(Clone, Copy, Debug)]
struct Entity {
    /// Its CPU, or 0 if all share all.
    queue: usize,
    weight: i64,
    /// In nanoseconds of processor time.
    credit: i64,
    class: Class,
    /// Its turn within the class; 0 while it runs.
    turn: u64,
    slice_left: Time,
    awake: bool,
    running: bool,
    /// Whether it had work at any time since credits were earned last.
    active: bool,
}

impl Credit {
    /// The vCPUs of `host` by their weights.
    pub fn new(host: &Host, slice: Duration) -> Self {
        let is_bound = host.vcpus().all(|vcpu| vcpu.cpu.is_some());
        let length = signed_nanos(slice);
        let cpus = i64::try_from(host.cpus).unwrap_or(i64::MAX);
        let capacity = if is_bound {
            vec![length; host.cpus]
        } else {
            vec![length.saturating_mul(cpus)]
        };
        // At least a nanosecond for every tick.
        let slice = length.unsigned_abs().max(TICKS);
        let entity = |vcpu: &crate::sim::Vcpu| Entity {
            queue: vcpu.cpu.unwrap_or(0),
            weight: vcpu.weight.into(),
            credit: 0,
            class: Class::Under,
            turn: 0,
            slice_left: slice,
            awake: false,
            running: false,
            active: false,
        };
        Self {
            slice,
            next_tick: slice / TICKS,
            ticks: 0,
            turns: 0,
            entities: host.vcpus().map(entity).collect(),
            capacity,
        }
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }

    /// Credits are earned and classes follow.
    fn account(&mut self) {
        let limit = i64::try_from(self.slice).unwrap_or(i64::MAX);
        for queue in 0..self.capacity.len() {
            let is_active = |entity: &&mut Entity| entity.queue == queue && entity.active;
            let total: i64 = self
                .entities
                .iter_mut()
                .filter(is_active)
                .map(|e| e.weight)
                .sum();
            let capacity = i128::from(self.capacity[queue]);
            for entity in self.entities.iter_mut().filter(is_active) {
                let earned = capacity * i128::from(entity.weight) / i128::from(total.max(1));
                // A part of the capacity, which fits.
                let earned = i64::try_from(earned).unwrap_or(i64::MAX);
                entity.credit = entity.credit.saturating_add(earned).clamp(-limit, limit);
                entity.active = entity.awake;
            }
        }
        for entity in &mut self.entities {
            entity.class = match (entity.credit < 0, entity.class) {
                (true, _) => Class::Over,
                (false, Class::Over) => Class::Under,
                (false, class) => class,
            };
        }
    }
}

impl HostPolicy for Credit {
    fn wake(&mut self, vcpu: usize, _now: Time) {
        let turn = self.next_turn();
        let entity = &mut self.entities[vcpu];
        entity.awake = true;
        entity.active = true;
        entity.turn = turn;
        if entity.class == Class::Under {
            entity.class = Class::Boosted;
        }
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        self.entities[vcpu].awake = false;
    }

    fn start(&mut self, vcpu: usize, _now: Time) {
        let slice = self.slice;
        let entity = &mut self.entities[vcpu];
        entity.running = true;
        entity.slice_left = slice;
        entity.turn = 0;
    }

    fn stop(&mut self, vcpu: usize, _now: Time) {
        let turn = self.next_turn();
        let entity = &mut self.entities[vcpu];
        entity.running = false;
        entity.turn = turn;
    }

    fn ran(&mut self, vcpu: usize, _now: Time, length: Time) {
        let over = self.turns + 1;
        let slice = self.slice;
        let entity = &mut self.entities[vcpu];
        let burnt = i64::try_from(length).unwrap_or(i64::MAX);
        entity.credit = entity.credit.saturating_sub(burnt);
        entity.turn = 0;
        entity.slice_left = entity.slice_left.saturating_sub(length);
        if entity.slice_left == 0 {
            // It goes on only if nobody of its class waits.
            entity.slice_left = slice;
            entity.turn = over;
            self.turns = over;
        }
    }

    fn next_timer(&self) -> Time {
        self.next_tick
    }

    fn timer(&mut self, now: Time) {
        self.ticks += 1;
        self.next_tick = now.saturating_add(self.slice / TICKS);
        for entity in self.entities.iter_mut().filter(|entity| entity.running) {
            if entity.class == Class::Boosted {
                entity.class = Class::Under;
            }
        }
        if self.ticks.is_multiple_of(TICKS) {
            self.account();
        }
    }

    fn claim(&self, vcpu: usize, _now: Time) -> Option<Claim> {
        let entity = &self.entities[vcpu];
        let most = match entity.running {
            true => entity.slice_left,
            false => self.slice,
        };
        entity.awake.then_some(Claim {
            order: ((entity.class as u64) << CLASS_SHIFT) | entity.turn,
            most,
        })
    }
}

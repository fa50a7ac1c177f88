//! Shares in proportion to weights, by virtual run time: like Linux's Completely Fair Scheduler
//! (Documentation/scheduler/sched-design-CFS.rst), without its groups and load tracking.
//!
//! Who has the least virtual run time goes first. It runs for its part of the latency, but not less than the granularity;
//! who wakes takes the CPU from it only if it is behind by more than the granularity. A sleeper comes back at most
//! half a latency behind the others, so that sleeping saves no share.

use std::time::Duration;

use super::{Claim, HostPolicy};
use crate::reservation::nanos;
use crate::sim::{Host, Time};

/// Virtual run time passes at the speed of the clock for this weight.
const USUAL_WEIGHT: u64 = 1024;

/// The policy.
#[derive(Clone, Debug)]
pub struct ProportionalShare {
    latency: Time,
    granularity: Time,
    entities: Vec<Entity>,
    /// Least virtual run time of every queue; it never falls.
    least: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Entity {
    /// Its CPU, or 0 if all share all.
    queue: usize,
    weight: u64,
    virtual_time: u64,
    /// What virtual time lost to division so far.
    remainder: u64,
    awake: bool,
    turn: Turn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// It waits.
    Waiting,
    /// It runs, and has this much of its slice left.
    Running { left: Time },
    /// Its slice is over; it goes on only if it is still the first.
    Over { next: Time },
}

impl Entity {
    fn charge(&mut self, length: Time) {
        // Exact: a run of 1000 hours stays below 2^62.
        let scaled = length * USUAL_WEIGHT + self.remainder;
        self.virtual_time = self.virtual_time.saturating_add(scaled / self.weight);
        self.remainder = scaled % self.weight;
    }

    fn scaled(&self, length: Time) -> u64 {
        length.saturating_mul(USUAL_WEIGHT) / self.weight
    }
}

impl ProportionalShare {
    /// The vCPUs of `host` by their weights.
    pub fn new(host: &Host, latency: Duration, granularity: Duration) -> Self {
        let entity = |vcpu: &crate::sim::Vcpu| Entity {
            queue: vcpu.cpu.unwrap_or(0),
            weight: vcpu.weight.into(),
            virtual_time: 0,
            remainder: 0,
            awake: false,
            turn: Turn::Waiting,
        };
        Self {
            latency: nanos(latency),
            granularity: nanos(granularity),
            entities: host.vcpus().map(entity).collect(),
            least: vec![0; host.cpus],
        }
    }

    fn awake_in(&self, queue: usize) -> impl Iterator<Item = &Entity> {
        let is_here = move |entity: &&Entity| entity.queue == queue && entity.awake;
        self.entities.iter().filter(is_here)
    }

    fn slice(&self, vcpu: usize) -> Time {
        let entity = &self.entities[vcpu];
        let total: u64 = self.awake_in(entity.queue).map(|other| other.weight).sum();
        let part = u128::from(self.latency) * u128::from(entity.weight);
        let part = part / u128::from(total.max(entity.weight));
        // A part of the latency, which fits.
        Time::try_from(part)
            .unwrap_or(self.latency)
            .max(self.granularity)
    }
}

impl HostPolicy for ProportionalShare {
    fn wake(&mut self, vcpu: usize, _now: Time) {
        let queue = self.entities[vcpu].queue;
        let first = self.awake_in(queue).map(|entity| entity.virtual_time).min();
        let least = first.map_or(self.least[queue], |first| first.max(self.least[queue]));
        self.least[queue] = least;
        let entity = &mut self.entities[vcpu];
        let back = entity.scaled(self.latency / 2);
        entity.virtual_time = entity.virtual_time.max(least.saturating_sub(back));
        entity.awake = true;
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        let entity = &mut self.entities[vcpu];
        entity.awake = false;
        // Who leaves last says how far the queue has come.
        let (queue, reached) = (entity.queue, entity.virtual_time);
        if self.awake_in(queue).next().is_none() {
            self.least[queue] = self.least[queue].max(reached);
        }
    }

    fn start(&mut self, vcpu: usize, _now: Time) {
        let left = self.slice(vcpu);
        self.entities[vcpu].turn = Turn::Running { left };
    }

    fn stop(&mut self, vcpu: usize, _now: Time) {
        self.entities[vcpu].turn = Turn::Waiting;
    }

    fn ran(&mut self, vcpu: usize, _now: Time, length: Time) {
        let next = self.slice(vcpu);
        let entity = &mut self.entities[vcpu];
        entity.charge(length);
        let left = match entity.turn {
            Turn::Waiting => 0,
            Turn::Running { left } | Turn::Over { next: left } => left.saturating_sub(length),
        };
        entity.turn = match left {
            0 => Turn::Over { next },
            left => Turn::Running { left },
        };
    }

    fn next_timer(&self) -> Time {
        Time::MAX
    }

    fn timer(&mut self, _now: Time) {}

    fn claim(&self, vcpu: usize, _now: Time) -> Option<Claim> {
        let entity = &self.entities[vcpu];
        if !entity.awake {
            return None;
        }
        let virtual_time = entity.virtual_time;
        Some(match entity.turn {
            Turn::Running { left } => Claim {
                order: virtual_time.saturating_sub(entity.scaled(self.granularity)),
                most: left,
            },
            Turn::Over { next } => Claim {
                order: virtual_time,
                most: next,
            },
            Turn::Waiting => Claim {
                order: virtual_time,
                most: self.slice(vcpu),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{GuestPolicy, Policy, Server, Vcpu, Vm};

    #[test]
    fn a_sleeper_comes_back_half_a_latency_behind_at_most_and_never_behind_itself() {
        let times = (Duration::from_nanos(100), Duration::from_nanos(10));
        let server = Server::new(Duration::from_millis(1), Duration::from_millis(1));
        let vcpu = || Vm::single(Vcpu::new(server, GuestPolicy::Edf, Vec::new()));
        let host = Host::new(1, Policy::Deferrable, vec![vcpu(), vcpu()]);
        let mut policy = ProportionalShare::new(&host, times.0, times.1);
        let order = |policy: &ProportionalShare, vcpu| policy.claim(vcpu, 0).map(|c| c.order);
        policy.wake(0, 0);
        policy.ran(0, 1_000, 1_000);
        policy.stop(0, 1_000);
        policy.wake(1, 1_000);
        assert_eq!(order(&policy, 1), Some(950));
        policy.ran(1, 1_200, 200);
        policy.stop(1, 1_200);
        policy.sleep(1, 1_200);
        policy.wake(1, 1_200);
        assert_eq!(order(&policy, 1), Some(1_150));
    }
}

//! Fixed priorities among sporadic servers: what was consumed comes back one period after its use could begin.
//!
//! Sprunt, Sha and Lehoczky 1989, with the corrections of Stanovich, Baker, Wang and Harbour, "Defects of the POSIX sporadic
//! server and how to correct them", RTAS 2010: budget comes in pieces with an instant each from which it may be used, and
//! every piece keeps its own distance of one period. In no interval of a period's length does a server get more than Q
//! beyond what was left over before.

use std::collections::VecDeque;

use super::{Claim, HostPolicy, server_ranks};
use crate::reservation::nanos;
use crate::sim::{Host, Time};

/// The policy.
#[derive(Clone, Debug)]
pub struct SporadicServers {
    servers: Vec<Sporadic>,
    next_timer: Time,
}

#[derive(Clone, Debug)]
struct Sporadic {
    period: Time,
    rank: u64,
    awake: bool,
    /// Budget by the time from which it may be used, in order. The sum is always Q.
    pieces: VecDeque<Piece>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    from: Time,
    amount: Time,
}

impl Sporadic {
    fn usable(&self, now: Time) -> Option<Piece> {
        self.pieces
            .front()
            .copied()
            .filter(|piece| piece.from <= now)
    }

    /// Its use begins now: budget that could have been used earlier counts from now on.
    fn begin(&mut self, now: Time) {
        if self.usable(now).is_none() {
            return;
        }
        let mut merged = 0;
        while let Some(piece) = self.pieces.front().filter(|piece| piece.from <= now) {
            merged += piece.amount;
            self.pieces.pop_front();
        }
        self.pieces.push_front(Piece {
            from: now,
            amount: merged,
        });
    }

    fn consume(&mut self, mut length: Time) {
        while let Some(piece) = self.pieces.front_mut().filter(|_| length > 0) {
            let used = piece.amount.min(length);
            let back = Piece {
                from: piece.from.saturating_add(self.period),
                amount: used,
            };
            piece.amount -= used;
            piece.from += used;
            length -= used;
            if piece.amount == 0 {
                self.pieces.pop_front();
            }
            self.give_back(back);
        }
    }

    fn give_back(&mut self, piece: Piece) {
        match self.pieces.back_mut() {
            // One piece in a row with the last one is the same piece.
            Some(last) if last.from.saturating_add(last.amount) >= piece.from => {
                last.amount += piece.amount;
            }
            _ => self.pieces.push_back(piece),
        }
    }
}

impl SporadicServers {
    /// One server for every vCPU of `host`.
    pub fn new(host: &Host) -> Self {
        let server = |(vcpu, rank): (&crate::sim::Vcpu, u64)| Sporadic {
            period: nanos(vcpu.server.period),
            rank,
            awake: false,
            pieces: VecDeque::from([Piece {
                from: 0,
                amount: nanos(vcpu.server.budget),
            }]),
        };
        let servers = host.vcpus().zip(server_ranks(host)).map(server).collect();
        Self {
            servers,
            next_timer: Time::MAX,
        }
    }

    /// A server that has work waits for its next piece.
    fn plan(&mut self, vcpu: usize, now: Time) {
        let server = &self.servers[vcpu];
        let next = server.pieces.front().map(|piece| piece.from);
        if let Some(from) = next.filter(|from| server.awake && *from > now) {
            self.next_timer = self.next_timer.min(from);
        }
    }
}

impl HostPolicy for SporadicServers {
    fn wake(&mut self, vcpu: usize, now: Time) {
        self.servers[vcpu].awake = true;
        self.servers[vcpu].begin(now);
        self.plan(vcpu, now);
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        self.servers[vcpu].awake = false;
    }

    fn ran(&mut self, vcpu: usize, now: Time, length: Time) {
        self.servers[vcpu].consume(length);
        self.plan(vcpu, now);
    }

    fn next_timer(&self) -> Time {
        self.next_timer
    }

    fn timer(&mut self, now: Time) {
        self.next_timer = Time::MAX;
        for vcpu in 0..self.servers.len() {
            self.plan(vcpu, now);
        }
    }

    fn claim(&self, vcpu: usize, now: Time) -> Option<Claim> {
        let server = &self.servers[vcpu];
        let piece = server.usable(now).filter(|_| server.awake)?;
        Some(Claim {
            order: server.rank,
            most: piece.amount,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{GuestPolicy, Policy, Server, Vcpu, Vm};
    use std::time::Duration;

    fn policy(budget: u64, period: u64) -> SporadicServers {
        let server = Server::new(Duration::from_nanos(budget), Duration::from_nanos(period));
        let vcpu = Vcpu::new(server, GuestPolicy::Edf, Vec::new());
        SporadicServers::new(&Host::new(1, Policy::Sporadic, vec![Vm::single(vcpu)]))
    }

    fn most(policy: &SporadicServers, now: Time) -> Option<Time> {
        policy.claim(0, now).map(|claim| claim.most)
    }

    #[test]
    fn what_was_used_comes_back_a_period_after_its_use_began() {
        let mut policy = policy(5, 20);
        policy.wake(0, 3);
        policy.ran(0, 5, 2);
        policy.sleep(0, 5);
        policy.wake(0, 10);
        policy.ran(0, 13, 3);
        assert_eq!((most(&policy, 13), policy.next_timer()), (None, 23));
        policy.timer(23);
        assert_eq!(most(&policy, 23), Some(2));
        policy.ran(0, 25, 2);
        assert_eq!((most(&policy, 25), policy.next_timer()), (None, 30));
        policy.timer(30);
        assert_eq!(most(&policy, 30), Some(3));
    }

    #[test]
    fn unused_budget_is_not_used_with_the_time_of_an_earlier_wake_up() {
        let mut policy = policy(5, 20);
        policy.wake(0, 0);
        policy.ran(0, 1, 1);
        policy.sleep(0, 1);
        policy.wake(0, 19);
        policy.ran(0, 23, 4);
        // 1 came back at 20, the other 4 do not before 39.
        assert_eq!(most(&policy, 23), Some(1));
        policy.ran(0, 24, 1);
        assert_eq!((most(&policy, 24), policy.next_timer()), (None, 39));
    }
}

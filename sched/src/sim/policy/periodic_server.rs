//! Fixed priorities among servers whose budgets are full again at every multiple of their periods.
//!
//! They differ in what an idle one does. A *deferrable* server keeps its budget until the period ends (Strosnider, Lehoczky
//! and Sha, IEEE Trans. Computers 1995). A *periodic* one uses it up as if it had work, and keeps the CPU idle meanwhile;
//! if *work-conserving*, the next server with work runs on that CPU, on its own budget (Xi, Wilson, Lu and Gill, "RT-Xen",
//! EMSOFT 2011; Lee, Xi and others, RTAS 2012).

use super::{Claim, HostPolicy, server_ranks};
use crate::reservation::nanos;
use crate::sim::{Host, Time};

/// What an idle server does with its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Idle {
    Keeps,
    Wastes,
    Lends,
}

/// The policy.
#[derive(Clone, Debug)]
pub struct PeriodicServers {
    idle: Idle,
    servers: Vec<Budget>,
    next_timer: Time,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    full: Time,
    period: Time,
    rank: u64,
    remaining: Time,
    period_end: Time,
    awake: bool,
}

impl PeriodicServers {
    /// Deferrable servers.
    pub fn deferrable(host: &Host) -> Self {
        Self::new(host, Idle::Keeps)
    }

    /// Periodic servers.
    pub fn periodic(host: &Host) -> Self {
        Self::new(host, Idle::Wastes)
    }

    /// Work-conserving periodic servers.
    pub fn work_conserving(host: &Host) -> Self {
        Self::new(host, Idle::Lends)
    }

    fn new(host: &Host, idle: Idle) -> Self {
        let servers: Vec<Budget> = host
            .vcpus()
            .zip(server_ranks(host))
            .map(|(vcpu, rank)| Budget {
                full: nanos(vcpu.server.budget),
                period: nanos(vcpu.server.period),
                rank,
                remaining: nanos(vcpu.server.budget),
                period_end: nanos(vcpu.server.period),
                awake: false,
            })
            .collect();
        let ends = servers.iter().map(|server| server.period_end);
        Self {
            idle,
            next_timer: ends.min().unwrap_or(Time::MAX),
            servers,
        }
    }
}

impl HostPolicy for PeriodicServers {
    fn wake(&mut self, vcpu: usize, _now: Time) {
        self.servers[vcpu].awake = true;
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        self.servers[vcpu].awake = false;
    }

    fn ran(&mut self, vcpu: usize, _now: Time, length: Time) {
        self.servers[vcpu].remaining -= length;
    }

    fn next_timer(&self) -> Time {
        self.next_timer
    }

    fn timer(&mut self, now: Time) {
        self.next_timer = Time::MAX;
        for server in &mut self.servers {
            if server.period_end <= now {
                server.remaining = server.full;
                server.period_end += server.period;
            }
            self.next_timer = self.next_timer.min(server.period_end);
        }
    }

    fn claim(&self, vcpu: usize, _now: Time) -> Option<Claim> {
        let server = &self.servers[vcpu];
        let wants = server.awake || self.idle != Idle::Keeps;
        (wants && server.remaining > 0).then_some(Claim {
            order: server.rank,
            most: server.remaining,
        })
    }

    fn lends_idle_budget(&self) -> bool {
        self.idle == Idle::Lends
    }
}

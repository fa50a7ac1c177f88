//! Earliest deadline first among hard constant bandwidth servers whose budgets follow the need: [`Deadline`] with the
//! [`Controller`] of [`crate::feedback`] in the loop, looking where its [`crate::feedback::Follower`] looks on a thread.

use std::time::Duration;

use super::{Claim, Deadline, HostPolicy};
use crate::feedback::{Controller, Envelope, Observation};
use crate::reservation::nanos;
use crate::sim::{Host, Time};

/// A budget that was changed, in force from the vCPU's next period on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetChange {
    /// When, from the beginning of the run.
    pub at: Duration,
    /// The vCPU.
    pub vcpu: usize,
    /// The new budget.
    pub budget: Duration,
}

/// The policy.
#[derive(Debug)]
pub struct Feedback<'a> {
    servers: Deadline,
    /// By vCPU; none where the budget is fixed.
    followers: Vec<Option<Follower>>,
    changes: &'a mut Vec<BudgetChange>,
}

#[derive(Debug)]
struct Follower {
    controller: Controller,
    consumed: Time,
    asleep: bool,
    /// When to look whether it still sleeps.
    look: Time,
}

impl<'a> Feedback<'a> {
    /// One server for every vCPU of `host`. Those with an envelope begin with its first budget, and their changes are
    /// noted in `changes`.
    pub fn new(
        host: &Host,
        envelopes: &[Option<Envelope>],
        changes: &'a mut Vec<BudgetChange>,
    ) -> Self {
        let mut servers = Deadline::new(host);
        let mut follower = |vcpu: usize| {
            let envelope = (*envelopes.get(vcpu)?)?;
            servers.set_budget(vcpu, nanos(envelope.initial()));
            Some(Follower {
                controller: Controller::new(envelope, Observation::default()),
                consumed: 0,
                asleep: true,
                look: Time::MAX,
            })
        };
        let followers = (0..host.vcpus().count()).map(&mut follower).collect();
        Self {
            servers,
            followers,
            changes,
        }
    }

    /// Tells the controller of a vCPU what was found, and does what it says.
    fn found(&mut self, vcpu: usize, now: Time, at_rest: bool) {
        let Some(follower) = &mut self.followers[vcpu] else {
            return;
        };
        let seen = Observation {
            consumed: Duration::from_nanos(follower.consumed),
            now: Duration::from_nanos(now),
        };
        let changed = match at_rest {
            true => follower.controller.at_rest(seen),
            false => follower.controller.ran_out(seen),
        };
        if changed {
            let budget = follower.controller.budget();
            self.servers.set_budget(vcpu, nanos(budget));
            self.changes.push(BudgetChange {
                at: seen.now,
                vcpu,
                budget,
            });
        }
    }
}

impl HostPolicy for Feedback<'_> {
    fn wake(&mut self, vcpu: usize, now: Time) {
        if let Some(follower) = &mut self.followers[vcpu] {
            follower.asleep = false;
            follower.look = Time::MAX;
        }
        self.servers.wake(vcpu, now);
    }

    fn sleep(&mut self, vcpu: usize, now: Time) {
        self.servers.sleep(vcpu, now);
        let end = self.servers.end_of_budget(vcpu);
        if let Some(follower) = &mut self.followers[vcpu] {
            follower.asleep = true;
            follower.look = end.max(now + 1);
        }
    }

    fn ran(&mut self, vcpu: usize, now: Time, length: Time) {
        self.servers.ran(vcpu, now, length);
        if let Some(follower) = &mut self.followers[vcpu] {
            follower.consumed += length;
            if self.servers.is_used_up(vcpu) {
                self.found(vcpu, now, false);
            }
        }
    }

    fn next_timer(&self) -> Time {
        let looks = self
            .followers
            .iter()
            .flatten()
            .map(|follower| follower.look);
        looks.fold(self.servers.next_timer(), Time::min)
    }

    fn timer(&mut self, now: Time) {
        if self.servers.next_timer() <= now {
            self.servers.timer(now);
        }
        for vcpu in 0..self.followers.len() {
            let due = |follower: &&mut Follower| follower.look <= now && follower.asleep;
            if let Some(follower) = self.followers[vcpu].as_mut().filter(due) {
                follower.look = Time::MAX;
                self.found(vcpu, now, true);
            }
        }
    }

    fn claim(&self, vcpu: usize, now: Time) -> Option<Claim> {
        self.servers.claim(vcpu, now)
    }
}

//! The controller on a vCPU's thread: looks where budgets end, and changes the thread's own reservation.
//!
//! The thread's [`BudgetTimer`] fires where a budget would end. Either the budget is used up: the vCPU wanted more. Or the
//! thread is asleep: the vCPU needed less, and the timer is set to where the next budget would end, a period later.
//! Setting it to the rest of the present budget, as for a fixed reservation, would wake the thread again and again, until
//! its budget were consumed by being woken, and be measured as need. A budget that begins unforeseen meanwhile is ended
//! by the kernel, at Q and the surplus, which is inside the envelope.
//!
//! Where the next budget would end is known when the thread is looked at while it runs. So a look that finds it asleep
//! makes the next one a little earlier, until one finds it running; this is repeated now and then.
//!
//! No allocation and no lock: one `sched_setattr` for a change, which the kernel applies from the next period on.

use std::time::Duration;

use super::{Controller, Envelope, Observation, Standing};
use crate::account::Account;
use crate::budget::{BudgetTimer, Look};
use crate::kernel::{Policy, Tid, monotonic, set_policy, thread_cpu_time};
use crate::reservation::Reservation;

/// By how much of the period a look is made earlier, to find the thread running.
const EARLIER: u32 = 16;
/// After so many looks at a sleeping thread the end of its budget is looked for anew.
const FOUND_FOR: u32 = 64;

/// A thread that follows its own need.
#[derive(Debug)]
pub struct Follower {
    controller: Controller,
    surplus: Duration,
    /// When the budget of the period that is being looked at ends, if it is used without interruption.
    end: Duration,
    /// For how many looks more that is taken to be known.
    found: u32,
    last: Observation,
    changes: u64,
    refused: u64,
}

fn observe() -> Observation {
    Observation {
        consumed: thread_cpu_time(),
        now: monotonic(),
    }
}

impl Follower {
    /// A follower for the calling thread, whose reservation is the envelope's first, with this surplus.
    pub fn new(envelope: Envelope, surplus: Duration) -> Self {
        let now = observe();
        Self {
            controller: Controller::new(envelope, now),
            surplus,
            end: now.now + envelope.initial(),
            found: 0,
            last: now,
            changes: 0,
            refused: 0,
        }
    }

    /// How it stands.
    pub fn standing(&self) -> Standing {
        let envelope = self.controller.envelope();
        Standing {
            least: envelope.least(),
            greatest: envelope.greatest(),
            budget: self.controller.budget(),
            changes: self.changes,
            refused: self.refused,
        }
    }

    /// Begins anew after the vCPU stood still, with the timer armed for what is left of the budget.
    pub fn restart(&mut self, timer: &mut BudgetTimer) {
        let now = observe();
        self.controller.restart(now);
        self.last = now;
        self.end = now.now + self.controller.budget();
        self.found = 0;
        timer.arm();
    }

    /// Handles one expiry of the timer, as [`BudgetTimer::on_expiry`] does for a fixed reservation. `asleep`: the vCPU
    /// has nothing to do.
    pub fn on_expiry(&mut self, timer: &mut BudgetTimer, account: &mut Account, asleep: bool) {
        let now = observe();
        if asleep {
            account.expired();
            account.consumed(now.consumed);
            let before = self.controller.budget();
            if self.controller.at_rest(now) {
                self.put_in_force(timer, account, before);
            }
            self.last = now;
            return self.look_in_next_period(timer, now.now, before);
        }
        match timer.look(account) {
            Look::UsedUp(ended) => {
                let before = self.controller.budget();
                if self.controller.ran_out(now) {
                    self.put_in_force(timer, account, before);
                }
                let _ = timer.give_back(ended, account);
                self.last = observe();
                self.end = self.last.now + self.controller.budget();
                self.found = FOUND_FOR;
            }
            Look::Rearmed(rest) => {
                if self.found == 0 {
                    self.end = now.now + rest;
                    self.found = FOUND_FOR;
                }
                if self.was_ended_by_kernel(now) {
                    let before = self.controller.budget();
                    if self.controller.ran_out(now) {
                        self.put_in_force(timer, account, before);
                    }
                    self.last = now;
                    self.found = 0;
                }
            }
        }
    }

    /// Whether more was consumed since the last look than one budget allows, in no more time than one budget takes.
    fn was_ended_by_kernel(&self, now: Observation) -> bool {
        let ran = now.consumed.saturating_sub(self.last.consumed);
        let elapsed = now.now.saturating_sub(self.last.now);
        let budget = self.controller.budget();
        ran >= budget + self.surplus && elapsed < self.controller.envelope().period() + budget
    }

    /// Arms the timer for where the next period's budget would end, if that period begins where this one ends.
    fn look_in_next_period(&mut self, timer: &mut BudgetTimer, now: Duration, before: Duration) {
        let period = self.controller.envelope().period();
        self.end = (self.end + period + self.controller.budget()).saturating_sub(before);
        if self.found == 0 {
            self.end = self.end.saturating_sub(period / EARLIER);
        }
        self.found = self.found.saturating_sub(1);
        // A vCPU that slept on: its periods begin anew when it wakes.
        if self.end < now + period / 4 || self.end > now + period * 2 {
            self.end = now + period;
        }
        timer.sleep_for(self.end - now);
    }

    /// Makes the kernel enforce the controller's budget from the next period on.
    fn put_in_force(&mut self, timer: &mut BudgetTimer, account: &mut Account, before: Duration) {
        let (budget, period) = (
            self.controller.budget(),
            self.controller.envelope().period(),
        );
        let wanted = Policy::Deadline {
            runtime: budget + self.surplus,
            deadline: period,
            period,
        };
        if set_policy(Tid::current(), wanted).is_err() {
            self.refused += 1;
            self.controller.keep(before);
            return;
        }
        self.changes += 1;
        timer.refilled_to(budget + self.surplus);
        // Both ends of the envelope are reservations, and so is what is between.
        if let Ok(reservation) = Reservation::new(budget, period) {
            account.adapt(reservation);
        }
    }
}

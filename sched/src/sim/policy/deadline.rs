//! Earliest deadline first among hard constant bandwidth servers, as Linux does it for SCHED_DEADLINE.
//!
//! Abeni and Buttazzo, RTSS 1998; Documentation/scheduler/sched-deadline.rst, sections 2.1 to 2.3: a server that has used
//! its budget is throttled until its next period; one that wakes keeps its deadline only if the rest of its budget does
//! not exceed its bandwidth until then. With a deadline before the end of the period, it wakes with a smaller budget
//! instead ("revised" CBS), or waits for its next period if the deadline has passed.

use super::{Claim, HostPolicy};
use crate::reservation::nanos;
use crate::sim::{Host, Time};

/// The policy.
#[derive(Clone, Debug)]
pub struct Deadline {
    servers: Vec<Cbs>,
    next_timer: Time,
}

#[derive(Clone, Copy, Debug)]
struct Cbs {
    budget: Time,
    relative_deadline: Time,
    period: Time,
    remaining: Time,
    deadline: Time,
    state: State,
    awake: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It never ran.
    New,
    /// It may run.
    Ready,
    /// Not before this instant.
    ThrottledUntil(Time),
}

impl Cbs {
    fn begin_period(&mut self, now: Time) {
        self.state = State::Ready;
        self.remaining = self.budget;
        self.deadline = now.saturating_add(self.relative_deadline);
    }

    /// When its next period begins.
    fn next_period(&self) -> Time {
        self.deadline
            .saturating_add(self.period - self.relative_deadline)
    }

    fn throttle(&mut self) {
        self.remaining = 0;
        self.state = State::ThrottledUntil(self.next_period());
    }

    /// `update_dl_entity` and `dl_check_constrained_dl` of kernel/sched/deadline.c.
    fn wake(&mut self, now: Time) {
        self.awake = true;
        match self.state {
            State::New => return self.begin_period(now),
            State::ThrottledUntil(_) => return,
            State::Ready => {}
        }
        if self.deadline < now && now < self.next_period() {
            return self.throttle();
        }
        if self.deadline <= now {
            return self.begin_period(now);
        }
        let left = self.deadline - now;
        let wide = |a: Time, b: Time| u128::from(a) * u128::from(b);
        if wide(self.remaining, self.relative_deadline) <= wide(left, self.budget) {
            return;
        }
        if self.relative_deadline == self.period {
            return self.begin_period(now);
        }
        // At most the budget, which fits; at least a nanosecond, so that it goes on.
        let fair = wide(left, self.budget) / u128::from(self.relative_deadline);
        self.remaining = Time::try_from(fair).unwrap_or(self.budget).max(1);
    }

    /// `replenish_dl_entity`.
    fn replenish(&mut self) {
        self.state = State::Ready;
        self.remaining = self.budget;
        self.deadline = self.deadline.saturating_add(self.period);
    }
}

impl Deadline {
    /// One server for every vCPU of `host`.
    pub fn new(host: &Host) -> Self {
        let server = |server: crate::sim::Server| Cbs {
            budget: nanos(server.budget),
            relative_deadline: nanos(server.deadline),
            period: nanos(server.period),
            remaining: 0,
            deadline: 0,
            state: State::New,
            awake: false,
        };
        Self {
            servers: host.vcpus().map(|vcpu| server(vcpu.server)).collect(),
            next_timer: Time::MAX,
        }
    }

    /// Changes a budget: in force from the next period on, as with sched_setattr(2).
    pub fn set_budget(&mut self, vcpu: usize, budget: Time) {
        self.servers[vcpu].budget = budget;
    }

    /// Where the budget of the present period ends if it is used from the beginning on without interruption.
    pub fn end_of_budget(&self, vcpu: usize) -> Time {
        let server = &self.servers[vcpu];
        (server.deadline + server.budget).saturating_sub(server.relative_deadline)
    }

    /// Whether the budget of the present period is used up.
    pub fn is_used_up(&self, vcpu: usize) -> bool {
        matches!(self.servers[vcpu].state, State::ThrottledUntil(_))
    }

    fn note_throttled(&mut self, vcpu: usize) {
        if let State::ThrottledUntil(at) = self.servers[vcpu].state {
            self.next_timer = self.next_timer.min(at);
        }
    }
}

impl HostPolicy for Deadline {
    fn wake(&mut self, vcpu: usize, now: Time) {
        self.servers[vcpu].wake(now);
        self.note_throttled(vcpu);
    }

    fn sleep(&mut self, vcpu: usize, _now: Time) {
        self.servers[vcpu].awake = false;
    }

    fn ran(&mut self, vcpu: usize, _now: Time, length: Time) {
        let server = &mut self.servers[vcpu];
        server.remaining -= length;
        if server.remaining == 0 {
            server.throttle();
            self.note_throttled(vcpu);
        }
    }

    fn next_timer(&self) -> Time {
        self.next_timer
    }

    fn timer(&mut self, now: Time) {
        self.next_timer = Time::MAX;
        for server in &mut self.servers {
            match server.state {
                State::ThrottledUntil(at) if at <= now => server.replenish(),
                State::ThrottledUntil(at) => self.next_timer = self.next_timer.min(at),
                State::New | State::Ready => {}
            }
        }
    }

    fn claim(&self, vcpu: usize, _now: Time) -> Option<Claim> {
        let server = &self.servers[vcpu];
        let may_run = server.awake && server.state == State::Ready;
        may_run.then_some(Claim {
            order: server.deadline,
            most: server.remaining,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{GuestPolicy, Policy, Server, Vcpu, Vm};
    use std::time::Duration;

    /// One server with times in nanoseconds.
    fn policy(budget: u64, deadline: u64, period: u64) -> Deadline {
        let times = [budget, deadline, period].map(Duration::from_nanos);
        let server = Server {
            deadline: times[1],
            ..Server::new(times[0], times[2])
        };
        let vcpu = Vcpu::new(server, GuestPolicy::Edf, Vec::new());
        Deadline::new(&Host::new(1, Policy::Deadline, vec![Vm::single(vcpu)]))
    }

    fn claim(order: u64, most: u64) -> Option<Claim> {
        Some(Claim { order, most })
    }

    #[test]
    fn it_wakes_into_its_old_period_only_if_the_rest_fits_its_bandwidth() {
        let mut policy = policy(4, 10, 10);
        policy.wake(0, 100);
        policy.ran(0, 102, 2);
        policy.sleep(0, 102);
        let mut early = policy.clone();
        // 2 of 4 are left: they may be used until the deadline at 110 if at least 5 of 10 are left.
        early.wake(0, 105);
        assert_eq!(early.claim(0, 105), claim(110, 2));
        policy.wake(0, 106);
        assert_eq!(policy.claim(0, 106), claim(116, 4));
    }

    #[test]
    fn after_its_budget_it_waits_for_its_deadline_asleep_or_not() {
        let mut policy = policy(4, 10, 10);
        policy.wake(0, 0);
        policy.ran(0, 4, 4);
        policy.sleep(0, 4);
        policy.wake(0, 6);
        assert_eq!((policy.claim(0, 6), policy.next_timer()), (None, 10));
        policy.timer(10);
        assert_eq!(
            (policy.claim(0, 10), policy.next_timer()),
            (claim(20, 4), Time::MAX)
        );
    }

    #[test]
    fn with_a_deadline_before_the_period_it_never_runs_between_the_two() {
        let mut policy = policy(4, 6, 10);
        policy.wake(0, 0);
        policy.ran(0, 1, 1);
        policy.sleep(0, 1);
        let mut late = policy.clone();
        // 3 are left at most 3 before the deadline at 6: 2 = 3 * 4 / 6.
        policy.wake(0, 3);
        assert_eq!(policy.claim(0, 3), claim(6, 2));
        late.wake(0, 7);
        assert_eq!((late.claim(0, 7), late.next_timer()), (None, 10));
        late.timer(10);
        assert_eq!(late.claim(0, 10), claim(16, 4));
    }
}

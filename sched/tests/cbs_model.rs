//! Exact enforcement against a model of the kernel's constant bandwidth server, in steps of 10 us.
//!
//! The model is that of kernel/sched/deadline.c: budget and deadline, throttling until the deadline, and the wake-up
//! rule (`dl_entity_overflow`) by which a thread that slept keeps its budget or starts a new period. A thread with a
//! budget timer has a server of Q + surplus and ends its periods itself; it is held against a server of exactly Q with
//! an ideal clock.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use proptest::prelude::*;
use sched::budget::{Decision, GRAIN, decide};

/// One step, in nanoseconds.
const STEP: i64 = 10_000;

/// A constant bandwidth server that is alone on its CPU.
#[derive(Clone, Debug)]
struct Server {
    full: i64,
    period: i64,
    remaining: i64,
    deadline: i64,
    throttled: bool,
    asleep: bool,
}

impl Server {
    fn new(full: i64, period: i64) -> Self {
        Self {
            full,
            period,
            remaining: full,
            deadline: period,
            throttled: false,
            asleep: false,
        }
    }

    /// The wake-up rule: a new period if the rest of the budget would exceed the bandwidth until the deadline.
    fn wake(&mut self, now: i64) {
        self.asleep = false;
        let left = self.deadline - now;
        let overflows = || {
            i128::from(self.remaining) * i128::from(self.period)
                > i128::from(left) * i128::from(self.full)
        };
        if !self.throttled && (left <= 0 || overflows()) {
            self.remaining = self.full;
            self.deadline = now + self.period;
        }
    }

    /// Throttled until the deadline: at the end of its budget, or because the thread yields.
    fn throttle(&mut self) {
        self.throttled = true;
        self.remaining = self.remaining.min(0);
    }

    fn replenish(&mut self, now: i64) {
        if self.throttled && now >= self.deadline {
            self.throttled = false;
            while self.remaining <= 0 {
                self.remaining += self.full;
                self.deadline += self.period;
            }
        }
    }

    /// One step of a thread with work to do; whether it ran.
    fn run(&mut self) -> bool {
        if self.throttled {
            return false;
        }
        self.remaining -= STEP;
        if self.remaining <= 0 {
            self.throttle();
        }
        true
    }
}

/// A budget timer on top of a server.
#[derive(Clone, Debug)]
struct Timer {
    fires: i64,
    surplus: i64,
    lead: i64,
}

impl Timer {
    /// What `BudgetTimer::on_expiry` does.
    fn expire(&mut self, server: &mut Server, now: i64) {
        if now < self.fires || server.throttled {
            return;
        }
        if server.asleep {
            server.wake(now);
            server.asleep = true;
        }
        match decide(server.remaining, self.surplus, self.lead) {
            Decision::Rearm(after) => {
                self.fires = now + i64::try_from(after.as_nanos()).unwrap();
            }
            Decision::Yield => {
                server.throttle();
                self.fires = server.deadline;
            }
        }
    }
}

/// Supply over time of one thread that serves `arrivals` (time, work), with or without a timer, and whether work is left.
fn supply(
    mut server: Server,
    mut timer: Option<Timer>,
    arrivals: &[(i64, i64)],
    end: i64,
) -> (Vec<i64>, Vec<bool>) {
    let (mut backlog, mut served, mut next) = (0, 0, 0);
    let (mut over_time, mut waiting) = (Vec::new(), Vec::new());
    server.asleep = true;
    for now in (0..end).step_by(usize::try_from(STEP).unwrap()) {
        while next < arrivals.len() && arrivals[next].0 <= now {
            backlog += arrivals[next].1;
            next += 1;
        }
        server.replenish(now);
        if backlog > 0 && server.asleep {
            server.wake(now);
        }
        if let Some(timer) = &mut timer {
            timer.expire(&mut server, now);
        }
        if backlog > 0 && server.run() {
            backlog -= STEP;
            served += STEP;
        }
        server.asleep = server.asleep || backlog <= 0;
        over_time.push(served);
        waiting.push(backlog > 0);
    }
    (over_time, waiting)
}

struct Case {
    q: i64,
    p: i64,
    surplus: i64,
    arrivals: Vec<(i64, i64)>,
}

impl Case {
    fn end(&self) -> i64 {
        self.arrivals.last().map_or(0, |arrival| arrival.0) + 6 * self.p
    }

    fn ours(&self, lead: i64) -> Vec<i64> {
        self.ours_with_backlog(lead).0
    }

    fn ours_with_backlog(&self, lead: i64) -> (Vec<i64>, Vec<bool>) {
        let timer = Timer {
            fires: 0,
            surplus: self.surplus,
            lead,
        };
        let server = Server::new(self.q + self.surplus, self.p);
        supply(server, Some(timer), &self.arrivals, self.end())
    }

    fn ideal(&self) -> Vec<i64> {
        let server = Server::new(self.q, self.p);
        supply(server, None, &self.arrivals, self.end()).0
    }
}

fn case() -> impl Strategy<Value = Case> {
    let shape = (2i64..60, 15i64..90, 1i64..10);
    let bursts = prop::collection::vec((1i64..300, 1i64..400), 1..25);
    (shape, bursts).prop_map(|((p_ms, percent, surplus), bursts)| {
        let p = p_ms * 1_000_000;
        let q = p * percent / 100 / STEP * STEP;
        // Up to a tenth of the period, in whole steps.
        let surplus = (p * surplus / 100 / STEP * STEP).min(p - q);
        let mut time = 0;
        let arrivals = bursts.iter().map(|&(gap, work)| {
            time += p * gap / 100 / STEP * STEP;
            (time, (q * work / 100 / STEP).max(1) * STEP)
        });
        let arrivals = arrivals.collect();
        Case {
            q,
            p,
            surplus,
            arrivals,
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_busy_thread_never_has_less_than_the_ideal_server_gives(mut case in case()) {
        case.arrivals = vec![(0, 1_000 * case.p)];
        for (ours, ideal) in case.ours(0).iter().zip(case.ideal()) {
            prop_assert!(*ours >= ideal - GRAIN - STEP, "{ours} < {ideal}");
        }
    }

    #[test]
    fn while_there_is_work_the_supply_bound_of_the_reservation_holds_from_any_instant(case in case()) {
        let (supplied, waiting) = case.ours_with_backlog(0);
        let every = usize::try_from(case.p / STEP / 4).unwrap().max(1);
        for start in (0..supplied.len()).step_by(every) {
            let before = if start == 0 { 0 } else { supplied[start - 1] };
            let busy = waiting[start..].iter().take_while(|&&waiting| waiting);
            for (steps, _) in busy.enumerate() {
                let length = (i64::try_from(steps).unwrap() + 1) * STEP;
                let got = supplied[start + steps] - before;
                // One step and one grain are lost to the model's own clock in every period.
                let periods = length / case.p + 2;
                let promised = supply_bound(case.q, case.p, length) - periods * (GRAIN + STEP);
                prop_assert!(got >= promised, "{got} < {promised} in {length} from step {start}");
            }
        }
    }

    #[test]
    fn sleeping_never_puts_it_more_than_one_budget_behind_the_ideal_server(case in case()) {
        // The two servers start periods at different times after a sleep, so neither leads at every instant.
        for (ours, ideal) in case.ours(0).iter().zip(case.ideal()) {
            prop_assert!(*ours >= ideal - case.q, "{ours} more than {} below {ideal}", case.q);
        }
    }

    #[test]
    fn the_surplus_never_delays_the_new_period_of_a_wake_up(
        p in 100_000i64..100_000_000, percent in 1i64..95, surplus in 0i64..1_000_000, rest in 0i64..=1000, left in 0i64..1000,
    ) {
        let q = p * percent / 100;
        let surplus = surplus.min(p - q);
        let (rest, deadline) = (q / 1000 * rest, p / 1000 * left);
        let woken = |full: i64, remaining: i64| {
            let mut server = Server { remaining, deadline, ..Server::new(full, p) };
            server.wake(0);
            server.deadline == p && server.remaining == full
        };
        if woken(q, rest) {
            prop_assert!(woken(q + surplus, rest + surplus));
        }
    }
}

/// The least supply of (Q, P) in any window of this length (Shin and Lee, RTSS 2003).
fn supply_bound(q: i64, p: i64, length: i64) -> i64 {
    let whole = (length - (p - q)).max(0) / p;
    let into = length - 2 * (p - q) - whole.max(0) * p;
    if length <= p - q {
        return 0;
    }
    whole * q + into.clamp(0, q)
}

#[test]
fn the_supply_bound_has_its_known_values() {
    let bound = |length| supply_bound(28, 50, length);
    assert_eq!(
        [
            bound(22),
            bound(44),
            bound(45),
            bound(72),
            bound(94),
            bound(95)
        ],
        [0, 0, 1, 28, 28, 29]
    );
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            q,
            p,
            surplus,
            arrivals,
        } = self;
        write!(f, "q {q} p {p} surplus {surplus} arrivals {arrivals:?}")
    }
}

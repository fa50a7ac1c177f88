//! Exact enforcement: the thread ends its own budget on time, whatever the kernel's tick is.
//!
//! A kernel without high-resolution enforcement throttles SCHED_DEADLINE on its scheduler tick, so with HZ=250 a budget
//! may end 4 ms late and the next one be shortened by as much. A thread with a [`BudgetTimer`] is given a little more
//! than Q by the kernel (the surplus, which counts in admission), arms a high-resolution timer for the rest of Q, and
//! gives the CPU back with `sched_yield`, which for SCHED_DEADLINE means "until my next period" (sched(7)). The kernel's
//! own budget of Q + surplus is the backstop.
//!
//! Traps, each held by a test:
//! - Only the kernel knows when a budget began: after a sleep its wake-up rule may start a new period with a full budget
//!   (Documentation/scheduler/sched-deadline.rst, section 2.2). A timer that counts CPU time since the last yield would
//!   end that budget early and steal supply, so the kernel's remaining budget is read each time.
//! - Where the deadline comes before the period's end, a wake-up before it gives no full budget but Q / D of the time
//!   left (the revised wake-up rule: Abeni, Lipari and Lelli, Constant bandwidth server revisited, EWiLi 2014;
//!   `update_dl_revised_wakeup` in kernel/sched/deadline.c), surplus and all. To take the whole surplus off would be to
//!   steal supply, so only its part in such a budget is.
//! - If the kernel's budget ends first, the thread is throttled, comes back with a fresh budget, and a yield decided
//!   before that would throw the fresh budget away: a gap of 2P - Q. Hence the surplus, and no yield without a reading.

mod cut;
mod error;
mod reading;

use std::time::Duration;

use crate::account::Account;
use crate::alignment::{Aligner, Alignment, Server};
use crate::kernel::{Policy, ThreadTimer, Tid, monotonic, policy, sleep_until, thread_cpu_time};
use crate::reservation::{Reservation, signed_nanos};

use cut::Begun;
use reading::{Reading, RemainingBudget};

pub use error::BudgetError;

/// Signed nanoseconds: a remaining budget may be negative.
pub type Nanos = i64;

/// A rest of budget shorter than the way from the decision to the yield is used up by that way.
pub const GRAIN: Nanos = 1_000;

/// The least surplus that covers the way of a vCPU thread from the timer's expiry to the yield, with room for an interrupt.
const LEAST_SURPLUS: Duration = Duration::from_micros(250);

/// The surplus of long periods: it also covers a millisecond's interference by the host.
const GREATEST_SURPLUS: Duration = Duration::from_millis(1);

/// What the kernel is given beyond Q.
///
/// A tenth of the period, between 250 us and 1 ms: it has to cover the time from the timer's expiry to the yield,
/// including interrupts and, for a vCPU, the exit from guest mode. Zero where Q + surplus would exceed the deadline; the
/// kernel's tick enforces alone there.
pub fn default_surplus(reservation: Reservation) -> Duration {
    let surplus = surplus_of(reservation.period());
    if reservation.runtime() + surplus > reservation.deadline() {
        return Duration::ZERO;
    }
    surplus
}

/// [`default_surplus`] where there is room for it.
pub fn surplus_of(period: Duration) -> Duration {
    (period / 10).clamp(LEAST_SURPLUS, GREATEST_SURPLUS)
}

/// What to do when the budget timer has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Budget is left: run on, look again after this time.
    Rearm(Duration),
    /// Q is used up: give the CPU back until the next period.
    Yield,
}

/// Decides from the kernel's remaining budget, which includes the surplus.
///
/// With `lead` <= 0 a period never ends before Q (less [`GRAIN`]) is consumed. A positive lead ends it that much
/// earlier, to make up for what passes between the timer's expiry and the yield. A remaining budget of zero or less
/// means that the kernel is throttling this thread at this moment: what it will return with is a fresh budget, so never
/// yield then.
pub fn decide(remaining: Nanos, surplus: Nanos, lead: Nanos) -> Decision {
    let rest = remaining.saturating_sub(surplus).saturating_sub(lead);
    if remaining > 0 && rest <= GRAIN {
        return Decision::Yield;
    }
    Decision::Rearm(Duration::from_nanos(rest.max(GRAIN).unsigned_abs()))
}

/// What came of an expiry.
#[must_use = "the vCPU loop has to know whether time passed"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Budget was left; the timer is armed for the rest.
    Rearmed,
    /// The budget was used up, the CPU was given back, and a new period has begun; the timer is armed for it.
    Yielded {
        /// How long the CPU was away.
        blackout: Duration,
    },
}

/// What a look at the budget found.
#[must_use = "a budget that is used up has to be given back"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Budget is left, or cannot be read; the timer is armed for the rest, which is this.
    Rearmed(Duration),
    /// The budget is used up: to be given back.
    UsedUp(Ended),
}

/// A budget that is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What it supplied, in nanoseconds.
    supply: Nanos,
    /// If it is that of a shortened period.
    short: Option<Shortened>,
}

/// A period that ends early, to begin the next one at an instant ([`crate::alignment`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shortened {
    /// The deadline that shows that it is still this period.
    deadline: Nanos,
    /// What is left of the kernel's budget when the thread has had the share of a period that long.
    rest: Nanos,
    /// When the next period begins, by CLOCK_MONOTONIC.
    until: Duration,
}

/// Ends the calling thread's budgets on time. Created on the thread itself after its reservation is in force.
///
/// The timer sends `signal` to this thread. The owner keeps the signal blocked except where it may interrupt (KVM_RUN
/// with its own signal mask), so that an expiry is only ever handled by [`BudgetTimer::on_expiry`], called from the loop.
#[derive(Debug)]
pub struct BudgetTimer {
    timer: ThreadTimer,
    kernel: RemainingBudget,
    /// The budget the kernel replenishes: Q + surplus.
    full: Nanos,
    period: Nanos,
    surplus: Nanos,
    lead: Nanos,
    way_out: WayOut,
    armed: Armed,
    /// Where the deadline comes before the period's end: what the budget began with, or less.
    begun: Option<Begun>,
    aligner: Option<Aligner>,
    shortened: Option<Shortened>,
}

/// How long it takes from the end of a budget to the reading of it, as a running mean.
///
/// A vCPU's thread pays for leaving the guest at the end of a budget and for entering it again at the start of the next.
/// The guest gets Q only if its thread gets Q and the way back in. That way cannot be timed from the thread, so it is
/// taken to be as long as the way out, which can: it is longer in every measurement made (a timer's expiry is part of
/// it), so the guest gets no less than Q.
#[derive(Clone, Copy, Debug, Default)]
struct WayOut {
    mean: Nanos,
}

/// Weight of a new measurement in the running mean.
const SMOOTHING: Nanos = 8;

impl WayOut {
    /// Takes a measurement into account; at most `limit`, so that a disturbed one does little harm.
    fn measured(&mut self, late: Nanos, limit: Nanos) {
        self.mean += (late.clamp(0, limit) - self.mean) / SMOOTHING;
    }
}

/// The state when the timer was last armed.
#[derive(Clone, Copy, Debug, Default)]
struct Armed {
    cpu_clock: Duration,
    remaining: Nanos,
}

impl BudgetTimer {
    /// A disarmed timer for the calling thread.
    ///
    /// `surplus` is what its reservation was granted beyond Q. `lead` (nanoseconds) moves the end of a budget earlier, or
    /// later when negative, by at most half the surplus.
    ///
    /// # Errors
    /// When the thread is not under SCHED_DEADLINE, or the kernel does not show its remaining budget.
    pub fn new(signal: libc::c_int, surplus: Duration, lead: Nanos) -> Result<Self, BudgetError> {
        let mut kernel = RemainingBudget::open()?;
        kernel.read().ok_or(BudgetError::NoField)?;
        let timer =
            ThreadTimer::new(signal).map_err(|source| BudgetError::Timer { signal, source })?;
        let mut budget = Self {
            timer,
            kernel,
            full: 0,
            period: 0,
            surplus: 0,
            lead: 0,
            way_out: WayOut::default(),
            armed: Armed::default(),
            begun: None,
            aligner: None,
            shortened: None,
        };
        budget.adapt(surplus, lead)?;
        Ok(budget)
    }

    /// Takes over a changed reservation. Called on the thread itself.
    ///
    /// # Errors
    /// When the thread is no longer under SCHED_DEADLINE.
    pub fn adapt(&mut self, surplus: Duration, lead: Nanos) -> Result<(), BudgetError> {
        let tid = Tid::current();
        let (runtime, period) = match policy(tid) {
            Ok(Policy::Deadline {
                runtime,
                deadline,
                period,
            }) => {
                let unknown = Begun {
                    least: 0,
                    sleeps: None,
                };
                self.begun = (deadline < period).then_some(unknown);
                (runtime, period)
            }
            Ok(_) => return Err(BudgetError::NoReservation { tid }),
            Err(source) => return Err(BudgetError::Policy { tid, source }),
        };
        self.full = signed_nanos(runtime);
        self.period = signed_nanos(period);
        self.shortened = None;
        self.surplus = signed_nanos(surplus);
        self.lead = lead.max(-self.surplus / 2);
        Ok(())
    }

    /// From now on, periods are to begin where `alignment` says, for as long as the thread is busy. Not where the deadline
    /// comes before the period's end: there a thread that wakes up goes on in its period, with its budget cut.
    #[must_use]
    pub fn aligned(mut self, alignment: Alignment) -> Self {
        self.aligner = Some(Aligner::new(alignment));
        self
    }

    /// Arms the timer for what is left of the current budget without the surplus.
    ///
    /// Does nothing where there is no surplus: the kernel enforces alone then.
    pub fn arm(&mut self) {
        if self.surplus == 0 {
            return;
        }
        let (cpu_clock, reading) = (thread_cpu_time(), self.kernel.read());
        let Some(reading) = reading else {
            return self.start(cpu_clock, self.full, self.whole_budget());
        };
        let surplus = self.surplus_in(reading);
        let lead = self.effective_lead(surplus);
        let after = match decide(reading.remaining, self.kept(surplus), lead) {
            Decision::Rearm(after) => after,
            // The budget is already used up: fire at once, and let the expiry decide.
            Decision::Yield => Duration::from_nanos(GRAIN.unsigned_abs()),
        };
        self.start(cpu_clock, reading.remaining, after);
    }

    /// Handles one expiry: yields if the budget is used up, and arms the timer again either way.
    pub fn on_expiry(&mut self, account: &mut Account) -> Expiry {
        match self.look(account) {
            Look::Rearmed(_) => Expiry::Rearmed,
            Look::UsedUp(ended) => self.give_back(ended, account),
        }
    }

    /// The first half of [`BudgetTimer::on_expiry`]: whether the budget is used up. Arms the timer if it is not.
    pub fn look(&mut self, account: &mut Account) -> Look {
        account.expired();
        let cpu_clock = thread_cpu_time();
        account.consumed(cpu_clock);
        let Some(reading) = self.kernel.read() else {
            // Without a reading a yield might throw a fresh budget away; the kernel's own enforcement still holds.
            account.unreadable();
            let whole = self.whole_budget();
            self.start(cpu_clock, self.full, whole);
            return Look::Rearmed(whole);
        };
        let (remaining, surplus) = (reading.remaining, self.surplus_in(reading));
        let lead = self.effective_lead(surplus);
        let ran = signed_nanos(cpu_clock.saturating_sub(self.armed.cpu_clock));
        if ran >= self.armed.remaining {
            account.overran();
        }
        // After a sleep it may be another period.
        self.shortened = self
            .shortened
            .filter(|short| Some(short.deadline) == reading.deadline);
        if let Decision::Rearm(after) = decide(remaining, self.kept(surplus), lead) {
            self.start(cpu_clock, remaining, after);
            return Look::Rearmed(after);
        }
        let short = self.shortened.take();
        if short.is_none() {
            let late = surplus.saturating_add(lead).saturating_sub(remaining);
            self.way_out.measured(late, self.surplus / 4);
        }
        Look::UsedUp(Ended {
            supply: self.full.saturating_sub(remaining),
            short,
        })
    }

    /// The second half of [`BudgetTimer::on_expiry`]: gives the CPU back until the next period, and arms the timer for
    /// that. At once after [`BudgetTimer::look`], so that what is given back is what was looked at.
    pub fn give_back(&mut self, ended: Ended, account: &mut Account) -> Expiry {
        if let Some(short) = ended.short {
            return self.end_short(short, account);
        }
        let before = monotonic();
        std::thread::yield_now();
        let blackout = monotonic().saturating_sub(before);
        let supply = ended.supply.max(0).unsigned_abs();
        account.yielded(Duration::from_nanos(supply), blackout);
        self.align();
        self.arm();
        Expiry::Yielded { blackout }
    }

    /// The part of the surplus that the budget in force has.
    fn surplus_in(&mut self, reading: Reading) -> Nanos {
        let Some(begun) = &mut self.begun else {
            return self.surplus;
        };
        begun.follow(reading, self.armed.remaining, self.full);
        begun.part(self.surplus, self.full)
    }

    /// Fires after this time whatever is left of the budget: for a thread that has nothing to do.
    pub(crate) fn sleep_for(&mut self, time: Duration) {
        // However much it runs until then, this timer is not too late for any budget.
        self.start(thread_cpu_time(), Nanos::MAX, time);
    }

    /// From the next period on the kernel fills the budget up to `full`, surplus included.
    pub(crate) fn refilled_to(&mut self, full: Duration) {
        self.full = signed_nanos(full);
    }

    /// Sleeps out a shortened period. Were its end past already, the thread would run on in it as before.
    fn end_short(&mut self, short: Shortened, account: &mut Account) -> Expiry {
        let before = monotonic();
        // Whatever signals come.
        while monotonic() < short.until {
            sleep_until(short.until);
        }
        let blackout = monotonic().saturating_sub(before);
        account.shortened(blackout);
        self.arm();
        Expiry::Yielded { blackout }
    }

    /// A new period has begun: shortens it, if it has to be to begin the next one where it should.
    fn align(&mut self) {
        let Some(aligner) = self.aligner.as_mut().filter(|_| self.begun.is_none()) else {
            return;
        };
        let now = signed_nanos(monotonic());
        let Some(deadline) = self.kernel.read().and_then(|reading| reading.deadline) else {
            return;
        };
        let server = Server {
            budget: self.full - self.surplus,
            period: self.period,
        };
        self.shortened = aligner.begun(now, deadline, server).map(|short| Shortened {
            deadline,
            rest: self.full - short.budget,
            until: Duration::from_nanos(short.until.unsigned_abs()),
        });
    }

    /// What is to be left of the kernel's budget when this period's is used up; usually `surplus`.
    fn kept(&self, surplus: Nanos) -> Nanos {
        self.shortened.map_or(surplus, |short| short.rest)
    }

    /// Whether the thread ends its budgets at all; without a surplus the kernel does.
    pub fn ends_budgets(&self) -> bool {
        self.surplus > 0
    }

    /// Fires no more until armed again. A signal already queued stays queued.
    pub fn disarm(&mut self) {
        self.timer.disarm();
    }

    fn start(&mut self, cpu_clock: Duration, remaining: Nanos, after: Duration) {
        self.armed = Armed {
            cpu_clock,
            remaining,
        };
        self.timer.arm(after);
    }

    /// The lead asked for, less the way back in, within half the surplus.
    fn effective_lead(&self, surplus: Nanos) -> Nanos {
        (self.lead - self.way_out.mean).max(-surplus / 2)
    }

    fn whole_budget(&self) -> Duration {
        let rest = self.full - self.surplus - self.effective_lead(self.surplus);
        Duration::from_nanos(rest.max(GRAIN).unsigned_abs())
    }
}

#[cfg(test)]
mod tests;

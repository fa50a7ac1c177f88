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
//! - If the kernel's budget ends first, the thread is throttled, comes back with a fresh budget, and a yield decided
//!   before that would throw the fresh budget away: a gap of 2P - Q. Hence the surplus, and no yield without a reading.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::errno::Errno;

use crate::account::Account;
use crate::alignment::{Aligner, Alignment, Server};
use crate::kernel::{Policy, ThreadTimer, Tid, monotonic, policy, sleep_until, thread_cpu_time};
use crate::reservation::{Reservation, signed_nanos};

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
/// including interrupts and, for a vCPU, the exit from guest mode. Zero where Q + surplus would exceed the period; the
/// kernel's tick enforces alone there.
pub fn default_surplus(reservation: Reservation) -> Duration {
    let surplus = surplus_of(reservation.period());
    if reservation.runtime() + surplus > reservation.period() {
        return Duration::ZERO;
    }
    surplus
}

/// [`default_surplus`] where there is room for it.
pub(crate) fn surplus_of(period: Duration) -> Duration {
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

/// Why budgets cannot be enforced exactly.
#[derive(Debug, thiserror::Error)]
pub enum BudgetError {
    /// The thread has no SCHED_DEADLINE reservation.
    #[error(
        "thread {tid} has no SCHED_DEADLINE reservation: apply one before creating its budget timer"
    )]
    NoReservation {
        /// The thread.
        tid: Tid,
    },
    /// /proc/thread-self/sched does not exist.
    #[error(
        "cannot open /proc/thread-self/sched: the kernel needs CONFIG_SCHED_DEBUG for exact enforcement; enforcement = \"tick\" works without"
    )]
    NoSchedFile(#[source] io::Error),
    /// The remaining budget is not in /proc/thread-self/sched.
    #[error(
        "no dl.runtime in /proc/thread-self/sched: the kernel needs CONFIG_SCHED_DEBUG for exact enforcement; enforcement = \"tick\" works without"
    )]
    NoField,
    /// The timer could not be created.
    #[error(
        "cannot create a timer for signal {signal}: check the signal number and RLIMIT_SIGPENDING"
    )]
    Timer {
        /// The signal it would send.
        signal: libc::c_int,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
    /// Another system call failed.
    #[error("cannot read the policy of thread {tid}")]
    Policy {
        /// The thread.
        tid: Tid,
        /// The kernel's reason.
        #[source]
        source: Errno,
    },
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
    aligner: Option<Aligner>,
    shortened: Option<Shortened>,
}

/// A period that ends early, to begin the next one at an instant ([`crate::alignment`]).
#[derive(Clone, Copy, Debug)]
struct Shortened {
    /// The deadline that shows that it is still this period.
    deadline: Nanos,
    /// What is left of the kernel's budget when the thread has had the share of a period that long.
    rest: Nanos,
    /// When the next period begins, by CLOCK_MONOTONIC.
    until: Duration,
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
            Ok(Policy::Deadline { runtime, period }) => (runtime, period),
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

    /// From now on, periods are to begin where `alignment` says, for as long as the thread is busy.
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
        match reading.map(|remaining| {
            (
                remaining,
                decide(remaining, self.kept(), self.effective_lead()),
            )
        }) {
            Some((remaining, Decision::Rearm(after))) => self.start(cpu_clock, remaining, after),
            // The budget is already used up: fire at once, and let the expiry decide.
            Some((remaining, Decision::Yield)) => {
                self.start(
                    cpu_clock,
                    remaining,
                    Duration::from_nanos(GRAIN.unsigned_abs()),
                );
            }
            None => self.start(cpu_clock, self.full, self.whole_budget()),
        }
    }

    /// Handles one expiry: yields if the budget is used up, and arms the timer again either way.
    pub fn on_expiry(&mut self, account: &mut Account) -> Expiry {
        account.expired();
        let cpu_clock = thread_cpu_time();
        account.consumed(cpu_clock);
        let Some((remaining, deadline)) = self.kernel.read_server() else {
            // Without a reading a yield might throw a fresh budget away; the kernel's own enforcement still holds.
            account.unreadable();
            self.start(cpu_clock, self.full, self.whole_budget());
            return Expiry::Rearmed;
        };
        let ran = signed_nanos(cpu_clock.saturating_sub(self.armed.cpu_clock));
        if ran >= self.armed.remaining {
            account.overran();
        }
        // After a sleep it may be another period.
        self.shortened = self.shortened.filter(|short| short.deadline == deadline);
        if let Decision::Rearm(after) = decide(remaining, self.kept(), self.effective_lead()) {
            self.start(cpu_clock, remaining, after);
            return Expiry::Rearmed;
        }
        if let Some(short) = self.shortened.take() {
            return self.end_short(short, account);
        }
        let late = self
            .surplus
            .saturating_add(self.effective_lead())
            .saturating_sub(remaining);
        self.way_out.measured(late, self.surplus / 4);
        let before = monotonic();
        std::thread::yield_now();
        let blackout = monotonic().saturating_sub(before);
        let supply = self.full.saturating_sub(remaining).max(0).unsigned_abs();
        account.yielded(Duration::from_nanos(supply), blackout);
        self.align();
        self.arm();
        Expiry::Yielded { blackout }
    }

    /// Sleeps out a shortened period. Were its end past already, the thread would run on in it as before.
    fn end_short(&mut self, short: Shortened, account: &mut Account) -> Expiry {
        let before = monotonic();
        sleep_until(short.until);
        let blackout = monotonic().saturating_sub(before);
        account.shortened(blackout);
        self.arm();
        Expiry::Yielded { blackout }
    }

    /// A new period has begun: shortens it, if it has to be to begin the next one where it should.
    fn align(&mut self) {
        let Some(aligner) = &mut self.aligner else {
            return;
        };
        let now = signed_nanos(monotonic());
        let Some((_, deadline)) = self.kernel.read_server() else {
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

    /// What is to be left of the kernel's budget when this period's is used up.
    fn kept(&self) -> Nanos {
        self.shortened.map_or(self.surplus, |short| short.rest)
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
    fn effective_lead(&self) -> Nanos {
        (self.lead - self.way_out.mean).max(-self.surplus / 2)
    }

    fn whole_budget(&self) -> Duration {
        let rest = self.full - self.surplus - self.effective_lead();
        Duration::from_nanos(rest.max(GRAIN).unsigned_abs())
    }
}

/// The kernel's own remaining budget of one thread, from its `sched` file in /proc, kept open.
#[derive(Debug)]
struct RemainingBudget {
    file: File,
}

impl RemainingBudget {
    /// That of the calling thread.
    fn open() -> Result<Self, BudgetError> {
        let file = File::open("/proc/thread-self/sched").map_err(BudgetError::NoSchedFile)?;
        Ok(Self { file })
    }

    /// Nanoseconds left, the surplus included, as of the kernel's last accounting; `None` if not shown.
    fn read(&mut self) -> Option<Nanos> {
        // The whole file is 1.5 to 3 kB; the field is in its first half.
        let mut text = [0u8; 4096];
        let length = self.file.read_at(&mut text, 0).ok()?;
        field(&text[..length], b"dl.runtime")
    }

    /// The remaining budget and the absolute deadline, the latter in nanoseconds of the scheduler's clock.
    fn read_server(&mut self) -> Option<(Nanos, Nanos)> {
        let mut text = [0u8; 4096];
        let length = self.file.read_at(&mut text, 0).ok()?;
        let text = &text[..length];
        Some((field(text, b"dl.runtime")?, field(text, b"dl.deadline")?))
    }
}

/// The integer behind `name ... :` in a file of such lines.
fn field(text: &[u8], name: &[u8]) -> Option<i64> {
    let line = text
        .split(|&byte| byte == b'\n')
        .find(|line| line.starts_with(name))?;
    let colon = line.iter().position(|&byte| byte == b':')?;
    std::str::from_utf8(&line[colon + 1..])
        .ok()?
        .trim()
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn the_field_is_found_and_may_be_negative() {
        let text = b"policy   :    6\ndl.runtime      :     -12345\ndl.deadline :   99\n";
        assert_eq!(field(text, b"dl.runtime"), Some(-12_345));
        assert_eq!(field(text, b"dl.deadline"), Some(99));
        assert_eq!(field(text, b"dl.missing"), None);
        assert_eq!(field(b"dl.runtime : 12x\n", b"dl.runtime"), None);
    }

    #[test]
    fn an_ordinary_thread_has_no_budget_to_end() {
        let error = BudgetTimer::new(libc::SIGRTMIN(), Duration::from_millis(1), 0).unwrap_err();
        assert!(error.to_string().contains("enforcement = \"tick\" works"));
    }

    #[test]
    fn a_budget_the_kernel_is_ending_at_this_moment_is_not_yielded() {
        assert!(matches!(decide(0, MS, 0), Decision::Rearm(_)));
        assert!(matches!(decide(-5 * MS, MS, 0), Decision::Rearm(_)));
        assert_eq!(decide(1, MS, 0), Decision::Yield);
    }

    #[test]
    fn a_fresh_budget_after_a_wake_up_is_run_not_yielded() {
        let decision = decide(11 * MS, MS, 0);
        assert_eq!(decision, Decision::Rearm(Duration::from_millis(10)));
    }

    #[test]
    fn a_reservation_of_nearly_the_whole_period_has_no_surplus() {
        let whole = Reservation::new(Duration::from_millis(50), Duration::from_millis(50)).unwrap();
        assert_eq!(default_surplus(whole), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn no_yield_while_more_than_the_surplus_is_left(
            remaining in -50 * MS..50 * MS, surplus in 0..5 * MS, lead in -2 * MS..=0,
        ) {
            match decide(remaining, surplus, lead) {
                Decision::Yield => prop_assert!(remaining <= surplus + GRAIN),
                Decision::Rearm(after) => prop_assert!(signed_nanos(after) >= GRAIN),
            }
        }

        #[test]
        fn the_surplus_never_takes_a_reservation_past_its_period(q in 1024u64..50_000_000, p in 100_000u64..50_000_000) {
            let made = Reservation::new(Duration::from_nanos(q.min(p)), Duration::from_nanos(p)).unwrap();
            prop_assert!(made.runtime() + default_surplus(made) <= made.period());
        }
    }
}

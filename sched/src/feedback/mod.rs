//! Feedback reservations: a budget that follows the measured need inside an admitted envelope.
//!
//! The [`Controller`] is pure: it is told when a budget ran out and when the vCPU was found asleep, with how much CPU
//! time it has consumed, and answers with the budget from the next period on. [`Follower`] runs it on a vCPU's thread.
//!
//! **Law.** Let P be the server's period, Q the budget, and a *span* of k periods (a multiple of the tasks' periods) what
//! the need is measured over.
//! - Asleep after at least a span: all that was asked for was supplied, so what was consumed per period is the need `n`,
//!   whatever Q was. The next budget is `(1 + 1/32) * max(last 5 n)`, but at least Q / 2. A fall of less than Q / 128
//!   is not made.
//! - k budgets in a row ran out: the need is not known but that it exceeds Q. The next budget is 2 Q.
//!
//! Always within the envelope. The predictor is the moving maximum of LFS++ (Cucinotta, Checconi, Abeni and Palopoli,
//! "Self-tuning schedulers for legacy real-time applications", EuroSys 2010; AQuoSA, Palopoli, Cucinotta, Marzario and
//! Lipari, Software: Practice and Experience 39(1), 2009), the increase without a measurement that of Abeni and Buttazzo,
//! "Adaptive bandwidth reservation for multimedia computing" (RTCSA 1999).
//!
//! **Rate.** From one period to the next the budget at most doubles and at most halves.
//!
//! **Stability.** Abeni, Palopoli, Lipari and Walpole, "Analysis of a reservation-based feedback scheduler" (RTSS 2002)
//! feed the scheduling error back, and have to place the poles of that loop. Here a measurement does not depend on Q:
//! where Q suffices, consumption is need, so there is no loop and nothing that could oscillate. Where it does not, Q only
//! rises. So for a need that stays within `n <= N`, `N <= greatest`:
//! - Below N the budget doubles, so it reaches N or `greatest` within `ceil(log2(N / least))` periods, and goes on to rise
//!   while there is a backlog B. At `greatest` the backlog falls by `greatest - N` in every period, so it is gone after
//!   `B / (greatest - N)` more. **Condition: the need is below the greatest budget.**
//! - After 5 spans all measurements are of the present need, and Q halves at most: a need that is constant is met by
//!   `Q = (1 + 1/32) n`, up to the 1/128 that is not taken away, `5 k + ceil(log2(greatest / n))` periods after its
//!   backlog is gone, and Q stays there. **Condition: no need exceeds the greatest of the last 5 by more than 1/32**;
//!   if one does, a budget runs out, is doubled for one period, and measured anew.

mod follower;

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::budget::default_surplus;
use crate::reservation::{Reservation, ReservationError, nanos};

pub use follower::Follower;

/// The measurements of which the greatest is taken.
pub const WINDOW: usize = 5;
/// The margin over the greatest measured need: one part in this many.
pub const MARGIN: u64 = 32;
/// What is not taken away: one part of the budget in this many.
pub const DEAD_BAND: u64 = 128;
/// The most that a budget grows, and falls, from one period to the next.
pub const RATE: u64 = 2;

/// Why there can be no such envelope.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// The kernel would not take one of its ends.
    #[error("{end}: {source}")]
    End {
        /// `least` or `greatest`.
        end: &'static str,
        /// Why.
        source: ReservationError,
    },
    /// It is empty.
    #[error("least {least:?} exceeds greatest {greatest:?}: make it smaller")]
    Empty {
        /// The least budget.
        least: Duration,
        /// The greatest budget.
        greatest: Duration,
    },
    /// It does not contain where to begin.
    #[error(
        "the first budget of {initial:?} is outside {least:?} to {greatest:?}: choose one inside"
    )]
    Outside {
        /// The first budget.
        initial: Duration,
        /// The least budget.
        least: Duration,
        /// The greatest budget.
        greatest: Duration,
    },
    /// Budgets cannot be ended by the thread itself, which is where need is measured.
    #[error(
        "greatest {greatest:?} leaves no room in {period:?} for what the kernel gets beyond it: make it smaller"
    )]
    Full {
        /// The greatest budget.
        greatest: Duration,
        /// The period.
        period: Duration,
    },
    /// A span of no periods.
    #[error("a span of 0 periods measures nothing: use at least 1")]
    Span,
}

/// What was admitted: the budget may be anything from the least to the greatest. Checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Envelope {
    least: Duration,
    greatest: Duration,
    initial: Duration,
    period: Duration,
    span: u32,
}

impl Envelope {
    /// Budgets from `least` to `greatest` in every `period`, with need measured over one period, beginning with the
    /// greatest.
    ///
    /// # Errors
    /// When the kernel would not take an end, or there is nothing between them.
    pub fn new(
        least: Duration,
        greatest: Duration,
        period: Duration,
    ) -> Result<Self, EnvelopeError> {
        let end = |end| move |source| EnvelopeError::End { end, source };
        let at_most = Reservation::new(greatest, period).map_err(end("greatest"))?;
        Reservation::new(least, period).map_err(end("least"))?;
        if least > greatest {
            return Err(EnvelopeError::Empty { least, greatest });
        }
        if default_surplus(at_most).is_zero() {
            return Err(EnvelopeError::Full { greatest, period });
        }
        Ok(Self {
            least,
            greatest,
            initial: greatest,
            period,
            span: 1,
        })
    }

    /// The same, beginning with this budget.
    ///
    /// # Errors
    /// When it is outside.
    pub fn beginning_with(self, initial: Duration) -> Result<Self, EnvelopeError> {
        let Self {
            least, greatest, ..
        } = self;
        if (least..=greatest).contains(&initial) {
            return Ok(Self { initial, ..self });
        }
        Err(EnvelopeError::Outside {
            initial,
            least,
            greatest,
        })
    }

    /// The same, with need measured over this many periods: a multiple of the tasks' periods.
    ///
    /// # Errors
    /// When it is none.
    pub fn measured_over(self, span: u32) -> Result<Self, EnvelopeError> {
        if span == 0 {
            return Err(EnvelopeError::Span);
        }
        Ok(Self { span, ..self })
    }

    /// The least budget.
    pub fn least(&self) -> Duration {
        self.least
    }

    /// The greatest budget: what is admitted.
    pub fn greatest(&self) -> Duration {
        self.greatest
    }

    /// The first budget.
    pub fn initial(&self) -> Duration {
        self.initial
    }

    /// P.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// How many periods need is measured over.
    pub fn span(&self) -> u32 {
        self.span
    }

    /// Whether a budget is inside.
    pub fn contains(&self, budget: Duration) -> bool {
        (self.least..=self.greatest).contains(&budget)
    }
}

/// What is known of a feedback reservation at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The least budget.
    pub least: Duration,
    /// The greatest budget, which is admitted.
    pub greatest: Duration,
    /// The budget now.
    pub budget: Duration,
    /// Times it was changed.
    pub changes: u64,
    /// Times the kernel refused a change: something that is in no ledger has the bandwidth.
    pub refused: u64,
}

/// What a vCPU has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// CPU time consumed since some beginning.
    pub consumed: Duration,
    /// The time since some beginning.
    pub now: Duration,
}

/// The law. Pure: time and consumption are arguments.
#[derive(Clone, Debug)]
pub struct Controller {
    envelope: Envelope,
    budget: u64,
    needs: [u64; WINDOW],
    /// Measurements so far.
    measured: usize,
    /// Budgets that ran out since the vCPU was last asleep.
    in_a_row: u32,
    /// Where the measurement in progress began.
    since: Observation,
}

impl Controller {
    /// A controller that begins with the envelope's first budget, and to measure at `now`.
    pub fn new(envelope: Envelope, now: Observation) -> Self {
        Self {
            budget: nanos(envelope.initial),
            envelope,
            needs: [0; WINDOW],
            measured: 0,
            in_a_row: 0,
            since: now,
        }
    }

    /// The envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The budget from the next period on.
    pub fn budget(&self) -> Duration {
        Duration::from_nanos(self.budget)
    }

    /// Begins to measure anew, after time that does not count.
    pub fn restart(&mut self, now: Observation) {
        self.since = now;
        self.in_a_row = 0;
    }

    /// The budget is this one still: the kernel refused the change.
    pub fn keep(&mut self, budget: Duration) {
        self.set(nanos(budget));
    }

    /// A budget ran out while the vCPU wanted more. Whether the budget changes.
    pub fn ran_out(&mut self, now: Observation) -> bool {
        self.in_a_row = self.in_a_row.saturating_add(1);
        if self.in_a_row < self.envelope.span {
            return false;
        }
        // What it consumed is not what it needs.
        self.since = now;
        self.set(self.budget.saturating_mul(RATE))
    }

    /// The vCPU was found asleep: it has all it asked for. Whether the budget changes.
    pub fn at_rest(&mut self, now: Observation) -> bool {
        self.in_a_row = 0;
        let period = nanos(self.envelope.period);
        let elapsed = nanos(now.now.saturating_sub(self.since.now));
        // To the nearest: a look comes a little late or early.
        let periods = elapsed.saturating_add(period / 2) / period;
        if periods < u64::from(self.envelope.span) {
            return false;
        }
        let consumed = nanos(now.consumed.saturating_sub(self.since.consumed));
        self.needs[self.measured % WINDOW] = consumed / periods;
        self.measured = self.measured.wrapping_add(1);
        self.since = now;
        self.follow()
    }

    /// Goes to what the measurements say.
    fn follow(&mut self) -> bool {
        let need = self.needs.iter().copied().max().unwrap_or(0);
        let wanted = need.saturating_add(need / MARGIN);
        if wanted <= self.budget && wanted >= self.budget - self.budget / DEAD_BAND {
            return false;
        }
        let (least, most) = (self.budget / RATE, self.budget.saturating_mul(RATE));
        self.set(wanted.clamp(least, most))
    }

    fn set(&mut self, wanted: u64) -> bool {
        let (least, greatest) = (nanos(self.envelope.least), nanos(self.envelope.greatest));
        let before = std::mem::replace(&mut self.budget, wanted.clamp(least, greatest));
        self.budget != before
    }
}

#[cfg(test)]
mod tests;

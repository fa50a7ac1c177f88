//! The budget that the device's thread keeps by itself.
//!
//! A kernel that ends budgets on its tick lets a busy thread overrun by up to a tick (4 ms at HZ=250) and takes that back
//! from the periods that follow: at 0.5 ms in 10 ms nothing would be carried for 80 ms. So the thread looks at its own
//! account between two stretches of work, and sleeps when its budget is used up. It does not yield: whatever period the
//! kernel counts in then, a sleep loses none of it. Pure: clocks are arguments.

use std::time::Duration;

use sched::reservation::Reservation;

/// What one budget has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    quota: Duration,
    period: Duration,
    /// When this budget began.
    began: Duration,
    /// CPU time that the thread had had by then.
    consumed: Duration,
}

impl Pace {
    /// The budget of a reservation, from `now` on. The kernel's is a little longer, as the backstop.
    pub(super) fn new(reservation: Reservation, now: Duration, consumed: Duration) -> Self {
        Self {
            quota: reservation.runtime() * 15 / 16,
            period: reservation.period(),
            began: now,
            consumed,
        }
    }

    /// Until when to sleep, if the budget is used up. What a stretch took too much is taken from the budgets that follow.
    pub(super) fn look(&mut self, now: Duration, consumed: Duration) -> Option<Duration> {
        let ended = now.saturating_sub(self.began) >= self.period;
        let used = consumed.saturating_sub(self.consumed);
        if used < self.quota {
            if ended {
                (self.began, self.consumed) = (now, consumed);
            }
            return None;
        }
        let budgets = used.as_nanos() / self.quota.as_nanos().max(1);
        let budgets = u32::try_from(budgets).unwrap_or(u32::MAX);
        let until = self.began + self.period * budgets;
        self.consumed += self.quota * budgets;
        self.began = until.max(now);
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    proptest! {
        /// A thread that works whenever it may, in stretches, gets its rate in the long run and no more than it by more
        /// than a stretch and a budget.
        #[test]
        fn a_busy_thread_gets_its_rate(stretches in prop::collection::vec(1_u64..900, 200..400)) {
            let reservation = Reservation::new(MS, 10 * MS).unwrap();
            let (mut now, mut consumed) = (Duration::ZERO, Duration::ZERO);
            let mut pace = Pace::new(reservation, now, consumed);
            for stretch in stretches {
                let stretch = Duration::from_micros(stretch);
                (now, consumed) = (now + stretch, consumed + stretch);
                if let Some(until) = pace.look(now, consumed) {
                    prop_assert!(until > now && until <= now + 20 * MS);
                    now = until;
                }
            }
            let share = consumed.as_secs_f64() / now.as_secs_f64();
            prop_assert!(share < 0.1, "{share}");
            prop_assert!(share > 0.08, "{share}");
        }

        /// One that works little is never held up.
        #[test]
        fn an_idle_thread_is_not_held_up(pauses in prop::collection::vec(1_u64..30, 1..100)) {
            let reservation = Reservation::new(MS, 10 * MS).unwrap();
            let (mut now, mut consumed) = (Duration::ZERO, Duration::ZERO);
            let mut pace = Pace::new(reservation, now, consumed);
            for pause in pauses {
                let worked = Duration::from_micros(20 * pause);
                (now, consumed) = (now + Duration::from_millis(pause), consumed + worked);
                prop_assert_eq!(pace.look(now, consumed), None);
            }
        }
    }
}

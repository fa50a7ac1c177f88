//! From budgets and jobs to figures: pure.

use std::time::Duration;

use sched::reservation::Reservation;
use serde::Serialize;

use crate::report::follow_plot::{Level, Response};

/// Periods after a step in which misses are counted apart.
pub const APART: u32 = 3;

/// A need that steps, in a server of the same period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its period, and its deadline.
    pub period: Duration,
    /// What it is in the first turn, and every other one.
    pub low: Duration,
    /// What it is in the second turn.
    pub high: Duration,
    /// The length of a turn.
    pub turn: Duration,
    /// The length of all turns.
    pub length: Duration,
}

impl Need {
    /// What is needed in every period, turn by turn.
    pub fn levels(&self) -> Vec<Level> {
        let turns = self.length.as_nanos().div_ceil(self.turn.as_nanos().max(1));
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        let level = |turn| Level {
            from: self.turn * turn,
            value: if turn % 2 == 0 { self.low } else { self.high },
        };
        (0..turns).map(level).collect()
    }

    /// Whether an instant is in the first periods after a step.
    fn is_apart(&self, at: Duration) -> bool {
        let since = at.as_nanos() % self.turn.as_nanos().max(1);
        at >= self.turn && since < (self.period * APART).as_nanos()
    }
}

/// What came of one scenario.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Followed {
    /// Mean share of the CPU needed.
    pub needed: f64,
    /// Mean share reserved.
    pub reserved: f64,
    /// Reserved over needed, less one.
    pub over: f64,
    /// The same in the turns of low need.
    pub over_low: f64,
    /// The same in the turns of high need.
    pub over_high: f64,
    /// Jobs.
    pub jobs: usize,
    /// Misses in the first periods after a step.
    pub missed_apart: usize,
    /// Misses but for these.
    pub missed: usize,
    /// Of the jobs but for those.
    pub missed_share: f64,
    /// Times the budget changed.
    pub changes: usize,
}

/// The integral of `levels` from `from` to `to`, in square seconds.
fn integral(levels: &[Level], (from, to): (Duration, Duration)) -> f64 {
    let ends = levels.iter().skip(1).map(|level| level.from);
    let ends = ends.chain([Duration::MAX]);
    let part = |(level, end): (&Level, Duration)| {
        let length = end.min(to).saturating_sub(level.from.max(from));
        level.value.as_secs_f64() * length.as_secs_f64()
    };
    levels.iter().zip(ends).map(part).sum()
}

impl Followed {
    /// From budgets and responses over the time from the first release.
    pub fn of(need: &Need, budgets: &[Level], responses: &[Response]) -> Self {
        let needs = need.levels();
        let turns: Vec<(usize, (Duration, Duration))> = needs
            .iter()
            .map(|level| (level.from, (level.from + need.turn).min(need.length)))
            .enumerate()
            .collect();
        let over = |chosen: &dyn Fn(usize) -> bool| {
            let sum = |levels: &[Level]| -> f64 {
                let turns = turns.iter().filter(|(turn, _)| chosen(*turn));
                turns.map(|(_, window)| integral(levels, *window)).sum()
            };
            sum(budgets) / sum(&needs) - 1.0
        };
        let whole = (Duration::ZERO, need.length);
        let area = need.period.as_secs_f64() * need.length.as_secs_f64();
        let missed = |apart: bool| {
            let jobs = responses
                .iter()
                .filter(|job| need.is_apart(job.at) == apart);
            let late = |job: &&Response| job.time.is_none_or(|time| time > need.period);
            (jobs.clone().count(), jobs.filter(late).count())
        };
        let (jobs, others) = missed(false);
        Self {
            needed: integral(&needs, whole) / area,
            reserved: integral(budgets, whole) / area,
            over: over(&|_| true),
            over_low: over(&|turn| turn % 2 == 0),
            over_high: over(&|turn| turn % 2 == 1),
            jobs: responses.len(),
            missed_apart: missed(true).1,
            missed: others,
            missed_share: others as f64 / jobs.max(1) as f64,
            changes: budgets.len().saturating_sub(1),
        }
    }
}

/// A fixed budget of a share of the need more than `need`.
pub fn sized_for(
    need: Duration,
    more: f64,
    period: Duration,
) -> Result<Reservation, sched::reservation::ReservationError> {
    Reservation::new(need.mul_f64(1.0 + more), period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    const NEED: Need = Need {
        period: Duration::from_millis(50),
        low: Duration::from_millis(10),
        high: Duration::from_millis(30),
        turn: Duration::from_secs(1),
        length: Duration::from_secs(4),
    };

    #[test]
    fn what_is_reserved_is_compared_with_what_is_needed_turn_by_turn() {
        let level = |from, value| Level {
            from: ms(from),
            value: ms(value),
        };
        let budgets = [
            level(0, 11),
            level(1_000, 33),
            level(2_000, 11),
            level(3_000, 36),
        ];
        let followed = Followed::of(&NEED, &budgets, &[]);
        assert!((followed.needed - 0.4).abs() < 1e-9);
        assert!((followed.over_low - 0.1).abs() < 1e-9);
        assert!((followed.over_high - 0.15).abs() < 1e-9);
        assert!((followed.over - 11.0 / 80.0).abs() < 1e-9);
        assert_eq!(followed.changes, 3);
    }

    #[test]
    fn misses_of_the_first_periods_after_a_step_are_counted_apart() {
        let job = |at, time: u64| Response {
            at: ms(at),
            time: Some(ms(time)),
        };
        let jobs = [
            job(0, 60),
            job(950, 20),
            job(1_000, 60),
            job(1_100, 60),
            job(1_150, 60),
        ];
        let followed = Followed::of(&NEED, &[], &jobs);
        assert_eq!((followed.missed_apart, followed.missed), (2, 2));
        assert!((followed.missed_share - 2.0 / 3.0).abs() < 1e-9);
    }
}

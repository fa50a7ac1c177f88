//! From migrations to figures: how far medians are off, how often bounds hold, and what the order saves.

use serde::Serialize;

pub use super::comparison::Figures;
use super::comparison::{Foretold, Migration};

/// How far predictions may be off, for guests that stay the same: total, downtime.
pub const MOST_OFF: (f64, f64) = (0.10, 0.20);
/// In which share of all migrations the bound has to hold: not in fewer, and not in more, for then it is too wide.
pub const HOLDS: (f64, f64) = (275.0 / 300.0, 294.0 / 300.0);
/// Median of bound over outcome.
pub const WIDEST: f64 = 1.5;
/// Pages sent again, against the order of addresses, where some are written more often than others.
pub const MOST_AGAIN: f64 = 0.7;

/// The middle one of some values.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// A predicted median beside the median of what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Off {
    /// As predicted, the median over the migrations.
    pub predicted: f64,
    /// As it came.
    pub came: f64,
    /// Predicted over came, less one.
    pub off: f64,
}

impl Off {
    /// Of one figure of some migrations; nothing without outcomes.
    fn of(
        migrations: &[&Migration],
        predicted: fn(&Figures<Foretold>) -> Foretold,
        came: fn(&Figures<f64>) -> f64,
    ) -> Option<Self> {
        let medians = migrations.iter().map(|m| predicted(&m.foretold).median);
        let outcomes = migrations.iter().flat_map(|m| &m.outcomes).map(came);
        let (predicted, came) = (median(medians.collect())?, median(outcomes.collect())?);
        Some(Self {
            predicted,
            came,
            off: predicted / came.max(f64::MIN_POSITIVE) - 1.0,
        })
    }
}

/// All figures of a guest's migrations at one rate.
pub fn off(migrations: &[&Migration]) -> Option<Figures<Off>> {
    Some(Figures {
        total_s: Off::of(migrations, |f| f.total_s, |f| f.total_s)?,
        downtime_ms: Off::of(migrations, |f| f.downtime_ms, |f| f.downtime_ms)?,
        mebibytes: Off::of(migrations, |f| f.mebibytes, |f| f.mebibytes)?,
    })
}

/// How a bound did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Coverage {
    /// Migrations, each with one luck.
    pub migrations: usize,
    /// Of these, with an outcome within the bound.
    pub held: usize,
    /// Median of bound over outcome.
    pub width: f64,
}

impl Coverage {
    fn of(
        migrations: &[&Migration],
        predicted: fn(&Figures<Foretold>) -> Foretold,
        came: fn(&Figures<f64>) -> f64,
    ) -> Option<Self> {
        let ratio = |migration: &&Migration| {
            let outcome = came(migration.outcomes.first()?);
            Some(predicted(&migration.foretold).bound / outcome.max(f64::MIN_POSITIVE))
        };
        let ratios: Vec<f64> = migrations.iter().filter_map(ratio).collect();
        Some(Self {
            migrations: ratios.len(),
            held: ratios.iter().filter(|ratio| **ratio >= 1.0).count(),
            width: median(ratios)?,
        })
    }

    /// Whether it held as often as it should, and is no wider than it may.
    pub fn is_right(&self) -> bool {
        let share = self.held as f64 / self.migrations.max(1) as f64;
        (HOLDS.0..=HOLDS.1).contains(&share) && self.width <= WIDEST
    }
}

/// How the bounds of some migrations did.
pub fn coverage(migrations: &[&Migration]) -> Option<Figures<Coverage>> {
    Some(Figures {
        total_s: Coverage::of(migrations, |f| f.total_s, |f| f.total_s)?,
        downtime_ms: Coverage::of(migrations, |f| f.downtime_ms, |f| f.downtime_ms)?,
        mebibytes: Coverage::of(migrations, |f| f.mebibytes, |f| f.mebibytes)?,
    })
}

/// What the order of the model saves.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Order {
    /// Pages sent more than once, by the model's order.
    pub again: u64,
    /// By the order of addresses.
    pub by_address: u64,
}

impl Order {
    /// Over some migrations.
    pub fn of(migrations: &[&Migration]) -> Self {
        Self {
            again: migrations.iter().map(|m| m.again).sum(),
            by_address: migrations.iter().map(|m| m.again_by_address).sum(),
        }
    }

    /// The first over the second; nothing where nothing was sent again.
    pub fn ratio(&self) -> Option<f64> {
        (self.by_address > 0).then(|| self.again as f64 / self.by_address as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn migration((median, bound): (f64, f64), outcomes: &[f64], again: (u64, u64)) -> Migration {
        let foretold = Foretold { median, bound };
        Migration {
            rate: 0,
            foretold: Figures {
                total_s: foretold,
                downtime_ms: foretold,
                mebibytes: foretold,
            },
            outcomes: outcomes
                .iter()
                .map(|&value| Figures {
                    total_s: value,
                    downtime_ms: 2.0 * value,
                    mebibytes: value,
                })
                .collect(),
            rounds: 1,
            again: again.0,
            again_by_address: again.1,
        }
    }

    #[test]
    fn medians_of_predictions_stand_beside_medians_of_all_outcomes() {
        let all = [
            migration((1.0, 2.0), &[1.0, 1.25], (30, 50)),
            migration((1.0, 2.0), &[1.25, 9.0], (10, 50)),
        ];
        let all: Vec<&Migration> = all.iter().collect();
        let off = off(&all).unwrap();
        assert!((off.total_s.off + 0.2).abs() < 1e-9);
        assert!((off.downtime_ms.came - 2.5).abs() < 1e-9);
        assert_eq!(Order::of(&all).ratio(), Some(0.4));
    }

    #[test]
    fn a_bound_is_held_against_one_outcome_of_each_migration() {
        let all: Vec<Migration> = (0..100)
            .map(|n| migration((1.0, if n < 5 { 0.9 } else { 1.2 }), &[1.0, 7.0], (0, 0)))
            .collect();
        let all: Vec<&Migration> = all.iter().collect();
        let coverage = coverage(&all).unwrap();
        assert_eq!(
            (coverage.total_s.held, coverage.total_s.migrations),
            (95, 100)
        );
        assert!(coverage.total_s.is_right());
        assert_eq!(coverage.downtime_ms.held, 0);
        assert!(!coverage.downtime_ms.is_right());
        assert_eq!(Order::of(&all).ratio(), None);
    }

    #[test]
    fn a_bound_that_always_holds_or_is_too_wide_is_not_right() {
        let of = |held, width| Coverage {
            migrations: 300,
            held,
            width,
        };
        assert!(of(275, 1.5).is_right() && of(294, 1.1).is_right());
        assert!(!of(274, 1.1).is_right() && !of(295, 1.1).is_right() && !of(285, 1.6).is_right());
    }

    #[test]
    fn without_outcomes_there_are_no_figures() {
        let cut_off = migration((1.0, 2.0), &[], (0, 0));
        assert_eq!(off(&[&cut_off]), None);
        assert_eq!(coverage(&[&cut_off]), None);
    }
}

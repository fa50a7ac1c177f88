//! The multiprocessor periodic resource model: what several virtual processors supply together.

use std::time::Duration;

use super::supply::SupplyBound;
use crate::reservation::nanos;

/// A budget in every period, by at most `vcpus` virtual processors at a time (Shin, Easwaran and Lee, "Hierarchical
/// scheduling framework for virtual clustering of multiprocessors", ECRTS 2008).
///
/// As in the model for one processor, the interval begins just after the first budget came as early as possible, on
/// all virtual processors at once, and all others come as late as possible. The published bound counts whole time
/// units, in which the last unit of a budget may occupy fewer processors; this one is its limit for small units, and
/// nowhere above it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Multiprocessor {
    /// Theta: CPU time of all virtual processors together; more than all of them in a whole period counts as that.
    pub budget: Duration,
    /// Pi.
    pub period: Duration,
    /// m': virtual processors.
    pub vcpus: u32,
}

/// The same in nanoseconds of CPU time: a length counts for all virtual processors.
struct Parallel {
    blackout: u128,
    budget: u128,
    period: u128,
    vcpus: u128,
}

impl Multiprocessor {
    fn parallel(&self) -> Parallel {
        let vcpus = u128::from(self.vcpus.max(1));
        let period = u128::from(nanos(self.period).max(1)) * vcpus;
        let budget = u128::from(nanos(self.budget)).min(period);
        Parallel {
            blackout: 2 * (period - budget),
            budget,
            period,
            vcpus,
        }
    }
}

fn time(nanos: u128) -> Option<Duration> {
    u64::try_from(nanos).ok().map(Duration::from_nanos)
}

impl SupplyBound for Multiprocessor {
    fn name(&self) -> String {
        "multiprocessor periodic resource model (Shin, Easwaran and Lee 2008)".to_owned()
    }

    fn bound(&self, length: Duration) -> Duration {
        let all = self.parallel();
        let after = (u128::from(nanos(length)) * all.vcpus).saturating_sub(all.blackout);
        let (periods, into) = (after / all.period, after % all.period);
        time(periods * all.budget + into.min(all.budget)).unwrap_or(Duration::MAX)
    }

    fn inverse(&self, demand: Duration) -> Option<Duration> {
        let all = self.parallel();
        let demand = u128::from(nanos(demand));
        let Some(before) = demand.checked_sub(1) else {
            return Some(Duration::ZERO);
        };
        let periods = before.checked_div(all.budget)?;
        let after = periods * all.period + (demand - periods * all.budget);
        time((after + all.blackout).div_ceil(all.vcpus))
    }

    fn rate(&self) -> (Duration, Duration) {
        let all = self.parallel();
        let budget = time(all.budget).unwrap_or(Duration::MAX);
        (budget, Duration::from_nanos(nanos(self.period).max(1)))
    }

    fn lag(&self) -> Duration {
        let all = self.parallel();
        time(all.blackout.div_ceil(all.vcpus)).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::supply::Supply;
    use super::*;
    use proptest::prelude::*;

    fn ns(value: u64) -> Duration {
        Duration::from_nanos(value)
    }

    /// Every way to spread a budget over the time units of a period, at most `vcpus` in each.
    fn spreads(period: u64, budget: u64, vcpus: u64) -> Vec<Vec<u64>> {
        if period == 0 {
            return if budget == 0 { vec![vec![]] } else { vec![] };
        }
        let with_first = |first: u64| {
            let rest = spreads(period - 1, budget - first, vcpus);
            rest.into_iter()
                .map(move |rest| [vec![first], rest].concat())
        };
        (0..=vcpus.min(budget)).flat_map(with_first).collect()
    }

    /// The least supply in any interval of this length, over every spread of every budget.
    fn by_enumeration(period: u64, budget: u64, vcpus: u64, length: u64) -> u64 {
        let spreads = spreads(period, budget, vcpus);
        let in_period = |from: u64, to: u64| {
            let units = |spread: &Vec<u64>| {
                let inside = spread
                    .iter()
                    .zip(0..)
                    .filter(|(_, t)| (from..to).contains(t));
                inside.map(|(units, _)| units).sum::<u64>()
            };
            spreads.iter().map(units).min().unwrap_or(0)
        };
        let from_phase = |phase: u64| {
            let end = phase + length;
            let part = |n: u64| {
                let from = phase.saturating_sub(n * period);
                in_period(from, end.saturating_sub(n * period).min(period))
            };
            (0..=end / period).map(part).sum::<u64>()
        };
        (0..period).map(from_phase).min().unwrap_or(0)
    }

    #[test]
    fn with_one_virtual_processor_it_is_the_periodic_resource_model() {
        let several = Multiprocessor {
            budget: ns(3),
            period: ns(5),
            vcpus: 1,
        };
        let one = Supply::worst_case(ns(3), ns(5));
        for t in (0..40).map(ns) {
            assert_eq!(several.bound(t), one.bound(t));
            assert_eq!(several.inverse(t), one.inverse(t));
        }
        assert_eq!(several.lag(), one.lag());
    }

    proptest! {
        #[test]
        fn the_bound_is_the_least_over_all_spreads_of_the_budget(
            period in 1u64..5, vcpus in 1u64..4, budget in 0u64..12, length in 0u64..20,
        ) {
            let budget = budget.min(vcpus * period);
            let model = Multiprocessor { budget: ns(budget), period: ns(period), vcpus: u32::try_from(vcpus).unwrap() };
            let least = by_enumeration(period, budget, vcpus, length);
            let bound = nanos(model.bound(ns(length)));
            prop_assert!(bound <= least, "{bound} {least}");
            // A budget that fills its time units leaves no rounding.
            if budget.is_multiple_of(vcpus) {
                prop_assert_eq!(bound, least);
            }
        }

        #[test]
        fn the_inverse_is_the_least_length_that_supplies_as_much(
            period in 1u64..9, vcpus in 1u64..5, budget in 1u64..30, demand in 0u64..60,
        ) {
            let model = Multiprocessor { budget: ns(budget), period: ns(period), vcpus: u32::try_from(vcpus).unwrap() };
            let least = (0..2_000).find(|t| model.bound(ns(*t)) >= ns(demand));
            prop_assert_eq!(model.inverse(ns(demand)), least.map(ns));
        }
    }
}

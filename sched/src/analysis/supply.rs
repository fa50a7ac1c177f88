//! Supply bound functions of one virtual processor: how much CPU time it gets at least in an interval of some length.
//!
//! Every server here supplies a staircase: nothing during a blackout, then a budget at full speed in every period. What
//! differs is the length of the blackout. It depends on two things that are kept apart: where in its period a release
//! finds the server ([`Phase`]), and where in its period the budget comes ([`Supply::latest`]).

use std::time::Duration;

use crate::reservation::nanos;

/// A lower bound on what is supplied.
pub trait SupplyBound {
    /// Its name in reports, with its source.
    fn name(&self) -> String;

    /// The least CPU time in an interval of this length. Does not fall as the length grows.
    fn bound(&self, length: Duration) -> Duration;

    /// The least length in which at least `demand` is supplied; nothing if none is long enough.
    fn inverse(&self, demand: Duration) -> Option<Duration>;

    /// What is supplied in the long run: a budget, and the time in which it comes. The bound is nowhere more than one
    /// such budget ahead of it.
    fn rate(&self) -> (Duration, Duration);

    /// How far the bound falls behind that rate, as a length: in any length t comes no less than the rate gives in
    /// t - lag.
    fn lag(&self) -> Duration;
}

/// Where a release finds the server's period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// At its beginning. So it is for a guest that sleeps when it has nothing to do: the wake-up rule of a constant
    /// bandwidth server starts a new period with a full budget (Documentation/scheduler/sched-deadline.rst, section
    /// 2.2), as long as the tasks' periods and offsets are multiples of the server's and there is no jitter.
    Aligned,
    /// Anywhere. So it is for a guest that never sleeps: its server's periods follow one another whatever is released.
    Any,
}

/// A server that supplies `budget` in every `period`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supply {
    /// Q; more than the period counts as the period.
    pub budget: Duration,
    /// P.
    pub period: Duration,
    /// When the budget of a period has been supplied at the latest, counted from the period's beginning: Q if nothing
    /// else runs before this server, P in the periodic resource model. Counts as at least Q and at most P.
    pub latest: Duration,
    /// Where a release finds the server.
    pub phase: Phase,
}

impl Supply {
    /// The periodic resource model: the first budget as early, all others as late as possible (Shin and Lee, RTSS 2003).
    pub fn worst_case(budget: Duration, period: Duration) -> Self {
        Self::explicit_deadline(budget, period, period)
    }

    /// The explicit-deadline periodic resource model: the budget of a period has been supplied when `deadline` of it is
    /// over (Easwaran, Anand and Lee, RTSS 2007).
    pub fn explicit_deadline(budget: Duration, period: Duration, deadline: Duration) -> Self {
        Self {
            budget,
            period,
            latest: deadline,
            phase: Phase::Any,
        }
    }

    /// A server whose period begins with the release. Where in its periods the budget comes makes no difference at the
    /// end of a period.
    pub fn aligned(budget: Duration, period: Duration) -> Self {
        Self {
            phase: Phase::Aligned,
            ..Self::worst_case(budget, period)
        }
    }

    /// A processor that serves nothing else.
    pub fn whole_processor() -> Self {
        let any = Duration::from_millis(1);
        Self::worst_case(any, any)
    }
}

impl Stairs for Supply {
    fn title(&self) -> String {
        let name = match self.phase {
            _ if self.budget >= self.period => "whole processor",
            Phase::Aligned => "server whose periods begin with releases",
            Phase::Any if self.latest >= self.period => {
                "periodic resource model (Shin and Lee 2003)"
            }
            Phase::Any => {
                "explicit-deadline periodic resource model (Easwaran, Anand and Lee 2007)"
            }
        };
        name.to_owned()
    }

    fn staircase(&self) -> Staircase {
        let period = nanos(self.period).max(1);
        let budget = nanos(self.budget).min(period);
        let latest = nanos(self.latest).clamp(budget, period);
        let before_first = match self.phase {
            Phase::Aligned => 0,
            // The interval begins just after a budget that came first in its period.
            Phase::Any => period - budget,
        };
        Staircase {
            blackout: before_first + (latest - budget),
            budget,
            period,
        }
    }
}

/// What supplies a staircase.
pub(super) trait Stairs {
    /// The name of the bound.
    fn title(&self) -> String;

    /// The bound.
    fn staircase(&self) -> Staircase;
}

impl<S: Stairs> SupplyBound for S {
    fn name(&self) -> String {
        self.title()
    }

    fn bound(&self, length: Duration) -> Duration {
        self.staircase().bound(length)
    }

    fn inverse(&self, demand: Duration) -> Option<Duration> {
        self.staircase().inverse(demand)
    }

    fn rate(&self) -> (Duration, Duration) {
        self.staircase().rate()
    }

    fn lag(&self) -> Duration {
        Duration::from_nanos(self.staircase().blackout)
    }
}

/// Nothing during the blackout, then a budget at full speed at the beginning of every period.
pub(super) struct Staircase {
    pub blackout: u64,
    pub budget: u64,
    pub period: u64,
}

impl Staircase {
    pub fn bound(&self, length: Duration) -> Duration {
        let after = nanos(length).saturating_sub(self.blackout);
        let (periods, into) = (after / self.period, after % self.period);
        Duration::from_nanos(periods * self.budget + into.min(self.budget))
    }

    pub fn inverse(&self, demand: Duration) -> Option<Duration> {
        let Some(before) = nanos(demand).checked_sub(1) else {
            return Some(Duration::ZERO);
        };
        let periods = before.checked_div(self.budget)?;
        let rest = nanos(demand) - periods * self.budget;
        let length = periods
            .checked_mul(self.period)?
            .checked_add(self.blackout)?;
        length.checked_add(rest).map(Duration::from_nanos)
    }

    pub fn rate(&self) -> (Duration, Duration) {
        (
            Duration::from_nanos(self.budget),
            Duration::from_nanos(self.period),
        )
    }
}

/// The greatest straight line below a supply bound: its rate, after its lag. For the periodic resource model
/// Q/P (t - 2 (P - Q)), the linear lower bound of Shin and Lee, RTSS 2003.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Linear<S>(pub S);

impl<S: SupplyBound> SupplyBound for Linear<S> {
    fn name(&self) -> String {
        format!("linear lower bound of the {}", self.0.name())
    }

    fn bound(&self, length: Duration) -> Duration {
        let (budget, period) = self.0.rate();
        let after = length.saturating_sub(self.0.lag());
        let supplied = after.as_nanos() * budget.as_nanos() / period.as_nanos().max(1);
        Duration::from_nanos(u64::try_from(supplied).unwrap_or(u64::MAX))
    }

    fn inverse(&self, demand: Duration) -> Option<Duration> {
        if demand.is_zero() {
            return Some(Duration::ZERO);
        }
        let (budget, period) = self.0.rate();
        if budget.is_zero() {
            return None;
        }
        let after = (demand.as_nanos() * period.as_nanos()).div_ceil(budget.as_nanos());
        let after = u64::try_from(after).ok()?;
        self.0.lag().checked_add(Duration::from_nanos(after))
    }

    fn rate(&self) -> (Duration, Duration) {
        self.0.rate()
    }

    /// A nanosecond more for the rounding down of what is supplied, at this rate.
    fn lag(&self) -> Duration {
        let (budget, period) = self.0.rate();
        let rounding = period.as_nanos().div_ceil(budget.as_nanos().max(1));
        self.0.lag() + Duration::from_nanos(u64::try_from(rounding).unwrap_or(u64::MAX))
    }
}

/// Servers in whole units and what they supply, place by place.
#[cfg(test)]
pub(super) mod model {
    use super::*;
    use proptest::prelude::*;

    fn ns(value: u64) -> Duration {
        Duration::from_nanos(value)
    }

    /// Units in [phase, phase + length), least over every placement of the budgets within `latest`. A period's budget is
    /// contiguous: its units inside are then least at one of the two ends.
    pub fn by_enumeration((q, p, latest): (u64, u64, u64), phase: u64, length: u64) -> u64 {
        let end = phase + length;
        let inside = |period: u64| {
            let units = |start: u64| {
                let from = period * p + start;
                let unit = |t: &u64| (phase..end).contains(t);
                (from..from + q).filter(unit).count() as u64
            };
            (0..=latest - q).map(units).min().unwrap_or(0)
        };
        (0..=end / p).map(inside).sum()
    }

    prop_compose! {
        pub fn server()(p in 1u64..10, q in 0u64..10, late in 0u64..10) -> (u64, u64, u64) {
            let q = q.min(p);
            (q, p, (q + late).min(p))
        }
    }

    pub fn supply((q, p, latest): (u64, u64, u64), phase: Phase) -> Supply {
        Supply {
            budget: ns(q),
            period: ns(p),
            latest: ns(latest),
            phase,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::model::{by_enumeration, server, supply};
    use super::*;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn ns(value: u64) -> Duration {
        Duration::from_nanos(value)
    }

    #[test]
    fn the_periodic_resource_model_is_as_published() {
        // Shin and Lee, figure 3: for (5, 3) the longest blackout is 2 (P - Q) = 4, and supply steps up by Q in P.
        let supply = Supply::worst_case(ms(3), ms(5));
        let bounds = [0, 4, 5, 7, 9, 10, 12, 14].map(|t| supply.bound(ms(t)));
        assert_eq!(bounds, [0, 0, 1, 3, 3, 4, 6, 6].map(ms));
        // Its linear bound is 3/5 (t - 4).
        let line = Linear(supply);
        assert_eq!(line.bound(ms(9)), ms(3));
        assert_eq!(line.bound(ms(6)), Duration::from_micros(1200));
    }

    #[test]
    fn an_earlier_deadline_shortens_the_blackout_by_as_much() {
        // Easwaran, Anand and Lee: the blackout is P + D - 2 Q.
        let supply = Supply::explicit_deadline(ms(3), ms(5), ms(4));
        assert_eq!(supply.inverse(ns(1)), Some(ms(3) + ns(1)));
        assert_eq!(supply.bound(ms(6)), ms(3));
    }

    #[test]
    fn every_supply_has_a_name_of_its_own() {
        let (q, p) = (ms(3), ms(5));
        let names = [
            Supply::worst_case(q, p).name(),
            Supply::explicit_deadline(q, p, ms(4)).name(),
            Supply::aligned(q, p).name(),
            Supply::whole_processor().name(),
            Linear(Supply::worst_case(q, p)).name(),
        ];
        let different: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
    }

    #[test]
    fn a_server_without_a_budget_never_supplies() {
        let supply = Supply::worst_case(ms(0), ms(5));
        assert_eq!(supply.bound(ms(1_000)), ms(0));
        assert_eq!(supply.inverse(ns(1)), None);
        assert_eq!(Linear(supply).inverse(ns(1)), None);
    }

    proptest! {
        #[test]
        fn the_bound_is_the_least_over_all_phases_and_placements(server in server(), length in 0u64..40) {
            let least = (0..server.1).map(|phase| by_enumeration(server, phase, length)).min();
            prop_assert_eq!(supply(server, Phase::Any).bound(ns(length)), ns(least.unwrap_or(0)));
            let aligned = by_enumeration(server, 0, length);
            prop_assert_eq!(supply(server, Phase::Aligned).bound(ns(length)), ns(aligned));
        }

        #[test]
        fn the_inverse_is_the_least_length_that_supplies_as_much(server in server(), demand in 0u64..40, any: bool) {
            let supply = supply(server, if any { Phase::Any } else { Phase::Aligned });
            let all: [&dyn SupplyBound; 2] = [
                &supply,
                &Linear(supply),
            ];
            for supply in all {
                let least = (0..1_000).find(|t| supply.bound(ns(*t)) >= ns(demand));
                prop_assert_eq!(supply.inverse(ns(demand)), least.map(ns), "{}", supply.name());
            }
        }

        #[test]
        fn supply_stays_between_its_line_and_one_budget_above_its_rate(server in server(), length in 0u64..80, any: bool) {
            let supply = supply(server, if any { Phase::Any } else { Phase::Aligned });
            let (q, p, _) = server;
            let bound = nanos(supply.bound(ns(length)));
            prop_assert!(nanos(Linear(supply).bound(ns(length))) <= bound);
            prop_assert!(bound * p <= q * length + q * p);
            for supply in [&supply as &dyn SupplyBound, &Linear(supply)] {
                let after = length.saturating_sub(nanos(supply.lag()));
                prop_assert!(nanos(supply.bound(ns(length))) * p >= q * after, "{}", supply.name());
            }
        }

        #[test]
        fn more_budget_never_hurts_and_a_later_budget_never_helps(
            p in 2u64..60, q in 0u64..60, late in 0u64..60, length in 0u64..300,
        ) {
            let q = q.min(p - 1);
            let latest = (q + late).min(p);
            let bound = |q, latest| supply((q, p, latest), Phase::Any).bound(ns(length));
            prop_assert!(bound(q + 1, latest.max(q + 1)) >= bound(q, latest.max(q + 1)));
            prop_assert!(bound(q, p) <= bound(q, latest));
        }
    }
}

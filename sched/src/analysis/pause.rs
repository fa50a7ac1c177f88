//! A server with a pause: what a guest gets that is stopped for a while, or moved to another host.

use std::time::Duration;

use super::supply::{Phase, Staircase, Stairs, Supply};
use crate::reservation::{human, nanos};

/// How a server goes on after a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumption {
    /// As if the time in between had not been.
    Continued,
    /// With a new period: another server, as after a migration.
    Afresh,
}

/// A server that supplies nothing for the length of one pause, wherever in the interval that is. Continued after a pause
/// of no length it is the server itself.
///
/// The least of both parts together is reached when one of them is as long as a blackout: a staircase supplies no more in
/// one interval than in two that are together as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paused {
    /// The server without the pause.
    pub supply: Supply,
    /// The length of the pause.
    pub pause: Duration,
    /// What comes after it.
    pub resumption: Resumption,
}

impl Stairs for Paused {
    fn title(&self) -> String {
        let pause = human(self.pause);
        let then = match self.resumption {
            Resumption::Continued if self.pause.is_zero() => return self.supply.title(),
            Resumption::Continued => "",
            Resumption::Afresh => " and a new period after it",
        };
        format!("{} with a pause of {pause}{then}", self.supply.title())
    }

    fn staircase(&self) -> Staircase {
        let again = match self.resumption {
            Resumption::Continued => 0,
            Resumption::Afresh => {
                let afresh = Supply {
                    phase: Phase::Aligned,
                    ..self.supply
                };
                afresh.staircase().blackout
            }
        };
        let whole = self.supply.staircase();
        Staircase {
            blackout: whole
                .blackout
                .saturating_add(nanos(self.pause))
                .saturating_add(again),
            ..whole
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::supply::SupplyBound;
    use super::super::supply::model::{by_enumeration, server, supply};
    use super::*;
    use proptest::prelude::*;

    fn ns(value: u64) -> Duration {
        Duration::from_nanos(value)
    }

    proptest! {
        #[test]
        fn the_bound_with_a_pause_is_the_least_over_all_places_of_the_pause(
            server in server(), length in 0u64..40, pause in 0u64..12, any: bool,
        ) {
            let phase = if any { Phase::Any } else { Phase::Aligned };
            let phases = if any { server.1 } else { 1 };
            let rest = length.saturating_sub(pause);
            let before = |length| (0..phases).map(|phase| by_enumeration(server, phase, length)).min().unwrap_or(0);
            let paused = |resumption| Paused { supply: supply(server, phase), pause: ns(pause), resumption };
            prop_assert_eq!(paused(Resumption::Continued).bound(ns(length)), ns(before(rest)));
            let least = (0..=rest).map(|first| before(first) + by_enumeration(server, 0, rest - first)).min();
            prop_assert_eq!(paused(Resumption::Afresh).bound(ns(length)), ns(least.unwrap_or(0)));
        }

        #[test]
        fn the_inverse_is_the_least_length_that_supplies_as_much(
            server in server(), demand in 0u64..40, pause in 0u64..12, afresh: bool,
        ) {
            let resumption = if afresh { Resumption::Afresh } else { Resumption::Continued };
            let paused = Paused { supply: supply(server, Phase::Any), pause: ns(pause), resumption };
            let least = (0..1_000).find(|t| paused.bound(ns(*t)) >= ns(demand));
            prop_assert_eq!(paused.inverse(ns(demand)), least.map(ns));
        }
    }

    #[test]
    fn both_ways_to_go_on_have_a_name() {
        let name = |resumption| {
            let supply = Supply::worst_case(ns(3), ns(5));
            let pause = ns(7);
            Paused {
                supply,
                pause,
                resumption,
            }
            .name()
        };
        assert!(name(Resumption::Continued).ends_with("with a pause of 7 ns"));
        assert!(name(Resumption::Afresh).ends_with("and a new period after it"));
    }
}

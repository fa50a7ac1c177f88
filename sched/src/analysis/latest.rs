//! How late other servers can make a server's budget: what [`Supply::latest`](super::supply::Supply::latest) takes.

use std::time::Duration;

use super::task::{SHARE_BITS, ratio};
use crate::reservation::nanos;

/// How many of the longest periods are looked at.
const LOOKED_AT: u64 = 64;

/// When the budget of a period has been supplied at the latest, counted from the period's beginning, by a server
/// (`budget`, `period`) that shares its CPU under EDF with other servers, given as (Q, P).
///
/// In an interval that ends with the server's deadline, no more work can go before it than what has both its release
/// and its deadline inside (the demand bound function of Baruah, Rosier and Howell 1990; the argument is Spuri's,
/// INRIA RR-2772). The interval begins with the server's own period or earlier. An upper bound, and never more than the
/// period while the utilisations sum up to at most one.
pub fn latest_under_edf(
    budget: Duration,
    period: Duration,
    others: &[(Duration, Duration)],
) -> Duration {
    let servers: Vec<(u64, u64)> = std::iter::once(&(budget, period))
        .chain(others)
        .map(|(q, p)| (nanos(*q), nanos(*p).max(1)))
        .collect();
    let own = nanos(period).max(1);
    let response = |length: u64| {
        let work: u64 = servers.iter().map(|(q, p)| length / p * q).sum();
        work.saturating_sub(length - own)
    };
    // The demand falls behind the length by (1 - U) of it: by the longest period after so many of them. On a CPU that is
    // fuller the worst case may come later than one can look, and the period is the bound.
    let used: u128 = servers.iter().map(|(q, p)| ratio(*q, *p).1).sum();
    if used > (u128::from(LOOKED_AT - 1) << SHARE_BITS) / u128::from(LOOKED_AT) {
        return period;
    }
    let longest = servers.iter().map(|(_, p)| *p).max().unwrap_or(own);
    let longest = longest.saturating_mul(LOOKED_AT);
    let multiples = |p: u64| (own.div_ceil(p)..=longest / p).map(move |n| n * p);
    let worst = servers
        .iter()
        .flat_map(|(_, p)| multiples(*p))
        .map(response)
        .max()
        .unwrap_or(own);
    Duration::from_nanos(worst).clamp(budget.min(period), period)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_neighbour_with_a_shorter_period_delays_a_budget_by_its_own_at_most_once() {
        let neighbours = [(ms(12), ms(47))];
        assert_eq!(latest_under_edf(ms(30), ms(50), &neighbours), ms(42));
        assert_eq!(latest_under_edf(ms(30), ms(50), &[]), ms(30));
        assert_eq!(
            latest_under_edf(ms(30), ms(50), &[(ms(40), ms(100))]),
            ms(50)
        );
    }

    #[test]
    fn on_a_cpu_that_is_all_but_full_the_budget_may_come_as_late_as_the_period() {
        // The worst interval is near the least common multiple, 997 of the longest period.
        let (own, other) = (
            (ms(500), ms(1_000)),
            (Duration::from_micros(498_499), ms(997)),
        );
        assert_eq!(latest_under_edf(own.0, own.1, &[other]), own.1);
    }

    proptest! {
        #[test]
        fn no_budget_comes_later_under_edf_than_the_bound(
            q in 1u64..6, p in 6u64..14, other in 1u64..6, period in 6u64..14, offset in 0u64..14,
        ) {
            prop_assume!(q * period + other * p <= p * period);
            let us = Duration::from_micros;
            let latest = latest_under_edf(us(q), us(p), &[(us(other), us(period))]);
            let ([mut own, mut theirs], mut worst) = ([0u64; 2], 0);
            for t in 0..p * period * 2 {
                own += if t % p == 0 { q } else { 0 };
                theirs += if t >= offset && (t - offset) % period == 0 { other } else { 0 };
                let (mine, yours) = (t / p * p + p, t.checked_sub(offset).map_or(0, |s| s / period * period + period + offset));
                if own > 0 && (theirs == 0 || mine < yours) {
                    own -= 1;
                    worst = worst.max(t % p + 1);
                } else {
                    theirs = theirs.saturating_sub(1);
                }
            }
            prop_assert!(us(worst) <= latest, "{worst} us after {latest:?}");
        }
    }
}

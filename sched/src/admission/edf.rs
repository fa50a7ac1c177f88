//! The processor demand criterion on one CPU, which is exact for EDF: in no interval may what is released and due in it
//! be more than the CPU supplies (Baruah, Rosier and Howell, Real-Time Systems 2, 1990).
//!
//! The instants are visited from the last one backwards, and most are skipped (QPA: Zhang and Burns, IEEE Transactions on
//! Computers 58, 2009). What others take evenly (the fair server, threads that nobody entered) makes the CPU slower.

use std::time::Duration;

use super::{Bandwidth, Server};
use crate::reservation::nanos;

/// Shares are added in units of 2^-60 of a CPU, each rounded up.
const RATE_SHIFT: u32 = 60;

/// Instants visited before the test gives up. A demand within the kernel's limit needs a few dozen.
const MOST_STEPS: u32 = 10_000;

/// Q with its surplus, D and P in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Times {
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Where a set of servers fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overload {
    /// More is due in an interval of this length than is supplied.
    At { length: u64, demand: u128 },
    /// Not decided down to this length.
    Undecided { length: u64 },
}

impl Times {
    pub(super) fn of(server: &Server) -> Self {
        Self {
            runtime: nanos(server.demanded()),
            deadline: nanos(server.deadline()),
            period: nanos(server.reservation().period()).max(1),
        }
    }

    /// Q / P in units of 2^-60.
    pub(super) fn rate(self) -> u128 {
        (u128::from(self.runtime) << RATE_SHIFT).div_ceil(u128::from(self.period))
    }

    /// The demand bound function.
    pub(super) fn demand(self, length: u64) -> u128 {
        let Some(after_first) = length.checked_sub(self.deadline) else {
            return 0;
        };
        u128::from(after_first / self.period + 1) * u128::from(self.runtime)
    }

    /// The last deadline before `length`, of a server that is released at 0.
    fn last_deadline(self, length: u64) -> Option<u64> {
        let room = length.checked_sub(1)?.checked_sub(self.deadline)?;
        Some(self.deadline + room / self.period * self.period)
    }
}

/// What a CPU can supply, in the units of [`Times::rate`].
pub(super) fn full_rate(capacity: Bandwidth) -> u128 {
    u128::from(capacity.units()) << (RATE_SHIFT - Bandwidth::SHIFT)
}

/// Whether servers with a total rate within that of `capacity` meet all deadlines.
pub(super) fn check(servers: &[Times], capacity: Bandwidth) -> Result<(), Overload> {
    let first = servers.iter().map(|server| server.deadline).min();
    let horizon = horizon(servers, capacity)?;
    let last = last_deadline(servers, horizon.saturating_add(1));
    let (Some(first), Some(mut length)) = (first, last) else {
        return Ok(());
    };
    for _ in 0..MOST_STEPS {
        let demand: u128 = servers.iter().map(|server| server.demand(length)).sum();
        let served = time_for(demand, capacity);
        if served > length {
            return Err(Overload::At { length, demand });
        }
        // Down to `served` the demand is no greater, and so in time.
        if served <= first {
            return Ok(());
        }
        let next = if served < length {
            Some(served)
        } else {
            last_deadline(servers, length)
        };
        match next {
            Some(next) => length = next,
            None => return Ok(()),
        }
    }
    Err(Overload::Undecided { length })
}

fn last_deadline(servers: &[Times], before: u64) -> Option<u64> {
    let deadlines = servers
        .iter()
        .filter_map(|server| server.last_deadline(before));
    deadlines.max()
}

/// Whether an interval in which `demand` is due is too short for it.
pub(super) fn overloads(demand: u128, capacity: Bandwidth, length: u64) -> bool {
    time_for(demand, capacity) > length
}

/// How long the CPU takes for `demand`.
fn time_for(demand: u128, capacity: Bandwidth) -> u64 {
    let speed = u128::from(capacity.units());
    if speed == 0 {
        return u64::MAX;
    }
    // Up to some hours of demand, a division that the processor has.
    if let Ok(demand) = u64::try_from(demand)
        && demand <= u64::MAX >> Bandwidth::SHIFT
    {
        return (demand << Bandwidth::SHIFT).div_ceil(capacity.units());
    }
    u64::try_from((demand << Bandwidth::SHIFT).div_ceil(speed)).unwrap_or(u64::MAX)
}

/// The length beyond which no interval can fail: the lesser of the first busy period and of
/// sum((P - D) Q / P) / (capacity - sum(Q / P)).
fn horizon(servers: &[Times], capacity: Bandwidth) -> Result<u64, Overload> {
    let rate: u128 = servers.iter().map(|server| server.rate()).sum();
    let slack = |server: &Times| u128::from(server.period - server.deadline) * server.rate();
    let slack: u128 = servers.iter().map(slack).sum();
    let spare = full_rate(capacity).saturating_sub(rate);
    let linear = slack.checked_div(spare);
    let linear = linear.map(|length| u64::try_from(length + 1).unwrap_or(u64::MAX));
    let released = servers.iter().map(|server| u128::from(server.runtime));
    let mut busy = time_for(released.sum(), capacity);
    for _ in 0..MOST_STEPS {
        if let Some(linear) = linear
            && busy >= linear
        {
            return Ok(linear);
        }
        let releases =
            |server: &Times| u128::from(busy.div_ceil(server.period)) * u128::from(server.runtime);
        let next = time_for(servers.iter().map(releases).sum(), capacity);
        if next == busy {
            return Ok(busy);
        }
        busy = next;
    }
    linear.ok_or(Overload::Undecided { length: busy })
}

impl Overload {
    /// The interval, as a duration.
    pub(super) fn length(self) -> Duration {
        let (Self::At { length, .. } | Self::Undecided { length }) = self;
        Duration::from_nanos(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(sets: &[(u64, u64, u64)]) -> Vec<Times> {
        let server = |&(runtime, deadline, period)| Times {
            runtime,
            deadline,
            period,
        };
        sets.iter().map(server).collect()
    }

    #[test]
    fn the_witness_is_an_interval_whose_demand_exceeds_it() {
        let servers = times(&[(2, 3, 6), (2, 3, 6)]);
        let overload = check(&servers, Bandwidth::ONE).unwrap_err();
        assert_eq!(
            overload,
            Overload::At {
                length: 3,
                demand: 4
            }
        );
    }

    #[test]
    fn a_cpu_may_be_filled_to_the_last_unit() {
        assert_eq!(
            check(&times(&[(1, 2, 2), (1, 3, 3), (1, 6, 6)]), Bandwidth::ONE),
            Ok(())
        );
        assert_eq!(
            check(&times(&[(1, 1, 2), (1, 2, 2)]), Bandwidth::ONE),
            Ok(())
        );
    }

    #[test]
    fn a_cpu_that_supplies_nothing_carries_nothing() {
        assert!(check(&times(&[(1, 2, 2)]), Bandwidth::ZERO).is_err());
        assert_eq!(check(&[], Bandwidth::ZERO), Ok(()));
    }
}

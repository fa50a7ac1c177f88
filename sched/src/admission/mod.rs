//! Admission tests for CPU reservations: pure functions, in the kernel's own arithmetic.
//!
//! A CPU partition is one processor under EDF, where utilisation up to the limit is exact (Liu and Layland 1973). Over m
//! processors of one root domain, global EDF keeps deadlines if U <= m - (m - 1) u_max (Goossens, Funk and Baruah,
//! Real-Time Systems 25, 2003); the kernel itself only bounds U, which bounds tardiness but promises no (Q, P).
//!
//! Which partition a reservation gets is decided by a [`Packing`]; with deadlines before the ends of periods each CPU
//! passes the processor demand criterion too. What is refused is told what would fit ([`Offers`]).

mod edf;
mod offers;
mod packing;
mod server;

use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::request::VcpuRequest;
use crate::reservation::{Reservation, nanos};

pub use offers::{Move, Offers};
pub use packing::{Fit, Id, Packing, Policy, Refused, Shortage, UnknownFit, Wanted};
pub use server::Server;

/// A share of one CPU in units of 2^-20, the kernel's (`BW_SHIFT`, `to_ratio` in kernel/sched/core.c).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bandwidth(u64);

impl Bandwidth {
    const SHIFT: u32 = 20;

    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole CPU.
    pub const ONE: Self = Self(1 << Self::SHIFT);

    /// `runtime / period`, rounded down as the kernel does.
    pub fn ratio(runtime: Duration, period: Duration) -> Self {
        let scaled = u128::from(nanos(runtime)) << Self::SHIFT;
        let ratio = scaled.checked_div(u128::from(nanos(period))).unwrap_or(0);
        Self(u64::try_from(ratio).unwrap_or(u64::MAX))
    }

    /// As a fraction of one CPU.
    pub fn as_f64(self) -> f64 {
        self.0 as f64 / Self::ONE.0 as f64
    }

    /// This share of each of `count` CPUs.
    pub fn times(self, count: u32) -> Self {
        Self(self.0.saturating_mul(u64::from(count)))
    }

    /// In units of 2^-20 of a CPU.
    fn units(self) -> u64 {
        self.0
    }

    /// The runtime that this share of `period` is, rounded down.
    pub fn of(self, period: Duration) -> Duration {
        let scaled = (u128::from(self.0) * u128::from(nanos(period))) >> Self::SHIFT;
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

impl Add for Bandwidth {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Saturates at zero.
impl Sub for Bandwidth {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl Sum for Bandwidth {
    fn sum<I: Iterator<Item = Self>>(shares: I) -> Self {
        shares.fold(Self::ZERO, Self::add)
    }
}

impl fmt::Display for Bandwidth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.2} %", self.as_f64() * 100.0)
    }
}

/// What a request takes from its CPU: (Q + surplus) / P; nothing without a reservation.
pub fn demand(request: &VcpuRequest) -> Bandwidth {
    request.reservation.map_or(Bandwidth::ZERO, |reservation| {
        Bandwidth::ratio(
            reservation.runtime() + request.surplus(),
            reservation.period(),
        )
    })
}

/// What a request takes of its CPU while its deadline is near: (Q + surplus) / D; nothing without a reservation.
pub fn density(request: &VcpuRequest) -> Bandwidth {
    request.reservation.map_or(Bandwidth::ZERO, |reservation| {
        Bandwidth::ratio(
            reservation.runtime() + request.surplus(),
            reservation.deadline(),
        )
    })
}

/// What one kernel lets SCHED_DEADLINE have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// `sched_rt_runtime_us / sched_rt_period_us`, of each CPU; one whole CPU where it is switched off (-1).
    pub realtime: Bandwidth,
    /// The fair server's share of each CPU (Linux 6.12 and later): a deadline server that keeps SCHED_OTHER alive.
    pub fair_server: Bandwidth,
}

impl Limits {
    /// The kernel's defaults since 6.12: 95 % less 5 %.
    pub fn modern() -> Self {
        let ms = Duration::from_millis;
        Self {
            realtime: Bandwidth::ratio(ms(950), ms(1000)),
            fair_server: Bandwidth::ratio(ms(50), ms(1000)),
        }
    }

    /// What reservations may have of each CPU.
    pub fn per_cpu(self) -> Bandwidth {
        self.realtime - self.fair_server
    }
}

/// One CPU partition: whether `wanted` fits beside `taken`.
///
/// # Errors
/// What is left of the CPU.
pub fn partitioned(limits: Limits, taken: Bandwidth, wanted: Bandwidth) -> Result<(), Bandwidth> {
    let left = limits.per_cpu() - taken;
    if wanted > left { Err(left) } else { Ok(()) }
}

/// Global EDF over `cpus` processors: whether `wanted` fits beside `taken`, both lists of single tasks' densities.
///
/// With deadlines before the ends of periods the bound holds for densities in place of utilisations (Bertogna, Cirinei
/// and Lipari, Improved schedulability analysis of EDF on multiprocessor platforms, ECRTS 2005). The fair servers are tasks of the same scheduler and count as such.
///
/// # Errors
/// What is left for one task of the size of the largest wanted.
pub fn global(
    limits: Limits,
    cpus: u32,
    taken: &[Bandwidth],
    wanted: &[Bandwidth],
) -> Result<(), Bandwidth> {
    let tasks = || taken.iter().chain(wanted).copied();
    let largest = tasks().max().unwrap_or_default();
    let gfb = Bandwidth::ONE.times(cpus) - largest.times(cpus.saturating_sub(1));
    let bound = gfb.min(limits.realtime.times(cpus)) - limits.fair_server.times(cpus);
    if tasks().sum::<Bandwidth>() > bound {
        return Err(bound - taken.iter().copied().sum());
    }
    Ok(())
}

/// The reservation with the same period and deadline whose density fits into `left`, if the kernel would take it.
///
/// `request` tells whether some of it is surplus.
pub fn nearest(request: &VcpuRequest, left: Bandwidth) -> Option<Reservation> {
    let reservation = request.reservation?;
    let surplus = request.surplus_at(reservation.period());
    let runtime = left.of(reservation.deadline()).checked_sub(surplus)?;
    // Whole microseconds: what a user would write.
    let runtime = Duration::from_nanos(nanos(runtime) / 1_000 * 1_000);
    reservation.with_runtime(runtime).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Enforcement;
    use proptest::prelude::*;

    fn share(percent: u64) -> Bandwidth {
        Bandwidth::ratio(Duration::from_millis(percent), Duration::from_millis(100))
    }

    fn request(q_us: u64, p_us: u64, enforcement: Enforcement) -> VcpuRequest {
        let us = Duration::from_micros;
        VcpuRequest {
            reservation: Reservation::new(us(q_us), us(p_us)).ok(),
            enforcement,
            ..VcpuRequest::default()
        }
    }

    #[test]
    fn nine_tasks_of_ten_percent_fit_on_one_cpu_and_a_tenth_does_not() {
        let limits = Limits::modern();
        assert_eq!(partitioned(limits, share(10).times(8), share(10)), Ok(()));
        assert!(partitioned(limits, share(10).times(9), share(10)).is_err());
    }

    #[test]
    fn global_edf_refuses_what_the_kernels_own_sum_would_take() {
        // Dhall's effect: two light tasks and one heavy one on two CPUs miss deadlines far below U = 2.
        let taken = [share(30), share(30)];
        assert!(global(Limits::modern(), 2, &taken, &[share(90)]).is_err());
        assert!(global(Limits::modern(), 2, &taken, &[share(30)]).is_ok());
    }

    #[test]
    fn on_one_cpu_the_global_test_is_the_utilisation_bound() {
        let limits = Limits::modern();
        assert!(global(limits, 1, &[share(45)], &[share(45)]).is_ok());
        assert!(global(limits, 1, &[share(45)], &[share(46)]).is_err());
    }

    #[test]
    fn the_surplus_counts() {
        let exact = demand(&request(1_000, 5_000, Enforcement::Exact));
        let tick = demand(&request(1_000, 5_000, Enforcement::Tick));
        assert!(exact > tick);
        assert!((tick.as_f64() - 0.2).abs() < 1e-5);
    }

    proptest! {
        #[test]
        fn the_nearest_offer_fits_and_a_little_more_does_not(
            p in 1_000u64..1_000_000, percent in 1u64..100, taken in 0u64..90, exact: bool,
        ) {
            let enforcement = if exact { Enforcement::Exact } else { Enforcement::Tick };
            let wanted = request((p * percent / 100).max(2), p, enforcement);
            let limits = Limits::modern();
            let Err(left) = partitioned(limits, share(taken), demand(&wanted)) else { return Ok(()) };
            let Some(offer) = nearest(&wanted, left) else { return Ok(()) };
            let fits = |reservation| {
                let request = VcpuRequest { reservation: Some(reservation), ..wanted.clone() };
                partitioned(limits, share(taken), demand(&request)).is_ok()
            };
            prop_assert!(fits(offer), "{offer} does not fit into {left}");
            let more = offer.runtime() + Duration::from_micros(3);
            if let Ok(more) = offer.with_runtime(more) {
                prop_assert!(!fits(more), "{more} fits too");
            }
        }

        #[test]
        fn admitting_fewer_tasks_is_never_harder(
            cpus in 1u32..8, tasks in prop::collection::vec(1u64..95, 1..12),
        ) {
            let shares: Vec<_> = tasks.iter().map(|&t| share(t)).collect();
            if global(Limits::modern(), cpus, &[], &shares).is_ok() {
                prop_assert!(global(Limits::modern(), cpus, &[], &shares[1..]).is_ok());
            }
        }
    }
}

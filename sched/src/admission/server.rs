//! A reservation as its CPU has to carry it: with the surplus of the kernel's backstop.

use std::fmt;
use std::time::Duration;

use super::Bandwidth;
use crate::budget::surplus_of;
use crate::request::VcpuRequest;
use crate::reservation::Reservation;

/// A constant bandwidth server: Q by a deadline D after each release, in every period P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    reservation: Reservation,
    /// Whether the thread ends its own budgets, so that the kernel is given a surplus.
    backstop: bool,
}

impl Server {
    /// What a request asks of its CPU; nothing without a reservation.
    pub fn of(request: &VcpuRequest) -> Option<Self> {
        let reservation = request.reservation?;
        Some(Self {
            backstop: request.ends_its_own_budgets(),
            reservation,
        })
    }

    /// (Q, P), and D.
    pub fn reservation(&self) -> Reservation {
        self.reservation
    }

    /// D, counted from the release.
    pub fn deadline(&self) -> Duration {
        self.reservation.deadline()
    }

    /// Q and the surplus, for which the deadline leaves room or which is none.
    pub fn demanded(&self) -> Duration {
        let runtime = self.reservation.runtime();
        let with_surplus = runtime + surplus_of(self.reservation.period());
        if self.backstop && with_surplus <= self.deadline() {
            with_surplus
        } else {
            runtime
        }
    }

    /// What it takes of its CPU in the kernel's arithmetic, the surplus included.
    pub fn bandwidth(&self) -> Bandwidth {
        Bandwidth::ratio(self.demanded(), self.reservation.period())
    }

    /// Whether its deadlines come before the ends of its periods.
    pub fn is_constrained(&self) -> bool {
        self.reservation.is_constrained()
    }

    /// The same with another Q, if there is such a server.
    pub(super) fn with_runtime(&self, runtime: Duration) -> Option<Self> {
        let reservation = self.reservation.with_runtime(runtime).ok()?;
        Some(Self {
            reservation,
            ..*self
        })
    }

    /// The same with another P, if there is such a server. A deadline at the end of the period stays there.
    pub(super) fn with_period(&self, period: Duration) -> Option<Self> {
        let reservation = self.reservation.with_period(period).ok()?;
        Some(Self {
            reservation,
            ..*self
        })
    }
}

/// A server without surplus.
impl From<Reservation> for Server {
    fn from(reservation: Reservation) -> Self {
        Self {
            reservation,
            backstop: false,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reservation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Enforcement;

    #[test]
    fn a_server_takes_what_the_request_takes() {
        let ms = Duration::from_millis;
        for enforcement in [Enforcement::Exact, Enforcement::Tick] {
            for runtime in [1, 20, 29, 30, 49, 50] {
                let pair = Reservation::new(ms(runtime), ms(50)).unwrap();
                for reservation in [Ok(pair), pair.with_deadline(ms(30))].into_iter().flatten() {
                    let request = VcpuRequest {
                        reservation: Some(reservation),
                        enforcement,
                        ..VcpuRequest::default()
                    };
                    let server = Server::of(&request).unwrap();
                    assert_eq!(server.demanded(), reservation.runtime() + request.surplus());
                    assert!(server.demanded() <= server.deadline());
                    assert_eq!(server.bandwidth(), crate::admission::demand(&request));
                }
            }
        }
    }
}

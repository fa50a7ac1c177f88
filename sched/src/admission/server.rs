//! A reservation as its CPU has to carry it: with a deadline, and with the surplus of the kernel's backstop.

use std::fmt;
use std::time::Duration;

use super::Bandwidth;
use crate::budget::surplus_of;
use crate::request::VcpuRequest;
use crate::reservation::{Reservation, human};

/// A constant bandwidth server: Q by a deadline D after each release, in every period P.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    reservation: Reservation,
    deadline: Duration,
    /// Whether the thread ends its own budgets, so that the kernel is given a surplus.
    backstop: bool,
}

/// Why a deadline does not go with a reservation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// D < Q.
    #[error("deadline {} is shorter than the runtime of {}: lengthen the deadline or lower the runtime", human(*.deadline), human(*.runtime))]
    DeadlineTooShort {
        /// The deadline asked for.
        deadline: Duration,
        /// Q.
        runtime: Duration,
    },
    /// D > P.
    #[error("deadline {} is longer than the period of {}: shorten the deadline or lengthen the period", human(*.deadline), human(*.period))]
    DeadlineTooLong {
        /// The deadline asked for.
        deadline: Duration,
        /// P.
        period: Duration,
    },
}

impl Server {
    /// A server whose Q is supplied `deadline` after each release.
    ///
    /// # Errors
    /// Unless Q <= D <= P.
    pub fn new(reservation: Reservation, deadline: Duration) -> Result<Self, ServerError> {
        let (runtime, period) = (reservation.runtime(), reservation.period());
        if deadline < runtime {
            return Err(ServerError::DeadlineTooShort { deadline, runtime });
        }
        if deadline > period {
            return Err(ServerError::DeadlineTooLong { deadline, period });
        }
        Ok(Self {
            deadline,
            ..Self::from(reservation)
        })
    }

    /// What a request asks of its CPU; nothing without a reservation.
    pub fn of(request: &VcpuRequest) -> Option<Self> {
        let reservation = request.reservation?;
        Some(Self {
            backstop: request.ends_its_own_budgets(),
            ..Self::from(reservation)
        })
    }

    /// (Q, P).
    pub fn reservation(&self) -> Reservation {
        self.reservation
    }

    /// D, counted from the release.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// Q and the surplus, for which the deadline leaves room or which is none.
    pub fn demanded(&self) -> Duration {
        let runtime = self.reservation.runtime();
        let with_surplus = runtime + surplus_of(self.reservation.period());
        if self.backstop && with_surplus <= self.deadline {
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
        self.deadline < self.reservation.period()
    }

    /// The same with another Q, if there is such a server.
    pub(super) fn with_runtime(&self, runtime: Duration) -> Option<Self> {
        if runtime > self.deadline {
            return None;
        }
        let reservation = Reservation::new(runtime, self.reservation.period()).ok()?;
        Some(Self {
            reservation,
            ..*self
        })
    }

    /// The same with another P, if there is such a server. A deadline at the end of the period stays there.
    pub(super) fn with_period(&self, period: Duration) -> Option<Self> {
        let deadline = if self.is_constrained() {
            self.deadline
        } else {
            period
        };
        if deadline > period {
            return None;
        }
        Some(Self {
            reservation: Reservation::new(self.reservation.runtime(), period).ok()?,
            deadline,
            ..*self
        })
    }
}

/// A server with D = P and no surplus.
impl From<Reservation> for Server {
    fn from(reservation: Reservation) -> Self {
        Self {
            reservation,
            deadline: reservation.period(),
            backstop: false,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.reservation)?;
        if self.is_constrained() {
            write!(f, " by {}", human(self.deadline))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Enforcement;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn a_deadline_outside_runtime_and_period_is_refused_with_both_values() {
        let pair = Reservation::new(ms(10), ms(50)).unwrap();
        let text = |deadline| Server::new(pair, deadline).unwrap_err().to_string();
        assert!(text(ms(9)).contains("9 ms is shorter than the runtime of 10 ms"));
        assert!(text(ms(51)).contains("51 ms is longer than the period of 50 ms"));
        assert_eq!(
            Server::new(pair, ms(30)).unwrap().to_string(),
            "(10 ms, 50 ms) by 30 ms"
        );
    }

    #[test]
    fn a_server_takes_what_the_request_takes() {
        for enforcement in [Enforcement::Exact, Enforcement::Tick] {
            for runtime in [1, 20, 49, 50] {
                let request = VcpuRequest {
                    reservation: Reservation::new(ms(runtime), ms(50)).ok(),
                    enforcement,
                    ..VcpuRequest::default()
                };
                let server = Server::of(&request).unwrap();
                assert_eq!(server.bandwidth(), crate::admission::demand(&request));
            }
        }
    }
}

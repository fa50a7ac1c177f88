//! What is run: two vCPUs, a task with a critical section on each, and how their budgets lie to one another.

use std::time::Duration;

use guest_images::taskset::{Builder, nanos};
use rt_abi::taskset::{Policy, Task, TaskSet};
use sched::analysis::{Supply, SupplyBound};
use sched::reservation::Reservation;

use crate::experiment::ExperimentError;
use crate::experiment::guest::Seat;
use crate::experiment::scenario::built;
use crate::experiment::stage::{Promise, Stage};

/// vCPUs.
pub const VCPUS: u16 = 2;

/// Where the vCPUs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Each on a CPU of its own.
    Apart,
    /// Both on one CPU, by EDF.
    Together,
}

/// What the vCPUs do when no task is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Run on, so that their servers' periods follow one another.
    Busy,
    /// Sleep, so that the kernel's wake-up rule begins periods.
    Asleep,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its short name: "apart-20ms-aligned".
    pub key: String,
    /// Where.
    pub place: Place,
    /// (Q, P) of each vCPU.
    pub reservation: Reservation,
    /// How much later than those of vCPU 0 the periods of vCPU 1 begin; none if each begins when it happens to.
    pub phase: Option<Duration>,
    /// What is below the tasks.
    pub rest: Rest,
}

impl Case {
    fn new(
        place: Place,
        (q, p): (u64, u64),
        phase: Option<Duration>,
    ) -> Result<Self, ExperimentError> {
        let period = Duration::from_millis(p);
        let where_ = match place {
            Place::Apart => "apart",
            Place::Together => "together",
        };
        let how = phase.map_or("as-started".to_owned(), |phase| match nanos(phase) {
            0 => "aligned".to_owned(),
            ns => format!("phase-{}us", ns / 1000),
        });
        Ok(Self {
            key: format!("{where_}-{q}-{p}ms-{how}"),
            place,
            reservation: Reservation::new(Duration::from_millis(q), period)?,
            phase,
            rest: Rest::Busy,
        })
    }

    fn asleep(self) -> Self {
        Self {
            key: format!("{}-asleep", self.key),
            rest: Rest::Asleep,
            ..self
        }
    }

    /// Whether the periods begin together.
    pub fn is_aligned(&self) -> bool {
        self.phase == Some(Duration::ZERO)
    }

    /// How long a critical section is: a tenth of the budget.
    pub fn critical(&self) -> Duration {
        self.reservation.runtime() / 10
    }

    /// On each vCPU a task that runs three tenths of a budget in a period a little shorter than the server's, so that its
    /// critical sections fall anywhere in the budgets; the two periods differ, so that they meet in every way.
    pub fn tasks(&self, duration: Duration) -> Result<TaskSet, ExperimentError> {
        let (budget, period) = (self.reservation.runtime(), self.reservation.period());
        let mut builder = Builder::new(Policy::RateMonotonic, duration);
        for (name, vcpu, share) in [("a", 0, 17), ("b", 1, 19)] {
            let change = |task| Task {
                vcpu,
                gaps: true,
                critical: nanos(self.critical()),
                ..task
            };
            builder = builder.periodic_with(name, budget * 3 / 10, period * share / 20, change);
        }
        if self.rest == Rest::Busy {
            builder = (0..VCPUS).fold(builder, Builder::hog);
        }
        built(builder)
    }

    /// Where the vCPUs are to be.
    pub fn seats(&self, stage: &Stage, second: Option<u32>) -> Vec<Seat> {
        let is_global = matches!(stage.promise, Promise::Global { .. });
        let first = (!is_global).then_some(stage.cpu);
        let second = match self.place {
            Place::Apart if is_global => None,
            Place::Apart => second,
            Place::Together => first,
        };
        let none = Duration::ZERO;
        vec![
            Seat {
                cpu: first,
                phase: self.phase.map(|_| none),
            },
            Seat {
                cpu: second,
                phase: self.phase,
            },
        ]
    }

    /// The longest that a job can wait for the lock, and of that the longest until it is given.
    ///
    /// The lock is given in the order of asking, and nobody is preempted inside the guest from asking to giving back, so
    /// one critical section of every other vCPU is ahead at most (Gai, Lipari and Di Natale, RTSS 2001). Its server may take
    /// as long for it as the inverse of its supply bound says (Shin and Lee, RTSS 2003; Easwaran, Anand and Lee, RTSS 2007,
    /// for a server with nothing before it). When the lock is given, the one that waits may itself be away, for as long as
    /// its own server may supply nothing; not so where all are away together.
    pub fn longest_wait(&self) -> Option<(Duration, Duration)> {
        let (budget, period) = (self.reservation.runtime(), self.reservation.period());
        let latest = match self.place {
            Place::Apart => budget,
            Place::Together => period,
        };
        let supply = Supply::explicit_deadline(budget, period, latest);
        let until_given = supply.inverse(self.critical())?;
        let are_away_together =
            self.is_aligned() && (self.place, self.rest) == (Place::Apart, Rest::Busy);
        let away = if are_away_together {
            Duration::ZERO
        } else {
            supply.lag()
        };
        Some((until_given + away, until_given))
    }

    /// The most that is spun away in one wait, for servers of busy vCPUs.
    ///
    /// Apart, the budgets of equal servers are stretches of Q on a circle of P, one shifted by the phase. The waiting one
    /// runs while the other is away for at most min(phase, P - phase, Q, P - Q) of a period, and a section no longer than a
    /// budget is interrupted once at most. Together, whoever spins keeps the holder away.
    pub fn most_spun(&self) -> Option<Duration> {
        let (budget, period) = (self.reservation.runtime(), self.reservation.period());
        let alone = match (self.place, self.rest) {
            (Place::Together, _) => {
                let (_, until_given) = self.longest_wait()?;
                return until_given.checked_sub(self.critical());
            }
            (Place::Apart, Rest::Asleep) => period,
            (Place::Apart, Rest::Busy) => {
                self.phase.map_or(period, |phase| phase.min(period - phase))
            }
        };
        Some(self.critical() + alone.min(budget).min(period - budget))
    }

    /// In figures and tables.
    pub fn title(&self) -> String {
        let place = match self.place {
            Place::Apart => "a CPU each",
            Place::Together => "one CPU",
        };
        let rest = match self.rest {
            Rest::Busy => "",
            Rest::Asleep => ", asleep between jobs",
        };
        format!("{place}, {}, {}{rest}", self.reservation, self.alignment())
    }

    /// How the budgets lie to one another, in words.
    pub fn alignment(&self) -> String {
        match self.phase {
            None => "as started".to_owned(),
            Some(Duration::ZERO) => "aligned".to_owned(),
            Some(phase) => format!("{} ms apart", phase.as_secs_f64() * 1e3),
        }
    }
}

/// The runs.
pub fn cases(quick: bool) -> Result<Vec<Case>, ExperimentError> {
    let parts = |p: u64, share: u32| Some(Duration::from_millis(p) * share / 4);
    let mut cases = Vec::new();
    let apart: &[(u64, u64)] = if quick {
        &[(10, 20)]
    } else {
        &[(5, 10), (10, 20), (15, 20), (25, 50)]
    };
    for &(q, p) in apart {
        for phase in [parts(p, 0), parts(p, 1), parts(p, 2), None] {
            cases.push(Case::new(Place::Apart, (q, p), phase)?);
        }
    }
    for phase in [parts(20, 0), None] {
        cases.push(Case::new(Place::Apart, (10, 20), phase)?.asleep());
    }
    let together: &[(u64, u64)] = if quick {
        &[(8, 20)]
    } else {
        &[(8, 20), (20, 50)]
    };
    for &(q, p) in together {
        for phase in [parts(p, 0), parts(p, 2)] {
            cases.push(Case::new(Place::Together, (q, p), phase)?);
        }
    }
    Ok(cases)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_wait_is_bounded_by_the_time_in_which_the_holder_is_supplied_its_section() {
        let bound = |place, q, phase| {
            let case = Case::new(place, (q, 20), Some(MS(phase))).unwrap();
            case.longest_wait().unwrap()
        };
        assert_eq!(bound(Place::Apart, 10, 0), (MS(11), MS(11)));
        assert_eq!(bound(Place::Apart, 10, 5), (MS(21), MS(11)));
        let us = Duration::from_micros;
        assert_eq!(bound(Place::Together, 8, 0), (us(48_800), us(24_800)));
    }

    #[test]
    fn the_time_spun_away_is_bounded_by_the_phase_the_budget_and_the_blackout() {
        for (q, phase, alone) in [
            (10, 0, 0),
            (10, 4, 4),
            (10, 16, 4),
            (10, 10, 10),
            (4, 10, 4),
            (16, 10, 4),
        ] {
            let case = Case::new(Place::Apart, (q, 20), Some(MS(phase))).unwrap();
            assert_eq!(
                case.most_spun(),
                Some(case.critical() + MS(alone)),
                "{q} {phase}"
            );
        }
    }

    #[test]
    fn every_case_has_a_name_of_its_own_and_a_task_set_for_two_vcpus() {
        for quick in [true, false] {
            let cases = cases(quick).unwrap();
            let mut keys: Vec<_> = cases.iter().map(|case| &case.key).collect();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), cases.len());
            for case in cases {
                assert_eq!(case.tasks(MS(100)).unwrap().vcpus, VCPUS);
            }
        }
    }
}

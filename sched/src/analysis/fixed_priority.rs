//! Fixed priorities on a supply: a task meets its deadline if there is an instant before it at which the supply has
//! caught up with the requests of the task and all above it (Lehoczky, Sha and Ding, RTSS 1989; with a supply bound in
//! place of the whole processor: Shin and Lee, RTSS 2003).
//!
//! The first such instant is the response time. It is found by iteration: what is requested up to an instant has been
//! supplied at the inverse of the supply bound, up to which more may have been requested (Joseph and Pandya, The
//! Computer Journal 1986).

use std::time::Duration;

use super::demand::{Demand, Priorities, Sporadic};
use super::supply::SupplyBound;
use super::task::TaskSet;
use super::verdict::{Outcome, Verdict, Witness};
use crate::reservation::nanos;

/// The test's name in verdicts.
pub const TEST: &str =
    "response times from request bounds (Joseph and Pandya 1986; Lehoczky, Sha and Ding 1989)";

/// Instants among which the witness of a refusal is looked for.
const WITNESSES: usize = 4096;

/// Whether the tasks meet their deadlines under fixed priorities on this supply. An exact test for the bound: without
/// jitter, the answer [`Outcome::Misses`] is a release pattern and a supply that the bounds allow.
pub fn check(set: &TaskSet, priorities: Priorities, supply: &impl SupplyBound) -> Verdict {
    let order = priorities.order(set);
    let demand = Demand::ranked(set, &order);
    let mut witnesses: Vec<(usize, Witness)> = order
        .iter()
        .enumerate()
        .map(|(rank, &place)| {
            let name = set.tasks()[place].name.as_str();
            (place, witness(&demand, (rank, name), supply))
        })
        .collect();
    witnesses.sort_by_key(|(place, _)| *place);
    let witnesses: Vec<Witness> = witnesses.into_iter().map(|(_, witness)| witness).collect();
    let all_meet = witnesses.iter().all(Witness::suffices);
    Verdict {
        outcome: if all_meet {
            Outcome::Schedulable
        } else {
            Outcome::Misses
        },
        test: TEST,
        supply: supply.name(),
        witnesses,
    }
}

/// [`check`] without its witnesses.
pub fn is_schedulable(set: &TaskSet, priorities: Priorities, supply: &impl SupplyBound) -> bool {
    let demand = Demand::ranked(set, &priorities.order(set));
    // The lowest priority is the first to miss.
    (0..demand.tasks.len())
        .rev()
        .all(|rank| response(&demand, rank, supply).is_some())
}

/// The first instant, up to the deadline, at which the supply has caught up with the requests of the task at `rank`.
pub(super) fn response(demand: &Demand, rank: usize, supply: &impl SupplyBound) -> Option<u64> {
    let task = &demand.tasks[rank];
    let mut at = 0;
    let mut requested = demand.blocking + task.execution;
    loop {
        let met = nanos(supply.inverse(Duration::from_nanos(requested))?);
        if met > task.deadline {
            return None;
        }
        if met <= at {
            return Some(at);
        }
        at = met;
        requested = demand.requested(rank, at);
    }
}

/// The response time, or the instant with the least shortfall.
fn witness(demand: &Demand, (rank, name): (usize, &str), supply: &impl SupplyBound) -> Witness {
    let at = |instant: u64| Witness {
        task: name.to_owned(),
        instant: Duration::from_nanos(instant),
        demand: Duration::from_nanos(demand.requested(rank, instant)),
        supply: supply.bound(Duration::from_nanos(instant)),
    };
    if let Some(instant) = response(demand, rank, supply) {
        return at(instant);
    }
    let deadline = demand.tasks[rank].deadline;
    instants(demand, rank)
        .map(at)
        .fold(at(deadline), |best, other| {
            if other.shortfall() < best.shortfall() {
                other
            } else {
                best
            }
        })
}

/// The releases above the task at `rank`, up to its deadline. Between two of them the request stands still while the
/// supply grows.
fn instants(demand: &Demand, rank: usize) -> impl Iterator<Item = u64> + '_ {
    let deadline = demand.tasks[rank].deadline;
    let releases = move |task: &Sporadic| {
        let (period, jitter) = (task.period, task.jitter);
        let later = (1..).map(move |n| (n * period).saturating_sub(jitter));
        later
            .take_while(move |at| *at < deadline)
            .filter(|at| *at > 0)
            .take(WITNESSES)
    };
    demand.tasks[..rank].iter().flat_map(releases)
}

#[cfg(test)]
mod tests {
    use super::super::supply::Supply;
    use super::super::task::Task;
    use super::*;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    #[test]
    fn response_times_on_the_whole_processor_are_those_of_the_textbook() {
        // Joseph and Pandya's iteration: 3, 3 + 3 = 6, and 5 + 3 x 3 + 2 x 3 = 20.
        let tasks = [
            Task::new("a", ms(3), ms(7)),
            Task::new("b", ms(3), ms(12)),
            Task::new("c", ms(5), ms(20)),
        ];
        let set = TaskSet::new(tasks).unwrap();
        let verdict = check(&set, Priorities::RateMonotonic, &Supply::whole_processor());
        let times: Vec<_> = verdict.witnesses.iter().map(|w| w.instant).collect();
        assert_eq!(times, [ms(3), ms(6), ms(20)]);
        assert!(verdict.is_schedulable());
        let given = Priorities::Given;
        assert_eq!(check(&set, given, &Supply::whole_processor()), verdict);
    }

    #[test]
    fn a_refusal_shows_the_instant_at_which_the_least_is_missing() {
        let tasks = [
            Task::new("a", ms(4), ms(8)),
            Task::new("b", ms(3), ms(12)).with_deadline(ms(9)),
        ];
        let set = TaskSet::new(tasks).unwrap().with_blocking(ms(2)).unwrap();
        let verdict = check(
            &set,
            Priorities::DeadlineMonotonic,
            &Supply::whole_processor(),
        );
        assert_eq!(verdict.outcome, Outcome::Misses);
        // 2 + 3 + 4 in 8 ms: 1 ms is missing; at the deadline 2 + 3 + 8 in 9 ms: 4.
        assert_eq!(
            verdict.witnesses[1].to_string(),
            "task b: 8 ms supplied in 8 ms, too little for a demand of 9 ms"
        );
        assert!(verdict.witnesses[0].suffices());
    }

    #[test]
    fn jitter_of_a_task_above_makes_its_second_job_come_early() {
        let set = |jitter| {
            let tasks = [
                Task::new("a", ms(3), ms(10)).with_jitter(ms(jitter)),
                Task::new("b", ms(5), ms(10)),
            ];
            TaskSet::new(tasks).unwrap()
        };
        let meets =
            |jitter| is_schedulable(&set(jitter), Priorities::Given, &Supply::whole_processor());
        // b is done at 8: up to a jitter of 2 the next job of a comes no sooner.
        assert!(meets(2));
        assert!(!meets(3));
    }

    /// The earliest instant at which the supply, unit by unit after its bound, has done the job of task `rank` and what
    /// goes before it.
    fn finish(tasks: &[Task], rank: usize, supply: &Supply) -> Option<Duration> {
        let units = |duration: Duration| nanos(duration) / 1_000;
        let mut left = vec![0; rank + 1];
        left[rank] = units(tasks[rank].execution);
        let mut got = 0;
        for t in 0..units(tasks[rank].deadline) {
            for (task, left) in tasks[..rank].iter().zip(&mut left) {
                let released = t.is_multiple_of(units(task.period));
                *left += units(task.execution) * u64::from(released);
            }
            let supplied = units(supply.bound(us(t + 1)));
            let running = left.iter_mut().find(|left| **left > 0);
            if let (true, Some(running)) = (supplied > got, running) {
                *running -= 1;
            }
            got = supplied;
            if left[rank] == 0 {
                return Some(us(t + 1));
            }
        }
        None
    }

    proptest! {
        #[test]
        fn the_response_time_is_that_of_the_schedule_run_unit_by_unit(
            c in prop::collection::vec(1u64..8, 1..4), scale in 1u64..5, p in 2u64..8, q in 1u64..8, any: bool,
        ) {
            let tasks = c.iter().enumerate()
                .map(|(i, c)| Task::new(format!("t{i}"), us(*c), us((c + 3) * scale * (i as u64 + 1))));
            let mut tasks: Vec<_> = tasks.collect();
            tasks.sort_by_key(|task| task.period);
            let Ok(set) = TaskSet::new(tasks.clone()) else { return Ok(()) };
            let q = us(q.min(p));
            let supply = if any { Supply::worst_case(q, us(p)) } else { Supply::aligned(q, us(p)) };
            let verdict = check(&set, Priorities::RateMonotonic, &supply);
            for (rank, witness) in verdict.witnesses.iter().enumerate() {
                let met = witness.suffices().then_some(witness.instant);
                prop_assert_eq!(met, finish(&tasks, rank, &supply));
            }
            prop_assert_eq!(verdict.is_schedulable(), is_schedulable(&set, Priorities::RateMonotonic, &supply));
        }
    }
}

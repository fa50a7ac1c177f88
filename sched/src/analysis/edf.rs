//! EDF on a supply: at every deadline, no more is demanded than was supplied (Baruah, Rosier and Howell, RTSS 1990; on a
//! supply bound: Shin and Lee, RTSS 2003).
//!
//! The deadlines are not walked through one by one but from the last one backwards in great steps, by quick
//! processor-demand analysis (Zhang and Burns, IEEE Transactions on Computers 2009): what is demanded up to a deadline
//! was supplied at some earlier instant, and no deadline between the two can demand more. On a supply that instant is
//! the inverse of its bound.

use std::time::Duration;

use super::demand::{Demand, Horizon};
use super::supply::SupplyBound;
use super::task::TaskSet;
use super::verdict::{Outcome, Verdict, Witness};

/// The test's name in verdicts.
pub const TEST: &str =
    "processor demand at every deadline (Baruah, Rosier and Howell 1990; Zhang and Burns 2009)";

/// Deadlines that are looked at before the test gives up. Only a demand that grows as fast as the supply needs as many.
const STEPS: usize = 1 << 18;
/// Deadlines of a task among which its witness is looked for.
const WITNESSES: u64 = 256;

/// Whether the tasks meet their deadlines under EDF on this supply. An exact test for the bound: without jitter, the
/// answer [`Outcome::Misses`] is a release pattern and a supply that the bounds allow.
pub fn check(set: &TaskSet, supply: &impl SupplyBound) -> Verdict {
    let demand = Demand::of(set);
    let (outcome, failed) = match search(&demand, supply) {
        Search::Holds => (Outcome::Schedulable, None),
        Search::Fails(at) => (Outcome::Misses, Some(at)),
        Search::Undecided => (Outcome::NotShown, None),
    };
    let end = match demand.horizon(supply) {
        Horizon::Until(end) | Horizon::Exceeded(end) => end,
        Horizon::Unknown => u64::MAX,
    };
    let witnesses = (0..set.tasks().len())
        .filter_map(|place| witness(set, place, (end, failed), supply))
        .collect();
    Verdict {
        outcome,
        test: TEST,
        supply: supply.name(),
        witnesses,
    }
}

/// [`check`] without its witnesses.
pub fn is_schedulable(set: &TaskSet, supply: &impl SupplyBound) -> bool {
    search(&Demand::of(set), supply) == Search::Holds
}

/// The result of the search for a deadline at which the supply does not suffice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Holds,
    Fails(u64),
    Undecided,
}

fn search(demand: &Demand, supply: &impl SupplyBound) -> Search {
    let time = Duration::from_nanos;
    let is_short = |at: u64| time(demand.demanded(at)) > supply.bound(time(at));
    // Where supply is short, it mostly is so soon after its blackout.
    let firsts = || demand.tasks.iter().map(|task| task.deadline);
    if let Some(at) = firsts().find(|at| is_short(*at)) {
        return Search::Fails(at);
    }
    let end = match demand.horizon(supply) {
        Horizon::Until(end) => end,
        Horizon::Exceeded(end) => {
            let last = demand.deadline_up_to(end);
            return last.map_or(Search::Undecided, Search::Fails);
        }
        Horizon::Unknown => return Search::Undecided,
    };
    let mut next = demand.deadline_up_to(end);
    for _ in 0..STEPS {
        let Some(at) = next else {
            return Search::Holds;
        };
        let needed = time(demand.demanded(at));
        if needed > supply.bound(time(at)) {
            return Search::Fails(at);
        }
        let met = supply.inverse(needed).map_or(at, crate::reservation::nanos);
        next = demand.deadline_up_to(met.min(at - 1));
    }
    Search::Undecided
}

/// The tightest of the first deadlines of one task, and of the one at which the test failed if it is the task's.
fn witness(
    set: &TaskSet,
    place: usize,
    (end, failed): (u64, Option<u64>),
    supply: &impl SupplyBound,
) -> Option<Witness> {
    let demand = Demand::of(set);
    let task = demand.tasks.get(place)?;
    let firsts = (0..WITNESSES)
        .map(|n| task.deadline + n * task.period)
        .take_while(|at| *at <= end.max(task.deadline));
    let own = failed.filter(|at| task.deadline_up_to(*at) == Some(*at));
    firsts
        .chain(own)
        .map(|at| Witness {
            task: set.tasks()[place].name.clone(),
            instant: Duration::from_nanos(at),
            demand: Duration::from_nanos(demand.demanded(at)),
            supply: supply.bound(Duration::from_nanos(at)),
        })
        .reduce(Witness::tighter)
}

#[cfg(test)]
mod tests {
    use super::super::supply::Supply;
    use super::super::task::Task;
    use super::*;
    use crate::reservation::nanos;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn ns(value: u64) -> Duration {
        Duration::from_nanos(value)
    }

    #[test]
    fn a_set_that_fills_the_processor_is_schedulable_on_all_of_it_and_on_nothing_less() {
        let thirds = (0..3).map(|n| Task::new(format!("t{n}"), ms(1), ms(3)));
        let set = TaskSet::new(thirds).unwrap();
        assert!(check(&set, &Supply::whole_processor()).is_schedulable());
        // Supply that comes late in its period is behind at the end of every hyperperiod.
        let late = Supply::worst_case(ms(3) - ns(1), ms(3));
        let verdict = check(&set, &late);
        assert_eq!(verdict.outcome, Outcome::Misses, "{verdict}");
        assert!(!verdict.decisive().unwrap().suffices());
    }

    #[test]
    fn a_refusal_shows_a_deadline_with_too_little_supply() {
        let tasks = [
            Task::new("a", ms(2), ms(10)),
            Task::new("b", ms(3), ms(15)).with_deadline(ms(12)),
        ];
        let set = TaskSet::new(tasks).unwrap();
        let verdict = check(&set, &Supply::worst_case(ms(5), ms(10)));
        assert_eq!(verdict.outcome, Outcome::Misses);
        assert_eq!(
            verdict.decisive().map(ToString::to_string).as_deref(),
            Some("task b: 2 ms supplied in 12 ms, too little for a demand of 5 ms")
        );
        let enough = check(&set, &Supply::worst_case(ms(7), ms(10)));
        assert!(enough.is_schedulable(), "{enough}");
        assert!(enough.witnesses.iter().all(Witness::suffices));
        assert!(enough.to_string().contains("Zhang and Burns 2009"));
        assert!(enough.supply.contains("Shin and Lee 2003"));
    }

    prop_compose! {
        /// Small sets with jitter and blocking, and any server.
        fn set_and_server()(
            tasks in prop::collection::vec((1u64..5, 0u64..12, 0u64..8, 0u64..6), 1..5), scale in 1u64..4,
            blocking in 0u64..3, q in 1u64..9, p in 1u64..9, any: bool,
        ) -> Option<(TaskSet, Supply)> {
            let tasks = tasks.iter().enumerate().map(|(n, (c, slack, more, jitter))| {
                let deadline = (c + slack) * scale;
                Task::new(format!("t{n}"), ns(*c), ns(deadline + more))
                    .with_deadline(ns(deadline))
                    .with_jitter(ns((*jitter).min(deadline - c)))
            });
            let set = TaskSet::new(tasks).ok()?.with_blocking(ns(blocking)).ok()?;
            let base = if any { Supply::worst_case(ns(q), ns(p)) } else { Supply::aligned(ns(q), ns(p)) };
            (q <= p).then_some((set, base))
        }
    }

    proptest! {
        #[test]
        fn quick_analysis_agrees_with_a_look_at_every_deadline(case in set_and_server()) {
            let Some((set, supply)) = case else { return Ok(()) };
            let demand = Demand::of(&set);
            // Far beyond two hyperperiods of most such sets, and beyond any horizon below a utilisation of 99 %.
            let end = 20_000;
            let is_deadline = |t: &u64| demand.deadline_up_to(*t) == Some(*t);
            let short = (1..end).filter(is_deadline).find(|t| demand.demanded(*t) > nanos(supply.bound(ns(*t))));
            let found = search(&demand, &supply);
            match found {
                Search::Holds => prop_assert_eq!(short, None),
                Search::Fails(at) => prop_assert!(demand.demanded(at) > nanos(supply.bound(ns(at)))),
                Search::Undecided => prop_assert!(false, "undecided"),
            }
            if let Horizon::Until(until) = demand.horizon(&supply) {
                prop_assert!(short.is_none_or(|at| demand.deadline_up_to(until) >= Some(at)));
            }
            let verdict = check(&set, &supply);
            prop_assert_eq!(verdict.is_schedulable(), found == Search::Holds);
            prop_assert_eq!(verdict.witnesses.iter().all(Witness::suffices), verdict.is_schedulable());
            prop_assert_eq!(verdict.witnesses.len(), set.tasks().len());
        }
    }
}

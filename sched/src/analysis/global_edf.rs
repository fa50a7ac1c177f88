//! Global EDF of a guest on several virtual processors: a sufficient test.
//!
//! A job that misses its deadline was kept waiting by others that together used up what was supplied. The test bounds
//! what they can have used in every interval that ends with the deadline and begins when some virtual processor last had
//! nothing to do (Baruah, "Techniques for multiprocessor global schedulability analysis", RTSS 2007), and compares that
//! with the supply of the multiprocessor periodic resource model (Easwaran, Shin and Lee, "Optimal virtual cluster-based
//! multiprocessor scheduling", Real-Time Systems 43, 2009). At most m' - 1 tasks bring work into the interval. Where the
//! published test lets demand equal supply, this one asks for a nanosecond more: two tasks that keep a third waiting by
//! exactly its slack may well do so a little longer.
//!
//! A task with jitter is taken as one whose deadline and period are shorter by it; blocking counts on every virtual
//! processor.

use std::time::Duration;

use super::demand::crossing;
use super::mpr::Multiprocessor;
use super::supply::SupplyBound;
use super::task::{Task, TaskSet, TaskSetError, ratio};
use super::verdict::{Outcome, Verdict, Witness};
use crate::reservation::nanos;

/// The test's name in verdicts.
pub const TEST: &str = "sufficient test of global EDF (Easwaran, Shin and Lee 2009)";

/// Instants that are looked at for one task before the test gives up.
const STEPS: usize = 1 << 16;

/// Whether the tasks are shown to meet their deadlines under global EDF on this supply. Never [`Outcome::Misses`]: what
/// the test refuses may be schedulable.
pub fn check(set: &TaskSet, supply: &Multiprocessor) -> Verdict {
    let tasks = times(set).unwrap_or_default();
    let results: Vec<_> = tests(&tasks, set, supply).map(|test| test.run()).collect();
    let holds = !results.is_empty() && results.iter().all(|(holds, _)| *holds);
    let witnesses = results.iter().zip(set.tasks());
    Verdict {
        outcome: if holds {
            Outcome::Schedulable
        } else {
            Outcome::NotShown
        },
        test: TEST,
        supply: supply.name(),
        witnesses: witnesses
            .filter_map(|((_, witness), task)| witness.map(|at| at.of(task)))
            .collect(),
    }
}

/// [`check`] without its witnesses.
pub fn is_schedulable(set: &TaskSet, supply: &Multiprocessor) -> bool {
    times(set).is_ok_and(|tasks| tests(&tasks, set, supply).all(|test| test.run().0))
}

/// The tasks without jitter.
fn times(set: &TaskSet) -> Result<Vec<Times>, TaskSetError> {
    let sporadic = set.map(|task| Task {
        deadline: task.deadline - task.jitter,
        period: task.period - task.jitter,
        jitter: Duration::ZERO,
        ..task.clone()
    })?;
    let times = |task: &Task| Times {
        execution: nanos(task.execution),
        deadline: nanos(task.deadline),
        period: nanos(task.period),
    };
    Ok(sporadic.tasks().iter().map(times).collect())
}

/// One test per task.
fn tests<'a>(
    tasks: &'a [Times],
    set: &TaskSet,
    supply: &'a Multiprocessor,
) -> impl Iterator<Item = Test<'a>> {
    let blocking = nanos(set.blocking());
    (0..tasks.len()).map(move |own| Test {
        tasks,
        own,
        blocking,
        supply,
    })
}

#[derive(Clone, Copy)]
struct Times {
    execution: u64,
    deadline: u64,
    period: u64,
}

impl Times {
    /// Work of jobs with release and deadline in an interval of this length.
    fn inside(&self, length: u64) -> u64 {
        (length + (self.period - self.deadline)) / self.period * self.execution
    }

    /// The same if a job released before may bring work in.
    fn carried(&self, length: u64) -> u64 {
        let into = length % self.period;
        let brought = into.saturating_sub(self.period - self.deadline);
        length / self.period * self.execution + brought.min(self.execution)
    }
}

/// A demand and a supply at an instant.
#[derive(Clone, Copy)]
struct Comparison {
    instant: u64,
    demand: u64,
    supply: u64,
}

impl Comparison {
    fn of(self, task: &Task) -> Witness {
        Witness {
            task: task.name.clone(),
            instant: Duration::from_nanos(self.instant),
            demand: Duration::from_nanos(self.demand),
            supply: Duration::from_nanos(self.supply),
        }
    }

    fn margin(&self) -> i128 {
        i128::from(self.supply) - i128::from(self.demand)
    }
}

/// The test of the task `own`.
struct Test<'a> {
    tasks: &'a [Times],
    own: usize,
    blocking: u64,
    supply: &'a Multiprocessor,
}

impl Test<'_> {
    /// Whether the supply suffices for every interval, and the tightest one looked at.
    ///
    /// Demand and supply both grow with the length. So the search goes backwards in steps: what is demanded at an
    /// instant was supplied at the inverse of the bound, and nothing between the two can demand more.
    fn run(&self) -> (bool, Option<Comparison>) {
        let deadline = self.tasks[self.own].deadline;
        let mut tightest = None::<Comparison>;
        let Some(end) = self.horizon() else {
            return (false, Some(self.compare(deadline)));
        };
        let mut at = end.max(deadline);
        for _ in 0..STEPS {
            if at < deadline {
                return (true, tightest);
            }
            let found = self.compare(at);
            if tightest.is_none_or(|tightest| found.margin() < tightest.margin()) {
                tightest = Some(found);
            }
            if found.margin() < 0 {
                return (false, tightest);
            }
            let met = self.supply.inverse(Duration::from_nanos(found.demand));
            at = met.map_or(at, nanos).min(at - 1);
            // The shortest interval is looked at in any case.
            if at < deadline && found.instant > deadline {
                at = deadline;
            }
        }
        (false, tightest)
    }

    fn compare(&self, at: u64) -> Comparison {
        Comparison {
            instant: at,
            demand: self.demand(at),
            supply: nanos(self.supply.bound(Duration::from_nanos(at))),
        }
    }

    fn vcpus(&self) -> u64 {
        u64::from(self.supply.vcpus.max(1))
    }

    /// How many tasks can bring work into an interval.
    fn carrying(&self) -> usize {
        usize::try_from(self.vcpus() - 1).unwrap_or(usize::MAX)
    }

    /// The least supply that rules out a miss at the end of an interval of this length: DEM(A + D, m') of the paper, in
    /// whole nanoseconds. A job that misses has run for a nanosecond less than its execution time at most, and waited for
    /// the rest; the others ran in that time, each at most as long as it, and used all that was supplied.
    fn demand(&self, length: u64) -> u64 {
        let own = self.tasks[self.own];
        let before = length - own.deadline;
        let waiting = length - own.execution + 1;
        let limited = |(place, work): (usize, u64)| match place == self.own {
            true => work.saturating_sub(own.execution).min(before),
            false => work.min(waiting),
        };
        let mut sum = 0u64;
        let mut brought = Vec::with_capacity(self.tasks.len());
        for (place, task) in self.tasks.iter().enumerate() {
            let inside = limited((place, task.inside(length)));
            let carried = limited((place, task.carried(length)));
            sum = sum.saturating_add(inside);
            brought.push(carried.saturating_sub(inside));
        }
        brought.sort_unstable_by(|a, b| b.cmp(a));
        let brought: u64 = brought.iter().take(self.carrying()).sum();
        let alone = (own.execution - 1 + self.blocking).saturating_mul(self.vcpus());
        sum.saturating_add(brought).saturating_add(alone) + 1
    }

    /// Beyond this the supply suffices: the demand lies below U t + sum of C (T - D)/T, the m' - 1 greatest C, and m' times
    /// the task's own; the supply above its rate after its lag.
    fn horizon(&self) -> Option<u64> {
        let (budget, period) = self.supply.rate();
        let (budget, period) = (nanos(budget), nanos(period).max(1));
        let used: u128 = self
            .tasks
            .iter()
            .map(|t| ratio(t.execution, t.period).1)
            .sum();
        let nearer = ratio(budget, period).0.checked_sub(used)?;
        let part = |part: u64, of: u64, whole: u64| {
            (u128::from(part) * u128::from(of)).div_ceil(u128::from(whole))
        };
        let ahead: u128 = self
            .tasks
            .iter()
            .map(|t| part(t.execution, t.period - t.deadline, t.period))
            .sum();
        let behind = part(nanos(self.supply.lag()), budget, period);
        let mut executions: Vec<u64> = self.tasks.iter().map(|task| task.execution).collect();
        executions.sort_unstable_by(|a, b| b.cmp(a));
        let brought: u64 = executions.iter().take(self.carrying()).sum();
        let own = self.tasks[self.own].execution + self.blocking;
        let alone = u128::from(own) * u128::from(self.vcpus());
        crossing(ahead + behind + u128::from(brought) + alone, nearer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn on(budget: u64, period: u64, vcpus: u32) -> Multiprocessor {
        Multiprocessor {
            budget: ms(budget),
            period: ms(period),
            vcpus,
        }
    }

    fn set(tasks: &[(u64, u64)]) -> TaskSet {
        let task = |(n, (c, t)): (usize, &(u64, u64))| Task::new(format!("t{n}"), ms(*c), ms(*t));
        TaskSet::for_processors(8, tasks.iter().enumerate().map(task)).unwrap()
    }

    #[test]
    fn light_tasks_are_shown_schedulable_on_two_virtual_processors() {
        let light = set(&[(2, 20), (2, 25), (3, 30), (4, 40), (5, 50)]);
        let verdict = check(&light, &on(16, 10, 2));
        assert!(verdict.is_schedulable(), "{verdict}");
        assert_eq!(verdict.witnesses.len(), 5);
        assert!(verdict.witnesses.iter().all(Witness::suffices));
        assert!(verdict.to_string().contains("Easwaran, Shin and Lee 2009"));
    }

    #[test]
    fn dhalls_effect_is_not_called_schedulable() {
        // Two light tasks go before a heavy one on both processors: it misses with U barely above 1 of 2.
        let set = set(&[(2, 20), (2, 20), (20, 21)]);
        let verdict = check(&set, &on(20, 10, 2));
        assert_eq!(verdict.outcome, Outcome::NotShown);
        assert!(!verdict.decisive().unwrap().suffices(), "{verdict}");
    }

    #[test]
    fn more_than_is_supplied_is_refused() {
        let set = set(&[(9, 10), (9, 10)]);
        assert!(!is_schedulable(&set, &on(17, 10, 2)));
        assert!(!check(&set, &on(17, 10, 2)).is_schedulable());
    }

    #[test]
    fn less_supply_never_helps() {
        let light = set(&[(2, 20), (3, 30), (4, 40)]);
        let least = (1..=40).find(|budget| is_schedulable(&light, &on(*budget, 20, 2)));
        let least = least.unwrap();
        assert!((least..=40).all(|budget| is_schedulable(&light, &on(budget, 20, 2))));
    }
}

//! What scheduling itself costs, measured, and charged to execution times and budgets.

use std::time::Duration;

use super::Scheduler;
use super::demand::Demand;
use super::task::{Task, TaskSet, TaskSetError};

/// Measured costs. Charged as follows, each on the safe side:
///
/// - C' = C + `timer_latency` + `exit`: a job begins after the latency of the timer that releases it, and pays for its
///   own release. The latency counts as execution, so that tasks below wait for it too.
/// - B' = B + `exit` x n: the releases of tasks that do not go before a job interrupt it nevertheless. Under EDF each other
///   task has at most one such release in an interval that ends with a deadline, as deadlines are within periods: n is
///   the number of tasks less one. Under fixed priorities n is the greatest number of releases of all tasks below one
///   within its deadline.
/// - Q' = Q + `budget_switch`: of every budget, what it takes to switch to the server and away from it is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overheads {
    /// Switching to a server and away from it, once per budget.
    pub budget_switch: Duration,
    /// From the instant for which the guest has set its timer to the instant at which it runs its handler.
    pub timer_latency: Duration,
    /// Leaving and entering the guest for one release: for the timer's interrupt, and for setting it anew.
    pub exit: Duration,
}

impl Overheads {
    /// The tasks with what their releases cost.
    ///
    /// # Errors
    /// When they are no task set with that: [`TaskSetError`].
    pub fn inflated(&self, set: &TaskSet, scheduler: Scheduler) -> Result<TaskSet, TaskSetError> {
        let releases = match scheduler {
            Scheduler::EarliestDeadlineFirst => set.tasks().len() as u64 - 1,
            Scheduler::FixedPriority(priorities) => {
                let demand = Demand::ranked(set, &priorities.order(set));
                let below = |rank: usize| {
                    let (own, below) = (&demand.tasks[rank], &demand.tasks[rank + 1..]);
                    below
                        .iter()
                        .map(|task| task.releases(own.deadline))
                        .sum::<u64>()
                };
                (0..demand.tasks.len()).map(below).max().unwrap_or(0)
            }
        };
        let releases = u32::try_from(releases).unwrap_or(u32::MAX);
        let inflated = set.map(|task| Task {
            execution: task.execution + self.timer_latency + self.exit,
            ..task.clone()
        })?;
        let blocking = self.exit.saturating_mul(releases);
        inflated.with_blocking(set.blocking().saturating_add(blocking))
    }

    /// The budget to reserve when `needed` of it must reach the guest.
    pub fn budget(&self, needed: Duration) -> Duration {
        needed + self.budget_switch
    }

    /// What reaches the guest of a budget.
    pub fn left_of(&self, budget: Duration) -> Duration {
        budget.saturating_sub(self.budget_switch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us(value: u64) -> Duration {
        Duration::from_micros(value)
    }

    const COSTS: Overheads = Overheads {
        budget_switch: Duration::from_micros(10),
        timer_latency: Duration::from_micros(50),
        exit: Duration::from_micros(5),
    };

    #[test]
    fn jobs_pay_for_their_release_and_wait_for_those_that_go_after_them() {
        let tasks = [
            Task::new("a", us(1_000), us(10_000)),
            Task::new("b", us(1_000), us(20_000)),
            Task::new("c", us(1_000), us(4_000)).with_deadline(us(3_000)),
        ];
        let set = TaskSet::new(tasks).unwrap();
        let of = |scheduler| COSTS.inflated(&set, scheduler).unwrap();
        let edf = of(Scheduler::EarliestDeadlineFirst);
        assert_eq!(edf.tasks()[0].execution, us(1_055));
        assert_eq!(edf.blocking(), us(10));
        assert_eq!(of(Scheduler::RATE_MONOTONIC).blocking(), us(10));
        // With c last, b may be interrupted by five of its releases; a by one of b and three of c.
        let given = Scheduler::FixedPriority(super::super::Priorities::Given);
        assert_eq!(of(given).blocking(), us(25));
    }

    #[test]
    fn a_budget_and_what_is_left_of_it_differ_by_the_switch() {
        assert_eq!(COSTS.budget(us(100)), us(110));
        assert_eq!(COSTS.left_of(us(110)), us(100));
        assert_eq!(COSTS.left_of(us(3)), us(0));
    }

    #[test]
    fn what_no_longer_fits_with_its_costs_is_refused() {
        let set = TaskSet::new([Task::new("a", us(960), us(1_000))]).unwrap();
        assert!(COSTS.inflated(&set, Scheduler::RATE_MONOTONIC).is_err());
    }
}

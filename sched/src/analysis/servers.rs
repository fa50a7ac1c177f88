//! Servers that share one CPU under fixed priorities: whether each can give its whole budget in every one of its periods,
//! which is what a supply bound takes for granted. Under EDF the servers are tasks like any others
//! ([`super::edf`]).

use super::demand::{Demand, Priorities};
use super::fixed_priority::response;
use super::supply::Supply;
use super::task::TaskSet;

/// What a server does with its budget while it has no work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Idle {
    /// It is used up, or lent to others, or comes back a period after its use: towards servers below, a periodic or a
    /// sporadic server (Sprunt, Sha and Lehoczky 1989) is a periodic task.
    LosesBudget,
    /// It is kept until the period ends. Two budgets may come in a row, the first at the end of its period: towards servers
    /// below, a deferrable server is a task with a jitter of P - Q (Strosnider, Lehoczky and Sha 1995; as jitter: Bernat
    /// and Burns, RTSS 1999).
    KeepsBudget,
}

/// Whether servers, given as tasks (Q, D, P) of which the one with the shorter period goes first, all supply Q by D in
/// each of their periods.
pub fn supply_in_time(servers: &TaskSet, idle: Idle) -> bool {
    let order = Priorities::RateMonotonic.order(servers);
    let mut demand = Demand::ranked(servers, &order);
    if idle == Idle::KeepsBudget {
        // The jitter is felt by those below only: its own deadline stays where it is.
        for server in &mut demand.tasks {
            server.jitter = server.period - server.execution;
        }
    }
    let cpu = Supply::whole_processor();
    (0..demand.tasks.len()).all(|rank| response(&demand, rank, &cpu).is_some())
}

#[cfg(test)]
mod tests {
    use super::super::task::Task;
    use super::*;
    use std::time::Duration;

    fn servers(servers: &[(u64, u64)]) -> TaskSet {
        let ms = Duration::from_millis;
        let server = |(n, (q, p)): (usize, &(u64, u64))| Task::new(format!("s{n}"), ms(*q), ms(*p));
        TaskSet::new(servers.iter().enumerate().map(server)).unwrap()
    }

    #[test]
    fn a_budget_that_is_kept_can_come_twice_in_a_row() {
        // Three budgets of 2 in any 8, of which two in a row: 6 + 4 is more than 8, while 2 + 2 + 4 is not.
        let tight = servers(&[(2, 5), (4, 8)]);
        assert!(supply_in_time(&tight, Idle::LosesBudget));
        assert!(!supply_in_time(&tight, Idle::KeepsBudget));
        let loose = servers(&[(2, 5), (3, 7)]);
        assert!(supply_in_time(&loose, Idle::LosesBudget));
        assert!(supply_in_time(&loose, Idle::KeepsBudget));
    }

    #[test]
    fn harmonic_servers_may_fill_the_cpu_unless_they_keep_budgets() {
        let full = servers(&[(5, 10), (10, 20)]);
        assert!(supply_in_time(&full, Idle::LosesBudget));
        assert!(!supply_in_time(&full, Idle::KeepsBudget));
        assert!(!supply_in_time(
            &servers(&[(5, 10), (6, 14)]),
            Idle::LosesBudget
        ));
    }
}

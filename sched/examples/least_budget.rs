//! How long the design of a least budget takes for 20 tasks whose periods have nothing in common.
//!
//! `cargo run --release -p sched --example least_budget`

use std::time::{Duration, Instant};

use sched::analysis::{Scheduler, Supply, Task, TaskSet, TaskSetError, least_budget};

/// Primes, in tenths of a millisecond: the hyperperiod is far beyond all clocks.
const PERIODS: [u64; 20] = [
    101, 113, 127, 139, 151, 167, 179, 193, 211, 227, 241, 257, 271, 283, 307, 317, 337, 353, 373,
    397,
];
const P: Duration = Duration::from_millis(4);
const REPETITIONS: u32 = 100;

fn main() -> Result<(), TaskSetError> {
    // 3 % each, 60 % together; deadlines at three quarters.
    let tasks = PERIODS.iter().zip(0..).map(|(tenths, n)| {
        let period = Duration::from_micros(tenths * 100);
        Task::new(format!("t{n}"), period * 3 / 100, period).with_deadline(period * 3 / 4)
    });
    let set = TaskSet::new(tasks)?;
    let schedulers = [
        Scheduler::EarliestDeadlineFirst,
        Scheduler::RATE_MONOTONIC,
        Scheduler::DEADLINE_MONOTONIC,
    ];
    for scheduler in schedulers {
        let start = Instant::now();
        let mut budget = None;
        for _ in 0..REPETITIONS {
            budget = least_budget(&set, scheduler, P, |q| Supply::worst_case(q, P));
        }
        let time = start.elapsed() / REPETITIONS;
        println!(
            "{}: Q = {budget:?} in P = {P:?}, found in {time:?}",
            scheduler.name()
        );
    }
    Ok(())
}

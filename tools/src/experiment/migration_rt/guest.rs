//! The guest that moves: the task set of the CBS-KVM paper, whose jobs also write pages, and a busy loop below it.
//!
//! The loop never sleeps, so the guest sees every time it is away, and what the CPU leaves to it can be told.

use std::time::Duration;

use guest_images::taskset::{Builder, Content, Dirty, Pattern, nanos};
use rt_abi::taskset::{Policy, Task, TaskSet};
use sched::request::BackendKind;
use sched::reservation::Reservation;

use super::hosts::Hosts;
use crate::experiment::ExperimentError;
use crate::experiment::guest::{Seat, Share};
use crate::experiment::scenario::built;

/// Its name.
pub const NAME: &str = "migration-rt";
/// P, the paper's.
pub const PERIOD: Duration = Duration::from_millis(50);
/// Q in the paper: too little for a pause.
pub const PAPER_BUDGET: Duration = Duration::from_millis(28);
/// Pages that each job writes.
pub const PAGES: u32 = 100;
/// Memory that the jobs of a task write, one page after the other.
const REGION: u64 = 32 << 20;
/// Its memory: two regions, and what it is made of.
const MEMORY: &str = "72MiB";
/// By then all pages have content, and the first jobs are released.
pub const START: Duration = Duration::from_millis(1_500);

const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Its task set for a run of `duration` from the first release.
pub fn task_set(duration: Duration) -> Result<TaskSet, ExperimentError> {
    let writes = |task| Task {
        gaps: true,
        dirty: Some(Dirty {
            pages: PAGES,
            region: REGION,
            pattern: Pattern::Sequential,
            content: Content::Random,
            phase: 0,
        }),
        ..task
    };
    built(
        Builder::new(Policy::RateMonotonic, duration)
            .periodic_with("t1", ms(30), ms(150), writes)
            .periodic_with("t2", ms(50), ms(200), writes)
            .hog(0)
            .options(|set| set.start = nanos(START)),
    )
}

/// A reservation of `budget` in every period.
pub fn reserved(budget: Duration) -> Result<Share, ExperimentError> {
    let reservation = Reservation::new(budget, PERIOD)?;
    Ok(Share::reserved(BackendKind::Deadline, reservation))
}

/// Its specification on host A, as a user would write it.
pub fn spec(hosts: &Hosts, set: &TaskSet, share: &Share) -> String {
    let seat = Seat {
        cpu: Some(hosts.a.cpu),
        phase: None,
    };
    let text = format!(
        "name = \"{NAME}\"\n\n[guest]\nmemory = \"{MEMORY}\"\ncommand_line = \"{set}\"\n\n"
    );
    text + &hosts.stage.cpu_table(share, &[seat])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_has_the_papers_tasks_and_they_write_a_hundred_pages_a_job() {
        let set = task_set(Duration::from_secs(5)).unwrap();
        let told: Vec<_> = set
            .tasks()
            .iter()
            .map(|task| (task.c_max / 1_000_000, task.period / 1_000_000))
            .collect();
        assert_eq!(told[..2], [(30, 150), (50, 200)]);
        let pages = |task: &Task| task.dirty.map_or(0, |dirty| dirty.pages);
        assert!(set.tasks()[..2].iter().all(|task| pages(task) >= 100));
    }
}

//! The guest's scheduling policy: when jobs are released and which one runs. Pure: time is an argument.
//!
//! Tasks are partitioned: each vCPU picks among its own ready jobs. Fixed priorities are rate monotonic and EDF is the
//! earliest absolute deadline first (Liu and Layland, JACM 1973); both are preemptive, by picking again at each release.

use crate::taskset::{Kind, MAX_TASKS, Policy, Task};

/// A job that is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobView {
    /// Place of its task in the task set.
    pub task: usize,
    /// When it was released, in nanoseconds.
    pub release: u64,
    /// Its absolute deadline in nanoseconds; `u64::MAX` for a hog.
    pub deadline: u64,
}

impl JobView {
    /// Job number `job` of `task`, which is at place `index`, in a run that starts at `start`.
    #[must_use]
    pub fn new(index: usize, task: &Task, job: u64, start: u64) -> Self {
        Self::released(index, task, next_release(task, job, start))
    }

    /// A job of `task`, which is at place `index`, that was released at `release`.
    #[must_use]
    pub fn released(index: usize, task: &Task, release: u64) -> Self {
        Self {
            task: index,
            release,
            deadline: deadline(task, release),
        }
    }
}

/// When job number `job` (from 0) of `task` is released, in nanoseconds: start + offset + job * period.
///
/// A hog is released once: each of its jobs is released with its first. Times past 64 bits are the end of time, which is
/// also the answer for services: time does not release them.
#[must_use]
pub fn next_release(task: &Task, job: u64, start: u64) -> u64 {
    if task.kind.is_service() {
        return u64::MAX;
    }
    start
        .saturating_add(task.offset)
        .saturating_add(job.saturating_mul(task.period))
}

/// Absolute deadline, in nanoseconds, of a job of `task` released at `release`; `u64::MAX` for a hog.
#[must_use]
pub fn deadline(task: &Task, release: u64) -> u64 {
    match task.kind {
        Kind::Hog => u64::MAX,
        _ => release.saturating_add(task.deadline),
    }
}

/// The rank of each task, 0 first; `u8::MAX` for places without a task. All ranks are different, so ties are settled.
///
/// Rate monotonic: by explicit priority, then by period, then by order; hogs last. EDF, where ranks settle equal
/// deadlines: by order, hogs last. Tasks beyond [`MAX_TASKS`] are ignored.
#[must_use]
pub fn ranks(policy: Policy, tasks: &[Task]) -> [u8; MAX_TASKS] {
    let key = |place: usize, task: &Task| -> (u8, u64, usize) {
        match (task.kind, policy, task.priority) {
            (Kind::Hog, _, _) => (2, 0, place),
            (_, Policy::Edf, _) => (0, 0, place),
            (_, Policy::RateMonotonic, Some(priority)) => (0, priority.into(), place),
            (_, Policy::RateMonotonic, None) => (1, task.period, place),
        }
    };
    let tasks = tasks.get(..MAX_TASKS).unwrap_or(tasks);
    let mut ranks = [u8::MAX; MAX_TASKS];
    for (place, (rank, task)) in ranks.iter_mut().zip(tasks).enumerate() {
        let mine = key(place, task);
        let ahead = tasks
            .iter()
            .enumerate()
            .filter(|(i, other)| key(*i, other) < mine);
        // At most MAX_TASKS - 1 tasks are ahead, which fits.
        *rank = u8::try_from(ahead.count()).unwrap_or(u8::MAX);
    }
    ranks
}

/// The task whose job is to run, among the `ready` jobs of one vCPU; `None` if none is ready.
///
/// Rate monotonic: the least rank. EDF: the earliest deadline, then the least rank.
#[must_use]
pub fn pick(
    policy: Policy,
    ranks: &[u8; MAX_TASKS],
    ready: impl Iterator<Item = JobView>,
) -> Option<usize> {
    let rank = |job: &JobView| ranks.get(job.task).copied().unwrap_or(u8::MAX);
    let first = match policy {
        Policy::RateMonotonic => ready.min_by_key(|job| (rank(job), job.task)),
        Policy::Edf => ready.min_by_key(|job| (job.deadline, rank(job), job.task)),
    };
    first.map(|job| job.task)
}

#[cfg(test)]
mod tests;

//! Task sets for `rt-guest`, put together on the host. Written with `to_string`, they are its command line.
//!
//! The guest reads the line with the parser of the same crate, [`TaskSet::parse`]; here are only the conveniences of a host
//! that has `Duration`s.

use std::time::Duration;

pub use rt_abi::taskset::{
    Content, Dirty, Fault, Kind, MAX_TASKS, MAX_VCPUS, Mode, Name, ParseError, Pattern, Policy,
    Problem, Storm, Task, TaskSet,
};

/// Puts a task set together; the first error is kept until [`Builder::build`].
#[derive(Debug, Clone)]
pub struct Builder {
    set: TaskSet,
    error: Option<ParseError>,
}

impl Builder {
    /// An empty set for a run of `duration` under `policy`.
    #[must_use]
    pub fn new(policy: Policy, duration: Duration) -> Self {
        let mut set = TaskSet::default();
        set.policy = policy;
        set.duration = nanos(duration);
        Self { set, error: None }
    }

    /// Adds a task on vCPU 0 that runs `execution` in every `period`.
    #[must_use]
    pub fn periodic(self, name: &str, execution: Duration, period: Duration) -> Self {
        self.periodic_with(name, execution, period, |task| task)
    }

    /// Adds such a task after `change` gave it an offset, a deadline, another vCPU.
    #[must_use]
    pub fn periodic_with(
        self,
        name: &str,
        execution: Duration,
        period: Duration,
        change: impl FnOnce(Task) -> Task,
    ) -> Self {
        let plain = |name| Task::periodic(name, nanos(execution), nanos(period));
        let task = Name::new(name).map(|name| change(plain(name)));
        self.add(task)
    }

    /// Adds a busy loop below all tasks of `vcpu`, which records when it did not run.
    #[must_use]
    pub fn hog(self, vcpu: u16) -> Self {
        self.add(Ok(Task::hog(vcpu)))
    }

    /// Changes the set's options: seed, gap threshold, start, streaming.
    #[must_use]
    pub fn options(mut self, change: impl FnOnce(&mut TaskSet)) -> Self {
        change(&mut self.set);
        self
    }

    /// The set, checked.
    ///
    /// # Errors
    /// The first thing that was wrong with a name, a value or the number of tasks.
    pub fn build(self) -> Result<TaskSet, ParseError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        self.set.check()?;
        Ok(self.set)
    }

    fn add(mut self, task: Result<Task, ParseError>) -> Self {
        let added = task.and_then(|task| self.set.add(task));
        self.error = self.error.or(added.err());
        self
    }
}

/// `duration` in nanoseconds. What does not fit becomes the greatest number, which no check lets pass.
#[must_use]
pub fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn the_task_set_of_the_cbs_kvm_paper_is_written_as_one_would_write_it() {
        let set = Builder::new(Policy::RateMonotonic, Duration::from_secs(10))
            .periodic("t1", ms(30), ms(150))
            .periodic_with("t2", ms(50), ms(200), |task| Task {
                offset: nanos(ms(5)),
                ..task
            })
            .hog(0)
            .options(|set| set.stream = true)
            .build();
        assert_eq!(
            set.unwrap().to_string(),
            "sched=rm duration=10s seed=0 stream=1 vcpus=1 task=t1,c=30ms,t=150ms task=t2,c=50ms,t=200ms,o=5ms hog=0"
        );
    }

    #[test]
    fn the_first_error_is_the_one_reported() {
        let built = Builder::new(Policy::Edf, ms(1))
            .periodic("a name", ms(1), ms(2))
            .periodic("b", ms(3), ms(2))
            .build();
        let message = built.unwrap_err().to_string();
        assert!(
            message.starts_with("task=a name is not a name"),
            "{message}"
        );
    }

    proptest! {
        #[test]
        fn the_guest_reads_what_was_built_and_refuses_what_was_not(
            duration in 0u64..1 << 50,
            tasks in vec((any::<u64>(), 99_990u64..1 << 40, 0..=MAX_VCPUS), 0..5),
            overrun in proptest::option::weighted(0.2, any::<Duration>()),
        ) {
            let mut builder = Builder::new(Policy::RateMonotonic, Duration::from_nanos(duration));
            for (n, (c, t, vcpu)) in tasks.into_iter().enumerate() {
                let (c, t) = (Duration::from_nanos(c % t), Duration::from_nanos(t));
                let c = overrun.unwrap_or(c);
                builder = builder.periodic_with(&format!("t{n}"), c, t, |task| Task { vcpu, ..task });
            }
            prop_assert_eq!(TaskSet::parse(&builder.set.to_string()), builder.build());
        }
    }
}

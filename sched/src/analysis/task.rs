//! Tasks and task sets: what is asked of a processor, checked when it is put together.

use std::time::Duration;

use crate::reservation::{human, nanos};

/// The longest time a task may have: sums and products of nanoseconds then stay far from overflow.
pub const LONGEST: Duration = Duration::from_secs(3600);

/// Utilisations are counted in units of 2^-40.
pub(super) const SHARE_BITS: u32 = 40;

/// A sporadic task: its jobs arrive at least a period apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// Its name in errors and reports.
    pub name: String,
    /// C: the greatest execution time of a job.
    pub execution: Duration,
    /// D: the relative deadline, counted from the arrival; at most the period.
    pub deadline: Duration,
    /// T: the least time between two arrivals.
    pub period: Duration,
    /// J: a job is released, which is when it can run, at most this long after its arrival.
    pub jitter: Duration,
}

impl Task {
    /// A task whose deadline is its period, released when it arrives.
    pub fn new(name: impl Into<String>, execution: Duration, period: Duration) -> Self {
        Self {
            name: name.into(),
            execution,
            deadline: period,
            period,
            jitter: Duration::ZERO,
        }
    }

    /// The same task with another deadline.
    #[must_use]
    pub fn with_deadline(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// The same task with release jitter.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// C / T.
    pub fn utilisation(&self) -> f64 {
        self.execution.as_secs_f64() / self.period.as_secs_f64()
    }

    fn check(&self) -> Result<(), TaskSetError> {
        let times = [
            ("execution time", self.execution),
            ("period", self.period),
            ("deadline", self.deadline),
            ("jitter", self.jitter),
        ];
        let task = || self.name.clone();
        for (what, value) in times {
            if value.is_zero() && what != "jitter" {
                return Err(TaskSetError::Zero { task: task(), what });
            }
            if value > LONGEST {
                return Err(TaskSetError::TooLong {
                    task: task(),
                    what,
                    value,
                });
            }
        }
        if self.deadline > self.period {
            return Err(TaskSetError::DeadlineAbovePeriod {
                task: task(),
                deadline: self.deadline,
                period: self.period,
            });
        }
        let Some(room) = self.deadline.checked_sub(self.execution) else {
            return Err(TaskSetError::ExecutionAboveDeadline {
                task: task(),
                execution: self.execution,
                deadline: self.deadline,
            });
        };
        if self.jitter > room {
            return Err(TaskSetError::Jitter {
                task: task(),
                jitter: self.jitter,
                room,
            });
        }
        Ok(())
    }
}

/// Tasks that can be analysed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSet {
    tasks: Vec<Task>,
    blocking: Duration,
    processors: u32,
}

/// Why tasks make no set.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TaskSetError {
    /// There is none.
    #[error("there is no task: give at least one")]
    Empty,
    /// A time that is nothing.
    #[error("task {task}: its {what} is 0: give at least 1 ns")]
    Zero {
        /// The task.
        task: String,
        /// Which of its times.
        what: &'static str,
    },
    /// A time beyond [`LONGEST`].
    #[error("task {task}: its {what} of {} is too long: give at most {}", human(*.value), human(LONGEST))]
    TooLong {
        /// The task.
        task: String,
        /// Which of its times.
        what: &'static str,
        /// How long it is.
        value: Duration,
    },
    /// A job cannot be done in time even alone.
    #[error("task {task}: its execution time of {} is above its deadline of {}: lower the one or raise the other", human(*.execution), human(*.deadline))]
    ExecutionAboveDeadline {
        /// The task.
        task: String,
        /// C.
        execution: Duration,
        /// D.
        deadline: Duration,
    },
    /// Deadlines beyond the next arrival are not analysed.
    #[error("task {task}: its deadline of {} is above its period of {}: give at most the period", human(*.deadline), human(*.period))]
    DeadlineAbovePeriod {
        /// The task.
        task: String,
        /// D.
        deadline: Duration,
        /// T.
        period: Duration,
    },
    /// A job released late cannot be done in time even alone.
    #[error("task {task}: its jitter of {} leaves less than its execution time before the deadline: give at most {}", human(*.jitter), human(*.room))]
    Jitter {
        /// The task.
        task: String,
        /// J.
        jitter: Duration,
        /// D - C.
        room: Duration,
    },
    /// The tasks need more than there is.
    #[error("the tasks need {:.2} % of {processors} processor(s): lower execution times or lengthen periods, first those of task {heaviest}, which needs {:.2} %", .utilisation * 100.0, .share * 100.0)]
    Utilisation {
        /// The sum of C / T.
        utilisation: f64,
        /// How many processors there are.
        processors: u32,
        /// The task with the greatest utilisation.
        heaviest: String,
        /// Its utilisation.
        share: f64,
    },
    /// A blocking time beyond [`LONGEST`].
    #[error("a blocking time of {} is too long: give at most {}", human(*.blocking), human(LONGEST))]
    Blocking {
        /// The time.
        blocking: Duration,
    },
    /// A speed that is no ratio.
    #[error("a speed of {} for what took {}: give two times above 0 and at most {}", human(*.here), human(*.reference), human(LONGEST))]
    Speed {
        /// The time on this host.
        here: Duration,
        /// The time on the reference host.
        reference: Duration,
    },
}

impl TaskSet {
    /// Tasks for one processor.
    ///
    /// # Errors
    /// [`TaskSetError`].
    pub fn new(tasks: impl IntoIterator<Item = Task>) -> Result<Self, TaskSetError> {
        Self::for_processors(1, tasks)
    }

    /// Tasks for so many processors.
    ///
    /// # Errors
    /// [`TaskSetError`].
    pub fn for_processors(
        processors: u32,
        tasks: impl IntoIterator<Item = Task>,
    ) -> Result<Self, TaskSetError> {
        let set = Self {
            tasks: tasks.into_iter().collect(),
            blocking: Duration::ZERO,
            processors,
        };
        set.tasks.iter().try_for_each(Task::check)?;
        let heaviest = set
            .tasks
            .iter()
            .max_by(|a, b| a.utilisation().total_cmp(&b.utilisation()))
            .ok_or(TaskSetError::Empty)?;
        // Rounded down: a set that fills the processors is not refused for the rounding of its shares.
        let used: u128 = set.tasks.iter().map(|task| share(task).0).sum();
        if used > u128::from(processors) << SHARE_BITS {
            return Err(TaskSetError::Utilisation {
                utilisation: set.utilisation(),
                processors,
                heaviest: heaviest.name.clone(),
                share: heaviest.utilisation(),
            });
        }
        Ok(set)
    }

    /// The same tasks, each of which may wait this long for something that should not go before it: a critical section
    /// of a task below, or a part of the guest's kernel that cannot be interrupted.
    ///
    /// # Errors
    /// When the time is longer than [`LONGEST`].
    pub fn with_blocking(self, blocking: Duration) -> Result<Self, TaskSetError> {
        if blocking > LONGEST {
            return Err(TaskSetError::Blocking { blocking });
        }
        Ok(Self { blocking, ..self })
    }

    /// The tasks on a host of this speed.
    ///
    /// # Errors
    /// When they are no set there: [`TaskSetError`].
    pub fn scaled(&self, speed: Speed) -> Result<Self, TaskSetError> {
        self.map(|task| Task {
            execution: speed.of(task.execution),
            ..task.clone()
        })?
        .with_blocking(speed.of(self.blocking))
    }

    /// The tasks.
    pub fn tasks(&self) -> &[Task] {
        &self.tasks
    }

    /// How long each may be blocked.
    pub fn blocking(&self) -> Duration {
        self.blocking
    }

    /// The sum of C / T.
    pub fn utilisation(&self) -> f64 {
        self.tasks.iter().map(Task::utilisation).sum()
    }

    /// The set of changed tasks; blocking and number of processors stay.
    pub(super) fn map(&self, change: impl Fn(&Task) -> Task) -> Result<Self, TaskSetError> {
        Self::for_processors(self.processors, self.tasks.iter().map(change))?
            .with_blocking(self.blocking)
    }

    /// Some of the tasks, by their places in the set.
    pub(super) fn part(&self, places: &[usize]) -> Self {
        Self {
            tasks: places.iter().map(|&at| self.tasks[at].clone()).collect(),
            ..self.clone()
        }
    }
}

/// C / T in units of 2^-40, rounded down and up.
pub(super) fn share(task: &Task) -> (u128, u128) {
    ratio(nanos(task.execution), nanos(task.period))
}

/// A ratio in units of 2^-40, rounded down and up.
pub(super) fn ratio(part: u64, whole: u64) -> (u128, u128) {
    let (part, whole) = (u128::from(part) << SHARE_BITS, u128::from(whole.max(1)));
    (part / whole, part.div_ceil(whole))
}

/// How fast a host is, beside the one on which execution times were measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    here: u128,
    reference: u128,
}

impl Speed {
    /// A host that needs `here` for what took `reference` where execution times were measured.
    ///
    /// # Errors
    /// When one of them is 0 or longer than [`LONGEST`].
    pub fn measured(here: Duration, reference: Duration) -> Result<Self, TaskSetError> {
        let fits = |time: Duration| !time.is_zero() && time <= LONGEST;
        if !fits(here) || !fits(reference) {
            return Err(TaskSetError::Speed { here, reference });
        }
        Ok(Self {
            here: here.as_nanos(),
            reference: reference.as_nanos(),
        })
    }

    /// What takes `time` on the reference host takes this long here, rounded up.
    pub fn of(self, time: Duration) -> Duration {
        let scaled = (u128::from(nanos(time)) * self.here).div_ceil(self.reference);
        Duration::from_nanos(u64::try_from(scaled).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn refusal(tasks: impl IntoIterator<Item = Task>) -> String {
        TaskSet::new(tasks).unwrap_err().to_string()
    }

    #[test]
    fn what_is_no_task_set_is_refused_with_the_task_the_value_and_what_would_work() {
        let good = || Task::new("video", ms(10), ms(40));
        assert_eq!(refusal([]), "there is no task: give at least one");
        assert_eq!(
            refusal([Task::new("video", ms(0), ms(40))]),
            "task video: its execution time is 0: give at least 1 ns"
        );
        assert_eq!(
            refusal([Task::new("video", ms(10), LONGEST * 2)]),
            "task video: its period of 7200 s is too long: give at most 3600 s"
        );
        assert_eq!(
            refusal([good().with_deadline(ms(9))]),
            "task video: its execution time of 10 ms is above its deadline of 9 ms: lower the one or raise the other"
        );
        assert_eq!(
            refusal([good().with_deadline(ms(41))]),
            "task video: its deadline of 41 ms is above its period of 40 ms: give at most the period"
        );
        assert_eq!(
            refusal([good().with_jitter(ms(31))]),
            "task video: its jitter of 31 ms leaves less than its execution time before the deadline: give at most 30 ms"
        );
        assert_eq!(
            refusal([good(), Task::new("audio", ms(8), ms(10))]),
            "the tasks need 105.00 % of 1 processor(s): lower execution times or lengthen periods, first those of task \
             audio, which needs 80.00 %"
        );
    }

    #[test]
    fn a_set_that_fills_the_processor_is_one() {
        let thirds = (0..3).map(|n| Task::new(format!("t{n}"), ms(1), ms(3)));
        let set = TaskSet::new(thirds).unwrap();
        assert!(set.with_blocking(LONGEST * 2).is_err());
        let two = [Task::new("a", ms(9), ms(10)), Task::new("b", ms(9), ms(10))];
        assert!(TaskSet::for_processors(2, two.clone()).is_ok());
        assert!(TaskSet::new(two).is_err());
    }

    #[test]
    fn execution_and_blocking_times_grow_on_a_slower_host_and_are_rounded_up() {
        let set = TaskSet::new([Task::new("a", Duration::from_nanos(10), ms(1))])
            .unwrap()
            .with_blocking(Duration::from_nanos(2))
            .unwrap();
        let scaled = set.scaled(Speed::measured(ms(4), ms(3)).unwrap()).unwrap();
        assert_eq!(scaled.tasks()[0].execution, Duration::from_nanos(14));
        assert_eq!(scaled.tasks()[0].period, ms(1));
        assert_eq!(scaled.blocking(), Duration::from_nanos(3));
        let slow = Speed::measured(ms(1_000_000), Duration::from_nanos(1)).unwrap();
        assert!(set.scaled(slow).is_err());
        assert!(Speed::measured(ms(0), ms(1)).is_err());
    }
}

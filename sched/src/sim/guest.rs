//! The guest's scheduler on one vCPU: which jobs are ready, and which of them goes first.
//!
//! Ready jobs stand in one order, whatever the policy: by rank (fixed priorities), by deadline and then rank (EDF), or by
//! turn (round robin). Jobs of one task run one after the other, late ones too.

use std::collections::VecDeque;

use super::Time;
use super::model::{GuestPolicy, Task, Vcpu};
use crate::random::Random;
use crate::reservation::nanos;

/// One vCPU's tasks and ready jobs.
#[derive(Debug)]
pub struct Guest {
    order: Order,
    tasks: Vec<TaskState>,
    /// Who is ready; the first to run stands last.
    ready: Vec<Ready>,
    turn: u64,
    quantum: Time,
    quantum_left: Time,
}

/// What puts ready jobs in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Rank,
    Deadline,
    Turn,
}

#[derive(Clone, Copy, Debug)]
struct Ready {
    key: (u64, usize),
    task: usize,
}

#[derive(Debug)]
struct TaskState {
    times: Times,
    rank: usize,
    random: Random,
    /// The arrival of the next job to be released, and its release.
    next: (Time, Time),
    /// Released jobs that wait for an earlier one of this task.
    waiting: VecDeque<JobState>,
    job: Option<JobState>,
}

/// What a task's description says, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Times {
    shortest: Time,
    execution: Time,
    period: Time,
    deadline: Time,
    jitter: Time,
    blocks_after: Time,
    blocks_for: Time,
    /// Execution time of every other turn, and the length of a turn.
    step: Option<(Time, Time)>,
    offset: Time,
}

#[derive(Clone, Copy, Debug)]
struct JobState {
    arrival: Time,
    left: Time,
    until_blocked: Time,
}

/// Why the first job does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It is done.
    Done {
        /// Its task.
        task: usize,
        /// When it arrived.
        arrival: Time,
    },
    /// It waits for a device.
    Blocked {
        /// Its task.
        task: usize,
        /// For how long.
        length: Time,
    },
    /// Its quantum is over.
    Turn,
}

impl Guest {
    /// The vCPU before its first release. Its tasks take the streams of randomness from `first_stream` on.
    pub fn new(vcpu: &Vcpu, seed: u64, first_stream: usize) -> Self {
        let ranks = ranks(vcpu.scheduler, &vcpu.tasks);
        let task = |(place, task): (usize, &Task)| {
            let random = Random::stream(seed, first_stream + place);
            TaskState::new(task, ranks[place], random)
        };
        let (order, quantum) = match vcpu.scheduler {
            GuestPolicy::RateMonotonic | GuestPolicy::DeadlineMonotonic => (Order::Rank, Time::MAX),
            GuestPolicy::Edf => (Order::Deadline, Time::MAX),
            GuestPolicy::RoundRobin { quantum } => (Order::Turn, nanos(quantum)),
        };
        Self {
            order,
            tasks: vcpu.tasks.iter().enumerate().map(task).collect(),
            ready: Vec::with_capacity(vcpu.tasks.len()),
            turn: 0,
            quantum,
            quantum_left: quantum,
        }
    }

    /// How many tasks it has.
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// When the next job of a task is released.
    pub fn next_release(&self, task: usize) -> Time {
        self.tasks[task].next.1
    }

    /// Whether a job is ready.
    pub fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The task whose job goes first.
    pub fn first(&self) -> Option<usize> {
        self.ready.last().map(|ready| ready.task)
    }

    /// The next job of a task is released.
    pub fn release(&mut self, task: usize) {
        let state = &mut self.tasks[task];
        let job = state.next_job();
        if state.job.is_some() {
            state.waiting.push_back(job);
            return;
        }
        state.job = Some(job);
        self.insert(task);
    }

    /// The job of a task has its answer.
    pub fn answered(&mut self, task: usize) {
        self.insert(task);
    }

    /// How long the first job can run until [`Guest::advance`] has something to say.
    pub fn until_event(&self) -> Time {
        let Some(first) = self.ready.last() else {
            return Time::MAX;
        };
        let quantum = if self.ready.len() > 1 {
            self.quantum_left
        } else {
            Time::MAX
        };
        let job = self.tasks[first.task].job;
        job.map_or(Time::MAX, |job| job.left.min(job.until_blocked))
            .min(quantum)
    }

    /// The first job runs for `length`, which is at most [`Guest::until_event`].
    pub fn advance(&mut self, length: Time) -> Option<Stopped> {
        let task = self.first()?;
        let state = &mut self.tasks[task];
        let job = state.job.as_mut()?;
        job.left -= length;
        job.until_blocked -= length;
        self.quantum_left = self.quantum_left.saturating_sub(length);
        if job.left == 0 {
            let arrival = job.arrival;
            state.job = state.waiting.pop_front();
            let has_next = state.job.is_some();
            self.remove_first();
            if has_next {
                self.insert(task);
            }
            return Some(Stopped::Done { task, arrival });
        }
        if job.until_blocked == 0 {
            job.until_blocked = Time::MAX;
            let length = state.times.blocks_for;
            self.remove_first();
            return Some(Stopped::Blocked { task, length });
        }
        self.rotate().then_some(Stopped::Turn)
    }

    /// Arrivals of the jobs of a task that are not done.
    pub fn unfinished(&self, task: usize) -> impl Iterator<Item = Time> + '_ {
        let state = &self.tasks[task];
        let current = state.job.map(|job| job.arrival);
        let waiting = state.waiting.iter().map(|job| job.arrival);
        current.into_iter().chain(waiting)
    }

    fn key(&mut self, task: usize) -> (u64, usize) {
        let state = &self.tasks[task];
        match self.order {
            Order::Rank => (0, state.rank),
            Order::Deadline => {
                let arrival = state.job.map_or(0, |job| job.arrival);
                (arrival.saturating_add(state.times.deadline), state.rank)
            }
            Order::Turn => {
                self.turn += 1;
                (self.turn, 0)
            }
        }
    }

    fn insert(&mut self, task: usize) {
        let key = self.key(task);
        let place = self.ready.partition_point(|other| other.key > key);
        self.ready.insert(place, Ready { key, task });
        // Alone, a job may have run longer than its quantum.
        self.rotate();
    }

    fn remove_first(&mut self) {
        self.ready.pop();
        self.quantum_left = self.quantum;
    }

    /// Sends the first job to the end of the round if its quantum is over and others wait.
    fn rotate(&mut self) -> bool {
        if self.quantum_left > 0 || self.ready.len() < 2 {
            return false;
        }
        if let Some(first) = self.ready.pop() {
            self.quantum_left = self.quantum;
            self.insert(first.task);
        }
        true
    }
}

impl TaskState {
    fn new(task: &Task, rank: usize, mut random: Random) -> Self {
        let blocking = task.blocking;
        let times = Times {
            shortest: nanos(task.shortest),
            execution: nanos(task.execution),
            period: nanos(task.period),
            deadline: nanos(task.deadline),
            jitter: nanos(task.jitter),
            blocks_after: blocking.map_or(Time::MAX, |blocking| nanos(blocking.after)),
            blocks_for: blocking.map_or(0, |blocking| nanos(blocking.sleep)),
            step: task
                .step
                .map(|step| (nanos(step.execution), nanos(step.every).max(1))),
            offset: nanos(task.offset),
        };
        let arrival = nanos(task.offset);
        Self {
            times,
            rank,
            next: (arrival, arrival + random.between(0, times.jitter)),
            random,
            waiting: VecDeque::new(),
            job: None,
        }
    }

    /// The job that is released now. All randomness is drawn here, so that it does not depend on the schedule.
    fn next_job(&mut self) -> JobState {
        let (arrival, release) = self.next;
        let times = self.times;
        let next = arrival.saturating_add(times.period);
        let jitter = self.random.between(0, times.jitter);
        // Jitter beyond the period does not let jobs overtake one another.
        self.next = (next, next.saturating_add(jitter).max(release));
        let execution = self.random.between(times.shortest, times.execution);
        let stepped = times
            .step
            .filter(|(_, every)| (arrival - times.offset) / every % 2 == 1);
        JobState {
            arrival,
            left: stepped.map_or(execution, |(execution, _)| execution),
            until_blocked: times.blocks_after,
        }
    }
}

/// The rank of each task, 0 first: by explicit priority, then by period or deadline, then by order; by order alone where
/// there are no priorities.
fn ranks(policy: GuestPolicy, tasks: &[Task]) -> Vec<usize> {
    let key = |task: &Task| {
        let otherwise = match policy {
            GuestPolicy::RateMonotonic => nanos(task.period),
            GuestPolicy::DeadlineMonotonic => nanos(task.deadline),
            GuestPolicy::Edf | GuestPolicy::RoundRobin { .. } => return (0, 0),
        };
        task.priority
            .map_or((1, otherwise), |priority| (0, priority.into()))
    };
    let mut order: Vec<usize> = (0..tasks.len()).collect();
    // Stable: by order where keys are equal.
    order.sort_by_key(|place| key(&tasks[*place]));
    let mut ranks = vec![0; tasks.len()];
    for (rank, place) in order.into_iter().enumerate() {
        ranks[place] = rank;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::Blocking;
    use crate::sim::Server;
    use proptest::prelude::*;
    use rt_abi::policy::{self, JobView};
    use rt_abi::taskset::{self, Name};
    use std::time::Duration;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn guest(scheduler: GuestPolicy, tasks: Vec<Task>) -> Guest {
        Guest::new(
            &Vcpu::new(Server::new(ms(1), ms(1)), scheduler, tasks),
            0,
            0,
        )
    }

    /// As rt-guest knows it.
    fn of_rt_guest(task: &Task) -> taskset::Task {
        let name = Name::new("t").unwrap();
        taskset::Task {
            deadline: nanos(task.deadline),
            priority: task
                .priority
                .map(|priority| u8::try_from(priority).unwrap()),
            ..taskset::Task::periodic(name, nanos(task.execution), nanos(task.period))
        }
    }

    fn task() -> impl Strategy<Value = Task> {
        (1u64..4, 1u64..6, prop::option::of(0u32..3)).prop_map(|(deadline, more, priority)| Task {
            deadline: ms(deadline),
            priority,
            ..Task::new(ms(1), ms(deadline + more))
        })
    }

    proptest! {
        #[test]
        fn the_job_that_goes_first_is_the_one_that_rt_guest_picks(
            tasks in prop::collection::vec(task(), 1..8), jobs in prop::collection::vec(0u64..4, 8), edf: bool,
        ) {
            let (ours, theirs) = match edf {
                true => (GuestPolicy::Edf, taskset::Policy::Edf),
                false => (GuestPolicy::RateMonotonic, taskset::Policy::RateMonotonic),
            };
            let mut guest = guest(ours, tasks.clone());
            let known: Vec<_> = tasks.iter().map(of_rt_guest).collect();
            let mut ready = Vec::new();
            // Job number 0 stands for a task that is not ready.
            for (place, job) in (0..tasks.len()).zip(&jobs) {
                guest.tasks[place].next.0 = nanos(tasks[place].period) * job;
                if *job > 0 {
                    guest.release(place);
                    ready.push(JobView::new(place, &known[place], *job, 0));
                }
            }
            let ranks = policy::ranks(theirs, &known);
            prop_assert_eq!(guest.first(), policy::pick(theirs, &ranks, ready.into_iter()));
        }
    }

    #[test]
    fn jobs_take_turns_of_one_quantum_each() {
        let quantum = ms(2);
        let tasks = vec![Task::new(ms(5), ms(100)), Task::new(ms(3), ms(100))];
        let mut guest = guest(GuestPolicy::RoundRobin { quantum }, tasks);
        guest.release(0);
        guest.release(1);
        let mut turns = Vec::new();
        while let Some(task) = guest.first() {
            let length = guest.until_event();
            guest.advance(length);
            turns.push((task, length / 1_000_000));
        }
        assert_eq!(turns, [(0, 2), (1, 2), (0, 2), (1, 1), (0, 1)]);
    }

    #[test]
    fn who_ran_alone_for_longer_than_a_quantum_makes_way_for_the_next() {
        let quantum = ms(2);
        let tasks = vec![Task::new(ms(9), ms(100)), Task::new(ms(3), ms(100))];
        let mut guest = guest(GuestPolicy::RoundRobin { quantum }, tasks);
        guest.release(0);
        assert_eq!(guest.until_event(), 9_000_000);
        guest.advance(3_000_000);
        guest.release(1);
        assert_eq!((guest.first(), guest.until_event()), (Some(1), 2_000_000));
    }

    #[test]
    fn a_job_waits_for_its_device_once() {
        let blocking = Blocking {
            after: ms(2),
            sleep: ms(7),
        };
        let task = Task {
            blocking: Some(blocking),
            ..Task::new(ms(5), ms(100))
        };
        let mut guest = guest(GuestPolicy::Edf, vec![task]);
        guest.release(0);
        assert_eq!(guest.until_event(), 2_000_000);
        let blocked = Stopped::Blocked {
            task: 0,
            length: 7_000_000,
        };
        assert_eq!(guest.advance(2_000_000), Some(blocked));
        assert!(!guest.has_work());
        guest.answered(0);
        assert_eq!(guest.until_event(), 3_000_000);
        let done = Stopped::Done {
            task: 0,
            arrival: 0,
        };
        assert_eq!(guest.advance(3_000_000), Some(done));
    }
}

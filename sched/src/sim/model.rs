//! What is simulated: CPUs, a host policy, and virtual machines with their tasks.

use std::time::Duration;

/// A host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// How many CPUs it has.
    pub cpus: usize,
    /// How it shares them.
    pub policy: Policy,
    /// What scheduling costs.
    pub overheads: Overheads,
    /// Its virtual machines.
    pub vms: Vec<Vm>,
}

impl Host {
    /// A host without overheads.
    pub fn new(cpus: usize, policy: Policy, vms: Vec<Vm>) -> Self {
        Self {
            cpus,
            policy,
            overheads: Overheads::default(),
            vms,
        }
    }

    /// All vCPUs, VM by VM: the order in which they are numbered.
    pub fn vcpus(&self) -> impl Iterator<Item = &Vcpu> {
        self.vms.iter().flat_map(|vm| &vm.vcpus)
    }
}

/// How the host shares its CPUs among vCPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Earliest deadline first among hard constant bandwidth servers: SCHED_DEADLINE.
    Deadline,
    /// Fixed priorities among deferrable servers: an idle server keeps its budget until the period ends.
    Deferrable,
    /// Fixed priorities among periodic servers: an idle server holds the CPU until its budget is gone.
    Periodic,
    /// As [`Policy::Periodic`], but the CPU that an idle server holds goes to the next server that has work.
    WorkConservingPeriodic,
    /// Fixed priorities among sporadic servers: what was consumed comes back one period after its use began.
    Sporadic,
    /// Weights, credits and boost, as in Xen's credit scheduler.
    Credit {
        /// How long a vCPU runs at most before another of its class; Xen: 30 ms.
        slice: Duration,
    },
    /// Weights and virtual run time, as in the Completely Fair Scheduler.
    ProportionalShare {
        /// The time in which every vCPU with work is to run once.
        latency: Duration,
        /// How long a vCPU runs at least once it was chosen.
        granularity: Duration,
    },
    /// A table of slots for every CPU, repeated for ever: a virtual task machine's.
    Table(Vec<Vec<Slot>>),
}

/// One slot of a dispatch table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// The number of the vCPU it belongs to; none leaves the CPU idle.
    pub owner: Option<usize>,
    /// Its length.
    pub length: Duration,
}

/// What scheduling costs. The CPU works it off before anything else, at the expense of whoever runs next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overheads {
    /// When a CPU goes over to a vCPU.
    pub switch: Duration,
    /// When the end of a budget or slice takes the CPU from a vCPU, on top of the switch.
    pub budget_switch: Duration,
}

/// A virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vm {
    /// Its virtual CPUs. Tasks do not move between them.
    pub vcpus: Vec<Vcpu>,
}

impl Vm {
    /// A VM with one vCPU.
    pub fn single(vcpu: Vcpu) -> Self {
        Self { vcpus: vec![vcpu] }
    }
}

/// A virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vcpu {
    /// The CPU it is bound to. Either all vCPUs of a host are bound, or none is and all share all CPUs.
    pub cpu: Option<usize>,
    /// Its reservation, for policies that have them.
    pub server: Server,
    /// Its weight, for policies that have them.
    pub weight: u32,
    /// How it shares what it gets.
    pub scheduler: GuestPolicy,
    /// Its tasks.
    pub tasks: Vec<Task>,
}

impl Vcpu {
    /// A vCPU bound to CPU 0, with the usual weight.
    pub fn new(server: Server, scheduler: GuestPolicy, tasks: Vec<Task>) -> Self {
        Self {
            cpu: Some(0),
            server,
            weight: 1024,
            scheduler,
            tasks,
        }
    }
}

/// A reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Server {
    /// Q.
    pub budget: Duration,
    /// P.
    pub period: Duration,
    /// By when, from the beginning of the period; at most the period. Only [`Policy::Deadline`] looks at it.
    pub deadline: Duration,
    /// For fixed priorities: the smaller number first, ahead of servers without one; these go by period.
    pub priority: Option<u32>,
}

impl Server {
    /// Q in every P.
    pub fn new(budget: Duration, period: Duration) -> Self {
        Self {
            budget,
            period,
            deadline: period,
            priority: None,
        }
    }
}

/// How a vCPU shares what it gets among its tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestPolicy {
    /// Fixed priorities: as given, then the shorter period first (Liu and Layland, JACM 1973).
    RateMonotonic,
    /// Fixed priorities: as given, then the shorter relative deadline first (Leung and Whitehead 1982).
    DeadlineMonotonic,
    /// The earliest absolute deadline first.
    Edf,
    /// In turn, each for at most a quantum.
    RoundRobin {
        /// The quantum.
        quantum: Duration,
    },
}

/// A periodic task. Response times and deadlines count from the arrival; the release follows within the jitter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Least execution time of a job.
    pub shortest: Duration,
    /// Greatest execution time of a job; all between the two are equally likely.
    pub execution: Duration,
    /// Time between two arrivals.
    pub period: Duration,
    /// Relative deadline.
    pub deadline: Duration,
    /// The first arrival.
    pub offset: Duration,
    /// How much later than its arrival a job is released at most; all delays are equally likely.
    pub jitter: Duration,
    /// Fixed priority: the smaller number first, ahead of tasks without one.
    pub priority: Option<u32>,
    /// Where its jobs wait for a device.
    pub blocking: Option<Blocking>,
    /// How its execution time steps, if it does.
    pub step: Option<Step>,
}

impl Task {
    /// A task whose deadline is its period, and whose jobs all take the same time.
    pub fn new(execution: Duration, period: Duration) -> Self {
        Self {
            shortest: execution,
            execution,
            period,
            deadline: period,
            offset: Duration::ZERO,
            jitter: Duration::ZERO,
            priority: None,
            blocking: None,
            step: None,
        }
    }

    /// One job that never ends, after all others: load.
    pub fn hog() -> Self {
        Self::new(Duration::MAX, Duration::MAX)
    }
}

/// An execution time that takes turns with the task's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Execution time of a job in every other turn.
    pub execution: Duration,
    /// Length of a turn, counted from the first arrival.
    pub every: Duration,
}

/// A job that waits for a device once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocking {
    /// After this much of its execution; a job that is shorter does not wait.
    pub after: Duration,
    /// For this long.
    pub sleep: Duration,
}

/// How long and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// How much time passes on the host.
    pub length: Duration,
    /// Of everything random.
    pub seed: u64,
    /// What is kept.
    pub record: Record,
}

impl Run {
    /// A run of which everything is kept, with seed 0.
    pub fn of(length: Duration) -> Self {
        Self {
            length,
            seed: 0,
            record: Record::Everything,
        }
    }
}

/// What is kept of a run. All but the counts takes memory in proportion to its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// Counts and longest response times.
    Counts,
    /// And every job.
    Jobs,
    /// And every stretch of execution.
    Everything,
}

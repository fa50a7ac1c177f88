//! The policies: a host is simulated with the servers, and every deadline watched.

use std::time::Duration;

use sched::analysis::{Priorities, Scheduler, Task};
use sched::random::Random;
use sched::sim::{self, GuestPolicy, Host, Policy, Record, Run, SimError, Slot, Vcpu, Vm};
use sched::vtm::{self, Need, Placement, Table, Vtm};

use super::configuration::{Configuration, Guest, LONGEST_PERIOD};
use super::interface::Interface;

/// How long each schedule is: at 110 % of the CPUs, longer than it takes until a deadline has to be missed, which is ten
/// times the sum of U T over the tasks of a CPU.
pub const LENGTH: Duration = LONGEST_PERIOD.saturating_mul(15);
/// Slots of a dispatch table.
const SLOT: Duration = Duration::from_micros(250);
/// Xen's.
const CREDIT_SLICE: Duration = Duration::from_millis(30);
/// CFS's for one CPU; with four it takes three times these (`1 + ilog2(cpus)`, kernel/sched/fair.c).
const LATENCY: Duration = Duration::from_millis(6);
const GRANULARITY: Duration = Duration::from_micros(750);
/// Weight of a whole CPU.
const WEIGHT: u128 = 10_240;

/// A policy of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// EDF among hard constant bandwidth servers.
    Edf,
    /// Fixed priorities among deferrable servers.
    Deferrable,
    /// Among periodic ones.
    Periodic,
    /// Among work-conserving periodic ones.
    WorkConserving,
    /// Among sporadic ones.
    Sporadic,
    /// Credits, weights as the servers' bandwidths.
    Credit,
    /// Virtual run time, weights likewise.
    ProportionalShare,
    /// A table.
    Table,
}

impl Kind {
    /// All.
    pub const ALL: [Self; 8] = [
        Self::Edf,
        Self::Deferrable,
        Self::Periodic,
        Self::WorkConserving,
        Self::Sporadic,
        Self::Credit,
        Self::ProportionalShare,
        Self::Table,
    ];
    /// Those that can share CPUs among all vCPUs.
    pub const SHARED: [Self; 7] = [
        Self::Edf,
        Self::Deferrable,
        Self::Periodic,
        Self::WorkConserving,
        Self::Sporadic,
        Self::Credit,
        Self::ProportionalShare,
    ];

    /// Its short name, as `simulate` has it.
    pub fn key(self) -> &'static str {
        match self {
            Self::Edf => "deadline",
            Self::Deferrable => "deferrable",
            Self::Periodic => "periodic",
            Self::WorkConserving => "work-conserving-periodic",
            Self::Sporadic => "sporadic",
            Self::Credit => "credit",
            Self::ProportionalShare => "proportional-share",
            Self::Table => "table",
        }
    }

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Edf => "EDF, hard CBS",
            Self::Deferrable => "deferrable servers",
            Self::Periodic => "periodic servers",
            Self::WorkConserving => "work-conserving periodic",
            Self::Sporadic => "sporadic servers",
            Self::Credit => "credit",
            Self::ProportionalShare => "proportional share",
            Self::Table => "dispatch table",
        }
    }

    /// Nothing where there is no table.
    fn policy(self, interface: &Interface, cpus: usize) -> Option<Policy> {
        let scale = if cpus == 1 { 1 } else { 3 };
        Some(match self {
            Self::Edf => Policy::Deadline,
            Self::Deferrable => Policy::Deferrable,
            Self::Periodic => Policy::Periodic,
            Self::WorkConserving => Policy::WorkConservingPeriodic,
            Self::Sporadic => Policy::Sporadic,
            Self::Credit => Policy::Credit {
                slice: CREDIT_SLICE,
            },
            Self::ProportionalShare => Policy::ProportionalShare {
                latency: LATENCY * scale,
                granularity: GRANULARITY * scale,
            },
            Self::Table => Policy::Table(tables(interface, interface.servers.len(), cpus)?),
        })
    }
}

/// A table for every CPU with each server's budget rounded up to whole slots; nothing if they do not fit.
pub fn tables(interface: &Interface, vcpus: usize, cpus: usize) -> Option<Vec<Vec<Slot>>> {
    (0..cpus).map(|cpu| table(interface, vcpus, cpu)).collect()
}

fn table(interface: &Interface, vcpus: usize, cpu: usize) -> Option<Vec<Slot>> {
    let here: Vec<usize> = (0..vcpus).filter(|&at| interface.cpus[at] == cpu).collect();
    if here.is_empty() {
        return Some(vec![Slot {
            owner: None,
            length: SLOT,
        }]);
    }
    let vtm = |&at: &usize| {
        let server = interface.servers[at];
        let slots = server.budget.as_nanos().div_ceil(SLOT.as_nanos());
        Some(Vtm {
            name: at.to_string(),
            period: server.period,
            need: Need::Time(SLOT * u32::try_from(slots).ok()?),
            max_delay: None,
        })
    };
    let vtms = here.iter().map(vtm).collect::<Option<Vec<_>>>()?;
    let used = |vtm: &Vtm| match vtm.need {
        Need::Time(time) => time.as_secs_f64() / vtm.period.as_secs_f64(),
        Need::Usage(percent) => percent / 100.0,
    };
    // What overloads the CPU has no table: no need to have it worked out what would fit.
    if vtms.iter().map(used).sum::<f64>() > 1.0 + 1e-9 {
        return None;
    }
    let policy = vtm::Policy::EarliestDeadlineFirst;
    let table = Table::new(SLOT, policy, Placement::AllAsSoon, &vtms).ok()?;
    let slot = |owner: &Option<usize>| Slot {
        owner: owner.map(|vtm| here[vtm]),
        length: SLOT,
    };
    Some(table.slots().iter().map(slot).collect())
}

/// When tasks are released first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Releases {
    /// All at once.
    Together,
    /// Each anywhere in its period, by this seed.
    Apart(u64),
}

/// Whether no deadline is missed; a policy that has no place for the servers misses them.
///
/// # Errors
/// A description that cannot be simulated.
pub fn meets_all(
    configuration: &Configuration,
    (guests, interface): (&[Guest], &Interface),
    (kind, releases): (Kind, Releases),
) -> Result<bool, SimError> {
    let Some(policy) = kind.policy(interface, configuration.cpus) else {
        return Ok(false);
    };
    let mut random = match releases {
        Releases::Together => None,
        Releases::Apart(seed) => Some(Random::stream(seed, 0)),
    };
    let mut simulated = |task: &Task| sim::Task {
        deadline: task.deadline,
        offset: random
            .as_mut()
            .map_or(Duration::ZERO, |random| task.period.mul_f64(random.unit())),
        ..sim::Task::new(task.execution, task.period)
    };
    let vcpu = |(at, guest): (usize, &Guest)| Vcpu {
        cpu: configuration.is_bound.then(|| interface.cpus[at]),
        server: interface.servers[at],
        weight: weight(&interface.servers[at]),
        scheduler: guest_policy(configuration.guests),
        tasks: guest.tasks.iter().map(&mut simulated).collect(),
    };
    let vms = guests.iter().enumerate().map(vcpu).map(Vm::single);
    let host = Host::new(configuration.cpus, policy, vms.collect());
    let run = Run {
        length: LENGTH,
        seed: 0,
        record: Record::Counts,
    };
    let outcome = sim::simulate(&host, &run)?;
    Ok(outcome.tasks.iter().all(|task| task.missed == 0))
}

fn guest_policy(scheduler: Scheduler) -> GuestPolicy {
    match scheduler {
        Scheduler::EarliestDeadlineFirst => GuestPolicy::Edf,
        Scheduler::FixedPriority(Priorities::DeadlineMonotonic) => GuestPolicy::DeadlineMonotonic,
        Scheduler::FixedPriority(_) => GuestPolicy::RateMonotonic,
    }
}

/// In proportion to Q / P, at least 1.
fn weight(server: &sim::Server) -> u32 {
    let scaled = server.budget.as_nanos() * WEIGHT / server.period.as_nanos().max(1);
    u32::try_from(scaled).unwrap_or(u32::MAX).max(1)
}

//! Whether a description can be simulated.

use std::time::Duration;

use thiserror::Error;

use super::model::{GuestPolicy, Host, Policy, Run, Slot, Task, Vcpu};

/// The longest run, and the longest time of anything but a hog: 1000 hours. Sums and products stay far from overflow.
const LONGEST: Duration = Duration::from_secs(3_600_000);

/// A description that cannot be simulated.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{place}: {problem}")]
pub struct SimError {
    /// Where: "host", "vCPU 3", "task 1 of vCPU 3"; all count from 0, vCPUs over all VMs.
    pub place: String,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a description.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Problem {
    /// Nothing can run.
    #[error("has no CPU: give it at least one")]
    NoCpu,
    /// A vCPU is bound to a CPU that does not exist.
    #[error("is bound to CPU {cpu} of {cpus}: use 0 to {}", .cpus - 1)]
    CpuOutOfRange {
        /// The CPU.
        cpu: usize,
        /// How many there are.
        cpus: usize,
    },
    /// Some vCPUs are bound, some are not.
    #[error("binds some vCPUs to CPUs and leaves others free: bind all or none")]
    PartlyBound,
    /// A dispatch table schedules one CPU.
    #[error("is bound to no CPU: a dispatch table needs it bound")]
    Unbound,
    /// Dispatch tables and CPUs do not match.
    #[error("has {tables} dispatch tables for {cpus} CPUs: give one for each")]
    Tables {
        /// Tables given.
        tables: usize,
        /// CPUs there are.
        cpus: usize,
    },
    /// A dispatch table is empty.
    #[error("has no slot: give it at least one")]
    NoSlot,
    /// A slot belongs to a vCPU that is not there.
    #[error("has a slot for vCPU {owner}, which is not on this CPU")]
    SlotOwner {
        /// The vCPU.
        owner: usize,
    },
    /// Something has to be longer than nothing.
    #[error("{what} is 0: it has to be longer")]
    Zero {
        /// What.
        what: &'static str,
    },
    /// More happens than can be simulated.
    #[error(
        "{most} instants take it to {until:?} of {length:?}: simulate no longer than that, or lengthen the shortest period, quantum or slot"
    )]
    TooMuch {
        /// Instants that are simulated.
        most: u64,
        /// When the last of them is.
        until: Duration,
        /// How long the run is.
        length: Duration,
    },
    /// One time exceeds another.
    #[error("{what} {value:?} exceeds the {limit} of {most:?}")]
    Exceeds {
        /// What.
        what: &'static str,
        /// How long it is.
        value: Duration,
        /// What it must not exceed.
        limit: &'static str,
        /// How long that is.
        most: Duration,
    },
}

type Checked = Result<(), Problem>;

/// Checks everything, in the order of the description.
pub fn check(host: &Host, run: &Run) -> Result<(), SimError> {
    at("host", check_host(host))?;
    at("run", within("length", run.length, ("limit", LONGEST)))?;
    if let Policy::Table(tables) = &host.policy {
        for (cpu, table) in tables.iter().enumerate() {
            at(
                format!("dispatch table {cpu}"),
                check_table(host, cpu, table),
            )?;
        }
    }
    for (number, vcpu) in host.vcpus().enumerate() {
        at(format!("vCPU {number}"), check_vcpu(host, vcpu))?;
        for (place, task) in vcpu.tasks.iter().enumerate() {
            at(format!("task {place} of vCPU {number}"), check_task(task))?;
        }
    }
    Ok(())
}

fn at(place: impl Into<String>, checked: Checked) -> Result<(), SimError> {
    checked.map_err(|problem| SimError {
        place: place.into(),
        problem,
    })
}

fn check_host(host: &Host) -> Checked {
    if host.cpus == 0 {
        return Err(Problem::NoCpu);
    }
    let bound = host.vcpus().filter(|vcpu| vcpu.cpu.is_some()).count();
    if bound != 0 && bound != host.vcpus().count() {
        return Err(Problem::PartlyBound);
    }
    let limit = ("limit", LONGEST);
    within("switch", host.overheads.switch, limit)?;
    within("budget switch", host.overheads.budget_switch, limit)?;
    match &host.policy {
        Policy::Credit { slice } => positive("slice", *slice),
        Policy::ProportionalShare {
            latency,
            granularity,
        } => {
            positive("latency", *latency)?;
            positive("granularity", *granularity)
        }
        Policy::Table(tables) if tables.len() != host.cpus => Err(Problem::Tables {
            tables: tables.len(),
            cpus: host.cpus,
        }),
        _ => Ok(()),
    }
}

fn check_table(host: &Host, cpu: usize, table: &[Slot]) -> Checked {
    if table.is_empty() {
        return Err(Problem::NoSlot);
    }
    for slot in table {
        positive("slot", slot.length)?;
        within("slot", slot.length, ("limit", LONGEST))?;
        let Some(owner) = slot.owner else { continue };
        let is_here = host
            .vcpus()
            .nth(owner)
            .is_some_and(|vcpu| vcpu.cpu == Some(cpu));
        if !is_here {
            return Err(Problem::SlotOwner { owner });
        }
    }
    Ok(())
}

fn check_vcpu(host: &Host, vcpu: &Vcpu) -> Checked {
    if let Some(cpu) = vcpu.cpu.filter(|cpu| *cpu >= host.cpus) {
        let cpus = host.cpus;
        return Err(Problem::CpuOutOfRange { cpu, cpus });
    }
    if let GuestPolicy::RoundRobin { quantum } = vcpu.scheduler {
        positive("quantum", quantum)?;
    }
    match host.policy {
        Policy::Credit { .. } | Policy::ProportionalShare { .. } if vcpu.weight == 0 => {
            Err(Problem::Zero { what: "weight" })
        }
        Policy::Credit { .. } | Policy::ProportionalShare { .. } => Ok(()),
        Policy::Table(_) if vcpu.cpu.is_none() => Err(Problem::Unbound),
        Policy::Table(_) => Ok(()),
        Policy::Deadline
        | Policy::Deferrable
        | Policy::Periodic
        | Policy::WorkConservingPeriodic
        | Policy::Sporadic => {
            let server = vcpu.server;
            positive("budget", server.budget)?;
            within("period", server.period, ("limit", LONGEST))?;
            within("deadline", server.deadline, ("period", server.period))?;
            within("budget", server.budget, ("deadline", server.deadline))
        }
    }
}

fn check_task(task: &Task) -> Checked {
    if let Some(step) = task.step {
        positive("step", step.every)?;
        positive("stepped execution", step.execution)?;
        within("stepped execution", step.execution, ("limit", LONGEST))?;
    }
    positive("execution time", task.execution)?;
    positive("shortest execution time", task.shortest)?;
    positive("period", task.period)?;
    positive("deadline", task.deadline)?;
    let longest = ("execution time", task.execution);
    within("shortest execution time", task.shortest, longest)?;
    within("offset", task.offset, ("limit", LONGEST))?;
    within("jitter", task.jitter, ("limit", LONGEST))?;
    let Some(blocking) = task.blocking else {
        return Ok(());
    };
    positive("execution before blocking", blocking.after)?;
    within("blocking", blocking.sleep, ("limit", LONGEST))
}

fn positive(what: &'static str, value: Duration) -> Checked {
    if value.is_zero() {
        return Err(Problem::Zero { what });
    }
    Ok(())
}

fn within(what: &'static str, value: Duration, (limit, most): (&'static str, Duration)) -> Checked {
    if value > most {
        return Err(Problem::Exceeds {
            what,
            value,
            limit,
            most,
        });
    }
    Ok(())
}

//! What is to be simulated, as a user writes it, and the host that it becomes.

use std::time::Duration;

use sched::sim::{Blocking, GuestPolicy, Host, Overheads, Policy, Server, Slot, Task, Vcpu, Vm};
use serde::{Deserialize, Serialize};
use vmm::units::Span;

use crate::failure::Failure;

/// The most CPUs, and the most vCPUs of all VMs: far above any host, and little memory.
const MOST_CPUS: usize = 4096;

/// A simulation as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    #[serde(default = "one")]
    cpus: usize,
    /// How the host shares its CPUs.
    pub policy: PolicyName,
    /// How much time passes.
    pub length: Span,
    /// Of everything random.
    #[serde(default)]
    pub seed: u64,
    slice: Option<Span>,
    latency: Option<Span>,
    granularity: Option<Span>,
    switch: Option<Span>,
    budget_switch: Option<Span>,
    #[serde(default, rename = "vm")]
    vms: Vec<VmEntry>,
    #[serde(default, rename = "slot")]
    slots: Vec<SlotEntry>,
}

/// The host policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyName {
    /// EDF among hard constant bandwidth servers: SCHED_DEADLINE.
    Deadline,
    /// Deferrable servers.
    Deferrable,
    /// Periodic servers.
    Periodic,
    /// Work-conserving periodic servers.
    WorkConservingPeriodic,
    /// Sporadic servers.
    Sporadic,
    /// Like Xen's credit scheduler.
    Credit,
    /// Like the Completely Fair Scheduler.
    ProportionalShare,
    /// Dispatch tables.
    Table,
}

impl PolicyName {
    fn has_reservations(self) -> bool {
        !matches!(self, Self::Credit | Self::ProportionalShare | Self::Table)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VmEntry {
    name: String,
    #[serde(default = "one")]
    vcpus: usize,
    /// The CPU of each vCPU.
    cpus: Option<Vec<usize>>,
    runtime: Option<Span>,
    period: Option<Span>,
    deadline: Option<Span>,
    priority: Option<u32>,
    weight: Option<u32>,
    #[serde(default)]
    scheduler: SchedulerName,
    quantum: Option<Span>,
    #[serde(default, rename = "task")]
    tasks: Vec<TaskEntry>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SchedulerName {
    #[default]
    Rm,
    Dm,
    Edf,
    RoundRobin,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskEntry {
    name: String,
    #[serde(default)]
    vcpu: usize,
    /// Without a period: one job that never ends.
    execution: Option<Span>,
    shortest: Option<Span>,
    period: Option<Span>,
    deadline: Option<Span>,
    offset: Option<Span>,
    jitter: Option<Span>,
    priority: Option<u32>,
    blocks_after: Option<Span>,
    blocks_for: Option<Span>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotEntry {
    #[serde(default)]
    cpu: usize,
    vm: Option<String>,
    #[serde(default)]
    vcpu: usize,
    length: Span,
}

fn one() -> usize {
    1
}

fn time(span: Option<Span>, otherwise: Duration) -> Duration {
    span.map_or(otherwise, Span::duration)
}

/// The names of a task and where it runs.
#[derive(Clone, Debug)]
pub struct TaskName {
    /// Its VM.
    pub vm: String,
    /// The vCPU in it.
    pub vcpu: usize,
    /// Its own name.
    pub task: String,
}

impl Description {
    /// The host, and the names of its tasks in the order of the outcome.
    pub fn host(&self) -> Result<(Host, Vec<TaskName>), Failure> {
        self.check_counts()?;
        let vms: Result<Vec<Vm>, Failure> = self.vms.iter().map(|vm| self.vm(vm)).collect();
        let zero = Duration::ZERO;
        let host = Host {
            overheads: Overheads {
                switch: time(self.switch, zero),
                budget_switch: time(self.budget_switch, zero),
            },
            ..Host::new(self.cpus, self.host_policy()?, vms?)
        };
        Ok((host, self.names()))
    }

    fn check_counts(&self) -> Result<(), Failure> {
        let vcpus = self.vms.iter().map(|vm| vm.vcpus);
        let vcpus = vcpus.fold(0, usize::saturating_add);
        for (what, count) in [("cpus", self.cpus), ("vcpus of all VMs", vcpus)] {
            if count > MOST_CPUS {
                return Err(Failure::new(format!(
                    "{what} = {count}: give at most {MOST_CPUS}"
                )));
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<TaskName> {
        let of_vcpu = |vm: &VmEntry, vcpu: usize| {
            let named = |task: &TaskEntry| TaskName {
                vm: vm.name.clone(),
                vcpu,
                task: task.name.clone(),
            };
            let own = vm.tasks.iter().filter(|task| task.vcpu == vcpu);
            own.map(named).collect::<Vec<_>>()
        };
        let of_vm = |vm: &VmEntry| -> Vec<TaskName> {
            (0..vm.vcpus).flat_map(|vcpu| of_vcpu(vm, vcpu)).collect()
        };
        self.vms.iter().flat_map(of_vm).collect()
    }

    fn host_policy(&self) -> Result<Policy, Failure> {
        let ms = Duration::from_millis;
        Ok(match self.policy {
            PolicyName::Deadline => Policy::Deadline,
            PolicyName::Deferrable => Policy::Deferrable,
            PolicyName::Periodic => Policy::Periodic,
            PolicyName::WorkConservingPeriodic => Policy::WorkConservingPeriodic,
            PolicyName::Sporadic => Policy::Sporadic,
            PolicyName::Credit => Policy::Credit {
                slice: time(self.slice, ms(30)),
            },
            PolicyName::ProportionalShare => Policy::ProportionalShare {
                latency: time(self.latency, ms(24)),
                granularity: time(self.granularity, ms(3)),
            },
            PolicyName::Table => Policy::Table(self.tables()?),
        })
    }

    fn tables(&self) -> Result<Vec<Vec<Slot>>, Failure> {
        let mut tables = vec![Vec::new(); self.cpus];
        for entry in &self.slots {
            let owner = entry.vm.as_ref().map(|vm| self.number(vm, entry.vcpu));
            let slot = Slot {
                owner: owner.transpose()?,
                length: entry.length.duration(),
            };
            let Some(table) = tables.get_mut(entry.cpu) else {
                let (cpu, cpus) = (entry.cpu, self.cpus);
                return Err(Failure::new(format!(
                    "slot: cpu = {cpu} does not exist, there are {cpus}: use 0 to {}",
                    cpus.saturating_sub(1)
                )));
            };
            table.push(slot);
        }
        if let Some(cpu) = tables.iter().position(Vec::is_empty) {
            return Err(Failure::new(format!(
                "dispatch table {cpu}: has no slot: write at least one [[slot]] with vm and length (cpu, vcpu if not 0)"
            )));
        }
        Ok(tables)
    }

    /// The number of a vCPU over all VMs.
    fn number(&self, name: &str, vcpu: usize) -> Result<usize, Failure> {
        let mut before = 0;
        for vm in &self.vms {
            if vm.name == name && vcpu < vm.vcpus {
                return Ok(before + vcpu);
            }
            before += vm.vcpus;
        }
        Err(Failure::new(format!(
            "slot: there is no vCPU {vcpu} of a VM {name:?}"
        )))
    }

    fn vm(&self, vm: &VmEntry) -> Result<Vm, Failure> {
        let wrong = |what: String| Failure::new(format!("VM {}: {what}", vm.name));
        if let Some(task) = vm.tasks.iter().find(|task| task.vcpu >= vm.vcpus) {
            let (name, vcpu, vcpus) = (&task.name, task.vcpu, vm.vcpus);
            return Err(wrong(format!(
                "task {name}: vcpu = {vcpu}, but there are {vcpus}: raise vcpus"
            )));
        }
        if vm.cpus.as_ref().is_some_and(|cpus| cpus.len() != vm.vcpus) {
            let vcpus = vm.vcpus;
            return Err(wrong(format!(
                "cpus has to list one CPU for each vCPU: {vcpus}"
            )));
        }
        let server = self
            .server(vm)
            .map_err(|failure| failure.while_doing(&vm.name))?;
        let scheduler = match (vm.scheduler, vm.quantum) {
            (SchedulerName::Rm, _) => GuestPolicy::RateMonotonic,
            (SchedulerName::Dm, _) => GuestPolicy::DeadlineMonotonic,
            (SchedulerName::Edf, _) => GuestPolicy::Edf,
            (SchedulerName::RoundRobin, Some(quantum)) => GuestPolicy::RoundRobin {
                quantum: quantum.duration(),
            },
            (SchedulerName::RoundRobin, None) => {
                return Err(wrong("round-robin needs a quantum".to_owned()));
            }
        };
        let vcpu = |number: usize| -> Result<Vcpu, Failure> {
            let own = vm.tasks.iter().filter(|task| task.vcpu == number);
            let tasks: Result<Vec<Task>, Failure> = own.map(|task| task.task(vm)).collect();
            let only = (self.cpus == 1).then_some(0);
            let bound = vm.cpus.as_ref().and_then(|cpus| cpus.get(number).copied());
            Ok(Vcpu {
                cpu: bound.or(only),
                weight: vm.weight.unwrap_or(1024),
                ..Vcpu::new(server, scheduler, tasks?)
            })
        };
        let vcpus: Result<Vec<Vcpu>, Failure> = (0..vm.vcpus).map(vcpu).collect();
        Ok(Vm { vcpus: vcpus? })
    }

    fn server(&self, vm: &VmEntry) -> Result<Server, Failure> {
        let (runtime, period) = match (vm.runtime, vm.period) {
            (Some(runtime), Some(period)) => (runtime.duration(), period.duration()),
            _ if self.policy.has_reservations() => {
                return Err(Failure::new("runtime and period are needed by this policy"));
            }
            _ => (Duration::from_millis(1), Duration::from_millis(1)),
        };
        Ok(Server {
            deadline: time(vm.deadline, period),
            priority: vm.priority,
            ..Server::new(runtime, period)
        })
    }
}

impl TaskEntry {
    fn task(&self, vm: &VmEntry) -> Result<Task, Failure> {
        let wrong =
            |what: &str| Failure::new(format!("VM {}: task {}: {what}", vm.name, self.name));
        let plain = match (self.execution, self.period) {
            (Some(execution), Some(period)) => Task::new(execution.duration(), period.duration()),
            (None, None) => Task::hog(),
            _ => {
                return Err(wrong(
                    "give execution and period, or neither for load without end",
                ));
            }
        };
        let blocking = match (self.blocks_after, self.blocks_for) {
            (Some(after), Some(sleep)) => Some(Blocking {
                after: after.duration(),
                sleep: sleep.duration(),
            }),
            (None, None) => None,
            _ => return Err(wrong("blocks_after and blocks_for need each other")),
        };
        Ok(Task {
            shortest: time(self.shortest, plain.execution),
            deadline: time(self.deadline, plain.deadline),
            offset: time(self.offset, Duration::ZERO),
            jitter: time(self.jitter, Duration::ZERO),
            priority: self.priority,
            blocking,
            ..plain
        })
    }
}

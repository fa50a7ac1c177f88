//! What `schedulability` compares: where sets come from, how they are split into VMs, and who has to schedule them.

use std::time::Duration;

use sched::analysis::design::{Fit, split};
use sched::analysis::generate::{Periods, avionics, log_uniform, randfixedsum, tasks, uunifast};
use sched::analysis::{Scheduler, Supply, Task, TaskSet};
use sched::random::Random;

use super::interface::Test;
use super::schedule::Kind;

/// VMs on one CPU.
const VMS: usize = 4;
/// Tasks on one CPU.
const TASKS: usize = 12;
/// CPUs of a host with several.
pub const CPUS: usize = 4;
/// VMs, their vCPUs, and tasks on such a host.
const MANY: (usize, usize, usize) = (6, 2, 24);
/// Of the random sets. The granularity keeps releases from drifting by nanoseconds.
const PERIODS: Periods = Periods {
    shortest: Duration::from_millis(10),
    longest: Duration::from_millis(200),
    granularity: Duration::from_millis(1),
};
/// The longest period of any task.
pub const LONGEST_PERIOD: Duration = PERIODS.longest;
/// Periods of servers in a dispatch table are these, times a power of two: a table repeats soon.
const FRAME: Duration = Duration::from_millis(5);
const AVIONICS_FRAME: Duration = Duration::from_micros(12_500);

/// Where task sets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// UUniFast, log-uniform periods.
    UUniFast,
    /// Randfixedsum, log-uniform periods: the sum may be above one CPU while no task is.
    RandFixedSum,
    /// Harmonic periods, in partitions.
    Avionics,
}

/// One comparison.
pub struct Configuration {
    /// Its short name, in files and keys.
    pub key: &'static str,
    /// Its name in the report.
    pub name: &'static str,
    /// Where its sets come from.
    pub family: Family,
    /// CPUs of the host.
    pub cpus: usize,
    /// Whether vCPUs stay on their CPUs.
    pub is_bound: bool,
    /// How guests schedule.
    pub guests: Scheduler,
    /// The tests.
    pub tests: &'static [Test],
    /// The policies.
    pub policies: &'static [Kind],
}

/// All comparisons.
pub const CONFIGURATIONS: [Configuration; 5] = [
    Configuration {
        key: "edf",
        name: "one CPU, EDF in the guests",
        family: Family::UUniFast,
        cpus: 1,
        is_bound: true,
        guests: Scheduler::EarliestDeadlineFirst,
        tests: &PARTITIONED_TESTS,
        policies: &Kind::ALL,
    },
    Configuration {
        key: "rm",
        name: "one CPU, rate monotonic in the guests",
        family: Family::UUniFast,
        cpus: 1,
        is_bound: true,
        guests: Scheduler::RATE_MONOTONIC,
        tests: &PARTITIONED_TESTS,
        policies: &Kind::ALL,
    },
    Configuration {
        key: "avionics",
        name: "one CPU, avionics-like partitions, rate monotonic",
        family: Family::Avionics,
        cpus: 1,
        is_bound: true,
        guests: Scheduler::RATE_MONOTONIC,
        tests: &[
            Test::Periodic,
            Test::Linear,
            Test::ExplicitDeadline,
            Test::Aligned,
            Test::FixedPriority,
            Test::Deferrable,
            Test::Table,
        ],
        policies: &Kind::ALL,
    },
    Configuration {
        key: "partitioned",
        name: "four CPUs, vCPUs bound, EDF in the guests",
        family: Family::RandFixedSum,
        cpus: CPUS,
        is_bound: true,
        guests: Scheduler::EarliestDeadlineFirst,
        tests: &PARTITIONED_TESTS,
        policies: &Kind::ALL,
    },
    Configuration {
        key: "global",
        name: "four CPUs shared by all vCPUs, EDF in the guests",
        family: Family::RandFixedSum,
        cpus: CPUS,
        is_bound: false,
        guests: Scheduler::EarliestDeadlineFirst,
        tests: &[Test::Global, Test::Multiprocessor],
        policies: &Kind::SHARED,
    },
];

const PARTITIONED_TESTS: [Test; 6] = [
    Test::Periodic,
    Test::Linear,
    Test::ExplicitDeadline,
    Test::FixedPriority,
    Test::Deferrable,
    Test::Table,
];

/// A VM.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// The period of its servers: half of its shortest period.
    pub period: Duration,
}

/// A vCPU with the tasks that are bound to it.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its tasks.
    pub tasks: Vec<Task>,
    /// The period of its server.
    pub period: Duration,
}

/// One set, split into VMs and vCPUs.
#[derive(Clone, Debug)]
pub struct Workload {
    /// The VMs.
    pub machines: Vec<Machine>,
    /// Their vCPUs; none if some task found no place.
    pub guests: Option<Vec<Guest>>,
}

impl Configuration {
    /// vCPUs of a VM.
    pub fn vcpus(&self) -> usize {
        if self.cpus == 1 { 1 } else { MANY.1 }
    }

    /// A set that uses this share of all CPUs.
    pub fn workload(&self, random: &mut Random, share: f64) -> Workload {
        let total = share * self.cpus as f64;
        let machines = match self.family {
            Family::UUniFast => {
                let utilisations = possible(|| uunifast(random, TASKS, total));
                let tasks = tasks(random, &utilisations, |random| log_uniform(random, PERIODS));
                dealt(tasks, VMS)
            }
            Family::RandFixedSum => {
                let (vms, _, count) = MANY;
                let drawn = randfixedsum(random, (count, total), (0.0, 1.0));
                let utilisations = drawn.unwrap_or_default();
                let tasks = tasks(random, &utilisations, |random| log_uniform(random, PERIODS));
                dealt(tasks, vms)
            }
            Family::Avionics => {
                let fits = |partitions: &Vec<Vec<Task>>| partitions.iter().flatten().all(is_task);
                let mut drawn = || avionics(random, VMS, total);
                let mut partitions = drawn();
                while !fits(&partitions) {
                    partitions = drawn();
                }
                partitions.into_iter().map(machine).collect()
            }
        };
        let vcpus = self.vcpus();
        let guests = machines.iter().map(|vm| self.guests_of(vm, vcpus));
        Workload {
            guests: guests.collect::<Option<Vec<_>>>().map(|all| all.concat()),
            machines,
        }
    }

    /// The greatest period of a dispatch table's server that is no longer than `period`.
    pub fn in_table(&self, period: Duration) -> Duration {
        let mut frame = match self.family {
            Family::Avionics => AVIONICS_FRAME,
            Family::UUniFast | Family::RandFixedSum => FRAME,
        };
        while frame * 2 <= period {
            frame *= 2;
        }
        frame
    }

    fn guests_of(&self, machine: &Machine, vcpus: usize) -> Option<Vec<Guest>> {
        let guest = |tasks| Guest {
            tasks,
            period: machine.period,
        };
        if vcpus == 1 {
            return Some(vec![guest(machine.tasks.clone())]);
        }
        let processors = u32::try_from(vcpus).ok()?;
        let set = TaskSet::for_processors(processors, machine.tasks.iter().cloned()).ok()?;
        let whole = Supply::whole_processor();
        let parts = split(&set, self.guests, (vcpus, Fit::Worst), &whole).ok()?;
        let of = |part: &Vec<usize>| part.iter().map(|&at| machine.tasks[at].clone()).collect();
        let used = parts.iter().filter(|part| !part.is_empty());
        Some(used.map(|part| guest(of(part))).collect())
    }
}

/// Tasks that can be done alone.
fn is_task(task: &Task) -> bool {
    task.execution <= task.deadline
}

/// UUniFast-Discard: drawn until no task needs more than a CPU (Davis and Burns, RTSS 2009). It rarely comes to that.
fn possible(mut draw: impl FnMut() -> Vec<f64>) -> Vec<f64> {
    loop {
        let drawn = draw();
        if drawn.iter().all(|share| *share <= 1.0) {
            return drawn;
        }
    }
}

/// Tasks dealt to VMs, as many to each.
fn dealt(tasks: Vec<Task>, vms: usize) -> Vec<Machine> {
    let each = tasks.len().div_ceil(vms).max(1);
    let chunks = tasks.chunks(each);
    chunks.map(|chunk| machine(chunk.to_vec())).collect()
}

fn machine(tasks: Vec<Task>) -> Machine {
    let shortest = tasks.iter().map(|task| task.period).min();
    Machine {
        tasks,
        period: shortest.unwrap_or(PERIODS.shortest) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_configuration_shares_its_utilisation_among_vms_with_shorter_server_periods() {
        for configuration in &CONFIGURATIONS {
            for (index, share) in [0.1, 0.5, 0.9, 1.1].into_iter().enumerate() {
                let mut random = Random::stream(3, index);
                let workload = configuration.workload(&mut random, share);
                let tasks = workload.machines.iter().flat_map(|vm| &vm.tasks);
                let used: f64 = tasks.map(Task::utilisation).sum();
                assert!(
                    (used - share * configuration.cpus as f64).abs() < 1e-5,
                    "{used}"
                );
                for vm in &workload.machines {
                    assert!(vm.tasks.iter().all(|task| task.period >= vm.period * 2));
                    let framed = configuration.in_table(vm.period);
                    assert!(framed <= vm.period && framed * 2 > vm.period);
                }
            }
        }
    }

    #[test]
    fn vcpus_share_the_tasks_of_their_vm() {
        let configuration = CONFIGURATIONS.iter().find(|c| c.key == "global").unwrap();
        let workload = configuration.workload(&mut Random::stream(1, 1), 0.5);
        let guests = workload.guests.unwrap();
        assert_eq!(guests.len(), MANY.0 * MANY.1);
        let tasks: usize = guests.iter().map(|guest| guest.tasks.len()).sum();
        assert_eq!(tasks, MANY.2);
    }
}

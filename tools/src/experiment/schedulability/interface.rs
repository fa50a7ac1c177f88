//! The tests: which server each vCPU gets by the analysis, and whether the host can carry them all.

use std::time::Duration;

use sched::admission::{Bandwidth, Limits, global};
use sched::analysis::design::least_parallel_budget;
use sched::analysis::servers::{Idle, supply_in_time};
use sched::analysis::supply::Linear;
use sched::analysis::{Scheduler, Supply, SupplyBound, Task, TaskSet, least_budget};
use sched::sim::Server;

use super::configuration::{Configuration, Guest, Workload};
use super::schedule::{Kind, Releases, tables};

/// Deadlines tried, in eighths of the period, the longest first.
const DEADLINES: [u32; 7] = [8, 7, 6, 5, 4, 3, 2];

/// A test: a supply bound that designs the interfaces, and a test of the host that carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Periodic resource model; sum of Q / P at most 1 on every CPU (EDF).
    Periodic,
    /// The same with the linear bound.
    Linear,
    /// Budgets due before the ends of their periods; exact demand test of the host's EDF.
    ExplicitDeadline,
    /// Periods that begin with releases; sum of Q / P at most 1.
    Aligned,
    /// Periodic resource model; response times of periodic or sporadic servers of fixed priorities.
    FixedPriority,
    /// The same of deferrable servers.
    Deferrable,
    /// Periodic resource model; a dispatch table of whole slots.
    Table,
    /// Periodic resource model; the host's global EDF test.
    Global,
    /// Multiprocessor periodic resource model for guests under global EDF; the host's global EDF test.
    Multiprocessor,
}

/// Servers for all vCPUs, and where they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// One for every vCPU, in their order.
    pub servers: Vec<Server>,
    /// The CPU of each.
    pub cpus: Vec<usize>,
    /// Whether each vCPU's tasks are schedulable on its server.
    pub is_sufficient: bool,
}

impl Test {
    /// Its short name.
    pub fn key(self) -> &'static str {
        match self {
            Self::Periodic => "periodic-resource",
            Self::Linear => "linear-bound",
            Self::ExplicitDeadline => "explicit-deadline",
            Self::Aligned => "aligned",
            Self::FixedPriority => "fixed-priority-servers",
            Self::Deferrable => "deferrable-servers",
            Self::Table => "dispatch-table",
            Self::Global => "global-servers",
            Self::Multiprocessor => "multiprocessor",
        }
    }

    /// Its name in figures.
    pub fn name(self) -> &'static str {
        match self {
            Self::Periodic => "resource model, EDF host",
            Self::Linear => "its linear bound, EDF host",
            Self::ExplicitDeadline => "explicit deadline, EDF host",
            Self::Aligned => "aligned with releases, EDF host",
            Self::FixedPriority => "resource model, periodic server",
            Self::Deferrable => "resource model, deferrable",
            Self::Table => "resource model, dispatch table",
            Self::Global => "resource model, global EDF",
            Self::Multiprocessor => "multiprocessor, global EDF",
        }
    }

    /// The policies under which nothing that it accepts may miss a deadline.
    fn holds_under(self) -> &'static [Kind] {
        match self {
            Self::Periodic | Self::Linear | Self::ExplicitDeadline | Self::Aligned => &[Kind::Edf],
            Self::FixedPriority => &[Kind::Periodic, Kind::WorkConserving, Kind::Sporadic],
            Self::Deferrable => &[Kind::Deferrable],
            Self::Table => &[Kind::Table],
            Self::Global => &[Kind::Edf],
            // Guests of the simulator keep tasks on their vCPUs.
            Self::Multiprocessor => &[],
        }
    }

    /// What is simulated to refute an acceptance: under every policy, with releases together and apart (by this seed).
    /// The aligned test is for releases at beginnings of periods only.
    pub fn schedules(self, seed: u64) -> impl Iterator<Item = (Kind, Releases)> {
        let apart = (self != Self::Aligned).then_some(Releases::Apart(seed));
        let releases = [Some(Releases::Together), apart].into_iter().flatten();
        let kinds = self.holds_under();
        releases.flat_map(move |releases| kinds.iter().map(move |kind| (*kind, releases)))
    }

    /// The servers with which it accepts; nothing if it refuses.
    pub fn accept(self, configuration: &Configuration, workload: &Workload) -> Option<Interface> {
        if self == Self::Multiprocessor {
            return multiprocessor(configuration, workload);
        }
        let guests = workload.guests.as_ref()?;
        let cpus = configuration.cpus;
        let design = |eighths| self.design(configuration, guests, eighths);
        let accepts = |interface: &Interface| {
            interface.is_sufficient && self.host_carries(interface, guests, cpus)
        };
        let deadlines = match self {
            Self::ExplicitDeadline => &DEADLINES[..],
            _ => &DEADLINES[..1],
        };
        deadlines
            .iter()
            .map(|&eighths| design(eighths))
            .find(accepts)
    }

    fn design(self, configuration: &Configuration, guests: &[Guest], eighths: u32) -> Interface {
        let due = |period: Duration| period * eighths / 8;
        let server = |guest: &Guest| {
            let scheduler = configuration.guests;
            let period = match self {
                Self::Table => configuration.in_table(guest.period),
                _ => guest.period,
            };
            let budget = match self {
                Self::Linear => least(guest, (scheduler, period), |q| {
                    Linear(Supply::worst_case(q, period))
                }),
                Self::Aligned if !is_aligned(guest) => None,
                Self::Aligned => least(guest, (scheduler, period), |q| Supply::aligned(q, period)),
                _ => least(guest, (scheduler, period), |q| {
                    Supply::explicit_deadline(q, period, due(period))
                }),
            };
            let deadline = due(period).max(budget.unwrap_or(period));
            let server = Server {
                deadline,
                ..Server::new(budget.unwrap_or(period), period)
            };
            (server, budget.is_some())
        };
        placed(guests, configuration.cpus, server)
    }

    fn host_carries(self, interface: &Interface, guests: &[Guest], cpus: usize) -> bool {
        let on_each = |test: &dyn Fn(&TaskSet) -> bool| {
            (0..cpus).all(|cpu| match interface.on(cpu) {
                None => true,
                Some(servers) => TaskSet::new(servers).is_ok_and(|set| test(&set)),
            })
        };
        match self {
            Self::FixedPriority => on_each(&|set| supply_in_time(set, Idle::LosesBudget)),
            Self::Deferrable => on_each(&|set| supply_in_time(set, Idle::KeepsBudget)),
            Self::Table => tables(interface, guests.len(), cpus).is_some(),
            Self::Global | Self::Multiprocessor => is_global(&interface.servers, cpus),
            Self::Periodic | Self::Linear | Self::ExplicitDeadline | Self::Aligned => {
                let edf = Scheduler::EarliestDeadlineFirst;
                on_each(&|set| edf.meets(set, &Supply::whole_processor()))
            }
        }
    }
}

/// The servers of the periodic resource model, whether or not they fit: under these policies are compared.
pub fn usual(configuration: &Configuration, guests: &[Guest], kind: Kind) -> Interface {
    let test = match kind {
        Kind::Table => Test::Table,
        _ => Test::Periodic,
    };
    test.design(configuration, guests, DEADLINES[0])
}

/// The least budget; none if not even a CPU of its own suffices.
fn least<S: SupplyBound>(
    guest: &Guest,
    (scheduler, period): (Scheduler, Duration),
    supply: impl Fn(Duration) -> S,
) -> Option<Duration> {
    let set = TaskSet::new(guest.tasks.iter().cloned()).ok()?;
    least_budget(&set, scheduler, period, supply)
}

/// Whether all releases can be beginnings of the server's periods.
fn is_aligned(guest: &Guest) -> bool {
    let period = guest.period.as_nanos();
    let mut periods = guest.tasks.iter().map(|task| task.period.as_nanos());
    periods.all(|of_task| of_task.is_multiple_of(period))
}

/// The largest servers first, each where least is used (worst fit, decreasing). A server comes with whether it
/// suffices.
fn placed(guests: &[Guest], cpus: usize, server: impl Fn(&Guest) -> (Server, bool)) -> Interface {
    let mut is_sufficient = true;
    let designed = guests.iter().map(|guest| {
        let (server, suffices) = server(guest);
        is_sufficient &= suffices;
        server
    });
    let servers: Vec<Server> = designed.collect();
    let mut order: Vec<usize> = (0..servers.len()).collect();
    order.sort_by(|&a, &b| bandwidth(&servers[b]).total_cmp(&bandwidth(&servers[a])));
    let (mut used, mut places) = (vec![0.0; cpus], vec![0; servers.len()]);
    for at in order {
        let free = (0..cpus).min_by(|&a, &b| f64::total_cmp(&used[a], &used[b]));
        let cpu = free.unwrap_or(0);
        used[cpu] += bandwidth(&servers[at]);
        places[at] = cpu;
    }
    Interface {
        servers,
        cpus: places,
        is_sufficient,
    }
}

/// Q / P.
pub fn bandwidth(server: &Server) -> f64 {
    server.budget.as_secs_f64() / server.period.as_secs_f64()
}

impl Interface {
    /// The servers on a CPU, as tasks; none if there are no servers.
    fn on(&self, cpu: usize) -> Option<Vec<Task>> {
        let here = self
            .servers
            .iter()
            .zip(&self.cpus)
            .filter(|(_, at)| **at == cpu);
        let task = |(server, _): (&Server, _)| {
            Task::new("server", server.budget, server.period).with_deadline(server.deadline)
        };
        let tasks: Vec<Task> = here.map(task).collect();
        (!tasks.is_empty()).then_some(tasks)
    }
}

/// The host's global EDF test. Shares are rounded up, where the kernel's arithmetic would round them down.
fn is_global(servers: &[Server], cpus: usize) -> bool {
    let limits = Limits {
        realtime: Bandwidth::ONE,
        fair_server: Bandwidth::ZERO,
    };
    let share = |server: &Server| {
        let step = server.period / (1 << 20) + Duration::from_nanos(1);
        Bandwidth::ratio(server.budget + step, server.period)
    };
    let shares: Vec<Bandwidth> = servers.iter().map(share).collect();
    u32::try_from(cpus).is_ok_and(|cpus| global(limits, cpus, &[], &shares).is_ok())
}

/// A budget for a VM, in equal parts for as many of its vCPUs as make it least.
fn multiprocessor(configuration: &Configuration, workload: &Workload) -> Option<Interface> {
    let most = u32::try_from(configuration.vcpus()).ok()?;
    let mut servers = Vec::new();
    for machine in &workload.machines {
        let parallel = |vcpus: u32| {
            let set = TaskSet::for_processors(vcpus, machine.tasks.iter().cloned()).ok()?;
            Some((least_parallel_budget(&set, machine.period, vcpus)?, vcpus))
        };
        let (whole, vcpus) = (1..=most).filter_map(parallel).min()?;
        let each = (whole / vcpus + Duration::from_nanos(1)).min(machine.period);
        servers.extend((0..vcpus).map(|_| Server::new(each, machine.period)));
    }
    is_global(&servers, configuration.cpus).then(|| Interface {
        cpus: vec![0; servers.len()],
        servers,
        is_sufficient: true,
    })
}

#[cfg(test)]
mod tests {
    use super::super::configuration::CONFIGURATIONS;
    use super::*;
    use sched::random::Random;

    fn guest(tasks: &[(u64, u64)], period: u64) -> Guest {
        let ms = Duration::from_millis;
        let task = |(c, t): &(u64, u64)| Task::new("t", ms(*c), ms(*t));
        Guest {
            tasks: tasks.iter().map(task).collect(),
            period: ms(period),
        }
    }

    fn workload(guests: Vec<Guest>) -> Workload {
        Workload {
            machines: Vec::new(),
            guests: Some(guests),
        }
    }

    #[test]
    fn the_papers_task_set_gets_its_known_budgets() {
        let rm = CONFIGURATIONS.iter().find(|c| c.key == "avionics").unwrap();
        let set = workload(vec![guest(&[(30, 150), (50, 200)], 50)]);
        let budget = |test: Test| test.accept(rm, &set).unwrap().servers[0].budget;
        assert_eq!(budget(Test::Periodic), Duration::from_millis(32));
        assert_eq!(budget(Test::Aligned), Duration::from_micros(26_667));
        assert!(budget(Test::Linear) > budget(Test::Periodic));
    }

    #[test]
    fn deadlines_before_periods_lose_no_set_and_gain_some() {
        let edf = CONFIGURATIONS.iter().find(|c| c.key == "edf").unwrap();
        let accepted = |set: usize| {
            let workload = edf.workload(&mut Random::stream(1, set), 0.8);
            let accepts = |test: Test| test.accept(edf, &workload).is_some();
            (accepts(Test::Periodic), accepts(Test::ExplicitDeadline))
        };
        let sets: Vec<_> = (0..40).map(accepted).collect();
        assert!(
            sets.iter()
                .all(|(periodic, explicit)| *explicit || !periodic)
        );
        assert!(
            sets.iter()
                .any(|(periodic, explicit)| *explicit && !periodic)
        );
    }

    #[test]
    fn servers_go_where_least_is_used() {
        let many = CONFIGURATIONS
            .iter()
            .find(|c| c.key == "partitioned")
            .unwrap();
        let guests: Vec<Guest> = [3, 7, 2, 6, 1].map(|c| guest(&[(c, 20)], 10)).into();
        let interface = usual(many, &guests, Kind::Edf);
        assert_eq!(interface.cpus, [2, 0, 3, 1, 3]);
        assert!(Test::Periodic.accept(many, &workload(guests)).is_some());
    }
}

//! Partitioned placement: which CPU carries which reservation.
//!
//! A [`Packing`] keeps the sums of every CPU, so that a decision looks at one reservation and not at all of them. A CPU
//! carries a set if the kernel's sum of bandwidths, which knows no deadlines, stays within the kernel's limit, and if EDF
//! meets every deadline beside what others take evenly: exactly by utilisation where D = P for all of the set, otherwise
//! by the processor demand criterion. Heuristics and their names: Johnson, Near-optimal bin packing algorithms (1973).

use std::cmp::Reverse;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::edf::{self, Overload, Times};
use super::offers::Offers;
use super::{Bandwidth, Limits, Server, partitioned};
use crate::reservation::human;

/// Which CPU is tried first, of those that carry fewest of the same group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fit {
    /// The one with the lowest number.
    First,
    /// The one with least room.
    Best,
    /// The one with most room.
    #[default]
    Worst,
}

/// How several reservations are placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where each is tried.
    pub fit: Fit,
    /// Whether larger ones are placed first, and not in the order given.
    pub decreasing: bool,
}

/// Worst fit decreasing: what is left is spread, so that every reservation has room to grow.
impl Default for Policy {
    fn default() -> Self {
        Self {
            fit: Fit::Worst,
            decreasing: true,
        }
    }
}

/// What is to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The server.
    pub server: Server,
    /// Reservations of one group are kept on different CPUs while there are any: the vCPUs of a guest delay one another.
    pub group: usize,
    /// The only CPU it may have.
    pub cpu: Option<u32>,
}

/// A reservation that was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(usize);

/// What a CPU lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shortage {
    /// The CPU is not among those given, or there are none.
    #[error("there is no such CPU to place it on: give the packing one")]
    NoCpu,
    /// Bandwidth.
    #[error("{needed} is needed (surplus included) and {left} is left")]
    Utilisation {
        /// What the reservation takes.
        needed: Bandwidth,
        /// What the others leave.
        left: Bandwidth,
    },
    /// Supply in time, although there is bandwidth.
    #[error("{} would be due within {} of a common release, in which the CPU supplies {}", human(*.demand), human(*.within), human(*.supply))]
    Demand {
        /// The length of the interval.
        within: Duration,
        /// What would be due in it, of all reservations.
        demand: Duration,
        /// What the CPU supplies in it.
        supply: Duration,
    },
    /// The demand test found no end: the CPU would be full to the last nanosecond, with periods that share no factor.
    #[error("the demand test is undecided for intervals up to {}: leave the CPU some room", human(*.within))]
    Undecided {
        /// The length down to which nothing failed.
        within: Duration,
    },
}

/// A reservation that does not fit. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("reservation {index} does not fit{}: {shortage}{offers}", .cpu.map(|cpu| format!(" on CPU {cpu}")).unwrap_or_default())]
pub struct Refused {
    /// Which of those asked for.
    pub index: usize,
    /// The CPU that was tried first.
    pub cpu: Option<u32>,
    /// What it lacks.
    pub shortage: Shortage,
    /// What would fit.
    pub offers: Box<Offers>,
}

/// Reservations on CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    limits: Limits,
    pub(super) cpus: Vec<Cpu>,
    members: Vec<Option<Member>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) number: u32,
    /// What threads take of it that are no reservations of ours.
    foreign: Bandwidth,
    pub(super) members: Vec<Id>,
    pub(super) load: Load,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) wanted: Wanted,
    pub(super) load: Load,
    /// The index of its CPU.
    at: usize,
    /// Whether it may be told to move.
    pub(super) settled: bool,
}

/// The sums of some servers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Load {
    pub(super) bandwidth: Bandwidth,
    rate: u128,
    servers: u32,
    constrained: u32,
}

impl Load {
    pub(super) fn of(server: &Server) -> Self {
        Self {
            bandwidth: server.bandwidth(),
            rate: Times::of(server).rate(),
            servers: 1,
            constrained: u32::from(server.is_constrained()),
        }
    }

    fn with(self, other: Self) -> Self {
        Self {
            bandwidth: self.bandwidth + other.bandwidth,
            rate: self.rate + other.rate,
            servers: self.servers + other.servers,
            constrained: self.constrained + other.constrained,
        }
    }

    fn without(self, other: Self) -> Self {
        Self {
            bandwidth: self.bandwidth - other.bandwidth,
            rate: self.rate - other.rate,
            servers: self.servers - other.servers,
            constrained: self.constrained - other.constrained,
        }
    }
}

impl Packing {
    /// No reservations on `cpus`, each given with what threads take of it that are no reservations of ours.
    pub fn new(limits: Limits, cpus: impl IntoIterator<Item = (u32, Bandwidth)>) -> Self {
        let empty = |(number, foreign)| Cpu {
            number,
            foreign,
            members: Vec::new(),
            load: Load::default(),
        };
        Self {
            limits,
            cpus: cpus.into_iter().map(empty).collect(),
            members: Vec::new(),
        }
    }

    /// Enters what was placed earlier, without a test. `None` where there is no such CPU.
    pub fn put(&mut self, cpu: u32, wanted: Wanted) -> Option<Id> {
        let at = self.cpus.iter().position(|known| known.number == cpu)?;
        Some(self.insert(at, wanted, true))
    }

    /// Places one reservation on the first CPU in the order of `fit` that carries it.
    ///
    /// # Errors
    /// What the first of these CPUs lacks, and what would fit.
    pub fn place(&mut self, fit: Fit, wanted: Wanted) -> Result<(Id, u32), Refused> {
        let at = self.find(fit, 0, &wanted)?;
        Ok((self.insert(at, wanted, true), self.cpus[at].number))
    }

    /// Places all reservations or none.
    ///
    /// # Errors
    /// The first that does not fit.
    pub fn place_all(
        &mut self,
        policy: Policy,
        wanted: &[Wanted],
    ) -> Result<Vec<(Id, u32)>, Refused> {
        let mut order: Vec<usize> = (0..wanted.len()).collect();
        if policy.decreasing {
            order.sort_by_key(|&index| Reverse(wanted[index].server.bandwidth()));
        }
        let mut placed = Vec::with_capacity(order.len());
        for index in order {
            match self.find(policy.fit, index, &wanted[index]) {
                Ok(at) => placed.push((index, self.insert(at, wanted[index], false))),
                Err(refused) => {
                    placed.iter().for_each(|&(_, id)| self.remove(id));
                    return Err(refused);
                }
            }
        }
        placed.sort_unstable_by_key(|&(index, _)| index);
        for &(_, id) in &placed {
            self.settle(id);
        }
        let home = |(_, id)| Some((id, self.cpu_of(id)?));
        Ok(placed.into_iter().filter_map(home).collect())
    }

    /// Gives reservations other servers where they are, all of them or none: what one gives up is there for another.
    ///
    /// # Errors
    /// The first that does not fit beside all the others as they would be; an unknown one lacks a CPU.
    pub fn change(&mut self, changes: &[(Id, Server)]) -> Result<(), Refused> {
        let known = |&(id, _): &(Id, Server)| self.member(id).is_some();
        if let Some(index) = changes.iter().position(|change| !known(change)) {
            return Err(refused(index, None, Shortage::NoCpu, Offers::default()));
        }
        let before: Vec<_> = changes
            .iter()
            .filter_map(|&(id, server)| Some((id, self.exchange(id, server)?)))
            .collect();
        let verdict = changes
            .iter()
            .enumerate()
            .try_for_each(|(index, (id, server))| self.still_fits(index, *id, server));
        if verdict.is_err() {
            for &(id, server) in before.iter().rev() {
                self.exchange(id, server);
            }
        }
        verdict
    }

    /// Takes a reservation off its CPU. One that is not there is no error. The id may be given to another afterwards.
    pub fn remove(&mut self, id: Id) {
        let Some(member) = self.members.get_mut(id.0).and_then(Option::take) else {
            return;
        };
        let cpu = &mut self.cpus[member.at];
        cpu.load = cpu.load.without(member.load);
        cpu.members.retain(|&other| other != id);
        // A packing that is used for long does not grow.
        while matches!(self.members.last(), Some(None)) {
            self.members.pop();
        }
    }

    /// The CPU of a reservation.
    pub fn cpu_of(&self, id: Id) -> Option<u32> {
        Some(self.cpus[self.member(id)?.at].number)
    }

    /// What is left of a CPU, in the kernel's arithmetic.
    pub fn room(&self, cpu: u32) -> Option<Bandwidth> {
        let cpu = self.cpus.iter().find(|known| known.number == cpu)?;
        Some(self.limits.per_cpu() - cpu.foreign - cpu.load.bandwidth)
    }

    /// Whether a CPU carries `server` beside what it has.
    ///
    /// # Errors
    /// What it lacks.
    pub fn fits(&self, cpu: u32, server: &Server) -> Result<(), Shortage> {
        let at = self.cpus.iter().position(|known| known.number == cpu);
        let at = at.ok_or(Shortage::NoCpu)?;
        self.check(at, &[], server, Load::of(server))
    }

    /// Whether the CPU carries `server`, whose sums are `load`, beside what it has but for `without`.
    pub(super) fn check(
        &self,
        at: usize,
        without: &[Id],
        server: &Server,
        load: Load,
    ) -> Result<(), Shortage> {
        let cpu = &self.cpus[at];
        let leaving = without.iter().filter_map(|&id| self.member(id));
        let leaving = leaving.filter(|member| member.at == at);
        let others = leaving.fold(cpu.load, |sum, member| sum.without(member.load));
        let needed = load.bandwidth;
        partitioned(self.limits, cpu.foreign + others.bandwidth, needed)
            .map_err(|left| Shortage::Utilisation { needed, left })?;
        // What others take evenly makes the CPU slower.
        let capacity = Bandwidth::ONE - self.limits.fair_server - cpu.foreign;
        let all = others.with(load);
        // Every share is rounded up by less than one unit.
        if all.rate > edf::full_rate(capacity) + u128::from(all.servers) {
            let left = capacity - others.bandwidth;
            return Err(Shortage::Utilisation { needed, left });
        }
        if all.constrained == 0 {
            return Ok(());
        }
        let here = cpu.members.iter().filter(|id| !without.contains(id));
        let here = here.filter_map(|&id| Some(&self.member(id)?.wanted.server));
        let servers: Vec<_> = here.chain([server]).map(Times::of).collect();
        edf::check(&servers, capacity).map_err(|overload| shortage(overload, capacity))
    }

    pub(super) fn member(&self, id: Id) -> Option<&Member> {
        self.members.get(id.0)?.as_ref()
    }

    /// The CPUs as worst fit tries them, those first that carry fewest of `group`.
    pub(super) fn roomiest(&self, group: Option<usize>) -> Vec<usize> {
        self.sorted(|cpu| (self.of_group(cpu, group), cpu.used(), cpu.number))
    }

    fn order(&self, fit: Fit, group: usize) -> Vec<usize> {
        let group = Some(group);
        match fit {
            Fit::First => self.sorted(|cpu| (self.of_group(cpu, group), cpu.number)),
            Fit::Best => {
                self.sorted(|cpu| (self.of_group(cpu, group), Reverse(cpu.used()), cpu.number))
            }
            Fit::Worst => self.roomiest(group),
        }
    }

    fn sorted<K: Ord>(&self, key: impl Fn(&Cpu) -> K) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.cpus.len()).collect();
        order.sort_by_cached_key(|&at| key(&self.cpus[at]));
        order
    }

    fn of_group(&self, cpu: &Cpu, group: Option<usize>) -> usize {
        let members = cpu.members.iter().filter_map(|&id| self.member(id));
        members
            .filter(|member| Some(member.wanted.group) == group)
            .count()
    }

    fn find(&self, fit: Fit, index: usize, wanted: &Wanted) -> Result<usize, Refused> {
        let mut order = self.order(fit, wanted.group);
        if let Some(cpu) = wanted.cpu {
            order.retain(|&at| self.cpus[at].number == cpu);
        }
        let load = Load::of(&wanted.server);
        let mut first = None;
        for &at in &order {
            match self.check(at, &[], &wanted.server, load) {
                Ok(()) => return Ok(at),
                Err(shortage) => {
                    first.get_or_insert((self.cpus[at].number, shortage));
                }
            }
        }
        let Some((cpu, shortage)) = first else {
            let offers = self.offers(&[], wanted, None);
            return Err(refused(index, wanted.cpu, Shortage::NoCpu, offers));
        };
        let offers = self.offers(&order, wanted, None);
        Err(refused(index, Some(cpu), shortage, offers))
    }

    fn still_fits(&self, index: usize, id: Id, server: &Server) -> Result<(), Refused> {
        let Some(member) = self.member(id) else {
            return Ok(());
        };
        let at = member.at;
        self.check(at, &[id], server, Load::of(server))
            .map_err(|shortage| {
                let wanted = Wanted {
                    server: *server,
                    ..member.wanted
                };
                let offers = self.offers(&[at], &wanted, Some(id));
                refused(index, Some(self.cpus[at].number), shortage, offers)
            })
    }

    fn insert(&mut self, at: usize, wanted: Wanted, settled: bool) -> Id {
        let id = Id(self.members.len());
        let load = Load::of(&wanted.server);
        self.members.push(Some(Member {
            wanted,
            load,
            at,
            settled,
        }));
        let cpu = &mut self.cpus[at];
        cpu.members.push(id);
        cpu.load = cpu.load.with(load);
        id
    }

    /// From now on it may be told to move.
    fn settle(&mut self, id: Id) {
        if let Some(Some(member)) = self.members.get_mut(id.0) {
            member.settled = true;
        }
    }

    /// Gives a reservation another server without a test; the one that it had.
    fn exchange(&mut self, id: Id, server: Server) -> Option<Server> {
        let member = self.members.get_mut(id.0)?.as_mut()?;
        let load = Load::of(&server);
        let cpu = &mut self.cpus[member.at];
        cpu.load = cpu.load.without(member.load).with(load);
        member.load = load;
        Some(std::mem::replace(&mut member.wanted.server, server))
    }
}

impl Cpu {
    fn used(&self) -> Bandwidth {
        self.foreign + self.load.bandwidth
    }
}

fn refused(index: usize, cpu: Option<u32>, shortage: Shortage, offers: Offers) -> Refused {
    Refused {
        index,
        cpu,
        shortage,
        offers: Box::new(offers),
    }
}

fn shortage(overload: Overload, capacity: Bandwidth) -> Shortage {
    let within = overload.length();
    match overload {
        Overload::At { demand, .. } => Shortage::Demand {
            within,
            demand: Duration::from_nanos(u64::try_from(demand).unwrap_or(u64::MAX)),
            supply: capacity.of(within),
        },
        Overload::Undecided { .. } => Shortage::Undecided { within },
    }
}

//! Which CPU each vCPU gets: pure, over a view of the host and what is granted already.

use std::cmp::Reverse;

use crate::admission::{
    self, Bandwidth, Fit, Id, Limits, Packing, Policy, Refused, Server, Shortage, Wanted, demand,
    density,
};
use crate::refusal::{Bound, Moving, Otherwise, Refusal};
use crate::request::{AdmissionTest, BackendKind, Granted, Placement, VcpuRequest};

/// One prepared one-CPU partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Its CPU.
    pub cpu: u32,
    /// SCHED_DEADLINE threads in it that no ledger entry accounts for, as the sum of their densities.
    pub foreign: Bandwidth,
}

/// What admission has to know of the host.
#[derive(Clone, Debug)]
pub struct HostView {
    /// The kernel's limits.
    pub limits: Limits,
    /// CPUs that are online.
    pub online: Vec<u32>,
    /// The usable partitions.
    pub partitions: Vec<PartitionView>,
    /// Which of them is tried first.
    pub fit: Fit,
    /// SCHED_DEADLINE threads outside partitions that no ledger entry accounts for, by their densities; `None` while not
    /// looked up.
    pub foreign: Option<Vec<Bandwidth>>,
}

impl HostView {
    /// The same with these densities held beside what is granted.
    pub(crate) fn holding(&self, held: impl Iterator<Item = (Placement, Bandwidth)>) -> Self {
        let mut host = self.clone();
        for (placement, share) in held {
            match placement {
                Placement::Partition { cpu } => {
                    let mut views = host.partitions.iter_mut();
                    if let Some(view) = views.find(|view| view.cpu == cpu) {
                        view.foreign = view.foreign + share;
                    }
                }
                Placement::Global => host.foreign.iter_mut().for_each(|all| all.push(share)),
                Placement::Pinned { .. } | Placement::Anywhere => {}
            }
        }
        host
    }
}

/// Places all vCPUs of one VM beside `taken`, or none.
///
/// Larger demands are placed first, each in the first partition that carries it in the order of the host's fit, those
/// that this VM does not use yet before the others: vCPUs of one guest that share a CPU delay one another. Without a partition the common root
/// domain is tried if `host.foreign` is known.
///
/// # Errors
/// The first vCPU that does not fit, and why.
pub fn place(
    host: &HostView,
    taken: &[Granted],
    vm: &str,
    requests: &[VcpuRequest],
) -> Result<Vec<Granted>, Refusal> {
    let policy = Policy {
        fit: host.fit,
        ..Policy::default()
    };
    let mut order: Vec<usize> = (0..requests.len()).collect();
    if policy.decreasing {
        order.sort_by_key(|&vcpu| Reverse(demand(&requests[vcpu])));
    }
    let mut plan = Plan::new(host, taken, vm);
    for vcpu in order {
        let granted = plan.place_one(policy.fit, vcpu, &requests[vcpu])?;
        plan.placed.push(granted);
    }
    let mut granted = plan.placed;
    granted.sort_by_key(|granted| granted.vcpu);
    Ok(granted)
}

/// Whether all of `changed` still fit where they are, all at once, after `granted` was everything.
///
/// Of the host only the limits and the partitions of `changed` are looked at, unless one is placed globally.
///
/// # Errors
/// The first that does not fit, and the bound that it breaks; those in partitions come first.
pub fn change(host: &HostView, granted: &[Granted], changed: &[Granted]) -> Result<(), Refusal> {
    let mut in_partitions = Vec::new();
    let mut plan = Plan::new(host, granted, "");
    for (index, new) in changed.iter().enumerate() {
        plan.vm = &new.vm;
        plan.well_formed(new.vcpu, &new.request)?;
        let Placement::Partition { cpu } = new.placement else {
            continue;
        };
        let at = granted.iter().position(|old| is_same(old, new));
        let id = at.and_then(|at| plan.homes[at]);
        let server = Server::of(&new.request);
        let (Some(id), Some(server)) = (id, server) else {
            return Err(plan.refusal(new.vcpu, Bound::NoPartition { cpu }));
        };
        in_partitions.push((index, id, server));
    }
    let servers: Vec<_> = in_partitions.iter().map(|&(_, id, s)| (id, s)).collect();
    plan.packing.change(&servers).map_err(|refused| {
        let new = &changed[in_partitions[refused.index].0];
        plan.vm = &new.vm;
        plan.refused(new.vcpu, &new.request, refused)
    })?;
    outside_partitions(host, granted, changed)
}

fn outside_partitions(
    host: &HostView,
    granted: &[Granted],
    changed: &[Granted],
) -> Result<(), Refusal> {
    let inside = |new: &Granted| matches!(new.placement, Placement::Partition { .. });
    for new in changed.iter().filter(|new| !inside(new)) {
        let is_changed = |old: &Granted| changed.iter().any(|other| is_same(old, other));
        let unchanged = granted.iter().filter(|old| !is_changed(old));
        let others = changed.iter().filter(|other| !is_same(other, new));
        let others: Vec<_> = unchanged.chain(others).cloned().collect();
        let plan = Plan::new(host, &others, &new.vm);
        match new.placement {
            Placement::Global => plan.globally(new.vcpu, &new.request)?,
            _ => plan.without_promise(new.vcpu, &new.request)?,
        }
    }
    Ok(())
}

fn is_same(one: &Granted, other: &Granted) -> bool {
    (one.vcpu, &one.vm) == (other.vcpu, &other.vm)
}

/// The group of the VM that is being placed, in its packing, and that of all others.
const OWN: usize = 1;
const OTHERS: usize = 0;

/// A VM being placed.
struct Plan<'a> {
    host: &'a HostView,
    taken: &'a [Granted],
    vm: &'a str,
    /// The partitions, with what is taken of them and what this VM has been given so far.
    packing: Packing,
    /// Where in the packing each of `taken` is.
    homes: Vec<Option<Id>>,
    placed: Vec<Granted>,
}

impl<'a> Plan<'a> {
    fn new(host: &'a HostView, taken: &'a [Granted], vm: &'a str) -> Self {
        let partitions = host.partitions.iter();
        let cpus = partitions.map(|view| (view.cpu, view.foreign));
        let mut packing = Packing::new(host.limits, cpus);
        let enter = |granted: &Granted| {
            let Placement::Partition { cpu } = granted.placement else {
                return None;
            };
            let group = if granted.vm == vm { OWN } else { OTHERS };
            packing.put(cpu, wanted(&granted.request, group)?)
        };
        let homes = taken.iter().map(enter).collect();
        Self {
            host,
            taken,
            vm,
            packing,
            homes,
            placed: Vec::new(),
        }
    }

    fn place_one(
        &mut self,
        fit: Fit,
        vcpu: usize,
        request: &VcpuRequest,
    ) -> Result<Granted, Refusal> {
        self.well_formed(vcpu, request)?;
        self.online(vcpu, request)?;
        let (placement, test) = match request.backend {
            BackendKind::Deadline => self.deadline(fit, vcpu, request)?,
            kind => {
                self.without_promise(vcpu, request)?;
                let pinned = |cpu| Placement::Pinned { cpu };
                let test = match kind {
                    BackendKind::RtCgroup => AdmissionTest::RtGroups,
                    _ => AdmissionTest::None,
                };
                (request.cpu.map_or(Placement::Anywhere, pinned), test)
            }
        };
        Ok(Granted {
            vm: self.vm.to_owned(),
            vcpu,
            surplus: request.surplus(),
            request: request.clone(),
            placement,
            test,
        })
    }

    fn well_formed(&self, vcpu: usize, request: &VcpuRequest) -> Result<(), Refusal> {
        let backend = request.backend;
        if backend.needs_reservation() && request.reservation.is_none() {
            return Err(self.refusal(vcpu, Bound::NoReservation { backend }));
        }
        let constrained = request.reservation.is_some_and(|r| r.is_constrained());
        if constrained && backend != BackendKind::Deadline {
            return Err(self.refusal(vcpu, Bound::NoDeadline { backend }));
        }
        match request.fifo_priority {
            Some(priority) if !(1..=99).contains(&priority) => {
                Err(self.refusal(vcpu, Bound::FifoPriority { priority }))
            }
            _ => Ok(()),
        }
    }

    fn online(&self, vcpu: usize, request: &VcpuRequest) -> Result<(), Refusal> {
        match request.cpu {
            Some(cpu) if !self.host.online.contains(&cpu) => {
                let online = self.host.online.clone();
                Err(self.refusal(vcpu, Bound::CpuOffline { cpu, online }))
            }
            _ => Ok(()),
        }
    }

    fn deadline(
        &mut self,
        fit: Fit,
        vcpu: usize,
        request: &VcpuRequest,
    ) -> Result<(Placement, AdmissionTest), Refusal> {
        let in_partition = self.in_partition(fit, vcpu, request);
        match in_partition {
            Some(Ok(found)) => Ok(found),
            // All that is outside partitions is this CPU: there it is.
            Some(Err(_)) if self.is_the_rest(request.cpu) => self
                .globally(vcpu, request)
                .map(|()| (Placement::Global, AdmissionTest::GlobalEdf)),
            Some(Err(refusal)) if request.cpu.is_some() || self.host.foreign.is_none() => {
                Err(refusal)
            }
            in_partition => match (self.globally(vcpu, request), in_partition) {
                (Ok(()), _) => Ok((Placement::Global, AdmissionTest::GlobalEdf)),
                // With partitions prepared, theirs is the bound the user has to work on.
                (Err(_), Some(Err(refusal))) => Err(refusal),
                (Err(refusal), _) => Err(refusal),
            },
        }
    }

    /// Nothing where there are no partitions to try.
    fn in_partition(
        &mut self,
        fit: Fit,
        vcpu: usize,
        request: &VcpuRequest,
    ) -> Option<Result<(Placement, AdmissionTest), Refusal>> {
        if self.host.partitions.is_empty() && request.cpu.is_none() {
            return None;
        }
        let found = self.packing.place(fit, wanted(request, OWN)?);
        Some(match found {
            Ok((_, cpu)) => Ok((Placement::Partition { cpu }, AdmissionTest::PartitionedEdf)),
            Err(refused) => Err(self.refused(vcpu, request, refused)),
        })
    }

    /// The CPUs outside partitions.
    fn rest(&self) -> impl Iterator<Item = u32> {
        let partitioned = |cpu| self.host.partitions.iter().any(|view| view.cpu == cpu);
        let online = self.host.online.iter().copied();
        online.filter(move |&cpu| !partitioned(cpu))
    }

    /// Whether this is the one CPU that partitions leave, and it is known what else is promised there.
    fn is_the_rest(&self, cpu: Option<u32>) -> bool {
        let is_it = cpu.is_some_and(|cpu| self.rest().eq([cpu]));
        is_it && !self.host.partitions.is_empty() && self.host.foreign.is_some()
    }

    fn globally(&self, vcpu: usize, request: &VcpuRequest) -> Result<(), Refusal> {
        let cpus = u32::try_from(self.rest().count()).unwrap_or(u32::MAX);
        let ours = self
            .granted()
            .filter(|granted| granted.placement == Placement::Global)
            .map(|granted| density(&granted.request));
        let foreign = self.host.foreign.iter().flatten().copied();
        let used: Vec<_> = ours.chain(foreign).collect();
        admission::global(self.host.limits, cpus, &used, &[density(request)]).map_err(|left| {
            let refusal = self.refusal(vcpu, Bound::Global { cpus });
            refusal.short_of(request, density(request), left)
        })
    }

    /// Real-time groups share one limit (`sched_rt_runtime_us`); the other back ends have none.
    fn without_promise(&self, vcpu: usize, request: &VcpuRequest) -> Result<(), Refusal> {
        if request.backend != BackendKind::RtCgroup {
            return Ok(());
        }
        let groups = self
            .granted()
            .filter(|granted| granted.request.backend == BackendKind::RtCgroup);
        let used: Bandwidth = groups.map(|granted| demand(&granted.request)).sum();
        let left = self.host.limits.realtime - used;
        if demand(request) > left {
            let refusal = self.refusal(vcpu, Bound::RtGroups);
            return Err(refusal.short_of(request, demand(request), left));
        }
        Ok(())
    }

    fn granted(&self) -> impl Iterator<Item = &Granted> {
        self.taken.iter().chain(&self.placed)
    }

    /// What the packing refused, in the words of the host.
    fn refused(&self, vcpu: usize, request: &VcpuRequest, refused: Refused) -> Refusal {
        let cpu = refused.cpu.unwrap_or_default();
        let (bound, needed, available) = match refused.shortage {
            Shortage::NoCpu => (Bound::NoPartition { cpu }, Bandwidth::ZERO, Bandwidth::ZERO),
            Shortage::Utilisation { needed, left } => (Bound::PartitionCpu { cpu }, needed, left),
            Shortage::Demand {
                within,
                demand,
                supply,
            } => (
                Bound::PartitionDemand { cpu, within },
                Bandwidth::ratio(demand, within),
                Bandwidth::ratio(supply, within),
            ),
            Shortage::Undecided { within } => (
                Bound::PartitionDemand { cpu, within },
                demand(request),
                Bandwidth::ZERO,
            ),
        };
        let offers = *refused.offers;
        let moving = offers.moved.and_then(|step| {
            let at = self.homes.iter().position(|&home| home == Some(step.id))?;
            Some(Moving {
                vm: self.taken[at].vm.clone(),
                vcpu: self.taken[at].vcpu,
                from: step.from,
                to: step.to,
            })
        });
        Refusal {
            needed,
            available,
            nearest: offers.smaller.map(|server| Box::new(server.reservation())),
            otherwise: Box::new(Otherwise {
                longer: offers.longer.map(|server| server.reservation()),
                cpu: offers.cpu,
                moving,
                after: None,
            }),
            ..self.refusal(vcpu, bound)
        }
    }

    fn refusal(&self, vcpu: usize, bound: Bound) -> Refusal {
        Refusal::new(self.vm, bound).of_vcpu(vcpu)
    }
}

fn wanted(request: &VcpuRequest, group: usize) -> Option<Wanted> {
    Some(Wanted {
        server: Server::of(request)?,
        group,
        cpu: request.cpu,
    })
}

#[cfg(test)]
mod tests;

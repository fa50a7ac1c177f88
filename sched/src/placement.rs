//! Which CPU each vCPU gets: pure, over a view of the host and what is granted already.

use crate::admission::{self, Bandwidth, Limits, demand};
use crate::refusal::{Bound, Refusal};
use crate::request::{AdmissionTest, BackendKind, Granted, Placement, VcpuRequest};

/// One prepared one-CPU partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionView {
    /// Its CPU.
    pub cpu: u32,
    /// SCHED_DEADLINE threads in it that no ledger entry accounts for.
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
    /// SCHED_DEADLINE threads outside partitions that no ledger entry accounts for; `None` while not looked up.
    pub foreign: Option<Vec<Bandwidth>>,
}

/// Places all vCPUs of one VM beside `taken`, or none.
///
/// Larger demands are placed first, each in the partition with most room that this VM does not use yet: vCPUs of one
/// guest that share a CPU delay one another. Without a partition the common root domain is tried if `host.foreign` is
/// known.
///
/// # Errors
/// The first vCPU that does not fit, and why.
pub fn place(
    host: &HostView,
    taken: &[Granted],
    vm: &str,
    requests: &[VcpuRequest],
) -> Result<Vec<Granted>, Refusal> {
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|&vcpu| std::cmp::Reverse(demand(&requests[vcpu])));
    let mut all = taken.to_vec();
    for vcpu in order {
        let context = Context { host, vm, vcpu };
        let granted = context.place_one(&all, &requests[vcpu])?;
        all.push(granted);
    }
    let mut granted = all.split_off(taken.len());
    granted.sort_by_key(|granted| granted.vcpu);
    Ok(granted)
}

/// Whether a vCPU still fits where it is after its reservation has changed to that of `changed`.
///
/// Of the host only the limits and the vCPU's own partition are looked at, unless it is placed globally.
///
/// # Errors
/// The bound that it breaks.
pub fn fits(host: &HostView, others: &[Granted], changed: &Granted) -> Result<(), Refusal> {
    let context = Context {
        host,
        vm: &changed.vm,
        vcpu: changed.vcpu,
    };
    context.well_formed(&changed.request)?;
    match changed.placement {
        Placement::Partition { cpu } => {
            let view = host.partitions.iter().find(|view| view.cpu == cpu);
            let view = view.ok_or_else(|| context.refusal(Bound::NoPartition { cpu }))?;
            context.in_partition(view, others, &changed.request)
        }
        Placement::Global => context.globally(others, &changed.request),
        Placement::Pinned { .. } | Placement::Anywhere => {
            context.without_promise(others, &changed.request)
        }
    }
}

/// The vCPU being placed.
struct Context<'a> {
    host: &'a HostView,
    vm: &'a str,
    vcpu: usize,
}

impl Context<'_> {
    fn place_one(&self, taken: &[Granted], request: &VcpuRequest) -> Result<Granted, Refusal> {
        self.well_formed(request)?;
        self.online(request)?;
        let (placement, test) = match request.backend {
            BackendKind::Deadline => self.deadline(taken, request)?,
            kind => {
                self.without_promise(taken, request)?;
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
            vcpu: self.vcpu,
            surplus: request.surplus(),
            request: request.clone(),
            placement,
            test,
        })
    }

    fn well_formed(&self, request: &VcpuRequest) -> Result<(), Refusal> {
        let backend = request.backend;
        if backend.needs_reservation() && request.reservation.is_none() {
            return Err(self.refusal(Bound::NoReservation { backend }));
        }
        match request.fifo_priority {
            Some(priority) if !(1..=99).contains(&priority) => {
                Err(self.refusal(Bound::FifoPriority { priority }))
            }
            _ => Ok(()),
        }
    }

    fn online(&self, request: &VcpuRequest) -> Result<(), Refusal> {
        match request.cpu {
            Some(cpu) if !self.host.online.contains(&cpu) => {
                let online = self.host.online.clone();
                Err(self.refusal(Bound::CpuOffline { cpu, online }))
            }
            _ => Ok(()),
        }
    }

    fn deadline(
        &self,
        taken: &[Granted],
        request: &VcpuRequest,
    ) -> Result<(Placement, AdmissionTest), Refusal> {
        let view = match request.cpu {
            Some(cpu) => {
                let view = self.host.partitions.iter().find(|view| view.cpu == cpu);
                Some(view.ok_or_else(|| self.refusal(Bound::NoPartition { cpu }))?)
            }
            None => self.roomiest(taken),
        };
        let in_partition = view.map(|view| {
            let placement = Placement::Partition { cpu: view.cpu };
            self.in_partition(view, taken, request)
                .map(|()| (placement, AdmissionTest::PartitionedEdf))
        });
        match in_partition {
            Some(Ok(found)) => Ok(found),
            Some(Err(refusal)) if request.cpu.is_some() || self.host.foreign.is_none() => {
                Err(refusal)
            }
            in_partition => match (self.globally(taken, request), in_partition) {
                (Ok(()), _) => Ok((Placement::Global, AdmissionTest::GlobalEdf)),
                // With partitions prepared, theirs is the bound the user has to work on.
                (Err(_), Some(Err(refusal))) => Err(refusal),
                (Err(refusal), _) => Err(refusal),
            },
        }
    }

    /// The partition with the most room left, those this VM does not use yet first.
    fn roomiest(&self, taken: &[Granted]) -> Option<&PartitionView> {
        self.host.partitions.iter().min_by_key(|view| {
            let here = || taken.iter().filter(|g| in_cpu(g, view.cpu));
            let own = here().filter(|granted| granted.vm == self.vm).count();
            let used = view.foreign + here().map(|g| demand(&g.request)).sum();
            (own, used, view.cpu)
        })
    }

    fn in_partition(
        &self,
        view: &PartitionView,
        taken: &[Granted],
        request: &VcpuRequest,
    ) -> Result<(), Refusal> {
        let here = taken.iter().filter(|granted| in_cpu(granted, view.cpu));
        let used = view.foreign + here.map(|granted| demand(&granted.request)).sum();
        let bound = Bound::PartitionCpu { cpu: view.cpu };
        admission::partitioned(self.host.limits, used, demand(request))
            .map_err(|left| self.refusal(bound).short_of(request, left))
    }

    fn globally(&self, taken: &[Granted], request: &VcpuRequest) -> Result<(), Refusal> {
        let partitioned = |cpu| self.host.partitions.iter().any(|view| view.cpu == cpu);
        let cpus = self.host.online.iter().filter(|&&cpu| !partitioned(cpu));
        let cpus = u32::try_from(cpus.count()).unwrap_or(u32::MAX);
        let ours = taken
            .iter()
            .filter(|granted| granted.placement == Placement::Global)
            .map(|granted| demand(&granted.request));
        let foreign = self.host.foreign.iter().flatten().copied();
        let used: Vec<_> = ours.chain(foreign).collect();
        admission::global(self.host.limits, cpus, &used, &[demand(request)])
            .map_err(|left| self.refusal(Bound::Global { cpus }).short_of(request, left))
    }

    /// Real-time groups share one limit (`sched_rt_runtime_us`); the other back ends have none.
    fn without_promise(&self, taken: &[Granted], request: &VcpuRequest) -> Result<(), Refusal> {
        if request.backend != BackendKind::RtCgroup {
            return Ok(());
        }
        let groups = taken
            .iter()
            .filter(|granted| granted.request.backend == BackendKind::RtCgroup);
        let used: Bandwidth = groups.map(|granted| demand(&granted.request)).sum();
        let left = self.host.limits.realtime - used;
        if demand(request) > left {
            return Err(self.refusal(Bound::RtGroups).short_of(request, left));
        }
        Ok(())
    }

    fn refusal(&self, bound: Bound) -> Refusal {
        Refusal::new(self.vm, bound).of_vcpu(self.vcpu)
    }
}

fn in_cpu(granted: &Granted, cpu: u32) -> bool {
    granted.placement == Placement::Partition { cpu }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Enforcement;
    use crate::reservation::Reservation;
    use proptest::prelude::*;
    use std::time::Duration;

    fn host(partitions: &[u32]) -> HostView {
        let view = |&cpu| PartitionView {
            cpu,
            foreign: Bandwidth::ZERO,
        };
        HostView {
            limits: Limits::modern(),
            online: (0..4).collect(),
            partitions: partitions.iter().map(view).collect(),
            foreign: None,
        }
    }

    fn wants(q: u64, p: u64) -> VcpuRequest {
        let ms = Duration::from_millis;
        VcpuRequest {
            reservation: Reservation::new(ms(q), ms(p)).ok(),
            enforcement: Enforcement::Tick,
            ..VcpuRequest::default()
        }
    }

    #[test]
    fn vcpus_of_one_guest_get_different_cpus_while_there_are_any() {
        let granted = place(&host(&[1, 2]), &[], "a", &[wants(10, 50), wants(10, 50)]).unwrap();
        assert_ne!(granted[0].placement, granted[1].placement);
    }

    #[test]
    fn a_vm_that_does_not_fit_as_a_whole_gets_nothing() {
        let refusal = place(&host(&[1]), &[], "a", &[wants(30, 50), wants(20, 50)]).unwrap_err();
        assert_eq!(refusal.bound, Bound::PartitionCpu { cpu: 1 });
        assert_eq!(refusal.vcpu, Some(1));
        let nearest = refusal.nearest.unwrap();
        assert!(nearest.runtime() < Duration::from_millis(15) + Duration::from_micros(2));
        assert!(nearest.runtime() > Duration::from_micros(14_990));
    }

    #[test]
    fn a_cpu_without_a_partition_makes_no_promise() {
        let request = VcpuRequest {
            cpu: Some(3),
            ..wants(1, 50)
        };
        let refusal = place(&host(&[1]), &[], "a", &[request]).unwrap_err();
        assert_eq!(refusal.bound, Bound::NoPartition { cpu: 3 });
    }

    #[test]
    fn a_full_partition_falls_back_to_the_passed_global_test() {
        let mut view = host(&[1]);
        view.partitions[0].foreign = Limits::modern().per_cpu();
        assert!(place(&view, &[], "a", &[wants(10, 50)]).is_err());
        view.foreign = Some(vec![]);
        let granted = place(&view, &[], "a", &[wants(10, 50)]).unwrap();
        assert_eq!(granted[0].placement, Placement::Global);
    }

    #[test]
    fn back_ends_without_a_promise_are_placed_as_asked() {
        let fifo = VcpuRequest {
            backend: BackendKind::Fifo,
            cpu: Some(2),
            ..VcpuRequest::default()
        };
        let other = VcpuRequest {
            backend: BackendKind::Other,
            ..VcpuRequest::default()
        };
        let granted = place(&host(&[]), &[], "a", &[fifo, other]).unwrap();
        assert_eq!(granted[0].placement, Placement::Pinned { cpu: 2 });
        assert_eq!(granted[1].placement, Placement::Anywhere);
    }

    #[test]
    fn real_time_groups_share_the_limit_of_the_whole_host() {
        let group = |q| VcpuRequest {
            backend: BackendKind::RtCgroup,
            ..wants(q, 50)
        };
        assert!(place(&host(&[]), &[], "a", &[group(20), group(20)]).is_ok());
        let refusal = place(&host(&[]), &[], "a", &[group(30), group(20)]).unwrap_err();
        assert_eq!(refusal.bound, Bound::RtGroups);
    }

    #[test]
    fn an_offline_cpu_is_named_with_those_that_are_online() {
        let request = VcpuRequest {
            cpu: Some(9),
            ..wants(1, 50)
        };
        let text = place(&host(&[1]), &[], "a", &[request])
            .unwrap_err()
            .to_string();
        assert!(text.contains("CPU 9") && text.contains("0-3"), "{text}");
    }

    proptest! {
        #[test]
        fn whatever_is_granted_every_partition_stays_within_its_limit(
            vms in prop::collection::vec(prop::collection::vec((1u64..50, 50u64..100), 1..4), 1..12),
        ) {
            let host = host(&[1, 2, 3]);
            let mut taken: Vec<Granted> = Vec::new();
            for (number, vcpus) in vms.iter().enumerate() {
                let requests: Vec<_> = vcpus.iter().map(|&(q, p)| wants(q, p)).collect();
                match place(&host, &taken, &number.to_string(), &requests) {
                    Ok(granted) => {
                        prop_assert_eq!(granted.len(), requests.len());
                        taken.extend(granted);
                    }
                    Err(refusal) => prop_assert!(refusal.needed > refusal.available),
                }
            }
            for cpu in 1..=3 {
                let sum: Bandwidth = taken.iter().filter(|g| in_cpu(g, cpu)).map(|g| demand(&g.request)).sum();
                prop_assert!(sum <= host.limits.per_cpu());
            }
        }
    }
}

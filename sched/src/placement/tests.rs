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
        fit: Fit::default(),
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
fn the_fit_of_the_host_decides_which_partition_is_tried_first() {
    let home = |fit| {
        let view = HostView {
            fit,
            ..host(&[1, 2, 3])
        };
        let taken = place(&view, &[], "a", &[pinned(10, 2), pinned(20, 3)]).unwrap();
        place(&view, &taken, "b", &[wants(10, 50)]).unwrap()[0].placement
    };
    let homes = Fit::ALL.map(home);
    assert_eq!(homes, [1, 3, 1].map(|cpu| Placement::Partition { cpu }));
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
fn the_one_cpu_that_partitions_leave_is_a_place_too() {
    let on = |cpu| VcpuRequest {
        cpu: Some(cpu),
        ..wants(25, 50)
    };
    let mut view = host(&[1]);
    view.online = vec![0, 1];
    view.foreign = Some(vec![]);
    let granted = place(&view, &[], "a", &[on(1), on(0)]).unwrap();
    assert_eq!(granted[0].placement, Placement::Partition { cpu: 1 });
    assert_eq!(granted[1].placement, Placement::Global);
    let refusal = place(&view, &granted, "b", &[on(0)]).unwrap_err();
    assert_eq!(refusal.bound, Bound::Global { cpus: 1 });
    // With two of them it is not said which one it would be.
    view.online = vec![0, 1, 2];
    let refusal = place(&view, &[], "a", &[on(0)]).unwrap_err();
    assert_eq!(refusal.bound, Bound::NoPartition { cpu: 0 });
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

fn pinned(q: u64, cpu: u32) -> VcpuRequest {
    VcpuRequest {
        cpu: Some(cpu),
        ..wants(q, 50)
    }
}

#[test]
fn a_vcpu_that_does_not_fit_on_the_cpu_it_names_is_told_of_another() {
    let view = host(&[1, 2]);
    let taken = place(&view, &[], "a", &[pinned(40, 1)]).unwrap();
    let refusal = place(&view, &taken, "b", &[pinned(20, 1)]).unwrap_err();
    assert_eq!(refusal.bound, Bound::PartitionCpu { cpu: 1 });
    assert_eq!(refusal.otherwise.cpu, Some(2));
    let longer = refusal.otherwise.longer.unwrap();
    assert!(longer.period() > Duration::from_millis(199));
    assert!(refusal.to_string().contains("on CPU 2"), "{refusal}");
}

#[test]
fn a_vcpu_that_fits_once_another_has_moved_is_told_which() {
    let view = host(&[1, 2]);
    let mut taken = place(&view, &[], "a", &[pinned(5, 1), pinned(25, 2)]).unwrap();
    taken.extend(place(&view, &taken, "b", &[wants(17, 50)]).unwrap());
    let refusal = place(&view, &taken, "c", &[wants(30, 50)]).unwrap_err();
    let moving = refusal.otherwise.moving.as_ref().unwrap();
    let (from, to) = (moving.from, moving.to);
    assert_eq!((moving.vm.as_str(), moving.vcpu, from, to), ("b", 0, 1, 2));
    assert!(
        refusal.to_string().contains("'b' vcpu 0 on CPU 2"),
        "{refusal}"
    );
}

#[test]
fn budget_that_one_change_gives_up_is_there_for_another_of_the_same_call() {
    let view = host(&[1]);
    let mut taken = place(&view, &[], "a", &[wants(30, 50)]).unwrap();
    taken.extend(place(&view, &taken, "b", &[wants(10, 50)]).unwrap());
    let with = |index: usize, q| Granted {
        request: wants(q, 50),
        ..taken[index].clone()
    };
    assert!(change(&view, &taken, &[with(1, 30)]).is_err());
    assert_eq!(change(&view, &taken, &[with(1, 30), with(0, 10)]), Ok(()));
    let refusal = change(&view, &taken, &[with(0, 20), with(1, 30)]).unwrap_err();
    assert_eq!(&*refusal.vm, "a");
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
            let sum: Bandwidth = taken.iter().filter(|g| g.placement == Placement::Partition { cpu }).map(|g| demand(&g.request)).sum();
            prop_assert!(sum <= host.limits.per_cpu());
        }
    }
}

fn due(q: u64, d: u64, p: u64) -> VcpuRequest {
    let pair = wants(q, p).reservation.unwrap();
    VcpuRequest {
        reservation: pair.with_deadline(Duration::from_millis(d)).ok(),
        ..wants(q, p)
    }
}

#[test]
fn deadlines_that_cannot_all_be_met_are_refused_with_the_interval_although_there_is_bandwidth() {
    let view = host(&[1]);
    let taken = place(&view, &[], "a", &[due(10, 20, 100)]).unwrap();
    let refusal = place(&view, &taken, "b", &[due(15, 20, 100)]).unwrap_err();
    let within = Duration::from_millis(20);
    assert_eq!(refusal.bound, Bound::PartitionDemand { cpu: 1, within });
    let nearest = refusal.nearest.unwrap();
    assert_eq!(nearest.deadline(), within);
    assert!(place(&view, &taken, "b", &[due(15, 30, 100)]).is_ok());
    // A change is tested alike.
    let taken = place(&view, &[], "a", &[due(10, 20, 100), due(15, 30, 100)]).unwrap();
    let earlier = Granted {
        request: due(15, 20, 100),
        ..taken[1].clone()
    };
    assert!(change(&view, &taken, &[earlier]).is_err());
}

#[test]
fn the_global_test_counts_densities() {
    let mut view = host(&[]);
    view.online.truncate(2);
    view.foreign = Some(vec![]);
    let place = |requests: &[VcpuRequest]| place(&view, &[], "a", requests);
    assert!(place(&[wants(40, 100), wants(40, 100)]).is_ok());
    assert!(place(&[due(40, 50, 100), wants(40, 100)]).is_err());
    let refusal = place(&[due(40, 42, 100)]).unwrap_err();
    let nearest = refusal.nearest.unwrap();
    assert!(
        place(&[VcpuRequest {
            reservation: Some(*nearest),
            ..wants(1, 100)
        }])
        .is_ok()
    );
}

#[test]
fn only_sched_deadline_takes_a_deadline_before_the_end_of_the_period() {
    let quota = VcpuRequest {
        backend: BackendKind::CfsQuota,
        ..due(10, 20, 100)
    };
    let refusal = place(&host(&[1]), &[], "a", &[quota]).unwrap_err();
    let backend = BackendKind::CfsQuota;
    assert_eq!(refusal.bound, Bound::NoDeadline { backend });
}

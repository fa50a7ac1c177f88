//! The levels of a host: its CPUs, and what the ledger has on them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::book::{Entry, VcpuEntry};
use crate::framework::{Kind, Levels, Resource};

/// From the CPUs up: threads, vCPUs, VMs. `partitions` are there even if nothing stands on them.
pub(crate) fn levels(entries: &[Arc<Entry>], partitions: impl IntoIterator<Item = u32>) -> Levels {
    let cpu = |number| (Some(number), Resource::cpu(Some(number)));
    let mut cpus: BTreeMap<_, _> = partitions.into_iter().map(cpu).collect();
    let mut vm = |entry: &Arc<Entry>| {
        let vcpus: Vec<_> = entry.vcpus.iter().map(|v| vcpu(&mut cpus, v)).collect();
        Resource::upon(Kind::VM, entry.vm.clone(), &vcpus)
    };
    let highest = entries.iter().map(&mut vm).collect();
    Levels {
        lowest: cpus.into_values().collect(),
        highest,
    }
}

fn vcpu(cpus: &mut BTreeMap<Option<u32>, Resource>, entry: &VcpuEntry) -> Resource {
    let number = entry.granted.placement.cpu();
    let cpu = cpus.entry(number).or_insert_with(|| Resource::cpu(number));
    let tid = entry.tid.map_or("-".to_owned(), |tid| tid.to_string());
    let thread = Resource::upon(Kind::THREAD, tid, [&*cpu]);
    Resource::upon(Kind::VCPU, entry.granted.vcpu.to_string(), [&thread])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Tid;
    use crate::process::Process;
    use crate::request::{AdmissionTest, Granted, Placement, VcpuRequest};
    use std::time::Duration;

    fn entry(vm: &str, placements: &[Placement]) -> Arc<Entry> {
        let vcpu = |(vcpu, &placement): (usize, &Placement)| VcpuEntry {
            granted: Granted {
                vm: vm.to_owned(),
                vcpu,
                request: VcpuRequest::default(),
                placement,
                surplus: Duration::ZERO,
                test: AdmissionTest::None,
            },
            tid: Some(Tid(70 + i32::try_from(vcpu).unwrap())),
        };
        Arc::new(Entry {
            vm: vm.to_owned(),
            process: Process { pid: 7, started: 7 },
            vcpus: placements.iter().enumerate().map(vcpu).collect(),
        })
    }

    #[test]
    fn a_host_is_walked_from_its_cpus_up_to_its_vms_and_down_again() {
        let (one, any) = (Placement::Partition { cpu: 1 }, Placement::Anywhere);
        let levels = levels(&[entry("a", &[one, any]), entry("b", &[one])], [1, 2]);
        let mut up = Vec::new();
        for cpu in &levels.lowest {
            cpu.ascend(&mut |depth, resource| up.push(format!("{depth} {resource}")));
        }
        assert_eq!(
            up,
            [
                "0 CPU any",
                "1 thread 71",
                "2 vCPU 1",
                "3 VM a",
                "0 CPU 1",
                "1 thread 70",
                "2 vCPU 0",
                "3 VM a",
                "1 thread 70",
                "2 vCPU 0",
                "3 VM b",
                "0 CPU 2",
            ]
        );
        let mut down = Vec::new();
        levels.highest[1].descend(&mut |depth, resource| down.push(format!("{depth} {resource}")));
        assert_eq!(down, ["0 VM b", "1 vCPU 0", "2 thread 70", "3 CPU 1"]);
    }
}

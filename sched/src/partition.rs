//! One-CPU partitions: exclusive cpusets of a single CPU, where EDF is exact and a promise means (Q, P).
//!
//! cgroup v1 (Documentation/admin-guide/cgroup-v1/cpusets.rst): the root no longer balances load, and a child with one
//! exclusive CPU does, which makes the child a root domain of its own. cgroup v2
//! (Documentation/admin-guide/cgroup-v2.rst, "cpuset.cpus.partition"): a threaded child directly below the root is made
//! a partition root.

use std::path::PathBuf;

use crate::cgroup::{self, CgroupError, Hierarchy, PREFIX, Version};
use crate::kernel::Tid;

/// A partition that exists and is valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its CPU.
    pub cpu: u32,
    hierarchy: &'static Hierarchy,
}

impl Partition {
    /// The partition of `cpu`, if it exists and the kernel has it as valid.
    pub fn of(cpu: u32) -> Option<Self> {
        let hierarchy = Hierarchy::of("cpuset").ok()?;
        let partition = Self { cpu, hierarchy };
        partition.is_valid().then_some(partition)
    }

    /// The partition of `cpu` that some thread has entered, and that is therefore not looked at again.
    pub(crate) fn entered(cpu: u32) -> Option<Self> {
        let hierarchy = Hierarchy::of("cpuset").ok()?;
        Some(Self { cpu, hierarchy })
    }

    /// Its control group.
    pub fn group(&self) -> PathBuf {
        self.hierarchy.root.join(name(self.cpu))
    }

    /// Moves a thread into it. On cgroup v2 its whole process is first moved to the root group, as a threaded group
    /// takes threads of its own domain only.
    ///
    /// # Errors
    /// The kernel's, with the file.
    pub fn join(&self, tid: Tid) -> Result<(), CgroupError> {
        self.hierarchy.enter_root_domain("cpuset")?;
        self.hierarchy.join(&self.group(), tid)
    }

    /// The threads in it.
    pub fn threads(&self) -> Vec<Tid> {
        self.hierarchy.threads_in(&self.group())
    }

    fn is_valid(&self) -> bool {
        let holds = |group: &std::path::Path, file: &str, wanted: &str| {
            cgroup::read(&group.join(file)).is_ok_and(|text| text == wanted)
        };
        let (root, group) = (&self.hierarchy.root, self.group());
        let cpu = self.cpu.to_string();
        match self.hierarchy.version {
            Version::V1 => {
                holds(&group, "cpuset.cpus", &cpu)
                    && holds(&group, "cpuset.sched_load_balance", "1")
                    && holds(root, "cpuset.sched_load_balance", "0")
            }
            Version::V2 => {
                holds(&group, "cpuset.cpus.effective", &cpu)
                    && holds(&group, "cpuset.cpus.partition", "root")
            }
        }
    }
}

/// The name of a partition's control group.
pub(crate) fn name(cpu: u32) -> String {
    format!("{PREFIX}cpu{cpu}")
}

/// What the kernel says of a group that is to be a partition.
pub(crate) fn state(hierarchy: &Hierarchy, cpu: u32) -> String {
    let group = hierarchy.root.join(name(cpu));
    let file = match hierarchy.version {
        Version::V1 => "cpuset.effective_cpus",
        Version::V2 => "cpuset.cpus.partition",
    };
    cgroup::read(&group.join(file)).unwrap_or_else(|error| error.to_string())
}

/// All valid partitions of CPUs in `online`.
pub fn usable(online: &[u32]) -> Vec<Partition> {
    let Ok(hierarchy) = Hierarchy::of("cpuset") else {
        return Vec::new();
    };
    let exists = |&&cpu: &&u32| hierarchy.root.join(name(cpu)).is_dir();
    online
        .iter()
        .filter(exists)
        .filter_map(|&cpu| Partition::of(cpu))
        .collect()
}

/// The group of all CPUs outside partitions.
pub(crate) const REST: &str = "chronovisor.rest";

/// Moves a thread to the CPUs outside partitions, if that needs moving; whether it did.
///
/// On cgroup v1 the root group still spans all CPUs, so a thread left there could be on a partition's. On v2 the root
/// group has lost the partitions' CPUs already.
///
/// # Errors
/// The kernel's, with the file.
pub fn join_rest(tid: Tid) -> Result<bool, CgroupError> {
    let Ok(hierarchy) = Hierarchy::of("cpuset") else {
        return Ok(false);
    };
    let rest = hierarchy.root.join(REST);
    if hierarchy.version == Version::V2 || !rest.is_dir() {
        return Ok(false);
    }
    hierarchy.join(&rest, tid)?;
    Ok(true)
}

/// Moves a thread to the root group.
///
/// # Errors
/// The kernel's, with the file.
pub fn leave(tid: Tid) -> Result<(), CgroupError> {
    let hierarchy = Hierarchy::of("cpuset")?;
    hierarchy.join(&hierarchy.root, tid)
}

//! Control groups of single vCPUs, for the back ends that enforce through one: `chronovisor.NAME.vcpuI`.

use std::fs;
use std::path::PathBuf;

use crate::book::Entry;
use crate::cgroup::{self, CgroupError, Hierarchy, PREFIX, Version};
use crate::kernel::Tid;
use crate::request::Granted;

/// The group of one vCPU in the cpu controller's hierarchy. Dropping it does not remove it: [`VcpuGroup::remove`] does.
#[derive(Debug)]
pub(crate) struct VcpuGroup {
    pub(crate) hierarchy: &'static Hierarchy,
    pub(crate) path: PathBuf,
    /// Where the thread was before.
    home: PathBuf,
}

impl VcpuGroup {
    pub(crate) fn create(granted: &Granted, tid: Tid) -> Result<Self, CgroupError> {
        let hierarchy = Hierarchy::of("cpu")?;
        let path = hierarchy.root.join(name(&granted.vm, granted.vcpu));
        let home = hierarchy.group_of(tid, "cpu")?;
        cgroup::create(&path)?;
        Ok(Self {
            hierarchy,
            path,
            home,
        })
    }

    pub(crate) fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        cgroup::write(&self.path.join(file), value)
    }

    pub(crate) fn get(&self, file: &str) -> Result<String, CgroupError> {
        cgroup::read(&self.path.join(file))
    }

    /// Lets a cgroup v2 group below the root take single threads of processes in the root group.
    pub(crate) fn make_threaded(&self) -> Result<(), CgroupError> {
        let root = &self.hierarchy.root;
        cgroup::write(&root.join("cgroup.subtree_control"), "+cpu")?;
        self.set("cgroup.type", "threaded")?;
        self.hierarchy.enter_root_domain("cpu")
    }

    pub(crate) fn join(&self, tid: Tid) -> Result<(), CgroupError> {
        self.hierarchy.join(&self.path, tid)
    }

    /// Moves the thread back, if it still lives, and removes the group. On cgroup v2 back is the root, whose domain the
    /// process has entered.
    pub(crate) fn remove(&self, tid: Tid) -> Result<(), CgroupError> {
        if crate::process::exists(tid) {
            let back = match self.hierarchy.version {
                Version::V1 => &self.home,
                Version::V2 => &self.hierarchy.root,
            };
            self.hierarchy.join(back, tid)?;
        }
        cgroup::remove(&self.path)
    }
}

fn name(vm: &str, vcpu: usize) -> String {
    format!("{PREFIX}{vm}.vcpu{vcpu}")
}

/// The VM and vCPU of a group's name.
fn parse(name: &str) -> Option<(&str, usize)> {
    let (vm, vcpu) = name.strip_prefix(PREFIX)?.rsplit_once(".vcpu")?;
    Some((vm, vcpu.parse().ok()?))
}

/// Removes the empty groups of VMs that no live entry accounts for: what a crash left.
pub(crate) fn clear_orphans(live: &[Entry]) {
    let Ok(hierarchy) = Hierarchy::of("cpu") else {
        return;
    };
    let groups = fs::read_dir(&hierarchy.root)
        .into_iter()
        .flatten()
        .flatten();
    for group in groups {
        let file_name = group.file_name();
        let Some((vm, _)) = file_name.to_str().and_then(parse) else {
            continue;
        };
        if live.iter().any(|entry| entry.vm == vm) {
            continue;
        }
        // A group with threads in it is refused by the kernel, and not ours to empty.
        if let Err(error) = cgroup::remove(&group.path()) {
            tracing::debug!(%error, "left a control group");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_vcpu_groups_are_taken_for_ones() {
        assert_eq!(parse(&name("a.vcpu1", 2)), Some(("a.vcpu1", 2)));
        for other in [
            "chronovisor.cpu1",
            "system.slice",
            "x.vcpu0",
            "chronovisor.a.vcpux",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}

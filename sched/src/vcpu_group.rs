//! Control groups of single vCPUs, for the back ends that enforce through one: `chronovisor.NAME.vcpuI`.
//!
//! On cgroup v2 the root has to hand its children the cpu controller. Where it did not, the first vCPU group switches that
//! on and leaves a mark, an empty group; the last one switches it off again, unless a group of somebody else has taken to
//! using it meanwhile. The root's lock keeps processes apart that do so at the same time.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::book::Entry;
use crate::cgroup::{self, CgroupError, Hierarchy, PREFIX, Version};
use crate::kernel::Tid;
use crate::request::Granted;

/// The mark that this program has handed the controller to the root's children, and with which settings a group begins.
const SWITCHED_ON: &str = "chronovisor.cpu-controller";

/// The group of one vCPU in the cpu controller's hierarchy. Dropping it does not remove it: [`VcpuGroup::remove`] does.
#[derive(Debug)]
pub(crate) struct VcpuGroup {
    hierarchy: &'static Hierarchy,
    pub(crate) path: PathBuf,
    /// Where the thread was before.
    home: PathBuf,
}

impl VcpuGroup {
    /// Which version of control groups a group would be of.
    pub(crate) fn version() -> Result<Version, CgroupError> {
        Ok(Hierarchy::of("cpu")?.version)
    }

    pub(crate) fn create(granted: &Granted, tid: Tid) -> Result<Self, CgroupError> {
        let hierarchy = Hierarchy::of("cpu")?;
        let group = Self {
            hierarchy,
            path: hierarchy.root.join(name(&granted.vm, granted.vcpu)),
            home: hierarchy.group_of(tid, "cpu")?,
        };
        match hierarchy.version {
            Version::V1 => cgroup::create(&group.path)?,
            Version::V2 => {
                if let Err(error) = group.create_threaded() {
                    group.remove(tid)?;
                    return Err(error);
                }
            }
        }
        Ok(group)
    }

    /// Makes a cgroup v2 group below the root that takes single threads of processes in the root group.
    fn create_threaded(&self) -> Result<(), CgroupError> {
        let root = &self.hierarchy.root;
        let alone = cgroup::lock(root)?;
        cgroup::create(&self.path)?;
        switch_on(root)?;
        drop(alone);
        self.set("cgroup.type", "threaded")?;
        self.hierarchy.enter_root_domain("cpu")
    }

    pub(crate) fn set(&self, file: &str, value: &str) -> Result<(), CgroupError> {
        cgroup::write(&self.path.join(file), value)
    }

    pub(crate) fn get(&self, file: &str) -> Result<String, CgroupError> {
        cgroup::read(&self.path.join(file))
    }

    pub(crate) fn join(&self, tid: Tid) -> Result<(), CgroupError> {
        self.hierarchy.join(&self.path, tid)
    }

    /// Moves the thread back, if it still lives, and removes the group. On cgroup v2 back is the root, whose domain the
    /// process has entered.
    pub(crate) fn remove(&self, tid: Tid) -> Result<(), CgroupError> {
        let joined = self.hierarchy.threads_in(&self.path).contains(&tid);
        if joined && crate::process::exists(tid) {
            let back = match self.hierarchy.version {
                Version::V1 => &self.home,
                Version::V2 => &self.hierarchy.root,
            };
            self.hierarchy.join(back, tid)?;
        }
        cgroup::remove(&self.path)?;
        tidy(self.hierarchy)
    }
}

/// Hands the root's children the cpu controller, and marks that, unless they have it.
fn switch_on(root: &Path) -> Result<(), CgroupError> {
    let control = root.join("cgroup.subtree_control");
    let handed = cgroup::read(&control)?;
    if handed.split_whitespace().any(|name| name == "cpu") {
        return Ok(());
    }
    // The mark first: without it nobody would know what to undo after a crash in between.
    cgroup::create(&root.join(SWITCHED_ON))?;
    cgroup::write(&control, "+cpu")
}

/// Undoes [`switch_on`], if this program has done it and nobody needs it any more.
fn tidy(hierarchy: &Hierarchy) -> Result<(), CgroupError> {
    let root = &hierarchy.root;
    let mark = root.join(SWITCHED_ON);
    if hierarchy.version == Version::V1 || !mark.is_dir() {
        return Ok(());
    }
    let _alone = cgroup::lock(root)?;
    if groups_in(root).any(|group| vcpu_of(&group).is_some() || differs(&group, &mark)) {
        return Ok(());
    }
    match cgroup::write(&root.join("cgroup.subtree_control"), "-cpu") {
        // A group hands it on to its own children.
        Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => cgroup::remove(&mark),
    }
}

fn groups_in(root: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
}

/// Whether a setting of the cpu controller differs between two groups.
fn differs(group: &Path, other: &Path) -> bool {
    const COUNTERS: [&str; 3] = ["cpu.stat", "cpu.stat.local", "cpu.pressure"];
    let files = fs::read_dir(group).into_iter().flatten().flatten();
    let names = files.filter_map(|file| file.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with("cpu.") && !COUNTERS.contains(&name.as_str()))
        .any(|name| fs::read(group.join(&name)).ok() != fs::read(other.join(&name)).ok())
}

/// The VM and vCPU whose group this is.
fn vcpu_of(group: &Path) -> Option<(&str, usize)> {
    parse(group.file_name()?.to_str()?)
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
pub(crate) fn clear_orphans(live: &[Arc<Entry>]) {
    let Ok(hierarchy) = Hierarchy::of("cpu") else {
        return;
    };
    for path in groups_in(&hierarchy.root) {
        let Some((vm, _)) = vcpu_of(&path) else {
            continue;
        };
        if live.iter().any(|entry| entry.vm == vm) {
            continue;
        }
        // A group with threads in it is refused by the kernel, and not ours to empty.
        if let Err(error) = cgroup::remove(&path) {
            tracing::debug!(%error, "left a control group");
        }
    }
    if let Err(error) = tidy(hierarchy) {
        tracing::debug!(%error, "left the cpu controller on");
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

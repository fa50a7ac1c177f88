//! Control groups (version 2) where nftables looks for them.
//!
//! nft takes the path of a group below /sys/fs/cgroup, whatever is mounted there (`cgroupv2_type_parse` in its src/socket.c),
//! and the kernel compares the ancestor of a socket's group at a level that counts from the hierarchy's own root. Where
//! version 1 is mounted there, the hierarchy of version 2 is below it, by custom at `unified`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::marks::MarksError;

/// Where nft looks for groups.
const FOLDER: &str = "/sys/fs/cgroup";

/// A control group as nft names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// Its path below [`FOLDER`].
    pub(crate) path: String,
    /// How deep it is below the root of its hierarchy.
    pub(crate) level: usize,
}

/// The group with this path below the hierarchy's root.
pub(crate) fn find(path: &str) -> Result<Group, MarksError> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap_or_default();
    let root = hierarchy(&mounts).ok_or_else(|| MarksError::NoHierarchy {
        path: path.to_owned(),
    })?;
    let (group, folder) = group(&root, path);
    if folder.is_dir() {
        return Ok(group);
    }
    Err(MarksError::NoGroup {
        path: path.to_owned(),
        folder,
    })
}

/// Where version 2 is mounted, if nft can see it there (proc_pid_mountinfo(5)).
fn hierarchy(mounts: &str) -> Option<PathBuf> {
    let is_it = |line: &&str| {
        let kind = line.split_once(" - ").map(|(_, behind)| behind);
        kind.is_some_and(|behind| behind.starts_with("cgroup2 "))
    };
    let folders = mounts.lines().filter(is_it);
    let folders = folders.filter_map(|line| line.split(' ').nth(4));
    let mut seen = folders
        .map(PathBuf::from)
        .filter(|at| at.starts_with(FOLDER));
    seen.next()
}

fn group(root: &Path, path: &str) -> (Group, PathBuf) {
    let path = path.trim_matches('/');
    let folder = root.join(path);
    let below = folder.strip_prefix(FOLDER).unwrap_or(&folder);
    let group = Group {
        path: below.to_string_lossy().into_owned(),
        level: path.split('/').count(),
    };
    (group, folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_from_where_nft_looks_and_its_level_from_where_the_hierarchy_begins() {
        let alone = "29 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
        let beside = concat!(
            "30 24 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n",
            "31 24 0:28 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 none rw\n",
        );
        for (mounts, expected) in [(alone, "jobs/gold"), (beside, "unified/jobs/gold")] {
            let root = hierarchy(mounts).unwrap();
            let (group, folder) = group(&root, "/jobs/gold");
            assert_eq!((group.path.as_str(), group.level), (expected, 2));
            assert_eq!(folder, Path::new(FOLDER).join(expected));
        }
        let elsewhere = "31 24 0:28 / /mnt/groups rw - cgroup2 none rw\n";
        assert_eq!(hierarchy(elsewhere), None);
    }
}

//! The control group of a job: its members, and freezing them (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst;
//! `cgroup.freeze` in Documentation/admin-guide/cgroup-v2.rst).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, CgroupError, Hierarchy, PREFIX};
use crate::process::Process;

/// A job's control group. Dropping it does not remove it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Group {
    path: PathBuf,
}

impl Group {
    /// The group of job `id` of this process, made if need be.
    pub(super) fn create(hierarchy: &Hierarchy, id: u64) -> Result<Self, CgroupError> {
        let Process { pid, started } = Process::current();
        let path = hierarchy
            .root
            .join(format!("{PREFIX}vtm{pid}-{started}.{id}"));
        cgroup::create(&path)?;
        Ok(Self { path })
    }

    /// Whether a group is one of a job of any scheduler.
    pub(super) fn is_of_a_job(group: &Path) -> bool {
        owner(group).is_some()
    }

    /// The file through which processes join.
    pub(super) fn processes_file(&self) -> PathBuf {
        self.path.join(PROCESSES)
    }

    pub(super) fn join(&self, pid: i32) -> Result<(), CgroupError> {
        join(&self.path, pid)
    }

    /// Its processes; none when it is gone.
    pub(super) fn members(&self) -> Vec<i32> {
        let text = cgroup::read(&self.processes_file()).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// What freezes it.
    pub(super) fn freezer(&self) -> Result<Freezer, CgroupError> {
        let file = |name: &str| {
            let path = self.path.join(name);
            let file = OpenOptions::new().write(true).open(&path);
            file.map_err(|source| cgroup::failed("open", &path, source))
        };
        let states = file("freezer.state").map(|file| Freezer {
            file,
            words: [b"FROZEN".as_slice(), b"THAWED"],
        });
        states.or_else(|_| {
            let file = file("cgroup.freeze")?;
            let words = [b"1".as_slice(), b"0"];
            Ok(Freezer { file, words })
        })
    }

    /// Removes it. It has to be empty.
    pub(super) fn remove(&self) -> Result<(), CgroupError> {
        cgroup::remove(&self.path)
    }
}

const PROCESSES: &str = "cgroup.procs";

/// Moves a process, with all its threads, into a group.
pub(super) fn join(group: &Path, pid: i32) -> Result<(), CgroupError> {
    cgroup::write(&group.join(PROCESSES), &pid.to_string())
}

/// The open file that freezes a group.
#[derive(Debug)]
pub(super) struct Freezer {
    file: File,
    words: [&'static [u8]; 2],
}

impl Freezer {
    /// Returns before all are frozen: those that do not run now freeze when they would run next.
    pub(super) fn freeze(&self) -> io::Result<()> {
        self.file.write_all_at(self.words[0], 0)
    }

    pub(super) fn thaw(&self) -> io::Result<()> {
        self.file.write_all_at(self.words[1], 0)
    }
}

/// Empties and removes the groups of processes that have died without a guardian to do it.
pub(super) fn clear_orphans(hierarchy: &Hierarchy) {
    let entries = std::fs::read_dir(&hierarchy.root)
        .into_iter()
        .flatten()
        .flatten();
    for path in entries.map(|entry| entry.path()) {
        if owner(&path).is_none_or(Process::is_alive) {
            continue;
        }
        let group = Group { path };
        let thawed = group.freezer().map(|freezer| freezer.thaw());
        tracing::warn!(group = %group.path.display(), ?thawed, "left by a VTM scheduler that died");
        for pid in group.members() {
            // Gone meanwhile, or refused: the group then stays.
            let _ = join(&hierarchy.root, pid);
        }
        if let Err(error) = group.remove() {
            tracing::warn!(%error, "left a control group");
        }
    }
}

/// The scheduler whose job's group this is.
fn owner(group: &Path) -> Option<Process> {
    let name = group.file_name()?.to_str()?;
    let rest = name.strip_prefix(PREFIX)?.strip_prefix("vtm")?;
    let (pid, started) = rest.split_once('.')?.0.split_once('-')?;
    Some(Process {
        pid: pid.parse().ok()?,
        started: started.parse().ok()?,
    })
}

//! Where the control groups are, and the few things done with them: find, make, write, join, remove.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use crate::kernel::Tid;

/// Every control group made by this crate is called `chronovisor.` and something.
pub const PREFIX: &str = "chronovisor.";

/// A control group could not be used.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No hierarchy with the controller is mounted.
    #[error(
        "no cgroup hierarchy with the {controller} controller is mounted: mount one, or choose another back end"
    )]
    NotMounted {
        /// The controller.
        controller: &'static str,
    },
    /// The hierarchy is of the version that lacks the feature.
    #[error("cgroup v{version} has no {feature}: choose another back end")]
    Unsupported {
        /// 1 or 2.
        version: u8,
        /// What is missing.
        feature: &'static str,
    },
    /// A file or directory operation failed.
    #[error("cannot {action} {path}: {source}{}", hint(.source))]
    Io {
        /// What was tried: `write '1' to`, `create`...
        action: String,
        /// The file or directory.
        path: String,
        /// The kernel's reason.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => " (needs root or a delegated control group)",
        Some(libc::EROFS) => " (the cgroup file system is mounted read-only)",
        _ => "",
    }
}

/// The version of a hierarchy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One hierarchy per controller.
    V1,
    /// The unified hierarchy.
    V2,
}

/// The root of a mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// The mount point.
    pub root: PathBuf,
    /// Its version.
    pub version: Version,
}

impl Hierarchy {
    /// The hierarchy that has `controller` (`cpu`, `cpuset`, `freezer` or `pids`), looked up once per process. Every unified
    /// hierarchy has a freezer.
    ///
    /// # Errors
    /// [`CgroupError::NotMounted`].
    pub fn of(controller: &'static str) -> Result<&'static Self, CgroupError> {
        static CPU: OnceLock<Option<Hierarchy>> = OnceLock::new();
        static CPUSET: OnceLock<Option<Hierarchy>> = OnceLock::new();
        static FREEZER: OnceLock<Option<Hierarchy>> = OnceLock::new();
        static PIDS: OnceLock<Option<Hierarchy>> = OnceLock::new();
        let cell = match controller {
            "cpuset" => &CPUSET,
            "freezer" => &FREEZER,
            "pids" => &PIDS,
            _ => &CPU,
        };
        cell.get_or_init(|| {
            let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
            find(&mounts, controller, |root| {
                let file = root.join("cgroup.controllers");
                fs::read_to_string(file).unwrap_or_default() + " freezer"
            })
        })
        .as_ref()
        .ok_or(CgroupError::NotMounted { controller })
    }

    /// The file through which a single thread joins `group`.
    pub fn threads_file(&self, group: &Path) -> PathBuf {
        group.join(match self.version {
            Version::V1 => "tasks",
            Version::V2 => "cgroup.threads",
        })
    }

    /// The threads in `group`; none if there is no such group.
    pub fn threads_in(&self, group: &Path) -> Vec<Tid> {
        let text = read(&self.threads_file(group)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.parse().ok().map(Tid))
            .collect()
    }

    /// Moves one thread into `group`.
    ///
    /// A thread that moves itself writes `0`: the kernel then needs no lock over all thread groups, which costs some
    /// 10 us instead of a grace period of 10 ms (`cgroup_procs_write_start` in kernel/cgroup/cgroup.c).
    ///
    /// # Errors
    /// The kernel's, with the path.
    pub fn join(&self, group: &Path, tid: Tid) -> Result<(), CgroupError> {
        let who = if tid.is_current() { 0 } else { tid.0 };
        write(&self.threads_file(group), &who.to_string())
    }

    /// On cgroup v2, moves this process to the root group, from which its threads may join threaded children; nothing to
    /// do on v1.
    ///
    /// Only the first call moves anything: another one would take threads out of the children they have joined.
    ///
    /// # Errors
    /// The kernel's, with the file.
    pub fn enter_root_domain(&self, controller: &'static str) -> Result<(), CgroupError> {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        if self.version == Version::V1 {
            return Ok(());
        }
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let process = nix::unistd::getpid().as_raw();
        let group = self.group_of(Tid(process), controller)?;
        let name = group.file_name().map(|name| name.to_string_lossy());
        if group == self.root || name.is_some_and(|name| name.starts_with(PREFIX)) {
            return Ok(());
        }
        write(&self.root.join("cgroup.procs"), &process.to_string())
    }

    /// The group of a thread in this hierarchy.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn group_of(&self, tid: Tid, controller: &'static str) -> Result<PathBuf, CgroupError> {
        let text = read(Path::new(&format!("/proc/{tid}/cgroup")))?;
        let relative = text
            .lines()
            .filter_map(|line| line.split_once(':')?.1.split_once(':'))
            .find(|(names, _)| match self.version {
                Version::V1 => names.split(',').any(|name| name == controller),
                Version::V2 => names.is_empty(),
            })
            .map_or("", |(_, path)| path);
        Ok(self.root.join(relative.trim_start_matches('/')))
    }
}

/// Finds the hierarchy of a controller in the text of /proc/self/mounts; v1 before v2, as a controller is in one only.
fn find(
    mounts: &str,
    controller: &str,
    controllers_of: impl Fn(&Path) -> String,
) -> Option<Hierarchy> {
    let mut unified = None;
    for line in mounts.lines() {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (root, kind, options) = (fields.next()?, fields.next()?, fields.next()?);
        let root = PathBuf::from(root);
        if kind == "cgroup" && options.split(',').any(|option| option == controller) {
            let version = Version::V1;
            return Some(Hierarchy { root, version });
        }
        if kind == "cgroup2"
            && controllers_of(&root)
                .split_whitespace()
                .any(|name| name == controller)
        {
            let version = Version::V2;
            unified = Some(Hierarchy { root, version });
        }
    }
    unified
}

pub(crate) fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    fs::write(path, text).map_err(|source| CgroupError::Io {
        action: format!("write '{text}' to"),
        path: path.display().to_string(),
        source,
    })
}

pub(crate) fn read(path: &Path) -> Result<String, CgroupError> {
    fs::read_to_string(path)
        .map(|text| text.trim_end().to_owned())
        .map_err(|source| failed("read", path, source))
}

/// Makes a group; one that exists already is as good.
pub(crate) fn create(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("create", path, source))
        }
        _ => Ok(()),
    }
}

/// Removes an empty group; one that is gone already is as good.
pub(crate) fn remove(path: &Path) -> Result<(), CgroupError> {
    match fs::remove_dir(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(failed("remove", path, source))
        }
        _ => Ok(()),
    }
}

/// Keeps other processes that lock `group` out, until the file is closed.
pub(crate) fn lock(group: &Path) -> Result<File, CgroupError> {
    File::open(group)
        .and_then(|folder| folder.lock().map(|()| folder))
        .map_err(|source| failed("lock", group, source))
}

pub(crate) fn failed(action: &str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io {
        action: action.to_owned(),
        path: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
        cgroup /sys/fs/cgroup/cpuset cgroup rw,relatime,cpuset 0 0\n\
        cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0\n\
        cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";

    #[test]
    fn a_controller_is_found_in_its_own_hierarchy() {
        let none = |_: &Path| String::new();
        let cpu = find(HYBRID, "cpu", none).unwrap();
        assert_eq!(cpu.root, Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(find(HYBRID, "cpuset", none).unwrap().version, Version::V1);
        assert_eq!(find(HYBRID, "memory", none), None);
    }

    #[test]
    fn the_unified_hierarchy_counts_only_with_the_controller_in_it() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let with = find(mounts, "cpuset", |_| "cpuset cpu io".to_owned()).unwrap();
        assert_eq!(with.version, Version::V2);
        assert_eq!(find(mounts, "cpuset", |_| "io".to_owned()), None);
    }

    #[test]
    fn an_error_names_the_file_and_the_value() {
        let error = write(Path::new("/nonexistent/cpuset.cpus"), "1").unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot write '1' to /nonexistent/cpuset.cpus: ")
        );
    }
}

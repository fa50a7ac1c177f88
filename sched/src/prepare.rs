//! Preparing a host for promises, and undoing exactly that.
//!
//! What is going to be changed is written to `host.json` in the run directory before anything is: created groups, and
//! settings with their values before and after. [`restore`] undoes what that file lists and nothing else, leaving alone
//! any setting that someone changed since. Both may be repeated, also after a crash in the middle.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cgroup::{self, CgroupError, Hierarchy, Version};
use crate::cpus;
use crate::partition::{self, Partition};

/// The version of the file's form.
const VERSION: u32 = 1;

/// The host could not be prepared or restored.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A CPU that is not online.
    #[error("CPU {cpu} is not online: choose from {}", cpus::format(.online))]
    Offline {
        /// The CPU.
        cpu: u32,
        /// Those that are.
        online: Vec<u32>,
    },
    /// Every CPU would be a partition.
    #[error("no CPU would be left to the host: leave out at least one of {}", cpus::format(.cpus))]
    NoneLeft {
        /// What was asked for.
        cpus: Vec<u32>,
    },
    /// Another set of CPUs is prepared.
    #[error("CPUs {} are prepared already: restore the host first", cpus::format(.cpus))]
    AlreadyPrepared {
        /// Those that are.
        cpus: Vec<u32>,
    },
    /// A group of that name exists, and this program has not made it.
    #[error(
        "{path} exists but was not made from this run directory: remove it by hand if nobody needs it"
    )]
    NotOwned {
        /// The group.
        path: PathBuf,
    },
    /// Threads are in a group that would be removed.
    #[error("{group} is in use by thread {tid}: stop its VM first")]
    InUse {
        /// The group.
        group: PathBuf,
        /// One of the threads.
        tid: crate::kernel::Tid,
    },
    /// The kernel made the group but not the partition.
    #[error(
        "the kernel does not accept CPU {cpu} as a partition ({state}): does another cpuset use this CPU?"
    )]
    Invalid {
        /// The CPU.
        cpu: u32,
        /// What the kernel says.
        state: String,
    },
    /// A control group could not be used.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The record of changes could not be read or written.
    #[error("cannot {action} {path}: {source}")]
    Record {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// What was changed, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    version: u32,
    cpus: Vec<u32>,
    created: Vec<PathBuf>,
    settings: Vec<Setting>,
}

/// One setting of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Setting {
    file: PathBuf,
    before: String,
    after: String,
    /// What to write to undo it, where that is not `before`.
    undo: Option<String>,
}

/// Makes a one-CPU partition of each of `cpus`. Those that are partitions already stay as they are.
///
/// # Errors
/// When it cannot be done; what had been changed is undone then.
pub fn prepare(run_dir: &Path, cpus: &[u32]) -> Result<Vec<Partition>, PrepareError> {
    let online = cpus::online();
    check(cpus, &online)?;
    let wanted = sorted(cpus);
    if let Some(record) = load(run_dir)? {
        let valid: Vec<_> = record
            .cpus
            .iter()
            .filter_map(|&cpu| Partition::of(cpu))
            .collect();
        if record.cpus == wanted && valid.len() == wanted.len() {
            return Ok(valid);
        }
        if !valid.is_empty() {
            let cpus = record.cpus;
            return Err(PrepareError::AlreadyPrepared { cpus });
        }
        // Nothing of it is in force: left by a crash in the middle.
        restore(run_dir)?;
    }
    let hierarchy = Hierarchy::of("cpuset")?;
    let record = plan(hierarchy, &wanted)?;
    store(run_dir, &record)?;
    let made = make(hierarchy, &record, &online);
    if made.is_err()
        && let Err(error) = restore(run_dir)
    {
        // The reason of the first failure is the one to tell.
        tracing::warn!(%error, "not all of a failed preparation could be undone");
    }
    made
}

/// Undoes what [`prepare`] did; whether there was anything to undo.
///
/// # Errors
/// When a partition is in use (nothing is changed then), or the kernel refuses.
pub fn restore(run_dir: &Path) -> Result<bool, PrepareError> {
    let Some(record) = load(run_dir)? else {
        return Ok(false);
    };
    let hierarchy = Hierarchy::of("cpuset")?;
    for group in &record.created {
        if let Some(&tid) = hierarchy.threads_in(group).first() {
            let group = group.clone();
            return Err(PrepareError::InUse { group, tid });
        }
    }
    for group in record.created.iter().rev() {
        // A partition root gives its CPU back when it is a member again; on v1 there is no such file.
        let partition = group.join("cpuset.cpus.partition");
        if partition.exists() {
            cgroup::write(&partition, "member")?;
        }
        cgroup::remove(group)?;
    }
    for setting in record.settings.iter().rev() {
        let now = cgroup::read(&setting.file)?;
        if now == setting.after && setting.after != setting.before {
            let undo = setting.undo.as_ref().unwrap_or(&setting.before);
            cgroup::write(&setting.file, undo)?;
        }
    }
    let path = record_path(run_dir);
    fs::remove_file(&path).map_err(|source| record_error("remove", &path, source))?;
    Ok(true)
}

/// The CPUs that are prepared from this run directory, whether or not they still are valid partitions.
///
/// # Errors
/// When the record cannot be read.
pub fn prepared(run_dir: &Path) -> Result<Vec<u32>, PrepareError> {
    Ok(load(run_dir)?.map(|record| record.cpus).unwrap_or_default())
}

fn check(cpus: &[u32], online: &[u32]) -> Result<(), PrepareError> {
    if let Some(&cpu) = cpus.iter().find(|cpu| !online.contains(cpu)) {
        let online = online.to_vec();
        return Err(PrepareError::Offline { cpu, online });
    }
    if online.iter().all(|cpu| cpus.contains(cpu)) {
        let cpus = cpus.to_vec();
        return Err(PrepareError::NoneLeft { cpus });
    }
    Ok(())
}

fn sorted(cpus: &[u32]) -> Vec<u32> {
    let mut cpus = cpus.to_vec();
    cpus.sort_unstable();
    cpus.dedup();
    cpus
}

/// What has to be changed, with nothing changed yet.
fn plan(hierarchy: &Hierarchy, cpus: &[u32]) -> Result<Record, PrepareError> {
    let root = &hierarchy.root;
    let mut created: Vec<_> = cpus
        .iter()
        .map(|&cpu| root.join(partition::name(cpu)))
        .collect();
    let setting = match hierarchy.version {
        Version::V1 => {
            created.push(root.join(partition::REST));
            let file = root.join("cpuset.sched_load_balance");
            let before = cgroup::read(&file)?;
            Setting {
                file,
                before,
                after: "0".to_owned(),
                undo: None,
            }
        }
        Version::V2 => controllers_with_cpuset(root)?,
    };
    if let Some(path) = created.iter().find(|path| path.exists()) {
        let path = path.clone();
        return Err(PrepareError::NotOwned { path });
    }
    Ok(Record {
        version: VERSION,
        cpus: cpus.to_vec(),
        created,
        settings: vec![setting],
    })
}

/// The change that lets children of the cgroup v2 root have cpusets.
fn controllers_with_cpuset(root: &Path) -> Result<Setting, PrepareError> {
    let file = root.join("cgroup.subtree_control");
    let before = cgroup::read(&file)?;
    let mut controllers: Vec<_> = before.split_whitespace().collect();
    if !controllers.contains(&"cpuset") {
        // The kernel lists controllers in its own order, in which cpuset is first.
        controllers.insert(0, "cpuset");
    }
    let after = controllers.join(" ");
    let undo = Some("-cpuset".to_owned());
    Ok(Setting {
        file,
        before,
        after,
        undo,
    })
}

fn make(
    hierarchy: &Hierarchy,
    record: &Record,
    online: &[u32],
) -> Result<Vec<Partition>, PrepareError> {
    match hierarchy.version {
        Version::V1 => make_v1(hierarchy, record, online)?,
        Version::V2 => make_v2(hierarchy, record)?,
    }
    let valid = |&cpu: &u32| {
        Partition::of(cpu).ok_or_else(|| PrepareError::Invalid {
            cpu,
            state: partition::state(hierarchy, cpu),
        })
    };
    record.cpus.iter().map(valid).collect()
}

/// The root's own load balancing goes last: it is what makes root domains of the children.
fn make_v1(hierarchy: &Hierarchy, record: &Record, online: &[u32]) -> Result<(), CgroupError> {
    let root = &hierarchy.root;
    let mems = cgroup::read(&root.join("cpuset.mems"))?;
    let child = |name: &str, cpus: &[u32], exclusive: &str| {
        let group = root.join(name);
        cgroup::create(&group)?;
        cgroup::write(&group.join("cpuset.cpus"), &cpus::format(cpus))?;
        cgroup::write(&group.join("cpuset.mems"), &mems)?;
        cgroup::write(&group.join("cpuset.cpu_exclusive"), exclusive)?;
        cgroup::write(&group.join("cpuset.sched_load_balance"), "1")
    };
    for &cpu in &record.cpus {
        child(&partition::name(cpu), &[cpu], "1")?;
    }
    let rest: Vec<_> = online
        .iter()
        .filter(|cpu| !record.cpus.contains(cpu))
        .copied()
        .collect();
    // Without it nothing would balance load over the remaining CPUs.
    child(partition::REST, &rest, "0")?;
    cgroup::write(&root.join("cpuset.sched_load_balance"), "0")
}

fn make_v2(hierarchy: &Hierarchy, record: &Record) -> Result<(), CgroupError> {
    let root = &hierarchy.root;
    cgroup::write(&root.join("cgroup.subtree_control"), "+cpuset")?;
    for &cpu in &record.cpus {
        let group = root.join(partition::name(cpu));
        cgroup::create(&group)?;
        cgroup::write(&group.join("cgroup.type"), "threaded")?;
        cgroup::write(&group.join("cpuset.cpus"), &cpu.to_string())?;
        cgroup::write(&group.join("cpuset.cpus.partition"), "root")?;
    }
    Ok(())
}

fn record_path(run_dir: &Path) -> PathBuf {
    run_dir.join("host.json")
}

fn load(run_dir: &Path) -> Result<Option<Record>, PrepareError> {
    let path = record_path(run_dir);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(record_error("read", &path, source)),
    };
    let record: Record = serde_json::from_slice(&bytes)
        .map_err(|error| record_error("understand", &path, error.into()))?;
    if record.version != VERSION {
        let other = io::Error::other(format!("version {} of its form", record.version));
        return Err(record_error("understand", &path, other));
    }
    Ok(Some(record))
}

/// Written aside and renamed, so that it is whole or not there.
fn store(run_dir: &Path, record: &Record) -> Result<(), PrepareError> {
    let path = record_path(run_dir);
    let aside = path.with_extension("new");
    let text = serde_json::to_vec_pretty(record).unwrap_or_default();
    fs::create_dir_all(run_dir)
        .and_then(|()| fs::write(&aside, text))
        .and_then(|()| fs::rename(&aside, &path))
        .map_err(|source| record_error("write", &path, source))
}

fn record_error(action: &'static str, path: &Path, source: io::Error) -> PrepareError {
    let path = path.to_owned();
    PrepareError::Record {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_keeps_at_least_one_cpu_for_itself() {
        assert!(matches!(
            check(&[0, 1], &[0, 1]),
            Err(PrepareError::NoneLeft { .. })
        ));
        assert!(matches!(
            check(&[2], &[0, 1]),
            Err(PrepareError::Offline { cpu: 2, .. })
        ));
        assert!(check(&[1], &[0, 1]).is_ok());
    }

    #[test]
    fn nothing_recorded_is_nothing_to_restore() {
        let dir = tempfile::tempdir().unwrap();
        assert!(!restore(dir.path()).unwrap());
        assert_eq!(prepared(dir.path()).unwrap(), Vec::<u32>::new());
    }

    #[test]
    fn a_record_of_another_version_is_not_acted_on() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            version: 9,
            cpus: vec![],
            created: vec![],
            settings: vec![],
        };
        store(dir.path(), &record).unwrap();
        assert!(
            restore(dir.path())
                .unwrap_err()
                .to_string()
                .contains("version 9")
        );
    }
}

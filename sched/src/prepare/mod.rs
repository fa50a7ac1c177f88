//! Preparing a host for promises, and undoing exactly that.
//!
//! Each CPU becomes a partition, and is made quiet: interrupts and packets are steered to the other CPUs, and deep idle
//! states are ruled out.
//!
//! What is going to be changed is written to `host.json` in the run directory before anything is: created groups, and
//! settings with their values before and after. [`restore`] undoes what that file lists and nothing else, leaving alone
//! any setting that someone changed since. Both may be repeated, also after a crash in the middle, and both at the same
//! time: one waits for the other.

pub(crate) mod quiet;
mod record;

use std::io;
use std::path::{Path, PathBuf};

use self::quiet::Kernel;
use self::record::{Alone, Record, Setting, VERSION};
use crate::admission::Fit;
use crate::cgroup::{self, CgroupError, Hierarchy, Version};
use crate::cpus;
use crate::partition::{self, Partition};

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
    /// A setting of the kernel could not be read or changed.
    #[error("cannot {action} {path}: {source}; run as root where /proc and /sys are writable")]
    Setting {
        /// What was tried: `read`, `write '1' to`.
        action: String,
        /// The setting's file.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// Everything else was undone, but the kernel refuses to have one setting back.
    #[error(
        "all but one setting is restored: the kernel refuses '{value}' for {path} ({source}); write what fits by hand"
    )]
    NotUndone {
        /// The setting's file.
        path: PathBuf,
        /// Its value before.
        value: String,
        /// The kernel's reason.
        source: io::Error,
    },
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

/// Makes a one-CPU partition of each of `cpus` and makes these CPUs quiet. Those that are partitions already stay as they
/// are, but what disturbs them anew is steered away.
///
/// # Errors
/// When it cannot be done; what had been changed is undone then.
pub fn prepare(run_dir: &Path, cpus: &[u32]) -> Result<Vec<Partition>, PrepareError> {
    let online = cpus::online();
    check(cpus, &online)?;
    let wanted = sorted(cpus);
    let _alone = Alone::wait(run_dir)?;
    if let Some(mut record) = Record::load(run_dir)? {
        let valid: Vec<_> = record
            .cpus
            .iter()
            .filter_map(|&cpu| Partition::of(cpu))
            .collect();
        if record.cpus == wanted && valid.len() == wanted.len() {
            quieten(run_dir, &mut record, &online)?;
            return Ok(valid);
        }
        if !valid.is_empty() {
            let cpus = record.cpus;
            return Err(PrepareError::AlreadyPrepared { cpus });
        }
        // Nothing of it is in force: left by a crash in the middle.
        undo(&record, run_dir)?;
    }
    let hierarchy = Hierarchy::of("cpuset")?;
    let mut record = plan(hierarchy, &wanted)?;
    record.store(run_dir)?;
    // Valid partitions come last: after a crash before that, everything is done anew.
    let made =
        quieten(run_dir, &mut record, &online).and_then(|()| make(hierarchy, &record, &online));
    if made.is_err()
        && let Err(error) = undo(&record, run_dir)
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
    // A folder in which nothing was prepared is left as it is.
    if Record::load(run_dir)?.is_none() {
        return Ok(false);
    }
    let _alone = Alone::wait(run_dir)?;
    let Some(record) = Record::load(run_dir)? else {
        return Ok(false);
    };
    undo(&record, run_dir).map(|()| true)
}

/// Steers away what disturbs the CPUs of `record`, which says so first.
fn quieten(run_dir: &Path, record: &mut Record, online: &[u32]) -> Result<(), PrepareError> {
    let settings = Kernel::running().plan(&record.cpus, online);
    if settings.is_empty() {
        return Ok(());
    }
    record.add(&settings);
    record.store(run_dir)?;
    record.apply(run_dir, settings)
}

fn undo(record: &Record, run_dir: &Path) -> Result<(), PrepareError> {
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
    let mut not_undone = Ok(());
    for setting in record.settings.iter().rev() {
        match setting.undo() {
            // To try it again would not help: the other settings need not wait for it.
            Err(refused @ PrepareError::NotUndone { .. }) => not_undone = Err(refused),
            undone => undone?,
        }
    }
    Record::remove(run_dir)?;
    not_undone
}

/// Chooses which of the prepared partitions is tried first for a vCPU, from now on. Where nothing is prepared there is
/// nothing to choose from.
///
/// It is recorded with the partitions because it is about all of them: whoever is admitted on this host from this run
/// directory is placed alike, and a guest has no say in it. What is placed already stays.
///
/// # Errors
/// When the record cannot be read or written.
pub fn choose_fit(run_dir: &Path, fit: Fit) -> Result<(), PrepareError> {
    let _alone = Alone::wait(run_dir)?;
    let Some(mut record) = Record::load(run_dir)? else {
        return Ok(());
    };
    record.fit = fit;
    record.store(run_dir)
}

/// The fit that was chosen; worst fit otherwise, which leaves every reservation room to grow.
///
/// # Errors
/// When the record cannot be read.
pub fn fit(run_dir: &Path) -> Result<Fit, PrepareError> {
    Ok(Record::load(run_dir)?
        .map(|record| record.fit)
        .unwrap_or_default())
}

/// The CPUs that are prepared from this run directory, whether or not they still are valid partitions.
///
/// # Errors
/// When the record cannot be read.
pub fn prepared(run_dir: &Path) -> Result<Vec<u32>, PrepareError> {
    Ok(Record::load(run_dir)?
        .map(|record| record.cpus)
        .unwrap_or_default())
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
        fit: Fit::default(),
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
        choose_fit(dir.path(), Fit::First).unwrap();
        assert_eq!(fit(dir.path()).unwrap(), Fit::Worst);
    }
}

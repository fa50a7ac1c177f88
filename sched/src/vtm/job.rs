//! Making jobs of processes: which can be one, stopping them, and putting them on the CPU in real time.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::sched_setaffinity;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::geteuid;

use super::config::{JobSource, Suspend};
use super::dispatcher::{Handle, JobCount, Stop};
use super::error::VtmError;
use super::freezer::{Freezer, Group};
use super::guardian::Guardian;
use super::interrupted::Work;
use super::making::Making;
use super::processes::{Seen, Snapshot, look, threads};
use super::record::{ProcessRecord, Record, set_of};
use super::status::Means;
use crate::cgroup::{CgroupError, Hierarchy};
use crate::framework::{Factory, Kind, Resource};
use crate::kernel::{PidFd, SchedAttr, Tid, attributes, set_attributes};
use crate::partition::Partition;
use crate::process::Process;

/// Of the jobs' SCHED_RR: below the dispatcher and the guardian, above what the kernel gives its own threads (50).
/// Processes of one job take turns, which with SCHED_FIFO they would not.
const PRIORITY: u8 = 80;

/// A process of a job.
#[derive(Debug)]
pub(super) struct Tracked {
    pub(super) fd: Arc<PidFd>,
    pub(super) process: Process,
    pub(super) held: bool,
    cpu_before: Duration,
    cpu_last: Duration,
}

impl Tracked {
    /// CPU time since it was added; as last seen if it has ended.
    pub(super) fn cpu_time(&mut self) -> Duration {
        if let Some(now) = cpu_time(self.process.pid).filter(|_| !self.fd.has_ended()) {
            self.cpu_last = now;
        }
        self.cpu_last.saturating_sub(self.cpu_before)
    }
}

/// CPU time of a process. Allocates nothing.
pub(super) fn cpu_time(pid: i32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Tid(pid).pid()).ok()?;
    clock_gettime(clock).ok().map(Duration::from)
}

/// A job.
#[derive(Debug)]
pub(super) struct JobEntry {
    pub(super) id: u64,
    pub(super) source: JobSource,
    pub(super) pid: i32,
    pub(super) record: Record,
    pub(super) processes: BTreeMap<i32, Tracked>,
    pub(super) freezer: Option<Arc<Freezer>>,
    pub(super) means: Means,
    /// Where it was started by the scheduler.
    pub(super) child: Option<Child>,
    pub(super) count: Arc<JobCount>,
    /// CPU time of its processes that have ended.
    pub(super) ended_cpu: Duration,
    pub(super) resource: Resource,
    /// Whether the dispatcher has it.
    pub(super) listed: bool,
    /// Whether it is to have no turns.
    pub(super) suspended: bool,
}

impl JobEntry {
    /// Whether somebody else has stopped all of it.
    pub(super) fn is_held(&self) -> bool {
        self.processes.values().all(|process| process.held)
    }

    /// What the dispatcher gets.
    pub(super) fn handle(&self) -> Handle {
        Handle {
            id: self.id,
            stop: self.stop(),
            count: Arc::clone(&self.count),
            work: Work::of(self.pid),
            on: false,
        }
    }

    /// How it is stopped.
    pub(super) fn stop(&self) -> Stop {
        match (&self.freezer, self.means) {
            (Some(freezer), Means::Freezer) => Stop::Freezer(Arc::clone(freezer)),
            _ => {
                let free = self.processes.values().filter(|process| !process.held);
                Stop::Signals(free.map(|process| Arc::clone(&process.fd)).collect())
            }
        }
    }

    /// CPU time of all its processes since it was added.
    pub(super) fn cpu_time(&mut self) -> Duration {
        let living = self.processes.values_mut().map(Tracked::cpu_time);
        living.sum::<Duration>() + self.ended_cpu
    }
}

/// What a job is to be made of.
#[derive(Debug)]
pub(super) struct JobSpec {
    pub(super) source: JobSource,
    /// What stands for it, if the caller has that already.
    pub(super) resource: Option<Resource>,
}

/// Makes jobs: stopped, on the CPU, in real time.
#[derive(Debug)]
pub(super) struct Jobs {
    pub(super) cpu: u32,
    pub(super) below: Resource,
    pub(super) partition: Option<Partition>,
    pub(super) suspend: Suspend,
    pub(super) guardian: Guardian,
    pub(super) all: Snapshot,
    /// The VTM of each process that is known to be of a job.
    pub(super) owners: BTreeMap<i32, String>,
    pub(super) next_id: u64,
}

impl Factory for Jobs {
    type Specification = JobSpec;
    type Product = JobEntry;
    type Error = VtmError;

    fn make(&mut self, spec: JobSpec) -> Result<JobEntry, VtmError> {
        let id = self.next_id;
        self.next_id += 1;
        let found = match &spec.source {
            JobSource::Command(_) => Vec::new(),
            source => self.select(source)?,
        };
        let group = match self.hierarchy() {
            Some(hierarchy) => Some(Group::create(hierarchy, id)?),
            None => None,
        };
        let mut making = Making::begin(self, id, group);
        match making.make(&spec, &found) {
            Ok(freezer) => {
                let pid = making.record.processes.first().map_or(0, |p| p.process.pid);
                let name = pid.to_string();
                let resource = spec.resource;
                let new = || Resource::upon(Kind::PROCESS, name, [&making.jobs.below]);
                Ok(JobEntry {
                    id,
                    source: spec.source,
                    pid,
                    resource: resource.unwrap_or_else(new),
                    record: making.record,
                    processes: making.processes,
                    freezer,
                    means: making.means,
                    child: making.child,
                    count: Arc::default(),
                    ended_cpu: Duration::ZERO,
                    listed: false,
                    suspended: false,
                })
            }
            Err(error) => {
                making.undo();
                Err(error)
            }
        }
    }
}

impl Jobs {
    /// Whether jobs have groups, by which their children are known.
    pub(super) fn has_groups(&self) -> bool {
        self.hierarchy().is_some()
    }

    /// Where jobs have groups, if they do.
    fn hierarchy(&self) -> Option<&'static Hierarchy> {
        match self.suspend {
            Suspend::Signals => None,
            Suspend::Freezer | Suspend::Auto => Hierarchy::of("freezer").ok(),
        }
    }

    /// The groups that a process is in and will be taken out of.
    pub(super) fn homes(&self, pid: i32) -> Result<Vec<PathBuf>, CgroupError> {
        let mut homes = Vec::new();
        if let Some(hierarchy) = self.hierarchy() {
            homes.push(hierarchy.group_of(Tid(pid), "freezer")?);
        }
        if self.partition.is_some() {
            homes.push(Hierarchy::of("cpuset")?.group_of(Tid(pid), "cpuset")?);
        }
        Ok(homes)
    }

    /// What making a job would find wrong before it does anything.
    pub(super) fn check(&mut self, source: &JobSource) -> Result<(), VtmError> {
        match source {
            JobSource::Command(words) if words.is_empty() => Err(VtmError::EmptyCommand),
            source => self.select(source).map(drop),
        }
    }

    /// The processes that are meant, with their children. Changes nothing.
    fn select(&mut self, source: &JobSource) -> Result<Vec<Seen>, VtmError> {
        self.all.refresh(1);
        let refused = |pid: i32, reason: String| VtmError::Refused {
            source_of_job: source.clone(),
            pid,
            reason,
        };
        let (first, mut pids) = match *source {
            JobSource::Process(pid) => (pid, vec![pid]),
            JobSource::Group(group) => {
                let members = self.all.group(group);
                let Some(&first) = members.first().filter(|_| group > 0) else {
                    let reason = "leads no group that has processes: give the id of one that has";
                    return Err(refused(group, reason.to_owned()));
                };
                let leads = members.contains(&group);
                (if leads { group } else { first }, members)
            }
            JobSource::Command(_) => return Ok(Vec::new()),
        };
        pids.extend(self.all.descendants(&pids));
        pids.sort_by_key(|&pid| pid != first);
        let mut found = Vec::with_capacity(pids.len());
        for pid in pids {
            match look(pid).filter(|_| pid > 0) {
                Some(seen) => match self.objection(&seen) {
                    Some(reason) => return Err(refused(pid, reason)),
                    None => found.push(seen),
                },
                // A child may have ended meanwhile.
                None if pid != first => {}
                None => {
                    let reason = "does not exist or has ended: give the id of one that runs";
                    return Err(refused(pid, reason.to_owned()));
                }
            }
        }
        Ok(found)
    }

    /// Why a process cannot be a job, and what would work.
    fn objection(&self, seen: &Seen) -> Option<String> {
        let pid = seen.process.pid;
        let text = |reason: &str| Some(reason.to_owned());
        if let Some(vtm) = self.owners.get(&pid) {
            return Some(format!(
                "is a job of VTM '{vtm}' already: remove it there first"
            ));
        }
        if seen.kernel_thread {
            return text("is a kernel thread: only ordinary processes can be jobs");
        }
        if pid == 1 || pid == self.guardian.pid() || lineage().contains(&pid) {
            return text("is needed to run the scheduler itself: give one that has not started it");
        }
        if let Some(process) = process_of_thread(pid) {
            return Some(format!("is a thread: give its process, {process}"));
        }
        let own = geteuid().as_raw();
        let owner = fs::metadata(format!("/proc/{pid}")).map_or(own, |data| data.uid());
        if own != 0 && owner != own {
            return Some(format!(
                "belongs to user {owner}: give one of your own, or run as root"
            ));
        }
        if attributes(Tid(pid)).is_ok_and(|policy| policy.is_deadline()) {
            return text(
                "has a SCHED_DEADLINE reservation, which comes before every VTM: end that first",
            );
        }
        let group = Hierarchy::of("freezer").ok()?;
        let group = group.group_of(Tid(pid), "freezer").ok()?;
        if Group::is_of_a_job(&group) {
            return text("is a job of another VTM scheduler: remove it there first");
        }
        None
    }

    /// Leaves a job as it was found.
    pub(super) fn undo(&mut self, record: &Record) {
        let grouped = record.group.is_some();
        if !grouped {
            self.all.refresh(1);
        }
        for problem in record.undo(&self.all) {
            tracing::warn!(problem, "a job is not as it was found");
        }
        for process in &record.processes {
            self.owners.remove(&process.process.pid);
        }
        // Without a guardian there is nobody who could undo it again.
        let _ = self.guardian.forget(record.id);
    }

    /// Puts a process of a job on the CPU, in real time.
    pub(super) fn enlist(&self, process: &ProcessRecord) -> Result<(), VtmError> {
        let pid = process.process.pid;
        let failed = |action| move |errno| VtmError::Process { action, pid, errno };
        if let Some(partition) = &self.partition {
            super::freezer::join(&partition.group(), pid)?;
        }
        let cpus = set_of(&[self.cpu as usize]);
        let policy = SchedAttr::round_robin(PRIORITY);
        // Threads that are made meanwhile inherit from one that was done or come in the next round.
        for _ in 0..2 {
            for tid in threads(pid) {
                let done = sched_setaffinity(Tid(tid).pid(), &cpus)
                    .map_err(failed("pin"))
                    .and_then(|()| {
                        set_attributes(Tid(tid), &policy).map_err(failed("make real-time"))
                    });
                match done {
                    Err(VtmError::Process {
                        errno: Errno::ESRCH,
                        ..
                    }) => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// What is needed of a process to follow it.
    pub(super) fn track(record: &ProcessRecord) -> Result<Tracked, VtmError> {
        let pid = record.process.pid;
        let opened = PidFd::open(pid).or_else(|errno| match errno {
            Errno::EMFILE => {
                allow_more_files();
                PidFd::open(pid)
            }
            errno => Err(errno),
        });
        let fd = opened.map_err(|errno| VtmError::Process {
            action: "follow",
            pid,
            errno,
        })?;
        // Looked at after it was opened: no later one of its number.
        if Process::of(pid).is_some_and(|now| now != record.process) {
            return Err(VtmError::Process {
                action: "follow",
                pid,
                errno: Errno::ESRCH,
            });
        }
        let cpu = cpu_time(pid).unwrap_or_default();
        Ok(Tracked {
            fd: Arc::new(fd),
            process: record.process,
            held: record.held,
            cpu_before: cpu,
            cpu_last: cpu,
        })
    }
}

/// This process and those that it descends from.
fn lineage() -> Vec<i32> {
    let mut lineage = Vec::new();
    let mut next = Some(nix::unistd::getpid().as_raw());
    while let Some(pid) = next.filter(|&pid| pid > 0) {
        lineage.push(pid);
        next = look(pid).map(|seen| seen.parent);
    }
    lineage
}

/// The process whose thread, but not itself, has this id.
fn process_of_thread(tid: i32) -> Option<i32> {
    let status = fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
    let process = line.trim().parse().ok()?;
    (process != tid).then_some(process)
}

/// Every process of a job is an open file: raises the limit, as far as that is permitted.
fn allow_more_files() {
    let Ok((soft, hard)) = getrlimit(Limit::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = soft.saturating_mul(2);
    if setrlimit(Limit::RLIMIT_NOFILE, wanted, hard.max(wanted)).is_err() {
        let _ = setrlimit(Limit::RLIMIT_NOFILE, hard, hard);
    }
}

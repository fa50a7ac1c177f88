//! The steps by which processes become a job, and back if one of them fails.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::config::{JobSource, Suspend};
use super::error::VtmError;
use super::freezer::{Freezer, Group};
use super::job::{JobSpec, Jobs, Tracked};
use super::processes::{Seen, look};
use super::record::{ProcessRecord, Record};
use super::status::Means;
use crate::kernel::join_before_start;

/// A job that is being made.
pub(super) struct Making<'a> {
    pub(super) jobs: &'a mut Jobs,
    pub(super) record: Record,
    pub(super) processes: BTreeMap<i32, Tracked>,
    pub(super) child: Option<Child>,
    pub(super) means: Means,
}

impl<'a> Making<'a> {
    pub(super) fn begin(jobs: &'a mut Jobs, id: u64, group: Option<Group>) -> Self {
        Self {
            jobs,
            record: Record {
                id,
                processes: Vec::new(),
                group,
                signals: false,
            },
            processes: BTreeMap::new(),
            child: None,
            means: Means::Signals,
        }
    }

    pub(super) fn make(
        &mut self,
        spec: &JobSpec,
        found: &[Seen],
    ) -> Result<Option<Arc<Freezer>>, VtmError> {
        let freezer = match &self.record.group {
            Some(group) => Some(Arc::new(group.freezer()?)),
            None => None,
        };
        if let JobSource::Command(words) = &spec.source {
            let seen = self.start(words)?;
            let homes = self.jobs.homes(nix::unistd::getpid().as_raw())?;
            self.note(&[seen], Some(&homes))?;
        } else {
            self.note(found, None)?;
        }
        self.choose_means();
        self.jobs.guardian.job(&self.record)?;
        self.stop(0)?;
        self.take_children(freezer.as_deref())?;
        self.record
            .processes
            .iter()
            .try_for_each(|process| self.jobs.enlist(process))?;
        Ok(freezer)
    }

    /// Starts a command in the job's group.
    fn start(&mut self, words: &[String]) -> Result<Seen, VtmError> {
        let (program, arguments) = words.split_first().ok_or(VtmError::EmptyCommand)?;
        let failed = |source| VtmError::Start {
            program: program.clone(),
            source,
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .process_group(0);
        if let Some(group) = &self.record.group {
            let file = open(&group.processes_file()).map_err(failed)?;
            join_before_start(&mut command, vec![file]);
        }
        let child = self.child.insert(command.spawn().map_err(failed)?);
        let pid = i32::try_from(child.id()).unwrap_or_default();
        look(pid).ok_or_else(|| failed(std::io::Error::other("it ended at once")))
    }

    /// Enters processes as they are now.
    fn note(&mut self, found: &[Seen], homes: Option<&[PathBuf]>) -> Result<(), VtmError> {
        for seen in found {
            let pid = seen.process.pid;
            let homes = match homes {
                Some(homes) => homes.to_vec(),
                None => self.jobs.homes(pid)?,
            };
            let record = match ProcessRecord::of(seen.process, seen.stopped, homes) {
                Err(Errno::ESRCH) if !self.record.processes.is_empty() => continue,
                record => record.map_err(|errno| VtmError::Process {
                    action: "read the policy of",
                    pid,
                    errno,
                })?,
            };
            match Jobs::track(&record) {
                Err(VtmError::Process {
                    errno: Errno::ESRCH,
                    ..
                }) if !self.record.processes.is_empty() => {}
                tracked => {
                    self.processes.insert(pid, tracked?);
                    self.record.processes.push(record);
                }
            }
        }
        Ok(())
    }

    /// Signals for a process that is alone, and the freezer where there is one for others, and for those that somebody else
    /// may continue at any time.
    fn choose_means(&mut self) {
        let alone = self.processes.len() == 1 && !self.processes.values().all(|p| p.held);
        let signals = self.jobs.suspend == Suspend::Auto && alone;
        self.means = if self.record.group.is_some() && !signals {
            Means::Freezer
        } else {
            Means::Signals
        };
        self.record.signals |= self.means == Means::Signals;
    }

    /// Stops the processes from number `first` on, or brings them where they are going to be frozen.
    fn stop(&mut self, first: usize) -> Result<(), VtmError> {
        for record in &self.record.processes[first..] {
            let pid = record.process.pid;
            let tracked = self.processes.get(&pid);
            if let (Means::Signals, Some(process), false) = (self.means, tracked, record.held) {
                match process.fd.signal(Signal::SIGSTOP) {
                    Ok(()) | Err(Errno::ESRCH) => {}
                    Err(errno) => {
                        return Err(VtmError::Process {
                            action: "stop",
                            pid,
                            errno,
                        });
                    }
                }
            }
            let joined = self.record.group.as_ref().map(|group| group.join(pid));
            if record.process.is_alive() {
                joined.transpose()?;
            }
        }
        Ok(())
    }

    /// Children that were born before all was stopped.
    fn take_children(&mut self, freezer: Option<&Freezer>) -> Result<(), VtmError> {
        for _ in 0..100 {
            if let (Means::Freezer, Some(freezer)) = (self.means, freezer) {
                let frozen = freezer.freeze();
                frozen.map_err(|source| VtmError::SetUp {
                    action: "freeze a job",
                    source,
                })?;
            }
            let Some(group) = &self.record.group else {
                return Ok(());
            };
            let new = |pid: &i32| !self.processes.contains_key(pid);
            let new: Vec<Seen> = group
                .members()
                .into_iter()
                .filter(new)
                .filter_map(look)
                .collect();
            if new.is_empty() {
                return Ok(());
            }
            let first = self.record.processes.len();
            // They were born in the group: their parent's homes are theirs.
            let homes = self
                .record
                .processes
                .first()
                .map(|parent| parent.homes.clone());
            self.note(&new, homes.as_deref())?;
            self.choose_means();
            self.jobs.guardian.job(&self.record)?;
            self.stop(first)?;
        }
        Ok(())
    }

    /// Leaves everything as it was found; a command that was started is ended.
    pub(super) fn undo(mut self) {
        if let Some(child) = &mut self.child {
            // It has ended already, or is ended now.
            let _ = child.kill();
        }
        self.jobs.undo(&self.record);
        if let Some(mut child) = self.child {
            let _ = child.wait();
        }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

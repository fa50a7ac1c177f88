//! Processes commands on a scheduler of VTMs.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::unistd::{Pid, Uid, geteuid, getpgid};
use sched::framework::{Job, Machine, Manager, Scheduler};
use sched::vtm::{
    CpuShare, JobSource, Promise, RoundRobin, Table, TableError, VtmError, VtmScheduler,
};

use super::command::{Command, Drawing, Promised, Reply, Share};
use super::network::{NetworkShares, ShareOfNetworkError};

/// A command, and who gives it.
#[derive(Clone, Debug)]
pub struct Order {
    /// What is to be done.
    pub command: Command,
    /// For whom: processes of others only root may make jobs of.
    pub peer: Uid,
}

/// Why a command was not obeyed. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The scheduler refused.
    #[error(transparent)]
    Vtm(#[from] VtmError),
    /// There is nothing to draw.
    #[error(transparent)]
    Table(#[from] TableError),
    /// No share of the network.
    #[error(transparent)]
    Network(#[from] ShareOfNetworkError),
    /// A number that no process can have.
    #[error("{id} is no id of a process or process group: use one above 1")]
    BadId {
        /// The number.
        id: i32,
    },
    /// There is no such process.
    #[error("there is no process {pid}: give the id of one that runs")]
    NoProcess {
        /// Its id.
        pid: i32,
    },
    /// There is no such process group.
    #[error("there is no process group {pgid}: give the id of one whose processes run")]
    NoGroup {
        /// Its id.
        pgid: i32,
    },
    /// A process of somebody else.
    #[error(
        "process {pid} belongs to user {owner}, not to user {peer}: ask as that user or as root"
    )]
    NotYours {
        /// The process.
        pid: i32,
        /// Whose it is.
        owner: u32,
        /// Who asked.
        peer: Uid,
    },
    /// A command that would run as somebody else.
    #[error(
        "a command would run as user {service}, and user {peer} asks: start it yourself and add its process"
    )]
    RunsAsOther {
        /// Who serves.
        service: Uid,
        /// Who asked.
        peer: Uid,
    },
    /// Processes cannot be looked at.
    #[error("cannot read /proc: {0}")]
    Proc(io::Error),
}

/// A scheduler of VTMs that obeys commands.
#[derive(Debug)]
pub struct VtmMachine {
    scheduler: VtmScheduler,
    /// The VTMs with a share, in the order in which they got it: by that order the table places those of one priority.
    reserved: Vec<String>,
    network: NetworkShares,
}

impl VtmMachine {
    /// Commands `scheduler`. With the machine everything goes that was made by commands: jobs are released as they were
    /// found.
    #[must_use]
    pub fn new(scheduler: VtmScheduler) -> Self {
        Self {
            scheduler,
            reserved: Vec::new(),
            network: NetworkShares::default(),
        }
    }

    /// The same, with shares of the network that was applied with this run directory (`chronovisor net apply`). It is
    /// opened when the first share is asked for.
    #[must_use]
    pub fn with_network(self, run_dir: &Path) -> Self {
        Self {
            network: NetworkShares::of(run_dir),
            ..self
        }
    }

    fn reserve(&mut self, share: &Share) -> Result<Reply, CommandError> {
        let promise = self.scheduler.reserve(&share.vtm, &cpu_share(share))?;
        self.reserved.push(share.vtm.clone());
        Ok(Reply::Promised(vec![promised(&share.vtm, promise)]))
    }

    fn adapt(&mut self, changes: &[Share]) -> Result<Reply, CommandError> {
        let mut new = Vec::with_capacity(changes.len());
        for change in changes {
            let old = self.scheduler.team(&change.vtm)?.sched_param();
            let mut share = cpu_share(change);
            share.max_delay = share.max_delay.or(old.and_then(|old| old.max_delay));
            new.push(share.of(&change.vtm));
        }
        let promises = self.scheduler.adapt(&new)?;
        let named = changes.iter().zip(promises);
        let named = named.map(|(change, promise)| promised(&change.vtm, promise));
        Ok(Reply::Promised(named.collect()))
    }

    fn suspend(&mut self, vtm: &str, job: Option<&str>) -> Result<(), VtmError> {
        match job {
            Some(job) => self.scheduler.team(vtm)?.suspend(job),
            None => self.scheduler.suspend(vtm),
        }
    }

    fn resume(&mut self, vtm: &str, job: Option<&str>) -> Result<(), VtmError> {
        match job {
            Some(job) => self.scheduler.team(vtm)?.resume(job),
            None => self.scheduler.resume(vtm),
        }
    }

    fn table(&self) -> Result<Reply, CommandError> {
        let status = self.scheduler.status();
        let shares = self.reserved.iter().filter_map(|name| {
            let vtm = status.vtms.iter().find(|vtm| vtm.name == *name)?;
            Some(vtm.share?.of(name))
        });
        let shares: Vec<_> = shares.collect();
        let rule = status.rule;
        let table = Table::new(status.slot, rule.policy, rule.placement, &shares)?;
        Ok(Reply::Table(Box::new(Drawing {
            slot: table.slot().into(),
            placement: table.placement(),
            vtms: table.vtms().iter().map(|vtm| vtm.name.clone()).collect(),
            slots: table.slots().to_vec(),
        })))
    }
}

impl Machine for VtmMachine {
    type Message = Order;
    type Reply = Result<Reply, CommandError>;

    fn process(&mut self, Order { command, peer }: Order) -> Self::Reply {
        match command {
            Command::Create {
                vtm,
                quantum,
                active,
            } => {
                let usual = RoundRobin::default();
                let rule = RoundRobin {
                    quantum: quantum.map_or(usual.quantum, |quantum| quantum.duration()),
                    active: active.unwrap_or(usual.active),
                };
                self.scheduler.create(&vtm, rule)?;
            }
            Command::Reserve(share) => return self.reserve(&share),
            Command::Adapt { changes } => return self.adapt(&changes),
            Command::Add { vtm, source } => {
                may(peer, &source)?;
                let job = self.scheduler.add_job(&vtm, &source)?;
                return Ok(Reply::Added { job });
            }
            Command::Remove { vtm, job } => self.scheduler.remove_job(&vtm, &job)?,
            Command::Suspend { vtm, job } => self.suspend(&vtm, job.as_deref())?,
            Command::Resume { vtm, job } => self.resume(&vtm, job.as_deref())?,
            Command::Schedule {} => self.scheduler.schedule()?,
            Command::Status {} => {
                return Ok(Reply::Status(Box::new(self.scheduler.status())));
            }
            Command::Table {} => return self.table(),
            Command::NetworkReserve(wanted) => {
                // Only a VTM can have one.
                self.scheduler.team(&wanted.vtm)?;
                return Ok(Reply::Shares(vec![self.network.reserve(&wanted)?]));
            }
            Command::NetworkAdapt { changes } => {
                // Not those of VMs, which have shares too.
                for change in &changes {
                    self.scheduler.team(&change.vtm)?;
                }
                return Ok(Reply::Shares(self.network.adapt(&changes)?));
            }
            Command::Release { vtm } => {
                self.scheduler.team(&vtm)?;
                self.network.release(&vtm)?;
                self.scheduler.release(&vtm)?;
                self.reserved.retain(|name| *name != vtm);
            }
            // The owner of the machine drops it.
            Command::Quit {} => {}
        }
        Ok(Reply::Done)
    }
}

fn cpu_share(share: &Share) -> CpuShare {
    CpuShare {
        period: share.period.duration(),
        need: share.need.0,
        max_delay: share.max_delay.map(|delay| delay.duration()),
    }
}

fn promised(vtm: &str, promise: Promise) -> Promised {
    Promised {
        vtm: vtm.to_owned(),
        execution: promise.execution.into(),
        period: promise.period.into(),
    }
}

/// Whether `peer` may have these processes stopped and continued: root, or who owns them.
fn may(peer: Uid, source: &JobSource) -> Result<(), CommandError> {
    match *source {
        JobSource::Process(id) | JobSource::Group(id) if id <= 1 => Err(CommandError::BadId { id }),
        JobSource::Process(pid) => owned(peer, pid),
        JobSource::Group(pgid) => {
            let members = members(pgid)?;
            if members.is_empty() {
                return Err(CommandError::NoGroup { pgid });
            }
            members.into_iter().try_for_each(|pid| owned(peer, pid))
        }
        JobSource::Command(_) if peer.is_root() || peer == geteuid() => Ok(()),
        JobSource::Command(_) => Err(CommandError::RunsAsOther {
            service: geteuid(),
            peer,
        }),
    }
}

fn owned(peer: Uid, pid: i32) -> Result<(), CommandError> {
    let folder = fs::metadata(format!("/proc/{pid}"));
    let owner = folder.map_err(|_| CommandError::NoProcess { pid })?.uid();
    if peer.is_root() || owner == peer.as_raw() {
        return Ok(());
    }
    Err(CommandError::NotYours { pid, owner, peer })
}

/// The processes of a process group.
fn members(pgid: i32) -> Result<Vec<i32>, CommandError> {
    let entries = fs::read_dir("/proc").map_err(CommandError::Proc)?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let pids = names.filter_map(|name| name.parse::<i32>().ok());
    Ok(pids
        .filter(|&pid| getpgid(Some(Pid::from_raw(pid))) == Ok(Pid::from_raw(pgid)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Uid = Uid::from_raw(65534);

    fn refusal(peer: Uid, source: JobSource) -> String {
        may(peer, &source).unwrap_err().to_string()
    }

    #[test]
    fn processes_of_others_are_for_their_owner_and_root_only() {
        let own = i32::try_from(std::process::id()).unwrap();
        let group = nix::unistd::getpgrp().as_raw();
        let owner = geteuid();
        for source in [JobSource::Process(own), JobSource::Group(group)] {
            may(owner, &source).unwrap();
            may(Uid::from_raw(0), &source).unwrap();
            let other = refusal(NOBODY, source);
            assert!(
                other.contains(&format!("belongs to user {owner}, not to user 65534")),
                "{other}"
            );
        }
        let command = JobSource::Command(vec!["true".to_owned()]);
        may(owner, &command).unwrap();
        let other = refusal(NOBODY, command);
        assert!(
            other.contains(&format!("would run as user {owner}")),
            "{other}"
        );
    }

    #[test]
    fn ids_of_nothing_are_named() {
        let root = Uid::from_raw(0);
        for id in [i32::MIN, -7, 0, 1] {
            for source in [JobSource::Process(id), JobSource::Group(id)] {
                assert!(refusal(root, source).contains(&id.to_string()));
            }
        }
        let gone = i32::MAX;
        assert!(refusal(root, JobSource::Process(gone)).contains("no process 2147483647"));
        assert!(refusal(root, JobSource::Group(gone)).contains("no process group 2147483647"));
    }
}

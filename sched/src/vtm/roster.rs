//! The VTMs, their reservations and their jobs: everything but the dispatching itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rtrb::Consumer;

use super::config::{CpuShare, Promise, RoundRobin, Rule, Suspend, VtmConfig};
use super::dispatcher::{Figures, Order, Plan, TeamCount};
use super::error::VtmError;
use super::freezer;
use super::guardian::Guardian;
use super::job::{JobEntry, Jobs};
use super::limit;
use super::link::Link;
use super::processes::Snapshot;
use super::request::Vtm;
use super::status::{Dispatching, JobState, JobStatus, Status, VtmStatus};
use super::table::Table;
use crate::cgroup::Hierarchy;
use crate::framework::{Kind, Resource};
use crate::kernel::monotonic;
use crate::ledger::Admitted;

/// A VTM.
#[derive(Debug)]
pub(super) struct TeamEntry {
    pub(super) name: String,
    pub(super) rule: RoundRobin,
    pub(super) suspended: bool,
    pub(super) resource: Resource,
    /// Its jobs, by name.
    pub(super) jobs: BTreeMap<String, JobEntry>,
    count: Arc<TeamCount>,
    pub(super) ended: u64,
    pub(super) ended_cpu: Duration,
}

/// Everything that a scheduler knows.
#[derive(Debug)]
pub(super) struct Roster {
    slot: Duration,
    pub(super) rule: Rule,
    /// By the number the dispatcher knows them by.
    pub(super) teams: Vec<Option<TeamEntry>>,
    pub(super) jobs: Jobs,
    pub(super) link: Link,
    table: Option<Arc<Table>>,
    tables: u64,
    figures: Arc<Mutex<Figures>>,
    /// The VTM and the name of each job.
    pub(super) index: BTreeMap<u64, (usize, String)>,
    /// Jobs that were added, and may have had children nobody saw.
    pub(super) fresh: BTreeSet<u64>,
    /// Jobs that somebody else had stopped.
    pub(super) held: BTreeSet<u64>,
    /// Jobs that had their turn when they were last looked at.
    pub(super) running: BTreeSet<u64>,
    /// The ids of jobs that had a turn.
    pub(super) had_turn: Option<Consumer<u64>>,
    /// Holds the CPU in the ledger.
    _admitted: Option<Admitted>,
}

impl Roster {
    pub(super) fn new(config: &VtmConfig) -> Result<Self, VtmError> {
        match Hierarchy::of("freezer") {
            Ok(hierarchy) => freezer::clear_orphans(hierarchy),
            Err(error) if config.suspend == Suspend::Freezer => return Err(error.into()),
            Err(_) => {}
        }
        if config.slot.is_zero() {
            return Err(super::table::TableError::ZeroSlot.into());
        }
        let (partition, admitted) = limit::take_cpu(config)?;
        let figures = Arc::default();
        Ok(Self {
            slot: config.slot,
            rule: config.rule,
            teams: Vec::new(),
            jobs: Jobs {
                cpu: config.cpu,
                below: Resource::upon(Kind::CPU, config.cpu.to_string(), []),
                partition,
                suspend: config.suspend,
                guardian: Guardian::start()?,
                all: Snapshot::default(),
                owners: BTreeMap::new(),
                next_id: 0,
            },
            link: Link::new(config.slot, Arc::clone(&figures)),
            table: None,
            tables: 0,
            figures,
            index: BTreeMap::new(),
            fresh: BTreeSet::new(),
            held: BTreeSet::new(),
            running: BTreeSet::new(),
            had_turn: None,
            _admitted: admitted,
        })
    }

    pub(super) fn create(&mut self, name: &str, rule: RoundRobin) -> Result<Resource, VtmError> {
        check_name(name)?;
        check_rule(name, rule)?;
        if self.number(name).is_ok() {
            return Err(VtmError::NameTaken {
                name: name.to_owned(),
            });
        }
        let free = self.teams.iter().position(Option::is_none);
        let number = free.unwrap_or(self.teams.len());
        let count = Arc::new(TeamCount::default());
        self.link
            .order(Order::Create(number, rule, Arc::clone(&count)))?;
        let resource = Resource::upon(Kind::VTM, name.to_owned(), [&self.jobs.below]);
        let entry = TeamEntry {
            name: name.to_owned(),
            rule,
            suspended: false,
            resource: resource.clone(),
            jobs: BTreeMap::new(),
            count,
            ended: 0,
            ended_cpu: Duration::ZERO,
        };
        if free.is_some() {
            self.teams[number] = Some(entry);
        } else {
            self.teams.push(Some(entry));
        }
        Ok(resource)
    }

    pub(super) fn release(&mut self, name: &str) -> Result<(), VtmError> {
        let number = self.number(name)?;
        if self.share(name).is_some() {
            self.expel(name)?;
        }
        // Jobs are left as they were found even if nobody dispatches them any more.
        let released = self.link.release(number);
        let names = self.teams[number].iter().flat_map(|team| team.jobs.keys());
        for name in names.cloned().collect::<Vec<_>>() {
            self.forget(number, &name);
        }
        self.teams[number] = None;
        released.map(drop)
    }

    pub(super) fn release_all(&mut self) {
        self.link.end();
        let index = std::mem::take(&mut self.index);
        for (number, name) in index.values() {
            self.forget(*number, name);
        }
    }

    /// The number of a VTM.
    pub(super) fn number(&self, name: &str) -> Result<usize, VtmError> {
        let is_it = |entry: &Option<TeamEntry>| entry.as_ref().is_some_and(|it| it.name == name);
        self.teams.iter().position(is_it).ok_or_else(|| {
            let names = self.teams.iter().flatten().map(|entry| entry.name.clone());
            VtmError::NoSuchVtm {
                name: name.to_owned(),
                known: names.collect(),
            }
        })
    }

    pub(super) fn team(&self, name: &str) -> Result<&TeamEntry, VtmError> {
        let number = self.number(name)?;
        self.teams[number].as_ref().ok_or(VtmError::NoSuchVtm {
            name: name.to_owned(),
            known: Vec::new(),
        })
    }

    pub(super) fn team_mut(&mut self, number: usize) -> Option<&mut TeamEntry> {
        self.teams.get_mut(number)?.as_mut()
    }

    /// What a VTM has reserved.
    pub(super) fn share(&self, name: &str) -> Option<CpuShare> {
        share(self.table.as_ref()?, name)
    }

    /// The table with one VTM more.
    pub(super) fn with(&self, name: &str, share: &CpuShare) -> Result<(Table, Promise), VtmError> {
        self.number(name)?;
        if self.share(name).is_some() {
            return Err(VtmError::Reserved {
                name: name.to_owned(),
            });
        }
        let mut vtms = self.vtms().to_vec();
        vtms.push(share.of(name));
        let table = self.made(self.rule, &vtms)?;
        let promise = promise(&table, name).ok_or_else(|| not_reserved(name))?;
        Ok((table, promise))
    }

    pub(super) fn set_rule(&mut self, rule: Rule) -> Result<(), VtmError> {
        if !self.vtms().is_empty() {
            let table = self.made(rule, self.vtms())?;
            self.follow(Some(table))?;
        }
        self.rule = rule;
        Ok(())
    }

    /// A table that can be followed.
    pub(super) fn made(&self, rule: Rule, vtms: &[Vtm]) -> Result<Table, VtmError> {
        let table = Table::new(self.slot, rule.policy, rule.placement, vtms)?;
        limit::check(&table)?;
        Ok(table)
    }

    pub(super) fn vtms(&self) -> &[Vtm] {
        self.table.as_ref().map_or(&[], |table| table.vtms())
    }

    pub(super) fn expel(&mut self, name: &str) -> Result<(), VtmError> {
        self.number(name)?;
        if self.share(name).is_none() {
            return Err(not_reserved(name));
        }
        let mut vtms = self.vtms().to_vec();
        vtms.retain(|vtm| vtm.name != name);
        if vtms.is_empty() {
            return self.follow(None);
        }
        let table = self.made(self.rule, &vtms)?;
        self.follow(Some(table))
    }

    pub(super) fn adapt(&mut self, changes: &[Vtm]) -> Result<Vec<Promise>, VtmError> {
        for change in changes {
            self.number(&change.name)?;
        }
        let missing = |change: &&Vtm| self.share(&change.name).is_none();
        if let Some(change) = changes.iter().find(missing) {
            return Err(not_reserved(&change.name));
        }
        let Some(table) = &self.table else {
            return Ok(Vec::new());
        };
        let mut table = Table::clone(table);
        table.adapt(changes)?;
        limit::check(&table)?;
        let promises = changes.iter();
        let promises = promises.filter_map(|change| promise(&table, &change.name));
        let promises = promises.collect();
        self.follow(Some(table))?;
        Ok(promises)
    }

    /// Starts the dispatcher.
    pub(super) fn schedule(&mut self) -> Result<(), VtmError> {
        let had_turn = self
            .link
            .start(self.jobs.cpu, self.jobs.partition.clone())?;
        self.had_turn = Some(had_turn);
        Ok(())
    }

    /// Puts a table in force at the next slot.
    pub(super) fn follow(&mut self, table: Option<Table>) -> Result<(), VtmError> {
        let table = table.map(Arc::new);
        let vtms = table.as_ref().map_or(&[][..], |table| table.vtms());
        let teams = self.teams.iter().enumerate();
        let names = teams.filter_map(|(number, team)| Some((team.as_ref()?.name.as_str(), number)));
        let names: BTreeMap<&str, usize> = names.collect();
        let numbers = vtms.iter().map(|vtm| {
            let number = names.get(vtm.name.as_str());
            number.copied().ok_or_else(|| not_reserved(&vtm.name))
        });
        let numbers: Result<_, _> = numbers.collect();
        let plan = Plan {
            table: table.clone(),
            teams: numbers?,
            number: self.tables + 1,
        };
        self.link.order(Order::Follow(Box::new(plan)))?;
        self.table = table;
        self.tables += 1;
        Ok(())
    }

    pub(super) fn set_round_robin(&mut self, name: &str, rule: RoundRobin) -> Result<(), VtmError> {
        let number = self.number(name)?;
        check_rule(name, rule)?;
        self.link.order(Order::Rule(number, rule))?;
        if let Some(team) = self.team_mut(number) {
            team.rule = rule;
        }
        Ok(())
    }

    pub(super) fn suspend(&mut self, name: &str, suspended: bool) -> Result<(), VtmError> {
        let number = self.number(name)?;
        self.link.order(Order::Suspend(number, suspended))?;
        if let Some(team) = self.team_mut(number) {
            team.suspended = suspended;
        }
        Ok(())
    }

    pub(super) fn status(&mut self) -> Status {
        let dispatching = self.link.is_running();
        let mut dispatches = Dispatching::default();
        let mut in_force = self.tables;
        if let Ok(figures) = self.figures.lock()
            && dispatching
        {
            in_force = figures.plan;
            dispatches = Dispatching {
                since: monotonic().saturating_sub(figures.began),
                missed_slots: figures.missed_slots,
                cost: figures.cost.summary(),
                lateness: figures.lateness.summary(),
            };
        }
        let table = self.table.clone();
        let vtms = self.teams.iter_mut().flatten();
        let vtms: Vec<_> = vtms
            .map(|team| vtm_status(team, table.as_deref()))
            .collect();
        let promises = vtms.iter().filter_map(|vtm| vtm.promise);
        Status {
            cpu: self.jobs.cpu,
            slot: self.slot,
            rule: self.rule,
            hyperperiod: table.map_or(Duration::ZERO, |table| table.hyperperiod()),
            utilisation: promises.map(Promise::utilisation).sum(),
            dispatching,
            tables: self.tables,
            tables_in_force: in_force,
            guardian: self.jobs.guardian.pid(),
            dispatches,
            vtms,
        }
    }
}

fn vtm_status(team: &mut TeamEntry, table: Option<&Table>) -> VtmStatus {
    let jobs: Vec<_> = team.jobs.iter_mut().map(job_status).collect();
    let living: Duration = jobs.iter().map(|job| job.cpu_time).sum();
    VtmStatus {
        name: team.name.clone(),
        share: table.and_then(|table| share(table, &team.name)),
        promise: table.and_then(|table| promise(table, &team.name)),
        suspended: team.suspended,
        round_robin: team.rule,
        slots: team.count.slots.load(Ordering::Relaxed),
        supplied: Duration::from_nanos(team.count.supplied_ns.load(Ordering::Relaxed)),
        dispatches: team.count.dispatches.load(Ordering::Relaxed),
        cpu_time: living + team.ended_cpu,
        ended: team.ended,
        jobs,
    }
}

fn share(table: &Table, name: &str) -> Option<CpuShare> {
    let vtm = table.vtms().iter().find(|vtm| vtm.name == name)?;
    Some(CpuShare {
        period: vtm.period,
        need: vtm.need,
        max_delay: vtm.max_delay,
    })
}

fn job_status((name, job): (&String, &mut JobEntry)) -> JobStatus {
    let state = if job.is_held() {
        JobState::Held
    } else if job.suspended {
        JobState::Suspended
    } else if job.count.running.load(Ordering::Relaxed) {
        JobState::Running
    } else {
        JobState::Waiting
    };
    JobStatus {
        name: name.clone(),
        source: job.source.clone(),
        pid: job.pid,
        processes: job.processes.len(),
        state,
        means: job.means,
        turns: job.count.turns.load(Ordering::Relaxed),
        cpu_time: job.cpu_time(),
    }
}

/// What a table promises a VTM.
pub(super) fn promise(table: &Table, name: &str) -> Option<Promise> {
    let at = table.vtms().iter().position(|vtm| vtm.name == name)?;
    Some(Promise {
        execution: table.execution(at)?,
        period: table.vtms()[at].period,
    })
}

fn not_reserved(name: &str) -> VtmError {
    VtmError::NotReserved {
        name: name.to_owned(),
    }
}

fn check_rule(name: &str, rule: RoundRobin) -> Result<(), VtmError> {
    if rule.quantum.is_zero() {
        return Err(VtmError::ZeroQuantum {
            name: name.to_owned(),
        });
    }
    Ok(())
}

pub(super) fn check_name(name: &str) -> Result<(), VtmError> {
    let usable = |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(usable) {
        return Err(VtmError::BadName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

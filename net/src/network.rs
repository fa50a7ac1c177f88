//! The network of this host: what is promised of its links, and the kernel's queues that keep it.
//!
//! Every operation locks the state, reads the book, decides, changes the kernel, and writes the book; what fails is undone.
//! Whoever finds that another process has died on the way undoes that first.

mod port;
mod queues;
mod status;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use units::BitRate;

use crate::admission::Wanted;
pub use crate::book::Denied;
use crate::book::{Book, migration_class};
use crate::marks::MarksError;
use crate::netlink::NetlinkError;
use crate::plan::{NetworkPlan, PlanError, SharePlan};
use crate::ports::PortsError;
use crate::process::Process;
use crate::router::RouterError;
use crate::share::Share;
pub use crate::state::StateError;
use crate::state::{Locked, State};
use crate::tree::TreeError;

pub use port::{Port, PortRequest};
use queues::{Left, Queues};
pub use status::{
    BridgeStatus, NetworkStatus, PortStatus, RouterStatus, ShareStatus, UplinkStatus,
};

/// Why the network could not be used or changed. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// It is not to be had.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The plan is none.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The files.
    #[error(transparent)]
    State(#[from] StateError),
    /// The bridge.
    #[error(transparent)]
    Ports(#[from] PortsError),
    /// The queues of an interface.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The kernel cannot be asked.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// Marks.
    #[error(transparent)]
    Marks(#[from] MarksError),
    /// A router.
    #[error(transparent)]
    Router(#[from] RouterError),
}

impl NetworkError {
    /// Whether what was asked for was understood, and is not to be had: another request may be.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Denied(_) | Self::Plan(PlanError::Refused(_)) => true,
            Self::Router(error) => error.is_refusal(),
            _ => false,
        }
    }
}

/// The network of this host. Cloning shares the open files and sockets.
#[derive(Clone, Debug)]
pub struct Network {
    shared: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    state: State,
    queues: Queues,
}

/// One operation: the state locked, and what it says.
struct Session<'a> {
    locked: Locked<'a>,
    queues: &'a mut Queues,
    book: Book,
}

impl Network {
    /// The network that was applied with this run directory; what crashed VMs left of it is cleared away.
    ///
    /// It is that of the calling thread's network namespace.
    ///
    /// # Errors
    /// When none was applied (`chronovisor net apply FILE` does), or the files or the kernel's queues cannot be used.
    pub fn open(run_dir: &Path) -> Result<Self, NetworkError> {
        if !State::is_in(run_dir) {
            let dir = run_dir.to_owned();
            return Err(StateError::NotApplied { dir }.into());
        }
        let network = Self::at(run_dir)?;
        network.with(|session| session.tidy())?;
        Ok(network)
    }

    fn at(run_dir: &Path) -> Result<Self, NetworkError> {
        let inner = Inner {
            state: State::open(run_dir)?,
            queues: Queues::default(),
        };
        Ok(Self {
            shared: Arc::new(Mutex::new(inner)),
        })
    }

    /// Puts a plan in force, in place of the one that is: all of it, or nothing. Ports and shares that were reserved stay.
    ///
    /// # Errors
    /// When it does not fit, VMs have ports on a bridge that it does not have, or the kernel or a router refuses.
    pub fn apply(run_dir: &Path, plan: &NetworkPlan) -> Result<Self, NetworkError> {
        plan.check()?;
        let network = Self::at(run_dir)?;
        network.begin(|session| {
            session.try_to_mend();
            let after = session.book.applied(plan, now())?;
            session.replace(after)
        })?;
        Ok(network)
    }

    /// Whether [`Network::apply`] would take this plan here and now: it fits beside what VMs and processes have, and nothing is
    /// in its way on this host. Routers are not asked.
    ///
    /// # Errors
    /// As [`Network::apply`].
    pub fn would_apply(run_dir: &Path, plan: &NetworkPlan) -> Result<(), NetworkError> {
        plan.check()?;
        if !State::is_in(run_dir) {
            let nothing = Book::default();
            return Queues::default().is_free(&nothing.applied(plan, now())?, &nothing);
        }
        Self::at(run_dir)?.begin(|session| {
            session.try_to_mend();
            let after = session.book.applied(plan, now())?;
            session.queues.is_free(&after, &session.book)
        })
    }

    /// Removes everything that was applied with this run directory, on routers too, and nothing else. Whether there was
    /// something.
    ///
    /// # Errors
    /// When VMs have ports, or the kernel or a router refuses.
    pub fn clear(run_dir: &Path) -> Result<bool, NetworkError> {
        if !State::is_in(run_dir) {
            return Ok(false);
        }
        Self::at(run_dir)?.begin(|session| {
            session.try_to_mend();
            if session.book == Book::default() {
                return Ok(false);
            }
            let after = session.book.cleared()?;
            session.replace(after)?;
            Ok(true)
        })
    }

    /// Removes what this plan made, where nobody knows any more that it was applied: its files are lost or damaged.
    ///
    /// # Errors
    /// When something is known to be applied, or the kernel or a router refuses.
    pub fn clear_lost(run_dir: &Path, plan: &NetworkPlan) -> Result<(), NetworkError> {
        plan.check()?;
        Self::at(run_dir)?.begin(|session| {
            let lost = Book::default().applied(plan, now())?;
            if session.book != Book::default() {
                let dir = session.locked.dir().to_owned();
                return Err(StateError::Known { dir }.into());
            }
            session
                .queues
                .reconcile(&Book::default(), &[&lost], Left::Broken)
        })
    }

    /// The plan in force.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn plan(&self) -> Result<NetworkPlan, NetworkError> {
        self.with(|session| Ok(session.book.plan.clone()))
    }

    /// The share of a VM or VTM.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn share_of(&self, name: &str) -> Result<Share, NetworkError> {
        self.with(|session| Ok(session.book.share_of(name)?))
    }

    /// What packets of a migration have for a priority (SO_PRIORITY), so that they have its class on the uplink; nothing if
    /// the plan has no rate for migrations.
    ///
    /// # Errors
    /// When the state cannot be read.
    pub fn migration_priority(&self) -> Result<Option<u32>, NetworkError> {
        let plan = self.plan()?;
        let migration = plan.uplink.and_then(|uplink| uplink.migration);
        Ok(migration.and(migration_class()).map(|class| class.handle()))
    }

    /// Changes shares of VMs and VTMs, all or none, wherever they hold: what one gives up, another gets.
    ///
    /// # Errors
    /// When one does not fit, or the kernel or a router refuses.
    pub fn adapt(&self, changes: &[Wanted]) -> Result<(), NetworkError> {
        self.with(|session| session.adapt(changes))
    }

    /// Changes what VMs and VTMs are assured, all or none (`network_adapt` of Duran-Limon et al.). Ceilings and priorities
    /// stay; a ceiling that would be below the new rate becomes it.
    ///
    /// # Errors
    /// As [`Network::adapt`].
    pub fn adapt_assured(
        &self,
        changes: &[(String, BitRate)],
    ) -> Result<Vec<Wanted>, NetworkError> {
        self.with(|session| {
            let wanted = |(name, assured): &(String, BitRate)| {
                let share = session.book.share_of(name)?;
                let share = Share {
                    assured: *assured,
                    ceil: share.ceil.max(*assured),
                    ..share
                };
                Ok(Wanted::new(name, share))
            };
            let wanted: Result<Vec<_>, Denied> = changes.iter().map(wanted).collect();
            let wanted = wanted?;
            session.adapt(&wanted)?;
            Ok(wanted)
        })
    }

    /// Reserves a share of the uplink, and of the routers' links, for as long as this process lives or until it is
    /// released (`network_reserve` of Duran-Limon et al.).
    ///
    /// # Errors
    /// When the name or the packets have a share, it does not fit, or the kernel or a router refuses.
    pub fn reserve(&self, plan: &SharePlan) -> Result<(), NetworkError> {
        self.with(|session| {
            plan.check()?;
            let after = session.decide(|book| book.reserved(plan, Process::current()))?;
            session.replace(after)
        })
    }

    /// Gives up a share that this process has reserved.
    ///
    /// # Errors
    /// When there is none of this name, it is the plan's or another process's, or the kernel or a router refuses.
    pub fn release(&self, name: &str) -> Result<(), NetworkError> {
        self.with(|session| {
            let after = session.book.released(name)?;
            let own = Some(Process::current());
            let mut shares = session.book.shares.iter();
            if shares.any(|entry| entry.plan.name == name && entry.owner != own) {
                let name = name.to_owned();
                return Err(Denied::NotReserved { name }.into());
            }
            session.replace(after)
        })
    }

    /// Runs an operation on what was applied.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Session<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        self.begin(|session| {
            session.repair()?;
            if session.book == Book::default() {
                let dir = session.locked.dir().to_owned();
                return Err(StateError::NotApplied { dir }.into());
            }
            work(session)
        })
    }

    /// Runs an operation, on an empty book if nothing was applied.
    fn begin<T>(
        &self,
        work: impl FnOnce(&mut Session<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        let mut inner = self.inner();
        let Inner { state, queues } = &mut *inner;
        let mut locked = state.lock()?;
        let book = locked.read()?.unwrap_or_default();
        let mut session = Session {
            locked,
            queues,
            book,
        };
        work(&mut session)
    }

    /// What it holds is whole between any two operations: a panic leaves the file as it was, marked as broken off.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// Undoes what a process left that died while it changed the kernel.
    fn repair(&mut self) -> Result<(), NetworkError> {
        if !self.locked.was_broken_off() {
            return Ok(());
        }
        let mut book = self.book.clone();
        let pending = book.pending.take();
        let others = pending.as_deref().into_iter().chain([&book]);
        let others: Vec<_> = others.collect();
        self.queues.reconcile(&book, &others, Left::Broken)?;
        self.book = book;
        self.write()?;
        Ok(self.locked.settle()?)
    }

    /// Before everything is made anew: what is wrong with the old is no reason not to.
    fn try_to_mend(&mut self) {
        if let Err(error) = self.repair().and_then(|()| self.prune()) {
            tracing::debug!(%error, "the network is not as it was left");
        }
    }

    /// Drops the ports whose taps are gone, and the shares whose processes are; whether there were any.
    fn prune(&mut self) -> Result<bool, NetworkError> {
        let has_lost_ports = self.prune_ports()?;
        let mut after = self.book.clone();
        let lives = |owner: Option<Process>| owner.is_none_or(Process::is_alive);
        after.shares.retain(|entry| lives(entry.owner));
        if after == self.book {
            return Ok(has_lost_ports);
        }
        self.replace(after)?;
        Ok(true)
    }

    /// Drops the ports whose taps are gone. It needs no router: what VMs left must not wait for one.
    fn prune_ports(&mut self) -> Result<bool, NetworkError> {
        if self.book.ports.is_empty() {
            return Ok(false);
        }
        let ports = self.queues.ports(&self.book)?;
        ports.repair()?;
        let live = ports.list()?;
        let is_live = |name: &str| live.iter().any(|port| port.name == name);
        let mut after = self.book.clone();
        after.ports.retain(|entry| is_live(&entry.port));
        if after == self.book {
            return Ok(false);
        }
        self.book = after;
        self.write()?;
        self.locked.settle()?;
        Ok(true)
    }

    /// As [`Session::prune`], for what goes on without it: routers that cannot be asked, marks that nft refuses, and an uplink
    /// that has vanished keep no VM from the bridge.
    fn tidy(&mut self) -> Result<(), NetworkError> {
        match self.prune() {
            Err(
                error @ (NetworkError::Router(_) | NetworkError::Marks(_) | NetworkError::Tree(_)),
            ) => {
                tracing::warn!(%error, "shares of processes that have died stay");
                Ok(())
            }
            pruned => pruned.map(drop),
        }
    }

    /// A decision; a refusal is only final after what is gone was dropped.
    fn decide<T>(
        &mut self,
        decision: impl Fn(&Book) -> Result<T, Denied>,
    ) -> Result<T, NetworkError> {
        match decision(&self.book) {
            Err(denied) => match self.prune() {
                Ok(false) => Err(denied.into()),
                // Also where only a part could be dropped.
                _ => Ok(decision(&self.book)?),
            },
            decided => Ok(decided?),
        }
    }

    fn adapt(&mut self, changes: &[Wanted]) -> Result<(), NetworkError> {
        for change in changes {
            change.share.check().map_err(|source| PlanError::Share {
                key: format!("{:?}", change.name),
                source,
            })?;
        }
        let after = self.decide(|book| book.adapted(changes))?;
        self.change(after)
    }

    /// Changes rates only: straight to the classes.
    fn change(&mut self, after: Book) -> Result<(), NetworkError> {
        self.locked.begin()?;
        let changed = self.queues.change(&self.book, &after);
        if changed.is_ok() {
            self.book = after;
            self.write()?;
        }
        // A change that failed was taken back.
        self.locked.settle()?;
        changed
    }

    /// Puts another book in force, or leaves this one there.
    fn replace(&mut self, after: Book) -> Result<(), NetworkError> {
        // Where mending failed before.
        let left = match self.locked.was_broken_off() {
            true => Left::Broken,
            false => Left::Whole,
        };
        self.queues.is_free(&after, &self.book)?;
        let mut before = self.book.clone();
        let broken_off = before.pending.take();
        self.book.pending = Some(Box::new(after.clone()));
        // Who finds this broken off knows what may be there in part.
        self.write()?;
        self.locked.begin()?;
        let others = broken_off.as_deref().into_iter().chain([&before]);
        let others: Vec<_> = others.collect();
        let replaced = self.queues.reconcile(&after, &others, left);
        if let Err(failed) = &replaced {
            let others = [&[&after], &others[..]].concat();
            let undone = self.queues.reconcile(&before, &others, left);
            // A router that cannot be asked cannot be asked to undo anything either: that is said once.
            if let Some(error) = undone.err().filter(|e| e.to_string() != failed.to_string()) {
                tracing::warn!(%error, "cannot take a change of the network back");
            }
        }
        self.book = if replaced.is_ok() { after } else { before };
        self.write()?;
        self.locked.settle()?;
        replaced
    }

    fn write(&mut self) -> Result<(), NetworkError> {
        Ok(self.locked.write(&self.book)?)
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

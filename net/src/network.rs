//! The network of this host: what is promised of its links, and the kernel's queues that keep it.
//!
//! Every operation locks the state, reads the book, decides, changes the kernel, and writes the book; what fails is undone.
//! Whoever finds that another process has died on the way undoes that first.

mod clear;
mod error;
mod mend;
mod port;
mod queues;
mod shares;
mod status;

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

pub use crate::book::Denied;
use crate::book::{Book, migration_class};
use crate::owner::{Asker, Owner};
use crate::plan::NetworkPlan;
use crate::share::Share;
pub use crate::state::StateError;
use crate::state::{Locked, State};

pub use error::NetworkError;
pub use port::{Port, PortRequest};
use queues::Queues;
pub use shares::Adaptation;
pub use status::{
    BridgeStatus, NetworkStatus, PortStatus, RouterStatus, ShareStatus, UplinkStatus,
};

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
    /// Why the uplink is not what the book says.
    broken: Option<NetworkError>,
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
            queues: Queues::of(Owner::here(run_dir)),
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
        Self::apply_by(run_dir, plan, None)
    }

    /// Puts a plan in force that another host asks for.
    pub(crate) fn apply_for(
        run_dir: &Path,
        plan: &NetworkPlan,
        by: &Asker,
    ) -> Result<Self, NetworkError> {
        Self::apply_by(run_dir, plan, Some(by))
    }

    fn apply_by(
        run_dir: &Path,
        plan: &NetworkPlan,
        by: Option<&Asker>,
    ) -> Result<Self, NetworkError> {
        plan.check()?;
        let network = Self::at(run_dir)?;
        network.begin(|session| {
            by.map_or(Ok(()), |by| session.is_for(&by.owner))?;
            session.try_to_mend();
            let mut after = session.book.applied(plan, now())?;
            after.asker = by.cloned();
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
            let queues = Queues::of(Owner::here(run_dir));
            return queues.is_free(&nothing.applied(plan, now())?, &nothing);
        }
        Self::at(run_dir)?.begin(|session| {
            session.try_to_mend();
            let after = session.book.applied(plan, now())?;
            session.queues.is_free(&after, &session.book)
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

    /// Runs an operation on what was applied.
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Session<'_>) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        self.begin(|session| {
            session.repair()?;
            if !session.book.is_applied() {
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
            broken: None,
        };
        work(&mut session)
    }

    /// What it holds is whole between any two operations: a panic leaves the file as it was, marked as broken off.
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session<'_> {
    /// Whether what is in force, if anything is, was asked for by this host.
    fn is_for(&self, owner: &Owner) -> Result<(), Denied> {
        match &self.book.asker {
            Some(asker) if !asker.owner.is(owner) => Err(Denied::Owned {
                owner: asker.owner.clone(),
                dir: self.locked.dir().to_owned(),
            }),
            _ => Ok(()),
        }
    }
}

/// Nanoseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(1, |since| {
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    })
}

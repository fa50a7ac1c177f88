//! One plan in place of another, and what is left when that goes wrong: by a crash, by processes that have died, by a change
//! that could neither be made nor taken back.
//!
//! What may be there beside what the state says stands in it as `pending`. Where queues of this host may be wrong, the lock
//! file says "changing" as well, and whoever uses the network next makes them what the state says. Where only marks or
//! routers may be, the next change of shares does: what VMs do does not wait for routers.

use nix::errno::Errno;

use crate::book::{Book, Denied, ShareEntry};
use crate::cgroup;
use crate::marks::MarksError;
use crate::netlink::{NetlinkError, Refusal};
use crate::network::queues::Left;
use crate::plan::{RouterPlan, Traffic};
use crate::process::{self, Process};
use crate::router::RouterError;
use crate::tree::TreeError;

use super::error::Doubt;
use super::{NetworkError, Session};

impl Session<'_> {
    /// Undoes what a process left that died while it changed the kernel, and what could not be taken back.
    pub(super) fn repair(&mut self) -> Result<(), NetworkError> {
        if !self.locked.was_broken_off() {
            return Ok(());
        }
        let mut book = self.book.clone();
        let pending = book.pending.take();
        let others: Vec<_> = pending.iter().flat_map(|book| book.all()).collect();
        let others = [&others[..], &[&book]].concat();
        match self.queues.reconcile(&book, &others, Left::Broken) {
            Ok(()) => self.book = book,
            Err(error) if error.place() == Doubt::Beyond => {
                tracing::warn!(%error, "the network is mended on this host only; the next change of shares tries again");
                let attempted = pending.unwrap_or_else(|| Box::new(book));
                self.book.pending = Some(attempted);
            }
            Err(error) if error.leaves_the_bridge() => {
                tracing::warn!(%error, "the uplink is not as it was left; VMs can use the bridge");
                self.broken = Some(error);
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        self.write()?;
        self.settle()
    }

    /// Before shares change: what is in doubt beyond this host's queues is made what the state says.
    pub(super) fn mend(&mut self) -> Result<(), NetworkError> {
        if let Some(error) = self.broken.take() {
            return Err(error);
        }
        if self.book.pending.is_none() {
            return Ok(());
        }
        let mut book = self.book.clone();
        let pending = book.pending.take();
        let others: Vec<_> = pending.iter().flat_map(|book| book.all()).collect();
        let others = [&others[..], &[&book]].concat();
        self.queues.reconcile_beyond(&book, &others)?;
        self.book = book;
        self.write()?;
        self.settle()
    }

    /// Before everything is made anew: what is wrong with the old is no reason not to.
    pub(super) fn try_to_mend(&mut self) {
        if let Err(error) = self.repair().and_then(|()| self.prune()) {
            tracing::debug!(%error, "the network is not as it was left");
        }
    }

    /// Drops the ports whose taps are gone, and the shares whose processes are; whether there were any.
    pub(super) fn prune(&mut self) -> Result<bool, NetworkError> {
        let has_lost_ports = self.prune_ports()?;
        let after = self.book.of_the_living();
        if after == self.book {
            return Ok(has_lost_ports);
        }
        self.replace(after)?;
        Ok(true)
    }

    /// Drops the ports whose taps are gone. It needs no router: what VMs left must not wait for one.
    pub(super) fn prune_ports(&mut self) -> Result<bool, NetworkError> {
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
        self.settle()?;
        Ok(true)
    }

    /// As [`Session::prune`], for what goes on without it: marks that nft refuses and an uplink that has vanished keep no VM
    /// from the bridge, and nobody waits for a router. What processes that have died held on routers is dropped when
    /// somebody needs it, or with the next change there.
    pub(super) fn tidy(&mut self) -> Result<(), NetworkError> {
        let after = self.book.of_the_living();
        let pruned = if self.book.routed().eq(after.routed()) {
            self.prune()
        } else {
            self.prune_ports()
        };
        match pruned {
            Err(error) if error.leaves_the_bridge() => {
                tracing::warn!(%error, "shares of processes that have died stay");
                Ok(())
            }
            pruned => pruned.map(drop),
        }
    }

    /// A decision; a refusal is only final after what is gone was dropped.
    pub(super) fn decide<T>(
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

    /// Changes rates only: straight to the classes.
    pub(super) fn change(&mut self, after: Book) -> Result<(), NetworkError> {
        self.locked.begin()?;
        match self.queues.change(&self.book, &after) {
            Ok(()) => {
                self.book = after;
                self.write()?;
                self.settle()
            }
            Err(error) => {
                self.keep(after, error.doubt())?;
                Err(error)
            }
        }
    }

    /// Puts another book in force, or leaves this one there.
    pub(super) fn replace(&mut self, after: Book) -> Result<(), NetworkError> {
        // Where mending failed before.
        let left = match self.locked.was_broken_off() {
            true => Left::Broken,
            false => Left::Whole,
        };
        let mut after = after;
        after.pending = None;
        has_its_groups(&after, &self.book)?;
        may_change(&[&after, &self.book])?;
        self.queues.is_free(&after, &self.book)?;
        let mut before = self.book.clone();
        let mut pending = before.pending.take();
        self.give_up_routers(&mut pending, &[&before, &after]);
        let mut attempted = after.clone();
        attempted.pending = pending
            .clone()
            .filter(|pending| pending.leaves_more_than(&after));
        self.book.pending = Some(Box::new(attempted));
        // Who finds this broken off knows what may be there in part.
        self.write()?;
        self.locked.begin()?;
        let others: Vec<_> = pending.iter().flat_map(|book| book.all()).collect();
        let others = [&others[..], &[&before]].concat();
        self.broken = None;
        let Err(failed) = self.queues.reconcile(&after, &others, left) else {
            self.book = after;
            self.write()?;
            return self.settle();
        };
        if let NetworkError::Router(RouterError::Start { router, .. }) = &failed {
            // It was not even asked.
            after.plan.routers.retain(|other| other.name != *router);
        }
        let others = [&[&after], &others[..]].concat();
        let undone = self.queues.reconcile(&before, &others, left);
        let error = match undone {
            Ok(()) => failed,
            Err(undoing) => NetworkError::partly(failed, undoing),
        };
        after.pending = pending.filter(|pending| pending.leaves_more_than(&after));
        self.book = before;
        self.keep(after, error.doubt())?;
        Err(error)
    }

    /// Routers of plans that never came into force are asked once more to forget them, but nobody depends on their answer.
    fn give_up_routers(&mut self, pending: &mut Option<Box<Book>>, known: &[&Book]) {
        let mut lost = Book::default();
        let mut next = pending.as_deref_mut();
        while let Some(book) = next {
            let is_known = |router: &RouterPlan| {
                let mut all = known.iter().flat_map(|book| &book.plan.routers);
                all.any(|other| other.command == router.command)
            };
            let (known, others) = book.plan.routers.drain(..).partition(is_known);
            book.plan.routers = known;
            lost.plan.routers.extend::<Vec<_>>(others);
            lost.applied = lost.applied.max(book.applied);
            next = book.pending.as_deref_mut();
        }
        if let Err(error) = self.queues.clear_routers(&lost) {
            tracing::warn!(%error, "a router that the plan names no more may have kept what it had");
        }
    }

    /// Writes down what a change has left that failed.
    fn keep(&mut self, attempted: Book, doubt: Option<Doubt>) -> Result<(), NetworkError> {
        if doubt.is_some() {
            self.book.pending = Some(Box::new(attempted));
        }
        self.write()?;
        match doubt {
            Some(Doubt::Queues) => Ok(self.locked.begin()?),
            _ => self.settle(),
        }
    }

    /// Says that the kernel is what was last written, unless somebody knows better.
    pub(super) fn settle(&mut self) -> Result<(), NetworkError> {
        match self.broken {
            Some(_) => Ok(self.locked.begin()?),
            None => Ok(self.locked.settle()?),
        }
    }

    pub(super) fn write(&mut self) -> Result<(), NetworkError> {
        Ok(self.locked.write(&self.book)?)
    }
}

/// Who may not change this host's queues is told so before anything is tried: nothing is in doubt then.
pub(super) fn may_change(books: &[&Book]) -> Result<(), NetworkError> {
    let is_here = |book: &&Book| {
        let plan = &book.plan;
        plan.bridge.is_some() || plan.uplink.is_some() || plan.marking.is_some()
    };
    if !books.iter().any(is_here) || process::may_change_networks() {
        return Ok(());
    }
    let refusal = Refusal {
        does: "change the network".to_owned(),
        errno: Errno::EPERM,
        text: String::new(),
    };
    Err(TreeError::from(NetlinkError::Refused(refusal)).into())
}

/// Whether the control groups of shares that are new are there. One that vanishes later takes no other's share with it.
fn has_its_groups(after: &Book, before: &Book) -> Result<(), MarksError> {
    for entry in &after.shares {
        let is_same = |other: &ShareEntry| other.plan.traffic == entry.plan.traffic;
        if let Traffic::Cgroup(path) = &entry.plan.traffic
            && !before.shares.iter().any(is_same)
        {
            cgroup::find(path)?;
        }
    }
    Ok(())
}

impl Book {
    /// Whether it may have made something that making and removing `other` does not remove.
    fn leaves_more_than(&self, other: &Self) -> bool {
        self.plan != other.plan || self.marks() != other.marks()
    }

    /// Without the shares of processes that have died.
    fn of_the_living(&self) -> Self {
        let mut after = self.clone();
        let lives = |owner: Option<Process>| owner.is_none_or(Process::is_alive);
        after.shares.retain(|entry| lives(entry.owner));
        after
    }
}

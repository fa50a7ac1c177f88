//! Everything taken away.
//!
//! This host first, then its routers, and nobody waits for those: until they have answered, the state says what they may
//! still have, and a request that reaches one of them late takes away nothing newer.

use std::path::Path;

use crate::book::Book;
use crate::owner::Asker;
use crate::plan::NetworkPlan;

use super::mend::may_change;
use super::queues::Left;
use super::{Network, NetworkError, Session, State, StateError, now};

impl Network {
    /// Removes everything that was applied with this run directory, on routers too, and nothing else. Whether there was
    /// something.
    ///
    /// # Errors
    /// When VMs have ports, or the kernel refuses: nothing is changed then. When a router does not do it: this host is cleared
    /// then, and the next call asks the router again.
    pub fn clear(run_dir: &Path) -> Result<bool, NetworkError> {
        if !State::is_in(run_dir) {
            return Ok(false);
        }
        let network = Self::at(run_dir)?;
        let cleared = network.begin(|session| {
            let left = session.clear()?;
            Ok(left.map(|left| (session.queues.lend_routers(&left), left)))
        })?;
        let Some((mut routers, left)) = cleared else {
            return Ok(false);
        };
        let asked = routers.reconcile(&Book::default(), &left.all());
        asked.map_err(|source| NetworkError::ClearedHere { source })?;
        network.begin(|session| {
            // Unless somebody has applied something meanwhile.
            if session.book == left {
                session.forget()?;
            }
            Ok(true)
        })
    }

    /// Removes what another host has asked for, up to what it names; anything else stays.
    pub(crate) fn clear_for(run_dir: &Path, by: &Asker) -> Result<(), NetworkError> {
        Self::at(run_dir)?.begin(|session| {
            let is_it = match &session.book.asker {
                Some(known) => known.owner.is(&by.owner) && known.applied <= by.applied,
                // What was applied here by hand is not another host's to remove.
                None => !session.book.is_applied(),
            };
            if is_it && session.clear()?.is_some() {
                session.forget()?;
            }
            Ok(())
        })
    }

    /// Removes what this plan made, where nobody knows any more that it was applied: its files are lost or damaged. Routers
    /// that have not answered [`Network::clear`] are given up.
    ///
    /// # Errors
    /// When something is known to be applied, or the kernel or a router refuses.
    pub fn clear_lost(run_dir: &Path, plan: &NetworkPlan) -> Result<(), NetworkError> {
        plan.check()?;
        Self::at(run_dir)?.begin(|session| {
            let lost = Book::default().applied(plan, now())?;
            if session.book.is_applied() {
                let dir = session.locked.dir().to_owned();
                return Err(StateError::Known { dir }.into());
            }
            let nothing = Book::default();
            session.queues.reconcile(&nothing, &[&lost], Left::Broken)?;
            session.forget()
        })
    }
}

impl Session<'_> {
    /// Clears this host; the answer says what routers may still have, if anything is known.
    fn clear(&mut self) -> Result<Option<Book>, NetworkError> {
        if self.book == Book::default() {
            return Ok(None);
        }
        // Where it stays broken, and VMs still have ports, the next one to use it is to know.
        self.broken = self.make_bridge_whole().err();
        let pruned = self.prune_ports().err();
        for error in self.broken.iter().chain(&pruned) {
            tracing::debug!(%error, "the network is not as it was left");
        }
        let mut after = self.book.cleared()?;
        may_change(&self.book.all())?;
        let left = match self.locked.was_broken_off() {
            true => Left::Broken,
            false => Left::Whole,
        };
        self.broken = None;
        self.write()?;
        self.locked.begin()?;
        let cleared = self.queues.reconcile_here(&after, &self.book.all(), left);
        if let Err(failed) = cleared {
            let before = self.book.clone();
            let restored = self
                .queues
                .reconcile_here(&before, &before.all(), Left::Whole);
            return Err(match restored {
                Ok(()) => {
                    self.settle()?;
                    failed
                }
                // It stays marked as broken off.
                Err(undoing) => NetworkError::partly(failed, undoing),
            });
        }
        let known = match self.book.is_applied() {
            true => Some(&self.book),
            false => self.book.pending.as_deref(),
        };
        after.pending = known.map(|book| Box::new(book.on_routers()));
        self.book = after;
        self.write()?;
        self.settle()?;
        Ok(Some(self.book.clone()))
    }

    /// Only then it can be seen which VMs still have ports.
    fn make_bridge_whole(&mut self) -> Result<(), NetworkError> {
        if !self.locked.was_broken_off() || self.book.ports.is_empty() {
            return Ok(());
        }
        self.queues
            .reconcile_here(&self.book, &self.book.all(), Left::Broken)
    }

    /// There is nothing any more.
    fn forget(&mut self) -> Result<(), NetworkError> {
        self.book = Book::default();
        self.write()?;
        self.settle()
    }
}

//! Shares: reserved, changed, given up.

use units::BitRate;

use crate::admission::Wanted;
use crate::owner::Owner;
use crate::plan::{PlanError, SharePlan};
use crate::process::Process;
use crate::share::{Priority, Share};

use super::{Denied, Network, NetworkError, Session};

/// What a VM or VTM is to have from now on. What is not named stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adaptation {
    /// Who.
    pub name: String,
    /// What it is to be assured.
    pub assured: BitRate,
    /// The most it may have. One that stays and would be below the new rate becomes it.
    pub ceil: Option<BitRate>,
    /// Whether it takes spare bandwidth first.
    pub priority: Option<Priority>,
}

impl Adaptation {
    /// Another assured rate, and nothing else.
    pub fn assured(name: impl Into<String>, assured: BitRate) -> Self {
        Self {
            name: name.into(),
            assured,
            ceil: None,
            priority: None,
        }
    }

    fn of(&self, share: &Share) -> Share {
        Share {
            assured: self.assured,
            ceil: self.ceil.unwrap_or(share.ceil.max(self.assured)),
            priority: self.priority.unwrap_or(share.priority),
        }
    }
}

impl Network {
    /// Changes shares of VMs and VTMs, all or none, wherever they hold: what one gives up, another gets.
    ///
    /// # Errors
    /// When one does not fit, or the kernel or a router refuses.
    pub fn adapt(&self, changes: &[Wanted]) -> Result<(), NetworkError> {
        self.with(|session| session.adapt(changes))
    }

    /// The same for another host, on a router.
    pub(crate) fn adapt_for(&self, by: &Owner, changes: &[Wanted]) -> Result<(), NetworkError> {
        self.with(|session| {
            session.is_for(by)?;
            session.adapt(changes)
        })
    }

    /// Changes a part of what VMs and VTMs have, all or none; the answer is what they then have. Nobody else changes the rest
    /// of it meanwhile.
    ///
    /// # Errors
    /// As [`Network::adapt`].
    pub fn adapt_each(&self, changes: &[Adaptation]) -> Result<Vec<Wanted>, NetworkError> {
        self.with(|session| {
            let wanted = |change: &Adaptation| {
                let share = session.book.share_of(&change.name)?;
                Ok(Wanted::new(&change.name, change.of(&share)))
            };
            let wanted: Result<Vec<_>, Denied> = changes.iter().map(wanted).collect();
            let wanted = wanted?;
            session.adapt(&wanted)?;
            Ok(wanted)
        })
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
        let changes = changes.iter();
        let changes = changes.map(|(name, assured)| Adaptation::assured(name, *assured));
        self.adapt_each(&changes.collect::<Vec<_>>())
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
}

impl Session<'_> {
    fn adapt(&mut self, changes: &[Wanted]) -> Result<(), NetworkError> {
        for change in changes {
            change.share.check().map_err(|source| PlanError::Share {
                key: format!("{:?}", change.name),
                source,
            })?;
        }
        let mut after = self.decide(|book| book.adapted(changes))?;
        if after.has_other_shares(&self.book) {
            self.mend()?;
            after.pending = None;
        }
        self.change(after)
    }
}

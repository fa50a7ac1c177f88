//! CPU time for the threads of a migration on one host.

use std::sync::Arc;

use migration::precopy::ThreadSetup;
use sched::backend::{self, BackendError, CpuReservation, Tid};
use sched::framework::Manager;
use sched::ledger::{self, Admitted, Ledger};
use sched::request::Granted;
use sched::reservation::Reservation;

use super::super::promise::requests;

/// What is in the ledger for them: one for each stream, and the last for who switches over. Dropping it takes it out; threads that are still in it are
/// to end before that.
#[derive(Debug)]
pub(super) struct Threads {
    held: Option<(Ledger, Admitted)>,
}

impl Threads {
    /// None of them is in a reservation.
    pub(super) fn unreserved() -> Self {
        Self { held: None }
    }

    /// Reserves for the migration of `vm`, and waits until it is free.
    pub(super) fn reserve(
        ledger: &Ledger,
        vm: &str,
        threads: &[Reservation],
    ) -> Result<Self, ledger::Refusal> {
        if threads.is_empty() {
            return Ok(Self::unreserved());
        }
        let mut ledger = ledger.clone();
        let admitted = ledger.reserve(&name(vm), &requests(threads))?;
        admitted.wait_until_free();
        Ok(Self {
            held: Some((ledger, admitted)),
        })
    }

    /// What was granted, in order.
    pub(super) fn reservations(&self) -> Vec<Reservation> {
        let granted = self.held.iter().flat_map(|(_, admitted)| admitted.vcpus());
        granted.filter_map(|own| own.request.reservation).collect()
    }

    /// What each stream's thread does first.
    pub(super) fn setup(&self) -> ThreadSetup {
        let Some((ledger, admitted)) = &self.held else {
            return Arc::new(|_| Ok(()));
        };
        let ledger = ledger.clone();
        // But for the last, which is not a stream's.
        let granted = admitted.vcpus();
        let granted = granted[..granted.len() - 1].to_vec();
        Arc::new(move |stream| {
            let own = granted.get(usize::from(stream)).ok_or_else(|| {
                format!("stream {stream} has no reservation: {} have", granted.len())
            })?;
            enter(&ledger, own)?;
            Ok(())
        })
    }

    /// Puts the calling thread into what was reserved for switching over, until that is dropped.
    pub(super) fn enter_switch_over(&self) -> Result<SwitchBudget, BackendError> {
        let last = self.held.as_ref().and_then(|(ledger, admitted)| {
            let last = admitted.vcpus().last()?;
            Some((ledger, last))
        });
        let in_force = last.map(|(ledger, granted)| enter(ledger, granted));
        Ok(SwitchBudget {
            in_force: in_force.transpose()?,
        })
    }
}

/// The entry of a guest's migration in the ledger.
pub(super) fn name(vm: &str) -> String {
    format!("{vm}.migration")
}

fn enter(ledger: &Ledger, granted: &Granted) -> Result<Box<dyn CpuReservation>, BackendError> {
    let own = Tid::current();
    // Before it has bandwidth, so that nobody counts that as a stranger's; without the note others are only refused more than need be.
    let _ = ledger.attach(&granted.vm, granted.vcpu, own);
    backend::apply(own, granted)
}

/// The calling thread's budget for the switch-over. Dropping it makes the thread an ordinary one again.
#[must_use = "dropping it gives the budget back"]
pub struct SwitchBudget {
    in_force: Option<Box<dyn CpuReservation>>,
}

impl Drop for SwitchBudget {
    fn drop(&mut self) {
        if let Some(mut reservation) = self.in_force.take()
            && let Err(error) = reservation.release()
        {
            tracing::warn!("the budget of the switch-over was not given back: {error}");
        }
    }
}

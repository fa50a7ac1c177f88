//! Moves budget from another running guest to this one: both change, or none.
//!
//! ```text
//!  taker                              ledger                       giver
//!    | both as they were? both fit? ---->|                           |
//!    | Enforce (less) ---------------------------------------------->| only if the ledger says so
//!    |    serves its own socket meanwhile                            |
//!    |<--------------------------------------------------------- done| now its bandwidth is free in the kernel
//!    | takes more                        |                           |
//! ```
//!
//! When a step fails the ledger goes back first, which makes a late Enforce void, and then the giver is asked to enforce
//! what the ledger says: it may have given already.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use sched::framework::Manager;
use sched::ledger::Change;
use sched::request::Granted;
use sched::reservation::Reservation;
use tokio::sync::oneshot;

use super::running::RunningVm;
use crate::control::{ControlError, Reply, Request, Transfer, client};

/// How long the other guest has to give up budget: its thread is changed from outside, at once.
const GIVING_PATIENCE: Duration = Duration::from_secs(5);
/// How long it is waited for to go back: a guest that does not answer does it when it can, the request lies in its socket.
const BACK_PATIENCE: Duration = Duration::from_millis(500);

/// Takes the answer to whoever wants the budget moved.
type Answer = oneshot::Sender<Result<Reply, String>>;
/// What the other guest says.
pub(super) type Said = Result<Reply, ControlError>;

/// A transfer that is in the ledger, and that the other guest has been asked to make its part of.
pub(super) struct Waiting {
    transfer: Transfer,
    granted: Granted,
    asked: Pin<Box<dyn Future<Output = Said> + Send>>,
    answer: Answer,
    begun: Instant,
}

/// Admits a transfer and asks the other guest. One that is refused is answered at once.
pub(super) fn begin(vm: &RunningVm, transfer: Transfer, answer: Answer) -> Option<Waiting> {
    let begun = Instant::now();
    match admit(vm, &transfer) {
        Ok(granted) => Some(Waiting {
            asked: Box::pin(ask(
                transfer.clone(),
                transfer.from_reservation,
                GIVING_PATIENCE,
            )),
            transfer,
            granted,
            answer,
            begun,
        }),
        Err(reason) => {
            // Whoever asked may be gone, here and below.
            let _ = answer.send(Err(reason));
            None
        }
    }
}

fn admit(vm: &RunningVm, transfer: &Transfer) -> Result<Granted, String> {
    if transfer.from == vm.name() {
        return Err(format!(
            "{} cannot take budget from itself; adapt its vCPUs one by one, the giving one first",
            transfer.from
        ));
    }
    vm.changeable(transfer.vcpu)
        .map_err(|e| e.to_string())?
        .ok_or("this vCPU has no reservation to change")?;
    let (before, after) = states(vm, transfer);
    let granted = vm.ledger.exchange(&before, &after);
    let own = granted.map_err(|e| e.to_string())?.into_iter().next_back();
    own.ok_or_else(|| "the ledger granted nothing".to_owned())
}

/// Both guests before the transfer and after it, the other one first.
fn states(vm: &RunningVm, transfer: &Transfer) -> ([Change; 2], [Change; 2]) {
    let pair = |from_reservation, reservation| {
        [
            Change::new(&transfer.from, transfer.from_vcpu, from_reservation),
            Change::new(vm.name(), transfer.vcpu, reservation),
        ]
    };
    (
        pair(transfer.from_before, transfer.before),
        pair(transfer.from_reservation, transfer.reservation),
    )
}

/// What the other guest says to a transfer that waits; nothing, ever, if none does.
pub(super) async fn said(waiting: &mut Option<Waiting>) -> Said {
    match waiting {
        Some(waiting) => waiting.asked.as_mut().await,
        None => std::future::pending().await,
    }
}

impl Waiting {
    /// Whether it is going to change this vCPU.
    pub(super) fn changes(&self, vcpu: usize) -> bool {
        self.transfer.vcpu == vcpu
    }

    /// Goes on with what the other guest said.
    pub(super) fn finish(self, vm: &mut RunningVm, said: Said) {
        let from = &self.transfer.from;
        if let Err(error) = said {
            let reason = format!("{from} gave nothing up: {error}");
            return self.undo(vm, reason);
        }
        let vcpu = self.transfer.vcpu;
        if let Err(error) = vm.put_in_force(vcpu, self.granted.clone()) {
            return self.undo(vm, error.to_string());
        }
        let _ = self.answer.send(Ok(Reply::Adapted {
            vcpu: Box::new(vm.status_after_change(vcpu)),
            elapsed: self.begun.elapsed(),
        }));
    }

    /// Takes the transfer back, for this reason.
    pub(super) fn undo(self, vm: &mut RunningVm, mut reason: String) {
        let (before, after) = states(vm, &self.transfer);
        let theirs = match vm.ledger.exchange(&after, &before) {
            Ok(_) => self.transfer.from_before,
            Err(refusal) => {
                // What the other guest gave is somebody else's by now, or it has changed on its own. This one's share is
                // free at least: the kernel has the old one in force.
                let [_, own] = before;
                if let Err(error) = vm.ledger.adapt(&[own]) {
                    tracing::warn!("the ledger does not show what is in force: {error}");
                }
                reason = format!(
                    "{reason}; {} gets nothing back: {refusal}",
                    self.transfer.from
                );
                self.transfer.from_reservation
            }
        };
        let Self {
            transfer, answer, ..
        } = self;
        tokio::spawn(async move {
            // What the kernel enforces there is to be what the ledger says, whatever has happened.
            let _ = ask(transfer, theirs, BACK_PATIENCE).await;
            let _ = answer.send(Err(reason));
        });
    }
}

async fn ask(transfer: Transfer, reservation: Reservation, patience: Duration) -> Said {
    let request = Request::Enforce {
        vcpu: transfer.from_vcpu,
        reservation,
    };
    client::call_within(&transfer.from_socket, request, patience).await
}

//! What the session asks of the source's host, and the guest that it borrows for the switch-over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use migration::drive::{self, Failure, Planner, SourceHost};
use migration::page::EncoderSettings;
use migration::precopy::{PrecopySettings, Progress};
use migration::protocol::Notice;
use migration::ram::{Machine, Part};
use migration::wire::Accept;

use super::Shared;
use crate::guest::{Lender, Loan, MoveError};
use crate::moving::admission::{HeldAtSource, SwitchBudget};
use crate::moving::planner::ModelPlanner;
use crate::moving::promise::Refusal;
use crate::moving::{MigrationRequest, Phase, RoundStatus, SwitchOverStatus, in_full};
use crate::units::ByteSize;

/// Memory that keeps what was sent, where pages are compressed.
const REMEMBERED: ByteSize = ByteSize::mebibytes(64);

/// The guest, borrowed from its owner for the switch-over.
pub(super) struct Borrowed {
    pub(super) lender: Lender,
    pub(super) loan: Arc<Mutex<Option<OnLoan>>>,
    pub(super) held: Arc<Mutex<HeldAtSource>>,
    pub(super) shared: Arc<Shared>,
}

/// The guest, and the session's thread in the reservation in which it switches over.
pub(super) struct OnLoan {
    guest: Loan,
    _budget: SwitchBudget,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Borrowed {
    fn with<T>(
        &self,
        work: impl FnOnce(&mut Loan) -> Result<T, MoveError>,
    ) -> Result<T, MoveError> {
        locked(&self.loan)
            .as_mut()
            .map_or(Err(MoveError::Ended), |loan| work(&mut loan.guest))
    }
}

impl Machine for Borrowed {
    type Error = MoveError;

    fn pause(&mut self) -> Result<(), MoveError> {
        let mut guest = self.lender.borrow()?;
        if guest.guest().vm().is_paused() {
            return Err(MoveError::Pause("it has been paused meanwhile".to_owned()));
        }
        // The destination holds its own: from here on both do.
        let budget = locked(&self.held).enter_switch_over();
        let budget = budget.map_err(|error| MoveError::Pause(in_full(&error)))?;
        {
            let mut told = self.shared.told();
            told.status.phase = Phase::Switching;
            told.paused = Some(Instant::now());
        }
        let paused = guest.guest().pause();
        *locked(&self.loan) = Some(OnLoan {
            guest,
            _budget: budget,
        });
        paused
    }

    fn resume(&mut self) -> Result<(), MoveError> {
        match locked(&self.loan).take() {
            Some(mut loan) => loan.guest.guest().resume(),
            // It never came to the pause.
            None => Ok(()),
        }
    }

    fn save(&mut self) -> Result<Vec<Part>, MoveError> {
        self.with(|loan| loan.guest().save())
    }

    fn restore(&mut self, parts: &[Part]) -> Result<(), MoveError> {
        self.with(|loan| loan.guest().restore(parts))
    }
}

/// What this host does for the session.
pub(super) struct Host<'a> {
    pub(super) request: &'a MigrationRequest,
    pub(super) held: Arc<Mutex<HeldAtSource>>,
    pub(super) loan: Arc<Mutex<Option<OnLoan>>>,
    pub(super) shared: &'a Arc<Shared>,
}

impl SourceHost for Host<'_> {
    fn copy(&mut self, accept: &Accept) -> Result<(PrecopySettings, Box<dyn Planner>), Failure> {
        let mut held = locked(&self.held);
        held.agree(&accept.facts)
            .map_err(|refusal| refusal.to_string())?;
        self.shared.promised(held.promise());
        self.shared.phase(Phase::Copying);
        let reached = (Arc::clone(self.shared), self.shared.remote.clone());
        let planner = ModelPlanner::new(held.seen().writes.clone(), held.promise(), reached)?;
        let encoder = match self.request.compress {
            true => EncoderSettings {
                compress: true,
                remember: REMEMBERED,
            },
            false => EncoderSettings::PLAIN,
        };
        let settings = PrecopySettings {
            encoder,
            rate: held.rate(),
            period: held.pace(),
            thread: Some(held.thread_setup()),
        };
        Ok((settings, Box::new(planner)))
    }

    fn let_go(&mut self) -> Result<(), Failure> {
        self.shared.arrived();
        if let Some(OnLoan { guest, _budget }) = locked(&self.loan).take() {
            guest.moved();
        }
        locked(&self.held).guest_is_gone();
        Ok(())
    }

    fn report(&mut self, notice: &Notice) {
        if let Notice::Refused(refuse) = notice {
            self.shared.refused(&Refusal::heard(refuse));
        }
        let mut told = self.shared.told();
        let status = &mut told.status;
        match notice {
            Notice::Refused(_) => {}
            Notice::Aborted { reason } => status.reason = Some(reason.clone()),
            Notice::TooLate => {
                status.reason =
                    Some("it was too late to cancel: the guest is given away".to_owned());
            }
            Notice::InDoubt => {
                status.reason = Some(format!(
                    "in doubt: {} has started anew and forgotten the session; look there whether {} runs",
                    status.to, status.name
                ));
            }
            Notice::Stuck { reason } => status.reason = Some(format!("tried again: {reason}")),
        }
        if let Some(reason) = &status.reason {
            tracing::info!("{}: {reason}", status.name);
        }
    }

    fn measured(&mut self, measured: &drive::Measured) {
        let mut told = self.shared.told();
        let status = &mut told.status;
        match measured {
            drive::Measured::Sending(progress) => {
                status.round = Some(round(progress));
                status.of_pages = progress.of;
            }
            drive::Measured::Round(progress) => {
                status.round = None;
                status.rounds.push(round(progress));
            }
            drive::Measured::SwitchOver(steps) => {
                let seconds = |step: Option<Duration>| step.map(|step| step.as_secs_f64());
                status.switch_over = Some(SwitchOverStatus {
                    stands_s: seconds(steps.stands),
                    saved_s: seconds(steps.saved),
                    last_sent_s: seconds(steps.last_sent),
                    prepared_s: seconds(steps.prepared),
                    running_s: seconds(steps.running),
                    resumed_s: seconds(steps.resumed),
                });
            }
        }
    }
}

fn round(progress: &Progress) -> RoundStatus {
    RoundStatus {
        pages: progress.pages,
        bytes: progress.bytes,
        seconds: progress.elapsed.as_secs_f64(),
    }
}

//! The destination: admits a guest as a start would be, takes it, and hands it to who supervises it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use migration::drive::{Admitted, DestinationHost, Failure, boot};
use migration::precopy::ThreadSetup;
use migration::protocol::Notice;
use migration::ram::{GuestRam, Machine, Part};
use migration::wire::{Accept, MOST_STREAMS, Offer, Refuse, Session, Token};

use super::admission::{DestinationSide, HeldAtDestination, SwitchBudget};
use super::facts::{self, HostBasis};
use super::promise::Refusal;
use super::stretch::Stretch;
use super::{in_full, own_address, random_bits, travel};
use crate::guest::{AdmittedVm, MoveError, MovingVm, Reception, RunningVm, StartError};

/// A guest that runs here now, and its control socket.
pub struct Arrived {
    /// The guest.
    pub vm: RunningVm,
    /// Where it is controlled from.
    pub reception: Reception,
}

/// What else a host wants of a guest that was admitted, before it is taken: none where it is welcome.
pub type Objection<'a> = dyn Fn(&AdmittedVm) -> Option<String> + 'a;

/// How this host takes a guest.
pub struct Host<'a> {
    /// Where the ledger is, and control sockets.
    pub run_dir: &'a Path,
    /// What was measured of this host.
    pub basis: HostBasis,
    /// Where this host listens.
    pub listening: SocketAddr,
    /// What it would not take for another reason than its ledger's.
    pub objection: &'a Objection<'a>,
    /// Takes the guest once it runs.
    pub running: Sender<Arrived>,
    /// The guest, while it comes.
    pub guest: Option<Arriving>,
    /// What went wrong, last.
    pub reason: Option<String>,
    /// A fault: how long the guest is to stand in all.
    pub stretched: Option<Duration>,
}

/// A guest that comes: its threads stand in their reservations, its memory is being filled.
pub struct Arriving {
    here: Option<(MovingVm, Reception)>,
    /// In which the session's thread takes it up.
    budget: Option<SwitchBudget>,
    // After the threads that are in it.
    held: HeldAtDestination,
    running: Sender<Arrived>,
    stretch: Stretch,
}

fn refuse(reason: impl Into<String>) -> Refuse {
    Refusal::because(reason).wire()
}

fn refused(error: StartError) -> Refuse {
    refuse(format!(
        "not to be had at the destination: {}",
        in_full(&error)
    ))
}

impl Host<'_> {
    /// Admits the guest, and lets its threads stand where they will run.
    fn take(&mut self, offer: &Offer) -> Result<(Arc<dyn GuestRam>, Vec<u8>), Refuse> {
        let (plan, _) = facts::split(&offer.spec).map_err(|error| refuse(in_full(&error)))?;
        let plan = travel::decode(plan).map_err(|error| refuse(in_full(&error)))?;
        let side = DestinationSide::new(self.basis.clone(), self.run_dir);
        let side = side.map_err(|refusal| refusal.wire())?;
        let mut held = side.admit(offer, plan).map_err(|refusal| refusal.wire())?;
        let admitted = held
            .take_vm()
            .ok_or_else(|| refuse("the guest was admitted without a place"))?;
        if let Some(objection) = (self.objection)(&admitted) {
            return Err(refuse(objection));
        }
        let built = admitted.prepare().map_err(refused)?;
        let reception =
            Reception::open(&built, self.run_dir).map_err(|error| refuse(in_full(&error)))?;
        let vm = built.stand().map_err(refused)?;
        let pages = vm.pages();
        let vm = MovingVm::new(vm).map_err(|error| {
            refuse(format!(
                "no descriptors are left at the destination: {error}"
            ))
        })?;
        let answer = held.facts();
        self.guest = Some(Arriving {
            here: Some((vm, reception)),
            budget: None,
            held,
            running: self.running.clone(),
            stretch: Stretch::new(self.stretched),
        });
        Ok((Arc::new(pages), answer))
    }

    /// Where this host answers: as the source's host sees it.
    fn inquiries(&self, offer: &Offer) -> String {
        let source = offer.inquiries.split(',').next().unwrap_or_default();
        let own = || own_address(source.trim().parse().ok()?).ok();
        let seen = match self.listening.ip().is_unspecified() {
            true => own().map(|own| SocketAddr::new(own, self.listening.port())),
            false => None,
        };
        seen.unwrap_or(self.listening).to_string()
    }

    fn accept(&self, offer: &Offer, answer: Vec<u8>) -> Result<Accept, Refuse> {
        let failed = |error: std::io::Error| refuse(format!("no session can begin there: {error}"));
        Ok(Accept {
            token: Token(random_bits().map_err(failed)?),
            streams: offer.streams.clamp(1, MOST_STREAMS),
            features: 0,
            boot: boot().map_err(failed)?,
            inquiries: self.inquiries(offer),
            facts: answer,
        })
    }
}

impl DestinationHost for Host<'_> {
    type Machine = Arriving;

    fn admit(&mut self, _session: Session, offer: &Offer) -> Result<Admitted, Refuse> {
        let admitted = self.take(offer).and_then(|(ram, answer)| {
            let accept = self.accept(offer, answer)?;
            Ok(Admitted { accept, ram })
        });
        admitted.inspect_err(|refuse| self.reason = Some(format!("refused: {}", refuse.reason)))
    }

    fn hold(&mut self) -> Result<(), Failure> {
        let guest = self.machine();
        guest.budget = Some(guest.held.enter_switch_over()?);
        Ok(())
    }

    fn machine(&mut self) -> &mut Arriving {
        self.guest
            .as_mut()
            .expect("the drive asks for the guest only once it was admitted")
    }

    fn thread_setup(&self) -> Option<ThreadSetup> {
        let guest = self.guest.as_ref()?;
        Some(guest.held.thread_setup())
    }

    fn free(&mut self) {
        self.guest = None;
    }

    fn report(&mut self, notice: &Notice) {
        let reason = match notice {
            Notice::Refused(refuse) => refuse.reason.clone(),
            Notice::Aborted { reason } => reason.clone(),
            Notice::TooLate => "it was too late to give it up".to_owned(),
            Notice::InDoubt => {
                "in doubt: the other host has started anew; look there whether the guest runs"
                    .to_owned()
            }
            Notice::Stuck { reason } => format!("tried again: {reason}"),
        };
        tracing::info!("{reason}");
        self.reason = Some(reason);
    }
}

impl Machine for Arriving {
    type Error = MoveError;

    /// It stands from the beginning.
    fn pause(&mut self) -> Result<(), MoveError> {
        Ok(())
    }

    fn resume(&mut self) -> Result<(), MoveError> {
        let (mut vm, reception) = self.here.take().ok_or(MoveError::Ended)?;
        self.stretch.wait();
        vm.resume()?;
        let (vm, _) = vm.give_back();
        // Whoever supervises waits for it as long as the session lasts.
        let _ = self.running.send(Arrived { vm, reception });
        self.budget = None;
        Ok(())
    }

    fn save(&mut self) -> Result<Vec<Part>, MoveError> {
        let (vm, _) = self.here.as_mut().ok_or(MoveError::Ended)?;
        vm.save()
    }

    fn restore(&mut self, parts: &[Part]) -> Result<(), MoveError> {
        let (vm, _) = self.here.as_mut().ok_or(MoveError::Ended)?;
        self.stretch.saved(parts)?;
        vm.restore(parts)
    }
}

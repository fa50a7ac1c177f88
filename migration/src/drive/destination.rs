//! The destination's session, driven: sockets, journal, streams.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::control::Control;
use super::door::{Door, Incoming, Taking, locked};
use super::journal::{self, JournalFile};
use super::{Failure, failure, inquire};
use crate::precopy::RoundReceived;
use crate::protocol::{
    Destination, DestinationAction, DestinationEvent, DestinationSetup, Notice, Outcome,
};
use crate::ram::{GuestRam, Machine, Part};
use crate::transport::{Framed, Listener, Received, Security, Settings, TransportError};
use crate::wire::{
    Accept, Boot, Digest, Inquire, Message, Offer, Prepare, Refuse, Session, Side, Standing,
    StateDigest,
};

/// The destination takes a guest and holds what it needs.
pub struct Admitted {
    /// What it answers.
    pub accept: Accept,
    /// Memory for the guest.
    pub ram: Arc<dyn GuestRam>,
}

/// What the destination's host does for a session.
pub trait DestinationHost {
    /// The guest that comes.
    type Machine: Machine;

    /// Admits CPU, memory and link before the first byte, and holds them; or says why not.
    ///
    /// # Errors
    /// The refusal, with the nearest that would be taken.
    fn admit(&mut self, session: Session, offer: &Offer) -> Result<Admitted, Refuse>;

    /// Gets the budget for the whole switch-over.
    ///
    /// # Errors
    /// When it is not to be had; the guest stays with the source.
    fn hold(&mut self) -> Result<(), Failure>;

    /// The guest, once it was admitted.
    fn machine(&mut self) -> &mut Self::Machine;

    /// Gives up memory and reservations.
    fn free(&mut self);

    /// Hears what happens.
    fn report(&mut self, notice: &Notice);
}

/// How this host takes guests.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Versions and waits.
    pub setup: DestinationSetup,
    /// What protects inquiries at the source's host.
    pub security: Security,
    /// What the certificate of the source's host is for.
    pub source_name: String,
    /// Waits of connections for inquiries.
    pub transport: Settings,
    /// Where this host keeps its records of sessions.
    pub folder: PathBuf,
}

impl Arrival {
    /// Waits for a guest, at most `limit`, and takes it. Blocks until it runs here or nothing is left of it; none where nobody came.
    ///
    /// # Errors
    /// When whoever came cannot be listened to.
    pub fn receive<H: DestinationHost>(
        &self,
        listener: &Listener,
        host: &mut H,
        limit: Duration,
    ) -> Result<Option<Outcome>, TransportError> {
        let Some(caller) = listener.accept(limit)? else {
            return Ok(None);
        };
        let mut framed = Framed::new(caller.greet()?);
        let hello = match framed.hear(self.setup.patience.greeting)? {
            Some(Received::Message(Message::Hello(hello))) => hello,
            _ => return Ok(None),
        };
        let (tell, events) = channel();
        let door = Arc::new(Door {
            tell: tell.clone(),
            over: AtomicBool::new(false),
            standing: Mutex::new((Standing::Open, Boot([0; 16]))),
            taking: Mutex::new(None),
            breakers: Mutex::new(Vec::new()),
            arrived: Arc::default(),
            session: hello.session,
            idle: self.setup.patience.round * 2,
        });
        let heard = tell.clone();
        let control = Control::start(framed, move |message| {
            let event = match message {
                Ok(message) => DestinationEvent::Received(message),
                Err(reason) => DestinationEvent::Lost { reason },
            };
            let _ = heard.send(Incoming::Event(event));
        })?;
        let outcome = std::thread::scope(|scope| {
            door.keep(scope, listener);
            let drive = DestinationDrive {
                arrival: self,
                host,
                door: door.clone(),
                control: Some(control),
                journal: None,
                source: None,
                parts: Vec::new(),
                ends: BTreeMap::new(),
                switching: false,
                restoring: None,
                complete: false,
            };
            let outcome = drive.run(DestinationEvent::Received(Message::Hello(hello)), &events);
            door.over.store(true, Ordering::Relaxed);
            door.close();
            outcome
        });
        Ok(Some(outcome))
    }
}

struct DestinationDrive<'a, H> {
    arrival: &'a Arrival,
    host: &'a mut H,
    door: Arc<Door>,
    control: Option<Control>,
    journal: Option<JournalFile>,
    /// Where the source's host answers inquiries.
    source: Option<String>,
    parts: Vec<Part>,
    /// What streams ended rounds with, by round and stream.
    ends: BTreeMap<u32, BTreeMap<u16, Digest>>,
    switching: bool,
    restoring: Option<Prepare>,
    complete: bool,
}

impl<H: DestinationHost> DestinationDrive<'_, H> {
    fn run(mut self, first: DestinationEvent, events: &Receiver<Incoming>) -> Outcome {
        let mut destination = Destination::start(self.arrival.setup.clone());
        let mut next = vec![first];
        loop {
            while !next.is_empty() {
                let actions = destination.handle(next.remove(0));
                locked(&self.door.standing).0 = destination.standing();
                match self.act_all(actions, &mut next) {
                    Ok(Some(outcome)) => return outcome,
                    Ok(None) => {}
                    Err(reason) => next.insert(0, DestinationEvent::Failed { reason }),
                }
            }
            let arrived = self.door.arrived.load(Ordering::Relaxed);
            match events.recv_timeout(destination.patience()) {
                Ok(Incoming::Event(event)) => next.push(event),
                Ok(Incoming::Round(round)) => self.round(round, &mut next),
                Ok(Incoming::StreamLost(reason)) if !self.complete => {
                    next.push(DestinationEvent::Lost { reason });
                }
                Ok(Incoming::StreamLost(_)) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if self.door.arrived.load(Ordering::Relaxed) == arrived {
                        next.push(DestinationEvent::Timeout);
                    }
                }
            }
        }
    }

    fn act_all(
        &mut self,
        actions: Vec<DestinationAction>,
        next: &mut Vec<DestinationEvent>,
    ) -> Result<Option<Outcome>, String> {
        for action in actions {
            if let DestinationAction::End(outcome) = action {
                return Ok(Some(outcome));
            }
            self.act(action, next)?;
        }
        Ok(None)
    }

    fn act(
        &mut self,
        action: DestinationAction,
        next: &mut Vec<DestinationEvent>,
    ) -> Result<(), String> {
        match action {
            DestinationAction::Send(message) => {
                // Where it is gone, its listener says so.
                let _ = self.control.as_ref().map(|control| control.say(&message));
            }
            DestinationAction::Agree(version) => {
                self.control
                    .iter()
                    .for_each(|control| control.agree(version));
            }
            DestinationAction::Admit(offer) => next.push(self.admit(&offer)),
            DestinationAction::Claim(session) => {
                let path = journal::path(&self.arrival.folder, session, Side::Destination);
                self.journal = Some(JournalFile::claim(&path).map_err(|error| failure(&error))?);
            }
            DestinationAction::Unclaim => {
                // An empty file without an owner says nothing.
                let _ = self.journal.take().map(JournalFile::remove);
            }
            // The door takes streams from the moment of admission on.
            DestinationAction::Receive => {}
            DestinationAction::Hold => {
                self.switching = true;
                self.host.hold().map_err(|error| failure(&*error))?;
            }
            DestinationAction::Keep(part) => self.parts.push(part),
            DestinationAction::Restore(prepare) => {
                self.restoring = Some(prepare);
                self.restore(next)?;
            }
            DestinationAction::Run => {
                self.host
                    .machine()
                    .resume()
                    .map_err(|error| failure(&error))?;
                next.push(DestinationEvent::Started);
            }
            DestinationAction::Free => self.host.free(),
            DestinationAction::Close => {
                self.complete = true;
                self.control = None;
                self.door.close();
            }
            DestinationAction::Inquire(standing) => self.inquire(standing, next),
            DestinationAction::Report(notice) => self.host.report(&notice),
            DestinationAction::Journal(_) | DestinationAction::Erase => self.record(&action)?,
            DestinationAction::Persist => {
                // The guest runs already: worth a warning only.
                if let Err(reason) = self.record(&action) {
                    self.host.report(&Notice::Stuck { reason });
                }
            }
            DestinationAction::End(_) => {}
        }
        Ok(())
    }

    fn record(&self, action: &DestinationAction) -> Result<(), String> {
        let Some(journal) = &self.journal else {
            return Ok(());
        };
        let done = match action {
            DestinationAction::Journal(record) => journal.write(record),
            DestinationAction::Persist => journal.persist(),
            _ => journal.erase(),
        };
        done.map_err(|error| failure(&error))
    }

    fn admit(&mut self, offer: &Offer) -> DestinationEvent {
        self.source = Some(offer.inquiries.clone());
        match self.host.admit(self.door.session, offer) {
            Ok(Admitted { accept, ram }) => {
                locked(&self.door.standing).1 = accept.boot;
                *locked(&self.door.taking) = Some(Taking {
                    accept: accept.clone(),
                    ram,
                    taken: BTreeSet::new(),
                });
                DestinationEvent::Admitted(accept)
            }
            Err(refuse) => DestinationEvent::Refused(refuse),
        }
    }

    fn streams(&self) -> usize {
        locked(&self.door.taking)
            .as_ref()
            .map_or(0, |taking| taking.accept.streams.into())
    }

    fn round(&mut self, received: RoundReceived, next: &mut Vec<DestinationEvent>) {
        let round = received.end.round;
        let ends = self.ends.entry(round).or_default();
        ends.insert(received.stream, received.end.digest);
        let all = ends.len() == self.streams();
        if self.switching {
            if let Err(reason) = self.restore(next) {
                next.push(DestinationEvent::Failed { reason });
            }
        } else if all {
            self.ends.remove(&round);
            next.push(DestinationEvent::RoundReceived { round });
        }
    }

    /// Takes everything up, once all of it is here.
    fn restore(&mut self, next: &mut Vec<DestinationEvent>) -> Result<(), String> {
        let Some(prepare) = self.restoring else {
            return Ok(());
        };
        let Some(ends) = self
            .ends
            .get(&prepare.round)
            .filter(|ends| ends.len() == self.streams())
        else {
            return Ok(());
        };
        self.restoring = None;
        self.complete = true;
        let mut digest = StateDigest::default();
        ends.values().for_each(|&end| digest.stream(end));
        self.parts.iter().for_each(|part| digest.part(part));
        let here = digest.finish();
        if here != prepare.digest {
            return Err(format!(
                "what came has digest {here}, expected {}: the guest is not complete",
                prepare.digest
            ));
        }
        self.host
            .machine()
            .restore(&self.parts)
            .map_err(|error| failure(&error))?;
        next.push(DestinationEvent::Restored);
        Ok(())
    }

    fn inquire(&self, standing: Standing, next: &mut Vec<DestinationEvent>) {
        let Arrival {
            security,
            source_name,
            transport,
            ..
        } = self.arrival;
        let question = Inquire {
            session: self.door.session,
            from: Side::Destination,
            standing,
            boot: locked(&self.door.standing).1,
        };
        let asked = self
            .source
            .as_deref()
            .map(|address| inquire(address, source_name, security, transport, question));
        // Without an answer it is asked again after a while.
        if let Some(Ok(peer)) = asked {
            next.push(DestinationEvent::Peer(peer));
        }
    }
}

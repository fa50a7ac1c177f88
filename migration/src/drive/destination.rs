//! The destination's session, driven: sockets, journal, streams.

mod remote;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use super::control::Control;
use super::desk::Desk;
use super::door::{Door, Incoming, Taking, locked};
use super::inquiry::{Asked, Asker};
use super::journal::{self, JournalFile};
use super::reception::Reception;
use super::{Failure, failure};
use crate::precopy::{RoundReceived, ThreadSetup};
use crate::protocol::{
    Destination, DestinationAction, DestinationEvent, DestinationSetup, Notice, Outcome,
};
use crate::ram::{GuestRam, Machine, Part};
use crate::transport::{Framed, Listener, Security, Settings, TransportError};
use crate::wire::{
    Accept, Boot, Digest, Hello, Inquire, Message, Offer, Prepare, Refuse, Session, Side, Standing,
    StateDigest,
};

pub use remote::DestinationRemote;

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

    /// Done first in the thread of each stream, once the guest was admitted.
    fn thread_setup(&self) -> Option<ThreadSetup> {
        None
    }

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
    /// Waits of connections for inquiries.
    pub transport: Settings,
    /// Where this host keeps its records of sessions.
    pub folder: PathBuf,
    /// This host's life.
    pub boot: Boot,
    /// Reaches whoever receives, from other threads.
    pub remote: DestinationRemote,
}

impl Arrival {
    /// Waits for a guest, at most `limit`, and takes it. Blocks until it runs here or nothing is left of it; none where none came, or nobody wants one
    /// any more. All the time it answers inquiries about sessions of this host that have no process.
    ///
    /// # Errors
    /// When whoever came cannot be listened to.
    pub fn receive<H: DestinationHost>(
        &self,
        listener: &Listener,
        host: &mut H,
        limit: Duration,
    ) -> Result<Option<Outcome>, TransportError> {
        let (tell, events) = channel();
        let _reached = self.remote.reach(tell.clone());
        let patience = &self.setup.patience;
        let reception = Reception::new(patience.greeting);
        let desk = Desk {
            folder: self.folder.clone(),
            boot: self.boot,
        };
        let idle = patience.round * 2;
        let door = Door::new(tell.clone(), reception.clone(), desk, idle);
        std::thread::scope(|scope| {
            let _closing = Closing(&door);
            reception.keep(scope, listener, door.clone());
            let Some((framed, hello)) = await_guest(&events, limit) else {
                return Ok(None);
            };
            let drive = self.drive(host, &door, framed, &hello)?;
            let first = DestinationEvent::Received(Message::Hello(hello));
            Ok(Some(drive.run(first, &events)))
        })
    }

    fn drive<'a, H: DestinationHost>(
        &'a self,
        host: &'a mut H,
        door: &Arc<Door>,
        framed: Framed,
        hello: &Hello,
    ) -> Result<DestinationDrive<'a, H>, TransportError> {
        let tell = locked(&door.tell).clone();
        let heard = tell.clone();
        let control = Control::start(framed, move |message| {
            let event = match message {
                Ok(message) => DestinationEvent::Received(message),
                Err(reason) => DestinationEvent::Lost { reason },
            };
            // After the session's end nobody listens.
            let _ = heard.send(Incoming::Event(event));
        })?;
        Ok(DestinationDrive {
            arrival: self,
            host,
            door: door.clone(),
            session: hello.session,
            tell,
            control: Some(control),
            journal: None,
            asker: Asker::new(&self.security, self.transport, None),
            source: None,
            parts: Vec::new(),
            ends: BTreeMap::new(),
            switching: false,
            restoring: None,
            complete: false,
        })
    }
}

/// Closes the door also where the session panics: whoever is in it would be waited for.
struct Closing<'a>(&'a Door);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.reception.close();
        self.0.close();
    }
}

/// The first who announces a guest.
fn await_guest(events: &Receiver<Incoming>, limit: Duration) -> Option<(Framed, Hello)> {
    let begun = Instant::now();
    loop {
        match events.recv_timeout(limit.saturating_sub(begun.elapsed())) {
            Ok(Incoming::Guest(framed, hello)) => return Some((*framed, hello)),
            Ok(Incoming::Event(DestinationEvent::Cancel)) | Err(_) => return None,
            // Nothing else means something before there is a session.
            Ok(_) => {}
        }
    }
}

struct DestinationDrive<'a, H> {
    arrival: &'a Arrival,
    host: &'a mut H,
    door: Arc<Door>,
    session: Session,
    tell: Sender<Incoming>,
    control: Option<Control>,
    journal: Option<JournalFile>,
    asker: Asker,
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
        let mut asked = None;
        loop {
            while !next.is_empty() {
                let actions = destination.handle(next.remove(0));
                if let Some(asked) = Option::take(&mut asked) {
                    Asked::answer(asked, destination.standing());
                }
                match self.act_all(actions, &mut next) {
                    Ok(Some(outcome)) => return outcome,
                    Ok(None) => {}
                    Err(reason) => next.insert(0, DestinationEvent::Failed { reason }),
                }
            }
            let arrived = self.door.arrived.load(Ordering::Relaxed);
            match events.recv_timeout(destination.patience()) {
                Ok(Incoming::Event(event)) => next.push(event),
                Ok(Incoming::Asked(question)) => {
                    next.push(DestinationEvent::Peer(asked.insert(question).peer));
                }
                Ok(Incoming::Round(round)) => self.round(round, &mut next),
                Ok(Incoming::StreamLost(reason)) if !self.complete => {
                    next.push(DestinationEvent::Lost { reason });
                }
                // The door lets nobody else announce a guest.
                Ok(Incoming::StreamLost(_) | Incoming::Guest(..)) => {}
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
            DestinationAction::Inquire(standing) => self.inquire(standing),
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
        match self.host.admit(self.session, offer) {
            Ok(Admitted { accept, ram }) => {
                *locked(&self.door.taking) = Some(Taking {
                    accept: accept.clone(),
                    ram,
                    thread: self.host.thread_setup(),
                    taken: std::collections::BTreeSet::new(),
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

    fn inquire(&self, standing: Standing) {
        let question = Inquire {
            session: self.session,
            from: Side::Destination,
            standing,
            boot: self.arrival.boot,
        };
        let tell = self.tell.clone();
        if let Some(addresses) = &self.source {
            self.asker.ask(addresses, question, move |peer| {
                let _ = tell.send(Incoming::Event(DestinationEvent::Peer(peer)));
            });
        }
    }
}

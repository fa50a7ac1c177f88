//! The source's session, driven: sockets, journal, rounds.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;

use super::control::Control;
use super::journal::{self, JournalFile};
use super::{Failure, failure, inquire};
use crate::precopy::{Canceller, Precopy, PrecopySettings, RoundSent};
use crate::protocol::{Notice, Outcome, Source, SourceAction, SourceEvent, SourceSetup};
use crate::ram::{DirtyLog, GuestRam, Machine, PageSet, Part};
use crate::transport::{Connection, Framed, Security, Settings, TransportError};
use crate::wire::{
    Accept, Inquire, Message, Prepare, Session, Side, Standing, StateDigest, Stream,
};

/// The guest that is to go.
pub struct Departing<'a, M> {
    /// Its life and the state of its devices.
    pub machine: &'a mut M,
    /// Its memory.
    pub ram: Arc<dyn GuestRam>,
    /// The log of its writes.
    pub log: &'a mut dyn DirtyLog,
}

/// Where the guest is to go.
#[derive(Debug, Clone)]
pub struct Route {
    /// Where the destination accepts connections.
    pub address: SocketAddr,
    /// What its certificate is for.
    pub name: String,
    /// What protects the connections.
    pub security: Security,
    /// Waits and priority of the connections.
    pub transport: Settings,
    /// Where this host keeps its records of sessions.
    pub folder: PathBuf,
}

/// What is next.
#[derive(Debug, Clone)]
pub enum Step {
    /// A round of these classes, in this order.
    Round(Vec<PageSet>),
    /// The switch-over; this host's budget for it is held.
    Switch,
}

/// Decides what is next, between two rounds.
pub trait Planner: Send {
    /// What to do with the pages that are dirty, after the round before.
    fn next(&mut self, dirty: &PageSet, last: Option<&RoundSent>) -> Step;
}

/// What the source's host does for a session.
pub trait SourceHost {
    /// The destination holds what it needs: how memory goes over, and who plans its rounds.
    ///
    /// # Errors
    /// When this host cannot do its part; the guest stays.
    fn copy(&mut self, accept: &Accept) -> Result<(PrecopySettings, Box<dyn Planner>), Failure>;

    /// The guest runs elsewhere: gives up its memory and reservations.
    ///
    /// # Errors
    /// When something remains; it is asked again.
    fn let_go(&mut self) -> Result<(), Failure>;

    /// Hears what happens.
    fn report(&mut self, notice: &Notice);
}

enum Incoming {
    Event(SourceEvent),
    /// The last round is sent.
    Last(RoundSent),
    /// Pages go out.
    Alive,
}

enum Go {
    Next,
    Last,
}

/// Reaches a running session from other threads.
#[derive(Clone)]
pub struct SourceRemote(Sender<Incoming>);

impl SourceRemote {
    /// Hands an event in: a cancellation, an operator's word, what the other host says.
    pub fn hand_in(&self, event: SourceEvent) {
        // After its end nobody listens.
        let _ = self.0.send(Incoming::Event(event));
    }
}

/// A session that is about to begin.
pub struct Departure {
    events: Receiver<Incoming>,
    remote: SourceRemote,
}

impl Default for Departure {
    fn default() -> Self {
        let (sender, events) = channel();
        Self {
            events,
            remote: SourceRemote(sender),
        }
    }
}

impl Departure {
    /// What reaches it from other threads.
    #[must_use]
    pub fn remote(&self) -> SourceRemote {
        self.remote.clone()
    }

    /// Moves the guest, or leaves it as it was. Blocks until it is known which.
    ///
    /// # Errors
    /// When the destination cannot be reached at all; the guest stays.
    pub fn migrate<M: Machine>(
        self,
        guest: Departing<'_, M>,
        route: &Route,
        setup: SourceSetup,
        host: &mut dyn SourceHost,
    ) -> Result<Outcome, TransportError> {
        let control = Connection::connect(
            route.address,
            &route.name,
            &route.security,
            &route.transport,
        )?;
        let remote = self.remote.clone();
        let control = Control::start(Framed::new(control), move |heard| {
            remote.hand_in(match heard {
                Ok(message) => SourceEvent::Received(message),
                Err(reason) => SourceEvent::Lost { reason },
            });
        })?;
        let Departing { machine, ram, log } = guest;
        let outcome = std::thread::scope(|scope| {
            let drive = SourceDrive {
                scope,
                machine,
                ram,
                log: Some(&mut *log),
                route,
                host,
                session: setup.session,
                boot: setup.offer.boot,
                control: Some(control),
                rounds: None,
                journal: None,
                inquiries: None,
                parts: Vec::new(),
                paused: false,
                tell: self.remote.0.clone(),
            };
            drive.run(setup, &self.events)
        });
        // After the guest has gone on. Where tracking does not end, the guest is slower and nothing else.
        if let Err(error) = log.stop() {
            host.report(&Notice::Stuck {
                reason: failure(&error),
            });
        }
        Ok(outcome)
    }
}

struct Rounds {
    go: Sender<Go>,
    canceller: Canceller,
}

struct SourceDrive<'scope, 'env, 'a, M> {
    scope: &'scope Scope<'scope, 'env>,
    machine: &'a mut M,
    ram: Arc<dyn GuestRam>,
    log: Option<&'scope mut dyn DirtyLog>,
    route: &'a Route,
    host: &'a mut dyn SourceHost,
    session: Session,
    boot: crate::wire::Boot,
    control: Option<Control>,
    rounds: Option<Rounds>,
    journal: Option<JournalFile>,
    inquiries: Option<String>,
    parts: Vec<Part>,
    paused: bool,
    tell: Sender<Incoming>,
}

impl<M: Machine> SourceDrive<'_, '_, '_, M> {
    fn run(mut self, setup: SourceSetup, events: &Receiver<Incoming>) -> Outcome {
        let (mut source, mut actions) = Source::start(setup);
        loop {
            match self.act_all(actions) {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(reason) => {
                    actions = source.handle(SourceEvent::Failed { reason });
                    continue;
                }
            }
            let event = match events.recv_timeout(source.patience()) {
                Ok(Incoming::Event(event)) => event,
                Ok(Incoming::Last(sent)) => SourceEvent::LastSent(self.prepare(&sent)),
                Ok(Incoming::Alive) => {
                    actions = Vec::new();
                    continue;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    SourceEvent::Timeout
                }
            };
            actions = source.handle(event);
        }
    }

    fn act_all(&mut self, actions: Vec<SourceAction>) -> Result<Option<Outcome>, String> {
        for action in actions {
            if let SourceAction::End(outcome) = action {
                // Empty by now; without it the folder stays tidy.
                let _ = self.journal.take().map(JournalFile::remove);
                return Ok(Some(outcome));
            }
            self.act(action)?;
        }
        Ok(None)
    }

    fn act(&mut self, action: SourceAction) -> Result<(), String> {
        match action {
            SourceAction::Send(message) => {
                // Where it is gone, its listener says so.
                let _ = self.control.as_ref().map(|control| control.say(&message));
                Ok(())
            }
            SourceAction::Agree(version) => {
                self.control
                    .iter()
                    .for_each(|control| control.agree(version));
                Ok(())
            }
            SourceAction::Copy(accept) => self.copy(&accept),
            SourceAction::RoundDone { .. } => self.go(Go::Next),
            SourceAction::Journal(record) => {
                let path = journal::path(&self.route.folder, self.session, Side::Source);
                let file = JournalFile::claim(&path).map_err(|error| failure(&error))?;
                let file = self.journal.insert(file);
                let written = file.write(&record).and_then(|()| file.persist());
                written.map_err(|error| failure(&error))
            }
            SourceAction::Erase => {
                let erased = self.journal.as_ref().map_or(Ok(()), JournalFile::erase);
                erased.map_err(|error| failure(&error))
            }
            SourceAction::Pause => {
                self.paused = true;
                self.machine.pause().map_err(|error| failure(&error))
            }
            SourceAction::SendLast => self.send_last(),
            SourceAction::Resume if self.paused => {
                self.machine.resume().map_err(|error| failure(&error))?;
                self.paused = false;
                Ok(())
            }
            SourceAction::Resume => Ok(()),
            SourceAction::LetGo => self.host.let_go().map_err(|error| failure(&*error)),
            SourceAction::Close => {
                self.rounds
                    .take()
                    .into_iter()
                    .for_each(|rounds| rounds.canceller.cancel());
                self.control = None;
                Ok(())
            }
            SourceAction::Inquire(standing) => {
                self.inquire(standing);
                Ok(())
            }
            SourceAction::Report(notice) => {
                self.host.report(&notice);
                Ok(())
            }
            SourceAction::End(_) => Ok(()),
        }
    }

    fn go(&self, go: Go) -> Result<(), String> {
        let rounds = self.rounds.as_ref().ok_or("no rounds are being sent")?;
        rounds
            .go
            .send(go)
            .map_err(|_| "the rounds have ended".to_owned())
    }

    fn copy(&mut self, accept: &Accept) -> Result<(), String> {
        self.inquiries = Some(accept.inquiries.clone());
        let (settings, planner) = self.host.copy(accept).map_err(|error| failure(&*error))?;
        let streams: Result<Vec<_>, _> = (0..accept.streams)
            .map(|index| self.stream(accept, index))
            .collect();
        let streams = streams.map_err(|error| failure(&error))?;
        let log = self.log.take().ok_or("the rounds have begun before")?;
        let precopy =
            Precopy::start(&self.ram, log, streams, &settings).map_err(|error| failure(&error))?;
        let (go, orders) = channel();
        self.rounds = Some(Rounds {
            go,
            canceller: precopy.canceller(),
        });
        let tell = self.tell.clone();
        self.scope
            .spawn(move || rounds(precopy, planner, &orders, &tell));
        Ok(())
    }

    fn stream(&self, accept: &Accept, index: u16) -> Result<Framed, TransportError> {
        let Route {
            address,
            name,
            security,
            transport,
            ..
        } = self.route;
        let mut framed = Framed::new(Connection::connect(*address, name, security, transport)?);
        framed.say(&Message::Stream(Stream {
            session: self.session,
            token: accept.token,
            index,
        }))?;
        Ok(framed)
    }

    /// The state goes over the control connection while the last pages go over the streams.
    fn send_last(&mut self) -> Result<(), String> {
        self.go(Go::Last)?;
        self.parts = self.machine.save().map_err(|error| failure(&error))?;
        let control = self
            .control
            .as_ref()
            .ok_or("the control connection is gone")?;
        for part in &self.parts {
            control
                .say(&Message::Part(part.clone()))
                .map_err(|error| failure(&error))?;
        }
        Ok(())
    }

    fn prepare(&mut self, sent: &RoundSent) -> Prepare {
        let mut digest = StateDigest::default();
        sent.streams
            .iter()
            .for_each(|end| digest.stream(end.digest));
        self.parts.iter().for_each(|part| digest.part(part));
        Prepare {
            round: sent.progress.round,
            parts: u32::try_from(self.parts.len()).unwrap_or(u32::MAX),
            digest: digest.finish(),
        }
    }

    fn inquire(&self, standing: Standing) {
        let question = Inquire {
            session: self.session,
            from: Side::Source,
            standing,
            boot: self.boot,
        };
        let asked = self.inquiries.as_deref().map(|address| {
            inquire(
                address,
                &self.route.name,
                &self.route.security,
                &self.route.transport,
                question,
            )
        });
        // Without an answer it is asked again after a while.
        if let Some(Ok(peer)) = asked {
            let _ = self.tell.send(Incoming::Event(SourceEvent::Peer(peer)));
        }
    }
}

/// Sends rounds as the planner says, until the last one or until nobody wants any.
fn rounds(
    mut precopy: Precopy<'_>,
    mut planner: Box<dyn Planner>,
    orders: &Receiver<Go>,
    tell: &Sender<Incoming>,
) {
    let say = |incoming| {
        // After the session's end nobody listens.
        let _ = tell.send(incoming);
    };
    let mut last = None;
    loop {
        let sent = precopy
            .dirty()
            .and_then(|dirty| match planner.next(&dirty, last.as_ref()) {
                Step::Round(classes) => precopy
                    .round(&classes, &mut |_| say(Incoming::Alive))
                    .map(Some),
                Step::Switch => Ok(None),
            });
        match sent {
            Ok(Some(sent)) => {
                say(Incoming::Event(SourceEvent::RoundSent {
                    round: sent.progress.round,
                }));
                last = Some(sent);
            }
            Ok(None) => say(Incoming::Event(SourceEvent::SwitchNow)),
            Err(error) => {
                let reason = failure(&error);
                return say(Incoming::Event(SourceEvent::Lost { reason }));
            }
        }
        match orders.recv() {
            Ok(Go::Next) => {}
            Ok(Go::Last) => break,
            Err(_) => return,
        }
    }
    match precopy.last_round(&mut |_| say(Incoming::Alive)) {
        Ok(sent) => say(Incoming::Last(sent)),
        Err(error) => {
            let reason = failure(&error);
            return say(Incoming::Event(SourceEvent::Lost { reason }));
        }
    }
    // The streams stay until the session closes them.
    let _ = orders.recv();
}

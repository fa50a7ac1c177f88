//! The source's session, driven: sockets, journal, rounds.

mod guard;
mod rounds;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;

use super::control::Control;
use super::inquiry::{Asked, Asker, await_answer};
use super::journal::{self, JournalFile};
use super::measure::{Measured, Stopwatch};
use super::reception::{ATTENTION, Host, Reception};
use super::{Failure, failure};
use crate::precopy::{Canceller, Precopy, PrecopySettings, Progress, RoundSent};
use crate::protocol::desk::Peer;
use crate::protocol::{Notice, Outcome, Patience, Source, SourceAction, SourceEvent, SourceSetup};
use crate::ram::{DirtyLog, GuestRam, Machine, PageSet, Part};
use crate::transport::{Connection, Framed, Listener, Security, Settings, TransportError};
use crate::wire::{
    Accept, Answer, Boot, Inquire, Message, Prepare, Session, Side, Standing, StateDigest, Stream,
    Tally,
};
use guard::Guard;
use rounds::Go;

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

    /// Hears what it takes. What it does here the session waits for, but not while the guest stands.
    fn measured(&mut self, _: &Measured) {}
}

enum Incoming {
    Event(SourceEvent),
    /// The other side's host asks.
    Asked(Asked),
    /// A round is sent.
    Round(Progress),
    /// The last round is sent.
    Last(RoundSent),
    /// Bytes go out.
    Alive(Progress),
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
    listener: Option<Listener>,
}

impl Default for Departure {
    fn default() -> Self {
        let (sender, events) = channel();
        Self {
            events,
            remote: SourceRemote(sender),
            listener: None,
        }
    }
}

impl Departure {
    /// What reaches it from other threads.
    #[must_use]
    pub fn remote(&self) -> SourceRemote {
        self.remote.clone()
    }

    /// Answers inquiries about the session at `listener`, whose address the offer names first, as long as the session lasts.
    #[must_use]
    pub fn answering(mut self, listener: Listener) -> Self {
        self.listener = Some(listener);
        self
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
        let tell = self.remote.0.clone();
        let reception = Reception::new(setup.patience.greeting);
        let outcome = std::thread::scope(|scope| {
            let _closing = Closing(&reception);
            if let Some(listener) = &self.listener {
                let desk = SourceDesk {
                    session: setup.session,
                    boot: setup.offer.boot,
                    tell: Mutex::new(tell.clone()),
                    reception: reception.clone(),
                };
                reception.keep(scope, listener, Arc::new(desk));
            }
            let drive = SourceDrive {
                scope,
                machine,
                ram,
                log: Some(&mut *log),
                route,
                host,
                session: setup.session,
                boot: setup.offer.boot,
                patience: setup.patience,
                control: Some(control),
                rounds: None,
                journal: None,
                asker: Asker::new(&route.security, route.transport, Some(route.name.clone())),
                inquiries: None,
                parts: Vec::new(),
                guard: None,
                paused: None,
                last: None,
                tell,
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

/// Closes a reception also where the session panics: whoever waits in it would be waited for.
struct Closing<'a>(&'a Reception);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Answers for the session while it lives. For others it has no answer: whoever asks goes on to the host's desk.
struct SourceDesk {
    session: Session,
    boot: Boot,
    tell: Mutex<Sender<Incoming>>,
    reception: Arc<Reception>,
}

impl Host for SourceDesk {
    fn introduce(&self, mut framed: Framed, message: Message) {
        let Message::Inquire(question) = message else {
            return;
        };
        if question.session != self.session || question.from != Side::Destination {
            return;
        }
        let (asked, answer) = Asked::new(&question);
        let tell = self.tell.lock().unwrap_or_else(PoisonError::into_inner);
        let told = tell.send(Incoming::Asked(asked));
        drop(tell);
        if let Some(standing) = told
            .ok()
            .and_then(|()| await_answer(&answer, ATTENTION, || self.reception.is_over()))
        {
            let boot = self.boot;
            let _ = framed.say(&Message::Answer(Answer { standing, boot }));
        }
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
    boot: Boot,
    patience: Patience,
    control: Option<Control>,
    rounds: Option<Rounds>,
    journal: Option<JournalFile>,
    asker: Asker,
    inquiries: Option<String>,
    parts: Vec<Part>,
    /// From the record to the decision.
    guard: Option<Guard>,
    /// Since the order to pause; the guest may go on since.
    paused: Option<Stopwatch>,
    last: Option<Progress>,
    tell: Sender<Incoming>,
}

impl<M: Machine> SourceDrive<'_, '_, '_, M> {
    fn run(mut self, setup: SourceSetup, events: &Receiver<Incoming>) -> Outcome {
        let (mut source, mut actions) = Source::start(setup);
        loop {
            if source.standing() == Standing::Committed {
                self.guard = None;
            }
            match self.act_all(std::mem::take(&mut actions)) {
                Ok(Some(outcome)) => return outcome,
                Ok(None) => {}
                Err(reason) => {
                    let overdue = self.guard.as_ref().and_then(Guard::struck);
                    let reason = overdue.unwrap_or(reason);
                    actions = source.handle(SourceEvent::Failed { reason });
                    continue;
                }
            }
            let mut asked = None;
            let event = match events.recv_timeout(source.patience()) {
                Ok(Incoming::Event(event)) => event,
                Ok(Incoming::Asked(question)) => SourceEvent::Peer(asked.insert(question).peer),
                Ok(Incoming::Last(sent)) => SourceEvent::LastSent(self.prepare(&sent)),
                Ok(Incoming::Round(progress)) => {
                    self.host.measured(&Measured::Round(progress));
                    SourceEvent::RoundSent {
                        round: progress.round,
                    }
                }
                Ok(Incoming::Alive(progress)) => {
                    self.host.measured(&Measured::Sending(progress));
                    continue;
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    SourceEvent::Timeout
                }
            };
            self.take_time(&event);
            actions = source.handle(event);
            if let Some(asked) = asked.take() {
                asked.answer(source.standing());
            }
        }
    }

    fn take_time(&mut self, event: &SourceEvent) {
        let Some(watch) = &mut self.paused else {
            return;
        };
        match event {
            SourceEvent::LastSent(_) => watch.done(|times| &mut times.last_sent),
            SourceEvent::Received(Message::Prepared) => watch.done(|times| &mut times.prepared),
            SourceEvent::Received(Message::Running)
            | SourceEvent::Peer(Peer {
                standing: Standing::Running,
                ..
            }) => watch.done(|times| &mut times.running),
            _ => {}
        }
    }

    /// All is over: what it took is told, and the record's file goes, unless something is in it that the host's desk needs.
    fn end(&mut self) {
        if let Some(last) = self.last {
            self.host.measured(&Measured::Round(last));
        }
        if let Some(watch) = self.paused {
            self.host.measured(&Measured::SwitchOver(watch.so_far));
        }
        let journal = self.journal.take();
        let empty = journal.filter(|journal| matches!(journal.read(), Ok(None)));
        // Without it the folder is tidier, and nothing else.
        let _ = empty.map(JournalFile::remove);
    }

    fn act_all(&mut self, actions: Vec<SourceAction>) -> Result<Option<Outcome>, String> {
        for action in actions {
            if let SourceAction::End(outcome) = action {
                self.end();
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
                self.guard = Some(self.stand_by()?);
                let path = journal::path(&self.route.folder, self.session, Side::Source);
                let file = JournalFile::claim(&path).map_err(|error| failure(&error))?;
                let file = self.journal.insert(file);
                let written = file.write(&record).and_then(|()| file.persist());
                written.map_err(|error| failure(&error))
            }
            SourceAction::Erase => {
                self.guard = None;
                let erased = self.journal.as_ref().map_or(Ok(()), JournalFile::erase);
                erased.map_err(|error| failure(&error))
            }
            SourceAction::Pause => self.pause(),
            SourceAction::SendLast => self.send_last(),
            SourceAction::Resume => self.resume(),
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

    /// Watches over the time that the guest stands, from the order to pause on.
    fn stand_by(&self) -> Result<Guard, String> {
        let control = self.control.as_ref().map(Control::breaker);
        let canceller = self.rounds.as_ref().map(|rounds| rounds.canceller.clone());
        let cut = move || {
            control.iter().for_each(|control| control.cut());
            canceller.iter().for_each(Canceller::cancel);
        };
        let tell = self.tell.clone();
        let strike = move |reason| {
            // After the session's end nobody listens.
            let _ = tell.send(Incoming::Event(SourceEvent::Failed { reason }));
        };
        Guard::stand_by(self.scope, self.patience.pause, strike, cut)
            .map_err(|error| format!("cannot watch over the guest's pause: {error}"))
    }

    fn pause(&mut self) -> Result<(), String> {
        let watch = self.paused.insert(Stopwatch::start());
        self.guard.iter().for_each(Guard::begin);
        self.machine.pause().map_err(|error| failure(&error))?;
        watch.done(|times| &mut times.stands);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), String> {
        self.guard = None;
        match &mut self.paused {
            Some(watch) if watch.so_far.resumed.is_none() => {
                self.machine.resume().map_err(|error| failure(&error))?;
                watch.done(|times| &mut times.resumed);
                Ok(())
            }
            _ => Ok(()),
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
            .spawn(move || rounds::send(precopy, planner, &orders, &tell));
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
        let mut tally = Tally::default();
        for part in &self.parts {
            tally.add(part).map_err(|error| failure(&error))?;
        }
        self.paused
            .iter_mut()
            .for_each(|watch| watch.done(|times| &mut times.saved));
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
        self.last = Some(sent.progress);
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
        let tell = self.tell.clone();
        if let Some(addresses) = &self.inquiries {
            self.asker.ask(addresses, question, move |peer| {
                let _ = tell.send(Incoming::Event(SourceEvent::Peer(peer)));
            });
        }
    }
}

//! The session's thread: takes one event after the other and does what the state machine answers.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;

use super::guard::Guard;
use super::rounds::{self, Go};
use super::{Incoming, Route, SourceHost};
use crate::drive::control::Control;
use crate::drive::failure;
use crate::drive::inquiry::Asker;
use crate::drive::journal::{self, JournalFile};
use crate::drive::measure::{Measured, Stopwatch};
use crate::precopy::{Canceller, Precopy, Progress, RoundSent};
use crate::protocol::desk::Peer;
use crate::protocol::{Outcome, Patience, Source, SourceAction, SourceEvent, SourceSetup};
use crate::ram::{DirtyLog, GuestRam, Machine, Part};
use crate::transport::{Connection, Framed, TransportError};
use crate::wire::{
    Accept, Boot, Inquire, Message, Prepare, Session, Side, Standing, StateDigest, Stream, Tally,
};

pub(super) struct Rounds {
    go: Sender<Go>,
    canceller: Canceller,
}

/// A session, driven.
pub(super) struct SourceDrive<'scope, 'env, 'a, M> {
    pub(super) scope: &'scope Scope<'scope, 'env>,
    pub(super) machine: &'a mut M,
    pub(super) ram: Arc<dyn GuestRam>,
    pub(super) log: Option<&'scope mut dyn DirtyLog>,
    pub(super) route: &'a Route,
    pub(super) host: &'a mut dyn SourceHost,
    pub(super) session: Session,
    pub(super) boot: Boot,
    pub(super) patience: Patience,
    pub(super) control: Option<Control>,
    pub(super) rounds: Option<Rounds>,
    pub(super) journal: Option<JournalFile>,
    pub(super) asker: Asker,
    pub(super) inquiries: Option<String>,
    pub(super) parts: Vec<Part>,
    /// From the record to the decision.
    pub(super) guard: Option<Guard>,
    /// Since the order to pause; the guest may go on since.
    pub(super) paused: Option<Stopwatch>,
    pub(super) last: Option<Progress>,
    pub(super) tell: Sender<Incoming>,
}

impl<M: Machine> SourceDrive<'_, '_, '_, M> {
    pub(super) fn run(mut self, setup: SourceSetup, events: &Receiver<Incoming>) -> Outcome {
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

//! Who comes to a destination: a guest, its streams, and whoever asks where a session stands.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::desk::Desk;
use super::failure;
use super::inquiry::{Asked, await_answer};
use super::reception::{ATTENTION, Host, Reception};
use crate::precopy::{RoundReceived, StreamReceiver, ThreadSetup};
use crate::protocol::DestinationEvent;
use crate::ram::GuestRam;
use crate::transport::{Breaker, Framed};
use crate::wire::{Accept, Answer, Hello, Inquire, Message, Refuse, Session, Side, Stream};

pub(super) enum Incoming {
    Event(DestinationEvent),
    /// A guest is announced.
    Guest(Box<Framed>, Hello),
    /// The other side's host asks.
    Asked(Asked),
    Round(RoundReceived),
    StreamLost(String),
}

/// What the threads that speak with callers know.
pub(super) struct Door {
    pub(super) tell: Mutex<Sender<Incoming>>,
    pub(super) reception: Arc<Reception>,
    pub(super) desk: Desk,
    /// The one session that there is.
    session: Mutex<Option<Session>>,
    /// Set once the guest was admitted.
    pub(super) taking: Mutex<Option<Taking>>,
    breakers: Mutex<Vec<Breaker>>,
    pub(super) arrived: Arc<AtomicU64>,
    idle: Duration,
}

pub(super) struct Taking {
    pub(super) accept: Accept,
    pub(super) ram: Arc<dyn GuestRam>,
    pub(super) thread: Option<ThreadSetup>,
    pub(super) taken: BTreeSet<u16>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Host for Door {
    fn introduce(&self, framed: Framed, message: Message) {
        match message {
            Message::Hello(hello) => self.guest(framed, hello),
            Message::Stream(stream) => self.stream(framed, stream),
            Message::Inquire(question) => self.asked(framed, question),
            _ => {}
        }
    }
}

impl Door {
    pub(super) fn new(
        tell: Sender<Incoming>,
        reception: Arc<Reception>,
        desk: Desk,
        idle: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            tell: Mutex::new(tell),
            reception,
            desk,
            session: Mutex::new(None),
            taking: Mutex::new(None),
            breakers: Mutex::default(),
            arrived: Arc::default(),
            idle,
        })
    }

    /// One at a time: who comes first has the place for good.
    fn guest(&self, mut framed: Framed, hello: Hello) {
        let mut session = locked(&self.session);
        if session.is_none() {
            *session = Some(hello.session);
            return self.tell(Incoming::Guest(Box::new(framed), hello));
        }
        drop(session);
        let refuse = Refuse {
            reason: "this host takes another guest right now; try again when that is over"
                .to_owned(),
            nearest: Vec::new(),
        };
        // Whoever is gone already needs no answer.
        let _ = framed
            .say(&Message::Refuse(refuse))
            .and_then(|()| framed.connection().close());
    }

    fn asked(&self, mut framed: Framed, question: Inquire) {
        if let Some(answer) = self.answer(&question) {
            let _ = framed.say(&Message::Answer(answer));
        }
    }

    /// About the session here only the session itself says something, about those without a process the host's desk.
    fn answer(&self, question: &Inquire) -> Option<Answer> {
        let ours =
            *locked(&self.session) == Some(question.session) && question.from == Side::Source;
        if ours && !self.reception.is_over() {
            let (asked, answer) = Asked::new(question);
            self.tell(Incoming::Asked(asked));
            let standing = await_answer(&answer, ATTENTION, || self.reception.is_over())?;
            let boot = self.desk.boot;
            return Some(Answer { standing, boot });
        }
        // Without an answer it is asked again.
        self.desk.answer(question).ok().flatten()
    }

    fn stream(&self, framed: Framed, stream: Stream) {
        let ours = *locked(&self.session) == Some(stream.session);
        let (ram, thread) = {
            let mut taking = locked(&self.taking);
            let Some(taking) = taking.as_mut().filter(|_| ours) else {
                return;
            };
            let good = stream.token == taking.accept.token && stream.index < taking.accept.streams;
            if !good || !taking.taken.insert(stream.index) {
                return;
            }
            let Ok(breaker) = framed.breaker() else {
                return;
            };
            // Under the lock: once it is closed no stream comes any more.
            locked(&self.breakers).push(breaker);
            (taking.ram.clone(), taking.thread.clone())
        };
        if let Some(Err(error)) = thread.map(|setup| setup(stream.index)) {
            let reason = failure(&*error);
            return self.tell(Incoming::StreamLost(format!(
                "stream {} cannot begin in its reservation: {reason}",
                stream.index
            )));
        }
        let outcome = StreamReceiver::new(framed, stream.index, ram).and_then(|receiver| {
            let receiver = receiver.counting(self.arrived.clone());
            receiver.run(self.idle, &mut |round| self.tell(Incoming::Round(round)))
        });
        let how = outcome.map_or_else(|error| failure(&error), |()| "it was closed".to_owned());
        self.tell(Incoming::StreamLost(format!(
            "stream {}: {how}",
            stream.index
        )));
    }

    fn tell(&self, incoming: Incoming) {
        // After the session's end nobody listens.
        let _ = locked(&self.tell).send(incoming);
    }

    /// Ends the streams; no more are taken.
    pub(super) fn close(&self) {
        *locked(&self.taking) = None;
        locked(&self.breakers).iter().for_each(Breaker::cut);
    }
}

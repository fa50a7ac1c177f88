//! Who comes while a session lasts: its streams, and whoever asks where it stands.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Scope;
use std::time::Duration;

use super::failure;
use crate::precopy::{RoundReceived, StreamReceiver};
use crate::protocol::DestinationEvent;
use crate::protocol::desk::Peer;
use crate::ram::GuestRam;
use crate::transport::{Breaker, Framed, Listener, Received};
use crate::wire::{Accept, Answer, Boot, Message, Session, Standing, Stream};

/// How soon a listener notices that the session is over.
const ATTENTION: Duration = Duration::from_millis(20);
/// How long whoever connected may take to say what for.
const INTRODUCTION: Duration = Duration::from_secs(5);

pub(super) enum Incoming {
    Event(DestinationEvent),
    Round(RoundReceived),
    StreamLost(String),
}

/// What the threads that accept connections know of the session.
pub(super) struct Door {
    pub(super) tell: Sender<Incoming>,
    pub(super) over: AtomicBool,
    pub(super) standing: Mutex<(Standing, Boot)>,
    /// Set once the guest was admitted.
    pub(super) taking: Mutex<Option<Taking>>,
    pub(super) breakers: Mutex<Vec<Breaker>>,
    pub(super) arrived: Arc<AtomicU64>,
    pub(super) session: Session,
    pub(super) idle: Duration,
}

pub(super) struct Taking {
    pub(super) accept: Accept,
    pub(super) ram: Arc<dyn GuestRam>,
    pub(super) taken: BTreeSet<u16>,
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// Lets in who comes while the session lasts.
    pub(super) fn keep<'scope>(
        self: &Arc<Self>,
        scope: &'scope Scope<'scope, '_>,
        listener: &'scope Listener,
    ) {
        let door = self.clone();
        scope.spawn(move || {
            while !door.over.load(Ordering::Relaxed) {
                let Ok(Some(caller)) = listener.accept(ATTENTION) else {
                    continue;
                };
                let door = door.clone();
                // Whoever cannot show a certificate or says nothing has no part in the session.
                scope.spawn(move || {
                    caller
                        .greet()
                        .map(|connection| door.introduce(Framed::new(connection)))
                });
            }
        });
    }

    fn introduce(&self, mut framed: Framed) {
        let message = match framed.hear(INTRODUCTION) {
            Ok(Some(Received::Message(message))) => message,
            _ => return,
        };
        match message {
            Message::Stream(stream) => self.stream(framed, stream),
            Message::Inquire(question) if question.session == self.session => {
                let (standing, boot) = *locked(&self.standing);
                let _ = framed.say(&Message::Answer(Answer { standing, boot }));
                let peer = Peer {
                    standing: question.standing,
                    boot: question.boot,
                };
                self.tell(Incoming::Event(DestinationEvent::Peer(peer)));
            }
            _ => {}
        }
    }

    fn stream(&self, framed: Framed, stream: Stream) {
        let ram = {
            let mut taking = locked(&self.taking);
            let Some(taking) = taking.as_mut() else {
                return;
            };
            let ours = stream.session == self.session
                && stream.token == taking.accept.token
                && stream.index < taking.accept.streams;
            if !ours || !taking.taken.insert(stream.index) {
                return;
            }
            taking.ram.clone()
        };
        let Ok(breaker) = framed.breaker() else {
            return;
        };
        locked(&self.breakers).push(breaker);
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
        let _ = self.tell.send(incoming);
    }

    pub(super) fn close(&self) {
        locked(&self.breakers).iter().for_each(Breaker::cut);
        *locked(&self.taking) = None;
    }
}

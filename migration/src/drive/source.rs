//! The source's session, driven: sockets, journal, rounds.

mod desk;
mod guard;
mod rounds;
mod session;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use super::control::Control;
use super::inquiry::{Asked, Asker};
use super::measure::Measured;
use super::reception::Reception;
use super::{Failure, failure};
use crate::precopy::{PrecopySettings, Progress, RoundSent};
use crate::protocol::{Notice, Outcome, SourceEvent, SourceSetup};
use crate::ram::{DirtyLog, GuestRam, Machine, PageSet};
use crate::transport::{Connection, Framed, Listener, Security, Settings, TransportError};
use crate::wire::Accept;
use desk::SourceDesk;
use session::SourceDrive;

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
                    tell: tell.clone(),
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

//! The source's side of a session.

mod event;

pub use event::{SourceAction, SourceEvent, SourceSetup};

use std::sync::Arc;
use std::time::Duration;

use super::desk::Peer;
use super::journal::Record;
use super::{Notice, Outcome, Word};
use crate::wire::{Accept, Boot, Hello, Message, Refuse, Side, Standing};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// Waits for `Hello`.
    Greeting,
    /// Waits for `Accept` or `Refuse`.
    Offering,
    /// Rounds go out; `sent` is not yet acknowledged. The acknowledgement of round `next` may come `early`: before the streams' threads have said here
    /// that they have sent it.
    Copying {
        sent: Option<u32>,
        next: u32,
        early: bool,
    },
    /// Waits for `SwitchReady`.
    Arranging,
    /// Journalled; the guest stands; the last round and the state go out.
    Finishing,
    /// Waits for `Prepared`.
    Preparing,
    /// The guest is the destination's.
    Committed { connected: bool },
    /// `Running` came: lets go.
    Leaving,
    /// Goes on here.
    Returning,
}

/// The source's state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    setup: Arc<SourceSetup>,
    state: State,
    /// From `Accept`.
    peer: Option<(String, Boot)>,
}

type Actions = Vec<SourceAction>;

impl Source {
    /// A source whose control connection stands, and what it does first.
    #[must_use]
    pub fn start(setup: SourceSetup) -> (Self, Actions) {
        let hello = Message::Hello(Hello {
            versions: setup.versions,
            session: setup.session,
            name: setup.name.clone(),
        });
        let source = Self {
            setup: Arc::new(setup),
            state: State::Greeting,
            peer: None,
        };
        (source, vec![SourceAction::Send(hello)])
    }

    /// Where the source stands, for whoever asks.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.state {
            State::Committed { .. } | State::Leaving => Standing::Committed,
            _ => Standing::Open,
        }
    }

    /// How long nothing may come (no message, no acknowledged page) before [`SourceEvent::Timeout`] is due; begins anew with every event.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let patience = &self.setup.patience;
        match self.state {
            State::Greeting => patience.greeting,
            State::Offering => patience.admission,
            State::Copying { .. } => patience.round,
            State::Arranging | State::Finishing | State::Preparing => patience.switching,
            State::Committed { connected: true } => patience.decision,
            State::Committed { connected: false } | State::Leaving | State::Returning => {
                patience.inquiry
            }
        }
    }

    /// Takes an event and says what to do.
    #[must_use]
    pub fn handle(&mut self, event: SourceEvent) -> Actions {
        match self.state {
            State::Committed { connected } => self.committed(connected, event),
            State::Leaving => self.again(&event, Self::leave),
            State::Returning => self.again(&event, Self::go_back),
            _ => self.undecided(event),
        }
    }

    /// Before the decision: whatever goes wrong, the guest stays here.
    fn undecided(&mut self, event: SourceEvent) -> Actions {
        match event {
            SourceEvent::Received(Message::Abort { reason }) => {
                self.abort(format!("the destination gave up: {reason}"))
            }
            SourceEvent::Received(message) => self.received(message),
            SourceEvent::RoundSent { round } => self.round_sent(round),
            SourceEvent::SwitchNow => self.switch(),
            SourceEvent::LastSent(prepare) if self.state == State::Finishing => {
                self.state = State::Preparing;
                vec![SourceAction::Send(Message::Prepare(prepare))]
            }
            SourceEvent::LastSent(_) => self.misused("the last round was sent"),
            SourceEvent::Lost { reason } => self.abort(format!("connection lost: {reason}")),
            SourceEvent::Timeout => {
                let waited = self.patience();
                self.abort(format!(
                    "{}: nothing came for {waited:?}",
                    self.waiting_for()
                ))
            }
            SourceEvent::Failed { reason } => self.abort(reason),
            SourceEvent::Cancel => self.abort("cancelled".to_owned()),
            // An undecided source has nothing to learn from where the destination stands.
            SourceEvent::Peer(_) | SourceEvent::Word(_) => Vec::new(),
        }
    }

    fn received(&mut self, message: Message) -> Actions {
        match (self.state, message) {
            (State::Greeting, Message::Hello(hello)) => self.greeted(&hello),
            (State::Greeting | State::Offering, Message::Refuse(refuse)) => self.refused(refuse),
            (State::Offering, Message::Accept(accept)) => self.accepted(accept),
            (
                State::Copying {
                    sent: Some(sent), ..
                },
                Message::RoundDone { round },
            ) if round == sent => self.round_done(round),
            (
                State::Copying {
                    sent: None,
                    next,
                    early: false,
                },
                Message::RoundDone { round },
            ) if round == next => {
                self.state = State::Copying {
                    sent: None,
                    next,
                    early: true,
                };
                Vec::new()
            }
            (State::Arranging, Message::SwitchReady) => self.pause(),
            (State::Preparing, Message::Prepared) => {
                self.state = State::Committed { connected: true };
                vec![SourceAction::Send(Message::Commit)]
            }
            (_, got) => {
                let kind = got.kind();
                self.abort(format!(
                    "the destination said {kind:?}, {}",
                    self.waiting_for()
                ))
            }
        }
    }

    fn greeted(&mut self, hello: &Hello) -> Actions {
        if hello.session != self.setup.session {
            return self.abort(format!(
                "the destination greets session {}, expected {}",
                hello.session, self.setup.session
            ));
        }
        match self.setup.versions.agree(hello.versions) {
            Ok(version) => {
                self.state = State::Offering;
                vec![
                    SourceAction::Agree(version),
                    SourceAction::Send(Message::Offer(self.setup.offer.clone())),
                ]
            }
            Err(error) => self.abort(error.to_string()),
        }
    }

    fn refused(&mut self, refuse: Refuse) -> Actions {
        self.state = State::Returning;
        vec![
            SourceAction::Report(Notice::Refused(refuse)),
            SourceAction::Close,
            SourceAction::End(Outcome::Stayed),
        ]
    }

    fn accepted(&mut self, accept: Accept) -> Actions {
        let most = self.setup.offer.streams;
        if !(1..=most).contains(&accept.streams) {
            return self.abort(format!(
                "the destination takes {} streams, expected 1 to {most}",
                accept.streams
            ));
        }
        self.peer = Some((accept.inquiries.clone(), accept.boot));
        self.state = State::Copying {
            sent: None,
            next: 0,
            early: false,
        };
        vec![SourceAction::Copy(accept)]
    }

    fn round_sent(&mut self, round: u32) -> Actions {
        match self.state {
            State::Copying {
                sent: None,
                next,
                early: true,
            } if next == round => self.round_done(round),
            State::Copying {
                sent: None, next, ..
            } if next == round => {
                self.state = State::Copying {
                    sent: Some(round),
                    next,
                    early: false,
                };
                Vec::new()
            }
            _ => self.misused("a round was sent"),
        }
    }

    fn round_done(&mut self, round: u32) -> Actions {
        self.state = State::Copying {
            sent: None,
            next: round.saturating_add(1),
            early: false,
        };
        vec![SourceAction::RoundDone { round }]
    }

    fn switch(&mut self) -> Actions {
        if !matches!(
            self.state,
            State::Copying {
                sent: None,
                early: false,
                ..
            }
        ) {
            return self.misused("it is to switch over");
        }
        self.state = State::Arranging;
        vec![SourceAction::Send(Message::Switch)]
    }

    fn pause(&mut self) -> Actions {
        let Some((peer, peer_boot)) = self.peer.clone() else {
            return self.misused("it is to pause");
        };
        self.state = State::Finishing;
        let record = Record {
            session: self.setup.session,
            side: Side::Source,
            name: self.setup.name.clone(),
            peer,
            peer_boot,
        };
        vec![
            SourceAction::Journal(record),
            SourceAction::Pause,
            SourceAction::SendLast,
        ]
    }

    /// The driver says what cannot be in this state.
    fn misused(&mut self, what: &str) -> Actions {
        let state = self.state;
        self.abort(format!("{what} while {state:?}"))
    }

    fn abort(&mut self, reason: String) -> Actions {
        let mut actions = vec![SourceAction::Report(Notice::Aborted {
            reason: reason.clone(),
        })];
        if matches!(self.state, State::Finishing | State::Preparing) {
            // The record goes before the guest goes on: from then on what the destination has is old.
            actions.extend([SourceAction::Erase, SourceAction::Resume]);
        }
        self.state = State::Returning;
        actions.extend([
            SourceAction::Send(Message::Abort { reason }),
            SourceAction::Close,
            SourceAction::End(Outcome::Stayed),
        ]);
        actions
    }

    fn committed(&mut self, connected: bool, event: SourceEvent) -> Actions {
        match event {
            SourceEvent::Received(Message::Running) => self.leave(),
            SourceEvent::Received(Message::Abort { reason }) => {
                // It could not start the guest, and will not unless this process dies.
                self.state = State::Returning;
                let mut actions = vec![SourceAction::Report(Notice::Aborted { reason })];
                actions.extend(self.go_back());
                actions
            }
            SourceEvent::Peer(peer) => self.learnt(peer),
            SourceEvent::Word(Word::Run) => self.go_back(),
            // The record stays: should the destination live after all, the desk tells it to run.
            SourceEvent::Word(Word::Discard) => vec![
                SourceAction::LetGo,
                SourceAction::Close,
                SourceAction::End(Outcome::Moved),
            ],
            SourceEvent::Cancel => vec![SourceAction::Report(Notice::TooLate)],
            SourceEvent::Received(_)
            | SourceEvent::Lost { .. }
            | SourceEvent::Timeout
            | SourceEvent::Failed { .. }
            | SourceEvent::RoundSent { .. }
            | SourceEvent::SwitchNow
            | SourceEvent::LastSent(_) => {
                self.state = State::Committed { connected: false };
                let close = connected.then_some(SourceAction::Close);
                close
                    .into_iter()
                    .chain([SourceAction::Inquire(Standing::Committed)])
                    .collect()
            }
        }
    }

    fn learnt(&mut self, peer: Peer) -> Actions {
        let same_life = self
            .peer
            .as_ref()
            .is_some_and(|(_, boot)| *boot == peer.boot);
        match peer.standing {
            Standing::Running => self.leave(),
            Standing::Declined => self.go_back(),
            // What was prepared there died before it ran.
            Standing::Nothing if same_life => self.go_back(),
            Standing::Nothing => vec![SourceAction::Report(Notice::InDoubt)],
            Standing::Open | Standing::Prepared | Standing::Committed | Standing::Orphaned => {
                Vec::new()
            }
        }
    }

    fn leave(&mut self) -> Actions {
        self.state = State::Leaving;
        vec![
            SourceAction::LetGo,
            SourceAction::Erase,
            SourceAction::Send(Message::Done),
            SourceAction::Close,
            SourceAction::End(Outcome::Moved),
        ]
    }

    fn go_back(&mut self) -> Actions {
        self.state = State::Returning;
        vec![
            SourceAction::Erase,
            SourceAction::Resume,
            SourceAction::Close,
            SourceAction::End(Outcome::Stayed),
        ]
    }

    /// The way out failed (a disk that does not write): tried again with every timeout, and nothing else matters any more.
    fn again(&mut self, event: &SourceEvent, way_out: fn(&mut Self) -> Actions) -> Actions {
        match event {
            SourceEvent::Timeout => way_out(self),
            SourceEvent::Failed { reason } => vec![SourceAction::Report(Notice::Stuck {
                reason: reason.clone(),
            })],
            _ => Vec::new(),
        }
    }

    const fn waiting_for(&self) -> &'static str {
        match self.state {
            State::Greeting => "expected Hello",
            State::Offering => "expected Accept or Refuse",
            State::Copying { sent: Some(_), .. } => "expected RoundDone of the round that was sent",
            State::Copying { sent: None, .. } => "expected nothing before the round's end",
            State::Arranging => "expected SwitchReady",
            State::Finishing => "expected nothing before Prepare",
            State::Preparing => "expected Prepared",
            State::Committed { .. } | State::Leaving | State::Returning => "expected the end",
        }
    }
}

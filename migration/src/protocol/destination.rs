//! The destination's side of a session.

mod event;

pub use event::{DestinationAction, DestinationEvent, DestinationSetup};

use std::sync::Arc;
use std::time::Duration;

use super::desk::Peer;
use super::journal::Record;
use super::{Notice, Outcome, Word};
use crate::wire::{Boot, Hello, Message, Refuse, Session, Side, Standing, Tally};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum State {
    /// Waits for `Hello`.
    Waiting,
    /// Waits for `Offer`.
    Greeted,
    /// Decides.
    Admitting,
    /// Rounds come in; waits for `Switch`.
    Receiving { next: u32 },
    /// The last round and the state come in; waits for `Prepare`.
    Finishing { parts: Tally },
    /// Takes everything up.
    Restoring,
    /// Complete; the decision is the source's.
    Prepared { connected: bool },
    /// The guest is ours: journal, run.
    Starting { connected: bool },
    /// It runs; the source is to let go.
    Running { connected: bool },
    /// It could not be started: the source may have it back, and it is tried again only if the source is dead.
    Declining,
    /// Over, but for the record.
    Ending,
    /// Over.
    Freed,
}

/// The destination's state machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Destination {
    setup: Arc<DestinationSetup>,
    state: State,
    /// From `Hello`.
    session: Option<(Session, String)>,
    /// From `Offer`.
    peer: Option<(String, Boot)>,
}

type Actions = Vec<DestinationAction>;

impl Destination {
    /// A destination whose control connection stands.
    #[must_use]
    pub fn start(setup: DestinationSetup) -> Self {
        Self {
            setup: Arc::new(setup),
            state: State::Waiting,
            session: None,
            peer: None,
        }
    }

    /// Where the destination stands, for whoever asks.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        match self.state {
            State::Prepared { .. } | State::Starting { .. } => Standing::Prepared,
            State::Running { .. } | State::Ending => Standing::Running,
            State::Declining => Standing::Declined,
            State::Freed => Standing::Nothing,
            _ => Standing::Open,
        }
    }

    /// How long nothing may come (no message, no page) before [`DestinationEvent::Timeout`] is due; begins anew with every event.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let patience = &self.setup.patience;
        match self.state {
            State::Waiting | State::Greeted => patience.greeting,
            State::Admitting => patience.admission,
            State::Receiving { .. } => patience.round,
            State::Finishing { .. } | State::Restoring => patience.switching,
            State::Prepared { connected: true }
            | State::Running { connected: true }
            | State::Starting { .. } => patience.decision,
            State::Prepared { connected: false }
            | State::Running { connected: false }
            | State::Declining
            | State::Ending
            | State::Freed => patience.inquiry,
        }
    }

    /// Takes an event and says what to do.
    #[must_use]
    pub fn handle(&mut self, event: DestinationEvent) -> Actions {
        match self.state {
            State::Prepared { connected } => self.prepared(connected, event),
            State::Starting { connected } => self.starting(connected, event),
            State::Running { connected } => self.running(connected, &event),
            State::Declining => self.declining(&event),
            State::Ending => self.again(&event, Self::finish),
            State::Freed => Vec::new(),
            _ => self.incomplete(event),
        }
    }

    /// Before everything is here: whatever goes wrong, the guest stays with the source, and all is freed.
    fn incomplete(&mut self, event: DestinationEvent) -> Actions {
        match (self.state, event) {
            (_, DestinationEvent::Received(Message::Abort { reason })) => {
                self.give_up(format!("the source gave up: {reason}"))
            }
            (_, DestinationEvent::Received(message)) => self.received(message),
            (State::Admitting, DestinationEvent::Admitted(accept)) => {
                self.state = State::Receiving { next: 0 };
                let claim = self.session.as_ref().map(|(session, _)| *session);
                let mut actions: Actions =
                    claim.map(DestinationAction::Claim).into_iter().collect();
                actions.extend([
                    DestinationAction::Receive,
                    DestinationAction::Send(Message::Accept(accept)),
                ]);
                actions
            }
            (State::Admitting, DestinationEvent::Refused(refuse)) => self.refuse(refuse),
            (State::Receiving { next }, DestinationEvent::RoundReceived { round })
                if round == next =>
            {
                self.state = State::Receiving {
                    next: round.saturating_add(1),
                };
                vec![DestinationAction::Send(Message::RoundDone { round })]
            }
            (State::Restoring, DestinationEvent::Restored) => {
                self.state = State::Prepared { connected: true };
                vec![DestinationAction::Send(Message::Prepared)]
            }
            (_, DestinationEvent::Lost { reason }) => {
                self.give_up(format!("connection lost: {reason}"))
            }
            (_, DestinationEvent::Timeout) => {
                let waited = self.patience();
                self.give_up(format!(
                    "{}: nothing came for {waited:?}",
                    self.waiting_for()
                ))
            }
            (_, DestinationEvent::Failed { reason }) => self.give_up(reason),
            (_, DestinationEvent::Cancel) => self.give_up("cancelled".to_owned()),
            // An incomplete destination has nothing to learn from where the source stands: the connection tells.
            (_, DestinationEvent::Peer(_) | DestinationEvent::Word(_)) => Vec::new(),
            (state, event) => self.give_up(format!("{event:?} while {state:?}")),
        }
    }

    fn received(&mut self, message: Message) -> Actions {
        match (self.state, message) {
            (State::Waiting, Message::Hello(hello)) => self.greet(hello),
            (State::Greeted, Message::Offer(offer)) => {
                self.peer = Some((offer.inquiries.clone(), offer.boot));
                self.state = State::Admitting;
                vec![DestinationAction::Admit(offer)]
            }
            (State::Receiving { .. }, Message::Switch) => {
                self.state = State::Finishing {
                    parts: Tally::default(),
                };
                vec![
                    DestinationAction::Hold,
                    DestinationAction::Send(Message::SwitchReady),
                ]
            }
            (State::Finishing { mut parts }, Message::Part(part)) => match parts.add(&part) {
                Ok(()) => {
                    self.state = State::Finishing { parts };
                    vec![DestinationAction::Keep(part)]
                }
                Err(error) => self.give_up(error.to_string()),
            },
            (State::Finishing { parts }, Message::Prepare(prepare))
                if prepare.parts == parts.parts() =>
            {
                self.state = State::Restoring;
                vec![DestinationAction::Restore(prepare)]
            }
            (State::Finishing { parts }, Message::Prepare(prepare)) => self.give_up(format!(
                "the source sent {} parts of the state, expected {} as they came",
                prepare.parts,
                parts.parts()
            )),
            (_, got) => {
                let kind = got.kind();
                self.give_up(format!("the source said {kind:?}, {}", self.waiting_for()))
            }
        }
    }

    fn greet(&mut self, hello: Hello) -> Actions {
        let ours = self.setup.versions;
        match ours.agree(hello.versions) {
            Ok(version) => {
                self.state = State::Greeted;
                self.session = Some((hello.session, hello.name.clone()));
                let answer = Hello {
                    versions: ours,
                    ..hello
                };
                vec![
                    DestinationAction::Send(Message::Hello(answer)),
                    DestinationAction::Agree(version),
                ]
            }
            Err(error) => self.refuse(Refuse {
                reason: error.to_string(),
                nearest: Vec::new(),
            }),
        }
    }

    fn refuse(&mut self, refuse: Refuse) -> Actions {
        self.state = State::Freed;
        vec![
            DestinationAction::Report(Notice::Refused(refuse.clone())),
            DestinationAction::Send(Message::Refuse(refuse)),
            DestinationAction::Close,
            DestinationAction::End(Outcome::Stayed),
        ]
    }

    fn give_up(&mut self, reason: String) -> Actions {
        self.state = State::Freed;
        vec![
            DestinationAction::Report(Notice::Aborted {
                reason: reason.clone(),
            }),
            DestinationAction::Free,
            DestinationAction::Send(Message::Abort { reason }),
            DestinationAction::Close,
            DestinationAction::Unclaim,
            DestinationAction::End(Outcome::Stayed),
        ]
    }

    /// Complete: neither runs nor discards on its own.
    fn prepared(&mut self, connected: bool, event: DestinationEvent) -> Actions {
        match event {
            DestinationEvent::Received(Message::Commit) | DestinationEvent::Word(Word::Run) => {
                self.run(connected)
            }
            DestinationEvent::Received(Message::Abort { reason }) => {
                self.give_up(format!("the source gave up: {reason}"))
            }
            DestinationEvent::Word(Word::Discard) => {
                self.give_up("an operator discarded it".to_owned())
            }
            DestinationEvent::Peer(peer) => self.learnt(connected, peer),
            DestinationEvent::Cancel => vec![DestinationAction::Report(Notice::TooLate)],
            _ => {
                self.state = State::Prepared { connected: false };
                Self::ask(connected, Standing::Prepared)
            }
        }
    }

    fn learnt(&mut self, connected: bool, peer: Peer) -> Actions {
        match peer.standing {
            Standing::Committed | Standing::Orphaned => self.run(connected),
            Standing::Nothing if self.is_same_life(peer) => {
                self.give_up("the source has kept the guest".to_owned())
            }
            Standing::Nothing => vec![DestinationAction::Report(Notice::InDoubt)],
            Standing::Open | Standing::Prepared | Standing::Declined | Standing::Running => {
                Vec::new()
            }
        }
    }

    /// Whether the source's host has not started anew since it made its offer.
    fn is_same_life(&self, peer: Peer) -> bool {
        self.peer
            .as_ref()
            .is_some_and(|(_, boot)| *boot == peer.boot)
    }

    fn ask(connected: bool, standing: Standing) -> Actions {
        let close = connected.then_some(DestinationAction::Close);
        close
            .into_iter()
            .chain([DestinationAction::Inquire(standing)])
            .collect()
    }

    fn run(&mut self, connected: bool) -> Actions {
        let (Some((session, name)), Some((peer, peer_boot))) =
            (self.session.clone(), self.peer.clone())
        else {
            return self.give_up("it is to run without an offer".to_owned());
        };
        self.state = State::Starting { connected };
        let record = Record {
            session,
            side: Side::Destination,
            name,
            peer,
            peer_boot,
        };
        vec![DestinationAction::Journal(record), DestinationAction::Run]
    }

    fn starting(&mut self, connected: bool, event: DestinationEvent) -> Actions {
        match event {
            DestinationEvent::Started => {
                self.state = State::Running { connected };
                let tell = if connected {
                    DestinationAction::Send(Message::Running)
                } else {
                    DestinationAction::Inquire(Standing::Running)
                };
                vec![tell, DestinationAction::Persist]
            }
            DestinationEvent::Failed { reason } => {
                self.state = State::Declining;
                let mut actions = vec![
                    DestinationAction::Report(Notice::Stuck {
                        reason: reason.clone(),
                    }),
                    DestinationAction::Erase,
                ];
                if connected {
                    actions.push(DestinationAction::Send(Message::Abort { reason }));
                    actions.push(DestinationAction::Close);
                }
                actions.push(DestinationAction::Inquire(Standing::Declined));
                actions
            }
            DestinationEvent::Lost { .. } => {
                self.state = State::Starting { connected: false };
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// No vCPU has run. The only copy may be this one, so it is given up only for one at the source.
    fn declining(&mut self, event: &DestinationEvent) -> Actions {
        match event {
            DestinationEvent::Peer(peer) => match peer.standing {
                Standing::Nothing if self.is_same_life(*peer) => Self::hand_back(),
                Standing::Nothing => vec![DestinationAction::Report(Notice::InDoubt)],
                Standing::Orphaned => self.run(false),
                // A source that lives takes it back; what says otherwise is old.
                _ => Vec::new(),
            },
            DestinationEvent::Word(Word::Run) => self.run(false),
            DestinationEvent::Word(Word::Discard) => Self::hand_back(),
            DestinationEvent::Timeout => vec![
                DestinationAction::Erase,
                DestinationAction::Inquire(Standing::Declined),
            ],
            DestinationEvent::Failed { reason } => vec![DestinationAction::Report(Notice::Stuck {
                reason: reason.clone(),
            })],
            _ => Vec::new(),
        }
    }

    /// The record goes first: it says that the guest runs here. Until that is done all stays as it is.
    fn hand_back() -> Actions {
        vec![
            DestinationAction::Erase,
            DestinationAction::Free,
            DestinationAction::Unclaim,
            DestinationAction::End(Outcome::Stayed),
        ]
    }

    fn running(&mut self, connected: bool, event: &DestinationEvent) -> Actions {
        match event {
            DestinationEvent::Received(Message::Done)
            | DestinationEvent::Peer(Peer {
                standing: Standing::Nothing,
                ..
            }) => self.finish(),
            DestinationEvent::Peer(_) | DestinationEvent::Word(_) => Vec::new(),
            DestinationEvent::Cancel => vec![DestinationAction::Report(Notice::TooLate)],
            _ => {
                self.state = State::Running { connected: false };
                Self::ask(connected, Standing::Running)
            }
        }
    }

    fn finish(&mut self) -> Actions {
        self.state = State::Ending;
        vec![
            DestinationAction::Erase,
            DestinationAction::Close,
            DestinationAction::Unclaim,
            DestinationAction::End(Outcome::Moved),
        ]
    }

    /// The way out failed (a disk that does not write): tried again with every timeout, and nothing else matters any more.
    fn again(&mut self, event: &DestinationEvent, way_out: fn(&mut Self) -> Actions) -> Actions {
        match event {
            DestinationEvent::Timeout => way_out(self),
            DestinationEvent::Failed { reason } => {
                vec![DestinationAction::Report(Notice::Stuck {
                    reason: reason.clone(),
                })]
            }
            _ => Vec::new(),
        }
    }

    const fn waiting_for(&self) -> &'static str {
        match self.state {
            State::Waiting => "expected Hello",
            State::Greeted => "expected Offer",
            State::Admitting => "expected nothing before Accept",
            State::Receiving { .. } => "expected the next round or Switch",
            State::Finishing { .. } => "expected Part or Prepare",
            State::Restoring => "expected nothing before Prepared",
            State::Prepared { .. } => "expected Commit",
            State::Running { .. } => "expected Done",
            State::Starting { .. } | State::Declining | State::Ending | State::Freed => {
                "expected nothing"
            }
        }
    }
}

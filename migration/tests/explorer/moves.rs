//! Everything that can happen next.

use std::fmt::Arguments;

use migration::protocol::desk::{self, Settled};
use migration::protocol::{
    DestinationAction, DestinationEvent, SourceAction, SourceEvent, Word, desk::Peer,
};
use migration::wire::{Boot, Message, Standing};

use super::act::{self, ALL, Fate};
use super::world::{Broken, File, Letter, Loss, Owner, Side2, World};

/// A step to another world.
pub struct Move {
    pub what: String,
    /// A fault or a word from outside, without which everything must come to an end, too.
    pub fault: bool,
    pub to: World,
}

/// Collects the moves out of a world.
struct Moves<'a> {
    from: &'a World,
    broken: Broken,
    /// Whether anybody reads what they are.
    described: bool,
    found: Vec<Move>,
}

/// All moves out of `from`.
pub fn moves(from: &World, broken: Broken, described: bool) -> Vec<Move> {
    let mut moves = Moves {
        from,
        broken,
        described,
        found: Vec::new(),
    };
    moves.source();
    moves.destination();
    for letter in &from.letters {
        moves.deliver(letter);
    }
    for side in [Side2::Source, Side2::Destination] {
        moves.ask_for_the_dead(side);
        moves.words(side);
        moves.faults(side);
    }
    if from.connection {
        moves.push(true, format_args!("the connection breaks"), |next| {
            next.connection = false
        });
    }
    moves.found
}

impl Moves<'_> {
    fn push(&mut self, fault: bool, what: Arguments<'_>, change: impl FnOnce(&mut World)) {
        let mut to = self.from.clone();
        change(&mut to);
        self.add(fault, what, to);
    }

    fn add(&mut self, fault: bool, what: Arguments<'_>, to: World) {
        let what = if self.described {
            what.to_string()
        } else {
            String::new()
        };
        self.found.push(Move { what, fault, to });
    }

    fn source(&mut self) {
        let Some(process) = self.from.source.as_ref().filter(|p| p.ended.is_none()) else {
            return;
        };
        if let Some(action) = process.todo.front() {
            for fate in ALL {
                if let Some(to) = act::source(self.from, fate) {
                    let fault = fate != Fate::Well;
                    self.add(fault, format_args!("source does {action:?}: {fate:?}"), to);
                }
            }
            return;
        }
        if let Some(event) = process.coming.front() {
            self.source_event(false, event.clone(), |next| {
                next.round_on_its_way |= matches!(event, SourceEvent::RoundSent { .. });
                drop(next.source.as_mut().and_then(|p| p.coming.pop_front()));
            });
            if matches!(event, SourceEvent::Failed { .. }) {
                return;
            }
        }
        if process.open {
            if let Some(sent) = self.from.to_source.front() {
                self.source_event(false, SourceEvent::Received(sent.clone()), |next| {
                    next.to_source.pop_front();
                });
            }
            if !self.from.connection {
                let reason = "broken".to_owned();
                self.source_event(false, SourceEvent::Lost { reason }, |next| {
                    next.to_source.clear();
                    next.source.iter_mut().for_each(|p| p.open = false);
                });
            }
        }
        self.source_event(false, SourceEvent::Timeout, |_| {});
        self.source_event(true, SourceEvent::Cancel, |_| {});
    }

    fn source_event(&mut self, fault: bool, event: SourceEvent, change: impl FnOnce(&mut World)) {
        let broken = self.broken;
        let told = event.clone();
        self.push(fault, format_args!("source: {told:?}"), |next| {
            change(next);
            hand_to_source(next, event, broken);
        });
    }

    fn destination(&mut self) {
        let alive = self.from.destination.as_ref();
        let Some(process) = alive.filter(|p| p.ended.is_none()) else {
            return;
        };
        if let Some(action) = process.todo.front() {
            for fate in ALL {
                if let Some(to) = act::destination(self.from, fate) {
                    let fault = fate != Fate::Well;
                    self.add(
                        fault,
                        format_args!("destination does {action:?}: {fate:?}"),
                        to,
                    );
                }
            }
            return;
        }
        if let Some(event) = process.coming.front() {
            self.destination_event(false, event.clone(), |next| {
                drop(next.destination.as_mut().and_then(|p| p.coming.pop_front()));
            });
            if !matches!(event, DestinationEvent::Restored) {
                return;
            }
        }
        if process.open {
            self.destination_receives();
        }
        self.destination_event(false, DestinationEvent::Timeout, |_| {});
        self.destination_event(true, DestinationEvent::Cancel, |_| {});
    }

    fn destination_receives(&mut self) {
        let received = self.from.destination_host.copy.is_some();
        if self.from.round_on_its_way && received {
            let event = DestinationEvent::RoundReceived { round: 0 };
            self.destination_event(false, event, |next| next.round_on_its_way = false);
        }
        if let Some(sent) = self.from.to_destination.front() {
            let event = DestinationEvent::Received(sent.clone());
            self.destination_event(false, event, |next| {
                next.to_destination.pop_front();
            });
        }
        if !self.from.connection {
            let reason = "broken".to_owned();
            self.destination_event(false, DestinationEvent::Lost { reason }, |next| {
                next.to_destination.clear();
                next.round_on_its_way = false;
                next.destination.iter_mut().for_each(|p| p.open = false);
            });
        }
    }

    fn destination_event(
        &mut self,
        fault: bool,
        event: DestinationEvent,
        change: impl FnOnce(&mut World),
    ) {
        let broken = self.broken;
        let told = event.clone();
        self.push(fault, format_args!("destination: {told:?}"), |next| {
            change(next);
            hand_to_destination(next, event, broken);
        });
    }

    /// A letter arrives, for the first time or again.
    fn deliver(&mut self, letter: &Letter) {
        let (side, mut peer) = (letter.to, self.from.peer(letter));
        if self.broken == Broken::BootsAreNotCompared {
            peer.boot = Boot([0; 16]);
        }
        let broken = self.broken;
        if self.from.lives(side) {
            let forgetful = broken == Broken::DeskDoesNotLookAtLocks;
            if forgetful && letter.question && !self.from.peek(side).file.written {
                self.push(false, format_args!("the desk answers"), |next| {
                    next.post(side.other(), false, desk::UNKNOWN);
                });
            }
            if is_busy(self.from, side) {
                return;
            }
            self.push(false, format_args!("{letter:?} arrives"), |next| {
                let standing = tell(next, side, peer, broken);
                if letter.question {
                    next.post(side.other(), false, standing);
                }
            });
            return;
        }
        self.push(false, format_args!("{letter:?} arrives"), |next| {
            let standing = settle(next, side, peer);
            if letter.question {
                next.post(side.other(), false, standing);
            }
        });
    }

    /// The desk of a host finds a record without an owner.
    fn ask_for_the_dead(&mut self, side: Side2) {
        if !self.from.lives(side) && self.from.peek(side).file.written {
            let standing = desk::settle(side.side(), None).standing();
            self.push(false, format_args!("the desk of {side:?} asks"), |next| {
                next.post(side.other(), true, standing);
            });
        }
    }

    /// An operator says what is true, once.
    fn words(&mut self, side: Side2) {
        let from = self.from;
        let (other, broken) = (side.other(), self.broken);
        let Some(copy) = from.peek(side).copy else {
            return;
        };
        let in_doubt = from.lives(side) && !is_busy(self.from, side) && is_in_doubt(from, side);
        if from.word || !in_doubt || broken != Broken::Nothing {
            return;
        }
        if !from.process(other) && copy.age == from.newest {
            self.push(
                true,
                format_args!("an operator tells {side:?} to run"),
                |next| {
                    next.word = true;
                    next.owner = match side {
                        Side2::Source => Owner::Source,
                        Side2::Destination => Owner::Destination,
                    };
                    say(next, side, Word::Run, broken);
                },
            );
        }
        let old = copy.age < from.newest;
        // A source is needed until the guest has run elsewhere.
        let other_stays = side == Side2::Destination && from.process(other);
        if other_stays || old {
            self.push(
                true,
                format_args!("an operator tells {side:?} to discard"),
                |next| {
                    next.word = true;
                    if !old {
                        next.owner = owner(other);
                    }
                    say(next, side, Word::Discard, broken);
                },
            );
        }
    }

    /// The process is killed; the host dies and starts anew. Once all is over, that is nothing new.
    fn faults(&mut self, side: Side2) {
        let from = self.from;
        let both = [Side2::Source, Side2::Destination];
        let open = |side: &Side2| from.lives(*side) || from.peek(*side).file.written;
        if !both.iter().any(open) {
            return;
        }
        if from.process(side) {
            self.push(true, format_args!("{side:?} is killed"), |next| {
                next.kill(side)
            });
        }
        if from.peek(side).boot == 0 {
            self.push(
                true,
                format_args!("the host of {side:?} starts anew"),
                |next| {
                    next.start_anew(side);
                },
            );
        }
    }
}

/// In the middle of its actions.
pub fn is_busy(world: &World, side: Side2) -> bool {
    match side {
        Side2::Source => world.source.as_ref().is_some_and(|p| {
            let forced = |e: &SourceEvent| matches!(e, SourceEvent::Failed { .. });
            !p.todo.is_empty() || p.coming.front().is_some_and(forced)
        }),
        Side2::Destination => world.destination.as_ref().is_some_and(|p| {
            let forced = |e: &DestinationEvent| !matches!(e, DestinationEvent::Restored);
            !p.todo.is_empty() || p.coming.front().is_some_and(forced)
        }),
    }
}

/// Complete, without connection, and the decision is the other side's.
pub fn is_in_doubt(world: &World, side: Side2) -> bool {
    match side {
        Side2::Source => world.source.as_ref().is_some_and(|p| {
            // One that has let go only waits for its disk.
            let holds = world.source_host.copy.is_some();
            let waits = p.machine.standing() == Standing::Committed;
            p.ended.is_none() && !p.open && waits && holds
        }),
        Side2::Destination => world.destination.as_ref().is_some_and(|p| {
            let standing = p.machine.standing();
            let waits = matches!(standing, Standing::Prepared | Standing::Declined);
            p.ended.is_none() && !p.open && waits
        }),
    }
}

fn tell(next: &mut World, side: Side2, peer: Peer, broken: Broken) -> Standing {
    match side {
        Side2::Source => {
            hand_to_source(next, SourceEvent::Peer(peer), broken);
            let standing = |p: &super::world::SourceProcess| p.machine.standing();
            next.source.as_ref().map_or(desk::UNKNOWN, standing)
        }
        Side2::Destination => {
            hand_to_destination(next, DestinationEvent::Peer(peer), broken);
            let standing = |p: &super::world::DestinationProcess| p.machine.standing();
            next.destination.as_ref().map_or(desk::UNKNOWN, standing)
        }
    }
}

fn owner(side: Side2) -> Owner {
    match side {
        Side2::Source => Owner::Source,
        Side2::Destination => Owner::Destination,
    }
}

fn say(next: &mut World, side: Side2, word: Word, broken: Broken) {
    match side {
        Side2::Source => hand_to_source(next, SourceEvent::Word(word), broken),
        Side2::Destination => hand_to_destination(next, DestinationEvent::Word(word), broken),
    }
}

/// The desk hears where the other side of a dead process stands.
fn settle(next: &mut World, side: Side2, peer: Peer) -> Standing {
    if !next.peek(side).file.written {
        return desk::UNKNOWN;
    }
    let settled = desk::settle(side.side(), Some(peer));
    if matches!(settled, Settled::Over | Settled::Lost) {
        next.host(side).file = File::default();
    }
    settled.standing()
}

fn hand_to_source(next: &mut World, event: SourceEvent, broken: Broken) {
    let Some(process) = next.source.as_mut() else {
        return;
    };
    let mut actions = process.machine.handle(event);
    // What changes nothing here would only make worlds differ.
    actions.retain(|action| !matches!(action, SourceAction::Report(_) | SourceAction::Agree(_)));
    for action in &mut actions {
        if let SourceAction::Send(Message::Abort { reason }) = action {
            "why".clone_into(reason);
        }
    }
    let at = |actions: &[SourceAction], wanted: &SourceAction| {
        actions.iter().position(|action| action == wanted)
    };
    match broken {
        Broken::SourceWithoutJournal => {
            actions.retain(|action| !matches!(action, SourceAction::Journal(_)));
        }
        Broken::NeverErases => actions.retain(|action| *action != SourceAction::Erase),
        Broken::ResumesBeforeErasing => {
            let places = (
                at(&actions, &SourceAction::Erase),
                at(&actions, &SourceAction::Resume),
            );
            if let (Some(erase), Some(resume)) = places {
                actions.swap(erase, resume);
            }
        }
        Broken::ResumesWithoutAsking => {
            let asks = |action: &SourceAction| matches!(action, SourceAction::Inquire(_));
            if actions.iter().any(asks) {
                actions.retain(|action| !asks(action));
                process.coming.push_back(SourceEvent::Peer(Peer {
                    standing: Standing::Nothing,
                    boot: Boot([0; 16]),
                }));
            }
        }
        _ => {}
    }
    process.todo.extend(actions);
}

fn hand_to_destination(next: &mut World, event: DestinationEvent, broken: Broken) {
    let Some(process) = next.destination.as_mut() else {
        return;
    };
    if let (DestinationEvent::Restored, Some(copy)) = (&event, &mut next.destination_host.copy) {
        copy.complete = true;
        // All of it had arrived when the source was killed.
        if copy.age == next.newest && next.loss == Some(Loss::OnlyCopyKilled) {
            next.loss = None;
        }
    }
    let mut actions = process.machine.handle(event);
    // What changes nothing here would only make worlds differ.
    actions.retain(|action| !has_no_effect(action));
    for action in &mut actions {
        if let DestinationAction::Send(Message::Abort { reason }) = action {
            "why".clone_into(reason);
        }
    }
    let writes = |action: &DestinationAction| matches!(action, DestinationAction::Journal(_));
    match broken {
        Broken::DestinationWithoutJournal => actions.retain(|action| !writes(action)),
        Broken::RunsBeforeWriting if actions.iter().any(writes) => actions.swap(0, 1),
        Broken::RunsWithoutAsking => {
            let asks = |action: &DestinationAction| {
                *action == DestinationAction::Inquire(Standing::Prepared)
            };
            if actions.iter().any(asks) {
                actions.retain(|action| !asks(action));
                process.coming.push_back(DestinationEvent::Peer(Peer {
                    standing: Standing::Committed,
                    boot: Boot([0; 16]),
                }));
            }
        }
        _ => {}
    }
    process.todo.extend(actions);
}

const fn has_no_effect(action: &DestinationAction) -> bool {
    matches!(
        action,
        DestinationAction::Report(_)
            | DestinationAction::Agree(_)
            | DestinationAction::Claim(_)
            | DestinationAction::Unclaim
            | DestinationAction::Keep(_)
    )
}

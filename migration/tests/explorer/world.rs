//! Two hosts, what is between them, and everything that can happen to them.

use std::collections::{BTreeSet, VecDeque};

use migration::protocol::desk::Peer;
use migration::protocol::{
    Destination, DestinationAction, DestinationEvent, Outcome, Source, SourceAction, SourceEvent,
};
use migration::wire::{Boot, Message, Side, Standing};

/// What is left out or done wrong, to see that the explorer notices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// The source writes no record.
    SourceWithoutJournal,
    /// The destination runs without a record.
    DestinationWithoutJournal,
    /// A destination that loses the source takes that for a commit.
    RunsWithoutAsking,
    /// A source that loses the destination takes that for its end.
    ResumesWithoutAsking,
    /// The source goes on, then erases its record.
    ResumesBeforeErasing,
    /// The destination runs, then writes its record.
    RunsBeforeWriting,
    /// The desk answers for a process that lives.
    DeskDoesNotLookAtLocks,
    /// A host that has started anew is believed when it knows nothing.
    BootsAreNotCompared,
    /// The source never erases its record after the end.
    NeverErases,
}

/// A copy of the guest. Its age counts the times that a copy has begun to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Copy {
    pub age: u8,
    pub runs: bool,
    /// The last byte is here.
    pub complete: bool,
}

/// A process of a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Process<M, A, E> {
    pub machine: M,
    /// Actions not yet done.
    pub todo: VecDeque<A>,
    /// Events that its own work will bring.
    pub coming: VecDeque<E>,
    pub ended: Option<Outcome>,
    /// Its end of the connection.
    pub open: bool,
}

pub type SourceProcess = Process<Source, SourceAction, SourceEvent>;
pub type DestinationProcess = Process<Destination, DestinationAction, DestinationEvent>;

/// A record in its file, and what of it survives the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct File {
    pub written: bool,
    pub on_disk: bool,
}

/// A host of one side.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Host {
    pub boot: u8,
    pub file: File,
    pub copy: Option<Copy>,
}

/// On the way between two hosts outside of the connection; may arrive never, late, often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Letter {
    pub to: Side2,
    pub question: bool,
    pub standing: Standing,
    pub boot: u8,
}

/// [`Side`], ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side2 {
    Source,
    Destination,
}

impl Side2 {
    pub fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }

    pub fn side(self) -> Side {
        match self {
            Self::Source => Side::Source,
            Self::Destination => Side::Destination,
        }
    }
}

/// Whose the guest is, seen from above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    Undecided,
    Source,
    Destination,
}

/// Why no copy is left, where that may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// The process with the only complete copy was killed.
    OnlyCopyKilled,
    /// The process whose the guest had become was killed.
    OwnerKilled,
}

/// Everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct World {
    pub source: Option<SourceProcess>,
    pub destination: Option<DestinationProcess>,
    pub source_host: Host,
    pub destination_host: Host,
    /// On the control connection, in order.
    pub to_destination: VecDeque<Message>,
    pub to_source: VecDeque<Message>,
    pub connection: bool,
    pub round_on_its_way: bool,
    pub letters: BTreeSet<Letter>,
    /// Age of the copy that ran last.
    pub newest: u8,
    pub owner: Owner,
    pub loss: Option<Loss>,
    /// After a loss the decision for the dead was forgotten, too: then another copy may run or not.
    pub either_way: bool,
    /// An operator has spoken.
    pub word: bool,
    /// What must never be.
    pub wrong: Option<&'static str>,
}

impl World {
    pub fn host(&mut self, side: Side2) -> &mut Host {
        match side {
            Side2::Source => &mut self.source_host,
            Side2::Destination => &mut self.destination_host,
        }
    }

    pub fn peek(&self, side: Side2) -> &Host {
        match side {
            Side2::Source => &self.source_host,
            Side2::Destination => &self.destination_host,
        }
    }

    /// Whether a process with an open session is there.
    pub fn lives(&self, side: Side2) -> bool {
        match side {
            Side2::Source => self.source.as_ref().is_some_and(|p| p.ended.is_none()),
            Side2::Destination => self.destination.as_ref().is_some_and(|p| p.ended.is_none()),
        }
    }

    pub fn process(&self, side: Side2) -> bool {
        match side {
            Side2::Source => self.source.is_some(),
            Side2::Destination => self.destination.is_some(),
        }
    }

    pub fn post(&mut self, to: Side2, question: bool, standing: Standing) {
        let boot = self.peek(to.other()).boot;
        self.letters.insert(Letter {
            to,
            question,
            standing,
            boot,
        });
    }

    /// A copy begins to run.
    pub fn run(&mut self, side: Side2) {
        let other_runs = self.peek(side.other()).copy.is_some_and(|copy| copy.runs);
        let newest = self.newest;
        let Some(copy) = &mut self.host(side).copy else {
            self.wrong = Some("a copy that is not there runs");
            return;
        };
        if copy.runs {
            return;
        }
        copy.runs = true;
        let age = copy.age;
        copy.age = newest + 1;
        self.newest += 1;
        if age != newest {
            self.wrong = Some("an older state runs after a newer one");
        }
        if other_runs {
            self.wrong = Some("two copies run");
        }
    }

    pub fn kill(&mut self, side: Side2) {
        let whose = match side {
            Side2::Source => Owner::Source,
            Side2::Destination => Owner::Destination,
        };
        let newest = self.newest;
        let current = |copy: Option<Copy>| copy.is_some_and(|c| c.complete && c.age == newest);
        let had = current(self.peek(side).copy);
        let other = current(self.peek(side.other()).copy);
        if self.loss.is_none() && had {
            let says_so = side == Side2::Destination && self.destination_host.file.written;
            if self.owner == whose || says_so {
                self.loss = Some(Loss::OwnerKilled);
                // It may have said already that it does not run although its record could not be erased.
                self.either_way |= says_so && !self.destination_host.copy.is_some_and(|c| c.runs);
            } else if !other {
                self.loss = Some(Loss::OnlyCopyKilled);
            }
        }
        self.host(side).copy = None;
        match side {
            Side2::Source => self.source = None,
            Side2::Destination => self.destination = None,
        }
        self.connection = false;
    }

    /// The host dies, forgets what was not forced to disk, and starts anew.
    pub fn start_anew(&mut self, side: Side2) {
        let host = self.host(side);
        let decision_is_forgotten = match side {
            Side2::Source => host.file.on_disk && !host.file.written,
            // Where it ran, that is a fact.
            Side2::Destination => !host.file.on_disk && !host.copy.is_some_and(|copy| copy.runs),
        };
        if decision_is_forgotten && !self.word {
            self.owner = Owner::Undecided;
            self.either_way |= self.loss.is_some();
        }
        let host = self.host(side);
        host.boot = 1;
        host.file.written = host.file.on_disk;
        if self.process(side) {
            self.kill(side);
        }
    }

    pub fn peer(&self, letter: &Letter) -> Peer {
        Peer {
            standing: letter.standing,
            boot: Boot([letter.boot; 16]),
        }
    }
}

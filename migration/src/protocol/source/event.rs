//! What happens to a source, and what it is to do.

use crate::protocol::desk::Peer;
use crate::protocol::{Notice, Outcome, Patience, Record, Word};
use crate::wire::{Accept, Message, Offer, Prepare, Session, Standing, Version, Versions};

/// What a source is started with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourceSetup {
    /// The session: 128 random bits.
    pub session: Session,
    /// The guest's name.
    pub name: String,
    /// Versions to speak ([`crate::wire::SPOKEN`]).
    pub versions: Versions,
    /// What is offered.
    pub offer: Offer,
    /// How long to wait.
    pub patience: Patience,
}

/// What happens to the source.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// A message came on the control connection.
    Received(Message),
    /// The control connection, or a data stream, failed; or what came was no message.
    Lost {
        /// How.
        reason: String,
    },
    /// Nothing came for as long as [`super::Source::patience`] says.
    Timeout,
    /// All streams have sent a round and its end.
    RoundSent {
        /// The round.
        round: u32,
    },
    /// Pre-copy has come far enough, and the source holds its budget for the switch-over.
    SwitchNow,
    /// The last round and all parts of the state are sent.
    LastSent(Prepare),
    /// An action failed; those after it were not done.
    Failed {
        /// What and why.
        reason: String,
    },
    /// The migration is not wanted any more.
    Cancel,
    /// The destination's host answered an inquiry, or sent one.
    Peer(Peer),
    /// An operator says what cannot be found out.
    Word(Word),
}

/// What the source is to do. The actions of one answer are done in order; where one fails the rest is dropped and [`SourceEvent::Failed`] is next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Say this on the control connection; where it is gone that is no failure.
    Send(Message),
    /// Speak this version from now on.
    Agree(Version),
    /// The destination holds what it needs: open the streams, start the dirty log, begin with the rounds.
    Copy(Accept),
    /// All of a round is in the destination's memory.
    RoundDone {
        /// The round.
        round: u32,
    },
    /// Write the record and force it to disk.
    Journal(Record),
    /// Erase the record and force that to disk; no failure where there is none.
    Erase,
    /// Pause the guest.
    Pause,
    /// Send the last round and the state, then hand in [`SourceEvent::LastSent`].
    SendLast,
    /// Let the guest go on; no failure where it does.
    Resume,
    /// Give up the guest's memory and reservations.
    LetGo,
    /// Close the control connection and the streams; pre-copy ends.
    Close,
    /// Tell the destination's host where the source stands, and hand in what it answers.
    Inquire(Standing),
    /// Tell whoever looks on.
    Report(Notice),
    /// The session is over.
    End(Outcome),
}

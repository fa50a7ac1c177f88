//! What happens to a destination, and what it is to do.

use crate::protocol::desk::Peer;
use crate::protocol::{Notice, Outcome, Patience, Record, Word};
use crate::ram::Part;
use crate::wire::{Accept, Message, Offer, Prepare, Refuse, Session, Standing, Version, Versions};

/// What a destination is started with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DestinationSetup {
    /// Versions to speak ([`crate::wire::SPOKEN`]).
    pub versions: Versions,
    /// How long to wait.
    pub patience: Patience,
}

/// What happens to the destination.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DestinationEvent {
    /// A message came on the control connection.
    Received(Message),
    /// The control connection, or a data stream, failed; or what came was no message.
    Lost {
        /// How.
        reason: String,
    },
    /// Nothing came for as long as [`super::Destination::patience`] says.
    Timeout,
    /// The answer to [`DestinationAction::Admit`]: everything is held.
    Admitted(Accept),
    /// The answer to [`DestinationAction::Admit`]: nothing is held.
    Refused(Refuse),
    /// All streams have received a round and its end, with the digests that they should have.
    RoundReceived {
        /// The round.
        round: u32,
    },
    /// The guest is complete, with the digest that it should have; it holds all its reservations.
    Restored,
    /// The guest runs.
    Started,
    /// An action failed; those after it were not done. [`DestinationAction::Run`] fails only where no vCPU has run.
    Failed {
        /// What and why.
        reason: String,
    },
    /// The guest is not wanted here any more.
    Cancel,
    /// The source's host answered an inquiry, or sent one.
    Peer(Peer),
    /// An operator says what cannot be found out.
    Word(Word),
}

/// What the destination is to do. The actions of one answer are done in order; where one fails the rest is dropped and
/// [`DestinationEvent::Failed`] is next.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DestinationAction {
    /// Say this on the control connection; where it is gone that is no failure.
    Send(Message),
    /// Speak this version from now on.
    Agree(Version),
    /// Decide about the offer, and hand in [`DestinationEvent::Admitted`] or [`DestinationEvent::Refused`] next.
    Admit(Offer),
    /// Make the session's file, still empty, and hold its lock: from now on the host's desk leaves the answers to us.
    Claim(Session),
    /// Remove the file, which is empty. Failing is worth a warning only.
    Unclaim,
    /// Take the streams, and write their pages to memory.
    Receive,
    /// Get the budget for the whole switch-over.
    Hold,
    /// Keep this part of the state.
    Keep(Part),
    /// Check the digest, restore the parts, then hand in [`DestinationEvent::Restored`].
    Restore(Prepare),
    /// Write the record; being written is enough.
    Journal(Record),
    /// Let the guest run, then hand in [`DestinationEvent::Started`].
    Run,
    /// Force the record to disk. Failing is worth a warning only.
    Persist,
    /// Make the session's file empty again and force that to disk; no failure where it is. It stays ours.
    Erase,
    /// Give up memory and reservations.
    Free,
    /// Close the control connection and the streams.
    Close,
    /// Tell the source's host where the destination stands, and hand in what it answers.
    Inquire(Standing),
    /// Tell whoever looks on.
    Report(Notice),
    /// The session is over.
    End(Outcome),
}

//! Both ends of a migration as state machines: events in, actions out, no I/O.
//!
//! At every instant at most one copy of the guest runs, and exactly one is left, whatever dies. The same code runs in `drive` and in the explorer
//! (`migration/tests/explore.rs`), which goes through every order of messages, timeouts, crashes and faults.
//!
//! # Sequence
//!
//! ```text
//! source                                            destination
//!   Hello            ------------------------------>
//!                    <------------------------------  Hello | Refuse
//!   Offer            ------------------------------>  admits CPU, memory and link; claims the session's file
//!                    <------------------------------  Accept | Refuse
//!   rounds           == Stream, Pages, EndOfRound ==>
//!                    <------------------------------  RoundDone, for each
//!   Switch           ------------------------------>  gets the budget for the switch-over
//!                    <------------------------------  SwitchReady
//!   writes its record (to disk), pauses the guest
//!   last round       == Pages, EndOfRound =========>
//!   Part, for each   ------------------------------>
//!   Prepare          ------------------------------>  checks the digest, restores, holds everything
//!                    <------------------------------  Prepared
//!   [the decision]
//!   Commit           ------------------------------>  writes its record, runs the guest, then forces the record to disk
//!                    <------------------------------  Running
//!   lets go, erases its record
//!   Done             ------------------------------>  erases its record
//! ```
//!
//! Either side says `Abort` where it gives up. Where the connection is lost nobody connects again for the messages above: the sides tell each other where
//! they stand (`Inquire`, `Answer`), whoever reaches the other.
//!
//! # The decision
//!
//! It is the source's, and one bit: it stays, or it goes. The source goes by receiving `Prepared`, which needs no disk, because a source that is dead
//! cannot run its guest: *its record with nobody holding the lock* is the same decision. It stays by erasing its record before the guest goes on, so
//! that what the destination has can never be run any more. The destination, once prepared, neither runs nor discards on its own.
//!
//! A destination that died before it wrote its record has never run the guest, and a source that is alive takes it back. So does one to which the
//! destination says that it could not start the guest (`Declined`); only a destination whose source is dead tries once more.
//!
//! # States
//!
//! | source | guest | record | stands | waits for | when that fails, or does not come |
//! |---|---|---|---|---|---|
//! | greeting, offering | runs | | open | `Hello`, `Accept` | stays |
//! | copying, arranging | runs | | open | `RoundDone`, `SwitchReady` | stays |
//! | finishing, preparing | stands | written | open | the last byte sent, `Prepared` | erases, resumes, stays |
//! | committed | stands | written | committed | `Running` | inquires: `Running` → leaves; `Declined`, or nothing of it in the same life of the host → goes back |
//! | leaving | gone | | committed | its disk | tries again |
//! | returning | resumes | | open | its disk | tries again |
//!
//! | destination | holds | record | stands | waits for | when that fails, or does not come |
//! |---|---|---|---|---|---|
//! | waiting, greeted, admitting | nothing | | open | `Hello`, `Offer`, its ledger | ends |
//! | receiving, finishing, restoring | everything | empty | open | pages, `Switch`, `Part`, `Prepare` | frees everything |
//! | prepared | everything | empty | prepared | `Commit`, `Abort` | in doubt: inquires |
//! | starting | everything | written | prepared | its own start | declines |
//! | declining | everything | empty | declined | the source | inquires: nothing of it → frees; orphaned → starts once more |
//! | running | the guest runs | written | running | `Done` | inquires until nothing is left there |
//!
//! What the other side's word means to a destination in doubt:
//!
//! | the source stands | means | so |
//! |---|---|---|
//! | open | alive and undecided | asks again |
//! | committed | alive and decided | runs |
//! | orphaned | dead, its record left | runs |
//! | nothing, same life of its host | it stayed | frees everything |
//! | nothing, its host has started anew | it forgot, or it stayed and died | in doubt until an operator says ([`Word`]) |
//! | unreachable | | asks again; an operator may say |
//!
//! A source that is committed and learns nothing but that the destination's host has started anew is in doubt in the same way.
//!
//! # When no copy is left
//!
//! Only where the guest died with the process that it belonged to: the source was killed before the destination was complete; the source was killed
//! after it had erased its record; the destination was killed after it had written its own. The last two are windows of microseconds before the guest
//! goes on, in which its state was given up elsewhere already: to close them would be to run an old state after a newer one.
//!
//! # What a driver must keep to
//!
//! - One event at a time; the actions of its answer in order; where one fails, the rest is dropped and `Failed` is the next event.
//! - A process holds the lock of its session's file from `Claim` (destination) or `Journal` (source) to its end, and answers inquiries about its session
//!   itself, by handing them in as `Peer` and answering with `standing()` afterwards. A desk answers only where nobody holds that lock.
//! - A timer of `patience()` begins anew with every event and every page; it is there in every state.
//! - From the order to pause to the decision no more than [`Patience::pause`] passes, whatever comes: then the driver hands in `Failed`, and sees to it
//!   that nothing it waits for keeps it from doing so.
//! - With `End` the machine is done; a destination's guest runs on while its session still waits for `Done`.

pub mod desk;
mod destination;
mod journal;
mod source;

use std::time::Duration;

pub use destination::{Destination, DestinationAction, DestinationEvent, DestinationSetup};
pub use journal::{Record, RecordError};
pub use source::{Source, SourceAction, SourceEvent, SourceSetup};

use crate::wire::Refuse;

/// How long to wait for what. Whoever waits for bytes of a round counts from the last page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Patience {
    /// For `Hello` and `Offer`.
    pub greeting: Duration,
    /// For `Accept` or `Refuse`.
    pub admission: Duration,
    /// For a page or the end of a round.
    pub round: Duration,
    /// For each step between `Switch` and `Prepared`.
    pub switching: Duration,
    /// From the order to pause the guest to `Prepared`, all together: whatever comes in between, no longer does a guest stand that may still stay.
    pub pause: Duration,
    /// For `Commit`, `Running` and `Done`.
    pub decision: Duration,
    /// Between two inquiries, and between two tries of a disk that does not write.
    pub inquiry: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(5),
            admission: Duration::from_secs(10),
            round: Duration::from_secs(10),
            switching: Duration::from_secs(2),
            pause: Duration::from_secs(2),
            decision: Duration::from_secs(2),
            inquiry: Duration::from_millis(500),
        }
    }
}

/// How a session ended, the same at both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The guest is the source's, as if nothing had been.
    Stayed,
    /// The guest is the destination's.
    Moved,
}

/// What an operator knows who has looked at the other host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Word {
    /// No other copy runs, has run since the switch-over, or will: run this one.
    Run,
    /// Throw this copy away. To a destination: the source keeps the guest. To a source: the guest has run at the destination since.
    Discard,
}

/// What whoever looks on is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Notice {
    /// The destination did not take the guest.
    Refused(Refuse),
    /// The try is over; the guest stays with the source.
    Aborted {
        /// Why.
        reason: String,
    },
    /// It cannot be cancelled any more.
    TooLate,
    /// The other host has started anew and forgotten the session: only an operator can tell whether a copy ran there.
    InDoubt,
    /// The last step failed and is tried again.
    Stuck {
        /// Why.
        reason: String,
    },
}

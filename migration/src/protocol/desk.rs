//! Who answers for the dead.
//!
//! As long as a session's process lives, it alone speaks for its side ([`super::Source::standing`], [`super::Destination::standing`]). The host's desk
//! speaks for sessions without a process, from the record that is left, and asks the other side about every such record until it can be erased. While
//! the lock of a session's file is held (even of an empty one) and its owner cannot be asked, the desk must give no answer.

use crate::wire::{Boot, Side, Standing};

/// What the other side says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where it stands.
    pub standing: Standing,
    /// The present life of its host.
    pub boot: Boot,
}

/// What becomes of a record whose owner is dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Settled {
    /// It stays, and says this to whoever asks.
    Kept(Standing),
    /// It is to be erased: the guest runs or ran at the destination, and the source is done.
    Over,
    /// It is to be erased: the source died with the guest, and the destination was not complete or has died, too.
    Lost,
}

impl Settled {
    /// What is answered to the other side.
    #[must_use]
    pub const fn standing(self) -> Standing {
        match self {
            Self::Kept(standing) => standing,
            Self::Over | Self::Lost => Standing::Nothing,
        }
    }
}

/// What a host answers that has no record of the session, or an empty or damaged one without an owner.
pub const UNKNOWN: Standing = Standing::Nothing;

/// What becomes of `side`'s record, whose owner is dead, once `peer` has said where it stands (it asked, or was asked).
pub fn settle(side: Side, peer: Option<Peer>) -> Settled {
    match (side, peer.map(|peer| peer.standing)) {
        (Side::Source, Some(Standing::Running)) => Settled::Over,
        (Side::Source, Some(Standing::Nothing)) => Settled::Lost,
        // Nobody can resume it here any more.
        (Side::Source, _) => Settled::Kept(Standing::Orphaned),
        (Side::Destination, Some(Standing::Nothing)) => Settled::Over,
        (Side::Destination, _) => Settled::Kept(Standing::Running),
    }
}

//! What outlives a process: one small record per session and side in the host's run directory.
//!
//! A record exists from the moment from which a side's death must not be taken for its never having got that far, until both sides know how it ended:
//!
//! | side | the record says | written | erased |
//! |---|---|---|---|
//! | source | "should I die, the destination may run what it has" | before the guest is paused for the switch-over | before the guest goes on after an abort; or when the destination says `Running` |
//! | destination | "the guest runs here or has run here" | before the guest runs | when the source has let go |
//!
//! The destination makes the file, empty, when it accepts: an empty file says nothing but that its owner, if it lives, is to be asked.
//!
//! The process that owns the session holds an exclusive `flock` on the file as long as it lives, with a descriptor that its children do not inherit. So a
//! file whose lock is free has no owner any more, and never gets one. Whoever takes the lock of a dead owner must look whether the path still names the
//! file that it locked.
//!
//! A record must survive the death of the process (being written is enough) and, as far as it can be had for nothing, that of the host: the source
//! forces it to disk before the pause and its erasure before it resumes, the destination right after the guest has begun to run. No disk is waited for
//! while the guest stands on its way to the destination. A host that forgot a record has started anew since, which its [`Boot`] tells.

use serde::{Deserialize, Serialize};

use crate::wire::{Boot, FrameError, Incoming, Kind, NEWEST, Outgoing, SPOKEN, Session, Side};

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The session.
    pub session: Session,
    /// Whose record it is.
    pub side: Side,
    /// The guest's name.
    pub name: String,
    /// Where the other side's host answers inquiries ([`crate::wire::Offer::inquiries`]).
    pub peer: String,
    /// The life of the other side's host when the session began.
    pub peer_boot: Boot,
}

/// Why a record cannot be read. As it is replaced as a whole, it is then as good as absent: the host died while it was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// No frame.
    #[error("journal of a migration: {0}")]
    Frame(#[from] FrameError),
    /// A frame, but no record.
    #[error("journal of a migration: {reason}")]
    Content {
        /// What is wrong.
        reason: String,
    },
}

impl Record {
    /// As it is in its file: one frame, whose version is that of the record.
    ///
    /// # Errors
    /// [`RecordError::Content`] where a name or an address is longer than a frame takes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let payload = postcard::to_allocvec(self).map_err(content)?;
        let mut bytes = Vec::new();
        Outgoing::new(NEWEST).frame(Kind::Journal, &mut bytes, |frame| frame.extend(payload))?;
        Ok(bytes)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let expected = |got: &str| RecordError::Content {
            reason: format!("{got}, expected exactly one record"),
        };
        let cut = Incoming::new(SPOKEN)
            .frame(bytes)?
            .ok_or_else(|| expected("no bytes"))?;
        if cut.head.kind != Kind::Journal || !cut.after.is_empty() {
            return Err(expected(&format!(
                "a frame of kind {:?} and {} bytes after it",
                cut.head.kind,
                cut.after.len()
            )));
        }
        match postcard::take_from_bytes(cut.payload).map_err(content)? {
            (record, []) => Ok(record),
            (_, rest) => Err(expected(&format!("{} left-over bytes", rest.len()))),
        }
    }
}

fn content(error: postcard::Error) -> RecordError {
    RecordError::Content {
        reason: error.to_string(),
    }
}

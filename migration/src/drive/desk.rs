//! A host's desk: answers for sessions whose process is dead, from the records that are left ([`crate::protocol::desk`]).

use std::path::PathBuf;

use super::journal::{self, JournalError, JournalFile};
use crate::protocol::desk::{Peer, Settled, UNKNOWN, settle};
use crate::wire::{Answer, Boot, Inquire, Session, Side, Standing};

/// Answers from a folder of records.
#[derive(Debug, Clone)]
pub struct Desk {
    /// Where this host keeps its records.
    pub folder: PathBuf,
    /// This host's life.
    pub boot: Boot,
}

impl Desk {
    /// What this host says to a question about a session without a process; a record that nobody needs any more is erased before. None where the
    /// session's process lives, here or elsewhere on this host: it is to be asked itself.
    ///
    /// # Errors
    /// When the file system refuses; then nothing may be said.
    pub fn answer(&self, question: &Inquire) -> Result<Option<Answer>, JournalError> {
        let peer = Peer {
            standing: question.standing,
            boot: question.boot,
        };
        let standing = self.settle(question.session, question.from.other(), peer)?;
        Ok(standing.map(|standing| Answer {
            standing,
            boot: self.boot,
        }))
    }

    fn settle(
        &self,
        session: Session,
        side: Side,
        peer: Peer,
    ) -> Result<Option<Standing>, JournalError> {
        let path = journal::path(&self.folder, session, side);
        let file = match JournalFile::find(&path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Some(UNKNOWN)),
            Err(JournalError::Owned { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        if file.read()?.is_none() {
            // An empty file without an owner says nothing; it only lies about.
            let _ = file.remove();
            return Ok(Some(UNKNOWN));
        }
        let settled = settle(side, Some(peer));
        if matches!(settled, Settled::Over | Settled::Lost) {
            file.erase()?;
            let _ = file.remove();
        }
        Ok(Some(settled.standing()))
    }
}

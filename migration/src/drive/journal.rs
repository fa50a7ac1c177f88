//! Records of sessions as files in a host's run directory: one per session and side, locked by the process that owns it ([`crate::protocol::Record`]).

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::protocol::{Record, RecordError};
use crate::wire::{Session, Side};

/// A record's file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system refuses.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file or its folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process owns the session.
    #[error("{} belongs to a process that lives; the session is taken", path.display())]
    Owned {
        /// The file.
        path: PathBuf,
    },
    /// The record cannot be written down.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// A session's file, and its lock. Dropped, the lock is free and the file stays, as when the process dies.
#[derive(Debug)]
pub struct JournalFile {
    file: File,
    path: PathBuf,
}

/// Where a session's record is.
#[must_use]
pub fn path(folder: &Path, session: Session, side: Side) -> PathBuf {
    let side = match side {
        Side::Source => "source",
        Side::Destination => "destination",
    };
    folder.join(format!("migration-{session}.{side}"))
}

impl JournalFile {
    /// Makes the file, or takes that of an owner that is dead, and holds its lock.
    ///
    /// # Errors
    /// [`JournalError::Owned`] where the owner lives; when the file system refuses.
    pub fn claim(path: &Path) -> Result<Self, JournalError> {
        loop {
            if let Some(file) = Self::lock(path, true)? {
                return Ok(file);
            }
        }
    }

    /// Takes the file of an owner that is dead, and holds its lock; none where there is no file.
    ///
    /// # Errors
    /// [`JournalError::Owned`] where the owner lives; when the file system refuses.
    pub fn find(path: &Path) -> Result<Option<Self>, JournalError> {
        loop {
            match Self::lock(path, false) {
                Ok(Some(file)) => return Ok(Some(file)),
                Ok(None) => {}
                Err(JournalError::File { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens and locks the file; none where it was removed in between.
    fn lock(path: &Path, create: bool) -> Result<Option<Self>, JournalError> {
        let failed = |what| {
            move |source| JournalError::File {
                what,
                path: path.to_owned(),
                source,
            }
        };
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(create)
            .truncate(false);
        let file = options.open(path).map_err(failed("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(JournalError::Owned {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        // Between opening and locking its owner may have removed it, and another made a new one.
        let here = file.metadata().map_err(failed("examine"))?;
        let is_there = path
            .metadata()
            .is_ok_and(|there| (there.dev(), there.ino()) == (here.dev(), here.ino()));
        Ok(is_there.then(|| Self {
            file,
            path: path.to_owned(),
        }))
    }

    fn failed(&self, what: &'static str) -> impl Fn(io::Error) -> JournalError + use<'_> {
        move |source| JournalError::File {
            what,
            path: self.path.clone(),
            source,
        }
    }

    /// The record in it; none where it is empty or was damaged when its host died.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn read(&self) -> Result<Option<Record>, JournalError> {
        let mut bytes = Vec::new();
        let mut file = &self.file;
        file.seek(SeekFrom::Start(0))
            .and_then(|_| file.read_to_end(&mut bytes))
            .map_err(self.failed("read"))?;
        Ok(Record::from_bytes(&bytes).ok())
    }

    /// Writes the record. It survives this process, and after [`JournalFile::persist`] its host's end, too.
    ///
    /// # Errors
    /// When the disk is full or fails.
    pub fn write(&self, record: &Record) -> Result<(), JournalError> {
        let bytes = record.to_bytes()?;
        let mut file = &self.file;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&bytes))
            .map_err(self.failed("write"))
    }

    /// Forces the file and its name to disk.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn persist(&self) -> Result<(), JournalError> {
        self.file.sync_all().map_err(self.failed("force to disk"))?;
        self.persist_folder()
    }

    fn persist_folder(&self) -> Result<(), JournalError> {
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder
            .and_then(|folder| folder.sync_all())
            .map_err(self.failed("force to disk the folder of"))
    }

    /// Makes it empty and forces that to disk. The lock stays.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn erase(&self) -> Result<(), JournalError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.sync_all())
            .map_err(self.failed("empty"))
    }

    /// Removes the file, and gives up the lock.
    ///
    /// # Errors
    /// When the file system refuses; the lock is free even so.
    pub fn remove(self) -> Result<(), JournalError> {
        std::fs::remove_file(&self.path).map_err(self.failed("remove"))?;
        self.persist_folder()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Boot;

    fn record(name: &str) -> Record {
        Record {
            session: Session([7; 16]),
            side: Side::Source,
            name: name.to_owned(),
            peer: "10.0.0.2:7000".to_owned(),
            peer_boot: Boot([1; 16]),
        }
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path(), Session([7; 16]), Side::Source);
        (folder, path)
    }

    #[test]
    fn a_record_outlives_its_owner_and_a_shorter_one_replaces_it() {
        let (_folder, path) = place();
        let file = JournalFile::claim(&path).unwrap();
        assert_eq!(file.read().unwrap(), None, "it is made empty");
        file.write(&record("a guest with a long name")).unwrap();
        file.write(&record("short")).unwrap();
        file.persist().unwrap();
        drop(file);
        let file = JournalFile::claim(&path).unwrap();
        assert_eq!(file.read().unwrap(), Some(record("short")));
        file.erase().unwrap();
        assert_eq!(file.read().unwrap(), None);
        file.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn the_session_of_a_living_owner_is_not_taken() {
        let (_folder, path) = place();
        let owner = JournalFile::claim(&path).unwrap();
        let error = JournalFile::claim(&path).unwrap_err();
        assert!(matches!(error, JournalError::Owned { .. }), "{error}");
        drop(owner);
        JournalFile::claim(&path).unwrap();
    }

    #[test]
    fn a_file_that_was_removed_meanwhile_is_not_taken_for_the_new_one() {
        let (_folder, path) = place();
        let claim = || {
            JournalFile::claim(&path).ok().map(|file| {
                let there = path.metadata().unwrap();
                assert_eq!(
                    there.ino(),
                    file.file.metadata().unwrap().ino(),
                    "whoever owns it owns what is there"
                );
                file.remove().unwrap();
            })
        };
        let claimed = std::thread::scope(|scope| {
            let claims = (0..3).map(|_| scope.spawn(|| (0..200).filter_map(|_| claim()).count()));
            let claims: Vec<_> = claims.collect();
            claims
                .into_iter()
                .map(|claims| claims.join().unwrap())
                .sum::<usize>()
        });
        assert!(claimed > 0);
    }

    #[test]
    fn a_damaged_record_counts_as_none() {
        let (_folder, path) = place();
        let file = JournalFile::claim(&path).unwrap();
        file.write(&record("guest")).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for cut in 0..bytes.len() {
            std::fs::write(&path, &bytes[..cut]).unwrap();
            assert_eq!(file.read().unwrap(), None, "{cut} of {} bytes", bytes.len());
        }
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = JournalFile::claim(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.to_string(), "cannot open /nowhere/at/all");
    }
}

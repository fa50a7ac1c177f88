//! What is promised of this host's links, in a file that all processes share: `network.json` in the run directory.
//!
//! The file is replaced as a whole (written aside, renamed), so that it is never torn. Beside it lies `network.lock`, which
//! is locked (flock) for as long as somebody reads and changes, and says whether the kernel is being changed:
//!
//! ```text
//! lock -> read network.json -> mark "changing" -> change the kernel -> write network.json -> mark "settled" -> unlock
//! ```
//!
//! Who finds it "changing" under the lock knows that somebody died in between, and makes the kernel what the file says.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::book::Book;

/// The version of the form.
const VERSION: u32 = 1;
/// What the lock file says while the kernel is being changed, and otherwise.
const CHANGING: &[u8; 8] = b"changing";
const SETTLED: &[u8; 8] = b"settled\n";

/// The state could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; run as root or choose another run directory", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
    /// No network.
    #[error("no network was applied here (looked in {}): `chronovisor net apply FILE` applies one", dir.display())]
    NotApplied {
        /// The run directory.
        dir: PathBuf,
    },
    /// It is not what was written.
    #[error("{} is damaged ({reason}): `chronovisor net clear` removes what it stood for", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Of another network namespace.
    #[error(
        "the network of {} was applied in another network namespace: enter that one, or choose another run directory", dir.display()
    )]
    Elsewhere {
        /// The run directory.
        dir: PathBuf,
    },
}

/// Where promises hold: they go with the kernel, and with the namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    boot: String,
    namespace: u64,
}

impl Place {
    fn here() -> io::Result<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
        // Of the thread: a process may have threads in several.
        let namespace = fs::metadata("/proc/thread-self/ns/net")?.ino();
        Ok(Self {
            boot: boot.trim().to_owned(),
            namespace,
        })
    }
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    place: &'a Place,
    book: &'a Book,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    version: u32,
    place: Place,
    book: Book,
}

/// The state's files.
#[derive(Debug)]
pub(crate) struct State {
    dir: PathBuf,
    lock: File,
    /// Found when it was opened.
    place: Place,
    /// What was last read or written, so that it is not parsed again.
    known: Option<(Vec<u8>, Book)>,
}

impl State {
    /// Opens the files in `dir`, making the lock and the folder if need be.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let path = dir.join("network.lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        Ok(Self {
            dir: dir.to_owned(),
            lock,
            place: Place::here().map_err(failed("read", Path::new("/proc")))?,
            known: None,
        })
    }

    /// Locks the state until the answer is dropped.
    pub(crate) fn lock(&mut self) -> Result<Locked<'_>, StateError> {
        self.lock.lock().map_err(failed("lock", &self.dir))?;
        Ok(Locked { state: self })
    }

    fn path(&self) -> PathBuf {
        self.dir.join("network.json")
    }
}

/// The state, for nobody else meanwhile.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    state: &'a mut State,
}

impl Locked<'_> {
    /// Whether somebody died while the kernel was being changed.
    pub(crate) fn was_broken_off(&self) -> bool {
        let mut mark = [0; CHANGING.len()];
        let read = self.state.lock.read_at(&mut mark, 0);
        read.is_ok_and(|length| length == mark.len()) && mark == *CHANGING
    }

    /// What is promised; nothing if nothing was applied since the host was started.
    pub(crate) fn read(&mut self) -> Result<Option<Book>, StateError> {
        let path = self.state.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if let Some((known, book)) = &self.state.known
            && *known == bytes
        {
            return Ok(Some(book.clone()));
        }
        let Some(book) = self.parse(&path, &bytes)? else {
            return Ok(None);
        };
        self.state.known = Some((bytes, book.clone()));
        Ok(Some(book))
    }

    fn parse(&self, path: &Path, bytes: &[u8]) -> Result<Option<Book>, StateError> {
        let damaged = |reason: String| StateError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let read: Read = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
        if read.version != VERSION {
            return Err(damaged(format!(
                "version {}, not {VERSION}: another program wrote it",
                read.version
            )));
        }
        if read.place.boot != self.state.place.boot {
            return Ok(None);
        }
        if read.place.namespace != self.state.place.namespace {
            return Err(StateError::Elsewhere {
                dir: self.state.dir.clone(),
            });
        }
        Ok(Some(read.book))
    }

    /// Says that the kernel is being changed.
    pub(crate) fn begin(&self) -> Result<(), StateError> {
        self.mark(CHANGING)
    }

    /// Says that the kernel is what the file says.
    pub(crate) fn settle(&self) -> Result<(), StateError> {
        self.mark(SETTLED)
    }

    fn mark(&self, mark: &[u8]) -> Result<(), StateError> {
        let path = &self.state.dir;
        self.state
            .lock
            .write_all_at(mark, 0)
            .map_err(failed("mark the state in", path))
    }

    /// Replaces the file.
    pub(crate) fn write(&mut self, book: &Book) -> Result<(), StateError> {
        let path = self.state.path();
        let written = Written {
            version: VERSION,
            place: &self.state.place,
            book,
        };
        let bytes = serde_json::to_vec(&written);
        let bytes = bytes.map_err(|error| failed("write", &path)(error.into()))?;
        let aside = self.state.dir.join("network.new");
        fs::write(&aside, &bytes).map_err(failed("write", &aside))?;
        fs::rename(&aside, &path).map_err(failed("replace", &path))?;
        self.state.known = Some((bytes, book.clone()));
        Ok(())
    }

    /// Removes the file: nothing is promised any more.
    pub(crate) fn remove(&mut self) -> Result<(), StateError> {
        self.state.known = None;
        let path = self.state.path();
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &path)(error))
            }
            _ => self.settle(),
        }
    }

    /// The run directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.state.dir
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.state.lock.unlock() {
            tracing::warn!(%error, "cannot unlock the state of the network");
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::book::PortEntry;
    use crate::mac::Mac;
    use crate::process::Process;
    use crate::share::Share;

    fn entry(vm: &str) -> PortEntry {
        PortEntry {
            vm: vm.to_owned(),
            port: format!("tap-{vm}"),
            mac: Mac::of_name(vm),
            share: Share {
                assured: units::BitRate::new(1_000_000),
                ceil: units::BitRate::new(2_000_000),
                priority: crate::share::Priority::Gold,
            },
            process: Process::current(),
        }
    }

    fn book(vms: &[&str]) -> Book {
        Book {
            ports: vms.iter().map(|vm| entry(vm)).collect(),
            ..Book::default()
        }
    }

    #[test]
    fn what_one_writes_another_reads() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut other) = (
            State::open(dir.path()).unwrap(),
            State::open(dir.path()).unwrap(),
        );
        assert_eq!(other.lock().unwrap().read().unwrap(), None);
        for book in [book(&["a", "b"]), book(&["a"]), book(&[])] {
            one.lock().unwrap().write(&book).unwrap();
            assert_eq!(one.lock().unwrap().read().unwrap(), Some(book.clone()));
            assert_eq!(other.lock().unwrap().read().unwrap(), Some(book));
        }
        one.lock().unwrap().remove().unwrap();
        assert_eq!(other.lock().unwrap().read().unwrap(), None);
    }

    #[test]
    fn a_change_that_was_broken_off_is_seen_until_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        assert!(!state.lock().unwrap().was_broken_off());
        state.lock().unwrap().begin().unwrap();
        let mut next = State::open(dir.path()).unwrap();
        assert!(next.lock().unwrap().was_broken_off());
        next.lock().unwrap().settle().unwrap();
        assert!(!state.lock().unwrap().was_broken_off());
    }

    #[test]
    fn a_file_of_another_version_kernel_or_namespace_is_not_taken_for_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("network.json");
        let mut state = State::open(dir.path()).unwrap();
        state.lock().unwrap().write(&book(&["a"])).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let mut with = |from: &str, to: &str| {
            let other = text.replace(from, to);
            assert_ne!(other, text);
            fs::write(&path, other).unwrap();
            state.lock().unwrap().read()
        };
        let error = with("\"version\":1", "\"version\":2").unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        let error = with("\"book\"", "\"bock\"").unwrap_err();
        assert!(error.to_string().contains("net clear"), "{error}");
        let error = with("\"namespace\":", "\"namespace\":9").unwrap_err();
        assert!(matches!(error, StateError::Elsewhere { .. }), "{error}");
        assert_eq!(with("\"boot\":\"", "\"boot\":\"0").unwrap(), None);
    }
}

//! What is promised of this host's links, in files that all processes share: two slots in the run directory, `network.json`
//! and `network-1.json`, of which one counts. Which one is in `network.lock`, which is locked (flock) for as long as
//! somebody reads and changes, and which also says whether the kernel is being changed:
//!
//! ```text
//! lock -> read the slot -> "changing 0" -> change the kernel -> write the other slot -> "settled 1" -> unlock
//! ```
//!
//! So a write that is broken off spoils nothing, and nothing is renamed, for which some file systems wait. Who finds
//! "changing" under the lock knows that somebody died in between, and makes the kernel what the slot says.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::book::Book;

/// The version of the form.
const VERSION: u32 = 1;
/// What the lock file says while the kernel is being changed, and otherwise, before the number of the slot.
const CHANGING: &str = "changing";
const SETTLED: &str = "settled ";
/// The lock's file.
const LOCK: &str = "network.lock";
/// The files that are written in turn.
const SLOTS: [&str; 2] = ["network.json", "network-1.json"];

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
    #[error("{} is damaged ({reason}): delete it, and remove what it stood for by `chronovisor net clear --lost FILE`", path.display())]
    Damaged {
        /// The path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is not lost.
    #[error("what was applied with {} is known: `chronovisor net clear` removes it", dir.display())]
    Known {
        /// The run directory.
        dir: PathBuf,
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
    slots: [File; 2],
    /// Which slot counts.
    slot: usize,
    /// Found when it was opened.
    place: Place,
    /// What was last read or written, so that it is not parsed again.
    known: Option<(Vec<u8>, Book)>,
    /// What a slot is read into.
    buffer: Vec<u8>,
}

impl State {
    /// Whether anybody has ever opened them in `dir`.
    pub(crate) fn is_in(dir: &Path) -> bool {
        let mut names = SLOTS.into_iter().chain([LOCK]);
        names.any(|name| dir.join(name).exists())
    }

    /// Opens the files in `dir`, making the lock and the folder if need be.
    pub(crate) fn open(dir: &Path) -> Result<Self, StateError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let open = |name: &str| {
            let path = dir.join(name);
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed("open", &path))
        };
        Ok(Self {
            dir: dir.to_owned(),
            lock: open(LOCK)?,
            slots: [open(SLOTS[0])?, open(SLOTS[1])?],
            slot: 0,
            place: Place::here().map_err(failed("read", Path::new("/proc")))?,
            known: None,
            buffer: Vec::new(),
        })
    }

    /// Locks the state until the answer is dropped.
    pub(crate) fn lock(&mut self) -> Result<Locked<'_>, StateError> {
        // A signal does not end the waiting.
        while let Err(error) = self.lock.lock() {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(failed("lock", &self.dir)(error));
            }
        }
        let mut mark = [0; 16];
        let length = self.lock.read_at(&mut mark, 0);
        let length = length.map_err(failed("read the lock in", &self.dir))?;
        let mark = std::str::from_utf8(&mark[..length]).unwrap_or_default();
        self.slot = usize::from(mark.trim_end().ends_with('1'));
        let was_broken_off = mark.starts_with(CHANGING);
        Ok(Locked {
            state: self,
            was_broken_off,
        })
    }

    /// The slot that counts, whole; empty if nothing was ever written.
    fn read(&mut self) -> Result<(), StateError> {
        let file = &self.slots[self.slot];
        let mut length = 0;
        loop {
            if length == self.buffer.len() {
                self.buffer.resize((2 * length).max(4096), 0);
            }
            let read = file.read_at(&mut self.buffer[length..], length as u64);
            match read.map_err(failed("read", &self.dir.join(SLOTS[self.slot])))? {
                0 => break,
                read => length += read,
            }
        }
        self.buffer.truncate(length);
        Ok(())
    }
}

/// The state, for nobody else meanwhile.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    state: &'a mut State,
    was_broken_off: bool,
}

impl Locked<'_> {
    /// Whether somebody died while the kernel was being changed.
    pub(crate) fn was_broken_off(&self) -> bool {
        self.was_broken_off
    }

    /// What is promised; nothing if nothing was applied since the host was started. Should the slot that counts be damaged,
    /// which nothing here does, the one before counts, and the kernel is to be made what that says.
    pub(crate) fn read(&mut self) -> Result<Option<Book>, StateError> {
        match self.read_slot() {
            Err(damaged @ StateError::Damaged { .. }) => {
                self.state.slot = 1 - self.state.slot;
                let Ok(Some(book)) = self.read_slot() else {
                    return Err(damaged);
                };
                tracing::warn!(%damaged, "going back to what was promised before");
                self.was_broken_off = true;
                Ok(Some(book))
            }
            read => read,
        }
    }

    fn read_slot(&mut self) -> Result<Option<Book>, StateError> {
        self.state.read()?;
        let State { buffer, known, .. } = &mut *self.state;
        if let Some((known, book)) = known
            && known == buffer
        {
            return Ok(Some(book.clone()));
        }
        let bytes = std::mem::take(buffer);
        if bytes.is_empty() {
            return Ok(None);
        }
        let path = self.state.dir.join(SLOTS[self.state.slot]);
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

    /// Says that the kernel is being changed from what was last read or written.
    pub(crate) fn begin(&mut self) -> Result<(), StateError> {
        self.mark(CHANGING)
    }

    /// Says that the kernel is what was last read or written.
    pub(crate) fn settle(&mut self) -> Result<(), StateError> {
        self.was_broken_off = false;
        self.mark(SETTLED)
    }

    fn mark(&self, what: &str) -> Result<(), StateError> {
        let State {
            dir, lock, slot, ..
        } = &*self.state;
        let mark = format!("{what} {slot}\n");
        lock.write_all_at(mark.as_bytes(), 0)
            .map_err(failed("mark the state in", dir))
    }

    /// Writes the other slot, which counts from the next mark on.
    pub(crate) fn write(&mut self, book: &Book) -> Result<(), StateError> {
        let slot = 1 - self.state.slot;
        let path = self.state.dir.join(SLOTS[slot]);
        let written = Written {
            version: VERSION,
            place: &self.state.place,
            book,
        };
        let bytes = serde_json::to_vec(&written);
        let mut bytes = bytes.map_err(|error| failed("write", &path)(error.into()))?;
        bytes.push(b'\n');
        let file = &self.state.slots[slot];
        let length = bytes.len() as u64;
        let replaced = file.write_all_at(&bytes, 0).and_then(|()| {
            let is_longer = file.metadata()?.len() > length;
            if is_longer {
                file.set_len(length)
            } else {
                Ok(())
            }
        });
        replaced.map_err(failed("write", &path))?;
        self.state.slot = slot;
        self.state.known = Some((bytes, book.clone()));
        Ok(())
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
            let mut locked = one.lock().unwrap();
            locked.write(&book).unwrap();
            locked.settle().unwrap();
            drop(locked);
            assert_eq!(one.lock().unwrap().read().unwrap(), Some(book.clone()));
            assert_eq!(other.lock().unwrap().read().unwrap(), Some(book));
        }
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
    fn a_write_that_was_broken_off_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        let mut locked = state.lock().unwrap();
        locked.write(&book(&["a"])).unwrap();
        locked.settle().unwrap();
        locked.begin().unwrap();
        locked.write(&book(&["a", "b"])).unwrap();
        drop(locked);
        for name in SLOTS {
            let path = dir.path().join(name);
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(3).any(|three| three == b"\"b\"") {
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
        }
        let mut next = State::open(dir.path()).unwrap();
        let mut locked = next.lock().unwrap();
        assert!(locked.was_broken_off());
        assert_eq!(locked.read().unwrap(), Some(book(&["a"])));
    }

    #[test]
    fn where_the_last_state_is_damaged_the_one_before_counts_and_is_to_be_put_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let mut state = State::open(dir.path()).unwrap();
        for vms in [&["a"][..], &["a", "b"]] {
            let mut locked = state.lock().unwrap();
            locked.write(&book(vms)).unwrap();
            locked.settle().unwrap();
        }
        fs::write(dir.path().join(SLOTS[0]), "damaged").unwrap();
        let mut locked = state.lock().unwrap();
        assert_eq!(locked.read().unwrap(), Some(book(&["a"])));
        assert!(locked.was_broken_off());
    }

    #[test]
    fn a_file_of_another_version_kernel_or_namespace_is_not_taken_for_the_state() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(SLOTS[1]);
        let mut state = State::open(dir.path()).unwrap();
        fs::write(dir.path().join(SLOTS[0]), "damaged").unwrap();
        let mut locked = state.lock().unwrap();
        locked.write(&book(&["a"])).unwrap();
        locked.settle().unwrap();
        drop(locked);
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

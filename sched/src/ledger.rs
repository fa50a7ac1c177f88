//! The ledger: what is promised on this host, in one locked file that all VM processes share.
//!
//! One file, `ledger.json`, opened once and kept open. Every operation locks it (flock), reads it, changes it with a
//! single write in place, and unlocks. What the kernel knows is the backstop: a file that cannot be read is rebuilt from
//! the SCHED_DEADLINE threads that live, entries of dead processes are dropped, and threads in a partition that no entry
//! accounts for count against it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::admission::Fit;
use crate::book::{Book, recovered_name};
pub use crate::book::{Entry, VcpuEntry};
use crate::cpus;
use crate::decision::{adapted, not_admitted, plan, still};
use crate::framework::{Levels, Manager};
use crate::host_view;
use crate::kernel::{Tid, monotonic};
use crate::levels::levels;
use crate::pages::Pages;
use crate::partition;
use crate::process::{Process, deadline_threads};
pub use crate::refusal::{Bound, Moving, Otherwise, Refusal};
use crate::request::{Granted, VcpuRequest};
use crate::reservation::{PeriodRange, Reservation};

/// The ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A file operation failed.
    #[error("cannot {action} {path}: {source}; run as root or choose another run directory")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The kernel's reason.
        source: io::Error,
    },
}

/// A change of one vCPU's reservation, for [`Manager::adapt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The VM.
    pub vm: String,
    /// The vCPU.
    pub vcpu: usize,
    /// Its new reservation.
    pub reservation: Reservation,
}

impl Change {
    /// vCPU `vcpu` of `vm` is to have `reservation`.
    pub fn new(vm: impl Into<String>, vcpu: usize, reservation: Reservation) -> Self {
        Self {
            vm: vm.into(),
            vcpu,
            reservation,
        }
    }
}

/// A handle to the host's ledger. Cloning shares the one open file.
#[derive(Clone, Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    file: File,
    process: Process,
    /// flock is per open file: threads of this process exclude one another here.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// This process's entries as last written, should the file be damaged.
    own: Vec<Arc<Entry>>,
    pages: Pages,
    /// What the file is read into.
    buffer: Vec<u8>,
}

impl Ledger {
    /// Opens the ledger in `dir`, making both if need be, repairs it, and clears away what crashed VMs left.
    ///
    /// # Errors
    /// When the directory or the file cannot be made, opened or locked.
    pub fn open(dir: &Path) -> Result<Self, LedgerError> {
        let path = dir.join("ledger.json");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::Io {
                action,
                path,
                source,
            }
        };
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed("open", &path))?;
        let shared = Arc::new(Shared {
            path: path.clone(),
            file,
            process: Process::current(),
            state: Mutex::default(),
        });
        let ledger = Self { shared };
        ledger
            .locked(|book| {
                book.prune(monotonic(), Process::is_alive);
                // Under the lock: nobody can be admitted and make a group meanwhile.
                crate::vcpu_group::clear_orphans(&book.entries);
            })
            .map_err(failed("lock", &path))?;
        Ok(ledger)
    }

    /// Notes the thread of a vCPU, so that its bandwidth in the kernel is known to be this entry's.
    ///
    /// # Errors
    /// When the VM has no such vCPU, or the ledger cannot be written.
    pub fn attach(&self, vm: &str, vcpu: usize, tid: Tid) -> Result<(), Refusal> {
        self.decide(vm, |book| {
            let entry = book.vcpu_mut(vm, vcpu);
            entry.ok_or_else(|| not_admitted(vm, vcpu))?.tid = Some(tid);
            Ok(())
        })
    }

    /// As [`Manager::adapt`], if the reservations still are what `before` says: whoever computed a change from what it
    /// saw earlier takes nothing back that another one has changed since.
    ///
    /// # Errors
    /// [`Bound::Changed`], and as `adapt`; nothing was changed then.
    pub fn exchange(&self, before: &[Change], after: &[Change]) -> Result<Vec<Granted>, Refusal> {
        let vm = after.first().map_or("", |change| change.vm.as_str());
        self.decide(vm, |book| {
            before.iter().try_for_each(|state| still(book, state))?;
            adapted(book, monotonic(), after)
        })
    }

    /// All entries, those of dead processes left out.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub fn entries(&self) -> Result<Vec<Arc<Entry>>, LedgerError> {
        self.locked(|book| {
            book.prune(monotonic(), Process::is_alive);
            book.entries.clone()
        })
        .map_err(|source| LedgerError::Io {
            action: "read",
            path: self.shared.path.clone(),
            source,
        })
    }

    /// Runs an admission; a refusal is only final after entries of dead processes have been dropped.
    fn decide<T>(
        &self,
        vm: &str,
        mut admission: impl FnMut(&mut Book) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let decided = self.locked(|book| match on_copy(book, &mut admission) {
            Err(refusal)
                if refusal.may_be_stale() && book.prune(monotonic(), Process::is_alive) =>
            {
                on_copy(book, &mut admission)
            }
            decided => decided,
        });
        decided.unwrap_or_else(|error| Err(self.unusable(vm, &error)))
    }

    fn unusable(&self, vm: &str, error: &dyn std::error::Error) -> Refusal {
        let reason = format!("ledger {}: {error}", self.shared.path.display());
        Refusal::new(vm, Bound::Ledger { reason })
    }

    /// Reads the book under the lock, lets `work` change it, and writes it if it changed.
    fn locked<T>(&self, work: impl FnOnce(&mut Book) -> T) -> io::Result<T> {
        let mut state = self.state();
        self.shared.file.lock()?;
        let result = self.read_work_write(&mut state, work);
        self.shared.file.unlock()?;
        result
    }

    fn read_work_write<T>(
        &self,
        state: &mut State,
        work: impl FnOnce(&mut Book) -> T,
    ) -> io::Result<T> {
        let State { pages, buffer, .. } = state;
        let bytes = self.read(buffer)?;
        let mut book = pages.read(bytes).unwrap_or_else(|| {
            if !bytes.is_empty() {
                tracing::warn!(path = %self.shared.path.display(), "ledger is damaged: rebuilding it from the live threads");
            }
            rebuilt()
        });
        book.restore(&state.own);
        let longest = PeriodRange::of_this_host().longest;
        book.freeing.expire(monotonic(), longest);
        let result = work(&mut book);
        if let Some(changed) = state.pages.write(&book) {
            self.shared.file.write_all_at(&changed, 0)?;
        }
        let process = self.shared.process;
        state.own.clear();
        let entries = book.entries.into_iter();
        state
            .own
            .extend(entries.filter(|entry| entry.process == process));
        Ok(result)
    }

    /// The whole file; in one read if the buffer is longer, as it is after the first time.
    fn read<'a>(&self, buffer: &'a mut Vec<u8>) -> io::Result<&'a [u8]> {
        let mut length = 0;
        loop {
            if length == buffer.len() {
                buffer.resize((2 * length).max(4096), 0);
            }
            let rest = &mut buffer[length..];
            match self.shared.file.read_at(rest, length as u64)? {
                0 => break,
                read => length += read,
            }
            if length < buffer.len() {
                break;
            }
        }
        Ok(&buffer[..length])
    }

    /// A panic elsewhere leaves the state whole: it is only replaced after a successful write.
    fn state(&self) -> MutexGuard<'_, State> {
        self.shared
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's CPUs, shared among VMs. A job is a VM, which asks for all its vCPUs at once.
impl Manager for Ledger {
    type Request = [VcpuRequest];
    type Change = Change;
    type Grant = Granted;
    /// Which partition is tried first for a vCPU.
    type Policy = Fit;
    type Held = Admitted;
    type Error = Refusal;

    fn admit(&self, vm: &str, requests: &[VcpuRequest]) -> Result<Vec<Granted>, Refusal> {
        let planned = self.decide(vm, |book| plan(book, monotonic(), vm, requests))?;
        Ok(planned.granted)
    }

    /// In the name of this process. What it is granted may have to become free first: see [`Admitted::waits`].
    fn reserve(&mut self, vm: &str, requests: &[VcpuRequest]) -> Result<Admitted, Refusal> {
        let process = self.shared.process;
        let planned = self.decide(vm, |book| {
            let planned = plan(book, monotonic(), vm, requests)?;
            let vcpus = planned.granted.iter().cloned();
            book.entries.push(Arc::new(Entry {
                vm: vm.to_owned(),
                process,
                vcpus: vcpus
                    .map(|granted| VcpuEntry { granted, tid: None })
                    .collect(),
            }));
            Ok(planned)
        })?;
        Ok(Admitted {
            ledger: Some(self.clone()),
            vm: vm.to_owned(),
            granted: planned.granted,
            from: planned.from,
        })
    }

    /// Takes a VM of this process out of the ledger. One that is not there is no error.
    fn expel(&mut self, vm: &str) -> Result<(), Refusal> {
        let process = self.shared.process;
        self.locked(|book| {
            book.remove(monotonic(), |entry| {
                entry.vm == vm && entry.process == process
            });
        })
        .map_err(|error| self.unusable(vm, &error))
    }

    /// Of any VMs. The kernel knows nothing of this: the caller makes the shrinking ones effective there before the growing
    /// ones.
    fn adapt(&mut self, changes: &[Change]) -> Result<Vec<Granted>, Refusal> {
        let vm = changes.first().map_or("", |change| change.vm.as_str());
        self.decide(vm, |book| adapted(book, monotonic(), changes))
    }

    /// The partitions and the CPUs used, and above them what the ledger has there: threads, vCPUs, VMs.
    fn resources(&self) -> Result<Levels, Refusal> {
        let entries = self.entries();
        let entries = entries.map_err(|error| self.unusable("", &error))?;
        let partitions = partition::usable(&cpus::online());
        Ok(levels(&entries, partitions.iter().map(|p| p.cpu)))
    }

    fn policy(&self) -> Fit {
        self.locked(|book| book.fit).unwrap_or_default()
    }

    /// What is placed already stays where it is.
    fn set_policy(&mut self, fit: Fit) -> Result<(), Refusal> {
        self.locked(|book| book.fit = fit)
            .map_err(|error| self.unusable("", &error))
    }
}

/// What was admitted. Dropping it takes the entry out of the ledger.
#[derive(Debug)]
#[must_use = "dropping it takes the reservations out of the ledger"]
pub struct Admitted {
    ledger: Option<Ledger>,
    vm: String,
    granted: Vec<Granted>,
    /// From when on, if not at once (CLOCK_MONOTONIC).
    from: Option<Duration>,
}

impl Admitted {
    /// What vCPU `index` was granted.
    pub fn vcpu(&self, index: usize) -> Option<&Granted> {
        self.granted.get(index)
    }

    /// All vCPUs' grants, by index.
    pub fn vcpus(&self) -> &[Granted] {
        &self.granted
    }

    /// How long it is, at most a period, until all that was granted is free: what another VM has just given up may be owed
    /// for the rest of its period. It is this VM's already.
    pub fn waits(&self) -> Option<Duration> {
        self.from?
            .checked_sub(monotonic())
            .filter(|wait| !wait.is_zero())
    }

    /// Waits until all that was granted is free.
    pub fn wait_until_free(&self) {
        if let Some(wait) = self.waits() {
            std::thread::sleep(wait);
        }
    }

    /// The VM's name.
    pub fn vm(&self) -> &str {
        &self.vm
    }

    /// Takes the entry out of the ledger.
    ///
    /// # Errors
    /// When the ledger cannot be written.
    pub fn release(mut self) -> Result<(), Refusal> {
        match self.ledger.take() {
            Some(mut ledger) => ledger.expel(&self.vm),
            None => Ok(()),
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(mut ledger) = self.ledger.take() else {
            return;
        };
        if let Err(error) = ledger.expel(&self.vm) {
            // The next process to open the ledger finds this one dead and drops the entry.
            tracing::warn!(vm = self.vm, %error, "entry stays in the ledger");
        }
    }
}

/// Lets an admission change a copy of the book, which takes its place only if nothing was refused.
fn on_copy<T>(
    book: &mut Book,
    admission: &mut impl FnMut(&mut Book) -> Result<T, Refusal>,
) -> Result<T, Refusal> {
    let mut changed = book.clone();
    let granted = admission(&mut changed)?;
    *book = changed;
    Ok(granted)
}

/// The book the kernel would write: one entry for every process with SCHED_DEADLINE threads.
fn rebuilt() -> Book {
    let mut book = Book::default();
    for thread in deadline_threads() {
        let Some(process) = Process::of(thread.pid) else {
            continue;
        };
        let vm = recovered_name(process);
        let known = book.entries.iter().position(|entry| entry.vm == vm);
        let at = known.unwrap_or_else(|| {
            let vcpus = Vec::new();
            book.entries.push(Arc::new(Entry { vm, process, vcpus }));
            book.entries.len() - 1
        });
        let entry = Arc::make_mut(&mut book.entries[at]);
        if let Some(granted) = host_view::granted_by_kernel(&entry.vm, entry.vcpus.len(), &thread) {
            let tid = Some(thread.tid);
            entry.vcpus.push(VcpuEntry { granted, tid });
        }
    }
    book
}

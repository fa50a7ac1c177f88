//! Records which pages a running guest writes, window after window, into a trace that migrations can be replayed over.
//!
//! A thread of its own looks at the log and clears it at the end of each window. What that costs the guest is a fault for each page that is
//! dirty at a window's end; where these would take more of its time than they may, windows get longer, and where that does not help the
//! recording ends. So it does when nobody asks any more how it goes: whoever wanted it may have died, and tracking costs.

mod budget;
mod lease;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use migration::ram::{DirtyLog, RamError};
use migration::trace::{Sample, Writer};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use sched::kernel::thread_cpu_time;
use serde::{Deserialize, Serialize};

use self::budget::{FaultBudget, LONGEST_WINDOW};
use self::lease::Lease;
use super::running::RunningVm;
use crate::dirty::{Beginning, GuestPages};

/// A recording of which nobody has asked for so long ends.
const UNASKED: Duration = Duration::from_secs(30);

/// What is to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingRequest {
    /// The trace; it must not exist.
    pub path: PathBuf,
    /// How long; the last window may end later.
    pub length: Duration,
    /// Length of a window, if that costs no more than it may.
    pub window: Duration,
    /// What the first write to a page in a window costs the guest.
    pub tracked_write: Duration,
    /// Share of the guest's time that this may take; of one second more at most.
    pub share: f64,
}

/// How a recording goes, or went.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RecordingStatus {
    /// Whether it is over and the trace is complete.
    pub is_over: bool,
    /// Why it ended early, if it did.
    pub error: Option<String>,
    /// Pages of the guest.
    pub pages: u64,
    /// Time that was recorded.
    pub length: Duration,
    /// Windows.
    pub windows: u64,
    /// Pages seen written, counted anew in each window: as many faults as tracking has cost.
    pub faults: u64,
    /// Longest window.
    pub longest_window: Duration,
    /// Time for reading and clearing the log once, at most and in all.
    pub longest_look: Duration,
    /// See `longest_look`.
    pub looks: Duration,
    /// Processor time of the recording thread, on whichever CPU.
    pub consumed: Duration,
}

/// Why a recording cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// There is one.
    #[error("{0} is being recorded already; wait until that is over")]
    Busy(String),
    /// A value that makes no sense.
    #[error("{what} is {value}; it has to be {fits}")]
    Value {
        /// Which.
        what: &'static str,
        /// What was asked.
        value: String,
        /// What would do.
        fits: &'static str,
    },
    /// The file.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The thread.
    #[error("cannot start the thread that records: {0}")]
    Thread(io::Error),
    /// The guest cannot be tracked.
    #[error(transparent)]
    Tracking(#[from] RamError),
}

/// A recording under way, or over. Dropping it ends it; the trace is complete then.
#[derive(Debug)]
pub struct Recording {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    is_ending: AtomicBool,
    lease: Lease,
    status: Mutex<RecordingStatus>,
}

impl Shared {
    fn new(pages: u64, unasked: Duration) -> Self {
        let status = RecordingStatus {
            pages,
            ..RecordingStatus::default()
        };
        Self {
            is_ending: AtomicBool::new(false),
            lease: Lease::new(unasked, Instant::now()),
            status: Mutex::new(status),
        }
    }

    fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::Acquire)
    }

    fn update(&self, change: impl FnOnce(&mut RecordingStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Recording {
    /// Begins to record the memory of which `log` is the log.
    ///
    /// # Errors
    /// [`RecordingError`]; there is no file then, and nothing is tracked.
    pub fn begin(
        request: RecordingRequest,
        log: impl DirtyLog + 'static,
        pages: u64,
    ) -> Result<Self, RecordingError> {
        check(&request)?;
        // Before anything is protected: what fails more often comes first, and costs the guest nothing.
        let path = request.path.clone();
        let file = create_private(&path).map_err(file_error(&path))?;
        Self::begin_in(file, request, log, pages).inspect_err(|_| {
            // It is this call's own; the first error is the one to tell.
            let _ = fs::remove_file(&path);
        })
    }

    fn begin_in(
        file: File,
        request: RecordingRequest,
        mut log: impl DirtyLog + 'static,
        pages: u64,
    ) -> Result<Self, RecordingError> {
        let trace = Writer::new(BufWriter::new(file), pages).map_err(file_error(&request.path))?;
        log.start()?;
        let shared = Arc::new(Shared::new(pages, UNASKED));
        let own = Arc::clone(&shared);
        let run = move || {
            // Signals are for others.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
            let error = record(&request, &mut log, trace, &own).err();
            // The next recording may begin as soon as this one is over.
            drop(log);
            own.update(|status| {
                status.error = error;
                status.is_over = true;
            });
        };
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(run)
            .map_err(RecordingError::Thread)?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// How it goes.
    #[must_use]
    pub fn status(&self) -> RecordingStatus {
        let status = self.shared.status.lock();
        status.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How it goes, asked by whoever wants it to go on: it ends itself when that has not happened for 30 s.
    #[must_use]
    pub fn ask(&self) -> RecordingStatus {
        self.shared.lease.renew(Instant::now());
        self.status()
    }

    /// Ends it, soon.
    pub fn end(&self) {
        self.shared.is_ending.store(true, Ordering::Release);
        self.thread.iter().for_each(|own| own.thread().unpark());
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread would have ended the process.
            let _ = thread.join();
        }
    }
}

fn check(request: &RecordingRequest) -> Result<(), RecordingError> {
    let value = |what, value: String, fits| RecordingError::Value { what, value, fits };
    let window = request.window;
    if !(Duration::from_millis(1)..=LONGEST_WINDOW).contains(&window) {
        return Err(value(
            "the window",
            format!("{window:?}"),
            "between 1ms and 1s",
        ));
    }
    if !(request.share > 0.0 && request.share <= 1.0) {
        return Err(value(
            "the share",
            request.share.to_string(),
            "above 0 and at most 1",
        ));
    }
    if request.length < window {
        return Err(value(
            "the time to record",
            format!("{:?}", request.length),
            "at least one window",
        ));
    }
    Ok(())
}

fn file_error(path: &Path) -> impl Fn(io::Error) -> RecordingError {
    let path = path.to_owned();
    move |source| RecordingError::File {
        path: path.clone(),
        source,
    }
}

/// A guest's writes are nobody else's.
fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Records, and whatever comes of that leaves nothing tracked and what was seen in the file.
fn record(
    request: &RecordingRequest,
    log: &mut impl DirtyLog,
    mut trace: Writer<BufWriter<File>>,
    shared: &Shared,
) -> Result<(), String> {
    let watched = watch(request, log, &mut trace, shared);
    // Before the file is finished, which takes as long as the disk wants.
    let stopped = log.stop().map_err(|e| e.to_string());
    let finished = finish(trace).map_err(|e| file_error(&request.path)(e).to_string());
    watched.and(stopped).and(finished)
}

/// Windows without gaps until the time is over.
fn watch(
    request: &RecordingRequest,
    log: &mut impl DirtyLog,
    trace: &mut Writer<BufWriter<File>>,
    shared: &Shared,
) -> Result<(), String> {
    let begun = Instant::now();
    let mut budget = FaultBudget::new(request.window, request.tracked_write, request.share);
    let (mut last, mut window) = (Duration::ZERO, request.window);
    while last < request.length && !shared.is_ending() {
        // Not cut off where the time is over: a shorter window would cost a greater share.
        let due = last + window;
        while begun.elapsed() < due && !shared.is_ending() {
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
        let at = begun.elapsed();
        let dirty = log.look().map_err(|e| e.to_string())?;
        log.clear(&dirty).map_err(|e| e.to_string())?;
        let look = begun.elapsed() - at;
        let (length, faults) = (at - last, dirty.len());
        let sample = Sample {
            at,
            window: length,
            dirty,
        };
        let added = trace.add(&sample);
        added.map_err(|e| file_error(&request.path)(e).to_string())?;
        shared.update(|status| {
            status.length = at;
            status.windows += 1;
            status.faults += faults;
            status.longest_window = status.longest_window.max(length);
            status.longest_look = status.longest_look.max(look);
            status.looks += look;
            status.consumed = thread_cpu_time();
        });
        last = at;
        window = budget.next(length, faults).map_err(|e| e.to_string())?;
        let leased = shared.lease.check(Instant::now());
        leased.map_err(|e| e.to_string())?;
    }
    Ok(())
}

fn finish(trace: Writer<BufWriter<File>>) -> io::Result<()> {
    trace.finish()?.into_inner()?.sync_all()
}

impl RunningVm {
    /// Begins to record what the guest writes. One recording at a time.
    ///
    /// # Errors
    /// [`RecordingError`].
    pub fn record(&mut self, request: RecordingRequest) -> Result<(), RecordingError> {
        if self
            .recording
            .as_ref()
            .is_some_and(|own| !own.status().is_over)
        {
            return Err(RecordingError::Busy(self.name().to_owned()));
        }
        let pages = migration::ram::GuestRam::pages(&GuestPages::new(self.machine.ram().clone()));
        let log = self.dirty_pages(Beginning::Clean);
        self.recording = Some(Recording::begin(request, log, pages)?);
        Ok(())
    }

    /// The last recording.
    #[must_use]
    pub fn recording(&self) -> Option<&Recording> {
        self.recording.as_ref()
    }
}

#[cfg(test)]
mod tests;

//! Records which pages a running guest writes, window after window, into a trace that migrations can be replayed over.
//!
//! A thread of its own looks at the log and clears it at the end of each window. What that costs the guest is a fault for each page that is
//! dirty at a window's end; where these would take more of its time than they may, windows get longer.

use std::fs::{File, OpenOptions};
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

use super::running::RunningVm;
use crate::dirty::{Beginning, DirtyPages, GuestPages};

/// No window is longer, however much is written.
const LONGEST_WINDOW: Duration = Duration::from_secs(1);

/// What is to be recorded.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordingRequest {
    /// The trace; it must not exist.
    pub path: PathBuf,
    /// How long.
    pub length: Duration,
    /// Length of a window, if that costs no more than it may.
    pub window: Duration,
    /// What the first write to a page in a window costs the guest.
    pub tracked_write: Duration,
    /// Share of the guest's time that this may take.
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

#[derive(Debug, Default)]
struct Shared {
    is_ending: AtomicBool,
    status: Mutex<RecordingStatus>,
}

impl Shared {
    fn update(&self, change: impl FnOnce(&mut RecordingStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Recording {
    /// Begins to record the memory of which `log` is the log.
    ///
    /// # Errors
    /// [`RecordingError`]; there is no file then.
    pub fn begin(
        request: RecordingRequest,
        mut log: DirtyPages,
        pages: u64,
    ) -> Result<Self, RecordingError> {
        check(&request)?;
        log.start()?;
        let failed = |source| RecordingError::File {
            path: request.path.clone(),
            source,
        };
        let writer = create_private(&request.path).map_err(failed)?;
        let writer = Writer::new(BufWriter::new(writer), pages).map_err(failed)?;
        let shared = Arc::new(Shared::default());
        shared.update(|status| status.pages = pages);
        let own = Arc::clone(&shared);
        let path = request.path.clone();
        let run = move || {
            // Signals are for others.
            let _ = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
            let recorded = record(&request, &mut log, writer, &own);
            let error = recorded
                .and_then(|()| log.stop().map_err(|e| e.to_string()))
                .err();
            own.update(|status| {
                status.error = error;
                status.is_over = true;
            });
        };
        let thread = std::thread::Builder::new()
            .name("recorder".to_owned())
            .spawn(run);
        let thread = thread.map_err(|source| RecordingError::File { path, source })?;
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

/// A guest's writes are nobody else's.
fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
}

/// Windows without gaps until the time is over.
fn record(
    request: &RecordingRequest,
    log: &mut impl DirtyLog,
    mut trace: Writer<BufWriter<File>>,
    shared: &Shared,
) -> Result<(), String> {
    let begun = Instant::now();
    let (mut last, mut window) = (Duration::ZERO, request.window);
    let mut end = false;
    while !end && last < request.length {
        let due = (last + window).min(request.length);
        while begun.elapsed() < due && !shared.is_ending.load(Ordering::Acquire) {
            std::thread::park_timeout(due.saturating_sub(begun.elapsed()));
        }
        end = shared.is_ending.load(Ordering::Acquire);
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
        trace.add(&sample).map_err(|e| e.to_string())?;
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
        window = next_window(request, faults);
    }
    let file = trace.finish().map_err(|e| e.to_string())?;
    let file = file.into_inner().map_err(|e| e.to_string())?;
    file.sync_all().map_err(|e| e.to_string())
}

/// As long as wanted, or as what the last window has cost may be spread over.
fn next_window(request: &RecordingRequest, faults: u64) -> Duration {
    let faults = u32::try_from(faults).unwrap_or(u32::MAX);
    let cost = request.tracked_write.saturating_mul(faults).as_secs_f64();
    let needed = Duration::try_from_secs_f64(cost / request.share).unwrap_or(LONGEST_WINDOW);
    needed.clamp(request.window, LONGEST_WINDOW)
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
mod tests {
    use super::*;
    use migration::ram::{PageNumber, PageRange, PageSet};
    use migration::trace::Reader;

    /// A guest that writes the same pages all the time.
    struct Busy(PageSet);

    impl DirtyLog for Busy {
        fn start(&mut self) -> Result<(), RamError> {
            Ok(())
        }
        fn look(&mut self) -> Result<PageSet, RamError> {
            Ok(self.0.clone())
        }
        fn clear(&mut self, _: &PageSet) -> Result<(), RamError> {
            Ok(())
        }
        fn stop(&mut self) -> Result<(), RamError> {
            Ok(())
        }
    }

    fn request(path: PathBuf, share: f64) -> RecordingRequest {
        RecordingRequest {
            path,
            length: Duration::from_millis(300),
            window: Duration::from_millis(5),
            tracked_write: Duration::from_micros(20),
            share,
        }
    }

    fn recorded(share: f64) -> (RecordingStatus, Vec<Sample>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let mut pages = PageSet::empty(1000);
        pages.insert_range(PageRange {
            first: PageNumber(100),
            count: 500,
        });
        let writer = BufWriter::new(create_private(&path).unwrap());
        let (shared, request) = (Shared::default(), request(path.clone(), share));
        let trace = Writer::new(writer, 1000).unwrap();
        record(&request, &mut Busy(pages), trace, &shared).unwrap();
        let samples = Reader::new(File::open(path).unwrap()).unwrap();
        let status = shared.status.lock().unwrap().clone();
        (status, samples.collect::<Result<_, _>>().unwrap())
    }

    #[test]
    fn windows_follow_each_other_and_fill_the_time() {
        let (status, samples) = recorded(1.0);
        let mut last = Duration::ZERO;
        for sample in &samples {
            assert_eq!(sample.at - sample.window, last);
            assert_eq!(sample.dirty.len(), 500);
            last = sample.at;
        }
        assert!(last >= Duration::from_millis(300));
        assert_eq!(status.windows, samples.len() as u64);
        assert_eq!(status.faults, 500 * status.windows);
    }

    #[test]
    fn a_guest_that_writes_much_is_looked_at_as_seldom_as_its_faults_must_be() {
        // 500 faults of 20 us in 5 % of the time: 200 ms.
        let (status, samples) = recorded(0.05);
        assert_eq!(samples.len(), 3, "{samples:?}");
        assert!(status.longest_window >= Duration::from_millis(200));
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        let refused = |change: fn(&mut RecordingRequest)| {
            let mut request = request(PathBuf::new(), 0.05);
            change(&mut request);
            check(&request).unwrap_err().to_string()
        };
        let text = refused(|request| request.share = 0.0);
        assert_eq!(text, "the share is 0; it has to be above 0 and at most 1");
        let text = refused(|request| request.window = Duration::from_secs(2));
        assert_eq!(text, "the window is 2s; it has to be between 1ms and 1s");
        let text = refused(|request| request.length = Duration::ZERO);
        assert_eq!(
            text,
            "the time to record is 0ns; it has to be at least one window"
        );
    }
}

use super::*;
use migration::ram::{PageNumber, PageRange, PageSet};
use migration::trace::Reader;

/// A guest that writes the same pages all the time.
struct Busy {
    pages: PageSet,
    can_start: bool,
    is_on: bool,
    /// How often the log can be read.
    looks: u32,
}

/// 500 pages of 1000.
fn busy() -> Busy {
    let mut pages = PageSet::empty(1000);
    pages.insert_range(PageRange {
        first: PageNumber(100),
        count: 500,
    });
    Busy {
        pages,
        can_start: true,
        is_on: true,
        looks: u32::MAX,
    }
}

fn broken(what: &'static str) -> RamError {
    RamError::Host {
        what,
        source: "no more".into(),
    }
}

impl DirtyLog for Busy {
    fn start(&mut self) -> Result<(), RamError> {
        self.is_on = self.can_start;
        if self.can_start {
            return Ok(());
        }
        Err(broken("track"))
    }
    fn look(&mut self) -> Result<PageSet, RamError> {
        self.looks = self.looks.checked_sub(1).ok_or_else(|| broken("look"))?;
        Ok(self.pages.clone())
    }
    fn clear(&mut self, _: &PageSet) -> Result<(), RamError> {
        Ok(())
    }
    fn stop(&mut self) -> Result<(), RamError> {
        self.is_on = false;
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

/// What a recording of a busy guest says and leaves behind.
fn recorded_by(
    request: RecordingRequest,
    log: &mut impl DirtyLog,
    unasked: Duration,
) -> (Result<(), String>, RecordingStatus, Vec<Sample>) {
    let writer = BufWriter::new(create_private(&request.path).unwrap());
    let shared = Shared::new(1000, unasked);
    let trace = Writer::new(writer, 1000).unwrap();
    let result = record(&request, log, trace, &shared);
    // Complete, whatever happened.
    let samples = Reader::new(File::open(request.path).unwrap()).unwrap();
    let status = shared.status.lock().unwrap().clone();
    (result, status, samples.collect::<Result<_, _>>().unwrap())
}

fn recorded(share: f64) -> (Result<(), String>, RecordingStatus, Vec<Sample>) {
    let dir = tempfile::tempdir().unwrap();
    let request = request(dir.path().join("trace"), share);
    recorded_by(request, &mut busy(), UNASKED)
}

#[test]
fn windows_follow_each_other_and_fill_the_time() {
    let (result, status, samples) = recorded(1.0);
    result.unwrap();
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
    // 500 faults of 20 us in 5 % of the time: 195 ms that the first window lacked, and 220 for the next.
    let (result, status, samples) = recorded(0.05);
    result.unwrap();
    assert_eq!(samples.len(), 2, "{samples:?}");
    assert!(status.longest_window >= Duration::from_millis(410));
    let cost = Duration::from_micros(20) * u32::try_from(status.faults).unwrap();
    assert!(cost.as_secs_f64() <= status.length.as_secs_f64() * 0.05);
}

#[test]
fn a_guest_that_writes_too_much_for_its_share_is_not_recorded_on() {
    // 10 ms of faults are 1 % of a second.
    let (result, status, samples) = recorded(0.005);
    let error = result.unwrap_err();
    assert!(error.ends_with("raise --cost to 1"), "{error}");
    assert!(
        error.contains("1.00 %") && error.contains("0.50 %"),
        "{error}"
    );
    assert_eq!((status.windows, samples.len()), (1, 1));
}

#[test]
fn a_recording_of_which_nobody_asks_ends_and_its_trace_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let request = RecordingRequest {
        length: Duration::from_secs(3600),
        ..request(dir.path().join("trace"), 1.0)
    };
    let mut log = busy();
    let (result, status, samples) = recorded_by(request, &mut log, Duration::from_millis(100));
    let error = result.unwrap_err();
    assert!(error.starts_with("nobody has asked for 100ms"), "{error}");
    assert!(!log.is_on);
    assert_eq!(status.windows, samples.len() as u64);
    assert!(status.length >= Duration::from_millis(90), "{status:?}");
}

#[test]
fn tracking_ends_when_the_trace_cannot_be_written_or_the_log_be_read() {
    let mut log = busy();
    let request = request("/dev/full".into(), 1.0);
    let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let trace = Writer::new(BufWriter::new(file), 1000).unwrap();
    let error = record(&request, &mut log, trace, &Shared::new(1000, UNASKED)).unwrap_err();
    assert!(error.starts_with("cannot write /dev/full: "), "{error}");
    assert!(!log.is_on);

    let dir = tempfile::tempdir().unwrap();
    let request = self::request(dir.path().join("trace"), 1.0);
    let mut log = Busy { looks: 3, ..busy() };
    let (result, _, samples) = recorded_by(request, &mut log, UNASKED);
    assert!(result.unwrap_err().contains("cannot look"));
    assert!(!log.is_on);
    assert_eq!(samples.len(), 3);
}

#[test]
fn a_guest_that_cannot_be_tracked_leaves_no_file_and_no_file_leaves_the_guest_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("trace");
    let log = Busy {
        can_start: false,
        ..busy()
    };
    let error = Recording::begin(request(path.clone(), 1.0), log, 1000).unwrap_err();
    assert!(matches!(error, RecordingError::Tracking(_)), "{error}");
    assert!(!path.exists());
    // Somebody else's file stays, and its log would not start either.
    std::fs::write(&path, "another").unwrap();
    let log = Busy {
        can_start: false,
        ..busy()
    };
    let error = Recording::begin(request(path.clone(), 1.0), log, 1000).unwrap_err();
    assert!(matches!(error, RecordingError::File { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"another");
}

#[test]
fn whoever_asks_keeps_a_recording_going() {
    let dir = tempfile::tempdir().unwrap();
    let recording = Recording::begin(request(dir.path().join("trace"), 1.0), busy(), 1000).unwrap();
    let before = Instant::now() + UNASKED;
    std::thread::sleep(Duration::from_millis(5));
    let _ = recording.status();
    assert!(recording.shared.lease.check(before).is_err());
    let _ = recording.ask();
    assert!(recording.shared.lease.check(before).is_ok());
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

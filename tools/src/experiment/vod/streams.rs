//! Who sends the streams and has CPU time for that: ffmpeg processes as jobs of VTMs, or a guest.

use std::time::{Duration, Instant};

use super::ffmpeg::{self, Size};
use super::listening::Listener;
use super::network::{GOLD_TARGET, Network};
use super::quality::{BEST_EFFORT, GOLD, Pair};
use super::vtms::Vtms;
use crate::experiment::namespaces::program;
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};

/// A stream that has sent so many packets streams.
const STREAMS: usize = 8;
/// How long a stream may take to begin, beside whatever else the host does.
const PATIENCE: Duration = Duration::from_secs(20);
const GLANCE: Duration = Duration::from_millis(5);
/// How many transcode.
const TRANSCODING: u16 = 2;

/// The senders of a scenario.
pub trait Senders {
    /// Starts stream `number`, if it does not start by itself.
    fn start(&mut self, number: u16) -> Result<(), ExperimentError>;

    /// Waits until the next stream that was started streams, and lets it have gold's CPU time.
    fn begin(&mut self, number: u16, at: (&Listener, &dyn Fn())) -> Result<(), ExperimentError>;

    /// What gold and best effort have of the CPU.
    fn cpu(&self) -> Pair;

    /// Gives both other shares, at once; how long that took.
    fn adapt(&mut self, cpu: Pair) -> Result<Duration, ExperimentError>;

    /// CPU time that gold has had.
    fn used(&self) -> Duration;
}

/// Processes as jobs of VTMs. Fields are dropped in this order: VTMs leave processes as they were found, then these are
/// ended.
pub struct Processes<'a> {
    vtms: Vtms,
    /// In the order of their numbers.
    streams: Vec<Part>,
    transcoding: Vec<Part>,
    size: Size,
    at: (&'a Stage, &'a Network),
}

impl<'a> Processes<'a> {
    /// Streams of pictures of this size, none yet.
    pub fn new(vtms: Vtms, size: Size, at: (&'a Stage, &'a Network)) -> Self {
        Self {
            vtms,
            streams: Vec::new(),
            transcoding: Vec::new(),
            size,
            at,
        }
    }

    /// Starts transcoding as jobs of best effort.
    pub fn transcode(&mut self) -> Result<(), ExperimentError> {
        let (stage, network) = self.at;
        let words = ffmpeg::transcoding(&super::film(stage));
        for number in 1..=TRANSCODING {
            let name = format!("transcoding {number}");
            let part = Part::start(&name, &stage.folder, program(&network.source, &words))?;
            self.vtms.add(BEST_EFFORT, part.pid())?;
            self.transcoding.push(part);
        }
        Ok(())
    }
}

impl Senders for Processes<'_> {
    fn start(&mut self, number: u16) -> Result<(), ExperimentError> {
        let (stage, network) = self.at;
        let words = ffmpeg::stream(number, self.size, &GOLD_TARGET.to_string());
        let name = format!("stream {}", number + 1);
        let part = Part::start(&name, &stage.folder, program(&network.source, &words))?;
        self.streams.push(part);
        Ok(())
    }

    /// The stream is a job of gold as soon as it streams: what its start took of CPU time was not gold's.
    fn begin(&mut self, number: u16, at: (&Listener, &dyn Fn())) -> Result<(), ExperimentError> {
        if let Some(part) = self.streams.get_mut(usize::from(number)) {
            wait(number, part, at)?;
            self.vtms.add(GOLD, part.pid())?;
        }
        Ok(())
    }

    fn cpu(&self) -> Pair {
        self.vtms.cpu()
    }

    fn adapt(&mut self, cpu: Pair) -> Result<Duration, ExperimentError> {
        self.vtms.adapt(cpu)
    }

    fn used(&self) -> Duration {
        self.vtms.gold_time()
    }
}

/// Waits until a stream of `part` streams.
pub fn wait(
    number: u16,
    part: &mut Part,
    (departures, glance): (&Listener, &dyn Fn()),
) -> Result<(), ExperimentError> {
    let begin = Instant::now();
    while departures.count(usize::from(number)) < STREAMS {
        if let Some(error) = part.ended() {
            return Err(error);
        }
        if begin.elapsed() > PATIENCE {
            return Err(ExperimentError::NoStream {
                name: format!("stream {}", number + 1),
                patience: PATIENCE,
                stderr: part.stderr().to_owned(),
            });
        }
        interrupt::sleep(GLANCE, glance)?;
    }
    Ok(())
}

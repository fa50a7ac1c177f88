//! Streams that run: ffmpeg processes in the source's namespace, each a job of gold once it streams.

use std::time::{Duration, Instant};

use super::ffmpeg::{self, Size};
use super::listening::Listener;
use super::network::{GOLD_TARGET, Network, program};
use super::quality::GOLD;
use super::vtms::Vtms;
use crate::experiment::process::Part;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};

/// A stream that has sent so many packets streams.
const STREAMS: usize = 8;
/// How long a stream may take to begin, beside whatever else the host does.
const PATIENCE: Duration = Duration::from_secs(15);
const GLANCE: Duration = Duration::from_millis(5);

/// Starts stream `number`, on an ordinary CPU.
pub fn start(
    number: u16,
    size: Size,
    (stage, network): (&Stage, &Network),
) -> Result<Part, ExperimentError> {
    let words = ffmpeg::stream(number, size, &GOLD_TARGET.to_string());
    let name = format!("stream {}", number + 1);
    Part::start(&name, &stage.folder, program(&network.source, &words))
}

/// Waits until a stream streams.
pub fn wait(
    number: u16,
    part: &mut Part,
    departures: &Listener,
    glance: &dyn Fn(),
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

/// Makes a stream a job of gold: what its start took of CPU time was not gold's.
pub fn admit(part: &Part, vtms: &mut Vtms) -> Result<String, ExperimentError> {
    vtms.add(GOLD, part.pid())
}

//! The real parts: ffmpeg streams MPEG-TS over RTP at a constant rate, and transcodes.
//!
//! A stream draws and encodes its pictures while it sends them, one every 40 ms. How much CPU time that takes is chosen by
//! the size of the pictures; the rate on the wire does not depend on it, as the multiplexer fills up with null packets.

use std::path::Path;
use std::process::{Command, Stdio};

use super::listening::port;
use crate::experiment::ExperimentError;

/// Frames in a second.
pub const FRAMES: u32 = 25;
/// What a stream takes on the wire, in bit/s, link-layer headers included.
pub const WIRE_RATE: u64 = 1_214_000;
/// MPEG-TS packets of 188 bytes in an RTP packet: as many as an Ethernet frame takes (RFC 2250, 2).
const TS_BYTES: u64 = 7 * 188;
/// Headers of RTP, UDP, IPv4 and Ethernet.
const HEADERS: u64 = 12 + 8 + 20 + 14;
/// The rate of the multiplexer, in bit/s.
const MUX_RATE: u64 = WIRE_RATE * TS_BYTES / (TS_BYTES + HEADERS);
/// The picture's own rate, in kbit/s: what leaves room for the multiplexer's tables and headers.
const VIDEO_KBITS: u64 = 950;
/// Length of the file that is transcoded, in seconds.
const FILE_SECONDS: u32 = 4;

/// The size of a picture: 4:3, in whole macroblocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// In pixels.
    pub width: u32,
    /// In pixels.
    pub height: u32,
}

impl Size {
    /// What the search for a size begins with.
    pub const FIRST: Self = Self {
        width: 528,
        height: 400,
    };
    const LEAST: f64 = 128.0 * 96.0;
    const MOST: f64 = 1_920.0 * 1_440.0;

    /// The size with about `factor` times the pixels.
    pub fn scaled(self, factor: f64) -> Self {
        let pixels = f64::from(self.width) * f64::from(self.height) * factor;
        let pixels = pixels.clamp(Self::LEAST, Self::MOST);
        let width = multiple((pixels * 4.0 / 3.0).sqrt(), 16);
        Self {
            width,
            height: multiple(pixels / f64::from(width), 2),
        }
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

/// The multiple of `of` that is nearest to `value`.
fn multiple(value: f64, of: u32) -> u32 {
    let mut count = 1;
    while f64::from(count * of) + f64::from(of) / 2.0 < value {
        count += 1;
    }
    count * of
}

/// Whether ffmpeg is there and has what is needed.
pub fn check() -> Result<(), ExperimentError> {
    let asked = Command::new("ffmpeg")
        .args([
            "-hide_banner",
            "-loglevel",
            "error",
            "-h",
            "encoder=libx264",
        ])
        .stdin(Stdio::null())
        .output();
    let told = |why: String| ExperimentError::Ffmpeg { why };
    let output = asked.map_err(|error| told(format!("ffmpeg cannot be started: {error}")))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !text.contains("Encoder libx264") {
        return Err(told("this ffmpeg has no encoder libx264".to_owned()));
    }
    Ok(())
}

fn quiet() -> Vec<String> {
    words("ffmpeg -hide_banner -loglevel error -nostdin -nostats -filter_threads 1")
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// The command that sends stream `number` to `to` for as long as it runs. `realtime` lets a picture through when its time has come, and
/// after a delay as fast as it can: none is left out.
pub fn stream(number: u16, size: Size, to: &str) -> Vec<String> {
    let mut command = quiet();
    let source = format!("testsrc2=size={size}:rate={FRAMES},realtime=limit=3600");
    command.extend(words("-f lavfi -i"));
    command.push(source);
    // Frames of about the same size and cost: no key frames, but a part of each picture anew.
    command.extend(words(
        "-c:v libx264 -preset medium -tune zerolatency -threads 1 \
         -x264-params keyint=25:min-keyint=25:ref=1:intra-refresh=1:nal-hrd=cbr",
    ));
    command.extend(words(&format!(
        "-b:v {VIDEO_KBITS}k -minrate {VIDEO_KBITS}k -maxrate {VIDEO_KBITS}k -bufsize 40k"
    )));
    command.extend(words("-f rtp_mpegts -mpegts_muxer_options"));
    command.push(format!("muxrate={MUX_RATE}:pat_period=0.5:sdt_period=5"));
    let packet = TS_BYTES + 12;
    command.push(format!("rtp://{to}:{}?pkt_size={packet}", port(number)));
    command
}

/// Makes the file that is transcoded.
pub fn make_file(file: &Path) -> Result<(), ExperimentError> {
    let mut command = quiet();
    command.extend(words("-y -f lavfi -i"));
    command.push(format!(
        "testsrc2=size=640x480:rate={FRAMES}:duration={FILE_SECONDS}"
    ));
    command.extend(words("-c:v mpeg2video -b:v 4000k -f mpegts"));
    command.push(file.display().to_string());
    let output = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .output()
        .map_err(ExperimentError::io("start ffmpeg"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(ExperimentError::Part {
        name: "ffmpeg, making the file to transcode,".to_owned(),
        status: output.status.to_string(),
        said,
    })
}

/// The command that transcodes the file again and again, as fast as it can.
pub fn transcoding(file: &Path) -> Vec<String> {
    let mut command = quiet();
    command.extend(words("-stream_loop -1 -threads 1 -i"));
    command.push(file.display().to_string());
    command.extend(words(
        "-c:v libx264 -preset medium -threads 1 -b:v 1000k -f null -",
    ));
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_stream_of_the_multiplexers_rate_takes_the_papers_rate_on_the_wire() {
        // One packet of 1370 bytes for every 1316 of MPEG-TS.
        let wire = MUX_RATE * 1_370 / 1_316;
        assert!(WIRE_RATE.abs_diff(wire) <= 2, "{wire}");
    }

    proptest! {
        #[test]
        fn a_scaled_size_has_about_the_pixels_asked_for_and_can_be_encoded(factor in 0.2f64..8.0) {
            let size = Size::FIRST.scaled(factor);
            let pixels = |size: Size| f64::from(size.width * size.height);
            let got = pixels(size) / pixels(Size::FIRST);
            prop_assert!((got / factor - 1.0).abs() < 0.02, "{size} is {got}, not {factor}");
            prop_assert_eq!((size.width % 16, size.height % 2), (0, 0));
        }
    }
}

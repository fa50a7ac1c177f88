//! Guests that send as much as they are told to, and what a tree lets through.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

/// Bytes before each frame of a tap.
pub const HEADER: usize = 12;
/// Between two bursts of a sender.
const TURN: Duration = Duration::from_millis(1);
/// A frame of an experimental protocol (IEEE 802a).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];
const IPV4: [u8; 2] = [0x08, 0x00];

/// A frame that no host answers, behind an empty header.
pub fn frame(from: [u8; 6], to: [u8; 6], length: usize) -> Vec<u8> {
    let mut frame = vec![0; HEADER];
    frame.extend(to);
    frame.extend(from);
    frame.extend(EXPERIMENT);
    frame.resize(HEADER + length, 0x5a);
    frame
}

/// The source of a frame made by [`frame`]; nothing for others.
pub fn source(bytes: &[u8]) -> Option<[u8; 6]> {
    let is_ours = bytes.get(HEADER + 12..HEADER + 14)? == EXPERIMENT;
    bytes
        .get(HEADER + 6..)?
        .first_chunk()
        .copied()
        .filter(|_| is_ours)
}

/// A frame of TCP with `payload` bytes that are to be cut into segments of 1448 (`struct virtio_net_hdr_v1`).
pub fn large_frame(from: [u8; 6], to: [u8; 6], payload: u16) -> Vec<u8> {
    const CUT_TCP4: u8 = 1;
    const CHECKSUM_MISSING: u8 = 1;
    let mut bytes = vec![CHECKSUM_MISSING, CUT_TCP4];
    for number in [54u16, 1448, 34, 16, 0] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(to);
    bytes.extend(from);
    bytes.extend(IPV4);
    bytes.extend(ipv4_header(payload + 40));
    // Ports, numbers, a header of five words, ACK.
    bytes.extend([
        0, 9, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    bytes.resize(HEADER + 54 + usize::from(payload), 0);
    bytes
}

/// From 10.77.0.2 to 10.77.0.3, TCP. Bridges look at the checksum where netfilter sees what they forward.
fn ipv4_header(total: u16) -> Vec<u8> {
    let words = [0x4500, total, 1, 0x4000, 0x4006, 0, 0x0a4d, 2, 0x0a4d, 3];
    let sum: u32 = words.iter().map(|word| u32::from(*word)).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).expect("folded twice");
    let words = words.iter().enumerate();
    let words = words.map(|(at, word)| if at == 5 { checksum } else { *word });
    words.flat_map(u16::to_be_bytes).collect()
}

/// A thread that runs until this is dropped.
pub struct Background {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    fn start(mut turn: impl FnMut() + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let run = move || {
            while !seen.load(Ordering::Relaxed) {
                turn();
            }
        };
        let thread = Some(thread::spawn(run));
        Self { stop, thread }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

/// Writes `frame` to a tap as often as makes `bits` per second of frames on the wire.
pub fn flood(tap: &File, frame: Vec<u8>, bits: u64) -> Background {
    let mut tap = tap.try_clone().expect("a descriptor");
    let size = u64::try_from(frame.len() - HEADER).expect("a frame's length") * 8;
    let begun = Instant::now();
    let mut sent = 0;
    Background::start(move || {
        let due = begun.elapsed().as_micros() * u128::from(bits) / 1_000_000;
        while u128::from(sent) < due {
            // A tap whose owner is about to end says EIO; the test sees what did not come.
            let _ = tap.write(&frame);
            sent += size;
        }
        thread::sleep(TURN);
    })
}

/// Sends back what comes from `from`.
pub fn echo(tap: &File, own: [u8; 6], from: [u8; 6]) -> Background {
    let mut tap = tap.try_clone().expect("a descriptor");
    let mut buffer = vec![0; 1 << 17];
    Background::start(move || {
        let Some(length) = read_within(&mut tap, &mut buffer, 20) else {
            return;
        };
        if source(&buffer[..length]) == Some(from) {
            buffer[HEADER..HEADER + 6].copy_from_slice(&from);
            buffer[HEADER + 6..HEADER + 12].copy_from_slice(&own);
            let _ = tap.write(&buffer[..length]);
        }
    })
}

/// Reads and forgets.
pub fn drain(tap: &File) -> Background {
    let mut tap = tap.try_clone().expect("a descriptor");
    let mut buffer = vec![0; 1 << 17];
    Background::start(move || {
        let _ = read_within(&mut tap, &mut buffer, 20);
    })
}

fn read_within(tap: &mut File, buffer: &mut [u8], millis: u8) -> Option<usize> {
    match tap.read(buffer) {
        Ok(length) => return Some(length),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(error) => panic!("{error}"),
    }
    let mut descriptors = [PollFd::new(tap.as_fd(), PollFlags::POLLIN)];
    let _ = poll(&mut descriptors, millis);
    None
}

/// Round-trip times of small frames sent one after the other, in order of length.
pub fn round_trips(tap: &File, own: [u8; 6], to: [u8; 6], count: usize) -> Vec<Duration> {
    let mut tap = tap.try_clone().expect("a descriptor");
    let frame = frame(own, to, 100);
    let mut buffer = vec![0; 1 << 17];
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            thread::sleep(Duration::from_millis(2));
            let begun = Instant::now();
            tap.write_all(&frame).expect("a frame is written");
            loop {
                let length = read_within(&mut tap, &mut buffer, 20);
                if length.and_then(|length| source(&buffer[..length])) == Some(to) {
                    return begun.elapsed();
                }
                assert!(begun.elapsed() < Duration::from_secs(5), "no answer");
            }
        })
        .collect();
    times.sort();
    times
}

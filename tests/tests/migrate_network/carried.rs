//! Connections that carry as much as they can, and what they have carried.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rt_abi::flow;

use crate::PATIENCE;

/// What a connection has carried so far, and the longest time in which it carried nothing.
#[derive(Default)]
pub struct Carried {
    bytes: AtomicU64,
    longest: AtomicU64,
    stop: AtomicBool,
}

impl Carried {
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// In milliseconds.
    pub fn longest_silence(&self) -> u64 {
        self.longest.load(Ordering::Relaxed)
    }

    pub fn forget_silences(&self) {
        self.longest.store(0, Ordering::Relaxed);
    }

    /// Waits until it has carried so much.
    pub fn more_than(&self, bytes: u64) {
        let begun = Instant::now();
        while self.bytes() < bytes {
            assert!(begun.elapsed() < PATIENCE, "{} of {bytes}", self.bytes());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Goes on until it is stopped, or the connection breaks.
    fn run(&self, mut step: impl FnMut(u64) -> usize) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let count = step(self.bytes());
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
            let gap = u64::try_from(last.elapsed().as_millis()).unwrap();
            self.longest.fetch_max(gap, Ordering::Relaxed);
            last = Instant::now();
        }
    }
}

/// Takes what the guest sends, every byte of it checked.
pub fn download(mut stream: TcpStream, carried: &Carried) {
    let (mut bytes, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    carried.run(|so_far| {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "closed after {so_far} bytes");
        flow::fill(&mut expected[..count], usize::try_from(so_far).unwrap());
        assert!(bytes[..count] == expected[..count], "after {so_far} bytes");
        count
    });
}

pub fn upload(mut stream: TcpStream, carried: &Carried) {
    let bytes = vec![7; 16 << 10];
    carried.run(|so_far| {
        stream
            .write(&bytes)
            .unwrap_or_else(|error| panic!("after {so_far} bytes: {error}"))
    });
}

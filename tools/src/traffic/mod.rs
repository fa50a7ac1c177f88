//! Load on networks, and what is measured with it: floods of datagrams, bulk streams, round trips, and frames of any kind
//! through a tap.
//!
//! All work on sockets and taps that are there: these belong to the namespace in which they were made, so whoever makes
//! them decides where the load is.

pub mod echo;
pub mod flood;
pub mod frame;
pub mod pace;
pub mod played;
pub mod stream;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

/// Whether a thread is to go on, and what it has counted.
#[derive(Clone, Debug, Default)]
pub struct Run {
    ended: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
}

impl Run {
    /// Whether it is to go on.
    pub fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Adds to the count.
    pub fn add(&self, more: u64) {
        self.count.fetch_add(more, Ordering::Relaxed);
    }
}

/// A thread that runs until this is dropped.
#[derive(Debug)]
pub struct Worker {
    run: Run,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    /// Starts it.
    pub fn start(name: &str, work: impl FnOnce(&Run) + Send + 'static) -> io::Result<Self> {
        let run = Run::default();
        let own = run.clone();
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .stack_size(256 << 10)
            .spawn(move || work(&own))?;
        Ok(Self {
            run,
            thread: Some(thread),
        })
    }

    /// What it has counted.
    pub fn count(&self) -> u64 {
        self.run.count.load(Ordering::Relaxed)
    }

    /// Tells it to end, without waiting for that.
    pub fn end(&self) {
        self.run.ended.store(true, Ordering::Relaxed);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            // A load that panicked has nothing left to undo.
            let _ = thread.join();
        }
    }
}

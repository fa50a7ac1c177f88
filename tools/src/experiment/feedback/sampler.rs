//! What budget the kernel has in force for a guest's vCPU, over time, without the guest's knowing: its thread is looked
//! up in /proc, and its parameters are read with sched_getattr(2).

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sched::kernel::{Policy, Tid, policy};

use crate::experiment::ExperimentError;
use crate::report::follow_plot::Level;

/// How often is looked: many times in a period.
const EVERY: Duration = Duration::from_millis(2);

/// Reads until it is asked for what it has read.
pub struct Sampler {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Level>>,
}

impl Sampler {
    /// Begins to look for the first vCPU of a guest that a child of this process runs.
    pub fn start() -> Result<Self, ExperimentError> {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::Builder::new()
            .name("sampler".to_owned())
            .spawn(move || sample(&told))
            .map_err(ExperimentError::io("start a thread"))?;
        Ok(Self { over, thread })
    }

    /// The runtimes that the kernel had in force, surplus included, from when the first of them was.
    pub fn finish(self) -> Vec<Level> {
        self.over.store(true, Ordering::Relaxed);
        // A panic of the thread would have ended the process.
        self.thread.join().unwrap_or_default()
    }
}

fn sample(over: &AtomicBool) -> Vec<Level> {
    let mut levels: Vec<Level> = Vec::new();
    let mut begun: Option<Instant> = None;
    let mut thread = None;
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(EVERY);
        thread = thread.or_else(vcpu_thread);
        let Some(Ok(Policy::Deadline { runtime, .. })) = thread.map(policy) else {
            continue;
        };
        let begun = *begun.get_or_insert_with(Instant::now);
        if levels.last().is_none_or(|last| last.value != runtime) {
            levels.push(Level {
                from: begun.elapsed(),
                value: runtime,
            });
        }
    }
    levels
}

/// The first vCPU's thread of a child process that has one.
fn vcpu_thread() -> Option<Tid> {
    let own = fs::read_dir("/proc/self/task").ok()?.flatten();
    let children = own.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    let children = children.collect::<Vec<_>>().join(" ");
    children.split_whitespace().find_map(|child| {
        let threads = fs::read_dir(format!("/proc/{child}/task")).ok()?;
        threads.flatten().find_map(|thread| {
            let name = fs::read_to_string(thread.path().join("comm")).ok()?;
            let tid = thread.file_name().to_str()?.parse().ok()?;
            (name.trim() == "vcpu0").then_some(Tid(tid))
        })
    })
}

//! Busy threads on the measured CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use sched::kernel::{Policy, Tid, set_policy};
use sched::partition::Partition;

use crate::failure::Failure;

/// What stands beside the guest in most rows: two ordinary threads and one of SCHED_FIFO 50.
pub const USUAL: [Policy; 3] = [Policy::Other, Policy::Other, Policy::Fifo { priority: 50 }];

/// Busy threads; dropping it ends them.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts one busy thread per policy in the partition of `cpu`.
    pub fn start(cpu: u32, policies: &[Policy]) -> Result<Self, Failure> {
        let mut load = Self {
            stop: Arc::new(AtomicBool::new(false)),
            threads: Vec::new(),
        };
        let (ready, results) = channel();
        for &policy in policies {
            let (stop, ready) = (Arc::clone(&load.stop), ready.clone());
            let thread = std::thread::Builder::new()
                .name("load".to_owned())
                .spawn(move || spin(cpu, policy, &stop, &ready))?;
            load.threads.push(thread);
        }
        // Every thread keeps its sender while it is busy, so the answers are counted.
        for result in results.iter().take(policies.len()) {
            result.map_err(|failure| failure.while_doing("starting the load"))?;
        }
        Ok(load)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic would have ended the process.
            let _ = thread.join();
        }
    }
}

fn spin(cpu: u32, policy: Policy, stop: &AtomicBool, ready: &Sender<Result<(), Failure>>) {
    let result = enter(cpu, policy);
    let is_in = result.is_ok();
    // The one who waits counts on an answer from each thread and is there until it has them.
    let _ = ready.send(result);
    while is_in && !stop.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

fn enter(cpu: u32, policy: Policy) -> Result<(), Failure> {
    let partition = Partition::of(cpu)
        .ok_or_else(|| Failure::new(format!("CPU {cpu} is not a partition any more")))?;
    partition.join(Tid::current())?;
    set_policy(Tid::current(), policy)?;
    Ok(())
}

//! What the tests of this crate share: what they need of the host, one at a time on the host, and partitions that are undone.

#![allow(
    dead_code,
    reason = "every test program uses its own part of this module"
)]

use std::path::Path;
use std::sync::mpsc;
use std::thread;

use sched::backend::{BackendError, CpuReservation, apply};
use sched::cgroup::Hierarchy;
use sched::kernel::Tid;
use sched::partition::Partition;
use sched::prepare;
use sched::request::Granted;
use system_tests::Need;
use system_tests::requires::{Capability, met};
use system_tests::turn::{self, Turn};

/// Whether partitions and real-time policies can be had here; records the skip of `test` if not.
pub fn partitions_to_be_had(test: &str) -> bool {
    let nice = Need::Capability(Capability::SysNice);
    met(test, &[Need::Root, nice, Need::Cpus(2)])
        && (Hierarchy::of("cpuset").is_ok() || met(test, &[Need::CgroupV1("cpuset")]))
}

/// Returns from the test, having said so, where no partition can be prepared.
#[macro_export]
macro_rules! requires_partitions {
    () => {
        if !$crate::support::partitions_to_be_had(system_tests::function_name!()) {
            return;
        }
    };
}

/// Holds the host: tests that change it or fill its bandwidth run one at a time, also those of other programs.
pub struct Host {
    pub turn: Turn,
}

impl Host {
    pub fn lock() -> Self {
        Self {
            turn: Turn::take(restore),
        }
    }
}

fn restore(run_dir: &Path) -> Result<(), String> {
    prepare::restore(run_dir)
        .map(drop)
        .map_err(|error| error.to_string())
}

/// A prepared partition of the last CPU, undone on drop.
pub struct Prepared {
    pub partition: Partition,
    run_dir: tempfile::TempDir,
}

impl Prepared {
    pub fn last_cpu(host: &Host) -> Self {
        let online = sched::cpus::online();
        let run_dir = tempfile::tempdir().unwrap();
        host.turn.uses(run_dir.path());
        let mut made = prepare::prepare(run_dir.path(), &online[online.len() - 1..]).unwrap();
        Self {
            partition: made.remove(0),
            run_dir,
        }
    }

    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        // A thread that has just ended may still be listed in its group, and a VM that found the partition may use it.
        if let Err(why) = turn::undo(self.run_dir.path(), restore) {
            eprintln!("{why}");
        }
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// A thread that sleeps until dropped, to set policies on; it can be asked to do something itself.
pub struct Sleeper {
    pub tid: Tid,
    work: Option<mpsc::Sender<Work>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Sleeper {
    pub fn start() -> Self {
        let (work, ordered) = mpsc::channel::<Work>();
        let thread = thread::spawn(move || ordered.into_iter().for_each(|work| work()));
        let (tell, told) = mpsc::channel();
        let ask: Work = Box::new(move || tell.send(Tid::current()).unwrap());
        work.send(ask).unwrap();
        Self {
            tid: told.recv().unwrap(),
            work: Some(work),
            thread: Some(thread),
        }
    }

    /// What `work` returns when the thread itself does it.
    pub fn does<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let work: Work = Box::new(move || tell.send(work()).unwrap());
        self.work.as_ref().unwrap().send(work).unwrap();
        told.recv().unwrap()
    }

    /// Puts a grant into force from the thread itself.
    pub fn applies(&self, granted: &Granted) -> Result<Box<dyn CpuReservation>, BackendError> {
        let granted = granted.clone();
        self.does(move || apply(Tid::current(), &granted))
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

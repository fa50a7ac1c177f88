//! Where an experiment takes place: one CPU, made a partition if that is possible, and everything undone at the end.
//!
//! The process that leads the experiment, and with it all it starts, keeps off that CPU; what is measured moves there
//! by itself. Panics end this program without unwinding, so a hook undoes then what a drop does otherwise; after a
//! kill -9 the next experiment does.

use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sched::cpus;
use sched::ledger::Ledger;
use sched::partition::Partition;
use sched::prepare::{self, PrepareError};
use serde::Serialize;

use super::{ExperimentError, interrupt};
use crate::command::Context;

/// What a reservation of the experiment rests on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Promise {
    /// A one-CPU partition.
    Partition {
        /// Whether it was made for this experiment and is undone after it.
        made_here: bool,
    },
    /// A passed global test, as no partition could be had.
    Global {
        /// Why not.
        why: String,
    },
}

impl std::fmt::Display for Promise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Partition { made_here: true } => {
                write!(
                    f,
                    "a one-CPU partition, made for this run and undone after it"
                )
            }
            Self::Partition { made_here: false } => {
                write!(f, "the one-CPU partition that was prepared before")
            }
            Self::Global { why } => write!(
                f,
                "a passed global EDF test only, which bounds tardiness but is no exact (Q, P): no partition ({why})"
            ),
        }
    }
}

/// The stage. Dropping it puts the host back as it was.
pub struct Stage {
    /// The CPU measured on.
    pub cpu: u32,
    /// What reservations rest on.
    pub promise: Promise,
    /// Folder for ledger, sockets and files of this experiment.
    pub folder: PathBuf,
    undo: Undo,
}

/// What a drop, the panic hook or a later experiment has to undo.
#[derive(Clone)]
struct Undo {
    run_dir: PathBuf,
    folder: PathBuf,
    prepared: bool,
}

/// For the panic hook, which has no other way to know.
static TO_UNDO: Mutex<Option<Undo>> = Mutex::new(None);

/// In the folder of an experiment that made a partition.
const MARKER: &str = "made-a-partition";
const FOLDER: &str = "experiment-";
/// Threads that were told to end leave a partition a little later.
const PATIENCE: Duration = Duration::from_secs(5);

/// The CPU to use: the one asked for, or the last one online.
pub fn choose_cpu(wanted: Option<u32>) -> Result<u32, ExperimentError> {
    let online = cpus::online();
    let cpu = wanted.or_else(|| online.last().copied()).unwrap_or(0);
    if !online.contains(&cpu) {
        let online = cpus::format(&online);
        return Err(ExperimentError::Offline { cpu, online });
    }
    Ok(cpu)
}

impl Stage {
    /// Sets the stage on `cpu`.
    pub fn set(context: &Context, cpu: u32) -> Result<Self, ExperimentError> {
        Self::set_on(context, cpu, None)
    }

    /// Sets the stage on `cpu`, and makes a partition of a second CPU too if one is given.
    pub fn set_on(
        context: &Context,
        cpu: u32,
        second: Option<u32>,
    ) -> Result<Self, ExperimentError> {
        let cpus: Vec<u32> = second.into_iter().chain([cpu]).collect();
        let mut undo = begin(context)?;
        let promise = match promise(&mut undo, &cpus) {
            Ok(promise) => promise,
            Err(error) => {
                undo.carry_out()?;
                return Err(error);
            }
        };
        if matches!(promise, Promise::Partition { .. }) {
            keep_off(&cpus);
        }
        Ok(Self {
            cpu,
            promise,
            folder: undo.folder.clone(),
            undo,
        })
    }

    /// The stage on a `cpu` that is left as it is: what is measured needs no reservation.
    pub fn without_partition(context: &Context, cpu: u32) -> Result<Self, ExperimentError> {
        let undo = begin(context)?;
        keep_off(&[cpu]);
        Ok(Self {
            cpu,
            promise: Promise::Global {
                why: "none is needed".to_owned(),
            },
            folder: undo.folder.clone(),
            undo,
        })
    }

    /// Puts the host back as it was.
    pub fn clear(self) -> Result<(), ExperimentError> {
        let undone = self.undo.carry_out();
        forget();
        // What could not be undone now cannot be undone by a drop either.
        std::mem::forget(self);
        undone.map_err(ExperimentError::from)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(error) = self.undo.carry_out() {
            eprintln!("warning: {error}; `chronovisor host restore` undoes the partition");
        }
        forget();
    }
}

/// The folder of this experiment, after those that were killed are cleared up after.
fn begin(context: &Context) -> Result<Undo, ExperimentError> {
    interrupt::watch()?;
    clear_up_after_crashes(&context.run_dir);
    let name = format!("{FOLDER}{}", std::process::id());
    let folder = context.run_dir.join(name);
    fs::create_dir_all(&folder)
        .map_err(ExperimentError::io(format!("create {}", folder.display())))?;
    let undo = Undo {
        run_dir: context.run_dir.clone(),
        folder,
        prepared: false,
    };
    undo_on_panic(&undo);
    Ok(undo)
}

fn forget() {
    if let Ok(mut undo) = TO_UNDO.lock() {
        *undo = None;
    }
}

fn promise(undo: &mut Undo, cpus: &[u32]) -> Result<Promise, ExperimentError> {
    let partitions: Vec<_> = cpus.iter().filter_map(|&cpu| Partition::of(cpu)).collect();
    for partition in &partitions {
        if let Some(&tid) = partition.threads().first() {
            let cpu = partition.cpu;
            return Err(ExperimentError::InUse { cpu, tid });
        }
    }
    if partitions.len() == cpus.len() {
        return Ok(Promise::Partition { made_here: false });
    }
    let marker = undo.folder.join(MARKER);
    fs::write(&marker, "").map_err(ExperimentError::io(format!("write {}", marker.display())))?;
    match prepare::prepare(&undo.run_dir, cpus) {
        Ok(_) => {
            undo.prepared = true;
            undo_on_panic(undo);
            Ok(Promise::Partition { made_here: true })
        }
        Err(error) => {
            let why = error.to_string();
            let _ = fs::remove_file(&marker);
            Ok(Promise::Global { why })
        }
    }
}

impl Undo {
    fn carry_out(&self) -> Result<(), PrepareError> {
        // Opening it removes the control groups of those that were ended without removing them.
        drop(Ledger::open(&self.folder));
        if self.prepared {
            restore(&self.run_dir, PATIENCE)?;
        }
        // Only our own files are in it; what cannot be removed now is removed after the next experiment.
        let _ = fs::remove_dir_all(&self.folder);
        Ok(())
    }
}

/// Restores the host; threads that are ending still get the time to leave.
pub fn restore(run_dir: &Path, patience: Duration) -> Result<(), PrepareError> {
    let started = Instant::now();
    loop {
        match prepare::restore(run_dir) {
            Err(PrepareError::InUse { .. }) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other.map(drop),
        }
    }
}

/// Registers what a panic has to undo. The parts end by themselves: the kernel tells them that this process is gone, and
/// until then they are in the partition, so a helper process waits for that.
fn undo_on_panic(undo: &Undo) {
    let Ok(mut slot) = TO_UNDO.lock() else {
        return;
    };
    if slot.replace(undo.clone()).is_some() {
        return;
    }
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        let undo = TO_UNDO.try_lock().ok().and_then(|mut slot| slot.take());
        if let Some(undo) = undo.filter(|undo| undo.prepared) {
            super::part::restore_later(&undo.run_dir, &undo.folder);
        }
    }));
}

/// Undoes what experiments left that were killed.
fn clear_up_after_crashes(run_dir: &Path) {
    let entries = fs::read_dir(run_dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(FOLDER)?.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        if Path::new(&format!("/proc/{pid}")).exists() {
            continue;
        }
        let undo = Undo {
            run_dir: run_dir.to_owned(),
            prepared: entry.path().join(MARKER).exists(),
            folder: entry.path(),
        };
        if let Err(error) = undo.carry_out() {
            eprintln!("warning: an earlier experiment was killed and cannot be undone: {error}");
        }
    }
}

/// Keeps this thread, and all threads and processes it starts, off some CPUs.
fn keep_off(off: &[u32]) {
    let mut others = CpuSet::new();
    for other in cpus::online().into_iter().filter(|cpu| !off.contains(cpu)) {
        let _ = others.set(other as usize);
    }
    // Fails only if the process's own cpuset has no other CPU: then there is nowhere else to go.
    let _ = sched_setaffinity(Pid::from_raw(0), &others);
}

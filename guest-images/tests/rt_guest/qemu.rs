//! Runs `rt-guest` under QEMU and reads what it prints.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rt_abi::record::{Kind, Record};
use rt_abi::taskset::TaskSet;

/// Long enough for every run here on a busy machine; a guest that hangs must not hang the tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tests that only look at times of the guest may run beside each other; those that keep both processors busy may not.
static PROCESSORS: RwLock<()> = RwLock::new(());

/// Has the machine for oneself.
pub fn alone() -> RwLockWriteGuard<'static, ()> {
    PROCESSORS.write().unwrap_or_else(PoisonError::into_inner)
}

/// Shares the machine with others.
pub fn among_others() -> RwLockReadGuard<'static, ()> {
    PROCESSORS.read().unwrap_or_else(PoisonError::into_inner)
}

/// A machine to run the guest on.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// `tcg` or `kvm`.
    pub accelerator: &'static str,
    /// `microvm` or `pc`.
    pub machine: &'static str,
    /// The processor, if not QEMU's usual one (which has no TSC-deadline timer).
    pub cpu: Option<&'static str>,
    /// Mebibytes of RAM.
    pub memory: u32,
}

impl Machine {
    /// 16 MiB and QEMU's usual processor.
    pub const fn new(accelerator: &'static str, machine: &'static str) -> Self {
        Self {
            accelerator,
            machine,
            cpu: None,
            memory: 16,
        }
    }

    /// Runs the guest with this command line to its end.
    pub fn run(&self, line: &str) -> Run {
        // The guest itself refuses what does not parse; some tests want just that.
        let set = TaskSet::parse(line).unwrap_or_default();
        let _shared = among_others();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("rt-guest");
        std::fs::write(&image, guest_images::RT_GUEST).unwrap();
        let mut child = self.start(&image, set.vcpus, line);
        let output = lines_of(&mut child);
        let status = wait(&mut child);
        Run {
            set,
            status,
            lines: output.recv().unwrap(),
        }
    }

    fn start(&self, image: &Path, vcpus: u16, line: &str) -> Child {
        let mut qemu = Command::new("qemu-system-x86_64");
        self.command(&mut qemu, image, vcpus, line);
        qemu.spawn().unwrap()
    }

    /// Completes the command that runs the guest in `image`.
    pub fn command(&self, qemu: &mut Command, image: &Path, vcpus: u16, line: &str) {
        qemu.args(["-M", self.machine, "-accel", self.accelerator])
            .args(["-m", &self.memory.to_string(), "-smp", &vcpus.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"])
            .arg("-kernel")
            .arg(image)
            .args(["-append", line]);
        if let Some(cpu) = self.cpu {
            qemu.args(["-cpu", cpu]);
        }
        qemu.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
    }
}

/// Reads the lines in a thread of its own: a guest whose output nobody takes would wait.
pub fn lines_of(child: &mut Child) -> mpsc::Receiver<Vec<String>> {
    let (sender, receiver) = mpsc::channel();
    let output = BufReader::new(child.stdout.take().unwrap());
    thread::spawn(move || {
        let lines = output.lines().map_while(Result::ok);
        sender.send(lines.collect())
    });
    receiver
}

/// The exit status; `None` for a guest that had to be stopped.
pub fn wait(child: &mut Child) -> Option<i32> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// A run of the guest that is over.
#[derive(Debug)]
pub struct Run {
    /// What was asked for.
    pub set: TaskSet,
    /// QEMU's exit status; `None` if the guest did not end by itself.
    pub status: Option<i32>,
    /// What it printed.
    pub lines: Vec<String>,
}

impl Run {
    /// The records that were printed, in this order.
    pub fn records(&self) -> Vec<Record> {
        self.lines
            .iter()
            .filter_map(|line| line.strip_prefix("R "))
            .map(|fields| record(fields).unwrap_or_else(|| panic!("no record: {fields:?}")))
            .collect()
    }

    /// The records of this kind.
    pub fn of_kind(&self, kind: Kind) -> Vec<Record> {
        let mut records = self.records();
        records.retain(|r| Kind::from_raw(r.kind) == Some(kind));
        records
    }

    /// The jobs of the task at this place of the set.
    pub fn jobs(&self, task: usize) -> Vec<Record> {
        let mut jobs = self.of_kind(Kind::Job);
        jobs.retain(|r| usize::from(r.task) == task);
        jobs
    }
}

fn record(fields: &str) -> Option<Record> {
    let fields: Vec<u64> = fields
        .split(' ')
        .map(|f| f.parse().ok())
        .collect::<Option<_>>()?;
    let [
        kind,
        vcpu,
        task,
        job,
        release,
        woken,
        start,
        finish,
        deadline,
        executed,
    ] = fields[..]
    else {
        return None;
    };
    Some(Record {
        kind: kind.try_into().ok()?,
        vcpu: vcpu.try_into().ok()?,
        task: task.try_into().ok()?,
        reserved: 0,
        job,
        release,
        woken,
        start,
        finish,
        deadline,
        executed,
    })
}

//! What the guest runs: a task set, written as the kernel command line.
//!
//! ```text
//! sched=rm|edf duration=10s seed=1 gap=300us start=50ms stream=1 tsc_khz=2000000 vcpus=2
//! task=NAME,c=30ms,t=150ms[,d=TIME][,o=TIME][,cpu=0][,prio=N][,gaps=1]    c=3ms..8ms: uniform per job
//! task=NAME,c=8ms,t=40ms,c2=24ms,step=10s                           every other 10 s its jobs take 24 ms
//! task=NAME,c=8ms,t=40ms,s=2ms            the last 2 ms of each job are a critical section: see [`Task::critical`]
//! task=NAME,t=10ms,dirty=PAGES[,region=16M][,pattern=seq|random|hot|zipf][,phase=5s][,content=count|random|half]
//!                                                                   touches so many pages a job, with or without c
//! hog=CPU                                                                 busy below every task
//! net=ADDRESS/PREFIX echo=PORT http=PORT rtp=ADDRESS:PORT ...           a network and services: see [`network`]
//! bench=pio[,n=20000][,port=0x80] | storm=pio|mmio | fault=triple|ud|hang|wild|memory    instead of tasks
//! ```
//!
//! Words are separated by spaces, times are numbers with `ns`, `us`, `ms` or `s`, sizes with `K`, `M` or `G` (powers of
//! 1024). An unknown or repeated key is an error: a guest that ignores a word measures something else than was asked.
//! The `Display` of a [`TaskSet`] is the inverse of [`TaskSet::parse`]. Whether the set is schedulable is not judged here.

mod check;
mod display;
mod error;
pub mod network;
mod parse;
#[cfg(test)]
mod tests;
mod units;

pub use error::{Limit, ParseError, Problem, Text};
pub use network::{Interface, Services, Stream, Transport};
pub use units::{Size, Time};

use core::fmt;

/// Most tasks in a set, hogs included.
pub const MAX_TASKS: usize = 32;
/// Most virtual CPUs of a guest.
pub const MAX_VCPUS: u16 = 16;
/// Bytes in a page of guest memory.
pub const PAGE: u64 = 4096;
/// Least period in nanoseconds; below it the guest would measure its own timer interrupt.
pub const LEAST_PERIOD: u64 = 100_000;
/// Longest time in nanoseconds, 1000 hours: sums and products of times stay far from overflow.
pub const LONGEST: u64 = 3_600_000_000_000_000;

/// Name of a task: 1 to 15 bytes of `A-Z a-z 0-9 - _ .`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; 15],
    len: u8,
}

impl Name {
    /// The name of every hog.
    pub const HOG: Self = Self {
        bytes: *b"hog\0\0\0\0\0\0\0\0\0\0\0\0",
        len: 3,
    };
    /// The name of the network task.
    pub const NETWORK: Self = Self {
        bytes: *b"net\0\0\0\0\0\0\0\0\0\0\0\0",
        len: 3,
    };
    /// The name of the task that serves HTTP.
    pub const WEB: Self = Self {
        bytes: *b"http\0\0\0\0\0\0\0\0\0\0\0",
        len: 4,
    };

    /// The name of stream `number`: `rtp0`, `rtp1` and so on; at most two digits are kept.
    #[must_use]
    pub const fn stream(number: u8) -> Self {
        let mut bytes = *b"rtp\0\0\0\0\0\0\0\0\0\0\0\0";
        let (tens, ones) = (number / 10 % 10, number % 10);
        if tens > 0 {
            bytes[3] = b'0' + tens;
            bytes[4] = b'0' + ones;
        } else {
            bytes[3] = b'0' + ones;
        }
        Self {
            bytes,
            len: if tens > 0 { 5 } else { 4 },
        }
    }

    /// The name `text`.
    ///
    /// # Errors
    /// If it is empty, longer than 15 bytes, or has other bytes than letters, digits, `-`, `_` and `.`.
    pub fn new(text: &str) -> Result<Self, ParseError> {
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"-_.".contains(b);
        let mut bytes = [0; 15];
        let (Some(room), Ok(len)) = (bytes.get_mut(..text.len()), u8::try_from(text.len())) else {
            return Err(ParseError::name(text));
        };
        if text.is_empty() || !text.as_bytes().iter().all(allowed) {
            return Err(ParseError::name(text));
        }
        room.copy_from_slice(text.as_bytes());
        Ok(Self { bytes, len })
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..usize::from(self.len)).unwrap_or_default();
        core::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// How the guest chooses among ready jobs; see [`crate::policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Fixed priorities, the shorter period first unless a priority is given.
    RateMonotonic,
    /// Earliest absolute deadline first.
    Edf,
}

/// The order in which a task touches the pages of its region; see [`crate::dirty`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// One after the other, going on where the job before left off.
    Sequential,
    /// Uniformly at random.
    Random,
    /// Nine touches of ten in the first tenth of the region.
    Hot,
    /// Few pages very often and most of them seldom, each about as often as its rank is low; ranks are scattered.
    Zipf,
}

/// What a touch writes into a page; see [`crate::dirty::Page`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Its first word counts touches, the rest is zero.
    Counter,
    /// All of it anew: which page it is, how often it was written, random numbers.
    Random,
    /// The same, but half of it is one word over and over, so that it compresses 2:1.
    Half,
}

/// Memory that each job of a task dirties.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dirty {
    /// Pages touched per job.
    pub pages: u32,
    /// Bytes of the region the pages are in; a multiple of [`PAGE`].
    pub region: u64,
    /// Which pages.
    pub pattern: Pattern,
    /// What is written into them. Unless it is a counter, all pages have content before the first release.
    pub content: Content,
    /// After so many nanoseconds the pages that the pattern prefers are others; 0 for never.
    pub phase: u64,
}

impl Dirty {
    /// Region in bytes where the command line gives none: 16 MiB.
    pub const REGION: u64 = 16 << 20;
}

/// An execution time that takes turns with [`Task::c_min`] to [`Task::c_max`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Execution time of a job in every other turn, in nanoseconds.
    pub c: u64,
    /// Length of a turn in nanoseconds, counted from the first release.
    pub every: u64,
}

/// What sort of task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A job every period.
    Periodic,
    /// A busy loop below all other tasks of its vCPU that records when it did not run.
    Hog,
    /// What runs the network, whenever there is something to do.
    Network(Interface),
    /// What serves HTTP requests to this port, one job each.
    Web(u16),
}

impl Kind {
    /// Whether its jobs are released by what happens rather than by time.
    #[must_use]
    pub const fn is_service(self) -> bool {
        matches!(self, Self::Network(_) | Self::Web(_))
    }
}

/// One task. Times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Task {
    /// Its name, unique among periodic tasks.
    pub name: Name,
    /// Periodic or hog.
    pub kind: Kind,
    /// The vCPU it is bound to.
    pub vcpu: u16,
    /// Least execution time of a job; see [`crate::random::execution`].
    pub c_min: u64,
    /// Greatest execution time of a job; equal to `c_min` unless random.
    pub c_max: u64,
    /// Time between releases; 0 for a hog.
    pub period: u64,
    /// Deadline after the release, at most the period; 0 for a hog.
    pub deadline: u64,
    /// First release after [`TaskSet::start`].
    pub offset: u64,
    /// Fixed priority, the smaller number first; ahead of every task without one.
    pub priority: Option<u8>,
    /// Whether its jobs record when they did not run; always for a hog.
    pub gaps: bool,
    /// Memory its jobs touch.
    pub dirty: Option<Dirty>,
    /// How its execution time steps, if it does.
    pub step: Option<Step>,
    /// How much of a job's execution, at its end, is a critical section of the one spin lock of the guest; 0 for none.
    ///
    /// The lock is given in the order of asking (a ticket lock), and from asking for it to giving it back a job is not
    /// preempted by others of its vCPU, as under MSRP (Gai, Lipari and Di Natale, RTSS 2001). Spinning is no execution.
    pub critical: u64,
    /// The stream that its jobs send the frames of.
    pub stream: Option<Stream>,
}

impl Task {
    /// A task on vCPU 0 that runs `execution` ns every `period` ns, released with the start, deadline = period.
    #[must_use]
    pub const fn periodic(name: Name, execution: u64, period: u64) -> Self {
        Self {
            name,
            kind: Kind::Periodic,
            vcpu: 0,
            c_min: execution,
            c_max: execution,
            period,
            deadline: period,
            offset: 0,
            priority: None,
            gaps: false,
            dirty: None,
            step: None,
            critical: 0,
            stream: None,
        }
    }

    /// The step whose turn it is when job `job` is released, if it is.
    #[must_use]
    pub const fn stepped(&self, job: u64) -> Option<Step> {
        match self.step {
            Some(step)
                if step.every > 0 && job.saturating_mul(self.period) / step.every % 2 == 1 =>
            {
                Some(step)
            }
            _ => None,
        }
    }

    /// A hog on `vcpu`.
    #[must_use]
    pub const fn hog(vcpu: u16) -> Self {
        let mut task = Self::periodic(Name::HOG, 0, 0);
        task.kind = Kind::Hog;
        task.vcpu = vcpu;
        task.gaps = true;
        task
    }
}

/// A way for the guest to fail, to see what the VMM makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// An exception without any handler.
    Triple,
    /// An invalid opcode in the guest kernel.
    InvalidOpcode,
    /// An endless loop at CPL 0 with interrupts off.
    Hang,
    /// A jump to an address where there is no code.
    Wild,
    /// Writes all over memory that is not the guest's own.
    WildMemory,
}

/// What a storm is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storm {
    /// Random port accesses.
    Pio,
    /// Random accesses to addresses without memory.
    Mmio,
}

/// What the guest does for [`TaskSet::duration`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Runs its tasks; idles if there are none.
    Tasks,
    /// Times `count` accesses to an I/O port.
    Bench {
        /// The port.
        port: u16,
        /// How many accesses.
        count: u32,
    },
    /// Random accesses to devices.
    Storm(Storm),
    /// Fails.
    Fault(Fault),
}

impl Mode {
    /// The port of [`Mode::Bench`] where the command line gives none: the POST code port, which no device here answers.
    pub const BENCH_PORT: u16 = 0x80;
    /// The accesses of [`Mode::Bench`] where the command line gives none.
    pub const BENCH_COUNT: u32 = 20_000;
}

/// A task set and how to run it. Times in nanoseconds of guest time. No heap, freely copied (under 4 KiB).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskSet {
    /// How the guest chooses among ready jobs.
    pub policy: Policy,
    /// Length of the run, counted from `start`; 1 s by default.
    pub duration: u64,
    /// Seed of everything random; 0 by default.
    pub seed: u64,
    /// A stretch without running counts as a gap from this length on; 300 us by default.
    pub gap: u64,
    /// First release, counted from boot; 20 ms by default.
    pub start: u64,
    /// Whether records also go over the serial port.
    pub stream: bool,
    /// TSC frequency for a host that passes no clock page.
    pub tsc_khz: Option<u64>,
    /// Virtual CPUs the guest starts; by default as many as its tasks use.
    pub vcpus: u16,
    /// Tasks, or something else.
    pub mode: Mode,
    /// Services of the network task.
    pub services: Services,
    transports: [Option<Transport>; network::MAX_TRANSPORTS],
    tasks: Tasks,
}

impl Default for TaskSet {
    fn default() -> Self {
        Self {
            policy: Policy::RateMonotonic,
            duration: 1_000_000_000,
            seed: 0,
            gap: 300_000,
            start: 20_000_000,
            stream: false,
            tsc_khz: None,
            vcpus: 1,
            mode: Mode::Tasks,
            services: Services::default(),
            transports: [None; network::MAX_TRANSPORTS],
            tasks: Tasks {
                slots: [Task::hog(0); MAX_TASKS],
                count: 0,
            },
        }
    }
}

impl TaskSet {
    /// Reads a command line.
    ///
    /// # Errors
    /// If a word is unknown, repeated, malformed or out of range; the error says which, and what would fit.
    pub fn parse(line: &str) -> Result<Self, ParseError> {
        parse::parse(line)
    }

    /// The tasks, in the order of the command line.
    #[must_use]
    pub fn tasks(&self) -> &[Task] {
        self.tasks.as_slice()
    }

    /// Appends a task and raises `vcpus` to include its vCPU. [`TaskSet::check`] judges the outcome.
    ///
    /// # Errors
    /// If there are [`MAX_TASKS`] already.
    pub fn add(&mut self, task: Task) -> Result<(), ParseError> {
        let Some(slot) = self.tasks.slots.get_mut(self.tasks.count) else {
            return Err(ParseError::full(&task));
        };
        *slot = task;
        self.tasks.count += 1;
        self.vcpus = self.vcpus.max(task.vcpu.saturating_add(1));
        Ok(())
    }

    /// Checks what [`TaskSet::parse`] checks, for a set that was put together by hand.
    ///
    /// # Errors
    /// If a value is out of range or two contradict each other.
    pub fn check(&self) -> Result<(), ParseError> {
        check::check(self)
    }
}

/// A vector of tasks without a heap.
#[derive(Clone, Copy)]
struct Tasks {
    slots: [Task; MAX_TASKS],
    count: usize,
}

impl Tasks {
    fn as_slice(&self) -> &[Task] {
        self.slots.get(..self.count).unwrap_or_default()
    }
}

impl PartialEq for Tasks {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl Eq for Tasks {}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

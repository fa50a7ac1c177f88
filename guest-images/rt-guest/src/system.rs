//! What is set up once, at boot, and then only read.

use core::fmt;
use core::sync::atomic::AtomicU64;

use rt_abi::policy;
use rt_abi::taskset::{MAX_TASKS, PAGE, Task, TaskSet};

use crate::clock::{self, Clock};
use crate::cpu::MAX_VCPUS;
use crate::memory::Range;
use crate::ring::Ring;
use crate::start_info::StartInfo;
use crate::{hw, memory, network, web};

/// Steps of a busy loop that are timed to learn how long one takes.
const STEPS: usize = 255;
/// An interruption is longer than this, in nanoseconds, and than this many usual steps.
const LEAST_INTERRUPTION: u64 = 2_000;
const STEPS_IN_INTERRUPTION: u64 = 8;

/// The run.
pub struct System {
    /// What to run.
    pub set: TaskSet,
    /// [`policy::ranks`] of its tasks.
    pub ranks: [u8; MAX_TASKS],
    /// The time.
    pub clock: Clock,
    /// When the run starts and ends, in nanoseconds.
    pub start: u64,
    /// See `start`.
    pub end: u64,
    /// A step of a busy loop that takes more ticks than this was interrupted.
    pub interruption: u64,
    /// Where records go, for each vCPU of the set.
    rings: [Option<Ring>; MAX_VCPUS],
    /// Place of the network task in the set.
    pub network_task: Option<usize>,
    /// Place of the task that serves HTTP in the set.
    pub web_task: Option<usize>,
    /// What the network has for itself; its end is that of its task's stack.
    pub network: Option<Range>,
    /// What the task that serves HTTP has for itself.
    pub web: Option<Range>,
    /// The memory that each task dirties.
    regions: [Option<&'static [AtomicU64]>; MAX_TASKS],
}

static SYSTEM: memory::Once<System> = memory::Once::new();

/// The run. Only after [`System::publish`].
pub fn system() -> &'static System {
    SYSTEM
        .get()
        .expect("nothing is scheduled before the system is set up")
}

impl System {
    /// Everything for `set`, but for when it starts.
    ///
    /// # Errors
    /// If the memory for it is not there.
    pub fn new(set: &TaskSet, clock: Clock, info: &StartInfo) -> Result<Self, Shortage> {
        let mut rings = [None; MAX_VCPUS];
        let vcpus = usize::from(set.vcpus);
        for (vcpu, ring) in rings.iter_mut().enumerate().take(vcpus) {
            *ring = Ring::for_vcpu(info, vcpu, vcpus);
        }
        let memory = Memory::divide(set, info)?;
        Ok(Self {
            set: *set,
            ranks: policy::ranks(set.policy, set.tasks()),
            clock,
            start: 0,
            end: 0,
            interruption: interruption(&clock),
            rings,
            network_task: network::task(set),
            web_task: web::task(set),
            network: memory.network,
            web: memory.web,
            regions: memory.regions,
        })
    }

    /// Makes it the system; from here on it does not change.
    pub fn publish(self) {
        SYSTEM.set(self);
    }

    /// The rings, in the order of their vCPUs.
    pub fn rings(&self) -> impl Iterator<Item = &Ring> {
        self.rings.iter().flatten()
    }

    /// The ring of `vcpu`.
    pub fn ring(&self, vcpu: usize) -> Option<&Ring> {
        self.rings.get(vcpu)?.as_ref()
    }

    /// The memory that task `task` dirties.
    pub fn region(&self, task: usize) -> Option<&'static [AtomicU64]> {
        *self.regions.get(task)?
    }
}

/// Memory that is needed and not there.
#[derive(Debug, Clone, Copy)]
pub enum Shortage {
    /// Of the dirtying tasks: so many bytes are needed.
    Regions(u64),
    /// Of the network and its services: so many bytes are needed in all, dirtying tasks included.
    Services(u64),
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regions(bytes) => write!(
                f,
                "not enough memory for the regions of the dirtying tasks, which need {} KiB in one piece; give the guest more",
                bytes.div_ceil(1024)
            ),
            Self::Services(bytes) => write!(
                f,
                "not enough memory: the network and its services need {} KiB in one piece; give the guest more",
                bytes.div_ceil(1024)
            ),
        }
    }
}

/// The RAM that is left, divided from the top downwards.
struct Memory {
    regions: [Option<&'static [AtomicU64]>; MAX_TASKS],
    network: Option<Range>,
    web: Option<Range>,
}

impl Memory {
    /// Divides the RAM that is left after image and boot data.
    fn divide(set: &TaskSet, info: &StartInfo) -> Result<Self, Shortage> {
        let region = |task: &Task| {
            let size = task.dirty.map_or(0, |dirty| dirty.region);
            size.next_multiple_of(PAGE)
        };
        let regions: u64 = set.tasks().iter().map(region).sum();
        let (network, web) = (network::needed(set), web::needed(set));
        let total = regions + network + web;
        let mut memory = Self {
            regions: [None; MAX_TASKS],
            network: None,
            web: None,
        };
        if total == 0 {
            return Ok(memory);
        }
        let shortage = match network {
            0 => Shortage::Regions(total),
            _ => Shortage::Services(total),
        };
        let mut top = info.free_ram(total).ok_or(shortage)?;
        let slots = memory.regions.iter_mut().zip(set.tasks());
        for (slot, task) in slots.filter(|(_, task)| task.dirty.is_some()) {
            let range = below(&mut top, region(task));
            let words = memory::words(range.start, (range.end - range.start) / 8);
            *slot = Some(words.ok_or(shortage)?);
        }
        memory.network = (network > 0).then(|| below(&mut top, network));
        memory.web = (web > 0).then(|| below(&mut top, web));
        Ok(memory)
    }
}

/// The `size` bytes below `top`, which becomes their start.
fn below(top: &mut u64, size: u64) -> Range {
    let end = *top;
    *top -= size;
    Range { start: *top, end }
}

/// How many ticks a step of a busy loop takes at least when it was interrupted.
fn interruption(clock: &Clock) -> u64 {
    let mut steps = [0; STEPS];
    let mut last = hw::rdtsc();
    for step in &mut steps {
        let now = hw::rdtsc();
        *step = now.wrapping_sub(last);
        last = now;
    }
    steps.sort_unstable();
    let median = steps.get(STEPS / 2).copied().unwrap_or(0);
    let least = clock::ticks(&clock.page(), LEAST_INTERRUPTION);
    least.max(median.saturating_mul(STEPS_IN_INTERRUPTION))
}

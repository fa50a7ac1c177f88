//! What is set up once, at boot, and then only read.

use core::sync::atomic::AtomicU64;

use rt_abi::policy;
use rt_abi::taskset::{MAX_TASKS, PAGE, TaskSet};

use crate::clock::{self, Clock};
use crate::cpu::MAX_VCPUS;
use crate::ring::Ring;
use crate::start_info::StartInfo;
use crate::{hw, memory};

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
    /// Everything for `set`, but for when it starts. `None` if the memory for its dirtying tasks is not there.
    pub fn new(set: &TaskSet, clock: Clock, info: &StartInfo) -> Option<Self> {
        let mut rings = [None; MAX_VCPUS];
        let vcpus = usize::from(set.vcpus);
        for (vcpu, ring) in rings.iter_mut().enumerate().take(vcpus) {
            *ring = Ring::for_vcpu(info, vcpu, vcpus);
        }
        Some(Self {
            set: *set,
            ranks: policy::ranks(set.policy, set.tasks()),
            clock,
            start: 0,
            end: 0,
            interruption: interruption(&clock),
            rings,
            regions: regions(set, info)?,
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

/// Regions from the top of RAM downwards, in the order of the tasks.
fn regions(set: &TaskSet, info: &StartInfo) -> Option<[Option<&'static [AtomicU64]>; MAX_TASKS]> {
    let mut regions = [None; MAX_TASKS];
    let sizes = || set.tasks().iter().map(|t| t.dirty.map_or(0, |d| d.region));
    let total: u64 = sizes().sum();
    if total == 0 {
        return Some(regions);
    }
    let mut top = info.free_ram(total)?;
    for (region, size) in regions
        .iter_mut()
        .zip(sizes())
        .filter(|(_, size)| *size > 0)
    {
        top -= size.next_multiple_of(PAGE);
        *region = Some(memory::words(top, size / 8)?);
    }
    Some(regions)
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

//! The specification of a VM as a user writes it (TOML), and how it becomes a plan.
//!
//! [`VmSpec`] is what was written; [`VmPlan`] is what will be done: units parsed, defaults filled in, ranges checked.
//! An error names the key, the value, and what would fit.

mod alignment;
mod feedback;
mod network;
mod services;
mod writes;

use std::path::PathBuf;
use std::time::Duration;

use net::share::ShareError;
use rt_abi::taskset::TaskSet;
use sched::feedback::{Envelope, EnvelopeError};
use sched::request::{BackendKind, Enforcement, VcpuRequest};
use sched::reservation::{Reservation, ReservationError};
use serde::Deserialize;

use crate::memory::{HUGE_PAGE, MemoryPlan, PAGE};
use crate::speed::SpeedFigures;
use crate::units::{ByteSize, Span};

pub use feedback::FeedbackSpec;
pub(crate) use network::LEAST_MTU;
pub use network::{NetworkPlan, NetworkSpec};
pub use services::{NetSpec, StreamSpec};
pub use writes::WritesSpec;

/// Name of the image that comes with the program.
pub const BUILT_IN_IMAGE: &str = "rt-guest";
/// Longest name of a VM: it becomes a file name and part of a socket's path (at most 108 bytes, unix(7)).
pub const MAX_NAME: usize = 48;
/// vCPUs of a guest at most; more are refused before KVM is asked.
pub const MAX_VCPUS: u32 = 64;

/// A VM as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    /// Its name, unique on the host.
    pub name: String,
    /// What runs in it.
    pub guest: GuestSpec,
    /// What CPU time it gets.
    #[serde(default)]
    pub cpu: CpuSpec,
    /// Its share of the network, if it has any.
    pub network: Option<NetworkSpec>,
}

/// What runs in a VM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuestSpec {
    /// `rt-guest`, or the path of an ELF file with a PVH entry.
    #[serde(default = "built_in")]
    pub image: String,
    /// Bytes of RAM.
    #[serde(default = "default_memory")]
    pub memory: ByteSize,
    /// Whether RAM must be made of huge pages.
    #[serde(default)]
    pub hugepages: bool,
    /// The command line, for guests other than `rt-guest` or for all of its switches.
    pub command_line: Option<String>,
    /// Scheduler of `rt-guest`: `rm`, `dm`, `given` (priorities in the order of the tasks) or `edf`.
    pub scheduler: Option<String>,
    /// How long `rt-guest` runs.
    pub duration: Option<Span>,
    /// Seed of everything random in `rt-guest`.
    pub seed: Option<u64>,
    /// Periodic tasks of `rt-guest`.
    #[serde(default, rename = "task")]
    pub tasks: Vec<TaskSpec>,
    /// Network of `rt-guest`, and its services.
    pub net: Option<NetSpec>,
    /// Streams that `rt-guest` sends.
    #[serde(default, rename = "rtp")]
    pub streams: Vec<StreamSpec>,
    /// How fast the host is on which execution times were measured; this one if not given.
    pub reference: Option<SpeedFigures>,
    /// vCPUs of `rt-guest` that run a busy loop at the lowest priority.
    #[serde(default)]
    pub hogs: Vec<u16>,
    /// The guest counts as hung when it records and prints nothing for this long.
    pub watchdog: Option<Span>,
}

/// A periodic task of `rt-guest`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskSpec {
    /// Its name.
    pub name: String,
    /// Processor time of a job; it may be left out where the job writes memory, which takes what it takes.
    pub execution: Option<Span>,
    /// Time between releases.
    pub period: Span,
    /// Relative deadline; the period if not given.
    pub deadline: Option<Span>,
    /// Time of the first release.
    pub offset: Option<Span>,
    /// Its vCPU.
    #[serde(default)]
    pub vcpu: u16,
    /// How much of its execution, at the end, is a critical section of the spin lock that all such tasks share.
    pub critical: Option<Span>,
    /// Memory that its jobs write.
    pub writes: Option<WritesSpec>,
}

/// CPU time for all vCPUs, and where one differs.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CpuSpec {
    /// Number of vCPUs.
    pub vcpus: Option<u32>,
    /// Q.
    pub runtime: Option<Span>,
    /// P.
    pub period: Option<Span>,
    /// D: Q is supplied this long after each period's beginning; the period if not given.
    pub deadline: Option<Span>,
    /// What enforces it.
    #[serde(default)]
    pub backend: BackendKind,
    /// How precisely.
    #[serde(default)]
    pub enforcement: Enforcement,
    /// Whether the periods of all vCPUs begin together; they do if nothing is said, except where one has a deadline before
    /// its period's end or a runtime that is left to be designed, and where budgets follow the need.
    pub aligned: Option<bool>,
    /// The host CPU wanted.
    pub cpu: Option<u32>,
    /// Priority for the back ends that have one.
    pub fifo_priority: Option<u8>,
    /// Budgets that follow the need.
    pub feedback: Option<FeedbackSpec>,
    /// Differences, vCPU by vCPU.
    #[serde(default, rename = "vcpu")]
    pub each: Vec<VcpuSpec>,
}

/// How one vCPU differs from the others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VcpuSpec {
    /// Q.
    pub runtime: Option<Span>,
    /// P.
    pub period: Option<Span>,
    /// D.
    pub deadline: Option<Span>,
    /// How much later than the instants that all have in common its periods begin.
    pub phase: Option<Span>,
    /// The host CPU wanted.
    pub cpu: Option<u32>,
}

/// Why a specification makes no plan.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not TOML, a key that does not exist, a value of the wrong kind.
    #[error("{0}")]
    Syntax(Box<toml::de::Error>),
    /// A name that cannot be one.
    #[error(
        "name = {name:?}: a VM's name has 1 to {MAX_NAME} letters, digits, `-`, `_` or `.`, and starts with a letter or digit"
    )]
    Name {
        /// What was written.
        name: String,
    },
    /// A value out of range.
    #[error("{key} = {value}: {fits}")]
    Value {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// What would fit.
        fits: String,
    },
    /// A reservation the kernel would not take.
    #[error("{key}: {source}")]
    Reservation {
        /// The table it stands in.
        key: String,
        /// Why.
        source: ReservationError,
    },
    /// An envelope that cannot be.
    #[error("cpu.feedback: {0}")]
    Feedback(#[from] EnvelopeError),
    /// A share of the network that cannot be.
    #[error("network: {0}")]
    Share(ShareError),
    /// A key that is missing.
    #[error("{key} is missing: {fits}")]
    Missing {
        /// The key.
        key: String,
        /// What to write.
        fits: String,
    },
    /// Two keys that exclude each other.
    #[error("{key} and {other} exclude each other: {fits}")]
    Conflict {
        /// One.
        key: &'static str,
        /// The other.
        other: &'static str,
        /// What to do.
        fits: &'static str,
    },
}

/// Where the image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The image that comes with the program.
    BuiltIn,
    /// A file.
    File(PathBuf),
}

/// What will be done.
#[derive(Debug, Clone)]
pub struct VmPlan {
    /// Name of the VM.
    pub name: String,
    /// Its image.
    pub image: ImageSource,
    /// Command line for the guest.
    pub command_line: String,
    /// What the command line says, if the guest is `rt-guest`.
    pub tasks: Option<Box<TaskSet>>,
    /// Its memory.
    pub memory: MemoryPlan,
    /// What every vCPU asks for; as many as there are vCPUs.
    pub requests: Vec<VcpuRequest>,
    /// Where budgets follow the need, the same for every vCPU; the requests are for the greatest.
    pub feedback: Option<Envelope>,
    /// How much after the instant that all have in common each vCPU's periods begin; none if there is no such instant.
    pub phases: Option<Vec<Duration>>,
    /// When silence counts as a hang.
    pub watchdog: Option<Duration>,
    /// Its network device, if it has one.
    pub network: Option<NetworkPlan>,
}

impl VmPlan {
    /// What is asked of the host's CPUs: by every vCPU, and behind them by the network device's thread, if there is one.
    #[must_use]
    pub fn threads(&self) -> Vec<VcpuRequest> {
        let network = self.network.iter().map(|network| &network.thread);
        self.requests.iter().chain(network).cloned().collect()
    }
}

fn built_in() -> String {
    BUILT_IN_IMAGE.to_owned()
}

fn default_memory() -> ByteSize {
    ByteSize::mebibytes(4)
}

impl VmSpec {
    /// Reads a specification.
    ///
    /// # Errors
    /// [`SpecError::Syntax`], with line, column and key.
    pub fn parse(text: &str) -> Result<Self, SpecError> {
        toml::from_str(text).map_err(|e| SpecError::Syntax(Box::new(e)))
    }

    /// Checks everything that can be checked without the host, and fills in what was left out.
    ///
    /// # Errors
    /// [`SpecError`].
    pub fn plan(&self) -> Result<VmPlan, SpecError> {
        check_name(&self.name)?;
        let memory = self.guest.memory_plan()?;
        self.guest.check_services(self.network.is_some())?;
        self.guest.check_writes()?;
        let command_line = self.guest.command_line()?;
        let image = match self.guest.image.as_str() {
            BUILT_IN_IMAGE => ImageSource::BuiltIn,
            path => ImageSource::File(PathBuf::from(path)),
        };
        let tasks = match image {
            ImageSource::BuiltIn => Some(Box::new(self.guest.parsed_tasks()?)),
            ImageSource::File(_) => None,
        };
        let wanted = tasks.as_ref().map_or(1, |tasks| u32::from(tasks.vcpus));
        let feedback = self.cpu.envelope()?;
        let requests = match feedback {
            Some(envelope) => self.cpu.following(envelope).requests(wanted)?,
            None => self.cpu.requests(wanted)?,
        };
        Ok(VmPlan {
            name: self.name.clone(),
            image,
            command_line,
            tasks,
            memory,
            phases: self.cpu.phases(&requests)?,
            requests,
            feedback,
            watchdog: self.guest.watchdog.map(Span::duration),
            network: match &self.network {
                Some(network) => Some(network.plan(&self.name)?),
                None => None,
            },
        })
    }
}

/// Whether a VM can have this name.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=MAX_NAME).contains(&name.len())
        && name.chars().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn check_name(name: &str) -> Result<(), SpecError> {
    if is_name(name) {
        Ok(())
    } else {
        Err(SpecError::Name {
            name: name.to_owned(),
        })
    }
}

/// Whether a guest can have this memory.
pub(crate) fn check_memory(memory: MemoryPlan) -> Result<MemoryPlan, SpecError> {
    let granule = if memory.hugepages { HUGE_PAGE } else { PAGE };
    let smallest = ByteSize::mebibytes(2);
    let bytes = memory.size.bytes();
    if memory.size < smallest || !bytes.is_multiple_of(granule) || bytes > 1 << 40 {
        return Err(SpecError::Value {
            key: "guest.memory".to_owned(),
            value: format!("\"{}\"", memory.size),
            fits: format!(
                "between {smallest} and 1024GiB, in steps of {}",
                ByteSize::new(granule)
            ),
        });
    }
    Ok(memory)
}

impl GuestSpec {
    fn memory_plan(&self) -> Result<MemoryPlan, SpecError> {
        check_memory(MemoryPlan {
            size: self.memory,
            hugepages: self.hugepages,
        })
    }

    /// The command line: as written, or put together from the tasks.
    pub(crate) fn command_line(&self) -> Result<String, SpecError> {
        let structured = self.scheduler.is_some()
            || self.duration.is_some()
            || self.seed.is_some()
            || !self.tasks.is_empty()
            || self.net.is_some()
            || !self.streams.is_empty()
            || !self.hogs.is_empty();
        match (&self.command_line, structured) {
            (Some(line), false) => Ok(line.clone()),
            (None, false) => Ok(String::new()),
            (Some(_), true) => Err(SpecError::Conflict {
                key: "guest.command_line",
                other: "guest.task (or scheduler, duration, seed, hogs, net, rtp)",
                fits: "write the tasks as tables, or all of the command line yourself",
            }),
            (None, true) => Ok(self.composed_line()),
        }
    }

    fn composed_line(&self) -> String {
        let mut words = Vec::new();
        let priorities = self.priorities();
        words.extend(self.scheduler.as_ref().map(|scheduler| {
            // `rt-guest` has rate monotonic priorities unless tasks have some of their own.
            let scheduler = priorities.as_ref().map_or(scheduler.as_str(), |_| "rm");
            format!("sched={scheduler}")
        }));
        words.extend(self.duration.map(|duration| format!("duration={duration}")));
        words.extend(self.seed.map(|seed| format!("seed={seed}")));
        words.extend(self.tasks.iter().enumerate().map(|(place, task)| {
            let priority = priorities.as_ref().map(|all| all[place]);
            task.word() + &priority.map_or_else(String::new, |own| format!(",prio={own}"))
        }));
        words.extend(self.hogs.iter().map(|vcpu| format!("hog={vcpu}")));
        words.extend(self.service_words());
        words.join(" ")
    }
}

impl TaskSpec {
    fn word(&self) -> String {
        let mut word = format!("task={}", self.name);
        if let Some(execution) = self.execution {
            word.push_str(&format!(",c={execution}"));
        }
        word.push_str(&format!(",t={}", self.period));
        for (key, value) in [
            ("d", self.deadline),
            ("o", self.offset),
            ("s", self.critical),
        ] {
            if let Some(value) = value {
                word.push_str(&format!(",{key}={value}"));
            }
        }
        if self.vcpu != 0 {
            word.push_str(&format!(",cpu={}", self.vcpu));
        }
        word + &self
            .writes
            .as_ref()
            .map_or_else(String::new, WritesSpec::words)
    }
}

impl CpuSpec {
    /// One request per vCPU; `wanted` vCPUs if the number is not written.
    fn requests(&self, wanted: u32) -> Result<Vec<VcpuRequest>, SpecError> {
        let count = self.vcpus.unwrap_or(wanted);
        let value_error = |key: &str, value: String, fits: String| SpecError::Value {
            key: key.to_owned(),
            value,
            fits,
        };
        if !(1..=MAX_VCPUS).contains(&count) {
            return Err(value_error(
                "cpu.vcpus",
                count.to_string(),
                format!("between 1 and {MAX_VCPUS}"),
            ));
        }
        if count < wanted {
            let fits = format!(
                "the guest's tasks use {wanted} vCPUs; write cpu.vcpus = {wanted} or place them on fewer"
            );
            return Err(value_error("cpu.vcpus", count.to_string(), fits));
        }
        if self.each.len() > usize::try_from(count).unwrap_or(usize::MAX) {
            let fits = format!("at most one per vCPU, of which there are {count}");
            return Err(value_error(
                "cpu.vcpu",
                format!("{} tables", self.each.len()),
                fits,
            ));
        }
        let all_alike = VcpuSpec::default();
        (0..count)
            .zip(self.each.iter().chain(std::iter::repeat(&all_alike)))
            .map(|(index, own)| self.request(index, own))
            .collect()
    }

    fn request(&self, index: u32, own: &VcpuSpec) -> Result<VcpuRequest, SpecError> {
        let key = if own.runtime.or(own.period).or(own.deadline).is_some() {
            format!("cpu.vcpu {index}")
        } else {
            "cpu".to_owned()
        };
        let reservation = match (own.runtime.or(self.runtime), own.period.or(self.period)) {
            (Some(runtime), Some(period)) => Some(
                Reservation::new(runtime.duration(), period.duration())
                    .and_then(|pair| match own.deadline.or(self.deadline) {
                        Some(deadline) => pair.with_deadline(deadline.duration()),
                        None => Ok(pair),
                    })
                    .map_err(|source| SpecError::Reservation { key, source })?,
            ),
            (None, None)
                if !self.backend.needs_reservation()
                    && own.deadline.or(self.deadline).is_none() =>
            {
                None
            }
            (runtime, _) => {
                let missing = if runtime.is_none() {
                    "runtime"
                } else {
                    "period"
                };
                return Err(SpecError::Missing {
                    key: format!("{key}.{missing}"),
                    fits: format!(
                        "{} needs both, such as runtime = \"28ms\", period = \"50ms\", or tasks on this vCPU \
                          and no runtime",
                        if self.backend.needs_reservation() {
                            format!("backend `{}`", self.backend)
                        } else {
                            "a deadline".to_owned()
                        }
                    ),
                });
            }
        };
        Ok(VcpuRequest {
            reservation,
            backend: self.backend,
            enforcement: self.enforcement,
            cpu: own.cpu.or(self.cpu),
            fifo_priority: self.fifo_priority,
        })
    }
}

/// A commented specification that runs as it is.
pub const EXAMPLE: &str = include_str!("example.toml");

#[cfg(test)]
mod tests;

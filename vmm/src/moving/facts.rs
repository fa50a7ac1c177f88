//! What two hosts tell each other before a guest's first byte goes: what they are, what the guest needs there, what it got.
//!
//! Every piece is two bytes of version, then postcard. It comes from another host and may be anything: lengths and values are checked, an unknown
//! version and left-over bytes are errors. What a guest needs of the processor are the features that it was shown where it started; they are named
//! one by one where the destination lacks them.

use std::time::Duration;

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};
use migration::wire::message::MOST_STREAMS;
use sched::analysis::overhead::Overheads;
use sched::analysis::task::{Speed, TaskSetError};
use sched::reservation::Reservation;
use serde::{Deserialize, Serialize};

use crate::design::Basis;
use crate::speed::SpeedFigures;
use crate::units::BitRate;

mod features;
mod form;

use features::{CAPABILITIES, MASKS};

pub(super) use form::{read, write};

/// Version of what is written.
const VERSION: u16 = 1;
/// The longest name of a processor or kernel.
const LONGEST_NAME: usize = 256;
/// Most threads of a migration on a host.
const MOST_THREADS: usize = MOST_STREAMS as usize + 1;
/// Most vCPUs.
const MOST_VCPUS: usize = crate::spec::MAX_VCPUS as usize;
/// Two hosts whose figures differ by less are of one speed: repeated measurements do.
const NOISE: f64 = 0.03;

/// What came cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FactsError {
    /// Of another release.
    #[error(
        "the other host's facts are of version {found}; this host reads version {VERSION}: bring both to the same release"
    )]
    Version {
        /// The version found.
        found: u16,
    },
    /// Not whole.
    #[error("the other host's facts cannot be read: {0}")]
    Unreadable(String),
    /// A value that cannot be.
    #[error("the other host's facts have {key} = {value}; that has to be {fits}")]
    Value {
        /// Which.
        key: &'static str,
        /// What it is.
        value: String,
        /// What would do.
        fits: String,
    },
}

/// What this host's owner has measured of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostBasis {
    /// What scheduling costs: a budget switch, the latency of the guest's timer, an exit.
    pub overheads: [Duration; 3],
    /// How fast it is, if that was measured.
    pub speed: Option<SpeedFigures>,
    /// What the processor calls itself.
    pub model: String,
}

impl HostBasis {
    /// From what designs rest on, and what the processor calls itself.
    #[must_use]
    pub fn new(basis: &Basis, model: String) -> Self {
        let Overheads {
            budget_switch,
            timer_latency,
            exit,
        } = basis.overheads;
        Self {
            overheads: [budget_switch, timer_latency, exit],
            speed: basis.speed,
            model,
        }
    }

    /// What scheduling costs.
    #[must_use]
    pub fn overheads(&self) -> Overheads {
        let [budget_switch, timer_latency, exit] = self.overheads;
        Overheads {
            budget_switch,
            timer_latency,
            exit,
        }
    }
}

/// What a host is.
#[derive(Debug, Clone, PartialEq)]
pub struct HostFacts {
    /// What its owner has measured.
    pub basis: HostBasis,
    /// Its kernel.
    pub kernel: String,
    /// Rate that is assured to migrations on its uplink.
    pub migration: Option<BitRate>,
    /// Processor features that it shows guests, mask by mask ([`features`]).
    cpuid: Vec<u32>,
    /// Capabilities of its KVM, bit by bit ([`features`]).
    capabilities: u64,
}

impl HostFacts {
    /// Of this host.
    ///
    /// # Errors
    /// Says why KVM does not tell.
    pub fn of_this_host(basis: HostBasis, migration: Option<BitRate>) -> Result<Self, String> {
        let kvm = Kvm::new().map_err(|error| format!("cannot open /dev/kvm: {error}"))?;
        let cpuid = kvm
            .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| format!("KVM refused to tell its CPUID: {error}"))?;
        let release = nix::sys::utsname::uname().map_or_else(
            |_| "unknown".to_owned(),
            |name| name.release().to_string_lossy().into_owned(),
        );
        Ok(Self {
            basis,
            kernel: release,
            migration,
            cpuid: masks(&cpuid),
            capabilities: capabilities(&kvm),
        })
    }

    /// What a guest that started on `self` may use and `there` does not have, by name.
    #[must_use]
    pub fn missing_at(&self, there: &Self) -> Vec<String> {
        let mut missing = Vec::new();
        for (mask, (here, there)) in MASKS.iter().zip(self.cpuid.iter().zip(&there.cpuid)) {
            missing.extend(mask.names(here & !there));
        }
        let lacks = self.capabilities & !there.capabilities;
        let named = CAPABILITIES.iter().enumerate();
        missing.extend(
            named
                .filter(|(bit, _)| lacks >> bit & 1 == 1)
                .map(|(_, (name, _))| format!("KVM's {name}")),
        );
        missing
    }

    /// How much longer work takes here than on `there`; none where it is about the same.
    ///
    /// # Errors
    /// When that is not known, and why.
    pub fn beside(&self, there: &Self) -> Result<Option<Speed>, String> {
        let (Some(here), Some(reference)) = (&self.basis.speed, &there.basis.speed) else {
            if self.basis.model == there.basis.model {
                return Ok(None);
            }
            return Err(format!(
                "how fast {:?} is beside {:?} was not measured: run `chronovisor host measure` on both hosts",
                self.basis.model, there.basis.model
            ));
        };
        let failed = |error: TaskSetError| error.to_string();
        let speed = here.beside(reference).map_err(failed)?;
        let whole = Duration::from_secs(1);
        let ratio = speed.of(whole).as_secs_f64();
        Ok(((ratio - 1.0).abs() > NOISE).then_some(speed))
    }
}

fn masks(cpuid: &CpuId) -> Vec<u32> {
    let value = |mask: &features::Mask| {
        let entry = cpuid
            .as_slice()
            .iter()
            .find(|entry| (entry.function, entry.index) == (mask.function, mask.index));
        entry.map_or(0, |entry| mask.register.of(entry)) & !mask.unused
    };
    MASKS.iter().map(value).collect()
}

fn capabilities(kvm: &Kvm) -> u64 {
    let has = |(bit, (_, cap)): (usize, &(&str, Cap))| u64::from(kvm.check_extension(*cap)) << bit;
    CAPABILITIES.iter().enumerate().map(has).sum()
}

/// What the source says beside the guest's plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Terms {
    /// The host that the guest leaves.
    pub source: HostFacts,
    /// Reservations that the migration's threads shall have at the destination; none where nothing is reserved.
    pub threads: Vec<Reservation>,
    /// What is reserved, and paced to, on the link.
    pub rate: Option<BitRate>,
    /// What cannot be reserved shall be left out, instead of being a reason to refuse.
    pub best_effort: bool,
}

/// What the destination says when it takes the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The host that the guest comes to.
    pub destination: HostFacts,
    /// What each vCPU has there; none where its back end makes no promise.
    pub vcpus: Vec<Option<Reservation>>,
    /// What the migration's threads have.
    pub threads: Vec<Reservation>,
    /// Deadlines that could not be checked there, and why.
    pub unchecked: Vec<String>,
}

/// Two pieces as one.
#[must_use]
pub fn join(first: &[u8], second: &[u8]) -> Vec<u8> {
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX);
    [&length.to_le_bytes(), first, second].concat()
}

/// The two pieces of [`join`].
///
/// # Errors
/// [`FactsError::Unreadable`] when the first would be longer than there is.
pub fn split(bytes: &[u8]) -> Result<(&[u8], &[u8]), FactsError> {
    let short = || FactsError::Unreadable(format!("{} bytes are too few", bytes.len()));
    let (length, rest) = bytes.split_first_chunk().ok_or_else(short)?;
    let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| short())?;
    rest.split_at_checked(length).ok_or_else(short)
}

#[cfg(test)]
mod tests;

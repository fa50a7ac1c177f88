//! What two hosts tell each other before a guest's first byte goes: what they are, what the guest needs there, what it got.
//!
//! Every piece is two bytes of version, then postcard. It comes from another host and may be anything: lengths and values are checked, an unknown
//! version and left-over bytes are errors. What a guest needs of the processor are the features that it was shown where it started; they are named
//! one by one where the destination lacks them.

use std::time::Duration;

use kvm_bindings::CpuId;
use kvm_ioctls::{Cap, Kvm};
use migration::wire::message::{MOST_OPAQUE, MOST_STREAMS};
use sched::analysis::overhead::Overheads;
use sched::analysis::task::{Speed, TaskSetError};
use sched::reservation::Reservation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::design::Basis;
use crate::speed::SpeedFigures;
use crate::units::{BitRate, Span};

mod features;

use features::{CAPABILITIES, MASKS};

/// Version of [`TermsV1`] and [`AnswerV1`].
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

#[derive(Serialize, Deserialize)]
struct FactsV1 {
    overheads_ns: [u64; 3],
    speed_ns: Option<[u64; 3]>,
    model: String,
    kernel: String,
    migration_bits: Option<u64>,
    cpuid: Vec<u32>,
    capabilities: u64,
}

/// Runtime, deadline and period in nanoseconds.
type ServerV1 = [u64; 3];

#[derive(Serialize, Deserialize)]
struct TermsV1 {
    source: FactsV1,
    threads: Vec<ServerV1>,
    rate_bits: Option<u64>,
    best_effort: bool,
}

#[derive(Serialize, Deserialize)]
struct AnswerV1 {
    destination: FactsV1,
    vcpus: Vec<Option<ServerV1>>,
    threads: Vec<ServerV1>,
    unchecked: Vec<String>,
}

fn ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn value(key: &'static str, value: impl ToString, fits: impl Into<String>) -> FactsError {
    FactsError::Value {
        key,
        value: value.to_string(),
        fits: fits.into(),
    }
}

pub(super) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    bytes.extend(postcard::to_allocvec(value).expect("sequences of known lengths have a form"));
    bytes
}

pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FactsError> {
    let unreadable = |why: String| FactsError::Unreadable(why);
    if bytes.len() > MOST_OPAQUE {
        return Err(unreadable(format!("{} bytes are too many", bytes.len())));
    }
    let Some((version, rest)) = bytes.split_first_chunk() else {
        return Err(unreadable("there are none".to_owned()));
    };
    match u16::from_le_bytes(*version) {
        VERSION => {}
        found => return Err(FactsError::Version { found }),
    }
    let (value, rest) =
        postcard::take_from_bytes(rest).map_err(|error| unreadable(error.to_string()))?;
    match rest.len() {
        0 => Ok(value),
        left => Err(unreadable(format!("{left} bytes are left over"))),
    }
}

impl FactsV1 {
    fn of(facts: &HostFacts) -> Self {
        let speed = |figures: &SpeedFigures| {
            [figures.integer, figures.float, figures.memory].map(|span| ns(span.duration()))
        };
        Self {
            overheads_ns: facts.basis.overheads.map(ns),
            speed_ns: facts.basis.speed.as_ref().map(speed),
            model: facts.basis.model.clone(),
            kernel: facts.kernel.clone(),
            migration_bits: facts.migration.map(BitRate::bits_per_second),
            cpuid: facts.cpuid.clone(),
            capabilities: facts.capabilities,
        }
    }

    fn facts(self) -> Result<HostFacts, FactsError> {
        for (key, text) in [("model", &self.model), ("kernel", &self.kernel)] {
            if text.len() > LONGEST_NAME || text.chars().any(char::is_control) {
                let fits = format!("at most {LONGEST_NAME} printable bytes");
                return Err(value(key, format!("{} bytes", text.len()), fits));
            }
        }
        if self.cpuid.len() != MASKS.len() {
            let fits = format!("one for each of the {} masks", MASKS.len());
            return Err(value("cpuid", self.cpuid.len(), fits));
        }
        let longest = Duration::from_millis(100);
        if let Some(cost) = self.overheads_ns.iter().find(|cost| **cost > ns(longest)) {
            return Err(value("an overhead", format!("{cost} ns"), "at most 100ms"));
        }
        let span = |ns| Span::from(Duration::from_nanos(ns));
        let speed = |[integer, float, memory]: [u64; 3]| SpeedFigures {
            integer: span(integer),
            float: span(float),
            memory: span(memory),
        };
        if let Some(zero) = self.speed_ns.filter(|all| all.contains(&0)) {
            return Err(value("speed", format!("{zero:?}"), "above 0"));
        }
        Ok(HostFacts {
            basis: HostBasis {
                overheads: self.overheads_ns.map(Duration::from_nanos),
                speed: self.speed_ns.map(speed),
                model: self.model,
            },
            kernel: self.kernel,
            migration: self.migration_bits.map(BitRate::new),
            cpuid: self.cpuid,
            capabilities: self.capabilities,
        })
    }
}

fn server(reservation: &Reservation) -> ServerV1 {
    [
        reservation.runtime(),
        reservation.deadline(),
        reservation.period(),
    ]
    .map(ns)
}

fn reservation([runtime, deadline, period]: ServerV1) -> Result<Reservation, FactsError> {
    let time = Duration::from_nanos;
    Reservation::new(time(runtime), time(period))
        .and_then(|pair| pair.with_deadline(time(deadline)))
        .map_err(|error| {
            value(
                "a reservation",
                format!("{runtime} ns in {period} ns"),
                error.to_string(),
            )
        })
}

fn reservations(servers: Vec<ServerV1>) -> Result<Vec<Reservation>, FactsError> {
    if servers.len() > MOST_THREADS {
        let fits = format!("at most {MOST_THREADS}");
        return Err(value("threads", servers.len(), fits));
    }
    servers.into_iter().map(reservation).collect()
}

impl Terms {
    /// Writes them down.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        write(&TermsV1 {
            source: FactsV1::of(&self.source),
            threads: self.threads.iter().map(server).collect(),
            rate_bits: self.rate.map(BitRate::bits_per_second),
            best_effort: self.best_effort,
        })
    }

    /// Reads what another host has written.
    ///
    /// # Errors
    /// [`FactsError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FactsError> {
        let terms: TermsV1 = read(bytes)?;
        Ok(Self {
            source: terms.source.facts()?,
            threads: reservations(terms.threads)?,
            rate: terms.rate_bits.map(BitRate::new),
            best_effort: terms.best_effort,
        })
    }
}

impl Answer {
    /// Writes it down.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let vcpus = self.vcpus.iter().map(|own| own.as_ref().map(server));
        write(&AnswerV1 {
            destination: FactsV1::of(&self.destination),
            vcpus: vcpus.collect(),
            threads: self.threads.iter().map(server).collect(),
            unchecked: self.unchecked.clone(),
        })
    }

    /// Reads what another host has written.
    ///
    /// # Errors
    /// [`FactsError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FactsError> {
        let answer: AnswerV1 = read(bytes)?;
        if answer.vcpus.len() > MOST_VCPUS || answer.unchecked.len() > MOST_VCPUS {
            let fits = format!("at most {MOST_VCPUS}");
            return Err(value("vcpus", answer.vcpus.len(), fits));
        }
        if let Some(long) = answer.unchecked.iter().find(|why| why.len() > LONGEST_NAME) {
            let fits = format!("at most {LONGEST_NAME} bytes");
            return Err(value("unchecked", long.len(), fits));
        }
        let vcpus = answer.vcpus.into_iter();
        Ok(Self {
            destination: answer.destination.facts()?,
            vcpus: vcpus
                .map(|own| own.map(reservation).transpose())
                .collect::<Result<_, _>>()?,
            threads: reservations(answer.threads)?,
            unchecked: answer.unchecked,
        })
    }
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

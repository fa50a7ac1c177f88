//! How facts, terms and answers are written down, and read from whoever has sent them.

use std::time::Duration;

use migration::wire::message::MOST_OPAQUE;
use sched::reservation::Reservation;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::features::MASKS;
use super::{
    Answer, FactsError, HostBasis, HostFacts, LONGEST_NAME, MOST_THREADS, MOST_VCPUS, Terms,
    VERSION,
};
use crate::speed::SpeedFigures;
use crate::units::{BitRate, Span};

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

pub(in crate::moving) fn write<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = VERSION.to_le_bytes().to_vec();
    bytes.extend(postcard::to_allocvec(value).expect("sequences of known lengths have a form"));
    bytes
}

pub(in crate::moving) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, FactsError> {
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

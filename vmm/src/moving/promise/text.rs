//! Promises and refusals, for people, for programs, and for the other host.

use std::fmt;
use std::time::Duration;

use migration::wire::Refuse;
use sched::reservation::{Reservation, human};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Bounded, Promise, Wish};
use crate::moving::contract::Breach;
use crate::moving::facts;
use crate::units::BitRate;

/// Most budgets that a refusal names.
const MOST_BUDGETS: usize = crate::spec::MAX_VCPUS as usize;
/// Most bytes of a reason on the wire.
const LONGEST: usize = migration::wire::message::LONGEST_TEXT;

/// What would be possible. What is not named may stay as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// This downtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Duration>,
    /// This end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finish: Option<Duration>,
    /// This rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<BitRate>,
    /// These budgets of vCPUs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<(usize, Duration)>,
    /// Something else, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otherwise: Option<String>,
}

/// Why a migration is refused. Nothing is held, and the guest stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// In words.
    pub reason: String,
    /// What would be possible, if anything is known.
    pub nearest: Option<Nearest>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no, because {}", self.reason)?;
        match &self.nearest {
            Some(nearest) if *nearest != Nearest::default() => {
                write!(f, "; possible with {nearest}")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let downtime = self.downtime.map(rounded);
        parts.extend(downtime.map(|time| format!("a downtime of {time}")));
        parts.extend(
            self.finish
                .map(|time| format!("an end within {}", rounded(time))),
        );
        parts.extend(self.rate.map(rate));
        let budgets = self.budgets.iter();
        parts
            .extend(budgets.map(|(vcpu, budget)| format!("Q = {} on vCPU {vcpu}", human(*budget))));
        parts.extend(self.otherwise.clone());
        f.write_str(&parts.join(" and "))
    }
}

/// Three digits of a time, rounded up.
fn rounded(time: Duration) -> String {
    let ns = time.as_nanos().max(1);
    let step = 10u128.pow(ns.ilog10().saturating_sub(2));
    let ns = ns.div_ceil(step).saturating_mul(step) as f64;
    let units = [(1e9, "s"), (1e6, "ms"), (1e3, "us")];
    let fits = units.into_iter().find(|(scale, _)| ns >= *scale);
    let (scale, unit) = fits.unwrap_or((1.0, "ns"));
    format!("{} {unit}", digits(ns / scale))
}

/// Three digits of a rate.
fn rate(rate: BitRate) -> String {
    let bits = rate.bits_per_second() as f64;
    let units = [(1e9, "Gbit/s"), (1e6, "Mbit/s"), (1e3, "kbit/s")];
    let fits = units.into_iter().find(|(scale, _)| bits >= *scale);
    let (scale, unit) = fits.unwrap_or((1.0, "bit/s"));
    format!("{} {unit}", digits(bits / scale))
}

/// Without zeroes at the end.
fn digits(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// As it is sent: nanoseconds and bits per second.
#[derive(Serialize, Deserialize)]
struct NearestV1 {
    downtime_ns: Option<u64>,
    finish_ns: Option<u64>,
    rate_bits: Option<u64>,
    budgets_ns: Vec<(u16, u64)>,
    otherwise: Option<String>,
}

fn cut(text: &str) -> String {
    let end = (0..=LONGEST.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    text[..end.unwrap_or(0)].to_owned()
}

impl Refusal {
    /// For this reason, and nothing is known that would do.
    #[must_use]
    pub fn because(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            nearest: None,
        }
    }

    /// Something else, in words, would be possible.
    #[must_use]
    pub fn unless(self, otherwise: impl Into<String>) -> Self {
        let nearest = Nearest {
            otherwise: Some(otherwise.into()),
            ..self.nearest.unwrap_or_default()
        };
        Self {
            nearest: Some(nearest),
            ..self
        }
    }

    /// For a contract that would be broken.
    pub(super) fn of(breach: &Breach, wish: &Wish) -> Self {
        let nearest = Nearest {
            budgets: breach.least().into_iter().collect(),
            downtime: breach.longest().filter(|pause| *pause < wish.downtime),
            ..Nearest::default()
        };
        Self {
            reason: breach.to_string(),
            nearest: (nearest != Nearest::default()).then_some(nearest),
        }
    }

    /// As the destination says it.
    #[must_use]
    pub fn wire(&self) -> Refuse {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let nearest = self.nearest.as_ref().map(|nearest| NearestV1 {
            downtime_ns: nearest.downtime.map(ns),
            finish_ns: nearest.finish.map(ns),
            rate_bits: nearest.rate.map(BitRate::bits_per_second),
            budgets_ns: nearest
                .budgets
                .iter()
                .map(|(vcpu, budget)| (u16::try_from(*vcpu).unwrap_or(u16::MAX), ns(*budget)))
                .collect(),
            otherwise: nearest.otherwise.as_deref().map(cut),
        });
        Refuse {
            reason: cut(&self.reason),
            nearest: nearest.as_ref().map(facts::write).unwrap_or_default(),
        }
    }

    /// What the destination has said; a nearest that cannot be read is left out.
    #[must_use]
    pub fn heard(refuse: &Refuse) -> Self {
        Self {
            reason: refuse.reason.clone(),
            nearest: facts::read::<NearestV1>(&refuse.nearest)
                .ok()
                .filter(|nearest| nearest.budgets_ns.len() <= MOST_BUDGETS)
                .map(NearestV1::nearest),
        }
    }

    /// For programs: `reason`, `nearest`.
    #[must_use]
    pub fn json(&self) -> Value {
        json!({ "reason": self.reason, "nearest": self.nearest.as_ref().map(Nearest::json) })
    }
}

impl NearestV1 {
    fn nearest(self) -> Nearest {
        let time = Duration::from_nanos;
        let budgets = self.budgets_ns.into_iter();
        Nearest {
            downtime: self.downtime_ns.map(time),
            finish: self.finish_ns.map(time),
            rate: self.rate_bits.map(BitRate::new),
            budgets: budgets
                .map(|(vcpu, ns)| (usize::from(vcpu), time(ns)))
                .collect(),
            otherwise: self.otherwise,
        }
    }
}

impl Nearest {
    fn json(&self) -> Value {
        let seconds = |time: Duration| time.as_secs_f64();
        json!({
            "downtime_s": self.downtime.map(seconds),
            "finish_s": self.finish.map(seconds),
            "rate_bit_s": self.rate.map(BitRate::bits_per_second),
            "budgets": self.budgets.iter().map(|(vcpu, budget)| json!({"vcpu": vcpu, "runtime_s": seconds(*budget)})).collect::<Vec<_>>(),
            "otherwise": self.otherwise,
        })
    }
}

impl Promise {
    /// What all threads of a host have together, in the streams' period.
    #[must_use]
    pub fn cpu(&self) -> Option<Reservation> {
        let period = self.threads.first()?.period();
        let share: f64 = self.threads.iter().map(Reservation::utilisation).sum();
        // More than a CPU is no reservation of one thread, but can be said like one.
        Reservation::new(period.mul_f64(share.min(1.0)), period).ok()
    }

    /// The share of its CPU that all threads of a host have together.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.threads.iter().map(Reservation::utilisation).sum()
    }

    /// For programs.
    #[must_use]
    pub fn json(&self) -> Value {
        let times = |times: &Bounded<Duration>| json!({"median": times.median.as_secs_f64(), "bound": times.bound.as_secs_f64()});
        let held = self.contract.held.iter();
        json!({
            "total_s": times(&self.total),
            "downtime_s": times(&self.downtime),
            "bytes": {"median": self.bytes.median, "bound": self.bytes.bound},
            "rate_bit_s": self.rate.map(BitRate::bits_per_second),
            "need_bit_s": self.need.bits_per_second(),
            "assured": self.assured,
            "cpu": self.cpu().map(|cpu| json!({"runtime_s": cpu.runtime().as_secs_f64(), "period_s": cpu.period().as_secs_f64()})),
            "budgets": held.map(|own| own.raised.runtime().as_secs_f64()).collect::<Vec<_>>(),
            "tracking": self.tracking,
            "unchecked": self.contract.unchecked,
        })
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = self.wish.confidence * 100.0;
        write!(
            f,
            "yes: total {} ({percent:.0} %: {}), downtime {} ({percent:.0} %: {}), ",
            rounded(self.total.median),
            rounded(self.total.bound),
            rounded(self.downtime.median),
            rounded(self.downtime.bound)
        )?;
        match (self.rate, self.assured) {
            (Some(taken), true) => write!(f, "needs {}, assured", rate(taken))?,
            (Some(taken), false) => write!(f, "needs {}, which no queue assures", rate(taken))?,
            (None, _) => write!(f, "needs {}, and takes what there is", rate(self.need))?,
        }
        match self.cpu() {
            Some(cpu) => write!(f, ", and {cpu} of CPU on both hosts, reserved")?,
            None => write!(f, "; no CPU time is reserved for it")?,
        }
        for own in self
            .contract
            .held
            .iter()
            .filter(|own| own.raised != own.now)
        {
            write!(
                f,
                "; vCPU {} has {} instead of {} while it is copied",
                own.vcpu, own.raised, own.now
            )?;
        }
        match self.contract.unchecked.is_empty() {
            true => Ok(()),
            false => write!(
                f,
                "; deadlines are not checked ({})",
                self.contract.unchecked.join(", ")
            ),
        }
    }
}

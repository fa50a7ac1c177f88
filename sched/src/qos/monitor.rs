//! From successive observations to violations.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::observation::{Observation, TaskSeen, VcpuSeen};
use crate::analysis::{Supply, SupplyBound};
use crate::reservation::{Reservation, human};

/// What counts as a failure.
#[derive(Clone, Debug, PartialEq)]
pub enum Quality {
    /// A job of this task, or of any, ended after its deadline.
    DeadlineMiss {
        /// Its name.
        task: Option<String>,
    },
    /// A job of this task, or of any, took longer than a bound from release to end.
    ResponseOver {
        /// Its name.
        task: Option<String>,
        /// The bound.
        bound: Duration,
    },
    /// A virtual CPU got less than it is promised for the time in which it wanted to run.
    SupplyShort {
        /// Which.
        vcpu: usize,
        /// The part of the promise that may be missing, in 0..1.
        by: f64,
    },
}

/// When failures are a violation.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// What counts.
    pub quality: Quality,
    /// The length of time in which it counts.
    pub within: Duration,
    /// How many there are to be in it. A supply is looked at over all of that time, whatever stands here.
    pub count: u64,
}

/// A quality of service that was not kept.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Violation {
    /// How long before it was seen the first failure was.
    #[serde(rename = "within_ns", serialize_with = "super::as_nanos")]
    pub within: Duration,
    /// What was seen.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// What shows a violation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "quality", rename_all = "kebab-case")]
pub enum Evidence {
    /// Deadlines were missed.
    DeadlineMiss {
        /// How many.
        misses: u64,
    },
    /// Response times were over their bound.
    ResponseOver {
        /// How many.
        jobs: u64,
        /// The longest.
        #[serde(rename = "worst_ns", serialize_with = "super::as_nanos")]
        worst: Duration,
        /// The bound.
        #[serde(rename = "bound_ns", serialize_with = "super::as_nanos")]
        bound: Duration,
    },
    /// There was too little CPU time.
    SupplyShort {
        /// What there was.
        #[serde(rename = "supplied_ns", serialize_with = "super::as_nanos")]
        supplied: Duration,
        /// What there is at least by the promise.
        #[serde(rename = "promised_ns", serialize_with = "super::as_nanos")]
        promised: Duration,
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.evidence {
            Evidence::DeadlineMiss { misses: 1 } => write!(f, "1 deadline missed")?,
            Evidence::DeadlineMiss { misses } => write!(f, "{misses} deadlines missed")?,
            Evidence::ResponseOver { jobs, worst, bound } => write!(
                f,
                "{jobs} response times over {}, the longest {}",
                human(*bound),
                human(*worst)
            )?,
            Evidence::SupplyShort { supplied, promised } => {
                let (got, least) = (human(*supplied), human(*promised));
                write!(f, "supplied {got} where {least} are promised")?;
            }
        }
        match self.within {
            Duration::ZERO => Ok(()),
            within => write!(f, " within {}", human(within)),
        }
    }
}

/// Looks for one condition in one job.
#[derive(Clone, Debug)]
pub struct Monitor {
    condition: Condition,
    last: Option<Observation>,
    failures: VecDeque<Failures>,
    samples: VecDeque<Sample>,
    /// When the last violation is over as a window, and another may be seen.
    next: Duration,
}

/// Failures that were seen at one time.
#[derive(Clone, Copy, Debug, Default)]
struct Failures {
    at: Duration,
    number: u64,
    worst: Duration,
}

/// The counters of a supply at one time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    promised: Reservation,
    supplied: Duration,
    waited: Duration,
}

impl Monitor {
    /// A monitor that has seen nothing.
    #[must_use]
    pub fn new(condition: Condition) -> Self {
        Self {
            condition,
            last: None,
            failures: VecDeque::new(),
            samples: VecDeque::new(),
            next: Duration::ZERO,
        }
    }

    /// Takes in what is seen now. What a violation was made of counts for no other one, and the next one comes no sooner
    /// than its window is over. What happened before the first observation of a life counts for nothing.
    pub fn observe(&mut self, now: Duration, seen: &Observation) -> Option<Violation> {
        if self
            .last
            .as_ref()
            .is_some_and(|last| last.life != seen.life)
        {
            self.restart();
        }
        let violation = match self.condition.quality {
            Quality::SupplyShort { vcpu, by } => self.supply(now, seen.vcpus.get(vcpu), by),
            _ => self.count(now, seen),
        };
        self.last = Some(seen.clone());
        violation
    }

    /// Lets nothing count that was seen up to now.
    pub fn forget(&mut self) {
        self.failures.clear();
        self.samples.clear();
        self.next = Duration::ZERO;
    }

    /// Starts with another life of the job.
    pub fn restart(&mut self) {
        self.forget();
        self.last = None;
    }

    fn count(&mut self, now: Duration, seen: &Observation) -> Option<Violation> {
        let new = self.failures_since(self.last.as_ref()?, seen);
        if new.number > 0 {
            self.failures.push_back(Failures { at: now, ..new });
        }
        let within = self.condition.within;
        while (self.failures.front()).is_some_and(|first| now.saturating_sub(first.at) > within) {
            self.failures.pop_front();
        }
        let first = self.failures.front()?.at;
        let number = self.failures.iter().map(|some| some.number).sum();
        if number < self.condition.count || now < self.next {
            return None;
        }
        self.next = now + within;
        let worst = self.failures.drain(..).map(|some| some.worst).max();
        Some(Violation {
            within: now.saturating_sub(first),
            evidence: match self.condition.quality {
                Quality::ResponseOver { bound, .. } => Evidence::ResponseOver {
                    jobs: number,
                    worst: worst.unwrap_or_default(),
                    bound,
                },
                _ => Evidence::DeadlineMiss { misses: number },
            },
        })
    }

    fn failures_since(&self, last: &Observation, seen: &Observation) -> Failures {
        let wanted = match &self.condition.quality {
            Quality::DeadlineMiss { task } | Quality::ResponseOver { task, .. } => task.as_deref(),
            Quality::SupplyShort { .. } => None,
        };
        let nothing = TaskSeen::default();
        let mut failures = Failures::default();
        for (name, task) in &seen.tasks {
            if wanted.is_some_and(|wanted| wanted != name) {
                continue;
            }
            let before = last.tasks.get(name).unwrap_or(&nothing);
            let Quality::ResponseOver { bound, .. } = self.condition.quality else {
                failures.number += task.misses.saturating_sub(before.misses);
                continue;
            };
            for response in new_responses(before, task).filter(|response| **response > bound) {
                failures.number += 1;
                failures.worst = failures.worst.max(*response);
            }
        }
        failures
    }

    /// In the time looked at, the virtual CPU was `idle` when it neither ran nor waited. Of what its server supplies at
    /// least in such a time (Shin and Lee, RTSS 2003) no more than that can have been lost for want of demand.
    fn supply(&mut self, now: Duration, seen: Option<&VcpuSeen>, by: f64) -> Option<Violation> {
        let Some(sample) = seen.and_then(|seen| Sample::of(now, seen)) else {
            self.samples.clear();
            return None;
        };
        if (self.samples.back()).is_some_and(|last| last.promised != sample.promised) {
            self.samples.clear();
        }
        self.samples.push_back(sample);
        let within = self.condition.within;
        while (self.samples.get(1)).is_some_and(|next| now.saturating_sub(next.at) >= within) {
            self.samples.pop_front();
        }
        let first = *self.samples.front()?;
        let length = now.saturating_sub(first.at);
        if length < within {
            return None;
        }
        let supplied = sample.supplied.saturating_sub(first.supplied);
        let waited = sample.waited.saturating_sub(first.waited);
        let idle = length.saturating_sub(supplied).saturating_sub(waited);
        let server = Supply::worst_case(sample.promised.runtime(), sample.promised.period());
        let promised = server.bound(length).saturating_sub(idle);
        if supplied.as_secs_f64() >= promised.as_secs_f64() * (1.0 - by) {
            return None;
        }
        self.samples.drain(..self.samples.len() - 1);
        Some(Violation {
            within: length,
            evidence: Evidence::SupplyShort { supplied, promised },
        })
    }
}

impl Sample {
    fn of(at: Duration, seen: &VcpuSeen) -> Option<Self> {
        Some(Self {
            at,
            promised: seen.promised?,
            supplied: seen.supplied,
            waited: seen.waited?,
        })
    }
}

/// The response times that have come since, as far as they are known.
fn new_responses<'a>(before: &TaskSeen, task: &'a TaskSeen) -> impl Iterator<Item = &'a Duration> {
    let new = task.jobs.saturating_sub(before.jobs);
    let new = usize::try_from(new).unwrap_or(usize::MAX);
    let known = task.latest.len().saturating_sub(new);
    task.latest.iter().skip(known)
}

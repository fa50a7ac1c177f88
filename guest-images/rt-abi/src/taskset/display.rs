//! From values to words: the inverse of parsing. Defaults are left out, but for what one wants to see in a log.

use core::fmt;

use super::network;
use super::units::{Size, Time};
use super::{Content, Dirty, Fault, Kind, Mode, Pattern, Policy, Storm, Task, TaskSet};

pub(super) const POLICIES: [(&str, Policy); 2] =
    [("rm", Policy::RateMonotonic), ("edf", Policy::Edf)];

pub(super) const PATTERNS: [(&str, Pattern); 4] = [
    ("seq", Pattern::Sequential),
    ("random", Pattern::Random),
    ("hot", Pattern::Hot),
    ("zipf", Pattern::Zipf),
];

pub(super) const CONTENTS: [(&str, Content); 3] = [
    ("count", Content::Counter),
    ("random", Content::Random),
    ("half", Content::Half),
];

pub(super) const STORMS: [(&str, Storm); 2] = [("pio", Storm::Pio), ("mmio", Storm::Mmio)];

pub(super) const FAULTS: [(&str, Fault); 5] = [
    ("triple", Fault::Triple),
    ("ud", Fault::InvalidOpcode),
    ("hang", Fault::Hang),
    ("wild", Fault::Wild),
    ("memory", Fault::WildMemory),
];

/// The word for `choice`.
fn word<T: PartialEq>(table: &[(&'static str, T)], choice: &T) -> &'static str {
    let found = table.iter().find(|(_, listed)| listed == choice);
    found.map_or("", |(name, _)| name)
}

impl fmt::Display for TaskSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        write!(f, "sched={}", word(&POLICIES, &self.policy))?;
        write!(f, " duration={} seed={}", Time(self.duration), self.seed)?;
        if self.gap != default.gap {
            write!(f, " gap={}", Time(self.gap))?;
        }
        if self.start != default.start {
            write!(f, " start={}", Time(self.start))?;
        }
        if self.stream {
            f.write_str(" stream=1")?;
        }
        if let Some(khz) = self.tsc_khz {
            write!(f, " tsc_khz={khz}")?;
        }
        write!(f, " vcpus={}", self.vcpus)?;
        self.tasks()
            .iter()
            .try_for_each(|task| write!(f, " {task}"))?;
        self.services.fmt(f)?;
        self.transports()
            .try_for_each(|transport| write!(f, " virtio_mmio.device={transport}"))?;
        self.mode.fmt(f)
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.kind == Kind::Hog {
            return write!(f, "hog={}", self.vcpu);
        }
        if self.kind.is_service() || self.stream.is_some() {
            return network::display(self, f);
        }
        write!(f, "task={}", self.name)?;
        if self.c_min != self.c_max {
            write!(f, ",c={}..{}", Time(self.c_min), Time(self.c_max))?;
        } else if self.c_max != 0 || self.dirty.is_none() {
            write!(f, ",c={}", Time(self.c_max))?;
        }
        write!(f, ",t={}", Time(self.period))?;
        if self.deadline != self.period {
            write!(f, ",d={}", Time(self.deadline))?;
        }
        if self.offset != 0 {
            write!(f, ",o={}", Time(self.offset))?;
        }
        if self.vcpu != 0 {
            write!(f, ",cpu={}", self.vcpu)?;
        }
        if let Some(priority) = self.priority {
            write!(f, ",prio={priority}")?;
        }
        if self.gaps {
            f.write_str(",gaps=1")?;
        }
        if let Some(step) = self.step {
            write!(f, ",c2={},step={}", Time(step.c), Time(step.every))?;
        }
        if self.critical != 0 {
            write!(f, ",s={}", Time(self.critical))?;
        }
        self.dirty.map_or(Ok(()), |dirty| write!(f, ",{dirty}"))
    }
}

impl fmt::Display for Dirty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dirty={},region={}", self.pages, Size(self.region))?;
        write!(f, ",pattern={}", word(&PATTERNS, &self.pattern))?;
        if self.content != Content::Counter {
            write!(f, ",content={}", word(&CONTENTS, &self.content))?;
        }
        match self.phase {
            0 => Ok(()),
            phase => write!(f, ",phase={}", Time(phase)),
        }
    }
}

impl fmt::Display for Mode {
    /// Begins with a space, unless it is the default and says nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tasks => Ok(()),
            Self::Bench { port, count } => write!(f, " bench=pio,n={count},port={port:#x}"),
            Self::Storm(storm) => write!(f, " storm={}", word(&STORMS, storm)),
            Self::Fault(fault) => write!(f, " fault={}", word(&FAULTS, fault)),
        }
    }
}

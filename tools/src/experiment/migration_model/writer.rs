//! The guests that are recorded: what their tasks write, and how often.

use std::time::Duration;

use sched::request::BackendKind;
use sched::reservation::Reservation;
use vmm::units::Span;

use crate::experiment::ExperimentError;
use crate::experiment::guest::Share;
use crate::experiment::stage::Stage;

/// How a guest writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// All pages of its set equally often.
    Uniform,
    /// Some pages much more often than others.
    Skewed,
    /// Its pages in turn.
    Sequential,
    /// Many pages at once, and then none for a while.
    Bursts,
    /// Some pages more often than others, and from time to time these are others.
    Phases,
}

impl Habit {
    /// Its name in tables.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Skewed => "skewed",
            Self::Sequential => "in turn",
            Self::Bursts => "in bursts",
            Self::Phases => "in phases",
        }
    }

    /// Whether it writes the same way all the time, and at all times of a second.
    pub const fn is_steady(self) -> bool {
        matches!(self, Self::Uniform | Self::Skewed | Self::Sequential)
    }
}

/// A guest with one task that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WritingGuest {
    /// Its name in tables and files.
    pub key: &'static str,
    /// How it writes.
    pub habit: Habit,
    /// As the task's key `pattern` has it.
    pattern: &'static str,
    /// Pages that a job writes.
    pages: u32,
    /// A job's period, in ms.
    every: u64,
    /// The set that the pages are of, in MiB.
    set: u64,
    /// When the preferred pages change, in ms; 0 for never.
    phase: u64,
}

/// Memory of a guest beside the set that it writes, in MiB.
const BESIDE: u64 = 8;
/// How long a guest runs at most: longer than it is recorded.
const LIFE: Duration = Duration::from_secs(120);
/// What each gets. Two of them share a CPU, and what tracking costs is paid from it.
const BUDGET: Duration = Duration::from_micros(1_700);
const PERIOD: Duration = Duration::from_millis(5);

const fn guest(
    key: &'static str,
    (habit, pattern): (Habit, &'static str),
    (pages, every, set): (u32, u64, u64),
    phase: u64,
) -> WritingGuest {
    WritingGuest {
        key,
        habit,
        pattern,
        pages,
        every,
        set,
        phase,
    }
}

const UNIFORM: (Habit, &str) = (Habit::Uniform, "random");
const ZIPF: (Habit, &str) = (Habit::Skewed, "zipf");
const HOT: (Habit, &str) = (Habit::Skewed, "hot");
const TURN: (Habit, &str) = (Habit::Sequential, "seq");
const BURSTS: (Habit, &str) = (Habit::Bursts, "random");
const HOT_PHASES: (Habit, &str) = (Habit::Phases, "hot");
const ZIPF_PHASES: (Habit, &str) = (Habit::Phases, "zipf");

/// The guests, two of which are recorded at a time: the first `QUICK` of them are enough for a first look.
pub const GUESTS: [WritingGuest; 20] = [
    guest("uniform-1k-4M", UNIFORM, (1, 1, 4), 0),
    guest("zipf-4k-48M", ZIPF, (4, 1, 48), 0),
    guest("turn-1k-8M", TURN, (1, 1, 8), 0),
    guest("hot-2k-32M", HOT, (2, 1, 32), 0),
    guest("bursts-2k-8M", BURSTS, (100, 50, 8), 0),
    guest("hot-2k-32M-1s", HOT_PHASES, (2, 1, 32), 1_000),
    guest("uniform-10-1M", UNIFORM, (1, 100, 1), 0),
    guest("uniform-5k-32M", UNIFORM, (5, 1, 32), 0),
    guest("uniform-1k-48M", UNIFORM, (1, 1, 48), 0),
    guest("uniform-3k-32M", UNIFORM, (3, 1, 32), 0),
    guest("zipf-1k-16M", ZIPF, (1, 1, 16), 0),
    guest("hot-4k-32M", HOT, (4, 1, 32), 0),
    guest("zipf-2k-48M", ZIPF, (2, 1, 48), 0),
    guest("turn-5k-32M", TURN, (5, 1, 32), 0),
    guest("turn-2k-32M", TURN, (2, 1, 32), 0),
    guest("bursts-1k-16M", BURSTS, (20, 20, 16), 0),
    guest("bursts-700-4M", BURSTS, (100, 150, 4), 0),
    guest("zipf-3k-32M-5s", ZIPF_PHASES, (3, 1, 32), 5_000),
    guest("zipf-2k-32M-1s", ZIPF_PHASES, (2, 1, 32), 1_000),
    guest("hot-3k-32M-3s", HOT_PHASES, (3, 1, 32), 3_000),
];

/// How many of the guests a quick run has: one of each kind, and two of those that have a target of their own.
pub const QUICK: usize = 6;

impl WritingGuest {
    /// Writes per second.
    pub fn rate(&self) -> f64 {
        f64::from(self.pages) * 1e3 / self.every as f64
    }

    /// Its name among the guests of the experiment's run folder. Short: the path of a socket may have 107 bytes.
    pub fn name(&self) -> String {
        self.key.to_owned()
    }

    /// Its specification, as a user would write it.
    pub fn spec(&self, stage: &Stage, seed: u64) -> Result<String, ExperimentError> {
        let reservation = Reservation::new(BUDGET, PERIOD)?;
        let share = Share::reserved(BackendKind::Deadline, reservation);
        Ok(self.guest_table(seed) + &stage.cpu_table(&share, &[]))
    }

    fn guest_table(&self, seed: u64) -> String {
        let period = Span::from(Duration::from_millis(self.every));
        let phase = match self.phase {
            0 => String::new(),
            phase => format!(", phase = \"{}\"", Span::from(Duration::from_millis(phase))),
        };
        format!(
            "name = \"{}\"\n\n[guest]\nmemory = \"{}MiB\"\nduration = \"{}\"\nseed = {seed}\n\n[[guest.task]]\nname = \"writer\"\n\
             period = \"{period}\"\nwrites = {{ pages = {}, set = \"{}MiB\", pattern = \"{}\"{phase} }}\n\n",
            self.name(),
            self.set + BESIDE,
            Span::from(LIFE),
            self.pages,
            self.set,
            self.pattern,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use vmm::spec::VmSpec;

    #[test]
    fn every_guest_has_a_specification_of_its_own_that_can_be_planned() {
        let mut names = BTreeSet::new();
        for guest in GUESTS {
            let text = guest.guest_table(1)
                + "[cpu]\nbackend = \"deadline\"\nruntime = \"2ms\"\nperiod = \"5ms\"\n";
            let plan = VmSpec::parse(&text).unwrap().plan().unwrap();
            let words = format!("dirty={},region={}K", guest.pages, guest.set * 1024);
            assert!(plan.command_line.contains(&words), "{}", plan.command_line);
            assert!(names.insert(guest.name()), "{}", guest.key);
        }
    }

    #[test]
    fn a_quick_run_has_every_kind_of_guest() {
        let kinds = |guests: &[WritingGuest]| {
            let names = guests.iter().map(|guest| guest.habit.name());
            names.collect::<BTreeSet<_>>()
        };
        assert_eq!(kinds(&GUESTS[..QUICK]), kinds(&GUESTS));
    }
}

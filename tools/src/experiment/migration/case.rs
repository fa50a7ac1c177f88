//! What is compared: guests that write memory, links, and who moves them. Pure.

use std::time::Duration;

use serde::Serialize;
use vmm::units::BitRate;

/// Memory of every guest, MiB.
pub const MEMORY: u64 = 256;
/// The longest that a guest may stand still: both monitors are asked for this.
pub const DOWNTIME: Duration = Duration::from_millis(20);
/// Every guest has a task that shows a sign of life this often.
pub const PULSE: Duration = Duration::from_micros(500);
/// How often the writing task has a job.
const JOB: Duration = Duration::from_millis(5);
/// (Q, P) of QEMU's vCPU; the period of ours is the same.
pub const RESERVATION: (Duration, Duration) =
    (Duration::from_millis(45), Duration::from_millis(50));
/// Guests live this long should nobody end them.
const LIFE: &str = "900s";

/// A guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guest {
    /// In `result.json`.
    pub key: &'static str,
    /// For people.
    pub name: &'static str,
    /// Pages that it writes per second.
    pub rate: u32,
    /// Memory that they are of, MiB.
    pub set: u32,
    /// Which of them.
    pub pattern: &'static str,
    /// How often the ones that it prefers change.
    pub phase: Option<&'static str>,
    /// What is written.
    pub content: &'static str,
    /// Q in this program, milliseconds: what it needs, such that there is room to raise it by what tracking costs.
    pub runtime: u64,
}

impl Guest {
    const IDLE: Self = Self {
        key: "idle",
        name: "idle",
        rate: 0,
        set: 0,
        pattern: "random",
        phase: None,
        content: "random",
        runtime: 20,
    };
    /// The guest of the target for downtime.
    pub const SLOW: Self = Self {
        key: "1k",
        name: "1k/s of 32 MiB",
        rate: 1_000,
        set: 32,
        ..Self::IDLE
    };
    /// Content of which half says nothing new.
    pub const HALF: Self = Self {
        key: "1k-half",
        name: "1k/s of 32 MiB, content compresses 2:1",
        content: "half",
        ..Self::SLOW
    };
    const MEDIUM: Self = Self {
        key: "5k",
        name: "5k/s of 32 MiB",
        rate: 5_000,
        ..Self::SLOW
    };
    /// The smaller guest of the target for the total time.
    pub const SMALL: Self = Self {
        key: "10k",
        name: "10k/s of 32 MiB",
        rate: 10_000,
        ..Self::SLOW
    };
    /// The larger one.
    pub const LARGE: Self = Self {
        key: "20k-large",
        name: "20k/s of 192 MiB",
        rate: 20_000,
        set: 192,
        runtime: 15,
        ..Self::SLOW
    };
    const CALM: Self = Self {
        key: "1k-large",
        name: "1k/s of 192 MiB",
        set: 192,
        ..Self::SLOW
    };
    const SKEWED: Self = Self {
        key: "5k-zipf",
        name: "5k/s of 192 MiB, few pages most often",
        pattern: "zipf",
        set: 192,
        ..Self::MEDIUM
    };
    const CHANGING: Self = Self {
        key: "5k-phases",
        name: "5k/s of 192 MiB, a hot tenth that changes every 2 s",
        pattern: "hot",
        phase: Some("2s"),
        ..Self::SKEWED
    };

    /// The command line of its image.
    pub fn line(&self, seed: u64) -> String {
        let pulse = PULSE.as_micros();
        let mut line =
            format!("sched=rm duration={LIFE} seed={seed} task=pulse,c=10us,t={pulse}us");
        if self.rate > 0 {
            line += &format!(
                " task=writer,t={}ms,dirty={},region={}M,pattern={},content={}",
                JOB.as_millis(),
                self.pages_per_job(),
                self.set,
                self.pattern,
                self.content
            );
            line += &self
                .phase
                .map_or_else(String::new, |phase| format!(",phase={phase}"));
        }
        line
    }

    /// Pages that a job of the writing task writes.
    pub fn pages_per_job(&self) -> u32 {
        self.rate / u32::try_from(1000 / JOB.as_millis()).unwrap_or(1)
    }
}

/// What joins the hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Link(pub Option<u64>);

impl Link {
    /// 100 Mbit/s.
    pub const SLOW: Self = Self(Some(100_000_000));
    /// 1 Gbit/s.
    pub const GIGABIT: Self = Self(Some(1_000_000_000));
    /// As fast as the kernel carries it.
    pub const UNLIMITED: Self = Self(None);

    /// Its capacity, if it has a limit.
    pub fn rate(self) -> Option<BitRate> {
        self.0.map(BitRate::new)
    }

    /// For people.
    pub fn name(self) -> String {
        self.rate()
            .map_or_else(|| "unlimited".to_owned(), |rate| rate.to_string())
    }

    /// A migration that takes longer is given up.
    pub fn patience(self) -> Duration {
        Duration::from_secs(if self == Self::SLOW { 25 } else { 12 })
    }
}

/// Who moves a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mover {
    /// This program, over TLS, as fast as it goes: what is compared with QEMU.
    Own,
    /// The same with compression.
    OwnCompressed,
    /// The same with what the migration itself needs reserved beforehand, so that there is a promise.
    OwnReserved,
    /// QEMU over one connection.
    Plain,
    /// QEMU over several.
    Multifd,
    /// The same where all memory was allocated at both ends beforehand.
    MultifdPrepared,
}

impl Mover {
    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Own => "Chronovisor",
            Self::OwnCompressed => "Chronovisor, compressed",
            Self::OwnReserved => "Chronovisor, reserved",
            Self::Plain => "QEMU",
            Self::Multifd => "QEMU, multifd",
            Self::MultifdPrepared => "QEMU, multifd, memory preallocated",
        }
    }

    /// Whether it is this program.
    pub fn is_own(self) -> bool {
        matches!(self, Self::Own | Self::OwnCompressed | Self::OwnReserved)
    }

    /// Whether it is QEMU as targets compare with.
    pub fn is_peer(self) -> bool {
        matches!(self, Self::Plain | Self::Multifd)
    }
}

/// A guest on a link, moved by several, several times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which.
    pub guest: Guest,
    /// Over what.
    pub link: Link,
    /// How often by each.
    pub repeats: usize,
}

impl Case {
    /// All of them.
    pub fn all(quick: bool) -> Vec<Self> {
        if quick {
            let once = |guest, link| Self {
                guest,
                link,
                repeats: 1,
            };
            return vec![
                once(Guest::SLOW, Link::UNLIMITED),
                once(Guest::SLOW, Link::GIGABIT),
                once(Guest::SMALL, Link::UNLIMITED),
            ];
        }
        let on = |link, repeats, guests: &[Guest]| {
            let case = |guest: &Guest| Self {
                guest: *guest,
                link,
                repeats,
            };
            guests.iter().map(case).collect::<Vec<_>>()
        };
        let (slow, half, small, large) = (Guest::SLOW, Guest::HALF, Guest::SMALL, Guest::LARGE);
        let (skewed, changing) = (Guest::SKEWED, Guest::CHANGING);
        let mut cases = on(
            Link::UNLIMITED,
            5,
            &[
                Guest::IDLE,
                slow,
                Guest::CALM,
                Guest::MEDIUM,
                small,
                large,
                skewed,
                changing,
            ],
        );
        cases.extend(on(
            Link::GIGABIT,
            3,
            &[Guest::IDLE, slow, small, large, skewed, changing],
        ));
        cases.extend(on(Link::SLOW, 3, &[Guest::IDLE, slow, half]));
        cases
    }

    /// Who moves it.
    pub fn movers(&self) -> Vec<Mover> {
        let mut movers = vec![Mover::Own, Mover::OwnReserved, Mover::Plain, Mover::Multifd];
        if self.guest.content == "half" {
            movers.insert(1, Mover::OwnCompressed);
        }
        let is_target = [Guest::SLOW, Guest::SMALL, Guest::LARGE].contains(&self.guest);
        if self.link == Link::UNLIMITED && is_target {
            movers.push(Mover::MultifdPrepared);
        }
        movers
    }

    /// About how long one migration of it takes with all that belongs to it.
    pub fn length(&self) -> Duration {
        let bytes = u64::from(self.guest.set) << 20;
        let carried = self
            .link
            .0
            .map_or(0.5, |bits| bytes as f64 * 10.0 / bits as f64);
        Duration::from_secs_f64(carried + 4.0)
    }

    /// For the progress bar.
    pub fn name(&self) -> String {
        format!("{} over {}", self.guest.key, self.link.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt_abi::taskset::TaskSet;

    #[test]
    fn every_guest_is_one_that_the_image_runs_and_writes_as_often_as_it_says() {
        for case in Case::all(false) {
            let set = TaskSet::parse(&case.guest.line(7)).unwrap();
            let rate: f64 = set
                .tasks()
                .iter()
                .filter_map(|task| Some((task.dirty?.pages, task.period)))
                .map(|(pages, period)| f64::from(pages) / (period as f64 / 1e9))
                .sum();
            assert!(
                (rate - f64::from(case.guest.rate)).abs() < 1e-6,
                "{}",
                case.name()
            );
        }
    }

    #[test]
    fn the_whole_experiment_is_within_its_time_and_the_quick_one_too() {
        for (quick, limit) in [(false, 25 * 60), (true, 80)] {
            let lengths = Case::all(quick).into_iter().map(|case| {
                let runs = u32::try_from(case.repeats * case.movers().len()).unwrap();
                case.length() * runs
            });
            let whole: Duration = lengths.sum();
            assert!(whole < Duration::from_secs(limit), "{whole:?}");
        }
    }
}

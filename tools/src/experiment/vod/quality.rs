//! Monitors and strategies of the scenario: what is looked for, and what is done then (Duran-Limon et al., middleware hooks).
//!
//! The gold VTM is watched as two jobs: what it has of the CPU, and what it has of the link. A share of a link is told as
//! time on it: 5 of 10 Mbit/s are 5 ms of every 10 ms. So the strategies of [`sched::qos`] serve both.

use std::collections::BTreeMap;
use std::time::Duration;

use sched::qos::{
    Action, Activator, Change, Condition, Donor, Observation, Presence, Quality, Rule, Strategy,
    Target, TaskSeen, VcpuSeen,
};
use sched::reservation::Reservation;
use units::BitRate;

/// The VTM of streams.
pub const GOLD: &str = "gold";
/// The VTM of transcoding.
pub const BEST_EFFORT: &str = "best-effort";
/// The period in which a share of the link is told as time.
const LINK_PERIOD: Duration = Duration::from_millis(10);

/// What both jobs have of something, and how it may move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Gold's.
    pub gold: Reservation,
    /// That of best effort.
    pub best_effort: Reservation,
}

/// What a job of the watch holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// CPU time.
    Cpu,
    /// Time on the link.
    Link,
}

impl Held {
    /// The two.
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Link];

    fn prefix(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Link => "link",
        }
    }

    /// The name of the job.
    pub fn job(self, of: &str) -> String {
        format!("{}:{of}", self.prefix())
    }

    fn target(self, of: &str) -> Target {
        Target {
            job: self.job(of),
            vcpu: 0,
        }
    }

    /// What it is that an action changes.
    pub fn of(action: &Action) -> Option<Self> {
        let job = &action.changes().next()?.target.job;
        let is_of = |held: &Self| job.split(':').next() == Some(held.prefix());
        Self::ALL.into_iter().find(is_of)
    }

    /// When its quality is not kept.
    fn condition(self) -> Condition {
        let (within, count) = match self {
            // Frames have gone out late; a few may be the noise of a host that was busy elsewhere for a moment.
            Self::Cpu => (Duration::from_secs(1), 10),
            // A packet has not come; at full queues some are lost in vain.
            Self::Link => (Duration::from_millis(500), 5),
        };
        Condition {
            quality: Quality::DeadlineMiss { task: None },
            within,
            count,
        }
    }

    /// The rule that moves what is held from best effort to gold, in one step up to `up_to`.
    pub fn rule(self, before: Pair, up_to: Duration) -> Rule {
        let step = up_to.saturating_sub(before.gold.runtime());
        let share = step.as_secs_f64() / before.gold.period().as_secs_f64();
        let given = before.best_effort.period().mul_f64(share);
        Rule {
            name: format!("{} for gold", self.prefix()),
            target: self.target(GOLD),
            condition: self.condition(),
            strategy: Strategy {
                step,
                up_to,
                donor: Some(Donor {
                    target: self.target(BEST_EFFORT),
                    down_to: before.best_effort.runtime().saturating_sub(given),
                }),
                give_back_after: None,
            },
            cool_down: Duration::from_secs(2),
        }
    }
}

/// A share of a link of `capacity`, as time on it.
pub fn link_time(rate: BitRate, capacity: BitRate) -> Result<Reservation, String> {
    let (rate, capacity) = (rate.bits_per_second(), capacity.bits_per_second());
    let period = LINK_PERIOD.as_nanos();
    let nanos = u128::from(rate) * period / u128::from(capacity.max(1));
    let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
    let told = Reservation::new(Duration::from_nanos(nanos), LINK_PERIOD);
    told.map_err(|error| error.to_string())
}

/// The other way round.
pub fn link_rate(time: Reservation, capacity: BitRate) -> BitRate {
    let nanos = time.runtime().as_nanos() * u128::from(capacity.bits_per_second());
    let rate = nanos / time.period().as_nanos().max(1);
    BitRate::new(u64::try_from(rate).unwrap_or(u64::MAX))
}

/// What is seen of the streams, in the order of their numbers.
#[derive(Clone, Debug, Default)]
pub struct StreamsSeen {
    /// Frames sent, and those that were late.
    pub sent: Vec<TaskSeen>,
    /// Packets expected, and those that did not come.
    pub arrived: Vec<TaskSeen>,
}

/// What the watch sees: the streams as tasks of gold, and what everybody has.
pub fn seen(streams: &StreamsSeen, cpu: Pair, link: Pair) -> BTreeMap<String, Presence> {
    let named = |tasks: &[TaskSeen]| {
        let names = (1..).map(|number| format!("stream {number}"));
        names.zip(tasks.iter().cloned()).collect()
    };
    let here = |held: Held, of: &str, (promised, tasks)| {
        let vcpu = VcpuSeen {
            promised: Some(promised),
            ..VcpuSeen::default()
        };
        let observation = Observation {
            life: 1,
            tasks,
            vcpus: vec![vcpu],
        };
        (held.job(of), Presence::Here(observation))
    };
    BTreeMap::from([
        here(Held::Cpu, GOLD, (cpu.gold, named(&streams.sent))),
        here(Held::Cpu, BEST_EFFORT, (cpu.best_effort, BTreeMap::new())),
        here(Held::Link, GOLD, (link.gold, named(&streams.arrived))),
        here(Held::Link, BEST_EFFORT, (link.best_effort, BTreeMap::new())),
    ])
}

/// What gold and best effort have after an action.
pub fn after(pair: Pair, action: &Action) -> Pair {
    let of = |name: &str, held: Reservation| {
        let is_it = |change: &&Change| change.target.job.ends_with(&format!(":{name}"));
        action
            .changes()
            .find(is_it)
            .map_or(held, |change| change.after)
    };
    Pair {
        gold: of(GOLD, pair.gold),
        best_effort: of(BEST_EFFORT, pair.best_effort),
    }
}

/// Carries out what [`after`] computes, on one kind.
pub trait Adapting {
    /// Gives both what they are to have, or leaves both as they are.
    ///
    /// # Errors
    /// Why not, for people.
    fn adapt(&mut self, held: Held, pair: Pair) -> Result<(), String>;
}

/// What everybody has, and who changes it.
pub struct Hands<'a, A> {
    /// Of the CPU.
    pub cpu: Pair,
    /// Of the link.
    pub link: Pair,
    /// Who changes it.
    pub adapting: &'a mut A,
}

impl<A: Adapting> Activator for Hands<'_, A> {
    fn activate(&mut self, action: &Action) -> Result<(), String> {
        let held = Held::of(action).ok_or_else(|| format!("{action} is of no known kind"))?;
        let pair = match held {
            Held::Cpu => &mut self.cpu,
            Held::Link => &mut self.link,
        };
        let wanted = after(*pair, action);
        self.adapting.adapt(held, wanted)?;
        *pair = wanted;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sched::qos::{Event, Watch};

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn pair((gold, best_effort): (u64, u64), (first, second): (u64, u64)) -> Pair {
        Pair {
            gold: Reservation::new(ms(gold), ms(first)).unwrap(),
            best_effort: Reservation::new(ms(best_effort), ms(second)).unwrap(),
        }
    }

    #[derive(Default)]
    struct Recording(Vec<(Held, Pair)>);

    impl Adapting for Recording {
        fn adapt(&mut self, held: Held, pair: Pair) -> Result<(), String> {
            self.0.push((held, pair));
            Ok(())
        }
    }

    /// Looks every 50 ms for two seconds at a fifth stream that makes frames late and packets be lost.
    fn two_seconds(rules: Vec<Rule>, (late, lost): (u64, u64)) -> (Vec<(Held, Pair)>, usize) {
        let mut recording = Recording::default();
        let mut hands = Hands {
            cpu: pair((24, 24), (40, 80)),
            link: pair((5, 5), (10, 10)),
            adapting: &mut recording,
        };
        let mut watch = Watch::new(rules);
        let mut refused = 0;
        for look in 0..40 {
            let task = |misses| TaskSeen {
                jobs: 10 * look,
                misses: misses * look,
                latest: Vec::new(),
            };
            let streams = StreamsSeen {
                sent: vec![task(0), task(late)],
                arrived: vec![task(lost)],
            };
            let seen = seen(&streams, hands.cpu, hands.link);
            let events = watch.step(ms(50 * look), &seen, &mut hands);
            let is_refused = |event: &&Event| matches!(event, Event::Refused { .. });
            refused += events.iter().filter(is_refused).count();
        }
        (recording.0, refused)
    }

    fn rules() -> Vec<Rule> {
        vec![
            Held::Cpu.rule(pair((24, 24), (40, 80)), ms(32)),
            Held::Link.rule(pair((5, 5), (10, 10)), ms(6)),
        ]
    }

    #[test]
    fn late_frames_move_the_papers_cpu_time_and_lost_packets_the_papers_bandwidth() {
        let cpu = (Held::Cpu, pair((32, 8), (40, 80)));
        let link = (Held::Link, pair((6, 4), (10, 10)));
        assert_eq!(two_seconds(rules(), (1, 0)), (vec![cpu], 0));
        assert_eq!(two_seconds(rules(), (0, 1)), (vec![link], 0));
        // Fewer lost packets than late frames are needed.
        assert_eq!(two_seconds(rules(), (1, 1)), (vec![link, cpu], 0));
        assert_eq!(two_seconds(rules(), (0, 0)), (Vec::new(), 0));
        assert_eq!(two_seconds(Vec::new(), (1, 1)), (Vec::new(), 0));
    }

    proptest! {
        #[test]
        fn a_rate_told_as_time_on_the_link_is_the_same_rate(megabits in 1u64..10) {
            let capacity = BitRate::new(10_000_000);
            let rate = BitRate::new(megabits * 1_000_000);
            let time = link_time(rate, capacity).unwrap();
            prop_assert_eq!(time.runtime(), ms(megabits));
            prop_assert_eq!(link_rate(time, capacity), rate);
        }
    }
}

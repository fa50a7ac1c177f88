//! Experiment `migration-rt`: a guest with deadlines moves from one loaded host to another over a loaded link.
//!
//! ```text
//! guest.rs    the task set of Cucinotta, Anastasi and Abeni's experiment, each job also writes 100 pages
//! hosts.rs    two hosts: a CPU, a run directory and a network namespace each, and a link with shares
//! load.rs     on both: a busy process, periodic real-time tasks, floods
//! journey.rs  `run`, `receive` and `migrate` as a user would start them
//! course.rs   what the guest's own records of both processes say
//! ```
//!
//! The budget is the one that `migrate` names when it refuses the paper's (28 ms, 50 ms) for a pause of 20 ms.

mod course;
mod figures;
mod guest;
mod hosts;
mod journey;
mod load;
mod report;

use std::time::Duration;

use rt_abi::taskset::TaskSet;
use vmm::units::Span;

use self::course::{Course, Instants};
use self::guest::{PAPER_BUDGET, PERIOD, START, reserved, task_set};
use self::hosts::Hosts;
use self::journey::{Answer, Journey, Left};
use super::ExperimentError;
use super::guest::Share;
use super::host::HostBefore;
use super::progress::Progress;
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;

/// A budget that is enough by a wide margin, where none was named.
const FALLBACK: Duration = Duration::from_millis(41);

/// What kind of move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// In a reservation, with a pause as short as it comes.
    Reserved,
    /// In a reservation, with a pause that takes all that was promised for it.
    Stretched,
    /// An ordinary process.
    Ordinary,
}

impl Kind {
    /// All of them, in the order of tables.
    pub const ALL: [Self; 3] = [Self::Reserved, Self::Stretched, Self::Ordinary];

    /// Its name in files.
    pub fn key(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Stretched => "stretched",
            Self::Ordinary => "ordinary",
        }
    }

    /// Its name in tables.
    pub fn title(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Stretched => "reserved, pause of 20 ms",
            Self::Ordinary => "no reservation",
        }
    }

    /// Whether the guest has a reservation.
    pub fn is_reserved(self) -> bool {
        self != Self::Ordinary
    }
}

/// A move that was made.
pub struct Moved {
    /// What the processes left.
    pub left: Left,
    /// What the guest recorded.
    pub course: Course,
}

/// A move, or why it was not made.
pub struct Trial {
    /// Its kind.
    pub kind: Kind,
    /// Its number among those of its kind, from 1.
    pub number: u32,
    /// What came of it.
    pub outcome: Result<Moved, String>,
}

/// All of the experiment.
pub struct Results {
    /// The CPUs of both hosts.
    pub cpus: (u32, u32),
    /// What reservations rested on, at the destination.
    pub promise: Promise,
    /// What the guest ran.
    pub set: TaskSet,
    /// What `migrate` said of the paper's budget.
    pub refusal: Result<Answer, String>,
    /// The budget that it named; none if it did not.
    pub named: Option<Duration>,
    /// The budget that was reserved.
    pub budget: Duration,
    /// The moves.
    pub trials: Vec<Trial>,
}

impl Results {
    /// The moves of one kind that were made.
    pub fn moved(&self, kind: Kind) -> impl Iterator<Item = (u32, &Moved)> {
        let of = self.trials.iter().filter(move |trial| trial.kind == kind);
        of.filter_map(|trial| Some((trial.number, trial.outcome.as_ref().ok()?)))
    }
}

/// How long everything takes.
struct Plan {
    listen: Duration,
    /// From the first release to the command.
    before: Duration,
    /// From the first release to the guest's own end.
    whole: Duration,
    /// How often each kind is repeated, in the order of [`Kind::ALL`].
    repeats: [u32; 3],
}

/// Processes that start and end, beside load.
const OVERHEAD: Duration = Duration::from_secs(3);

impl Plan {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                listen: Duration::from_millis(500),
                before: Duration::from_millis(1_800),
                whole: Duration::from_secs(15),
                repeats: [1, 1, 1],
            },
            false => Self {
                listen: Duration::from_secs(2),
                before: Duration::from_millis(4_800),
                whole: Duration::from_secs(20),
                repeats: [6, 6, 3],
            },
        }
    }

    fn each(&self) -> Duration {
        START + self.whole + OVERHEAD
    }

    fn duration(&self) -> Duration {
        let trials: u32 = self.repeats.iter().sum();
        self.listen * 2 + self.each() * trials + Duration::from_secs(10)
    }

    fn carry_out(
        &self,
        stage: &Stage,
        cpus: (u32, u32),
        progress: &mut Progress,
    ) -> Result<Results, ExperimentError> {
        let hosts = Hosts::build(stage, cpus)?;
        let set = task_set(self.whole)?;
        progress.step("asking for the paper's budget", Duration::from_secs(8));
        let refusal = ExperimentError::told(ask(&hosts, &set, progress))?;
        let named = refusal.as_ref().ok().and_then(named);
        let budget = named.unwrap_or(FALLBACK);
        let mut trials = Vec::new();
        for (kind, repeats) in Kind::ALL.into_iter().zip(self.repeats) {
            for number in 1..=repeats {
                progress.step(&format!("{}, {number}", kind.title()), self.each());
                let journey = Journey {
                    set: &set,
                    share: share(kind, budget)?,
                    is_stretched: kind == Kind::Stretched,
                    is_loaded: true,
                    before: self.before,
                };
                let outcome =
                    ExperimentError::told(try_it((kind, number), &journey, &hosts, progress))?;
                trials.push(Trial {
                    kind,
                    number,
                    outcome,
                });
            }
        }
        Ok(Results {
            cpus,
            promise: stage.promise.clone(),
            set,
            refusal,
            named,
            budget,
            trials,
        })
    }
}

fn share(kind: Kind, budget: Duration) -> Result<Share, ExperimentError> {
    match kind.is_reserved() {
        true => reserved(budget),
        false => Ok(Share::ORDINARY),
    }
}

/// Asks to move the guest in the paper's reservation.
fn ask(hosts: &Hosts, set: &TaskSet, progress: &Progress) -> Result<Answer, ExperimentError> {
    let journey = Journey {
        set,
        share: reserved(PAPER_BUDGET)?,
        is_stretched: false,
        is_loaded: false,
        before: Duration::from_millis(600),
    };
    journey.ask(hosts, progress)
}

/// The budget in an answer's words: `at least Q = 41.3 ms`.
fn named(answer: &Answer) -> Option<Duration> {
    if answer.is_moved() {
        return None;
    }
    let why = answer.why();
    let (_, rest) = why.split_once("at least Q = ")?;
    let mut words = rest.split([' ', ';', ',', '(', ')']);
    let number = words.next()?;
    let parsed = |text: String| text.parse::<Span>().ok();
    let span =
        parsed(number.to_owned()).or_else(|| parsed(format!("{number}{}", words.next()?)))?;
    Some(span.duration())
}

fn try_it(
    (kind, number): (Kind, u32),
    journey: &Journey,
    hosts: &Hosts,
    progress: &Progress,
) -> Result<Moved, ExperimentError> {
    let left = journey.make(hosts, progress)?;
    let measured = left.answer.measured.as_ref();
    let copied = measured.map(|measured| measured.total_s - measured.downtime_s);
    let copied = copied.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let instants = Instants {
        asked: left.asked,
        copied: copied.map(nanos),
        period: nanos(PERIOD),
    };
    let scenario = format!("{}-{number}", kind.key());
    let events = (&left.events.0[..], &left.events.1[..]);
    let course = Course::new((&scenario, journey.set), events, &instants);
    let course = course.ok_or_else(|| ExperimentError::NotMoved {
        why: "it was moved, and recorded nothing at its destination".to_owned(),
    })?;
    Ok(Moved { left, course })
}

/// The CPU of host A beside that of host B: another partition if there is a third CPU, what the partition leaves otherwise.
fn first_cpu(second: u32) -> Result<(u32, Option<u32>), ExperimentError> {
    let online = sched::cpus::online();
    let others: Vec<u32> = online.into_iter().filter(|cpu| *cpu != second).collect();
    match others[..] {
        [] => Err(ExperimentError::OneCpu),
        [only] => Ok((only, None)),
        [.., last] => Ok((last, Some(last))),
    }
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let second = choose_cpu(args.cpu)?;
    let (first, partition) = first_cpu(second)?;
    let plan = Plan::new(args.quick);
    let mut progress = Progress::new(plan.duration(), context.json);
    progress.step("listening to the CPU", plan.listen);
    let host = HostBefore::look(second, plan.listen);
    let stage = Stage::set_on(context, second, partition)?;
    let results = plan.carry_out(&stage, (first, second), &mut progress);
    stage.clear()?;
    let results = results?;
    progress.step("listening to the CPU", plan.listen);
    let host = host.after(second, &results.promise.to_string(), plan.listen);
    Ok(report::report(&results, args, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds_and_a_full_one_less_than_8_minutes() {
        let quick = Plan::new(true).duration();
        assert!(quick < Duration::from_secs(75), "{quick:?}");
        let full = Plan::new(false).duration();
        assert!(full < Duration::from_secs(460), "{full:?}");
    }

    #[test]
    fn the_budget_is_taken_from_the_words_of_a_refusal() {
        let answer = |outcome: &str| {
            Answer {
            outcome: outcome.to_owned(),
            reason: Some(
                "vCPU 0 has (28ms, 50ms), and with a pause of 20ms its tasks need at least Q = 39.417 ms (32.39 ms without any pause)"
                    .to_owned(),
            ),
            ..Answer::default()
        }
        };
        assert_eq!(
            named(&answer("refused")),
            Some(Duration::from_micros(39_417))
        );
        assert_eq!(named(&answer("moved")), None);
        assert_eq!(named(&Answer::default()), None);
    }
}

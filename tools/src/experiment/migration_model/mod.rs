//! Experiment `migration-model`: what the model of page writes says of migrations, beside what comes of them on recorded traces of
//! real guests.
//!
//! ```text
//! writer.rs       guests that write: at random, some pages more often, in turn, in bursts, in phases
//!   └ recording.rs   run in reservations, recorded window by window              what that has cost them
//!       ├ comparison.rs   watched, predicted, and replayed from there on         total, downtime, bytes; order of pages
//!       ├ inverse.rs      the least rate of a promise, replayed at it and below
//!       └ dirty_curve.rs  different pages within a time
//! ```
//!
//! The guests and their writes are real, and so is what tracking costs. The path is not: its rate is given, its costs are known to the
//! prediction as to the replay, and differ by luck alone.

mod comparison;
mod dirty_curve;
mod figures;
mod inverse;
mod recording;
mod report;
mod writer;

use std::time::Duration;

use super::ExperimentError;
use super::host::HostBefore;
use super::progress::Progress;
use super::stage::{Promise, Stage, choose_cpu};
use crate::cli::ExperimentArgs;
use crate::command::Context;
use crate::report::Report;
use comparison::{Course, Migration};
use dirty_curve::Within;
use inverse::Kept;
use recording::{Cost, Recorded, TOGETHER};
use writer::{GUESTS, QUICK, WritingGuest};

const LISTEN: Duration = Duration::from_secs(2);
const QUICK_LISTEN: Duration = Duration::from_millis(500);
const COURSE: Course = Course {
    watched: Duration::from_secs(10),
    migrations: 5,
    apart: Duration::from_millis(3_100),
    last: Duration::from_secs(7),
};
const QUICK_COURSE: Course = Course {
    watched: Duration::from_secs(5),
    migrations: 3,
    apart: Duration::from_millis(1_100),
    last: Duration::from_secs(6),
};
/// Predicting and replaying all migrations of a guest.
const REPLAYING: Duration = Duration::from_millis(2_500);

/// A guest and what came of it.
struct Examined {
    guest: WritingGuest,
    pages: u64,
    cost: Cost,
    curve: Vec<Within>,
    migrations: Vec<Migration>,
    kept: Kept,
}

/// All of the experiment.
struct Results {
    cpu: u32,
    promise: Promise,
    course: Course,
    examined: Vec<Examined>,
}

/// What is done, and how long that takes.
struct Plan {
    listen: Duration,
    course: Course,
    guests: &'static [WritingGuest],
}

impl Plan {
    fn new(quick: bool) -> Self {
        match quick {
            true => Self {
                listen: QUICK_LISTEN,
                course: QUICK_COURSE,
                guests: &GUESTS[..QUICK],
            },
            false => Self {
                listen: LISTEN,
                course: COURSE,
                guests: &GUESTS,
            },
        }
    }

    fn recording(&self) -> Duration {
        self.course.length() + recording::OVERHEAD
    }

    /// Predicting and replaying all migrations of one guest.
    fn replaying(&self) -> Duration {
        REPLAYING * self.course.migrations / COURSE.migrations
    }

    fn duration(&self) -> Duration {
        let count = |guests: usize| u32::try_from(guests).unwrap_or(u32::MAX);
        let together = count(self.guests.len().div_ceil(TOGETHER));
        self.listen * 2 + self.recording() * together + self.replaying() * count(self.guests.len())
    }

    fn record(
        &self,
        stage: &Stage,
        progress: &mut Progress,
    ) -> Result<Vec<Recorded>, ExperimentError> {
        let mut recorded = Vec::new();
        for guests in self.guests.chunks(TOGETHER) {
            let names: Vec<&str> = guests.iter().map(|guest| guest.key).collect();
            progress.step(
                &format!("recording {}", names.join(" and ")),
                self.recording(),
            );
            recorded.extend(recording::record(
                stage,
                guests,
                self.course.length(),
                progress,
            )?);
        }
        Ok(recorded)
    }

    fn examine(&self, recorded: &Recorded) -> Result<Examined, ExperimentError> {
        let known = comparison::watched(recorded, &self.course)?;
        let start = self.course.watched;
        let first = known.first();
        let timeline = &recorded.timeline;
        let curve = first.map(|known| dirty_curve::dirty_curve(timeline, start, known));
        Ok(Examined {
            guest: recorded.guest,
            pages: timeline.pages(),
            cost: recorded.cost.clone(),
            curve: curve.unwrap_or_default(),
            migrations: comparison::migrations(recorded, &self.course, &known)?,
            kept: inverse::inverse(recorded, &self.course, &known)?,
        })
    }
}

/// Runs the experiment and makes its report.
pub fn run(context: &Context, args: &ExperimentArgs) -> Result<Report, ExperimentError> {
    let cpu = choose_cpu(args.cpu)?;
    let plan = Plan::new(args.quick);
    let mut progress = Progress::new(plan.duration(), context.json);
    progress.step("listening to the CPU", plan.listen);
    let host = HostBefore::look(cpu, plan.listen);
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let recorded = plan.record(&stage, &mut progress);
    stage.clear()?;
    let recorded = recorded?;
    progress.step("listening to the CPU", plan.listen);
    let host = host.after(cpu, &promise.to_string(), plan.listen);
    let mut examined = Vec::new();
    for recorded in &recorded {
        super::interrupt::check()?;
        let what = format!("predicting and replaying {}", recorded.guest.key);
        progress.step(&what, plan.replaying());
        examined.push(plan.examine(recorded)?);
    }
    let results = Results {
        cpu,
        promise,
        course: plan.course,
        examined,
    };
    Ok(report::report(&results, args, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quick_run_takes_less_than_90_seconds_and_a_whole_one_less_than_10_minutes() {
        let (quick, whole) = (Plan::new(true).duration(), Plan::new(false).duration());
        assert!(quick < Duration::from_secs(80), "{quick:?}");
        assert!(whole < Duration::from_secs(580), "{whole:?}");
    }

    #[test]
    fn a_whole_run_replays_300_migrations_of_mixed_guests() {
        let plan = Plan::new(false);
        let each = comparison::RATES.len() * plan.course.starts().count();
        assert_eq!(plan.guests.len() * each, 300);
    }
}

//! What a migration will take, as distributions.
//!
//! A hundred migrations, each with its own luck: the guest's activity, the path's speed and the switch-over's length drawn evenly over
//! their distributions (Latin hypercube: McKay, Beckman and Conover, 1979), the dirty set of each round around its closed form
//! with the variance of a sum of independent pages. They decide as a real migration does.

use std::time::Duration;

use super::convergence::{Choice, Chooser, Stand, WhyNot};
use super::distribution::{Outcomes, Random, duration, normal_quantile, whole};
use super::path::{Path, PathError, Requirement};
use super::rounds::{Cell, Dirty, Round, cells, idle};
use super::writes::Writes;

/// Migrations that are drawn.
const DRAWS: usize = 100;

/// What a round will take, among the migrations that get to it.
#[derive(Debug, Clone, PartialEq)]
pub struct RoundForecast {
    /// Share of the migrations that get to it.
    pub reached: f64,
    /// Pages that it sends.
    pub pages: Outcomes<u64>,
    /// Time that it takes.
    pub time: Outcomes<Duration>,
}

/// What tracking writes costs the guest.
#[derive(Debug, Clone, PartialEq)]
pub struct Tracking {
    /// Writes that are noticed.
    pub writes: Outcomes<u64>,
    /// Time that they cost the guest together.
    pub time: Outcomes<Duration>,
    /// Largest share of the guest's time that they take in any round, in thousandths of a per cent, by which its budget has to be raised.
    pub peak: Outcomes<u64>,
}

/// What a migration will take.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// From the first byte until the guest runs at the destination.
    pub total: Outcomes<Duration>,
    /// Time for which the guest stands still.
    pub downtime: Outcomes<Duration>,
    /// Bytes sent.
    pub bytes: Outcomes<u64>,
    /// Pages sent, those while the guest stands still among them.
    pub pages: Outcomes<u64>,
    /// Rounds before the guest is paused.
    pub rounds: Outcomes<u64>,
    /// Each of these rounds.
    pub by_round: Vec<RoundForecast>,
    /// What tracking costs the guest.
    pub tracking: Tracking,
    /// Share of the outcomes that keep what is asked.
    pub kept: f64,
    /// Whether that is enough, and why not.
    pub converges: Result<(), WhyNot>,
}

/// One migration.
#[derive(Default)]
struct Outcome {
    total: f64,
    downtime: f64,
    bytes: f64,
    pages: f64,
    faults: f64,
    peak: f64,
    /// (pages, seconds).
    rounds: Vec<(f64, f64)>,
    never: Option<WhyNot>,
}

/// Luck of one migration, in standard deviations.
struct Luck {
    vigour: f64,
    speed: f64,
    switch_over: f64,
}

/// What a migration of a guest that writes so will take on such a path. The same `random` gives the same answer.
///
/// # Errors
/// When the path's parameters make no sense.
pub fn predict(
    writes: &Writes,
    path: &Path,
    requirement: &Requirement,
    random: &Random,
) -> Result<Prediction, PathError> {
    path.check()?;
    let mut random = random.clone();
    let cells = cells(writes);
    let mut outcomes = Vec::with_capacity(DRAWS);
    for luck in draws(&mut random) {
        let speed = (path.rate_spread * luck.speed).exp();
        let chooser = Chooser {
            cells: &cells,
            pace: &path.pace(speed),
            path,
            requirement,
            vigour: (writes.spread() * luck.vigour).exp(),
        };
        outcomes.push(migrate(&chooser, &luck, &mut random));
    }
    Ok(summary(&outcomes, path, requirement))
}

/// Every margin evenly over its distribution, in random combinations.
fn draws(random: &mut Random) -> Vec<Luck> {
    let mut margin = || {
        let mut deviates: Vec<f64> = (0..DRAWS)
            .map(|at| normal_quantile((at as f64 + 0.5) / DRAWS as f64))
            .collect();
        for last in (1..DRAWS).rev() {
            let other = whole((random.unit() * (last + 1) as f64).floor());
            deviates.swap(
                last,
                usize::try_from(other).map_or(last, |other| other.min(last)),
            );
        }
        deviates
    };
    let (vigour, speed, switch_over) = (margin(), margin(), margin());
    let together = vigour.into_iter().zip(speed).zip(switch_over);
    together
        .map(|((vigour, speed), switch_over)| Luck {
            vigour,
            speed,
            switch_over,
        })
        .collect()
}

fn migrate(chooser: &Chooser, luck: &Luck, random: &mut Random) -> Outcome {
    let mut stand = Stand::start(chooser.cells, chooser.path);
    let mut outcome = Outcome::default();
    loop {
        match chooser.choose(&stand) {
            Choice::Another(_, round) => {
                outcome.add(&round, chooser.path);
                stand.elapsed += round.seconds;
                let seconds = round.seconds;
                stand.after(seconds, scatter(chooser.cells, round, random));
            }
            Choice::Switch => break,
            Choice::Never(why) => {
                outcome.never = Some(why);
                break;
            }
        }
    }
    let before = stand.dirty.total();
    idle(
        chooser.cells,
        &mut stand.dirty,
        chooser.pace.delay,
        chooser.vigour,
    );
    let meanwhile = stand.dirty.total() - before;
    let drawn = draw(meanwhile, meanwhile, random) - meanwhile;
    let load = stand.dirty.whole_load(chooser.cells, chooser.pace);
    let seconds = load.seconds + drawn * chooser.pace.again.seconds;
    outcome.pages += stand.dirty.total() + drawn;
    outcome.bytes += load.bytes + drawn * chooser.pace.again.bytes;
    outcome.downtime = seconds.max(0.0) + chooser.path.switch_over.at(luck.switch_over);
    outcome.total = stand.elapsed + chooser.pace.delay + outcome.downtime;
    outcome
}

/// The dirty set that a round really leaves.
fn scatter(cells: &[Cell], round: Round, random: &mut Random) -> Dirty {
    let mean = round.dirty.total();
    let variance: f64 = round.variance.iter().sum();
    let mut dirty = round.dirty;
    if variance <= 0.0 {
        return dirty;
    }
    let off = draw(mean, variance, random) - mean;
    // Given the sum of independent parts, each is expected off by its share of the variance.
    for ((cell, pages), part) in cells.iter().zip(&mut dirty.pages).zip(&round.variance) {
        *pages = (*pages + off * part / variance).clamp(0.0, cell.pages);
    }
    dirty
}

/// A number of pages of this mean and variance.
fn draw(mean: f64, variance: f64, random: &mut Random) -> f64 {
    if mean < 16.0 && variance > 0.7 * mean {
        return random.poisson(mean);
    }
    (mean + variance.sqrt() * random.normal()).max(0.0)
}

impl Outcome {
    fn add(&mut self, round: &Round, path: &Path) {
        self.bytes += round.bytes;
        self.pages += round.sent;
        self.faults += round.faults;
        self.peak = self
            .peak
            .max(round.faults * path.tracked_write.as_secs_f64() / round.seconds);
        self.rounds.push((round.sent, round.seconds));
    }
}

fn summary(outcomes: &[Outcome], path: &Path, requirement: &Requirement) -> Prediction {
    let times =
        |of: fn(&Outcome) -> f64| Outcomes::new(outcomes.iter().map(|o| duration(of(o))).collect());
    let counts =
        |of: fn(&Outcome) -> f64| Outcomes::new(outcomes.iter().map(|o| whole(of(o))).collect());
    let tracked = path.tracked_write.as_secs_f64();
    let paid = outcomes.iter().map(|o| duration(o.faults * tracked));
    let mut prediction = Prediction {
        total: times(|o| o.total),
        downtime: times(|o| o.downtime),
        bytes: counts(|o| o.bytes),
        pages: counts(|o| o.pages),
        rounds: counts(|o| o.rounds.len() as f64),
        by_round: by_round(outcomes),
        tracking: Tracking {
            writes: counts(|o| o.faults),
            time: Outcomes::new(paid.collect()),
            peak: counts(|o| o.peak * 1e5),
        },
        kept: 0.0,
        converges: Ok(()),
    };
    let keeps = |o: &&Outcome| {
        duration(o.downtime) <= requirement.downtime && duration(o.total) <= requirement.finish
    };
    prediction.kept = outcomes.iter().filter(keeps).count() as f64 / outcomes.len() as f64;
    prediction.converges = verdict(outcomes, &prediction, requirement);
    prediction
}

fn by_round(outcomes: &[Outcome]) -> Vec<RoundForecast> {
    let most = outcomes.iter().map(|o| o.rounds.len()).max().unwrap_or(0);
    let forecast = |round: usize| {
        let reached: Vec<_> = outcomes
            .iter()
            .filter_map(|o| o.rounds.get(round))
            .collect();
        RoundForecast {
            reached: reached.len() as f64 / outcomes.len() as f64,
            pages: Outcomes::new(reached.iter().map(|(pages, _)| whole(*pages)).collect()),
            time: Outcomes::new(
                reached
                    .iter()
                    .map(|(_, seconds)| duration(*seconds))
                    .collect(),
            ),
        }
    };
    (0..most).map(forecast).collect()
}

fn verdict(
    outcomes: &[Outcome],
    prediction: &Prediction,
    requirement: &Requirement,
) -> Result<(), WhyNot> {
    if prediction.kept >= requirement.confidence {
        return Ok(());
    }
    let quantile = |times: &Outcomes<Duration>| times.quantile(requirement.confidence);
    let never: Vec<&WhyNot> = outcomes.iter().filter_map(|o| o.never.as_ref()).collect();
    if never.len() * 2 > outcomes.len() {
        let mut why = never[never.len() / 2].clone();
        if let WhyNot::WritesTooFast { downtime, .. } = &mut why {
            // What is kept over all outcomes, not in this one.
            *downtime = quantile(&prediction.downtime);
        }
        return Err(why);
    }
    Err(WhyNot::TooSeldom {
        kept: prediction.kept,
        confidence: requirement.confidence,
        downtime: quantile(&prediction.downtime),
        total: quantile(&prediction.total),
    })
}

//! Medians of the runs of a case, and how they compare.

use std::time::Duration;

use super::Results;
use super::case::{Case, Mover};
use super::run::{Ended, Moved};

/// What was measured of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Seconds that it took.
    Total,
    /// Seconds of the guest's silence at the switch-over.
    Silence,
    /// Seconds of downtime that the monitor tells of.
    Told,
    /// Seconds of the guest's silence before.
    Before,
    /// Bytes on the wire.
    Bytes,
    /// Passes over the memory.
    Rounds,
    /// Pages written per second before.
    WritesBefore,
    /// Pages written per second meanwhile.
    WritesMeanwhile,
}

impl Measure {
    fn of(self, moved: &Moved) -> Option<f64> {
        let seconds = |time: Duration| time.as_secs_f64();
        match self {
            Self::Total => Some(seconds(moved.told.total)),
            Self::Silence => moved.silence.as_ref().ok().copied().map(seconds),
            Self::Told => moved.told.downtime.map(seconds),
            Self::Before => moved.silence_before.map(seconds),
            Self::Bytes => Some(moved.bytes as f64),
            Self::Rounds => moved.told.rounds.map(|rounds| rounds as f64),
            Self::WritesBefore => moved.writes[0],
            Self::WritesMeanwhile => moved.writes[1],
        }
    }
}

/// The migrations of one case by one mover.
pub struct Figures<'a> {
    /// How many were tried.
    pub tried: usize,
    /// How many moved the guest.
    pub moved: usize,
    all: Vec<&'a Moved>,
}

impl<'a> Figures<'a> {
    /// Those in `results`.
    pub fn of(results: &'a Results, case: &Case, mover: Mover) -> Self {
        let runs = results.runs.iter();
        let runs = runs.filter(|run| run.case == *case && run.mover == mover);
        let all: Vec<_> = runs
            .clone()
            .filter_map(|run| match &run.ended {
                Ok(Ended::Moved(moved)) => Some(&**moved),
                _ => None,
            })
            .collect();
        Self {
            tried: runs.count(),
            moved: all.len(),
            all,
        }
    }

    /// The median, if anything was measured.
    pub fn median(&self, measure: Measure) -> Option<f64> {
        median(
            self.all
                .iter()
                .filter_map(|moved| measure.of(moved))
                .collect(),
        )
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some((lower + upper) / 2.0)
}

/// Our median against that of the better one of QEMU's.
pub fn ratio(results: &Results, case: &Case, (mover, measure): (Mover, Measure)) -> Option<f64> {
    let own = Figures::of(results, case, mover).median(measure)?;
    let peers = case.movers().into_iter().filter(|mover| mover.is_peer());
    let peers = peers.filter_map(|peer| Figures::of(results, case, peer).median(measure));
    let best = peers.min_by(f64::total_cmp)?;
    Some(own / best)
}

/// The silences of all migrations.
pub fn silences(results: &Results, case: &Case, mover: Mover) -> Vec<Duration> {
    let all = Figures::of(results, case, mover).all;
    let silences = all
        .into_iter()
        .filter_map(|moved| moved.silence.as_ref().ok());
    silences.copied().collect()
}

/// Why guests stayed, were not measured or showed no silence; each reason once.
pub fn reasons(results: &Results, case: &Case, mover: Mover) -> Vec<String> {
    let runs = results
        .runs
        .iter()
        .filter(|run| run.case == *case && run.mover == mover);
    let mut reasons: Vec<String> = runs
        .filter_map(|run| match &run.ended {
            Ok(Ended::Moved(moved)) => moved.silence.as_ref().err().cloned(),
            Ok(Ended::Stayed(why)) => Some(format!("stayed, {why}")),
            Err(why) => Some(format!("not measured, {why}")),
        })
        .collect();
    reasons.sort();
    reasons.dedup();
    reasons
}

/// What was promised, beside what came of it.
pub struct Promised {
    /// Medians of the total time in seconds: promised, measured.
    pub total: [f64; 2],
    /// The same of the downtime.
    pub downtime: [f64; 2],
    /// How many outcomes were within both bounds.
    pub held: usize,
    /// Of how many.
    pub count: usize,
}

/// What was promised of the migrations of a case, if anything was.
pub fn promises(results: &Results, case: &Case, mover: Mover) -> Option<Promised> {
    let all = Figures::of(results, case, mover).all;
    let promised: Vec<_> = all
        .iter()
        .filter_map(|moved| Some((moved.told.promise?, moved.told.total, moved.told.downtime?)))
        .collect();
    let medians = |pick: fn(&(super::run::Promise, Duration, Duration)) -> Duration| {
        median(promised.iter().map(|run| pick(run).as_secs_f64()).collect())
    };
    let held = promised.iter().filter(|(promise, total, downtime)| {
        *total <= promise.total.1 && *downtime <= promise.downtime.1
    });
    Some(Promised {
        total: [medians(|run| run.0.total.0)?, medians(|run| run.1)?],
        downtime: [medians(|run| run.0.downtime.0)?, medians(|run| run.2)?],
        held: held.count(),
        count: promised.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::migration::Run;
    use crate::experiment::migration::case::{Guest, Link};
    use crate::experiment::migration::run::{Promise, Told};
    use crate::experiment::stage;

    const CASE: Case = Case {
        guest: Guest::SLOW,
        link: Link::UNLIMITED,
        repeats: 2,
    };

    fn moved(mover: Mover, total: u64, silence: Result<u64, &str>) -> Run {
        let ms = Duration::from_millis;
        let told = Told {
            total: ms(total),
            downtime: Some(ms(2)),
            promise: mover.is_own().then_some(Promise {
                total: (ms(100), ms(150)),
                downtime: (ms(2), ms(3)),
            }),
            ..Told::default()
        };
        let moved = Moved {
            told,
            waited: ms(total),
            silence: silence.map(ms).map_err(str::to_owned),
            silence_before: None,
            bytes: 1000,
            writes: [Some(1000.0), None],
        };
        Run {
            case: CASE,
            mover,
            ended: Ok(Ended::Moved(Box::new(moved))),
        }
    }

    fn results(runs: Vec<Run>) -> Results {
        Results {
            cpus: [0, 1],
            promise: stage::Promise::Partition { made_here: true },
            qemu: None,
            cases: vec![CASE],
            runs,
        }
    }

    #[test]
    fn ours_is_held_against_the_better_one_of_qemus() {
        let results = results(vec![
            moved(Mover::Own, 100, Ok(2)),
            moved(Mover::Own, 140, Ok(4)),
            moved(Mover::Plain, 480, Ok(5)),
            moved(Mover::Multifd, 240, Ok(12)),
            // Not what the targets compare with.
            moved(Mover::MultifdPrepared, 10, Ok(1)),
        ]);
        let ratio = |measure| ratio(&results, &CASE, (Mover::Own, measure)).unwrap();
        assert!((ratio(Measure::Total) - 0.5).abs() < 1e-9);
        assert!((ratio(Measure::Silence) - 0.6).abs() < 1e-9);
    }

    #[test]
    fn what_was_not_measured_is_told_once_and_counts_nowhere() {
        let stayed = |_| Run {
            case: CASE,
            mover: Mover::Plain,
            ended: Ok(Ended::Stayed("did not end".to_owned())),
        };
        let mut runs: Vec<_> = (0..3).map(stayed).collect();
        runs.push(moved(Mover::Own, 100, Err("records were lost")));
        let results = results(runs);
        let figures = Figures::of(&results, &CASE, Mover::Plain);
        assert_eq!((figures.tried, figures.moved), (3, 0));
        assert_eq!(figures.median(Measure::Total), None);
        assert_eq!(
            reasons(&results, &CASE, Mover::Plain),
            ["stayed, did not end"]
        );
        assert_eq!(reasons(&results, &CASE, Mover::Own), ["records were lost"]);
        assert_eq!(ratio(&results, &CASE, (Mover::Own, Measure::Total)), None);
    }

    #[test]
    fn a_promise_holds_if_both_bounds_do() {
        let runs = vec![
            moved(Mover::OwnReserved, 120, Ok(2)),
            moved(Mover::OwnReserved, 160, Ok(2)),
            moved(Mover::Plain, 1, Ok(1)),
        ];
        let results = results(runs);
        let promised = promises(&results, &CASE, Mover::OwnReserved).unwrap();
        assert_eq!((promised.held, promised.count), (1, 2));
        assert!((promised.total[1] - 0.14).abs() < 1e-9);
        assert!(promises(&results, &CASE, Mover::Plain).is_none());
    }
}

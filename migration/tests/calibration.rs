//! Predictions beside what comes out of migrations replayed over the writes of synthetic guests.

mod synthetic;

use std::time::Duration;

use migration::model::{Estimator, Prediction, Random, Sampling, Writes, predict};
use migration::trace::{Replay, Replayed, watch};
use synthetic::{GENEROUS, Guest, Habit, path};

const WATCHED: Duration = Duration::from_secs(10);

struct Run {
    prediction: Prediction,
    outcome: Replayed,
}

fn run(guest: &Guest, rate: &str) -> Run {
    let timeline = guest.timeline(Duration::from_secs(40));
    let mut estimator = Estimator::new(guest.pages, Duration::from_secs(30));
    let mut sampling = Sampling::new(0.02, Duration::from_micros(26));
    watch(
        &timeline,
        (Duration::ZERO, WATCHED),
        &mut sampling,
        &mut estimator,
    )
    .unwrap();
    let writes: Writes = estimator.writes();
    let path = path(rate);
    let random = Random::new(guest.seed ^ 0x5eed);
    let prediction = predict(&writes, &path, &GENEROUS, &random).unwrap();
    let replay = Replay {
        timeline: &timeline,
        path: &path,
        requirement: GENEROUS,
        start: WATCHED,
    };
    let outcome = replay
        .run(&writes, &mut Random::new(guest.seed ^ 0xfa11))
        .unwrap();
    Run {
        prediction,
        outcome,
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[test]
fn figures() {
    let guests = [
        ("idle", Habit::Uniform { set: 50 }, 10.0),
        ("uniform-small", Habit::Uniform { set: 1000 }, 1000.0),
        ("uniform-large", Habit::Uniform { set: 12000 }, 1000.0),
        ("uniform-large5k", Habit::Uniform { set: 12000 }, 5000.0),
        (
            "skewed",
            Habit::Skewed {
                set: 10000,
                skew: 1.0,
            },
            2000.0,
        ),
        (
            "wandering",
            Habit::Wandering {
                set: 10000,
                by: 0.3,
            },
            2000.0,
        ),
        (
            "phases",
            Habit::Phases {
                set: 3000,
                every: 2.0,
            },
            1000.0,
        ),
    ];
    for (name, habit, writes) in guests {
        for rate in ["200Mbit/s", "1Gbit/s", "8Gbit/s"] {
            let guest = Guest {
                pages: 16384,
                habit,
                rate: writes,
                seed: 7,
            };
            let start = std::time::Instant::now();
            let run = run(&guest, rate);
            println!(
                "{name:16} {rate:10} total {:8.1} {:8.1} -> {:8.1} | down {:7.3} {:7.3} -> {:7.3} | pages {} -> {} again {} rounds {} -> {:?} never {:?} {:?}",
                ms(run.prediction.total.median()),
                ms(run.prediction.total.p95()),
                ms(run.outcome.total),
                ms(run.prediction.downtime.median()),
                ms(run.prediction.downtime.p95()),
                ms(run.outcome.downtime),
                run.prediction.pages.median(),
                run.outcome.pages,
                run.outcome.again,
                run.prediction.rounds.median(),
                run.outcome
                    .rounds
                    .iter()
                    .map(|r| (r.sent, r.left, r.dirty))
                    .collect::<Vec<_>>(),
                run.outcome.never,
                start.elapsed()
            );
        }
    }
}

//! What is to be reached, and whether it was.

use super::Results;
use super::case::{Case, Guest, Link, Mover};
use super::figures::{self, Figures, Measure, Promised};

/// One of them.
pub struct Target {
    /// What is judged.
    pub name: String,
    /// Unit of its value.
    pub unit: &'static str,
    /// The target, in words.
    pub limit: String,
    /// The value, and whether it reaches the target; nothing if it was not measured.
    pub outcome: Option<(f64, bool)>,
}

impl Target {
    fn at_most(
        name: impl Into<String>,
        unit: &'static str,
        limit: f64,
        value: Option<f64>,
    ) -> Self {
        Self {
            name: name.into(),
            unit,
            limit: format!("≤ {limit}"),
            outcome: value.map(|value| (value, value <= limit)),
        }
    }
}

/// All that this experiment can judge.
pub fn all(results: &Results) -> Vec<Target> {
    let mut targets = downtime(results);
    targets.extend(totals(results));
    targets.extend(slow_link(results));
    targets.extend(predictions(results));
    targets
}

fn case(results: &Results, guest: Guest, link: Link) -> Option<&Case> {
    let mut cases = results.cases.iter();
    cases.find(|case| case.guest == guest && case.link == link)
}

fn downtime(results: &Results) -> Vec<Target> {
    let case = case(results, Guest::SLOW, Link::UNLIMITED);
    let silence =
        case.and_then(|case| Figures::of(results, case, Mover::Own).median(Measure::Silence));
    let ratio = case.and_then(|case| figures::ratio(results, case, (Mover::Own, Measure::Silence)));
    let name = "downtime seen by the guest, 1k/s, unlimited";
    vec![
        Target::at_most(name, "ms", 1.5, silence.map(|time| time * 1e3)),
        Target::at_most(format!("{name}, against QEMU"), "x", 0.6, ratio),
    ]
}

fn totals(results: &Results) -> Vec<Target> {
    let of = |guest: Guest| {
        let case = case(results, guest, Link::UNLIMITED);
        let ratio =
            case.and_then(|case| figures::ratio(results, case, (Mover::Own, Measure::Total)));
        Target::at_most(
            format!("total time against QEMU, {}, unlimited", guest.name),
            "x",
            0.5,
            ratio,
        )
    };
    [Guest::LARGE, Guest::SMALL].map(of).into()
}

fn slow_link(results: &Results) -> Vec<Target> {
    let judged = [
        (Guest::SLOW, Mover::Own, 0.95, "random content"),
        (
            Guest::HALF,
            Mover::OwnCompressed,
            0.7,
            "content that compresses 2:1",
        ),
    ];
    let measures = [(Measure::Total, "total time"), (Measure::Bytes, "bytes")];
    let of = |(guest, mover, limit, content): (Guest, Mover, f64, &str)| {
        let case = case(results, guest, Link::SLOW);
        measures.map(|(measure, name)| {
            let ratio = case.and_then(|case| figures::ratio(results, case, (mover, measure)));
            let name = format!("{name} against QEMU, 1k/s of {content}, 100 Mbit/s");
            Target::at_most(name, "x", limit, ratio)
        })
    };
    judged.into_iter().flat_map(of).collect()
}

/// The greatest deviation of a predicted median, over the guests that do the same all the time.
fn predictions(results: &Results) -> Vec<Target> {
    let stationary = results
        .cases
        .iter()
        .filter(|case| case.guest.phase.is_none());
    let promised: Vec<_> = stationary
        .filter_map(|case| figures::promises(results, case, Mover::OwnReserved))
        .collect();
    let worst = |pick: fn(&Promised) -> [f64; 2]| {
        let off = promised.iter().map(|promised| {
            let [predicted, measured] = pick(promised);
            (predicted / measured - 1.0).abs() * 100.0
        });
        off.max_by(f64::total_cmp)
    };
    vec![
        Target::at_most(
            "predicted total off the measured one, at most",
            "%",
            10.0,
            worst(|p| p.total),
        ),
        Target::at_most(
            "predicted downtime off the measured one, at most",
            "%",
            20.0,
            worst(|p| p.downtime),
        ),
    ]
}

//! The figures of `net-isolation`.

use std::time::Duration;

use super::Results;
use super::case::{Link, NAMES};
use super::change::{Changes, Trace};
use super::effect::Sample;
use super::measure::{Outcome, RoundTrips};
use crate::report::Figure;
use crate::report::deviation_plot::{Deviation, DeviationPlot};
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::rate_plot::{RateCurve, RatePlot};

/// The stretch over which a rate is drawn, in samples.
const WINDOW: usize = 6;

/// How far every share is off.
pub fn deviations(results: &Results) -> Option<Figure> {
    let row = |outcome: &Outcome| Deviation {
        name: outcome.case.name(),
        values: outcome.deviations().map(Some).to_vec(),
        allowed: f64::from(outcome.case.link.allowed),
    };
    let outcomes = results.outcomes.iter();
    let rows: Vec<_> = outcomes
        .filter_map(|(_, outcome)| outcome.as_ref().ok().map(row))
        .collect();
    let plot = DeviationPlot {
        title: "Shares of the link, against what was promised".to_owned(),
        sharers: NAMES.map(str::to_owned).to_vec(),
        rows,
    };
    let caption = "How far what passed on the wire is from the share; shaded, what is allowed.";
    (!plot.rows.is_empty()).then(|| plot.figure("shares", caption))
}

/// What best effort does while gold's round trips are measured.
pub fn flood_name(trips: &RoundTrips) -> String {
    let capacity = trips.link.capacity;
    let guest = if trips.is_guest { ", gold a guest" } else { "" };
    match trips.flood {
        None => format!("silent, {capacity}{guest}"),
        Some(direction) => format!("floods {}, {capacity}{guest}", direction.name()),
    }
}

/// Round trips, and a change.
pub fn times(results: &Results) -> Vec<Figure> {
    let trips = [Link::SMALL, Link::GIGABIT, Link::LARGE].map(|link| round_trips(results, link));
    let changes = results.changes.iter().filter_map(change);
    trips.into_iter().flatten().chain(changes).collect()
}

fn round_trips(results: &Results, link: Link) -> Option<Figure> {
    let of_link = results.round_trips.iter().filter(|t| t.link == link);
    let series = of_link.map(|trips| Series {
        name: flood_name(trips),
        times: trips.times.clone(),
        deadline: None,
    });
    let plot = DistributionPlot {
        title: format!("Gold's round trips at {}", link.capacity),
        quantity: "round trip".to_owned(),
        shape: Shape::Complementary,
        time_axis: TimeAxis::Log,
        series: series.collect(),
        marks: vec![Mark {
            at: Duration::from_micros(100),
            label: "target of the median".to_owned(),
            kind: FlagKind::Bound,
        }],
    };
    let name = format!("round-trips-{}", short(link));
    let caption = "Share of the round trips longer than the time on the axis.";
    (!plot.series.is_empty()).then(|| plot.figure(&name, caption))
}

/// The capacity in a file's name.
fn short(link: Link) -> String {
    format!("{}m", link.capacity.bits_per_second() / 1_000_000)
}

/// The first change.
fn change(changes: &Changes) -> Option<Figure> {
    let trace = changes.traces.first()?;
    let curves = [0, 1].map(|index: usize| RateCurve {
        name: NAMES[index].to_owned(),
        points: rates(&trace.samples[index]),
        promised: promised(trace, index, changes.link),
    });
    let plot = RatePlot {
        title: format!("A change of shares at {}", changes.link.capacity),
        mark: (0.0, "change".to_owned()),
        curves: curves.to_vec(),
    };
    let caption =
        "What the two passed, over some milliseconds each, and dashed what they were assured.";
    Some(plot.figure(&format!("change-{}", short(changes.link)), caption))
}

fn promised(trace: &Trace, index: usize, link: Link) -> Vec<(f64, f64)> {
    let (before, after) = trace.tenths;
    let rate = |gold: u64| {
        let tenths = if index == 0 { gold } else { 10 - gold };
        link.part(tenths).bits_per_second() as f64 / 1e6
    };
    let first = trace.samples[index].first().map_or(0.0, |s| s.at * 1e3);
    vec![(first, rate(before)), (0.0, rate(after))]
}

/// Milliseconds and Mbit/s, over some samples each.
fn rates(samples: &[Sample]) -> Vec<(f64, f64)> {
    let pairs = samples.iter().zip(samples.iter().skip(WINDOW));
    let rate = |(first, last): (&Sample, &Sample)| {
        let time = last.at - first.at;
        let middle = (first.at + last.at) / 2.0 * 1e3;
        (middle, (last.bits - first.bits) / time.max(1e-6) / 1e6)
    };
    pairs.map(rate).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_class_has_a_steady_rate() {
        let sample = |number: u32| Sample {
            at: f64::from(number) / 1e3,
            bits: f64::from(number) * 6e3,
        };
        let samples: Vec<Sample> = (0..20).map(sample).collect();
        let rates = rates(&samples);
        assert_eq!(rates.len(), 20 - WINDOW);
        assert!(rates.iter().all(|(_, rate)| (rate - 6.0).abs() < 1e-9));
    }
}

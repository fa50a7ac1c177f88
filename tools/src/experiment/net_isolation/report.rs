//! The report of `net-isolation`.

use std::time::Duration;

use serde_json::{Value, json};

use super::Results;
use super::case::{Case, Direction, Link, NAMES};
use super::change::Changes;
use super::figures;
use super::load::FLOWS;
use super::measure::{Outcome, RoundTrips};
use crate::cli::ExperimentArgs;
use crate::report::stats::{Distribution, Quantile};
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

/// Gold's median round trip beside a flood at 10 Mbit/s, at most.
const ROUND_TRIP: Duration = Duration::from_micros(100);
/// A change takes effect within.
const EFFECT: Duration = Duration::from_millis(5);
/// The median call that changes a pair, at most.
const CALL: Duration = Duration::from_micros(20);

const MEGA: f64 = 1e6;

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "Network isolation: shares of a link while others flood it".to_owned(),
        summary: summary(results),
        command_line: command_line(args),
        host,
        sections: vec![shares(results), times(results), method(results)],
        jobs: Vec::new(),
        raw: raw(results),
    }
}

fn command_line(args: &ExperimentArgs) -> String {
    let quick = if args.quick { " --quick" } else { "" };
    format!("chronovisor experiment net-isolation{quick}")
}

fn summary(results: &Results) -> String {
    let measured = || results.outcomes.iter().filter_map(|(_, o)| o.as_ref().ok());
    let met = measured()
        .filter(|outcome| outcome.is_met() && outcome.is_loaded())
        .count();
    let worst = |link: Link| {
        let of_link = measured().filter(|o| o.case.link.capacity == link.capacity);
        let worst = of_link.flat_map(Outcome::deviations).map(f64::abs);
        format!("{:.2} % at {}", worst.fold(0.0, f64::max), link.capacity)
    };
    let worst = [Link::SMALL, Link::GIGABIT, Link::LARGE]
        .map(worst)
        .join(", ");
    format!(
        "Two VMs on one link, gold with 60 % and best effort with 40 % of it, each offering more than it may have. In {met} of {} \
         cases both shares are within their targets; the farthest off: {worst}.{}{}",
        results.outcomes.len(),
        trips_summary(results),
        effect_summary(results)
    )
}

fn trips_summary(results: &Results) -> String {
    let mut flooded = results.round_trips.iter();
    let flooded =
        flooded.find(|t| t.link == Link::SMALL && t.flood == Some(Direction::In) && !t.is_guest);
    let median = flooded.and_then(|trips| trips.times.quantile(Quantile::MEDIAN));
    median.map_or_else(String::new, |median| {
        let micros = median.as_secs_f64() * 1e6;
        format!(
            " Gold's median round trip while best effort floods it at 10 Mbit/s: {micros:.0} us."
        )
    })
}

fn effect_summary(results: &Results) -> String {
    let longest = results
        .changes
        .iter()
        .filter(|changes| changes.is_loaded)
        .filter_map(|changes| changes.delays().max())
        .max();
    let text = longest.map_or_else(String::new, |longest| {
        let millis = longest.as_secs_f64() * 1e3;
        format!(" The slowest change of shares was in effect after {millis:.1} ms.")
    });
    let not_judged = results.changes.iter().filter(|changes| !changes.is_loaded);
    not_judged.fold(text, |text, changes| {
        let link = changes.link.capacity;
        format!("{text} Changes at {link} are not judged: their load was too small.")
    })
}

fn shares(results: &Results) -> Section {
    let not_measured = results.outcomes.iter().filter_map(|(case, outcome)| {
        let why = outcome.as_ref().err()?;
        Some(format!("Not measured: {}: {why}.", case.name()))
    });
    let columns = vec![
        Column::new("load, link, direction", ""),
        Column::new("gold", "Mbit/s"),
        Column::new("best", "Mbit/s"),
        Column::new("to all", ""),
        Column::new("gold", "± %"),
        Column::new("best", "± %"),
        Column::new("foreign", "1/s"),
        Column::new("target", ""),
    ];
    let rows = results.outcomes.iter();
    let rows = rows.filter_map(|(_, outcome)| outcome.as_ref().ok().map(cells));
    Section {
        heading: "Shares".to_owned(),
        prose: not_measured.collect(),
        tables: vec![Table {
            caption: format!(
                "Bytes that the classes passed on the wire, over {} s each; to all and foreign: frames to everybody (Mbit/s), \
                 and those under another's address, which are dropped.",
                results.lengths.measure.as_secs_f64()
            ),
            columns,
            rows: rows.collect(),
        }],
        figures: figures::deviations(results).into_iter().collect(),
    }
}

fn cells(outcome: &Outcome) -> Vec<Cell> {
    let [gold, other] = outcome.deviations();
    let decimals = if outcome.passed[0] > 100.0 * MEGA {
        1
    } else {
        3
    };
    let rate = |bits: f64| Cell::number(bits / MEGA, decimals);
    let foreign = match outcome.foreign {
        0.0 => Cell::Missing,
        foreign => Cell::number(foreign, 0),
    };
    vec![
        Cell::text(outcome.case.name()),
        rate(outcome.passed[0]),
        rate(outcome.passed[1]),
        rate(outcome.others),
        Cell::number(gold, 2),
        Cell::number(other, 2),
        foreign,
        match outcome.is_loaded() {
            true => Cell::judged(
                outcome.is_met(),
                format!("± {} %", outcome.case.link.allowed),
            ),
            false => Cell::text("load too small"),
        },
    ]
}

fn times(results: &Results) -> Section {
    Section {
        heading: "Round trips and changes".to_owned(),
        prose: results
            .no_guest
            .iter()
            .map(|why| format!("Not measured: a guest's round trips: {why}."))
            .collect(),
        tables: vec![trips_table(results), changes_table(results)],
        figures: figures::times(results),
    }
}

fn trips_table(results: &Results) -> Table {
    let row = |trips: &RoundTrips| {
        let micros = |time: Option<Duration>| {
            time.map_or(Cell::Missing, |time| {
                Cell::number(time.as_secs_f64() * 1e6, 1)
            })
        };
        let median = trips.times.quantile(Quantile::MEDIAN);
        let is_judged = trips.link == Link::SMALL && trips.flood.is_some() && !trips.is_guest;
        vec![
            Cell::text(figures::flood_name(trips)),
            Cell::number(trips.times.count() as f64, 0),
            micros(median),
            micros(trips.times.quantile(Quantile::P99)),
            micros(trips.times.max()),
            Cell::number(trips.times.unfinished() as f64, 0),
            match is_judged {
                true => Cell::judged(
                    median.is_some_and(|median| median <= ROUND_TRIP),
                    "median ≤ 100 us",
                ),
                false => Cell::Missing,
            },
        ]
    };
    Table {
        caption: "Round trips of 64 bytes between the host and gold.".to_owned(),
        columns: vec![
            Column::new("best effort", ""),
            Column::new("count", ""),
            Column::new("median", "us"),
            Column::new("p99", "us"),
            Column::new("max", "us"),
            Column::new("lost", ""),
            Column::new("target", ""),
        ],
        rows: results.round_trips.iter().map(row).collect(),
    }
}

fn changes_table(results: &Results) -> Table {
    let mut rows: Vec<Vec<Cell>> = results.changes.iter().map(effect_cells).collect();
    let micros = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e6;
    for changes in &results.changes {
        let name = format!("call beside floods, {}", changes.link.capacity);
        rows.push(call_cells((&name, &changes.calls), micros, false));
    }
    rows.push(call_cells(("call", &results.calls), micros, true));
    Table {
        caption: "Changes of both shares at once, in both directions.".to_owned(),
        columns: vec![
            Column::new("what", ""),
            Column::new("count", ""),
            Column::new("median", "us"),
            Column::new("p99", "us"),
            Column::new("max", "us"),
            Column::new("known to", "us"),
            Column::new("target", ""),
        ],
        rows,
    }
}

fn effect_cells(changes: &Changes) -> Vec<Cell> {
    let delays = changes.delays();
    let micros = |time: Option<Duration>| {
        time.map_or(Cell::Missing, |time| {
            Cell::number(time.as_secs_f64() * 1e6, 0)
        })
    };
    let all = delays.count() == changes.traces.len();
    vec![
        Cell::text(format!("until in effect, {}", changes.link.capacity)),
        Cell::number(delays.count() as f64, 0),
        micros(delays.quantile(Quantile::MEDIAN)),
        micros(delays.quantile(Quantile::P99)),
        micros(delays.max()),
        micros(Some(changes.resolution())),
        match changes.is_loaded {
            true => Cell::judged(
                all && delays.max().is_some_and(|max| max <= EFFECT),
                "≤ 5 ms",
            ),
            false => Cell::text("load too small"),
        },
    ]
}

fn call_cells(
    (name, times): (&str, &Distribution),
    micros: impl Fn(Option<Duration>) -> f64,
    is_judged: bool,
) -> Vec<Cell> {
    let median = times.quantile(Quantile::MEDIAN);
    vec![
        Cell::text(name),
        Cell::number(times.count() as f64, 0),
        Cell::number(micros(median), 1),
        Cell::number(micros(times.quantile(Quantile::P99)), 1),
        Cell::number(micros(times.max()), 1),
        Cell::Missing,
        match is_judged {
            true => Cell::judged(
                median.is_some_and(|median| median <= CALL),
                "median ≤ 20 us",
            ),
            false => Cell::Missing,
        },
    ]
}

fn method(results: &Results) -> Section {
    let prose = [
        format!(
            "The host is a network namespace with the bridge and the two trees of this program; {} and {} are namespaces of their own, \
             each at the end of a cable into a port. Where best effort spoofs or storms it is a program that reads and writes \
             the frames of its tap, for no kernel would send them. In and out are as the VMs see it; what is not measured in a \
             direction is not loaded in it either, but for spoofing and storms, which are always out of the VM.",
            NAMES[0], NAMES[1]
        ),
        "A flood offers more than its VM may have: 1.2 times the whole link, at 5 Gbit/s 0.8 and 0.6 times (two CPUs \
         make and take all of it). "
            .to_owned()
            + &format!("TCP is {FLOWS} connections of each VM."),
        "What each should get is HTB's own rule: first what is assured, then, of what nobody takes, gold as much as it wants. \
         Frames to everybody have a class of their own with two thousandths of the link on top; what they leave is spare, and gold's."
            .to_owned(),
        "A change is seen in the counters of gold's class: the delay is the one with which two straight lines of the rates \
         before and after fit best. Whole frames pass at once, which limits how finely that is known. Gold goes from 6 to 2 tenths \
         of the link and back; at 5 Gbit/s from 6 to 5 and back, as best effort does not offer more than 6 there."
            .to_owned(),
        "Counters that took longer than half a millisecond to read are read again, up to 8 times: a reading that was \
         interrupted is of no single instant."
            .to_owned(),
    ];
    Section {
        heading: "What was measured".to_owned(),
        prose: prose.to_vec(),
        tables: vec![offered(results)],
        ..Section::default()
    }
}

/// What was offered, so that a share below its target can be told from a load that was too small.
fn offered(results: &Results) -> Table {
    let row = |(case, outcome): &(Case, Result<Outcome, String>)| {
        let outcome = outcome.as_ref().ok()?;
        let rate = |index: usize| {
            let offered = outcome.offered.get(index);
            offered.map_or(Cell::Missing, |bits| Cell::number(bits / MEGA, 1))
        };
        (!outcome.offered.is_empty()).then(|| vec![Cell::text(case.name()), rate(0), rate(1)])
    };
    Table {
        caption: "What floods offered, without what was spoofed or went to everybody.".to_owned(),
        columns: vec![
            Column::new("load, link, direction", ""),
            Column::new(NAMES[0], "Mbit/s"),
            Column::new(NAMES[1], "Mbit/s"),
        ],
        rows: results.outcomes.iter().filter_map(row).collect(),
    }
}

fn raw(results: &Results) -> Value {
    let outcome = |(case, outcome): &(Case, Result<Outcome, String>)| {
        let measured = outcome.as_ref().ok();
        let deviations = measured.map(Outcome::deviations);
        json!({
            "load": case.load.key(),
            "bits_per_second": case.link.capacity.bits_per_second(),
            "spare_tenths": case.link.spare,
            "direction": case.direction.name(),
            "gold": measured.map(|o| o.passed[0]),
            "best_effort": measured.map(|o| o.passed[1]),
            "to_all": measured.map(|o| o.others),
            "foreign_dropped": measured.map(|o| o.foreign),
            "offered": measured.map(|o| &o.offered),
            "gold_off_percent": deviations.map(|d| d[0]),
            "best_effort_off_percent": deviations.map(|d| d[1]),
            "allowed_percent": case.link.allowed,
            "loaded": measured.map(Outcome::is_loaded),
            "met": measured.map(Outcome::is_met),
            "not_measured": outcome.as_ref().err(),
        })
    };
    let us = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e6);
    let times = |times: &Distribution| {
        json!({
            "count": times.count(),
            "lost": times.unfinished(),
            "median_us": us(times.quantile(Quantile::MEDIAN)),
            "p99_us": us(times.quantile(Quantile::P99)),
            "max_us": us(times.max()),
        })
    };
    let trips = |trips: &RoundTrips| {
        json!({
            "bits_per_second": trips.link.capacity.bits_per_second(),
            "flood": trips.flood.map(Direction::name),
            "guest": trips.is_guest,
            "times": times(&trips.times),
        })
    };
    let changes = |changes: &Changes| {
        json!({
            "bits_per_second": changes.link.capacity.bits_per_second(),
            "until_in_effect": times(&changes.delays()),
            "known_to_us": us(Some(changes.resolution())),
            "tenths_of_gold": changes.traces.iter().map(|trace| [trace.tenths.0, trace.tenths.1]).collect::<Vec<_>>(),
            "loaded": changes.is_loaded,
            "calls": times(&changes.calls),
        })
    };
    json!({
        "experiment": "net-isolation",
        "seconds_per_case": results.lengths.measure.as_secs_f64(),
        "cases": results.outcomes.iter().map(outcome).collect::<Vec<_>>(),
        "round_trips": results.round_trips.iter().map(trips).collect::<Vec<_>>(),
        "no_guest": results.no_guest,
        "changes": results.changes.iter().map(changes).collect::<Vec<_>>(),
        "calls": times(&results.calls),
    })
}

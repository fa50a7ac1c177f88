//! The report of `migration`.

use std::time::Duration;

use serde_json::{Value, json};

use super::case::{Case, DOWNTIME, Guest, Link, MEMORY, Mover, PULSE, RESERVATION};
use super::figures::{self, Figures, Measure};
use super::run::Ended;
use super::targets;
use super::{Results, Run};
use crate::cli::ExperimentArgs;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::Distribution;
use crate::report::table::{Cell, Column, Table};
use crate::report::{Figure, HostCheck, Report, Section};

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let mut sections = vec![targets_section(results)];
    for link in [Link::UNLIMITED, Link::GIGABIT, Link::SLOW] {
        sections.extend(link_section(results, link));
    }
    sections.push(promises(results));
    sections.push(method(results));
    Report {
        title: "Live migration: this program and QEMU, the same guests over the same links"
            .to_owned(),
        summary: summary(results),
        command_line: args.command_line("migration"),
        host,
        sections,
        jobs: Vec::new(),
        raw: raw(results),
    }
}

fn summary(results: &Results) -> String {
    let count = |is: fn(&Run) -> bool| results.runs.iter().filter(|run| is(run)).count();
    let moved = count(|run| matches!(run.ended, Ok(Ended::Moved(_))));
    let stayed = count(|run| matches!(run.ended, Ok(Ended::Stayed(_))));
    let failed = count(|run| run.ended.is_err());
    let told = targets::all(results).into_iter().filter_map(|target| {
        let (value, _) = target.outcome?;
        Some(format!("{} {:.2} {}", target.name, value, target.unit))
    });
    let told: Vec<_> = told.collect();
    let told = match told.is_empty() {
        true => "No target could be measured.".to_owned(),
        false => format!("{}.", told.join("; ")),
    };
    format!(
        "{} migrations of guests with {MEMORY} MiB from CPU {} to CPU {}: {moved} moved, {stayed} stayed where they were, \
         {failed} could not be measured. {told}",
        results.runs.len(),
        results.cpus[0],
        results.cpus[1],
    )
}

fn targets_section(results: &Results) -> Section {
    let rows = targets::all(results).into_iter().map(|target| {
        let verdict = match target.outcome {
            Some((_, is_met)) => Cell::judged(is_met, target.limit),
            None => Cell::Missing,
        };
        let value = target
            .outcome
            .map_or(Cell::Missing, |(value, _)| Cell::number(value, 2));
        vec![
            Cell::text(target.name),
            value,
            Cell::text(target.unit),
            verdict,
        ]
    });
    let table = Table {
        caption:
            "Medians; QEMU's is the better one of one connection and several, in the same run."
                .to_owned(),
        columns: vec![
            Column::new("", ""),
            Column::new("measured", ""),
            Column::new("unit", ""),
            Column::new("target", ""),
        ],
        rows: rows.collect(),
    };
    Section {
        heading: "Targets".to_owned(),
        tables: vec![table],
        figures: silences(results),
        ..Section::default()
    }
}

fn silences(results: &Results) -> Vec<Figure> {
    let case = results.cases.iter().find(|case| case.guest == Guest::SLOW);
    let Some(case) = case else { return Vec::new() };
    let series = case.movers().into_iter().filter_map(|mover| {
        let times = figures::silences(results, case, mover);
        (!times.is_empty()).then(|| Series {
            name: mover.name().to_owned(),
            times: Distribution::new(times),
            deadline: None,
        })
    });
    let plot = DistributionPlot {
        title: format!(
            "What a guest sees of its migration: {}, {} link",
            case.guest.name,
            case.link.name()
        ),
        quantity: "longest silence at the switch-over".to_owned(),
        shape: Shape::Cumulative,
        time_axis: TimeAxis::Log,
        series: series.collect(),
        marks: vec![Mark {
            at: DOWNTIME,
            label: "limit".to_owned(),
            kind: FlagKind::Bound,
        }],
    };
    if plot.series.is_empty() {
        return Vec::new();
    }
    let caption =
        "Share of the migrations with at most this long between two signs of life of the guest.";
    vec![plot.figure("silence", caption)]
}

fn link_section(results: &Results, link: Link) -> Option<Section> {
    let cases: Vec<_> = results
        .cases
        .iter()
        .filter(|case| case.link == link)
        .collect();
    if cases.is_empty() {
        return None;
    }
    let lines = cases
        .iter()
        .flat_map(|case| case.movers().into_iter().map(move |mover| (*case, mover)));
    let lines: Vec<_> = lines.collect();
    let why = lines.iter().flat_map(|(case, mover)| {
        figures::reasons(results, case, *mover)
            .into_iter()
            .map(move |why| format!("{}, {}: {why}.", case.guest.name, mover.name()))
    });
    Some(Section {
        heading: format!("Link: {}", link.name()),
        prose: why.collect(),
        tables: vec![Table {
            caption: "Medians. Silence is the guest's own account of its downtime; told is the monitor's.".to_owned(),
            columns: columns(),
            rows: lines.iter().map(|(case, mover)| row(results, case, *mover)).collect(),
        }],
        figures: Vec::new(),
    })
}

fn columns() -> Vec<Column> {
    let head = [
        ("guest", ""),
        ("by", ""),
        ("moved", ""),
        ("total", "ms"),
        ("silence", "ms"),
        ("told", "ms"),
        ("silence before", "ms"),
        ("on the wire", "MB"),
        ("passes", ""),
        ("writes before", "1/s"),
        ("meanwhile", "1/s"),
        ("total", "x QEMU"),
        ("silence", "x QEMU"),
        ("bytes", "x QEMU"),
    ];
    head.into_iter()
        .map(|(title, unit)| Column::new(title, unit))
        .collect()
}

fn row(results: &Results, case: &Case, mover: Mover) -> Vec<Cell> {
    let all = Figures::of(results, case, mover);
    let number = |measure: Measure, scale: f64, decimals: usize| {
        let median = all.median(measure);
        median.map_or(Cell::Missing, |value| Cell::number(value * scale, decimals))
    };
    let ratio = |measure: Measure| {
        let ratio = mover
            .is_own()
            .then(|| figures::ratio(results, case, (mover, measure)));
        ratio
            .flatten()
            .map_or(Cell::Missing, |value| Cell::number(value, 2))
    };
    vec![
        Cell::text(case.guest.name),
        Cell::text(mover.name()),
        Cell::text(format!("{} of {}", all.moved, all.tried)),
        number(Measure::Total, 1e3, 0),
        number(Measure::Silence, 1e3, 2),
        number(Measure::Told, 1e3, 1),
        number(Measure::Before, 1e3, 2),
        number(Measure::Bytes, 1e-6, 1),
        number(Measure::Rounds, 1.0, 0),
        number(Measure::WritesBefore, 1.0, 0),
        number(Measure::WritesMeanwhile, 1.0, 0),
        ratio(Measure::Total),
        ratio(Measure::Silence),
        ratio(Measure::Bytes),
    ]
}

fn promises(results: &Results) -> Section {
    let own = |case: &&Case| {
        case.movers()
            .into_iter()
            .filter(|mover| mover.is_own())
            .count()
            > 0
    };
    let mut rows = Vec::new();
    for case in results.cases.iter().filter(own) {
        for mover in case.movers().into_iter().filter(|mover| mover.is_own()) {
            rows.extend(figures::promises(results, case, mover).map(|promise| {
                let ms = |value: f64| Cell::number(value * 1e3, 1);
                vec![
                    Cell::text(case.guest.name),
                    Cell::text(case.link.name()),
                    Cell::text(mover.name()),
                    ms(promise.total[0]),
                    ms(promise.total[1]),
                    ms(promise.downtime[0]),
                    ms(promise.downtime[1]),
                    Cell::text(format!("{} of {}", promise.held, promise.count)),
                ]
            }));
        }
    }
    let prose = match rows.is_empty() {
        true => vec!["No migration of this program was predicted in this run.".to_owned()],
        false => Vec::new(),
    };
    let columns = [
        ("guest", ""),
        ("link", ""),
        ("by", ""),
        ("total promised", "ms"),
        ("total", "ms"),
        ("downtime promised", "ms"),
        ("downtime", "ms"),
        ("within both bounds", ""),
    ];
    let table = Table {
        caption: "Medians of what was promised and of what came; the bounds are those for 95 %."
            .to_owned(),
        columns: columns
            .map(|(title, unit)| Column::new(title, unit))
            .to_vec(),
        rows,
    };
    Section {
        heading: "Prediction and outcome".to_owned(),
        prose,
        tables: if table.rows.is_empty() {
            Vec::new()
        } else {
            vec![table]
        },
        figures: Vec::new(),
    }
}

fn method(results: &Results) -> Section {
    let qemu = results.qemu.as_deref().unwrap_or("not installed");
    let (runtime, period) = RESERVATION;
    let millis = |time: Duration| time.as_millis();
    let prose = vec![
        format!(
            "Two network namespaces are the hosts; what runs on one is kept to its CPU ({} and {}). A cable joins them, \
             whose capacity is an HTB tree at either end. Bytes are what the source's end of the cable carried.",
            results.cpus[0], results.cpus[1]
        ),
        format!(
            "Both monitors run the same image with the same command line and are asked for a downtime of at most {} ms. \
             QEMU ({qemu}) runs its microvm machine; its limit of bandwidth is lifted, and its vCPU's thread has a \
             reservation of ({}, {}) ms from the kernel, more than any of these guests needs. A guest of this program has \
             what it needs, such that it can be raised by what tracking costs. QEMU allocates memory as it is written; \
             one row has it allocated beforehand at both ends, as this program always has.",
            millis(DOWNTIME),
            millis(runtime),
            millis(period)
        ),
        format!(
            "Each guest has a task of {} µs period that does nothing else than begin and end. Its records, and those of the \
             writing task, are read from the memory of the process that runs the guest, at the source and then at the \
             destination, in the same way for both monitors. The silence is the longest time between two of them from the \
             last look at the source on: the downtime, and up to {0} µs more. The silence before is the longest one while \
             the guest was copied.",
            PULSE.as_micros()
        ),
        "The guest's time is the processor's time stamp counter, which goes on while it is moved where all CPUs share one \
         and KVM gives guests no offset. On other hosts QEMU's guests do not see all of their downtime."
            .to_owned(),
        "Total is what the monitor says; the raw results also have how long the command was waited for.".to_owned(),
    ];
    Section {
        heading: "What was measured".to_owned(),
        prose,
        ..Section::default()
    }
}

fn raw(results: &Results) -> Value {
    let run = |run: &Run| {
        let (outcome, moved, why) = match &run.ended {
            Ok(Ended::Moved(moved)) => ("moved", Some(moved), None),
            Ok(Ended::Stayed(why)) => ("stayed", None, Some(why)),
            Err(why) => ("not-measured", None, Some(why)),
        };
        let seconds = |time: Duration| time.as_secs_f64();
        json!({
            "guest": run.case.guest.key,
            "link": run.case.link,
            "mover": run.mover,
            "outcome": outcome,
            "why": why,
            "total_s": moved.map(|m| seconds(m.told.total)),
            "waited_s": moved.map(|m| seconds(m.waited)),
            "told_downtime_s": moved.and_then(|m| m.told.downtime.map(seconds)),
            "silence_s": moved.and_then(|m| m.silence.as_ref().ok().copied().map(seconds)),
            "no_silence": moved.and_then(|m| m.silence.as_ref().err()),
            "silence_before_s": moved.and_then(|m| m.silence_before.map(seconds)),
            "bytes": moved.map(|m| m.bytes),
            "passes": moved.and_then(|m| m.told.rounds),
            "writes_per_s": moved.map(|m| m.writes),
            "promise": moved.and_then(|m| m.told.promise).map(|p| json!({
                "total_s": { "median": seconds(p.total.0), "bound": seconds(p.total.1) },
                "downtime_s": { "median": seconds(p.downtime.0), "bound": seconds(p.downtime.1) },
            })),
        })
    };
    let target = |target: targets::Target| {
        json!({
            "name": target.name,
            "value": target.outcome.map(|(value, _)| value),
            "unit": target.unit,
            "limit": target.limit,
            "met": target.outcome.map(|(_, is_met)| is_met),
        })
    };
    json!({
        "experiment": "migration",
        "cpus": results.cpus,
        "promise": results.promise,
        "qemu": results.qemu,
        "downtime_limit_s": DOWNTIME.as_secs_f64(),
        "targets": targets::all(results).into_iter().map(target).collect::<Vec<_>>(),
        "runs": results.runs.iter().map(run).collect::<Vec<_>>(),
    })
}

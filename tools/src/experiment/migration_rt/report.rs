//! The report of `migration-rt`.

use std::time::Duration;

use sched::account::AccountSnapshot;
use serde_json::{Value, json};
use vmm::guest::Outcome;
use vmm::units::Span;

use super::course::Phase;
use super::figures::{TASKS, responses, timelines};
use super::guest::{PAGES, PERIOD};
use super::hosts::NEIGHBOUR;
use super::journey::DOWNTIME;
use super::{Kind, Moved, Results, Trial};
use crate::cli::ExperimentArgs;
use crate::experiment::jobs::TaskFigures;
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

/// The part of its progress that a guest keeps while it is copied.
const KEPT: f64 = 0.99;
/// How far another VM's share of the link may be off.
const LINK_TOLERANCE: f64 = 0.02;

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let made = results.trials.iter();
    let made = made.filter_map(|trial| trial.outcome.as_ref().ok());
    Report {
        title: "A guest with deadlines moves between loaded hosts".to_owned(),
        summary: summary(results),
        command_line: args.command_line("migration-rt"),
        host,
        sections: vec![
            deadlines(results),
            moves(results),
            supply(results),
            method(results),
        ],
        jobs: made.flat_map(|moved| moved.course.rows.clone()).collect(),
        raw: raw(results),
    }
}

/// Missed, jobs, moves made and tried.
fn missed(results: &Results, kind: Kind) -> (usize, usize, usize, usize) {
    let tried = results.trials.iter().filter(|trial| trial.kind == kind);
    let each = results
        .moved(kind)
        .map(|(_, moved)| moved.course.missed_in_all());
    let (missed, jobs, made) = each.fold((0, 0, 0), |sum, one| {
        (sum.0 + one.0, sum.1 + one.1, sum.2 + 1)
    });
    (missed, jobs, made, tried.count())
}

fn summary(results: &Results) -> String {
    let told = |kind: Kind| {
        let (missed, jobs, made, tried) = missed(results, kind);
        format!(
            "{}: {made} of {tried} moves made, {missed} of {jobs} deadlines missed",
            kind.title()
        )
    };
    let budget = match results.named {
        Some(budget) => format!("{}, which `migrate` named", Span::from(budget)),
        None => format!("{}, as `migrate` named none", Span::from(results.budget)),
    };
    format!(
        "A guest with the tasks (30 ms, 150 ms) and (50 ms, 200 ms), each job of which also writes {PAGES} pages, moves from CPU \
         {} to CPU {}, both loaded, over a loaded link, with a promised pause of {} ms. Its budget is {budget}, of every {} ms. \
         {}. At the destination the reservation rests on {}.",
        results.cpus.0,
        results.cpus.1,
        DOWNTIME.as_millis(),
        PERIOD.as_millis(),
        Kind::ALL.map(told).join("; "),
        results.promise,
    )
}

fn deadlines(results: &Results) -> Section {
    let columns = ["guest", "jobs", "task"].map(|name| Column::new(name, ""));
    let columns = columns.into_iter().chain([
        Column::new("jobs", ""),
        Column::new("missed", ""),
        Column::new("target", ""),
        Column::new("avg", "ms"),
        Column::new("max", "ms"),
    ]);
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        for phase in Phase::ALL {
            rows.extend(
                TASKS
                    .iter()
                    .map(|task| deadline_row(results, kind, (phase, task))),
            );
        }
    }
    Section {
        heading: "Deadlines".to_owned(),
        prose: vec![
            "Jobs before the move were done when the command was given; jobs after it were released when the guest went on at its \
             destination; all others met the move. Jobs that never finished count as missed and as longer than any."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: "Response times and misses of all moves of a kind together.".to_owned(),
            columns: columns.collect(),
            rows,
        }],
        figures: timelines(results)
            .into_iter()
            .chain(responses(results))
            .collect(),
    }
}

fn deadline_row(results: &Results, kind: Kind, (phase, task): (Phase, &str)) -> Vec<Cell> {
    let figures = results.moved(kind).flat_map(|(_, moved)| {
        let tasks = moved.course.tasks.iter();
        let tasks = tasks
            .filter(|(of, _)| *of == phase)
            .flat_map(|(_, tasks)| tasks);
        tasks.filter(|figures| figures.name == task)
    });
    let figures: Vec<&TaskFigures> = figures.collect();
    let jobs: usize = figures.iter().map(|one| one.responses.count()).sum();
    let missed: usize = figures.iter().map(|one| one.misses).sum();
    let means = figures.iter().filter_map(|one| {
        let count = u32::try_from(one.responses.count()).ok()?;
        Some((one.responses.mean()? * count, count))
    });
    let (sum, count) = means.fold((Duration::ZERO, 0), |sum, one| {
        (sum.0 + one.0, sum.1 + one.1)
    });
    let longest = figures
        .iter()
        .filter_map(|one| one.responses.longest_measured());
    let mut row = [kind.title(), phase.name(), task].map(Cell::text).to_vec();
    row.push(Cell::number(jobs as f64, 0));
    row.push(Cell::number(missed as f64, 0));
    row.push(match kind.is_reserved() && jobs > 0 {
        true => Cell::judged(missed == 0, "0"),
        false => Cell::Missing,
    });
    row.push(Cell::millis((count > 0).then(|| sum / count.max(1)), 2));
    row.push(Cell::millis(longest.max(), 2));
    row
}

fn moves(results: &Results) -> Section {
    let columns = vec![
        Column::new("guest", ""),
        Column::new("move", ""),
        Column::new("total, promised", "s"),
        Column::new("measured", "s"),
        Column::new("pause, promised", "ms"),
        Column::new("measured", "ms"),
        Column::new("away, as the guest saw it", "ms"),
        Column::new("longest other blackout", "ms"),
        Column::new("memory sent", "MB"),
        Column::new("progress kept", "%"),
        Column::new("target", ""),
        Column::new("another VM's share", "%"),
        Column::new("target", ""),
        Column::new("pages wrong", ""),
    ];
    let rows = results.trials.iter().filter_map(|trial| {
        let moved = trial.outcome.as_ref().ok()?;
        Some(move_row(trial, moved))
    });
    Section {
        heading: "The moves".to_owned(),
        prose: not_made(results),
        tables: vec![Table {
            caption: "Promised: the bounds that hold with the confidence asked for. Away: the blackout in which the guest changed \
                      hosts, its own supply's pause included."
                .to_owned(),
            columns,
            rows: rows.collect(),
        }],
        figures: Vec::new(),
    }
}

fn move_row(trial: &Trial, moved: &Moved) -> Vec<Cell> {
    let Moved { left, course } = moved;
    let seconds = |value: Option<f64>, scale: f64, decimals| {
        value.map_or(Cell::Missing, |value| Cell::number(value * scale, decimals))
    };
    let promise = left.answer.promise.clone().unwrap_or_default();
    let measured = left.answer.measured.as_ref();
    let kept = course.progress.kept();
    let share = neighbour_share(moved);
    vec![
        Cell::text(trial.kind.title()),
        Cell::number(f64::from(trial.number), 0),
        seconds(promise.total_s.map(|total| total.bound), 1.0, 2),
        seconds(measured.map(|m| m.total_s), 1.0, 2),
        seconds(promise.downtime_s.map(|pause| pause.bound), 1e3, 2),
        seconds(measured.map(|m| m.downtime_s), 1e3, 2),
        Cell::millis(course.away(), 2),
        Cell::millis(course.longest.iter().flatten().max().copied(), 2),
        seconds(measured.map(|m| m.bytes as f64), 1e-6, 1),
        seconds(kept, 100.0, 2),
        match kept.filter(|_| trial.kind.is_reserved()) {
            Some(kept) => Cell::judged(kept >= KEPT, ">= 99 %"),
            None => Cell::Missing,
        },
        seconds(share, 100.0, 1),
        share.map_or(Cell::Missing, |share| {
            Cell::judged((share - 1.0).abs() <= LINK_TOLERANCE, "+- 2 %")
        }),
        left.wrong
            .map_or(Cell::Missing, |wrong| Cell::number(wrong as f64, 0)),
    ]
}

/// What another VM got of its assured rate while the guest moved.
fn neighbour_share(moved: &Moved) -> Option<f64> {
    let (meanwhile, _) = moved.left.neighbour?;
    Some(meanwhile / NEIGHBOUR.bits_per_second() as f64)
}

fn not_made(results: &Results) -> Vec<String> {
    let failed = results.trials.iter().filter_map(|trial| {
        let why = trial.outcome.as_ref().err()?;
        let (title, number) = (trial.kind.title(), trial.number);
        Some(format!("Not made: {title}, move {number}. {why}"))
    });
    failed.collect()
}

fn supply(results: &Results) -> Section {
    let columns = vec![
        Column::new("guest", ""),
        Column::new("move", ""),
        Column::new("host", ""),
        Column::new("budgets ended by the thread", ""),
        Column::new("by the kernel", ""),
        Column::new("least supply - Q", "us"),
        Column::new("greatest supply - Q", "us"),
        Column::new("longest blackout", "ms"),
    ];
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        for (number, moved) in results.moved(kind) {
            let (a, b) = &moved.left.outcomes;
            for (host, outcome) in [("A", a), ("B", b)] {
                let name = [Cell::text(kind.title()), Cell::number(f64::from(number), 0)];
                let supplied = account(outcome).map(supply_cells);
                let cells = name.into_iter().chain([Cell::text(host)]);
                rows.extend(supplied.map(|supplied| cells.chain(supplied).collect()));
            }
        }
    }
    Section {
        heading: "Supply".to_owned(),
        prose: vec![
            "What the vCPU's thread was supplied on both hosts, by its own account.".to_owned(),
        ],
        tables: vec![Table {
            caption: "Accounts of the vCPU's threads; without a reservation there are no budgets."
                .to_owned(),
            columns,
            rows,
        }],
        figures: Vec::new(),
    }
}

fn account(outcome: &Outcome) -> Option<&AccountSnapshot> {
    outcome.status.vcpus.first()?.account.as_ref()
}

fn supply_cells(account: &AccountSnapshot) -> Vec<Cell> {
    let Some(budgets) = account
        .budgets
        .as_ref()
        .filter(|budgets| budgets.yields > 0)
    else {
        return vec![Cell::Missing; 5];
    };
    vec![
        Cell::number(budgets.yields as f64, 0),
        Cell::number(budgets.overruns as f64, 0),
        Cell::number(budgets.deviation.least_ns as f64 / 1e3, 0),
        Cell::number(budgets.deviation.greatest_ns as f64 / 1e3, 0),
        Cell::millis(budgets.blackouts.max, 3),
    ]
}

fn method(results: &Results) -> Section {
    let refused = match &results.refusal {
        Ok(answer) if answer.is_moved() => {
            "Asked to move the guest in (28 ms, 50 ms) within 20 ms, `migrate` did so.".to_owned()
        }
        Ok(answer) => format!(
            "Asked to move the guest in (28 ms, 50 ms) within 20 ms, `migrate` answered: {}.",
            answer.why()
        ),
        Err(why) => format!("Asked to move the guest in (28 ms, 50 ms), `migrate` failed: {why}."),
    };
    Section {
        heading: "Method".to_owned(),
        prose: vec![
            refused,
            format!(
                "Both hosts run a busy process; host B also the periodic real-time tasks (50 ms, 120 ms) and (20 ms, 80 ms) under \
                 SCHED_FIFO, and host A a tenth of these: its CPU also serves what is in no reservation. \
                 The link carries 1 Gbit/s between two network namespaces; floods of 100 Mbit/s cross it in both directions, and \
                 another VM's traffic fills its share of {} Mbit/s.",
                NEIGHBOUR.bits_per_second() / 1_000_000
            ),
            "A pause of 20 ms is a fault: the destination waits with a guest that is whole until 20 ms have passed since it \
             stood still. Progress is what the guest's jobs executed and the busy loop below them ran; tracked writes, \
             interruptions and blackouts are none. Kept is the part of it, per second, while memory was copied."
                .to_owned(),
        ],
        ..Section::default()
    }
}

fn raw(results: &Results) -> Value {
    let refusal = results.refusal.as_ref();
    json!({
        "experiment": "migration-rt",
        "cpus": [results.cpus.0, results.cpus.1],
        "promise": results.promise,
        "period_ms": PERIOD.as_secs_f64() * 1e3,
        "paper_budget": refusal.map_or_else(|why| json!({ "failed": why }), |answer| json!({ "answer": answer.why() })),
        "named_budget_ms": results.named.map(|budget| budget.as_secs_f64() * 1e3),
        "budget_ms": results.budget.as_secs_f64() * 1e3,
        "moves": results.trials.iter().map(raw_trial).collect::<Vec<_>>(),
    })
}

fn raw_trial(trial: &Trial) -> Value {
    let key = trial.kind.key();
    match &trial.outcome {
        Err(why) => json!({ "key": key, "number": trial.number, "not_made": why }),
        Ok(moved) => raw_move((key, trial.number), moved),
    }
}

fn raw_move((key, number): (&str, u32), moved: &Moved) -> Value {
    let Moved { left, course } = moved;
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let (missed, jobs) = course.missed_in_all();
    let phases = course.tasks.iter().map(|(phase, tasks)| {
        let tasks: Vec<_> = tasks.iter().map(TaskFigures::summary).collect();
        json!({ "phase": phase.name(), "tasks": tasks })
    });
    let promise = left.answer.promise.as_ref();
    let predicted = |of: Option<super::journey::Predicted>| {
        of.map(|of| json!({ "median": of.median, "bound": of.bound }))
    };
    let measured = left.answer.measured.as_ref();
    json!({
        "key": key,
        "number": number,
        "missed": missed,
        "jobs": jobs,
        "unrecorded": course.unrecorded,
        "phases": phases.collect::<Vec<_>>(),
        "away_ms": ms(Some(course.away())),
        "longest_other_blackout_ms": ms(course.longest.iter().flatten().max().copied()),
        "promised_total_s": predicted(promise.and_then(|promise| promise.total_s)),
        "promised_downtime_s": predicted(promise.and_then(|promise| promise.downtime_s)),
        "promised_bits_per_second": promise.and_then(|promise| promise.rate_bit_s),
        "raised_budgets": promise.map(|promise| promise.budgets.clone()),
        "total_s": measured.map(|measured| measured.total_s),
        "downtime_s": measured.map(|measured| measured.downtime_s),
        "bytes": measured.map(|measured| measured.bytes),
        "rounds": measured.map(|measured| measured.rounds),
        "progress": {
            "before": course.progress.before,
            "meanwhile": course.progress.meanwhile,
            "copied": course.progress.copied,
            "after": course.progress.after,
            "kept": course.progress.kept(),
        },
        "neighbour_share": neighbour_share(moved),
        "neighbour_bits_per_second": left.neighbour.map(|(meanwhile, before)| [before, meanwhile]),
        "offered_bits_per_second": left.offered,
        "wrong_pages": left.wrong,
        "accounts": [account(&left.outcomes.0), account(&left.outcomes.1)],
    })
}

//! The report of `cbs-kvm`.

use std::time::Duration;

use sched::account::Budgets;
use serde_json::{Value, json};

use super::figures::{ENFORCEMENTS, TASKS, blackouts, figures, figures_of, plot, schedule};
use super::{Measured, Results};
use crate::cli::ExperimentArgs;
use crate::experiment::jobs::{TaskFigures, distance};
use crate::experiment::scenario::Ran;
use crate::report::distribution_plot::Mark;
use crate::report::flags::FlagKind;
use crate::report::stats::Quantile;
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

const PAPER_KEYS: [&str; 5] = ["1", "2", "3", "4-idle", "4-loaded"];
const MECHANISMS: [&str; 6] = [
    "4-loaded",
    "tick-loaded",
    "rt-cgroup-loaded",
    "cfs-quota-loaded",
    "fifo-loaded",
    "3",
];

/// The targets for the loaded reservation against the idle one.
const INNER_TARGET: Duration = Duration::from_micros(300);
const MAX_TARGET: Duration = Duration::from_millis(1);

/// What the paper says of the worst response time, where it does.
fn in_paper(key: &str, task: &str) -> Cell {
    match (key, task) {
        ("1", "t1") => Cell::text("a little over 30"),
        ("1", "t2") => Cell::text("a little over 80"),
        ("2", _) => Cell::text("marginally worse than 1"),
        ("3", "t1") => Cell::text("about 180, many misses"),
        ("3", "t2") => Cell::text("unbounded"),
        ("4-idle", _) => Cell::text("no miss"),
        ("4-loaded", _) => Cell::text("as without load"),
        _ => Cell::Missing,
    }
}

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let ran = results
        .measured
        .iter()
        .filter_map(|m| m.outcome.as_ref().ok());
    let jobs = ran.flat_map(|ran| ran.rows.clone());
    Report {
        title: "CBS-KVM: response times inside and outside a hard reservation".to_owned(),
        summary: summary(results),
        command_line: args.command_line("cbs-kvm"),
        host,
        sections: vec![
            paper_section(results),
            comparison_section(results),
            mechanisms_section(results),
            enforcement_section(results),
        ],
        jobs: jobs.collect(),
        raw: raw(results),
    }
}

fn misses(ran: Option<&Ran>) -> String {
    let Some(ran) = ran else {
        return "not run".to_owned();
    };
    let (missed, jobs) = ran.tasks.iter().fold((0, 0), |(missed, jobs), task| {
        (missed + task.misses, jobs + task.responses.count())
    });
    format!("{missed} of {jobs}")
}

fn summary(results: &Results) -> String {
    format!(
        "One guest with two rate-monotonic tasks, (30 ms, 150 ms) and (50 ms, 200 ms), on CPU {}, {} s per scenario. \
         Deadlines missed: {} with the host idle; {} beside real-time load of (50 ms, 120 ms) and (20 ms, 80 ms); \
         {} beside the same load inside a hard reservation of 28 ms in every 50 ms. The reservation rests on {}.",
        results.cpu,
        results.duration.as_secs_f64(),
        misses(results.of("2")),
        misses(results.of("3")),
        misses(results.of("4-loaded")),
        results.promise,
    )
}

fn paper_section(results: &Results) -> Section {
    let figures = TASKS.iter().map(|task| {
        let title = format!("Response times of {task}");
        let marks = match *task {
            "t1" => vec![mark(180, "paper 3: max about")],
            _ => vec![mark(80, "paper 1: max a little over")],
        };
        plot(results, (&PAPER_KEYS, task), &title, marks).figure(
            &format!("response-{task}"),
            "Share of jobs that had finished after the time on the axis. What lies beyond the deadline missed it.",
        )
    });
    Section {
        heading: "The paper's four figures".to_owned(),
        prose: vec![
            "After Cucinotta, Anastasi and Abeni, \"Providing performance guarantees to virtual machines using real-time \
             scheduling\". The host load runs under SCHED_FIFO, above ordinary processes, as in the paper; a guest in a \
             reservation is under SCHED_DEADLINE, above both. Execution times of tasks and load are counted in \
             uninterrupted steps of a loop."
                .to_owned(),
        ],
        tables: vec![table(results, &PAPER_KEYS, true)],
        figures: figures.collect(),
    }
}

fn mark(at_ms: u64, label: &str) -> Mark {
    Mark {
        at: Duration::from_millis(at_ms),
        label: label.to_owned(),
        kind: FlagKind::Paper,
    }
}

fn mechanisms_section(results: &Results) -> Section {
    let caption = "The loaded host, the same guest, and each mechanism that could hold (28 ms, 50 ms). fifo and other \
                   know no budget.";
    Section {
        heading: "Mechanisms".to_owned(),
        prose: not_run(results),
        tables: vec![table(results, &mechanism_keys(), false)],
        figures: figures(results, &MECHANISMS, ("mechanism", caption)),
    }
}

fn mechanism_keys() -> Vec<&'static str> {
    let mut keys = MECHANISMS.to_vec();
    keys.extend(["rt-cgroup-idle", "cfs-quota-idle", "fifo-idle"]);
    keys
}

fn enforcement_section(results: &Results) -> Section {
    let caption = "Budgets ended by the vCPU's own timer (exact) and by the kernel's tick alone.";
    Section {
        heading: "Exact enforcement against the tick".to_owned(),
        prose: vec![
            "What the vCPU thread was supplied, by its own account: with tick-only enforcement nobody but the kernel \
             sees budgets end, so only the consumption is known."
                .to_owned(),
        ],
        tables: vec![table(results, &ENFORCEMENTS, false), accounts(results)],
        figures: schedule(results)
            .into_iter()
            .chain(blackouts(results))
            .chain(figures(results, &ENFORCEMENTS, ("enforcement", caption)))
            .collect(),
    }
}

/// Response times of some scenarios, task by task.
fn table(results: &Results, keys: &[&str], with_paper: bool) -> Table {
    let mut columns = vec![
        Column::new("scenario", ""),
        Column::new("task", ""),
        Column::new("jobs", ""),
        Column::new("min", "ms"),
        Column::new("avg", "ms"),
        Column::new("p99", "ms"),
        Column::new("max", "ms"),
        Column::new("missed", ""),
    ];
    if with_paper {
        columns.push(Column::of_paper("worst in the paper", "ms"));
    }
    let measured = keys
        .iter()
        .filter_map(|key| results.measured.iter().find(|m| m.scenario.key == *key));
    let mut rows = Vec::new();
    for measured in measured {
        let Ok(ran) = &measured.outcome else { continue };
        for figures in &ran.tasks {
            let mut row = vec![Cell::text(&measured.scenario.title)];
            row.extend(figure_cells(figures));
            row.push(in_paper(measured.scenario.key, &figures.name));
            row.truncate(columns.len());
            rows.push(row);
        }
    }
    Table {
        caption: "Response times. Jobs that never finished count as missed and as longer than any."
            .to_owned(),
        columns,
        rows,
    }
}

/// Task, jobs, min, avg, p99, max, missed.
pub fn figure_cells(figures: &TaskFigures) -> Vec<Cell> {
    let times = &figures.responses;
    let count = |count: usize| Cell::number(count as f64, 0);
    vec![
        Cell::text(&figures.name),
        count(times.count()),
        Cell::millis(times.min(), 2),
        Cell::millis(times.mean(), 2),
        Cell::millis(times.quantile(Quantile::P99), 2),
        Cell::millis(times.max(), 2),
        count(figures.misses),
    ]
}

fn comparison_section(results: &Results) -> Section {
    let mut rows = Vec::new();
    for task in TASKS {
        let pair = |key| results.of(key).and_then(|ran| figures_of(ran, task));
        let (Some(idle), Some(loaded)) = (pair("4-idle"), pair("4-loaded")) else {
            continue;
        };
        let apart = distance(&idle.responses, &loaded.responses);
        let inner = apart.map(|(inner, _)| inner);
        let max = apart.map(|(_, max)| max);
        let within = |found: Option<Duration>, target| found.is_some_and(|found| found <= target);
        rows.push(vec![
            Cell::text(task),
            Cell::millis(inner, 3),
            Cell::judged(within(inner, INNER_TARGET), "≤ 0.3 ms"),
            Cell::millis(max, 3),
            Cell::judged(within(max, MAX_TARGET), "≤ 1 ms"),
            Cell::number(loaded.misses as f64, 0),
            Cell::judged(loaded.misses == 0, "0"),
            Cell::millis(idle.wake_up, 3),
            Cell::millis(loaded.wake_up, 3),
        ]);
    }
    let columns = vec![
        Column::new("task", ""),
        Column::new("p1 to p99 differ by at most", "ms"),
        Column::new("target", ""),
        Column::new("maxima differ by", "ms"),
        Column::new("target", ""),
        Column::new("missed, loaded", ""),
        Column::new("target", ""),
        Column::new("woken after, idle", "ms"),
        Column::new("woken after, loaded", "ms"),
    ];
    Section {
        heading: "The reservation, loaded against idle".to_owned(),
        prose: vec![
            "Woken after: the median time from a release to the first instruction of the guest's timer interrupt for it. \
             A CPU that idles has to be woken, and a hypervisor below may have given it away; one that is loaded is \
             awake. What the idle host is slower by is therefore no fault of the reservation."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: "The paper finds the two distributions identical.".to_owned(),
            columns,
            rows,
        }],
        figures: Vec::new(),
    }
}

fn not_run(results: &Results) -> Vec<String> {
    let failed = results.measured.iter().filter_map(|measured| {
        let reason = measured.outcome.as_ref().err()?;
        Some(format!("Not run: {}. {reason}", measured.scenario.title))
    });
    failed.collect()
}

fn accounts(results: &Results) -> Table {
    let columns = vec![
        Column::new("scenario", ""),
        Column::new("consumed", "% of the CPU"),
        Column::new("budgets ended by the thread", ""),
        Column::new("by the kernel", ""),
        Column::new("least supply - Q", "us"),
        Column::new("greatest supply - Q", "us"),
        Column::new("longest blackout", "ms"),
        Column::new("anything else on the CPU", "%"),
    ];
    let mut rows = Vec::new();
    for measured in &results.measured {
        let Ok(ran) = &measured.outcome else { continue };
        let Some(account) = &ran.account else {
            continue;
        };
        let budgets = account
            .budgets
            .as_ref()
            .filter(|budgets| budgets.yields > 0);
        let if_counted = |cell: fn(&Budgets) -> Cell| budgets.map_or(Cell::Missing, cell);
        let share = account.consumed.as_secs_f64() / results.duration.as_secs_f64();
        rows.push(vec![
            Cell::text(&measured.scenario.title),
            Cell::number(share * 100.0, 2),
            if_counted(|budgets| Cell::number(budgets.yields as f64, 0)),
            if_counted(|budgets| Cell::number(budgets.overruns as f64, 0)),
            if_counted(|budgets| Cell::number(budgets.deviation.least_ns as f64 / 1e3, 0)),
            if_counted(|budgets| Cell::number(budgets.deviation.greatest_ns as f64 / 1e3, 0)),
            if_counted(|budgets| Cell::millis(budgets.blackouts.max, 3)),
            ran.others
                .map_or(Cell::Missing, |share| Cell::number(share * 100.0, 1)),
        ]);
    }
    Table {
        caption: "Accounts of the vCPU threads.".to_owned(),
        columns,
        rows,
    }
}

fn raw(results: &Results) -> Value {
    let scenario = |measured: &Measured| {
        let (tasks, others) = match &measured.outcome {
            Ok(ran) => (
                ran.tasks.iter().map(TaskFigures::summary).collect(),
                ran.others,
            ),
            Err(_) => (Vec::new(), None),
        };
        let (account, granted, reason) = match &measured.outcome {
            Ok(ran) => (ran.account.clone(), ran.granted.clone(), None),
            Err(reason) => (None, None, Some(reason)),
        };
        json!({
            "key": measured.scenario.key,
            "title": measured.scenario.title,
            "loaded": measured.scenario.loaded,
            "tasks": tasks,
            "account": account,
            "granted": granted,
            "others_share": others,
            "not_run": reason,
        })
    };
    let apart = |task: &str| {
        let pair = |key| results.of(key).and_then(|ran| figures_of(ran, task));
        let (idle, loaded) = (pair("4-idle")?, pair("4-loaded")?);
        let (inner, max) = distance(&idle.responses, &loaded.responses)?;
        Some(json!({
            "task": task,
            "p1_to_p99_ms": inner.as_secs_f64() * 1e3,
            "max_ms": max.as_secs_f64() * 1e3,
        }))
    };
    json!({
        "experiment": "cbs-kvm",
        "cpu": results.cpu,
        "seconds_each": results.duration.as_secs_f64(),
        "promise": results.promise,
        "scenarios": results.measured.iter().map(scenario).collect::<Vec<_>>(),
        "reservation_loaded_against_idle": TASKS.iter().filter_map(|task| apart(task)).collect::<Vec<_>>(),
    })
}

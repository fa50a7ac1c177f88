//! The demonstration: one guest on an idle host, beside load, and beside the same load in a reservation.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::ExperimentError;
use super::cbs_kvm::{figure_cells, paper_scenarios};
use super::jobs::{TaskFigures, TaskSummary};
use super::progress::Progress;
use super::scenario::{OVERHEAD, Scenario, paper_tasks};
use super::stage::{Promise, Stage, choose_cpu};
use crate::command::Context;
use crate::report::distribution_plot::Series;
use crate::report::table::{Cell, Column, Table};
use crate::report::terminal::{self, Screen};

/// The scenarios of `cbs-kvm` that are shown, and what they are called here.
const SHOWN: [(&str, &str); 3] = [
    ("2", "ordinary guest, idle host"),
    ("3", "ordinary guest, loaded host"),
    ("4-loaded", "guest in (28 ms, 50 ms), loaded"),
];

/// What the demonstration found.
#[derive(Serialize)]
pub struct Demonstration {
    /// The CPU it ran on.
    pub cpu: u32,
    /// What the reservation rested on.
    pub promise: Promise,
    /// The runs.
    pub runs: Vec<ShownRun>,
    /// What follows from the numbers.
    pub conclusion: String,
}

/// One run.
#[derive(Serialize)]
pub struct ShownRun {
    /// What it was.
    pub name: String,
    /// Its tasks.
    pub tasks: Vec<TaskSummary>,
    #[serde(skip)]
    figures: Vec<TaskFigures>,
}

impl ShownRun {
    fn missed(&self) -> usize {
        self.figures.iter().map(|task| task.misses).sum()
    }

    fn jobs(&self) -> usize {
        self.figures.iter().map(|task| task.responses.count()).sum()
    }
}

/// Runs it, `each` for every guest.
pub fn run(context: &Context, each: Duration) -> Result<Demonstration, ExperimentError> {
    let cpu = choose_cpu(None)?;
    let mut progress = Progress::new((each + OVERHEAD) * 3, context.json);
    let stage = Stage::set(context, cpu)?;
    let promise = stage.promise.clone();
    let runs = run_all(&stage, each, &mut progress);
    stage.clear()?;
    drop(progress);
    let runs = runs?;
    let conclusion = conclusion(&runs);
    Ok(Demonstration {
        cpu,
        promise,
        runs,
        conclusion,
    })
}

fn run_all(
    stage: &Stage,
    each: Duration,
    progress: &mut Progress,
) -> Result<Vec<ShownRun>, ExperimentError> {
    let set = paper_tasks(each)?;
    let scenarios = paper_scenarios()?;
    let shown = SHOWN.iter().filter_map(|(key, name)| {
        let scenario = scenarios.iter().find(|scenario| scenario.key == *key)?;
        Some((name, scenario.clone()))
    });
    shown
        .map(|(name, scenario)| {
            let scenario = Scenario {
                title: (*name).to_owned(),
                ..scenario
            };
            let figures = scenario.run(stage, &set, progress)?.tasks;
            Ok(ShownRun {
                name: scenario.title,
                tasks: figures.iter().map(TaskFigures::summary).collect(),
                figures,
            })
        })
        .collect()
}

/// One sentence, from the numbers.
fn conclusion(runs: &[ShownRun]) -> String {
    let [idle, loaded, reserved] = runs else {
        return "not all runs took place".to_owned();
    };
    let told = |run: &ShownRun| match run.missed() {
        0 => format!("none of {} deadlines", run.jobs()),
        missed => format!("{missed} of {} deadlines", run.jobs()),
    };
    let verdict = match (loaded.missed(), reserved.missed()) {
        (0, 0) => "the load was too weak here to show a difference",
        (_, 0) => "the promise was kept",
        (lost, kept) if kept * 10 <= lost => {
            "nearly all of the difference is the reservation's; see `chronovisor host check` for what this host took"
        }
        _ => "the promise was not kept on this host; see `chronovisor host check` for why",
    };
    format!(
        "Beside real-time load the ordinary guest missed {}; the same guest in a (28 ms, 50 ms) reservation missed {} \
         (and {} as an ordinary guest on the idle host): {verdict}.",
        told(loaded),
        told(reserved),
        told(idle),
    )
}

impl Demonstration {
    /// The demonstration for people.
    pub fn text(&self, screen: Screen) -> String {
        let mut text = format!(
            "A guest with two real-time tasks, t1 (30 ms every 150 ms) and t2 (50 ms every 200 ms), on CPU {}.\n\
             The load: real-time tasks of the host, 50 ms every 120 ms and 20 ms every 80 ms.\n\
             The reservation rests on {}.\n",
            self.cpu, self.promise
        );
        for task in ["t1", "t2"] {
            let series = self.series(task);
            let deadline = series
                .iter()
                .find_map(|one| one.deadline)
                .unwrap_or_default();
            let _ = write!(
                text,
                "\nResponse times of {task} (deadline {} ms)\n{}",
                deadline.as_millis(),
                terminal::distribution_chart(&series, screen)
            );
        }
        let _ = write!(
            text,
            "\n{}\n{}\nNext: `chronovisor experiment cbs-kvm` and `experiment edge` measure this properly and write a report;\n\
             `chronovisor spec --example > guest.toml`, change it, and `chronovisor run guest.toml`.\n",
            terminal::table(&self.table(), screen),
            self.conclusion
        );
        text
    }

    fn series(&self, task: &str) -> Vec<Series> {
        let of = |run: &ShownRun| {
            let figures = run.figures.iter().find(|figures| figures.name == task)?;
            Some(Series {
                name: run.name.clone(),
                times: figures.responses.clone(),
                deadline: Some(figures.deadline),
            })
        };
        self.runs.iter().filter_map(of).collect()
    }

    fn table(&self) -> Table {
        let columns = [
            ("run", ""),
            ("task", ""),
            ("jobs", ""),
            ("min", "ms"),
            ("avg", "ms"),
            ("p99", "ms"),
            ("max", "ms"),
            ("missed", ""),
        ];
        let row = |run: &ShownRun, figures: &TaskFigures| {
            let mut row = vec![Cell::text(&run.name)];
            row.extend(figure_cells(figures));
            row
        };
        let rows = self
            .runs
            .iter()
            .flat_map(|run| run.figures.iter().map(move |figures| row(run, figures)));
        Table {
            caption: "Response times".to_owned(),
            columns: columns
                .map(|(title, unit)| Column::new(title, unit))
                .to_vec(),
            rows: rows.collect(),
        }
    }
}

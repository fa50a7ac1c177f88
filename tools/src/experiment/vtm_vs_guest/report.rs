//! The report of `vtm-vs-guest`.

use std::time::Duration;

use serde_json::{Value, json};

use super::candidate::{Candidate, Run};
use super::handling::{CHANGES, Handling};
use super::{Condition, Results};
use crate::cli::ExperimentArgs;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::{Distribution, Quantile};
use crate::report::table::{Cell, Column, Table};
use crate::report::{Figure, HostCheck, Report, Section};

/// How far the share of a VTM may be from its table's, as a part of the CPU.
const TOLERANCE: f64 = 0.01;

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    let runs = results.runs.iter();
    let rows = runs.filter_map(|(_, _, run)| run.as_ref().ok());
    Report {
        title: "A computation as a VTM, as a guest, as a process".to_owned(),
        summary: summary(results),
        command_line: args.command_line("vtm-vs-guest"),
        host,
        sections: vec![comparison(results), method(results)],
        jobs: rows.flat_map(|run| run.rows.clone()).collect(),
        raw: raw(results),
    }
}

impl Results {
    fn of(&self, candidate: Candidate, condition: Condition) -> Option<&Run> {
        let mut runs = self.runs.iter();
        let found = runs.find(|run| (run.0, run.1) == (candidate, condition));
        found?.2.as_ref().ok()
    }

    fn handled(&self, candidate: Candidate) -> Option<&Handling> {
        let mut handling = self.handling.iter();
        handling.find(|one| one.0 == candidate)?.1.as_ref().ok()
    }
}

/// How far the share is from what was promised.
fn apart(run: &Run) -> Option<f64> {
    Some((run.share? - run.candidate.promised()?).abs())
}

fn summary(results: &Results) -> String {
    let told = |candidate: Candidate| {
        let runs = Condition::ALL.map(|condition| results.of(candidate, condition));
        let shares: Vec<f64> = runs.iter().flatten().filter_map(|run| run.share).collect();
        let missed: usize = runs.iter().flatten().map(|run| run.task.misses).sum();
        let jobs: usize = runs
            .iter()
            .flatten()
            .map(|run| run.task.responses.count())
            .sum();
        let least = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let most = shares.iter().copied().fold(0.0, f64::max);
        format!(
            "{}: {:.1} to {:.1} % of the CPU, {missed} of {jobs} deadlines missed",
            candidate.name(),
            least * 100.0,
            most * 100.0
        )
    };
    format!(
        "The same computation, a task of 15 ms every 90 ms and a busy loop below it, given 10 ms of every 40 ms of CPU {}, \
         alone, beside load, beside a fork bomb and beside a busy SCHED_FIFO process. {}. Reservations and the VTM \
         rest on {}.",
        results.cpu,
        Candidate::ALL.map(told).join("; "),
        results.promise
    )
}

fn comparison(results: &Results) -> Section {
    let columns = [Column::new("", ""), Column::new("beside", "")];
    let columns = columns.into_iter();
    let columns = columns
        .chain(Candidate::ALL.map(|candidate| Column::new(candidate.short_name(), "")))
        .chain([Column::new("target", "")]);
    let mut prose = Vec::new();
    for (candidate, condition, run) in &results.runs {
        if let Err(why) = run {
            let (name, beside) = (candidate.name(), condition.name());
            prose.push(format!("Not measured: {name} beside {beside}: {why}."));
        }
    }
    for (candidate, handling) in &results.handling {
        if let Err(why) = handling {
            prose.push(format!("Not handled: {}: {why}.", candidate.name()));
        }
    }
    Section {
        heading: "Side by side".to_owned(),
        prose,
        tables: vec![Table {
            caption: format!(
                "Each of the shares and times was measured over {} s.",
                results.length.as_secs_f64()
            ),
            columns: columns.collect(),
            rows: rows(results),
        }],
        figures: figures(results),
    }
}

/// A row of numbers, one for each candidate.
fn row(
    (name, beside): (&str, &str),
    decimals: usize,
    value: impl Fn(Candidate) -> Option<f64>,
) -> Vec<Cell> {
    let cell = |candidate| value(candidate).map_or(Cell::Missing, |v| Cell::number(v, decimals));
    let mut row = vec![Cell::text(name), Cell::text(beside)];
    row.extend(Candidate::ALL.map(cell));
    row
}

fn rows(results: &Results) -> Vec<Vec<Cell>> {
    let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let mut rows = Vec::new();
    for condition in Condition::ALL {
        let share = |candidate| Some(results.of(candidate, condition)?.share? * 100.0);
        let mut cells = row(("share (%)", condition.name()), 2, share);
        let vtm = results.of(Candidate::Vtm, condition).and_then(apart);
        cells.push(vtm.map_or(Cell::Missing, |apart| {
            Cell::judged(apart <= TOLERANCE, "VTM +- 1 %")
        }));
        rows.push(cells);
    }
    let of = |name: &str, decimals, value: &dyn Fn(&Run) -> Option<f64>| {
        let each = Condition::ALL.map(|condition| {
            let value = |candidate| value(results.of(candidate, condition)?);
            row((name, condition.name()), decimals, value)
        });
        each.to_vec()
    };
    rows.extend(of("blackout, max (ms)", 1, &|run| {
        millis(run.blackouts.max())
    }));
    rows.extend(of("response, p99 (ms)", 1, &|run| {
        millis(run.task.responses.quantile(Quantile::P99))
    }));
    rows.extend(of("missed (%)", 1, &|run| {
        let jobs = run.task.responses.count();
        (jobs > 0).then(|| run.task.misses as f64 / jobs as f64 * 100.0)
    }));
    let median = |times: &Distribution| millis(times.quantile(Quantile::MEDIAN));
    let handled = |candidate| results.handled(candidate);
    rows.push(row(("start (ms)", "nothing"), 1, |candidate| {
        median(&handled(candidate)?.start)
    }));
    rows.push(row(("memory (MiB)", "nothing"), 2, |candidate| {
        Some(handled(candidate)?.memory? as f64 / 1024.0)
    }));
    rows.push(row(("adaptation (ms)", "nothing"), 3, |candidate| {
        median(handled(candidate)?.adaptation.as_ref()?)
    }));
    rows
}

fn method(results: &Results) -> Section {
    let prose = [
        "Guest and processes run the same loop and keep the same records: a job has executed for 15 ms when its \
         uninterrupted steps add up to that, and a step of over 100 us is a stretch without the CPU, a blackout. The share is \
         the time that is left."
            .to_owned(),
        "The load is two busy processes and periodic SCHED_FIFO tasks (50 ms every 120 ms, 20 ms every 80 ms). The fork bomb \
         is of ordinary processes, at most 100 at a time. The FIFO neighbour has a lower priority than a VTM's jobs and leaves \
         ordinary processes only what real-time throttling takes from it. Throttling takes from all real-time processes of a CPU, \
         those of a VTM too, when together they leave nothing; SCHED_DEADLINE, in which the guest runs, is not concerned \
         (Documentation/scheduler/sched-rt-group.rst)."
            .to_owned(),
        format!(
            "A start is over when the computation runs in its share: at the first turn of the VTM, whose scheduler runs already, \
             and when the guest prints its first line. Memory is the proportional set size of the processes that came with the \
             start, the guest's own memory and the VTM scheduler's guardian included. An adaptation is one of {CHANGES} changes \
             between 10 and 20 ms of every 40 ms while it computes, of which the table has the median, as it has of the starts: a call of the scheduler, a request through the guest's control \
             socket, a write to the group's quota. A plain process has no share that could be changed."
        ),
        format!(
            "A job that is not over by the end of a run counts as missed if its deadline is, and a dash stands where too few jobs were over for \
             a percentile. Reservations and the VTM rest on {}.",
            results.promise
        ),
    ];
    Section {
        heading: "What was measured".to_owned(),
        prose: prose.to_vec(),
        ..Section::default()
    }
}

fn figures(results: &Results) -> Vec<Figure> {
    let series = |condition: Condition,
                  times: &dyn Fn(&Run) -> (Distribution, Option<Duration>)| {
        let runs = Candidate::ALL.map(|candidate| results.of(candidate, condition));
        let series = runs.into_iter().flatten().map(|run| {
            let (times, deadline) = times(run);
            Series {
                name: run.candidate.name().to_owned(),
                times,
                deadline,
            }
        });
        series.collect::<Vec<_>>()
    };
    let plots = Condition::ALL.map(|condition| {
        let plot = DistributionPlot {
            title: format!("Response times beside {}", condition.name()),
            quantity: "response time".to_owned(),
            shape: Shape::Cumulative,
            time_axis: TimeAxis::Linear {
                from: Duration::ZERO,
                to: Duration::from_millis(180),
            },
            series: series(condition, &|run| {
                (run.task.responses.clone(), Some(run.task.deadline))
            }),
            marks: vec![Mark {
                at: Duration::from_millis(75),
                label: "worst in 10 ms of every 40 ms".to_owned(),
                kind: FlagKind::Bound,
            }],
        };
        let caption = "Share of the jobs that took no longer than the time on the axis.";
        plot.figure(&format!("responses-{}", condition.key()), caption)
    });
    let blackouts = DistributionPlot {
        title: "Blackouts beside load".to_owned(),
        quantity: "blackout".to_owned(),
        shape: Shape::Complementary,
        time_axis: TimeAxis::Log,
        series: series(Condition::Loaded, &|run| (run.blackouts.clone(), None)),
        marks: vec![Mark {
            at: Duration::from_millis(30),
            label: "P - Q".to_owned(),
            kind: FlagKind::Bound,
        }],
    };
    let caption = "Share of the blackouts longer than the time on the axis.";
    let mut figures = plots.to_vec();
    figures.push(blackouts.figure("blackouts", caption));
    figures
}

fn raw(results: &Results) -> Value {
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let run = |(candidate, condition, run): &(Candidate, Condition, Result<Run, String>)| {
        let ran = run.as_ref().ok();
        json!({
            "candidate": candidate.key(),
            "condition": condition.key(),
            "promised": candidate.promised(),
            "share": ran.and_then(|run| run.share),
            "longest_blackout_ms": ms(ran.and_then(|run| run.blackouts.max())),
            "task": ran.map(|run| run.task.summary()),
            "not_measured": run.as_ref().err(),
        })
    };
    let handling = |(candidate, handling): &(Candidate, Result<Handling, String>)| {
        let handled = handling.as_ref().ok();
        let of = |times: &Distribution| {
            json!({
                "count": times.count(),
                "mean_ms": ms(times.mean()),
                "median_ms": ms(times.quantile(Quantile::MEDIAN)),
                "max_ms": ms(times.max()),
            })
        };
        json!({
            "candidate": candidate.key(),
            "start": handled.map(|handled| of(&handled.start)),
            "memory_kib": handled.and_then(|handled| handled.memory),
            "adaptation": handled.and_then(|handled| handled.adaptation.as_ref().map(of)),
            "not_handled": handling.as_ref().err(),
        })
    };
    json!({
        "experiment": "vtm-vs-guest",
        "cpu": results.cpu,
        "promise": results.promise,
        "seconds_per_run": results.length.as_secs_f64(),
        "tolerance": TOLERANCE,
        "runs": results.runs.iter().map(run).collect::<Vec<_>>(),
        "handling": results.handling.iter().map(handling).collect::<Vec<_>>(),
    })
}

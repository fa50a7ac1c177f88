//! The report of `web`.

use std::time::Duration;

use serde_json::{Value, json};

use super::row::{Measured, Row};
use super::statistics::Statistics;
use super::{CLIENTS, REQUESTS, Results};
use crate::cli::ExperimentArgs;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::Distribution;
use crate::report::table::{Cell, Column, Table};
use crate::report::{Figure, HostCheck, Report, Section};

/// The mean of the loaded guest in its reservation against that of the same guest unloaded, at most.
pub const RATIO: f64 = 1.1;

impl Results {
    fn of(&self, row: Row) -> Option<Statistics> {
        let found = self.measured.iter().find(|measured| measured.row == row);
        found?.statistics()
    }

    /// How much longer the loaded guest takes in its reservation than the unloaded one in the same.
    fn ratio(&self) -> Option<f64> {
        Some(self.of(Row::ReservedLoaded)?.avg / self.of(Row::Reserved)?.avg)
    }
}

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "Web: response times of a CPU-bound service on the host and in guests".to_owned(),
        summary: summary(results),
        command_line: args.command_line("web"),
        host,
        sections: vec![table_section(results), method(results)],
        jobs: Vec::new(),
        raw: raw(results),
    }
}

fn summary(results: &Results) -> String {
    let told = |row: Row| {
        let avg = results
            .of(row)
            .map(|figures| format!("{:.3} s", figures.avg));
        format!(
            "{} {}",
            row.name(),
            avg.as_deref().unwrap_or("not measured")
        )
    };
    let ratio = results.ratio().map_or_else(String::new, |ratio| {
        format!(
            " Load makes the mean of the guest in its reservation {ratio:.3} times what it was."
        )
    });
    format!(
        "{CLIENTS} clients with {REQUESTS} requests each for a 2000 x 2000 image rotated by 20 degrees, {} runs on CPU {}. \
         Mean response times: {}.{ratio} The reservation rests on {}.",
        results.runs,
        results.cpu,
        Row::ALL.map(told).join(", "),
        results.promise
    )
}

fn table_section(results: &Results) -> Section {
    let not_measured = results.measured.iter().filter_map(|measured| {
        let why = measured.runs.as_ref().err()?;
        Some(format!("Not measured: {}: {why}.", measured.row.name()))
    });
    Section {
        heading: "Response times".to_owned(),
        prose: not_measured.collect(),
        tables: vec![times(results), published(results)],
        figures: figures(results),
    }
}

fn times(results: &Results) -> Table {
    let seconds = ["min", "avg", "max", "sd"].map(|title| Column::new(title, "s"));
    let mut columns = vec![Column::new("", "")];
    columns.extend(seconds);
    columns.push(Column::new("90 % of avg", "± s"));
    columns.push(Column::new("target", ""));
    Table {
        caption: format!(
            "{CLIENTS} clients, {REQUESTS} requests each, {} runs.",
            results.runs
        ),
        columns,
        rows: results.measured.iter().map(|m| cells(results, m)).collect(),
    }
}

/// The paper's table.
fn published(results: &Results) -> Table {
    let seconds = ["min", "avg", "max", "sd"].map(|title| Column::of_paper(title, "s"));
    let mut columns = vec![Column::new("", "")];
    columns.extend(seconds);
    columns.push(Column::of_paper("avg, of host", "x"));
    columns.push(Column::new("avg here, of host", "x"));
    let host = results.of(Row::Host).map(|figures| figures.avg);
    let paper_host = Row::Host.paper().map_or(f64::NAN, |figures| figures.avg);
    let row = |row: Row| {
        let paper = row.paper()?;
        let number = |value: f64| Cell::number(value, 3);
        let here = results.of(row).zip(host);
        Some(vec![
            Cell::text(row.name()),
            number(paper.min),
            number(paper.avg),
            number(paper.max),
            number(paper.sd),
            Cell::number(paper.avg / paper_host, 2),
            here.map_or(Cell::Missing, |(figures, host)| {
                Cell::number(figures.avg / host, 2)
            }),
        ])
    };
    Table {
        caption: "The paper's table 1, on hardware of its time.".to_owned(),
        columns,
        rows: Row::ALL.into_iter().filter_map(row).collect(),
    }
}

fn cells(results: &Results, measured: &Measured) -> Vec<Cell> {
    let seconds = |value: Option<f64>| value.map_or(Cell::Missing, |v| Cell::number(v, 3));
    let own = measured.statistics();
    let judged = results
        .ratio()
        .filter(|_| measured.row == Row::ReservedLoaded);
    vec![
        Cell::text(measured.row.name()),
        seconds(own.map(|figures| figures.min)),
        seconds(own.map(|figures| figures.avg)),
        seconds(own.map(|figures| figures.max)),
        seconds(own.map(|figures| figures.sd)),
        seconds(own.and_then(|figures| figures.confidence)),
        judged.map_or(Cell::Missing, |ratio| {
            Cell::judged(ratio <= RATIO, format!("≤ {RATIO} x idle: {ratio:.3}"))
        }),
    ]
}

fn figures(results: &Results) -> Vec<Figure> {
    let series = results.measured.iter().filter_map(|measured| {
        let runs = measured.runs.as_ref().ok()?;
        Some(Series {
            name: measured.row.name().to_owned(),
            times: Distribution::new(runs.concat()),
            deadline: None,
        })
    });
    let marks = [(Row::Loaded, "loaded"), (Row::ReservedLoaded, "reserved")];
    let marks = marks.iter().filter_map(|(row, name)| {
        Some(Mark {
            at: Duration::from_secs_f64(row.paper()?.avg),
            label: format!("paper, {name}: avg"),
            kind: FlagKind::Paper,
        })
    });
    let plot = DistributionPlot {
        title: "Response times of the web server".to_owned(),
        quantity: "response time".to_owned(),
        shape: Shape::Cumulative,
        time_axis: TimeAxis::Log,
        series: series.collect(),
        marks: marks.collect(),
    };
    if plot.series.is_empty() {
        return Vec::new();
    }
    let caption = "Share of the requests answered within the time on the axis. The paper's host was another one.";
    vec![plot.figure("responses", caption)]
}

fn method(results: &Results) -> Section {
    let prose = [
        "A request is a connection of its own: connecting, asking, waiting for the whole answer, which is compared with \
         the right one byte by byte. A client asks again as soon as it was answered, so that all but one of the clients \
         wait for one another, as in the paper."
            .to_owned(),
        format!(
            "Host and guest run the same function on CPU {}; the clients are elsewhere, and reach the guest through its tap, \
             this program's bridge and its shares of the network. The host's server is one thread that answers one \
             request after the other.",
            results.cpu
        ),
        "The load is that of the paper's micro benchmark: periodic SCHED_FIFO tasks, 50 ms every 120 ms and 20 ms every \
         80 ms, which take 67 % of the CPU. The paper's macro benchmark does not say its load; its figures come from a \
         server of several processes on hardware of 2009, so only ratios within a column compare."
            .to_owned(),
        "The confidence interval is Student's for the means of the runs: responses within a run depend on one another."
            .to_owned(),
    ];
    Section {
        heading: "What was measured".to_owned(),
        prose: prose.to_vec(),
        ..Section::default()
    }
}

fn raw(results: &Results) -> Value {
    let row = |measured: &Measured| {
        let figures = measured.statistics();
        let paper = measured.row.paper();
        json!({
            "key": measured.row.key(),
            "count": figures.map(|figures| figures.count),
            "min_s": figures.map(|figures| figures.min),
            "avg_s": figures.map(|figures| figures.avg),
            "max_s": figures.map(|figures| figures.max),
            "sd_s": figures.map(|figures| figures.sd),
            "confidence_90_s": figures.and_then(|figures| figures.confidence),
            "paper": paper.map(|paper| json!({
                "min_s": paper.min, "avg_s": paper.avg, "max_s": paper.max, "sd_s": paper.sd,
            })),
            "not_measured": measured.runs.as_ref().err(),
        })
    };
    json!({
        "experiment": "web",
        "cpu": results.cpu,
        "promise": results.promise,
        "clients": CLIENTS,
        "requests": REQUESTS,
        "runs": results.runs,
        "rows": results.measured.iter().map(row).collect::<Vec<_>>(),
        "loaded_against_unloaded": results.ratio(),
        "target": RATIO,
    })
}

//! The report of `vtm-overhead`.

use std::time::Duration;

use serde_json::{Value, json};

use super::Results;
use super::adaptation::{Adapted, CHANGES};
use super::dispatch::{Dispatched, SLOT};
use crate::cli::ExperimentArgs;
use crate::report::distribution_plot::{DistributionPlot, Series, Shape, TimeAxis};
use crate::report::stats::Quantile;
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

/// What a dispatch may cost, in every row.
const MOST: Duration = Duration::from_micros(20);
/// How far the rows may be apart: the greatest mean over the least.
const APART: f64 = 3.0;
/// Whatever is compared with the paper is compared across this.
const GAP: &str = "The paper's figures were taken on a Pentium 4 at 1.2 GHz; they stand beside ours as they are, and no ratio of \
                   the two says anything of either program.";

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn millis(time: Option<Duration>, decimals: usize) -> Cell {
    Cell::millis(time, decimals)
}

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "What scheduling VTMs costs".to_owned(),
        summary: summary(results),
        command_line: args.command_line("vtm-overhead"),
        host,
        sections: vec![dispatch_section(results), adaptation_section(results)],
        jobs: Vec::new(),
        raw: raw(results),
    }
}

/// The least and the greatest mean of the rows with sleeping jobs, which differ in nothing but their size.
fn spread(results: &Results) -> Option<(Duration, Duration)> {
    let rows = results.dispatched.iter().filter(|row| !row.size.busy);
    let means: Vec<_> = rows.filter_map(Dispatched::mean).collect();
    Some((*means.iter().min()?, *means.iter().max()?))
}

fn apart((least, most): (Duration, Duration)) -> f64 {
    most.as_secs_f64() / least.as_secs_f64().max(f64::MIN_POSITIVE)
}

fn summary(results: &Results) -> String {
    let rows = results.dispatched.iter();
    let cheap = rows.filter(|row| row.mean().is_some_and(|mean| mean <= MOST));
    let spread = spread(results).map_or_else(String::new, |spread| {
        format!(
            "; with sleeping jobs it costs {:.1} to {:.1} us",
            micros(spread.0),
            micros(spread.1)
        )
    });
    let kept = results.adapted.iter().filter(|row| is_quick(row)).count();
    format!(
        "One job of each VTM is active at a time, on CPU {}, in slots of {} ms. A dispatch costs at most {} us of CPU time on \
         the average in {} of {} rows{spread}. Giving one VTM a slot of another takes no longer than its target in {kept} of \
         {} rows. {GAP}",
        results.cpu,
        SLOT.as_millis(),
        MOST.as_micros(),
        cheap.count(),
        results.dispatched.len(),
        results.adapted.len(),
    )
}

fn dispatch_section(results: &Results) -> Section {
    let columns = [
        Column::new("VTMs x jobs", ""),
        Column::new("count", ""),
        Column::new("mean", "ms"),
        Column::new("p99", "ms"),
        Column::new("max", "ms"),
        Column::of_paper("paper", "ms"),
        Column::new("target", ""),
        Column::new("ready", "s"),
    ];
    let mut prose = vec![
        format!(
            "CPU time of the dispatcher for each dispatch, waking and going to sleep again included: another VTM has every \
             slot, so each dispatch stops one job and continues another. Each row dispatches for {} s. The jobs sleep, so \
             that nothing but their handling is measured; in the rows with busy jobs the one that is stopped was running.",
            results.length.as_secs()
        ),
        GAP.to_owned(),
    ];
    if results.dispatched.iter().any(|row| row.raised) {
        prose.push(
            "For the largest row the kernel's limit of process ids was raised, and put back after it."
                .to_owned(),
        );
    }
    let mut rows: Vec<_> = results.dispatched.iter().map(dispatch_cells).collect();
    if let Some(spread) = spread(results) {
        let mut row = vec![Cell::text("most / least")];
        row.extend(vec![Cell::Missing; columns.len() - 1]);
        row[columns.len() - 2] =
            Cell::judged(apart(spread) <= APART, format!("{:.1} <= 3", apart(spread)));
        rows.push(row);
    }
    Section {
        heading: "Scheduling overhead per dispatch (the paper's Table 4)".to_owned(),
        prose,
        tables: vec![Table {
            caption: "CPU time of the scheduler for one dispatch; the last row is of the means with sleeping jobs.".to_owned(),
            columns: columns.to_vec(),
            rows,
        }],
        figures: Vec::new(),
    }
}

fn dispatch_cells(row: &Dispatched) -> Vec<Cell> {
    let paper = row
        .size
        .paper_ms
        .map_or(Cell::Missing, |ms| Cell::number(ms, 3));
    let name = Cell::text(row.size.name());
    let cost = match &row.cost {
        Ok(cost) => cost,
        Err(why) => return vec![name, Cell::text(format!("not measured: {why}"))],
    };
    let mean = row.mean().unwrap_or_default();
    vec![
        name,
        Cell::number(cost.count as f64, 0),
        millis(Some(mean), 4),
        millis(Some(cost.p99), 4),
        millis(Some(cost.max), 4),
        paper,
        Cell::judged(mean <= MOST, "<= 20 us"),
        Cell::number(row.ready.as_secs_f64(), 1),
    ]
}

fn is_quick(row: &Adapted) -> bool {
    row.work.mean().is_some_and(|mean| mean <= row.crowd.target)
}

fn adaptation_section(results: &Results) -> Section {
    let columns = [
        Column::new("VTMs", ""),
        Column::new("mean", "ms"),
        Column::new("max", "ms"),
        Column::new("in force", "ms"),
        Column::new("slot", "ms"),
        Column::of_paper("paper", "ms"),
        Column::of_paper("Xen 3.1", "ms"),
        Column::new("target", ""),
    ];
    let prose = [
        format!(
            "Each VTM has two slots of every period and one sleeping job; X gets a third slot, which Y gives, and gives it back: \
             {CHANGES} changes. A change is over when the new table is admitted, made and handed to the dispatcher; the table \
             is in force from the next slot on, which is seen from outside and so up to some ms late; the longest is shown. Targets \
             are of the mean."
        ),
        "In the paper each VTM has 20 ms of every 400 ms, or of 4000 ms with 200 VTMs: 20 or 200 of them have all of the CPU. \
         Here a tenth of it is left to other processes, which real-time throttling demands of every second; 200 VTMs have \
         slots of 2 ms for that, and as many slots as in the paper."
            .to_owned(),
        GAP.to_owned(),
    ];
    Section {
        heading: "CPU adaptation (the paper's Table 5)".to_owned(),
        prose: prose.to_vec(),
        tables: vec![Table {
            caption:
                "How long it takes to give one VTM a slot of another; Xen 3.1 as the paper has it."
                    .to_owned(),
            columns: columns.to_vec(),
            rows: results.adapted.iter().map(adaptation_cells).collect(),
        }],
        figures: vec![plot(results).figure(
            "adaptation",
            "Share of the changes that took no longer than the time on the axis.",
        )],
    }
}

fn adaptation_cells(row: &Adapted) -> Vec<Cell> {
    let crowd = &row.crowd;
    let of_paper = |us: u32| Cell::millis(Duration::from_micros(us.into()), 3);
    vec![
        Cell::number(f64::from(crowd.vtms), 0),
        millis(row.work.mean(), 4),
        millis(row.work.max(), 4),
        millis(row.in_force.max(), 2),
        Cell::millis(crowd.slot, 0),
        of_paper(crowd.paper_us),
        crowd.xen_us.map_or(Cell::Missing, of_paper),
        Cell::judged(is_quick(row), format!("<= {} us", crowd.target.as_micros())),
    ]
}

fn plot(results: &Results) -> DistributionPlot {
    let series = |row: &Adapted| Series {
        name: match row.crowd.vtms {
            1 => "1 VTM".to_owned(),
            vtms => format!("{vtms} VTMs"),
        },
        times: row.work.clone(),
        deadline: Some(row.crowd.target),
    };
    DistributionPlot {
        title: "How long it takes to give one VTM a slot of another".to_owned(),
        quantity: "change".to_owned(),
        shape: Shape::Cumulative,
        time_axis: TimeAxis::Log,
        series: results.adapted.iter().map(series).collect(),
        marks: Vec::new(),
    }
}

fn raw(results: &Results) -> Value {
    let us = |time: Option<Duration>| time.map(micros);
    let dispatched = |row: &Dispatched| {
        json!({
            "vtms": row.size.vtms,
            "jobs": row.size.jobs,
            "busy": row.size.busy,
            "mean_us": us(row.mean()),
            "dispatches": row.cost.as_ref().ok().map(|cost| cost.count),
            "median_us": us(row.cost.as_ref().ok().map(|cost| cost.median)),
            "p99_us": us(row.cost.as_ref().ok().map(|cost| cost.p99)),
            "max_us": us(row.cost.as_ref().ok().map(|cost| cost.max)),
            "not_measured": row.cost.as_ref().err(),
            "ready_s": row.ready.as_secs_f64(),
            "pid_max_raised": row.raised,
            "paper_ms": row.size.paper_ms,
        })
    };
    let adapted = |row: &Adapted| {
        json!({
            "vtms": row.crowd.vtms,
            "changes": row.work.count(),
            "mean_us": us(row.work.mean()),
            "median_us": us(row.work.quantile(Quantile::MEDIAN)),
            "max_us": us(row.work.max()),
            "target_us": micros(row.crowd.target),
            "in_force_max_ms": row.in_force.max().map(|time| micros(time) / 1e3),
            "slot_ms": micros(row.crowd.slot) / 1e3,
            "paper_us": row.crowd.paper_us,
            "paper_xen_us": row.crowd.xen_us,
        })
    };
    json!({
        "experiment": "vtm-overhead",
        "cpu": results.cpu,
        "slot_ms": micros(SLOT) / 1e3,
        "seconds_per_row": results.length.as_secs_f64(),
        "greatest_over_least": spread(results).map(apart),
        "dispatches": results.dispatched.iter().map(dispatched).collect::<Vec<_>>(),
        "adaptations": results.adapted.iter().map(adapted).collect::<Vec<_>>(),
    })
}

//! The report of `lock-holder`.

use std::time::Duration;

use rt_abi::taskset::TaskSet;
use serde_json::{Value, json};
use vmm::telemetry::{Event, Section};

use super::case::{Case, Place, Rest, VCPUS};
use super::{Ran, Results};
use crate::cli::ExperimentArgs;
use crate::experiment::jobs::TaskFigures;
use crate::report::distribution_plot::{DistributionPlot, Mark, Series, Shape, TimeAxis};
use crate::report::flags::FlagKind;
use crate::report::stats::Quantile;
use crate::report::table::{Cell, Column, Table};
use crate::report::timeline_plot::{Lane, Span, TimelinePlot};
use crate::report::{Figure, HostCheck, Report, Section as Chapter};

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "A spin lock across two vCPUs, with and without aligned budgets".to_owned(),
        summary: summary(results),
        command_line: args.command_line("lock-holder"),
        host,
        sections: vec![
            lock_chapter(results),
            progress_chapter(results),
            bound_chapter(),
        ],
        jobs: results
            .ran
            .iter()
            .flat_map(|ran| ran.rows.clone())
            .collect(),
        raw: raw(results),
    }
}

/// Of busy vCPUs with a CPU each: a run with aligned budgets, and the same with the most time lost otherwise.
fn extremes(results: &Results) -> Option<(&Ran, &Ran)> {
    let shown = |ran: &&Ran| (ran.case.place, ran.case.rest) == (Place::Apart, Rest::Busy);
    let lost = |a: &&Ran, b: &&Ran| a.measured.spun_share.total_cmp(&b.measured.spun_share);
    let others = results.ran.iter().filter(shown);
    let worst = others.filter(|ran| !ran.case.is_aligned()).max_by(lost)?;
    let aligned =
        |ran: &&Ran| ran.case.is_aligned() && ran.case.reservation == worst.case.reservation;
    Some((results.ran.iter().filter(shown).find(aligned)?, worst))
}

fn summary(results: &Results) -> String {
    let setting = format!(
        "Two vCPUs, each in a reservation of its own, run a task each that holds a shared spin lock for a tenth of a budget \
         per job. Runs of {} s; reservations rest on {}.",
        results.duration.as_secs(),
        results.promise
    );
    let Some((aligned, worst)) = extremes(results) else {
        return setting;
    };
    let told = |ran: &Ran| {
        let missed: usize = ran.tasks.iter().map(|task| task.misses).sum();
        format!(
            "{:.2} % of what the vCPUs ran was spun away, the longest wait was {:.2} ms, and {missed} deadlines were missed",
            ran.measured.spun_share * 100.0,
            ran.measured.waits.max().unwrap_or_default().as_secs_f64() * 1e3,
        )
    };
    format!(
        "{setting} In {} with aligned budgets {}; with budgets {}, {}.",
        aligned.case.reservation,
        told(aligned),
        worst.case.alignment(),
        told(worst)
    )
}

fn names(case: &Case) -> Vec<Cell> {
    let place = match case.place {
        Place::Apart => "a CPU each",
        Place::Together => "one CPU",
    };
    let rest = match case.rest {
        Rest::Busy => "",
        Rest::Asleep => ", sleeping",
    };
    vec![
        Cell::text(format!("{place}{rest}")),
        Cell::text(case.reservation.to_string()),
        Cell::text(case.alignment()),
    ]
}

const NAMES: [(&str, &str); 3] = [("vCPUs on", ""), ("each in", ""), ("budgets", "")];

fn columns(own: &[(&str, &str)]) -> Vec<Column> {
    let all = NAMES.iter().chain(own);
    all.map(|(title, unit)| Column::new(title, unit)).collect()
}

fn lock_chapter(results: &Results) -> Chapter {
    let row = |ran: &Ran| {
        let (case, m) = (&ran.case, &ran.measured);
        let wait = case.longest_wait().map(|(wait, _)| wait);
        let mut row = names(case);
        row.extend([
            Cell::number(m.waits.count() as f64, 0),
            Cell::number(m.violations as f64, 0),
            Cell::number(m.spun_share * 100.0, 2),
            Cell::millis(m.spins.max(), 2),
            Cell::millis(case.most_spun(), 2),
            Cell::millis(m.waits.max(), 2),
            Cell::millis(wait, 2),
        ]);
        row
    };
    let own = [
        ("sections", ""),
        ("overlaps", ""),
        ("spun away", "% of CPU time"),
        ("most spun at once", "ms"),
        ("bound", "ms"),
        ("longest wait", "ms"),
        ("bound", "ms"),
    ];
    let mut prose = vec![
        "Spun away is processor time; a wait also counts the time in which the vCPU that waits was away itself. Overlaps are \
         critical sections that were not exclusive, by their times or by a counter that only they increment."
            .to_owned(),
    ];
    prose.extend(results.left_out.clone());
    Chapter {
        heading: "The lock".to_owned(),
        prose,
        tables: vec![Table {
            caption: "What waiting for the lock costs, and what theory allows.".to_owned(),
            columns: columns(&own),
            rows: results.ran.iter().map(row).collect(),
        }],
        figures: waits(results).into_iter().collect(),
    }
}

/// The waits of the runs with a CPU each and the reservation that shows most.
fn waits(results: &Results) -> Option<Figure> {
    let (aligned, _) = extremes(results)?;
    let same = |ran: &&Ran| {
        let (a, b) = (&aligned.case, &ran.case);
        (a.place, a.reservation, a.rest) == (b.place, b.reservation, b.rest)
    };
    let series = |ran: &Ran| Series {
        name: ran.case.alignment(),
        times: ran.measured.waits.clone(),
        deadline: None,
    };
    let bound = aligned.case.longest_wait()?.1;
    let plot = DistributionPlot {
        title: format!("Waiting for the lock in {}", aligned.case.reservation),
        quantity: "wait".to_owned(),
        shape: Shape::Complementary,
        time_axis: TimeAxis::Fitted,
        series: results.ran.iter().filter(same).map(series).collect(),
        marks: vec![Mark {
            at: bound,
            label: "bound if aligned".to_owned(),
            kind: FlagKind::Bound,
        }],
    };
    Some(plot.figure("waits", "Share of waits longer than the time on the axis."))
}

fn progress_chapter(results: &Results) -> Chapter {
    let row = |ran: &Ran| {
        let m = &ran.measured;
        let mut row = names(&ran.case);
        let (phase, share) = m
            .phase
            .map_or((Cell::Missing, Cell::Missing), |(phase, share)| {
                (Cell::millis(phase, 2), Cell::number(share * 100.0, 0))
            });
        row.extend([
            phase,
            share,
            Cell::millis(m.supply_apart, 2),
            Cell::number(m.progress_apart * 1e3, 1),
        ]);
        let of = |figures: &TaskFigures| {
            [
                Cell::millis(figures.responses.quantile(Quantile::P99), 2),
                Cell::millis(figures.responses.longest_measured(), 2),
                Cell::number(figures.misses as f64, 0),
            ]
        };
        row.extend(ran.tasks.iter().flat_map(of));
        row
    };
    let own = [
        ("begin apart", "ms"),
        ("so in", "% of periods"),
        ("supply apart in a period", "ms"),
        ("progress apart", "ms per s"),
        ("a: p99", "ms"),
        ("max", "ms"),
        ("missed", ""),
        ("b: p99", "ms"),
        ("max", "ms"),
        ("missed", ""),
    ];
    let shown = extremes(results).map_or_else(Vec::new, |(aligned, worst)| vec![aligned, worst]);
    let figure = |ran: &&Ran| {
        let caption = "Boxes: when a vCPU ran, and below that from when to when its task waited for the lock.";
        ran.timeline
            .figure(&format!("schedule-{}", ran.case.key), caption)
    };
    Chapter {
        heading: "Uneven progress and response times".to_owned(),
        prose: vec![
            "How much later the budgets of vCPU 1 begin than those of vCPU 0, as the guest's gaps show it; how far their \
             supplies come apart within a period (the middle one of all periods); and how far what they have done apart \
             from spinning has come apart at the end of the run. Response times are those of the tasks a on vCPU 0 and b \
             on vCPU 1."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: "Progress of the two vCPUs.".to_owned(),
            columns: columns(&own),
            rows: results.ran.iter().map(row).collect(),
        }],
        figures: shown.iter().map(figure).collect(),
    }
}

fn bound_chapter() -> Chapter {
    let prose = [
        "Waiting. The lock is a ticket lock and is asked for, held and given back without preemption in the guest, so of \
         every other vCPU at most one critical section of length s is ahead (Gai, Lipari and Di Natale, RTSS 2001). Its \
         server supplies s in no more than sbf\u{207b}\u{b9}(s): P - Q + s with a CPU of its own (Easwaran, Anand and Lee, RTSS 2007), \
         2 (P - Q) + s beside others (Shin and Lee, RTSS 2003). Then the lock is given, but the vCPU that waits may be away \
         itself, for another P - Q or 2 (P - Q); with aligned budgets on CPUs of their own it is not, as all are away \
         together.",
        "Spinning. Budgets with a CPU each are stretches of Q on a circle of P. Shifted by a phase f, the one that waits \
         runs while the holder is away for at most min(f, P - f, Q, P - Q): so much and s may be spun away for one section. \
         On one CPU it is the spinning itself that keeps the holder away, until the end of the spinner's budget at the \
         latest.",
        "A vCPU that sleeps begins a new period when it wakes, by the kernel's wake-up rule, so that budgets keep to the \
         common instants only in as far as the vCPUs are woken together.",
    ];
    Chapter {
        heading: "What theory allows".to_owned(),
        prose: prose.map(str::to_owned).to_vec(),
        ..Chapter::default()
    }
}

/// Some periods of the schedule, a lane per vCPU.
pub fn timeline(case: &Case, set: &TaskSet, events: &[Event]) -> TimelinePlot {
    let period = case.reservation.period();
    let sections: Vec<&Section> = events
        .iter()
        .filter_map(|event| match event {
            Event::Section(section) => Some(section),
            _ => None,
        })
        .collect();
    // Around the longest wait.
    let longest = sections.iter().max_by_key(|section| section.waited());
    let zero = longest.map_or(0, |section| section.asked);
    let from = Duration::from_nanos(zero).saturating_sub(period);
    let at = |time: u64| Duration::from_nanos(time).saturating_sub(from);
    let window = Span {
        from: Duration::ZERO,
        to: period * 4,
    };
    let lane = |name: String, stretches: Vec<(u64, u64)>| {
        let shown = |&(start, end): &(u64, u64)| {
            Duration::from_nanos(end) >= from && at(start) <= window.to
        };
        let span = |(start, end): (u64, u64)| Span {
            from: at(start),
            to: at(end),
        };
        Lane {
            name,
            releases: Vec::new(),
            deadlines: Vec::new(),
            executions: stretches.into_iter().filter(shown).map(span).collect(),
        }
    };
    let lanes = (0..VCPUS).flat_map(|vcpu| {
        let dark = super::measure::blackouts(set, events, vcpu);
        let begins = dark.iter().map(|stretch| stretch.1);
        let ends = dark.iter().map(|stretch| stretch.0).skip(1);
        let own = sections.iter().filter(|section| section.vcpu == vcpu);
        let waits = own.map(|section| (section.asked, section.got));
        [
            lane(format!("vCPU {vcpu} runs"), begins.zip(ends).collect()),
            lane("waits for lock".to_owned(), waits.collect()),
        ]
    });
    TimelinePlot {
        title: format!("Around the longest wait: {}", case.title()),
        window,
        lanes: lanes.collect(),
        blackouts: Vec::new(),
    }
}

fn raw(results: &Results) -> Value {
    let ms = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let run = |ran: &Ran| {
        let (case, m) = (&ran.case, &ran.measured);
        let wait = case.longest_wait();
        json!({
            "key": case.key,
            "aligned": case.is_aligned(),
            "reservation": case.reservation,
            "critical_ms": ms(Some(case.critical())),
            "sections": m.waits.count(),
            "overlaps": m.violations,
            "spun_share": m.spun_share,
            "longest_spin_ms": ms(m.spins.max()),
            "spin_bound_ms": ms(case.most_spun()),
            "longest_wait_ms": ms(m.waits.max()),
            "wait_bound_ms": ms(wait.map(|(wait, _)| wait)),
            "phase_ms": ms(m.phase.map(|(phase, _)| phase)),
            "phase_share": m.phase.map(|(_, share)| share),
            "supply_apart_ms": ms(m.supply_apart),
            "progress_apart": m.progress_apart,
            "tasks": ran.tasks.iter().map(TaskFigures::summary).collect::<Vec<_>>(),
        })
    };
    json!({
        "experiment": "lock-holder",
        "cpus": results.cpus,
        "promise": results.promise,
        "seconds_per_run": results.duration.as_secs_f64(),
        "left_out": results.left_out,
        "runs": results.ran.iter().map(run).collect::<Vec<_>>(),
    })
}

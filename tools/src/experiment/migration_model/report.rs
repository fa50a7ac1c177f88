//! The report of `migration-model`.

mod tables;

use serde_json::{Value, json};

use super::comparison::{Migration, RATES};
use super::figures::{HOLDS, MOST_AGAIN, MOST_OFF, Off, Order, WIDEST, coverage, median, off};
use super::inverse::{LESS, PROMISE};
use super::writer::Habit;
use super::{Examined, Results};
use crate::cli::ExperimentArgs;
use crate::report::table::{Cell, Column, Table};
use crate::report::{HostCheck, Report, Section};

/// All kinds of guests, in the order of tables and colours.
const HABITS: [Habit; 5] = [
    Habit::Uniform,
    Habit::Skewed,
    Habit::Sequential,
    Habit::Bursts,
    Habit::Phases,
];

/// The whole report.
pub fn report(results: &Results, args: &ExperimentArgs, host: Vec<HostCheck>) -> Report {
    Report {
        title: "What the model says of migrations, beside recorded guests".to_owned(),
        summary: summary(results),
        command_line: args.command_line("migration-model"),
        host,
        sections: vec![
            targets(results),
            tables::bounds(results),
            tables::agreement(results),
            tables::order(results),
            tables::inverse(results),
            tables::curves(results),
            tables::cost(results),
        ],
        jobs: Vec::new(),
        raw: raw(results),
    }
}

impl Results {
    /// All migrations.
    fn all(&self) -> Vec<&Migration> {
        let each = self.examined.iter();
        each.flat_map(|examined| &examined.migrations).collect()
    }

    /// Those of guests of a kind.
    fn of_habit(&self, habit: Habit) -> Vec<&Migration> {
        let each = self.examined.iter();
        let own = each.filter(|examined| examined.guest.habit == habit);
        own.flat_map(|examined| &examined.migrations).collect()
    }

    /// How far each steady guest's medians are off, at each rate.
    fn steady(&self, figure: fn(&Examined, usize) -> Option<Off>) -> Vec<f64> {
        let each = self.examined.iter();
        let steady = each.filter(|examined| examined.guest.habit.is_steady());
        let rates = steady.flat_map(|e| (0..RATES.len()).map(move |rate| figure(e, rate)));
        rates.flatten().map(|off| off.off).collect()
    }
}

impl Examined {
    fn at(&self, rate: usize) -> Vec<&Migration> {
        let each = self.migrations.iter();
        each.filter(|migration| migration.rate == rate).collect()
    }

    fn total_off(&self, rate: usize) -> Option<Off> {
        Some(off(&self.at(rate))?.total_s)
    }

    fn downtime_off(&self, rate: usize) -> Option<Off> {
        Some(off(&self.at(rate))?.downtime_ms)
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn summary(results: &Results) -> String {
    let course = results.course;
    let found = coverage(&results.all()).map_or_else(String::new, |coverage| {
        format!(
            "The bound of 95 % held for {} of {} totals and {} downtimes. ",
            coverage.total_s.held, coverage.total_s.migrations, coverage.downtime_ms.held
        )
    });
    let rates = RATES.map(|rate| rate.to_string());
    format!(
        "{} guests of rt-guest with a task that writes were run in reservations on CPU {}, and every page that they wrote was \
         recorded for {:.0} s. Each was then moved {} times at each of {}, in replay: predicted from the {:.0} s before, \
         as seen at a cost of {} of its time, and played over what it did then. {found}The reservations rest on {}.",
        results.examined.len(),
        results.cpu,
        course.length().as_secs_f64(),
        course.migrations,
        rates.join(", "),
        course.watched.as_secs_f64(),
        percent(super::comparison::WATCHING),
        results.promise,
    )
}

/// A target and what came of it.
fn target(what: &str, found: String, is_met: bool, target: String) -> Vec<Cell> {
    vec![
        Cell::text(what),
        Cell::text(found),
        Cell::judged(is_met, target),
    ]
}

fn targets(results: &Results) -> Section {
    let mut rows = vec![
        medians(
            "median of the total, guests that stay the same",
            &results.steady(Examined::total_off),
            MOST_OFF.0,
        ),
        medians(
            "median of the downtime, guests that stay the same",
            &results.steady(Examined::downtime_off),
            MOST_OFF.1,
        ),
    ];
    if let Some(coverage) = coverage(&results.all()) {
        for (what, found) in [
            ("95 % bound of the total, all guests", coverage.total_s),
            (
                "95 % bound of the downtime, all guests",
                coverage.downtime_ms,
            ),
        ] {
            rows.push(target(
                what,
                format!(
                    "held in {} of {}, median of bound / outcome {:.2}",
                    found.held, found.migrations, found.width
                ),
                found.is_right(),
                format!(
                    "in {} to {} of 100, ≤ {WIDEST}",
                    (HOLDS.0 * 100.0).round(),
                    HOLDS.1 * 100.0
                ),
            ));
        }
    }
    let order = Order::of(&results.of_habit(Habit::Skewed));
    if let Some(ratio) = order.ratio() {
        rows.push(target(
            "pages sent again by rate / by address, skewed guests",
            format!("{} / {} = {ratio:.2}", order.again, order.by_address),
            ratio <= MOST_AGAIN,
            format!("≤ {MOST_AGAIN}"),
        ));
    }
    rows.extend(promises(results));
    Section {
        heading: "What was to be reached".to_owned(),
        prose: Vec::new(),
        tables: vec![Table {
            caption: "Guests that stay the same write uniformly, skewed or in turn. Each median is over all migrations of one guest \
                      at one rate."
                .to_owned(),
            columns: vec![
                Column::new("figure", ""),
                Column::new("found", ""),
                Column::new("target", ""),
            ],
            rows,
        }],
        figures: Vec::new(),
    }
}

fn medians(what: &str, offs: &[f64], most: f64) -> Vec<Cell> {
    let within = offs.iter().filter(|off| off.abs() <= most).count();
    let worst = offs.iter().map(|off| off.abs()).fold(0.0, f64::max);
    let usual = median(offs.iter().map(|off| off.abs()).collect()).unwrap_or(0.0);
    target(
        what,
        format!(
            "off by {:.1} % in the median, {:.1} % at most; {within} of {} within",
            usual * 100.0,
            worst * 100.0,
            offs.len()
        ),
        within == offs.len(),
        format!("all within {}", percent(most)),
    )
}

/// Promises at the least rate, and below.
fn promises(results: &Results) -> Option<Vec<Cell>> {
    let kept: Vec<_> = results
        .examined
        .iter()
        .map(|examined| &examined.kept)
        .filter(|kept| kept.replays > 0)
        .collect();
    let mean = |of: fn(&&&super::Kept) -> f64| {
        kept.iter().map(|kept| of(&kept)).sum::<f64>() / kept.len().max(1) as f64
    };
    let (at, below) = (mean(|kept| kept.kept), mean(|kept| kept.kept_at_less));
    let confidence = PROMISE.confidence;
    (!kept.is_empty()).then(|| {
        target(
            "promises kept at the least rate that was found, all guests",
            format!(
                "{:.1} %; at {LESS} % of it {:.1} %",
                at * 100.0,
                below * 100.0
            ),
            at >= confidence && below < confidence,
            format!("≥ {}, and less below", percent(confidence)),
        )
    })
}

fn raw(results: &Results) -> Value {
    let rate = |examined: &Examined, rate: usize| {
        let own = examined.at(rate);
        let rounds: Vec<usize> = own.iter().map(|migration| migration.rounds).collect();
        json!({
            "rate_bit_s": RATES[rate].bits_per_second(),
            "off": off(&own),
            "coverage": coverage(&own),
            "order": Order::of(&own),
            "rounds": rounds,
        })
    };
    let guest = |examined: &Examined| {
        let rates: Vec<Value> = (0..RATES.len()).map(|at| rate(examined, at)).collect();
        json!({
            "key": examined.guest.key,
            "habit": examined.guest.habit.name(),
            "is_steady": examined.guest.habit.is_steady(),
            "writes_per_second": examined.guest.rate(),
            "pages": examined.pages,
            "rates": rates,
            "inverse": examined.kept,
            "dirty_curve": examined.curve,
            "cost": examined.cost,
        })
    };
    let guests: Vec<Value> = results.examined.iter().map(guest).collect();
    json!({
        "cpu": results.cpu,
        "promise": results.promise,
        "coverage": coverage(&results.all()),
        "order_of_skewed": Order::of(&results.of_habit(Habit::Skewed)),
        "guests": guests,
    })
}

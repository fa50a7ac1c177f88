//! The sections of the report: tables and figures.

use super::{Examined, HABITS, Migration, RATES, Results};
use crate::experiment::migration_model::figures::{
    Coverage, Figures, MOST_AGAIN, MOST_OFF, Off, Order, coverage, median, off,
};
use crate::experiment::migration_model::inverse::{LESS, PROMISE};
use crate::experiment::migration_model::recording::WINDOW;
use crate::experiment::migration_model::writer::Habit;
use crate::report::Section;
use crate::report::agreement_plot::{Agreement, AgreementPanel, AgreementPlot};
use crate::report::dirty_plot::{DirtyCurve, DirtyPanel, DirtyPlot};
use crate::report::order_plot::{OrderPlot, OrderRow};
use crate::report::table::{Cell, Column, Table};

fn columns(heads: &[(&str, &str)]) -> Vec<Column> {
    let column = |(title, unit): &(&str, &str)| Column::new(title, unit);
    heads.iter().map(column).collect()
}

fn count(count: u64) -> Cell {
    Cell::number(count as f64, 0)
}

fn kinds() -> Vec<String> {
    HABITS.map(|habit| habit.name().to_owned()).to_vec()
}

fn kind(habit: Habit) -> usize {
    HABITS.iter().position(|own| *own == habit).unwrap_or(0)
}

/// How often bounds held, by kind.
pub fn bounds(results: &Results) -> Section {
    let row = |name: &str, migrations: &[&Migration]| {
        let found = coverage(migrations)?;
        let both = |found: Coverage| [count(found.held as u64), Cell::number(found.width, 2)];
        let mut row = vec![Cell::text(name), count(found.total_s.migrations as u64)];
        row.extend(both(found.total_s));
        row.extend(both(found.downtime_ms));
        row.extend(both(found.mebibytes));
        Some(row)
    };
    let own = HABITS.map(|habit| row(habit.name(), &results.of_habit(habit)));
    let all = [row("all", &results.all())];
    Section {
        heading: "How often the bound held".to_owned(),
        prose: vec![
            "A migration is one guest, one rate and one instant at which it begins; what came of it has one luck of the path. A \
             bound that holds always is too wide."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: "Bounds of 95 %, and the median of bound over outcome.".to_owned(),
            columns: columns(&[
                ("guests", ""),
                ("migrations", ""),
                ("totals within", ""),
                ("bound / total", ""),
                ("downtimes within", ""),
                ("bound / downtime", ""),
                ("bytes within", ""),
                ("bound / bytes", ""),
            ]),
            rows: own.into_iter().chain(all).flatten().collect(),
        }],
        figures: Vec::new(),
    }
}

/// Medians predicted beside medians that came.
pub fn agreement(results: &Results) -> Section {
    let each = results.examined.iter();
    let rows = each.flat_map(|examined| (0..RATES.len()).map(|rate| agreement_row(examined, rate)));
    let panel = |name: &str, allowed, of: fn(&Examined, usize) -> Option<Off>, bound| {
        let each = results.examined.iter();
        let points =
            each.flat_map(|e| (0..RATES.len()).map(move |rate| point(e, rate, (of, bound))));
        AgreementPanel {
            name: format!("{name}, and within {:.0} % of it", allowed * 100.0),
            allowed,
            points: points.flatten().collect(),
        }
    };
    let plot = AgreementPlot {
        title: "Predicted and replayed, medians".to_owned(),
        kinds: kinds(),
        panels: vec![
            panel("total time (s)", MOST_OFF.0, Examined::total_off, |m| {
                m.foretold.total_s.bound
            }),
            panel("downtime (ms)", MOST_OFF.1, Examined::downtime_off, |m| {
                m.foretold.downtime_ms.bound
            }),
        ],
    };
    Section {
        heading: "Prediction beside outcome".to_owned(),
        prose: Vec::new(),
        tables: vec![Table {
            caption: "Medians over all migrations of a guest at a rate.".to_owned(),
            columns: columns(&[
                ("guest", ""),
                ("writes", ""),
                ("link", ""),
                ("total predicted", "s"),
                ("came", "s"),
                ("off", "%"),
                ("downtime predicted", "ms"),
                ("came", "ms"),
                ("off", "%"),
                ("sent, off", "%"),
                ("within", ""),
            ]),
            rows: rows.flatten().collect(),
        }],
        figures: vec![plot.figure(
            "agreement",
            "One dot for each guest and rate; dotted lines go up to the bound of 95 %.",
        )],
    }
}

fn agreement_row(examined: &Examined, rate: usize) -> Option<Vec<Cell>> {
    let Figures {
        total_s,
        downtime_ms,
        mebibytes,
    } = off(&examined.at(rate))?;
    let percent = |off: Off| Cell::number(off.off * 100.0, 1);
    let is_within = total_s.off.abs() <= MOST_OFF.0 && downtime_ms.off.abs() <= MOST_OFF.1;
    let judged = match examined.guest.habit.is_steady() {
        true => Cell::judged(is_within, "10 %, 20 %"),
        false => Cell::Missing,
    };
    Some(vec![
        Cell::text(examined.guest.key),
        Cell::text(examined.guest.habit.name()),
        Cell::text(RATES[rate].to_string()),
        Cell::number(total_s.predicted, 3),
        Cell::number(total_s.came, 3),
        percent(total_s),
        Cell::number(downtime_ms.predicted, 2),
        Cell::number(downtime_ms.came, 2),
        percent(downtime_ms),
        percent(mebibytes),
        judged,
    ])
}

type Figure = fn(&Examined, usize) -> Option<Off>;
type Bound = fn(&Migration) -> f64;

fn point(examined: &Examined, rate: usize, (of, bound): (Figure, Bound)) -> Option<Agreement> {
    let off = of(examined, rate)?;
    let bounds = examined.at(rate).into_iter().map(bound);
    Some(Agreement {
        name: format!("{}, {}", examined.guest.key, RATES[rate]),
        kind: kind(examined.guest.habit),
        came: off.came,
        predicted: off.predicted,
        bound: median(bounds.collect())?,
    })
}

/// Pages sent again by the model's order and by addresses.
pub fn order(results: &Results) -> Section {
    let row = |examined: &Examined| {
        let rates = (0..RATES.len()).map(|rate| Order::of(&examined.at(rate)));
        let ratio = |order: Order| {
            let ratio = order.ratio();
            ratio.map_or(Cell::Missing, |ratio| Cell::number(ratio, 2))
        };
        let all = Order::of(&examined.migrations.iter().collect::<Vec<_>>());
        let mut row = vec![
            Cell::text(examined.guest.key),
            Cell::text(examined.guest.habit.name()),
            count(all.again),
            count(all.by_address),
        ];
        row.extend(rates.map(ratio));
        row.push(ratio(all));
        row.push(match (examined.guest.habit, all.ratio()) {
            (Habit::Skewed, Some(ratio)) => {
                Cell::judged(ratio <= MOST_AGAIN, format!("≤ {MOST_AGAIN}"))
            }
            _ => Cell::Missing,
        });
        row
    };
    let bar = |examined: &Examined| {
        let all = Order::of(&examined.migrations.iter().collect::<Vec<_>>());
        OrderRow {
            name: examined.guest.key.to_owned(),
            kind: kind(examined.guest.habit),
            again: (all.again, all.by_address),
        }
    };
    let plot = OrderPlot {
        title: "What the order of pages saves".to_owned(),
        target: MOST_AGAIN,
        kinds: kinds(),
        rows: results.examined.iter().map(bar).collect(),
    };
    let mut heads = vec![
        ("guest".to_owned(), ""),
        ("writes".to_owned(), ""),
        ("by rate".to_owned(), "pages"),
        ("by address".to_owned(), "pages"),
    ];
    heads.extend(RATES.map(|rate| (rate.to_string(), "")));
    heads.extend([("all".to_owned(), ""), ("target".to_owned(), "")]);
    Section {
        heading: "Order of pages".to_owned(),
        prose: vec![
            "Pages that are written least come first, and those that would be dirty again wait. Pages sent more than once, \
             those while the guest stands still among them, beside the same migrations by address. Where all pages are \
             written equally often, or others soon, there is nothing to gain."
                .to_owned(),
        ],
        tables: vec![Table {
            caption: "Pages sent again, and by rate over by address at each rate of the link.".to_owned(),
            columns: heads
                .iter()
                .map(|(title, unit)| Column::new(title, unit))
                .collect(),
            rows: results.examined.iter().map(row).collect(),
        }],
        figures: vec![plot.figure("order", "Left of the dashed line is the target.")],
    }
}

/// The least rates, and what came of promises at them.
pub fn inverse(results: &Results) -> Section {
    let row = |examined: &Examined| {
        let kept = &examined.kept;
        let share = |share: f64| match kept.rate {
            Some(_) => Cell::number(share * 100.0, 1),
            None => Cell::Missing,
        };
        let rate = kept.rate.map(|rate| Cell::number(rate as f64 / 1e6, 1));
        let why = kept.impossible.as_deref().map(Cell::text);
        vec![
            Cell::text(examined.guest.key),
            Cell::text(examined.guest.habit.name()),
            rate.unwrap_or(Cell::Missing),
            share(kept.kept),
            share(kept.kept_at_less),
            why.unwrap_or(Cell::Missing),
        ]
    };
    let less = format!("kept at {LESS} % of it");
    Section {
        heading: "The least rate of a promise".to_owned(),
        prose: vec![format!(
            "Promised is a downtime of {} ms and an end after {} s, together with a probability of {:.0} %. The rate is found from \
             what is known of the guest before the first migration, and all its migrations are replayed at it.",
            PROMISE.downtime.as_millis(),
            PROMISE.finish.as_secs(),
            PROMISE.confidence * 100.0
        )],
        tables: vec![Table {
            caption: "The least rate found, and how many of the migrations kept the promise."
                .to_owned(),
            columns: columns(&[
                ("guest", ""),
                ("writes", ""),
                ("rate", "Mbit/s"),
                ("kept at it", "%"),
                (&less, "%"),
                ("refused", ""),
            ]),
            rows: results.examined.iter().map(row).collect(),
        }],
        figures: Vec::new(),
    }
}

/// Different pages within a time.
pub fn curves(results: &Results) -> Section {
    let curve = |examined: &Examined| DirtyCurve {
        name: examined.guest.key.to_owned(),
        points: examined
            .curve
            .iter()
            .map(|within| (within.seconds, within.predicted, within.written))
            .collect(),
    };
    let panel = |habit: Habit| {
        let each = results.examined.iter();
        let own = each.filter(|examined| examined.guest.habit == habit);
        DirtyPanel {
            name: habit.name().to_owned(),
            curves: own.map(curve).collect(),
        }
    };
    let plot = DirtyPlot {
        title: "Pages written at least once within a time".to_owned(),
        panels: HABITS.map(panel).to_vec(),
    };
    Section {
        heading: "Dirty curves".to_owned(),
        prose: Vec::new(),
        tables: Vec::new(),
        figures: vec![plot.figure(
            "dirty-curves",
            "Lines: as predicted from what was seen before the first migration. Dots: means over the rest of the recording.",
        )],
    }
}

/// What recording took.
pub fn cost(results: &Results) -> Section {
    let row = |examined: &Examined| {
        let cost = &examined.cost;
        vec![
            Cell::text(examined.guest.key),
            Cell::number(examined.guest.rate(), 0),
            Cell::number(cost.windows as f64 / cost.seconds.max(1e-3), 0),
            Cell::number(cost.longest_window_ms, 1),
            Cell::number(cost.fault_rate(), 0),
            Cell::number(cost.busy_before * 100.0, 1),
            Cell::number(cost.busy_meanwhile * 100.0, 1),
            Cell::number(cost.per_fault_us(), 1),
            Cell::number(cost.recorder * 100.0, 1),
            Cell::number(cost.look_ms, 3),
            Cell::number(cost.longest_look_ms, 1),
            count(cost.misses.1),
        ]
    };
    Section {
        heading: "What recording took".to_owned(),
        prose: vec![format!(
            "Windows of {} ms, whatever they cost. A page that is written in a window costs the guest a fault. Per fault is what \
             the guest's vCPU used more than before, over the number of faults: the exits for clearing the log are in it, so that \
             it is too much where little is written.",
            WINDOW.as_millis()
        )],
        tables: vec![Table {
            caption: "The guest's CPU time before and meanwhile, and the recorder's.".to_owned(),
            columns: columns(&[
                ("guest", ""),
                ("writes", "/s"),
                ("windows", "/s"),
                ("longest", "ms"),
                ("faults", "/s"),
                ("CPU before", "%"),
                ("CPU meanwhile", "%"),
                ("per fault", "us"),
                ("recorder", "%"),
                ("log read", "ms"),
                ("at most", "ms"),
                ("late jobs", ""),
            ]),
            rows: results.examined.iter().map(row).collect(),
        }],
        figures: Vec::new(),
    }
}

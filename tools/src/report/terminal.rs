//! Reports on a terminal: distributions as strips of characters, and tables.
//!
//! All functions return text. Where characters beyond ASCII cannot be trusted, they do without.

use std::env;
use std::io::IsTerminal;
use std::time::Duration;

use console::{Term, measure_text_width, truncate_str};

use super::axis::{TimeUnit, measured_label, percent, short_number};
use super::distribution_plot::Series;
use super::stats::Quantile;
use super::table::{Cell, Table, Verdict};

/// What the terminal can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Screen {
    /// Columns.
    pub width: usize,
    /// Characters beyond ASCII are shown as meant.
    pub unicode: bool,
    /// Colours may be used.
    pub colour: bool,
}

impl Screen {
    /// What standard output is. Away from a terminal: 100 columns of plain ASCII.
    pub fn of_stdout() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        let width = if is_terminal {
            usize::from(Term::stdout().size().1)
        } else {
            100
        };
        let is_dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        Self {
            width: width.clamp(40, 160),
            unicode: is_terminal && locale_is_utf8(|name| env::var(name).ok()),
            colour: is_terminal && !is_dumb && env::var_os("NO_COLOR").is_none(),
        }
    }

    fn paint(self, code: &str, text: &str) -> String {
        match self.colour && !text.is_empty() && code != "0" {
            true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
            false => text.to_owned(),
        }
    }

    /// The text without characters beyond ASCII if need be, without control characters in any case.
    fn plain(self, text: &str) -> String {
        let swap = |c: char| match c {
            c if c.is_control() => "?".to_owned(),
            c if self.unicode || c.is_ascii() => c.to_string(),
            '−' | '–' => "-".to_owned(),
            '✓' => "ok".to_owned(),
            '✗' => "X".to_owned(),
            '≤' => "<=".to_owned(),
            '≥' => ">=".to_owned(),
            '±' => "+-".to_owned(),
            'µ' => "u".to_owned(),
            '∞' => "inf".to_owned(),
            '→' => ">".to_owned(),
            'τ' => "t".to_owned(),
            '×' => "x".to_owned(),
            '\u{a0}' => " ".to_owned(),
            _ => "?".to_owned(),
        };
        text.chars().map(swap).collect()
    }
}

/// POSIX order: the first of these that is set and not empty decides (POSIX.1-2017, 8.2).
fn locale_is_utf8(variable: impl Fn(&str) -> Option<String>) -> bool {
    let decides = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .filter_map(variable)
        .find(|value| !value.is_empty());
    decides.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// Distributions as strips over one time axis: the denser, the taller; the deadline a bar; what missed it in red.
///
/// Heights go with the square root of the count and any count shows, so that a single late job is seen.
pub fn distribution_chart(series: &[Series], screen: Screen) -> String {
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
    let names =
        widest(&mut series.iter().map(|s| measure_text_width(&s.name))).min(screen.width / 3);
    let facts: Vec<_> = series.iter().map(|s| facts(s, screen)).collect();
    let facts_width = widest(&mut facts.iter().map(|f| measure_text_width(f)));
    // The numbers stand beside the strip where there is room, below it otherwise.
    let beside = screen.width.saturating_sub(names + facts_width + 4);
    let is_beside = beside >= 30;
    let below = screen.width.saturating_sub(names + 2).max(10);
    let cells = if is_beside { beside.min(72) } else { below };
    let indent = (names + 2).min(screen.width.saturating_sub(facts_width));
    let (end, is_cut) = chart_end(series);
    let mut out = String::new();
    for (one, facts) in series.iter().zip(&facts) {
        let name = padded(&screen.plain(&one.name), names);
        let strip = strip(one, (end, cells), screen);
        let lines = match is_beside {
            true => vec![format!("{name}  {strip}  {facts}")],
            false => vec![format!("{name}  {strip}"), format!("{:indent$}{facts}", "")],
        };
        out.extend(lines.iter().map(|line| cut(line, screen) + "\n"));
    }
    let more = if is_cut { " →" } else { "" };
    let scale = format!("{:names$}  {}", "", scale((end, more), cells, screen));
    out + &cut(&scale, screen) + "\n"
}

/// Where the time axis ends, and whether measured times lie beyond. One job that took seconds does not press all
/// others into the first cell.
fn chart_end(series: &[Series]) -> (Duration, bool) {
    let longest = series
        .iter()
        .filter_map(|s| s.times.longest_measured())
        .max()
        .unwrap_or_default();
    let deadline = series.iter().filter_map(|s| s.deadline).max();
    let whole = longest
        .max(deadline.unwrap_or_default())
        .mul_f64(1.05)
        .max(Duration::from_micros(1));
    let end = deadline.map_or(whole, |deadline| {
        whole.min(deadline * 2).max(Duration::from_micros(1))
    });
    (end, longest > end)
}

fn cut(line: &str, screen: Screen) -> String {
    truncate_str(line, screen.width, "").into_owned()
}

fn facts(series: &Series, screen: Screen) -> String {
    let times = &series.times;
    let absent = if times.unfinished() > 0 { "∞" } else { "–" };
    let label = |value: Option<Duration>| value.map_or_else(|| absent.to_owned(), measured_label);
    let (median, max) = (label(times.quantile(Quantile::MEDIAN)), label(times.max()));
    let plain = screen.plain(&format!("median {median:>8}  max {max:>8}"));
    let Some(deadline) = series.deadline else {
        return plain;
    };
    let (colour, verdict) = match times.beyond(deadline) {
        0 => ("32", "✓ none missed".to_owned()),
        missed => {
            let share = percent(missed as f64 / times.count() as f64);
            (
                "31",
                format!("✗ {missed} of {} missed ({share})", times.count()),
            )
        }
    };
    format!("{plain}  {}", screen.paint(colour, &screen.plain(&verdict)))
}

/// One line: what met the deadline, the deadline's bar, what missed it.
fn strip(series: &Series, (end, cells): (Duration, usize), screen: Screen) -> String {
    let levels = if screen.unicode {
        " ▁▂▃▄▅▆▇█"
    } else {
        " .:-=+*#@"
    };
    let levels: Vec<char> = levels.chars().collect();
    // The bar takes a place of its own; a strip without one is filled up to the same width.
    let cells = cells - 1;
    let counts = histogram(series, end, cells);
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let text = |counts: &[usize]| -> String {
        counts
            .iter()
            .map(|c| levels[level(*c, most, levels.len() - 1)])
            .collect()
    };
    let Some(deadline) = series.deadline else {
        return screen.paint("36", &format!("{} ", text(&counts)));
    };
    let (met, missed) = counts.split_at(first_missing_cell(deadline, end, cells));
    let bar = if screen.unicode { "│" } else { "|" };
    [
        ("36", text(met)),
        ("1", bar.to_owned()),
        ("31", text(missed)),
    ]
    .map(|(colour, text)| screen.paint(colour, &text))
    .concat()
}

/// The least level whose square, scaled, covers the count; zero only for none.
fn level(count: usize, most: usize, levels: usize) -> usize {
    (0..levels)
        .find(|l| l * l * most >= count * levels * levels)
        .unwrap_or(levels)
}

/// Counts per cell; misses and the others never share one.
fn histogram(series: &Series, end: Duration, cells: usize) -> Vec<usize> {
    let mut counts = vec![0; cells];
    let mut before = 0;
    for step in series.times.steps(usize::MAX) {
        let cell = cell_of(step.value, end, cells);
        let cell = match series.deadline {
            Some(deadline) if step.value > deadline => {
                cell.max(first_missing_cell(deadline, end, cells))
            }
            Some(deadline) => cell.min(first_missing_cell(deadline, end, cells) - 1),
            None => cell,
        };
        counts[cell] += step.at_or_below - before;
        before = step.at_or_below;
    }
    // What never finished is at the far end.
    if let Some(last) = counts.last_mut() {
        *last += series.times.unfinished();
    }
    counts
}

/// The cell right of the deadline's bar; at least one cell is left of it and one right of it.
fn first_missing_cell(deadline: Duration, end: Duration, cells: usize) -> usize {
    (cell_of(deadline, end, cells) + 1).clamp(1, cells.max(2) - 1)
}

fn cell_of(value: Duration, end: Duration, cells: usize) -> usize {
    let cell = value.as_nanos() * cells as u128 / end.as_nanos().max(1);
    usize::try_from(cell)
        .unwrap_or(usize::MAX)
        .min(cells.saturating_sub(1))
}

fn scale((end, more): (Duration, &str), cells: usize, screen: Screen) -> String {
    let unit = TimeUnit::for_axis(end);
    let quarters = if cells >= 48 { 4 } else { 2 };
    let step = cells / quarters;
    let tick = if screen.unicode { "╵" } else { "'" };
    let decimals = if unit.of(end) < 10.0 { 2 } else { 0 };
    let label = |quarter: usize| {
        let value = unit.of(end) * (quarter * step) as f64 / cells as f64;
        padded(&format!("{tick}{}", short_number(value, decimals)), step)
    };
    let labels: String = (0..quarters).map(label).collect();
    let labels = format!("{} {}{more}", labels.trim_end(), unit.symbol());
    let labels = if screen.unicode {
        labels
    } else {
        screen.plain(&labels)
    };
    screen.paint("2", &labels)
}

/// The table as text, its columns aligned; a table wider than the screen has its words shortened.
pub fn table(table: &Table, screen: Screen) -> String {
    let heads: Vec<_> = table
        .columns
        .iter()
        .map(|c| screen.plain(&c.head()))
        .collect();
    let columns: Vec<Vec<_>> = (0..heads.len())
        .map(|c| {
            table
                .column_texts(c, (' ', ' '))
                .iter()
                .map(|text| screen.plain(text))
                .collect()
        })
        .collect();
    let width_of = |c: usize| {
        columns[c]
            .iter()
            .chain([&heads[c]])
            .map(|t| measure_text_width(t))
            .max()
            .unwrap_or(0)
    };
    let mut widths: Vec<_> = (0..heads.len()).map(width_of).collect();
    shrink(&mut widths, table, screen.width);
    let rule = if screen.unicode { "─" } else { "-" };
    let line = |cells: &mut dyn Iterator<Item = String>| {
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    let mut out = String::new();
    if !table.caption.is_empty() {
        out.push_str(&format!("{}\n", screen.plain(&table.caption)));
    }
    out.push_str(
        &screen.paint(
            "1",
            &line(
                &mut (0..heads.len())
                    .map(|c| aligned(&heads[c], widths[c], table.is_numeric(c), screen)),
            ),
        ),
    );
    out.push_str(&line(&mut widths.iter().map(|w| rule.repeat(*w))));
    for (index, row) in table.rows.iter().enumerate() {
        let cell = |c: usize| {
            screen.paint(
                colour(row.get(c)),
                &aligned(&columns[c][index], widths[c], table.is_numeric(c), screen),
            )
        };
        out.push_str(&line(&mut (0..heads.len()).map(cell)));
    }
    out
}

/// Takes width from the widest columns of words until the table fits; numbers are never cut.
fn shrink(widths: &mut [usize], table: &Table, limit: usize) {
    let total =
        |widths: &[usize]| widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1);
    while total(widths) > limit {
        let words = (0..widths.len()).filter(|c| !table.is_numeric(*c) && widths[*c] > 8);
        let Some(widest) = words.max_by_key(|c| widths[*c]) else {
            return;
        };
        widths[widest] -= 1;
    }
}

fn aligned(text: &str, width: usize, is_numeric: bool, screen: Screen) -> String {
    let tail = if screen.unicode { "…" } else { "~" };
    let text = truncate_str(text, width, tail);
    let fill = " ".repeat(width.saturating_sub(measure_text_width(&text)));
    if is_numeric {
        format!("{fill}{text}")
    } else {
        format!("{text}{fill}")
    }
}

fn padded(text: &str, width: usize) -> String {
    aligned(
        text,
        width,
        false,
        Screen {
            width,
            unicode: false,
            colour: false,
        },
    )
}

fn colour(cell: Option<&Cell>) -> &'static str {
    match cell {
        Some(Cell::Verdict {
            verdict: Verdict::Met,
            ..
        }) => "32",
        Some(Cell::Verdict {
            verdict: Verdict::Missed,
            ..
        }) => "31",
        _ => "0",
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::Column;
    use super::*;
    use proptest::prelude::*;

    const ASCII: Screen = Screen {
        width: 100,
        unicode: false,
        colour: false,
    };
    const RICH: Screen = Screen {
        width: 100,
        unicode: true,
        colour: true,
    };

    fn series(name: &str, millis: &[u64]) -> Series {
        Series {
            name: name.to_owned(),
            times: millis.iter().map(|v| Duration::from_millis(*v)).collect(),
            deadline: Some(Duration::from_millis(150)),
        }
    }

    #[test]
    fn a_single_late_job_among_many_is_seen_and_counted() {
        let mut times = vec![30; 5000];
        times.push(400);
        let chart = distribution_chart(&[series("t1", &times)], ASCII);
        let strip = chart.lines().next().unwrap();
        assert!(
            strip.contains('@') && strip.contains("|") && strip.contains('.'),
            "{chart}"
        );
        assert!(chart.contains("1 of 5001 missed"), "{chart}");
    }

    #[test]
    fn without_unicode_and_colour_everything_is_plain_ascii() {
        let chart = distribution_chart(
            &[
                series("τ1 \u{1b}[31m", &[30, 31, 180]),
                series("kept", &[1]),
            ],
            ASCII,
        );
        assert!(chart.is_ascii() && !chart.contains('\u{1b}'), "{chart}");
    }

    #[test]
    fn an_empty_series_is_drawn_as_an_empty_strip() {
        let chart = distribution_chart(&[series("none", &[])], RICH);
        assert!(chart.contains("none") && chart.contains('│'));
    }

    #[test]
    fn the_locale_that_counts_is_the_first_one_set() {
        let with = |all: &'static str, lang: &'static str| {
            move |name: &str| match name {
                "LC_ALL" => Some(all.to_owned()),
                "LANG" => Some(lang.to_owned()),
                _ => None,
            }
        };
        assert!(locale_is_utf8(with("", "en_GB.UTF-8")));
        assert!(!locale_is_utf8(with("C", "en_GB.UTF-8")));
        assert!(!locale_is_utf8(|_| None));
    }

    #[test]
    fn table_columns_line_up() {
        let data = Table {
            caption: "Response times".to_owned(),
            columns: vec![
                Column::new("scenario", ""),
                Column::new("max", "ms"),
                Column::new("target", ""),
            ],
            rows: vec![
                vec![
                    Cell::text("ordinary"),
                    Cell::number(1180.25, 2),
                    Cell::judged(false, "≤ 1"),
                ],
                vec![
                    Cell::text("reserved"),
                    Cell::number(30.4, 1),
                    Cell::judged(true, "≤ 1"),
                ],
            ],
        };
        let text = table(&data, ASCII);
        let points: Vec<_> = text
            .lines()
            .skip(3)
            .map(|line| line.find('.').unwrap())
            .collect();
        assert_eq!(points[0], points[1], "{text}");
        assert!(text.is_ascii() && text.contains("X <= 1"));
    }

    proptest! {
        #[test]
        fn no_line_is_wider_than_the_screen(width in 60usize..160, times in prop::collection::vec(0u64..100_000, 0..50), unicode: bool) {
            let screen = Screen { width, unicode, colour: true };
            let chart = distribution_chart(&[series("task with a rather long name", &times), series("b", &[3])], screen);
            for line in chart.lines() {
                prop_assert!(measure_text_width(line) <= width, "{} > {width}: {line}", measure_text_width(line));
            }
        }

        #[test]
        fn every_sample_is_in_the_histogram_on_its_side_of_the_deadline(millis in prop::collection::vec(0u64..500, 0..80), cells in 2usize..60) {
            let mut one = series("t1", &millis);
            one.times = one.times.with_unfinished(2);
            let (end, deadline) = (Duration::from_millis(300), Duration::from_millis(150));
            let counts = histogram(&one, end, cells);
            let missed: usize = counts[first_missing_cell(deadline, end, cells)..].iter().sum();
            prop_assert_eq!(missed, one.times.beyond(deadline));
            prop_assert_eq!(counts.iter().sum::<usize>(), one.times.count());
        }

        #[test]
        fn any_count_shows_and_the_greatest_is_tallest(count in 1usize..10_000, more in 0usize..10_000) {
            prop_assert!(level(count, count + more, 8) >= 1);
            prop_assert_eq!(level(count + more, count + more, 8), 8);
        }
    }
}

//! The key below a plot of distributions: each curve's stroke and name, and its numbers in columns.

use std::time::Duration;

use super::axis::{measured_label, percent, short_number};
use super::distribution_plot::{DistributionPlot, Series, Shape};
use super::stats::Quantile;
use super::svg::{Anchor, At, Drawing, SERIES_COLOURS, fitted};

/// Height of a line of the key.
pub const KEY_ROW: f64 = 21.0;

/// Where the key stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyPlace {
    /// Where the strokes begin.
    pub left: f64,
    /// Where the last column ends.
    pub right: f64,
    /// The baseline of the heads.
    pub top: f64,
}

/// Draws the key of `plot`; the column of misses only if a series has a deadline.
pub fn draw_key(drawing: &mut Drawing, plot: &DistributionPlot, place: KeyPlace) {
    let (far_head, far) = match plot.shape {
        Shape::Cumulative => ("p99", Quantile::P99),
        Shape::Complementary => ("p99.9", Quantile::P999),
    };
    let has_deadline = plot.series.iter().any(|s| s.deadline.is_some());
    let ends = [346.0, 276.0, 206.0, 126.0, 0.0].map(|from_right| place.right - from_right);
    let columns = &ends[..if has_deadline { 5 } else { 4 }];
    let heads = ["count", "median", far_head, "max", "missed"];
    for (x, head) in columns.iter().zip(heads) {
        drawing.text("muted small", At(*x, place.top), (Anchor::End, head));
    }
    for (index, series) in plot.series.iter().enumerate() {
        let y = place.top + KEY_ROW * (index as f64 + 1.0);
        let dash = if index % 2 == 1 { " dashed" } else { "" };
        let class = format!("curve s{}{dash}", index % SERIES_COLOURS);
        drawing.line(
            &class,
            At(place.left, y - 4.0),
            At(place.left + 26.0, y - 4.0),
        );
        let name = fitted(&series.name, 12.0, 250.0);
        drawing.text("", At(place.left + 34.0, y), (Anchor::Start, &name));
        for (x, cell) in columns.iter().zip(cells(series, far)) {
            drawing.text("small", At(*x, y), (Anchor::End, &cell));
        }
    }
}

fn cells(series: &Series, far: Quantile) -> [String; 5] {
    let times = &series.times;
    let label = |value: Option<Duration>| value.map_or_else(|| "–".to_owned(), measured_label);
    let far_value = match times.quantile(far) {
        None if times.unfinished() > 0 => "∞".to_owned(),
        value => label(value),
    };
    let longest = match times.unfinished() {
        0 => label(times.max()),
        _ => "unfinished".to_owned(),
    };
    let missed =
        series
            .deadline
            .map_or_else(String::new, |deadline| match times.beyond(deadline) {
                0 => "0".to_owned(),
                missed => format!(
                    "{missed} ({})",
                    percent(missed as f64 / times.count() as f64)
                ),
            });
    [
        short_number(times.count() as f64, 0),
        label(times.quantile(Quantile::MEDIAN)),
        far_value,
        longest,
        missed,
    ]
}

//! Distributions of measured times: cumulative (response times) and complementary with a logarithmic scale (gaps).
//!
//! What lies beyond a series' deadline is shaded in its colour, and the key below the plot carries the numbers.

use std::time::Duration;

use super::Figure;
use super::axis::{Axis, Spread, TimeUnit, percent, time_label};
use super::distribution_key::{KEY_ROW, KeyPlace, draw_key};
use super::flags::{Flag, FlagKind, draw_flags, lanes_needed};
use super::stats::{Distribution, Step};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted};

const WIDTH: f64 = 760.0;
const LEFT: f64 = 62.0;
const RIGHT: f64 = 24.0;
/// Room at the right edge for the share that lies beyond it.
const BEYOND: f64 = 98.0;
const PLOT_HEIGHT: f64 = 270.0;
const LANE: f64 = 17.0;
/// Corners drawn per curve: more than there are pixels, few enough that a report opens at once.
const CORNERS: usize = 1200;

/// What the vertical axis says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The share of measurements at or below x, on a linear scale.
    Cumulative,
    /// The share of measurements above x, on a logarithmic scale, which shows rare long values.
    Complementary,
}

/// How the time axis is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeAxis {
    /// From `from` to `to`; what lies outside is cut off and counted at the edge.
    Linear {
        /// Left end.
        from: Duration,
        /// Right end.
        to: Duration,
    },
    /// From zero to a little beyond the longest value.
    Fitted,
    /// Logarithmic, fitted to the values.
    Log,
}

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What the key calls it.
    pub name: String,
    /// The measured times.
    pub times: Distribution,
    /// Times above it are misses.
    pub deadline: Option<Duration>,
}

/// A value to compare with, marked above the plot.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Where it stands.
    pub at: Duration,
    /// What it is.
    pub label: String,
    /// How it is drawn.
    pub kind: FlagKind,
}

/// A plot of one or more distributions.
#[derive(Clone, Debug, PartialEq)]
pub struct DistributionPlot {
    /// One line above the plot.
    pub title: String,
    /// What is distributed: "response time", "gap".
    pub quantity: String,
    /// The vertical axis.
    pub shape: Shape,
    /// The horizontal axis.
    pub time_axis: TimeAxis,
    /// The curves; colours follow their order.
    pub series: Vec<Series>,
    /// Bounds and published values to compare with.
    pub marks: Vec<Mark>,
}

/// A plot with everything laid out.
struct Layout<'a> {
    plot: &'a DistributionPlot,
    unit: TimeUnit,
    x: Axis,
    y: Axis,
    flags: Vec<Flag>,
    top: f64,
    bottom: f64,
}

impl DistributionPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let layout = self.layout();
        let height = layout.bottom + 52.0 + KEY_ROW * (self.series.len() as f64 + 1.0) + 8.0;
        let mut drawing = Drawing::new(&self.title, WIDTH, height);
        drawing.text(
            "title",
            At(LEFT, 22.0),
            (
                Anchor::Start,
                &fitted(&self.title, 15.0, WIDTH - LEFT - RIGHT),
            ),
        );
        drawing.text(
            "muted small",
            At(LEFT, 40.0),
            (Anchor::Start, &self.vertical_label()),
        );
        layout.draw_axes(&mut drawing);
        draw_flags(&mut drawing, &layout.flags, (layout.top, layout.bottom));
        layout.draw_curves(&mut drawing);
        draw_key(
            &mut drawing,
            self,
            KeyPlace {
                left: LEFT,
                right: WIDTH - RIGHT,
                top: layout.bottom + 62.0,
            },
        );
        Figure::new(name, caption, drawing)
    }

    fn vertical_label(&self) -> String {
        match self.shape {
            Shape::Cumulative => format!("share with {} ≤ x", self.quantity),
            Shape::Complementary => format!("share with {} > x (log scale)", self.quantity),
        }
    }

    fn layout(&self) -> Layout<'_> {
        let (from, to) = self.time_range();
        let unit = TimeUnit::for_axis(to);
        let spread = if self.time_axis == TimeAxis::Log {
            Spread::Log
        } else {
            Spread::Linear
        };
        let is_cut = self.series.iter().any(|s| s.times.beyond(to) > 0);
        let right = WIDTH - if is_cut { BEYOND } else { RIGHT };
        let x = Axis {
            spread,
            values: (unit.of(from), unit.of(to)),
            positions: (LEFT, right),
        };
        let mut flags = self.flags(x, unit);
        let lanes = lanes_needed(&mut flags, (LEFT, right));
        let top = 52.0 + LANE * lanes as f64;
        let bottom = top + PLOT_HEIGHT;
        let y = self.vertical_axis((bottom, top));
        Layout {
            plot: self,
            unit,
            x,
            y,
            flags,
            top,
            bottom,
        }
    }

    fn time_range(&self) -> (Duration, Duration) {
        let values = self
            .series
            .iter()
            .flat_map(|s| [s.times.longest_measured(), s.deadline])
            .flatten();
        let longest = values
            .chain(self.marks.iter().map(|m| m.at))
            .max()
            .unwrap_or(Duration::from_millis(1));
        let longest = longest.max(Duration::from_nanos(100));
        let shortest = self
            .series
            .iter()
            .filter_map(|s| s.times.min())
            .chain(self.marks.iter().map(|m| m.at))
            .min();
        match self.time_axis {
            TimeAxis::Linear { from, to } => (from, to.max(from + Duration::from_nanos(100))),
            TimeAxis::Fitted => (Duration::ZERO, longest.mul_f64(1.04)),
            TimeAxis::Log => {
                let from = shortest
                    .unwrap_or(longest)
                    .max(Duration::from_nanos(10))
                    .mul_f64(0.8);
                (from, longest.mul_f64(1.25).max(from * 2))
            }
        }
    }

    fn vertical_axis(&self, positions: (f64, f64)) -> Axis {
        match self.shape {
            Shape::Cumulative => Axis {
                spread: Spread::Linear,
                values: (0.0, 1.0),
                positions,
            },
            Shape::Complementary => {
                let most = self
                    .series
                    .iter()
                    .map(|s| s.times.count())
                    .max()
                    .unwrap_or(1)
                    .max(10);
                let mut lowest = 0.1;
                while lowest * most as f64 > 0.9 {
                    lowest /= 10.0;
                }
                Axis {
                    spread: Spread::Log,
                    values: (lowest, 1.0),
                    positions,
                }
            }
        }
    }

    fn flags(&self, x: Axis, unit: TimeUnit) -> Vec<Flag> {
        let mut flags: Vec<Flag> = Vec::new();
        for (index, series) in self.series.iter().enumerate() {
            let Some(deadline) = series.deadline else {
                continue;
            };
            let sharing: Vec<_> = self
                .series
                .iter()
                .filter(|s| s.deadline == Some(deadline))
                .collect();
            let is_first = self
                .series
                .iter()
                .position(|s| s.deadline == Some(deadline))
                == Some(index);
            if is_first {
                let whose = if sharing.len() == 1 && self.series.len() > 1 {
                    format!("{}: ", series.name)
                } else {
                    String::new()
                };
                flags.push(Flag::new(
                    x.at(unit.of(deadline)),
                    format!("{whose}deadline {}", time_label(deadline)),
                    FlagKind::Bound,
                ));
            }
        }
        flags.extend(self.marks.iter().map(|m| {
            Flag::new(
                x.at(unit.of(m.at)),
                format!("{} {}", m.label, time_label(m.at)),
                m.kind,
            )
        }));
        flags.retain(|flag| flag.x >= x.positions.0 - 0.5 && flag.x <= x.positions.1 + 0.5);
        flags
    }
}

impl Layout<'_> {
    fn draw_axes(&self, drawing: &mut Drawing) {
        for share in self.shares() {
            let y = self.y.at(share);
            drawing.line("grid", At(LEFT, y), At(self.right(), y));
            drawing.text(
                "muted small",
                At(LEFT - 8.0, y + 4.0),
                (Anchor::End, &percent(share)),
            );
        }
        drawing.line("axis", At(LEFT, self.bottom), At(self.right(), self.bottom));
        for (value, label) in self.x.ticks(9) {
            let x = self.x.at(value);
            drawing.line("tick", At(x, self.bottom), At(x, self.bottom + 5.0));
            drawing.text(
                "muted small",
                At(x, self.bottom + 18.0),
                (Anchor::Middle, &label),
            );
        }
        let label = format!("{} ({})", self.plot.quantity, self.unit.symbol());
        drawing.text(
            "small",
            At((LEFT + self.right()) / 2.0, self.bottom + 36.0),
            (Anchor::Middle, &label),
        );
    }

    fn shares(&self) -> Vec<f64> {
        match self.plot.shape {
            Shape::Cumulative => vec![0.0, 0.25, 0.5, 0.75, 1.0],
            Shape::Complementary => self
                .y
                .ticks(9)
                .into_iter()
                .map(|t| t.0)
                .filter(|v| v.log10().fract().abs() < 1e-6)
                .collect(),
        }
    }

    fn draw_curves(&self, drawing: &mut Drawing) {
        // A little air above and below, so that a stroke on the edge keeps its width.
        drawing.begin_clip(
            At(LEFT, self.top - 3.0),
            At(self.right(), self.bottom + 1.5),
        );
        for (index, series) in self
            .plot
            .series
            .iter()
            .enumerate()
            .filter(|(_, s)| s.times.count() > 0)
        {
            let colour = index % SERIES_COLOURS;
            let corners = self.corners(&series.times);
            if let Some(deadline) = series.deadline.filter(|d| series.times.beyond(*d) > 0) {
                drawing.path(
                    &format!("mass f{colour}"),
                    &self.mass_beyond(deadline, &corners),
                );
            }
            let dash = if index % 2 == 1 { " dashed" } else { "" };
            drawing.path(&format!("curve s{colour}{dash}"), &self.curve(&corners));
        }
        drawing.end_clip();
        self.draw_cut_off(drawing);
    }

    /// The curve's corners as positions: (x, y before the step, y after it).
    fn corners(&self, times: &Distribution) -> Vec<(f64, f64, f64)> {
        let mut before = self.height_of(0, times.count());
        let place = |step: Step| {
            let after = self.height_of(step.at_or_below, times.count());
            let corner = (self.x.at(self.unit.of(step.value)), before, after);
            before = after;
            corner
        };
        times.steps(CORNERS).into_iter().map(place).collect()
    }

    fn height_of(&self, at_or_below: usize, count: usize) -> f64 {
        match self.plot.shape {
            Shape::Cumulative => self.y.at(at_or_below as f64 / count as f64),
            Shape::Complementary => self.y.at((count - at_or_below) as f64 / count as f64),
        }
    }

    fn curve(&self, corners: &[(f64, f64, f64)]) -> PathData {
        let mut path = PathData::default();
        let start = corners.first().map_or(self.height_of(0, 1), |c| c.1);
        path.move_to(At(LEFT, start));
        let mut last = start;
        for (x, before, after) in corners {
            path.line_to(At(*x, *before)).line_to(At(*x, *after));
            last = *after;
        }
        // A complementary curve ends where its last value is; a cumulative one stays at its level.
        if self.plot.shape == Shape::Cumulative || last < self.bottom - 0.5 {
            path.line_to(At(WIDTH, last));
        }
        path
    }

    /// The area between the curve and the level of "all measurements", right of the deadline.
    fn mass_beyond(&self, deadline: Duration, corners: &[(f64, f64, f64)]) -> PathData {
        let edge = self.x.at(self.unit.of(deadline));
        let level = self.height_of(1, 1);
        let kept = corners.iter().rev().find(|c| c.0 <= edge);
        let mut height = kept.map_or(self.height_of(0, 1), |c| c.2);
        let mut area = PathData::default();
        area.move_to(At(edge, level)).line_to(At(edge, height));
        for (x, before, after) in corners.iter().filter(|c| c.0 > edge) {
            area.line_to(At(*x, *before)).line_to(At(*x, *after));
            height = *after;
        }
        let end = if (height - level).abs() < 0.01 {
            corners.last().map_or(edge, |c| c.0)
        } else {
            WIDTH
        };
        area.line_to(At(end, height))
            .line_to(At(end, level))
            .close();
        area
    }

    /// Says right of the plot how much of a curve lies beyond its edge.
    fn draw_cut_off(&self, drawing: &mut Drawing) {
        let mut labels: Vec<_> = self.plot.series.iter().enumerate().collect();
        let share = |times: &Distribution| {
            times.beyond(self.plot.time_range().1) as f64 / times.count().max(1) as f64
        };
        labels.retain(|(_, series)| share(&series.times) > 0.0);
        labels.sort_by(|a, b| share(&a.1.times).total_cmp(&share(&b.1.times)));
        let mut next = self.top + 4.0;
        for (index, series) in labels {
            let times = &series.times;
            let beyond = times.beyond(self.plot.time_range().1);
            let y = (self.height_of(times.count() - beyond, times.count()) + 4.0).max(next);
            next = y + 14.0;
            let text = format!("{} longer", percent(share(times)));
            let class = format!("small f{}", index % SERIES_COLOURS);
            drawing.text(&class, At(self.right() + 6.0, y), (Anchor::Start, &text));
        }
    }

    fn right(&self) -> f64 {
        self.x.positions.1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Distribution {
        values.iter().map(|v| Duration::from_millis(*v)).collect()
    }

    fn plot(shape: Shape, time_axis: TimeAxis) -> DistributionPlot {
        let series = |name: &str, values: &[u64]| Series {
            name: name.to_owned(),
            times: ms(values),
            deadline: Some(Duration::from_millis(150)),
        };
        DistributionPlot {
            title: "Response times".to_owned(),
            quantity: "response time".to_owned(),
            shape,
            time_axis,
            series: vec![
                series("kept", &[30, 31, 32]),
                series("missed <b>", &[30, 140, 180, 400]),
            ],
            marks: vec![Mark {
                at: Duration::from_millis(30),
                label: "paper".to_owned(),
                kind: FlagKind::Paper,
            }],
        }
    }

    #[test]
    fn every_series_has_a_curve_and_its_name_is_escaped() {
        for shape in [Shape::Cumulative, Shape::Complementary] {
            for axis in [TimeAxis::Fitted, TimeAxis::Log] {
                let svg = plot(shape, axis).figure("x", "").drawing.standalone();
                assert_eq!(svg.matches("<path class=\"curve s").count(), 2);
                assert!(svg.contains("missed &lt;b&gt;") && !svg.contains("<b>"));
                assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
            }
        }
    }

    #[test]
    fn only_a_series_with_misses_has_shaded_mass_and_its_share_is_told() {
        let svg = plot(Shape::Cumulative, TimeAxis::Fitted)
            .figure("x", "")
            .drawing
            .inline();
        assert_eq!(svg.matches("class=\"mass").count(), 1);
        assert!(svg.contains("2 (50 %)"), "{svg}");
    }

    #[test]
    fn what_is_cut_off_at_the_right_edge_is_counted_there() {
        let axis = TimeAxis::Linear {
            from: Duration::ZERO,
            to: Duration::from_millis(200),
        };
        assert!(
            plot(Shape::Cumulative, axis)
                .figure("x", "")
                .drawing
                .inline()
                .contains("25 % longer")
        );
    }

    #[test]
    fn a_series_without_samples_is_listed_and_draws_nothing() {
        let mut empty = plot(Shape::Complementary, TimeAxis::Fitted);
        empty.series[0].times = Distribution::default();
        let svg = empty.figure("x", "").drawing.inline();
        assert!(svg.contains("kept") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<path class=\"curve s").count(), 1);
    }
}

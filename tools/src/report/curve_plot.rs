//! Shares over a common axis: how many of a population still pass as something grows.
//!
//! A panel answers one question for several candidates at once; its key lists them from the best to the worst, each with
//! the value up to which half of the population passes.

use super::Figure;
use super::axis::{Axis, Spread, percent};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted, wrapped};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 560.0;
const KEY: f64 = RIGHT + 26.0;
const HEADER: f64 = 76.0;
const PLOT: f64 = 250.0;
const PANEL: f64 = PLOT + 82.0;
/// Height of a panel's name.
const NAME: f64 = 22.0;
/// Distance of two entries of the key.
const ENTRY: f64 = 31.0;

/// One candidate.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What passes or not: "credit".
    pub name: String,
    /// Which of the styles it has, in every figure the same: five colours, then the same dashed.
    pub style: usize,
    /// Position and share, both as fractions of one, in the order of positions.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// The position up to which at least half pass, between two points on the straight line; the last position if half
    /// pass everywhere.
    pub fn half(&self) -> Option<f64> {
        let below = self.points.iter().position(|(_, share)| *share < 0.5);
        let Some(below) = below else {
            return self.points.last().map(|(at, _)| *at);
        };
        let (to, under) = self.points[below];
        let (from, over) = *self.points[..below].last()?;
        Some(from + (to - from) * (over - 0.5) / (over - under))
    }

    /// The sum of all shares, by which candidates are ranked.
    fn sum(&self) -> f64 {
        self.points.iter().map(|(_, share)| share).sum()
    }

    fn classes(&self) -> (String, String) {
        let colour = self.style % SERIES_COLOURS;
        let dashes = if self.style < SERIES_COLOURS {
            ""
        } else {
            " dashed"
        };
        (format!("curve s{colour}{dashes}"), format!("f{colour}"))
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Panel {
    /// What it asks: "accepted by a test".
    pub name: String,
    /// The candidates.
    pub curves: Vec<Curve>,
}

/// The figure: panels over one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct CurvePlot {
    /// One line above the figure.
    pub title: String,
    /// What was compared, in a sentence.
    pub note: String,
    /// What the axis is: "utilisation".
    pub axis: String,
    /// The panels, from top to bottom.
    pub panels: Vec<Panel>,
}

impl CurvePlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let height = HEADER + PANEL * self.panels.len() as f64;
        let mut drawing = Drawing::new(&self.title, WIDTH, height);
        let room = WIDTH - 2.0 * MARGIN;
        let title = fitted(&self.title, 15.0, room);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        let note = wrapped(&self.note, 11.0, (room, 2));
        for (line, y) in note.iter().zip([44.0, 58.0]) {
            drawing.text("small muted", At(MARGIN, y), (Anchor::Start, line));
        }
        for (index, panel) in self.panels.iter().enumerate() {
            let top = HEADER + PANEL * index as f64 + NAME;
            let axes = Axes {
                position: self.position_axis(),
                share: Axis {
                    spread: Spread::Linear,
                    values: (0.0, 1.0),
                    positions: (top + PLOT, top),
                },
            };
            drawing.text("strong", At(LEFT, top - 9.0), (Anchor::Start, &panel.name));
            self.draw_axes(&mut drawing, &axes);
            panel.draw(&mut drawing, &axes);
        }
        Figure::new(name, caption, drawing)
    }

    /// From zero to the greatest position.
    fn position_axis(&self) -> Axis {
        let curves = self.panels.iter().flat_map(|panel| &panel.curves);
        let positions = curves.flat_map(|curve| &curve.points).map(|(at, _)| *at);
        Axis {
            spread: Spread::Linear,
            values: (0.0, positions.fold(1.0, f64::max)),
            positions: (LEFT, RIGHT),
        }
    }

    fn draw_axes(&self, drawing: &mut Drawing, axes: &Axes) {
        let (foot, top) = axes.share.positions;
        for (value, _) in axes.share.ticks(5) {
            let y = axes.share.at(value);
            drawing.line("grid", At(LEFT, y), At(RIGHT, y));
            drawing.text(
                "small",
                At(LEFT - 8.0, y + 4.0),
                (Anchor::End, &percent(value)),
            );
        }
        for (value, _) in axes.position.ticks(12) {
            let x = axes.position.at(value);
            drawing.line("tick", At(x, foot), At(x, foot + 5.0));
            drawing.text(
                "small",
                At(x, foot + 18.0),
                (Anchor::Middle, &percent(value)),
            );
        }
        drawing.line("axis", At(LEFT, foot), At(RIGHT, foot));
        drawing.line("axis", At(LEFT, top), At(LEFT, foot));
        drawing.text(
            "small muted",
            At(RIGHT, foot + 35.0),
            (Anchor::End, &self.axis),
        );
    }
}

struct Axes {
    position: Axis,
    share: Axis,
}

impl Panel {
    fn draw(&self, drawing: &mut Drawing, axes: &Axes) {
        for curve in &self.curves {
            let (line, dot) = curve.classes();
            let mut path = PathData::default();
            let places = curve.points.iter().map(|(at, share)| {
                let place = At(axes.position.at(*at), axes.share.at(*share));
                (
                    place,
                    format!("{}: {} at {}", curve.name, percent(*share), percent(*at)),
                )
            });
            let places: Vec<_> = places.collect();
            for (index, (place, _)) in places.iter().enumerate() {
                match index {
                    0 => path.move_to(*place),
                    _ => path.line_to(*place),
                };
            }
            if !places.is_empty() {
                drawing.path(&line, &path);
            }
            for (place, tooltip) in &places {
                drawing.dot(&dot, *place, (2.6, tooltip));
            }
        }
        self.draw_key(drawing, axes.share.positions.1);
    }

    fn draw_key(&self, drawing: &mut Drawing, top: f64) {
        let mut ranked: Vec<&Curve> = self.curves.iter().collect();
        ranked.sort_by(|a, b| b.sum().total_cmp(&a.sum()));
        for (place, curve) in ranked.into_iter().enumerate() {
            let y = top + 12.0 + ENTRY * place as f64;
            let mut key = PathData::default();
            key.move_to(At(KEY, y - 4.0))
                .line_to(At(KEY + 26.0, y - 4.0));
            drawing.path(&curve.classes().0, &key);
            let text = KEY + 34.0;
            let name = fitted(&curve.name, 12.0, WIDTH - 8.0 - text);
            drawing.text("key", At(text, y), (Anchor::Start, &name));
            let half = match curve.half() {
                Some(half) => format!("half of them up to {}", percent(half)),
                None => "never half of them".to_owned(),
            };
            drawing.text("tiny muted", At(text, y + 12.0), (Anchor::Start, &half));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(shares: &[f64]) -> Curve {
        let at = |(place, share): (usize, &f64)| ((place + 1) as f64 / 10.0, *share);
        Curve {
            name: "credit & co".to_owned(),
            style: 6,
            points: shares.iter().enumerate().map(at).collect(),
        }
    }

    #[test]
    fn half_is_found_between_the_points() {
        let half = |shares: &[f64]| curve(shares).half();
        let near = |found: Option<f64>, expected: f64| (found.unwrap() - expected).abs() < 1e-9;
        assert!(near(half(&[1.0, 0.75, 0.25]), 0.25));
        assert!(near(half(&[1.0, 0.5, 0.0]), 0.2));
        assert!(near(half(&[1.0, 1.0]), 0.2));
        assert_eq!(half(&[0.4, 0.1]), None);
        assert_eq!(half(&[]), None);
    }

    #[test]
    fn curves_are_listed_from_the_best_to_the_worst() {
        let named = |name: &str, shares: &[f64]| Curve {
            name: name.to_owned(),
            ..curve(shares)
        };
        let plot = CurvePlot {
            title: "<sets>".to_owned(),
            note: "a note".to_owned(),
            axis: "utilisation".to_owned(),
            panels: vec![Panel {
                name: "tests".to_owned(),
                curves: vec![
                    named("worse", &[1.0, 0.2]),
                    named("better", &[1.0, 0.9]),
                    named("empty", &[]),
                ],
            }],
        };
        let svg = plot.figure("x", "").drawing.standalone();
        assert!(svg.find(">better<") < svg.find(">worse<"));
        assert!(svg.contains("never half") && svg.contains("dashed") && !svg.contains("NaN"));
        assert!(svg.contains("&lt;sets&gt;"));
    }
}

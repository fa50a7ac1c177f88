//! Rates over time: what each of several classes passed around an instant.

use super::Figure;
use super::axis::{Axis, Spread};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
const LEFT: f64 = 78.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 84.0;
const FOOT: f64 = TOP + 240.0;

/// One class.
#[derive(Clone, Debug, PartialEq)]
pub struct RateCurve {
    /// Its name.
    pub name: String,
    /// Time in milliseconds and rate in Mbit/s, in the order of time.
    pub points: Vec<(f64, f64)>,
    /// What it was promised: from when on, in milliseconds, and how much.
    pub promised: Vec<(f64, f64)>,
}

/// The figure.
#[derive(Clone, Debug, PartialEq)]
pub struct RatePlot {
    /// One line above the figure.
    pub title: String,
    /// An instant that is marked, in milliseconds, and what happened then.
    pub mark: (f64, String),
    /// The classes.
    pub curves: Vec<RateCurve>,
}

impl RatePlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let mut drawing = Drawing::new(&self.title, WIDTH, FOOT + 52.0);
        let title = fitted(&self.title, 15.0, WIDTH - 2.0 * MARGIN);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        let (time, rate) = self.axes();
        draw_axes(&mut drawing, (&time, &rate));
        let mark = time.at(self.mark.0);
        drawing.line("bound", At(mark, TOP), At(mark, FOOT));
        let text = (Anchor::Start, self.mark.1.as_str());
        drawing.text("small", At(mark + 5.0, TOP - 4.0), text);
        for (index, curve) in self.curves.iter().enumerate() {
            let colour = index % SERIES_COLOURS;
            let x = MARGIN + 140.0 * index as f64;
            drawing.dot(&format!("f{colour}"), At(x + 6.0, 48.0), (4.0, &curve.name));
            let key = (Anchor::Start, curve.name.as_str());
            drawing.text("key", At(x + 16.0, 52.0), key);
            let promised = steps(&curve.promised, (&time, &rate));
            drawing.path(&format!("curve dashed s{colour}"), &promised);
            let passed = line(&curve.points, (&time, &rate));
            drawing.path(&format!("curve s{colour}"), &passed);
        }
        Figure::new(name, caption, drawing)
    }

    fn axes(&self) -> (Axis, Axis) {
        let points = || self.curves.iter().flat_map(|curve| &curve.points);
        let promised = || self.curves.iter().flat_map(|curve| &curve.promised);
        let first = points().map(|p| p.0).fold(f64::INFINITY, f64::min);
        let last = points().map(|p| p.0).fold(f64::NEG_INFINITY, f64::max);
        let span = if first < last {
            (first, last)
        } else {
            (0.0, 1.0)
        };
        let most = points().chain(promised()).map(|p| p.1).fold(0.0, f64::max);
        let time = Axis {
            spread: Spread::Linear,
            values: span,
            positions: (LEFT, RIGHT),
        };
        let rate = Axis {
            spread: Spread::Linear,
            values: (0.0, (most * 1.08).max(1e-3)),
            positions: (FOOT, TOP),
        };
        (time, rate)
    }
}

fn draw_axes(drawing: &mut Drawing, (time, rate): (&Axis, &Axis)) {
    for (value, label) in rate.ticks(6) {
        let y = rate.at(value);
        drawing.line("grid", At(LEFT, y), At(RIGHT, y));
        drawing.text("small", At(LEFT - 8.0, y + 4.0), (Anchor::End, &label));
    }
    for (value, label) in time.ticks(12) {
        let x = time.at(value);
        drawing.line("tick", At(x, FOOT), At(x, FOOT + 5.0));
        drawing.text("small", At(x, FOOT + 18.0), (Anchor::Middle, &label));
    }
    drawing.line("axis", At(LEFT, FOOT), At(RIGHT, FOOT));
    let text = (Anchor::Start, "Mbit/s");
    drawing.text("small muted", At(LEFT, TOP - 4.0), text);
    let text = (Anchor::End, "time (ms)");
    drawing.text("small muted", At(RIGHT, FOOT + 36.0), text);
}

fn line(points: &[(f64, f64)], (time, rate): (&Axis, &Axis)) -> PathData {
    let mut path = PathData::default();
    for (index, (at, value)) in points.iter().enumerate() {
        let place = At(time.at(*at), rate.at(*value));
        match index {
            0 => path.move_to(place),
            _ => path.line_to(place),
        };
    }
    path
}

/// Each value holds until the next one.
fn steps(levels: &[(f64, f64)], (time, rate): (&Axis, &Axis)) -> PathData {
    let mut path = PathData::default();
    let ends = levels.iter().skip(1).map(|level| level.0);
    let ends = ends.chain([time.values.1]);
    for (index, ((from, value), end)) in levels.iter().zip(ends).enumerate() {
        let y = rate.at(*value);
        let start = At(time.at(from.max(time.values.0)), y);
        match index {
            0 => path.move_to(start),
            _ => path.line_to(start),
        };
        path.line_to(At(time.at(end), y));
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_and_promises_are_drawn_inside_the_axes() {
        let curve = |name: &str, points: &[(f64, f64)]| RateCurve {
            name: name.to_owned(),
            points: points.to_vec(),
            promised: vec![(-50.0, 6.0), (0.0, 4.0)],
        };
        let plot = RatePlot {
            title: "A change".to_owned(),
            mark: (0.0, "change".to_owned()),
            curves: vec![curve("gold", &[(-50.0, 6.0), (50.0, 4.0)]), curve("x", &[])],
        };
        let svg = plot.figure("x", "").drawing.standalone();
        assert_eq!(svg.matches("curve dashed").count(), 2);
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let empty = RatePlot {
            curves: Vec::new(),
            ..plot
        };
        assert!(!empty.figure("x", "").drawing.standalone().contains("NaN"));
    }
}

//! Dirty curves: how many different pages are written within a time, as predicted and as found, on logarithmic axes.

use super::Figure;
use super::axis::{Axis, Spread, short_number};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
const LEFT: f64 = 66.0;
const TOP: f64 = 76.0;
/// Size of a panel.
const ACROSS: f64 = 340.0;
const UP: f64 = 200.0;
/// From a panel to the next.
const NEXT: (f64, f64) = (416.0, UP + 78.0);
const IN_A_ROW: usize = 2;

/// One guest.
#[derive(Clone, Debug, PartialEq)]
pub struct DirtyCurve {
    /// Its name.
    pub name: String,
    /// Seconds, pages predicted, pages found.
    pub points: Vec<(f64, f64, f64)>,
}

/// Guests of a kind.
#[derive(Clone, Debug, PartialEq)]
pub struct DirtyPanel {
    /// The kind.
    pub name: String,
    /// The guests.
    pub curves: Vec<DirtyCurve>,
}

/// The figure.
#[derive(Clone, Debug, PartialEq)]
pub struct DirtyPlot {
    /// One line above the figure.
    pub title: String,
    /// The panels, two in a row, over the same axes.
    pub panels: Vec<DirtyPanel>,
}

impl DirtyPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let rows = self.panels.len().div_ceil(IN_A_ROW) as f64;
        let mut drawing = Drawing::new(&self.title, WIDTH, TOP + NEXT.1 * rows - 16.0);
        let title = fitted(&self.title, 15.0, WIDTH - 2.0 * MARGIN);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        let (seconds, pages) = (self.span(|p| [p.0, p.0]), self.span(|p| [p.1, p.2]));
        for (index, panel) in self.panels.iter().enumerate() {
            let (row, column) = (index / IN_A_ROW, index % IN_A_ROW);
            let (left, top) = (LEFT + NEXT.0 * column as f64, TOP + NEXT.1 * row as f64);
            let axis = |values, positions| Axis {
                spread: Spread::Log,
                values,
                positions,
            };
            let time = axis(seconds, (left, left + ACROSS));
            let dirty = axis((pages.0.max(1.0), pages.1.max(10.0)), (top + UP, top));
            panel.draw(&mut drawing, (&time, &dirty));
        }
        Figure::new(name, caption, drawing)
    }

    /// The least and the greatest of some values of all points.
    fn span(&self, of: fn(&(f64, f64, f64)) -> [f64; 2]) -> (f64, f64) {
        let curves = self.panels.iter().flat_map(|panel| &panel.curves);
        let values = curves.flat_map(|curve| &curve.points).flat_map(of);
        let (least, most) = values.fold((f64::INFINITY, 0.0f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        if least < most {
            (least, most * 1.2)
        } else {
            (1.0, 10.0)
        }
    }
}

impl DirtyPanel {
    fn draw(&self, drawing: &mut Drawing, (time, pages): (&Axis, &Axis)) {
        let ((left, right), (foot, top)) = (time.positions, pages.positions);
        let name = format!("{}: pages written at least once", self.name);
        drawing.text("strong", At(left, top - 9.0), (Anchor::Start, &name));
        for (value, label) in pages.ticks(5) {
            let y = pages.at(value);
            drawing.line("grid", At(left, y), At(right, y));
            drawing.text("small", At(left - 6.0, y + 4.0), (Anchor::End, &label));
        }
        for (value, label) in time.ticks(5) {
            let x = time.at(value);
            drawing.line("tick", At(x, foot), At(x, foot + 5.0));
            drawing.text("small", At(x, foot + 18.0), (Anchor::Middle, &label));
        }
        drawing.line("axis", At(left, foot), At(right, foot));
        drawing.line("axis", At(left, top), At(left, foot));
        let text = (Anchor::End, "within so many seconds");
        drawing.text("small muted", At(right, foot + 34.0), text);
        for (index, curve) in self.curves.iter().enumerate() {
            curve.draw(drawing, (time, pages), index);
        }
    }
}

impl DirtyCurve {
    fn draw(&self, drawing: &mut Drawing, (time, pages): (&Axis, &Axis), index: usize) {
        let colour = index % SERIES_COLOURS;
        let mut path = PathData::default();
        for (place, (seconds, predicted, _)) in self.points.iter().enumerate() {
            let at = At(time.at(*seconds), pages.at(*predicted));
            match place {
                0 => path.move_to(at),
                _ => path.line_to(at),
            };
        }
        if !self.points.is_empty() {
            drawing.path(&format!("curve s{colour}"), &path);
        }
        let dot = format!("f{colour}");
        for (seconds, predicted, found) in &self.points {
            let text = format!(
                "{} within {} s: {} predicted, {} found",
                self.name,
                short_number(*seconds, 3),
                short_number(*predicted, 1),
                short_number(*found, 1)
            );
            let at = At(time.at(*seconds), pages.at(*found));
            drawing.dot(&dot, at, (3.2, &text));
        }
        // Curves rise to the right: the corner at the top left is free.
        let y = pages.positions.1 + 14.0 + 15.0 * index as f64;
        let x = time.positions.0 + 14.0;
        drawing.dot(&dot, At(x, y - 4.0), (3.2, &self.name));
        drawing.text("small", At(x + 9.0, y), (Anchor::Start, &self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_found_is_a_dot_and_every_guest_a_line() {
        let curve = |name: &str, points: &[(f64, f64, f64)]| DirtyCurve {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let panel = |curves| DirtyPanel {
            name: "uniform".to_owned(),
            curves,
        };
        let plot = DirtyPlot {
            title: "Dirty curves".to_owned(),
            panels: vec![
                panel(vec![curve("a", &[(0.1, 10.0, 11.0), (1.0, 50.0, 0.0)])]),
                panel(vec![curve("b", &[])]),
                panel(Vec::new()),
            ],
        };
        let svg = plot.figure("x", "").drawing.standalone();
        // Two names, two points.
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches(r#"class="curve"#).count(), 1);
        assert!(svg.contains("a within 0.1 s: 10 predicted, 11 found"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
        let empty = DirtyPlot {
            panels: Vec::new(),
            ..plot
        };
        assert!(!empty.figure("x", "").drawing.standalone().contains("NaN"));
    }
}

//! Predictions beside outcomes: a dot on the diagonal for each that came as it was predicted, a whisker up to the bound.

use super::Figure;
use super::axis::{Axis, Spread, short_number};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
const TOP: f64 = 96.0;
/// Of a panel, which is a square.
const SIDE: f64 = 340.0;
/// From a panel's left edge to the next one's.
const NEXT: f64 = 416.0;
const LEFT: f64 = 66.0;
const FOOT: f64 = TOP + SIDE;

/// One prediction and what came.
#[derive(Clone, Debug, PartialEq)]
pub struct Agreement {
    /// Of what: "hot-2k-32M, 1Gbit/s".
    pub name: String,
    /// Which of the kinds.
    pub kind: usize,
    /// What came.
    pub came: f64,
    /// What was predicted.
    pub predicted: f64,
    /// What was not to be exceeded.
    pub bound: f64,
}

/// One quantity.
#[derive(Clone, Debug, PartialEq)]
pub struct AgreementPanel {
    /// Its name and unit: "total time (s)".
    pub name: String,
    /// How far predictions may be off, as a fraction.
    pub allowed: f64,
    /// The predictions.
    pub points: Vec<Agreement>,
}

/// The figure: two panels side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct AgreementPlot {
    /// One line above the figure.
    pub title: String,
    /// The kinds, each of a colour.
    pub kinds: Vec<String>,
    /// The panels; what is beyond the second is not shown.
    pub panels: Vec<AgreementPanel>,
}

impl AgreementPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let mut drawing = Drawing::new(&self.title, WIDTH, FOOT + 52.0);
        let title = fitted(&self.title, 15.0, WIDTH - 2.0 * MARGIN);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        for (index, kind) in self.kinds.iter().enumerate() {
            let x = MARGIN + 6.0 + 120.0 * index as f64;
            drawing.dot(&colour(index), At(x, 48.0), (4.0, kind));
            drawing.text("key", At(x + 10.0, 52.0), (Anchor::Start, kind));
        }
        for (panel, left) in self.panels.iter().zip([LEFT, LEFT + NEXT]) {
            panel.draw(&mut drawing, left);
        }
        Figure::new(name, caption, drawing)
    }
}

fn colour(kind: usize) -> String {
    format!("f{}", kind % SERIES_COLOURS)
}

impl AgreementPanel {
    /// The same values across and upwards.
    fn axes(&self, left: f64) -> (Axis, Axis) {
        let values = self
            .points
            .iter()
            .flat_map(|p| [p.came, p.predicted, p.bound]);
        let values = values.filter(|value| *value > 0.0);
        let (least, most) = values.fold((f64::INFINITY, 0.0f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        let values = if least < most {
            (least / 1.3, most * 1.3)
        } else {
            (1.0, 10.0)
        };
        let axis = |positions| Axis {
            spread: Spread::Log,
            values,
            positions,
        };
        (axis((left, left + SIDE)), axis((FOOT, TOP)))
    }

    fn draw(&self, drawing: &mut Drawing, left: f64) {
        let (across, up) = self.axes(left);
        drawing.text("strong", At(left, TOP - 12.0), (Anchor::Start, &self.name));
        for (value, label) in up.ticks(5) {
            let (x, y) = (across.at(value), up.at(value));
            drawing.line("grid", At(left, y), At(left + SIDE, y));
            drawing.line("grid", At(x, TOP), At(x, FOOT));
            drawing.text("small", At(left - 6.0, y + 4.0), (Anchor::End, &label));
            drawing.text("small", At(x, FOOT + 18.0), (Anchor::Middle, &label));
        }
        drawing.line("axis", At(left, FOOT), At(left + SIDE, FOOT));
        drawing.line("axis", At(left, TOP), At(left, FOOT));
        let text = "across: what came; upwards: what was predicted";
        drawing.text(
            "small muted",
            At(left + SIDE, FOOT + 36.0),
            (Anchor::End, text),
        );
        drawing.begin_clip(At(left, TOP), At(left + SIDE, FOOT));
        self.draw_band(drawing, (&across, &up));
        for point in &self.points {
            point.draw(drawing, (&across, &up));
        }
        drawing.end_clip();
    }

    /// The diagonal, and what is allowed to either side of it.
    fn draw_band(&self, drawing: &mut Drawing, (across, up): (&Axis, &Axis)) {
        let (least, most) = across.values;
        // Along the whole diagonal, also where the axis ends.
        let beyond = |value: f64, factor: f64| {
            let shift = factor.ln() / (most / least).ln() * SIDE;
            At(across.at(value), up.at(value) - shift)
        };
        let (over, under) = (1.0 + self.allowed, 1.0 - self.allowed);
        let mut band = PathData::default();
        band.move_to(beyond(least, over))
            .line_to(beyond(most, over))
            .line_to(beyond(most, under))
            .line_to(beyond(least, under))
            .close();
        drawing.path("band", &band);
        drawing.line("bound", beyond(least, 1.0), beyond(most, 1.0));
    }
}

impl Agreement {
    fn draw(&self, drawing: &mut Drawing, (across, up): (&Axis, &Axis)) {
        let place = At(across.at(self.came), up.at(self.predicted));
        let bound = At(place.0, up.at(self.bound));
        drawing.line("lead", place, bound);
        let text = format!(
            "{}: {} predicted, at most {}; {} came",
            self.name,
            short_number(self.predicted, 3),
            short_number(self.bound, 3),
            short_number(self.came, 3)
        );
        drawing.dot(&colour(self.kind), place, (3.6, &text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<Agreement>) -> AgreementPlot {
        AgreementPlot {
            title: "Predicted & measured".to_owned(),
            kinds: vec!["uniform".to_owned()],
            panels: vec![AgreementPanel {
                name: "total time (s)".to_owned(),
                allowed: 0.1,
                points,
            }],
        }
    }

    #[test]
    fn every_prediction_is_a_dot_with_its_numbers() {
        let point = |came| Agreement {
            name: "hot".to_owned(),
            kind: 0,
            came,
            predicted: 1.5,
            bound: 2.0,
        };
        let svg = plot(vec![point(1.4), point(0.7)])
            .figure("x", "")
            .drawing
            .standalone();
        // One in the key.
        assert_eq!(svg.matches("<circle").count(), 3);
        assert!(svg.contains("hot: 1.5 predicted, at most 2; 0.7 came"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn without_predictions_there_is_an_empty_panel() {
        let svg = plot(Vec::new()).figure("x", "").drawing.standalone();
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }
}

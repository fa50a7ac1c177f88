//! How far measured values are from what was promised: one row for each measurement, one dot for each of those that
//! share, a band for what is allowed.

use super::Figure;
use super::axis::{Axis, Spread, short_number};
use super::svg::{Anchor, At, Drawing, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
/// Where the axis begins: names stand left of it.
const LEFT: f64 = 300.0;
const RIGHT: f64 = WIDTH - 40.0;
const TOP: f64 = 84.0;
const ROW: f64 = 24.0;
/// The axis shows at least so many percent to either side.
const LEAST: f64 = 2.5;
/// And at most so many; dots beyond stand at the edge with their number.
const MOST: f64 = 12.0;

/// One measurement.
#[derive(Clone, Debug, PartialEq)]
pub struct Deviation {
    /// What was measured: "UDP, 10 Mbit/s, in".
    pub name: String,
    /// How far each is from what was promised, percent of it.
    pub values: Vec<Option<f64>>,
    /// What is allowed, percent.
    pub allowed: f64,
}

/// The figure.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviationPlot {
    /// One line above the figure.
    pub title: String,
    /// Those that share, in the order of the values.
    pub sharers: Vec<String>,
    /// The rows, from top to bottom.
    pub rows: Vec<Deviation>,
}

impl DeviationPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let foot = TOP + ROW * self.rows.len() as f64;
        let mut drawing = Drawing::new(&self.title, WIDTH, foot + 50.0);
        let title = fitted(&self.title, 15.0, WIDTH - 2.0 * MARGIN);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        let mut x = MARGIN + 6.0;
        for (index, sharer) in self.sharers.iter().enumerate() {
            drawing.dot(&colour(index), At(x, 48.0), (4.0, sharer));
            drawing.text("key", At(x + 10.0, 52.0), (Anchor::Start, sharer));
            x += 120.0;
        }
        let axis = self.axis();
        for (value, label) in axis.ticks(10) {
            let x = axis.at(value);
            drawing.line("grid", At(x, TOP), At(x, foot));
            drawing.text("small", At(x, foot + 18.0), (Anchor::Middle, &label));
        }
        for (index, row) in self.rows.iter().enumerate() {
            row.draw(&mut drawing, &axis, TOP + ROW * index as f64);
        }
        drawing.line("axis", At(axis.at(0.0), TOP - 6.0), At(axis.at(0.0), foot));
        let text = "deviation from the share (%)";
        drawing.text("small muted", At(RIGHT, foot + 36.0), (Anchor::End, text));
        Figure::new(name, caption, drawing)
    }

    fn axis(&self) -> Axis {
        let values = self.rows.iter().flat_map(|row| row.values.iter().flatten());
        let widest = values.fold(LEAST, |most, value| most.max(value.abs() * 1.1));
        let end = widest.min(MOST);
        Axis {
            spread: Spread::Linear,
            values: (-end, end),
            positions: (LEFT, RIGHT),
        }
    }
}

impl Deviation {
    fn draw(&self, drawing: &mut Drawing, axis: &Axis, top: f64) {
        let middle = top + ROW / 2.0;
        let (from, to) = (axis.at(-self.allowed), axis.at(self.allowed));
        drawing.rect("band", At(from, top + 3.0), At(to, top + ROW - 3.0));
        let name = fitted(&self.name, 12.0, LEFT - MARGIN - 12.0);
        drawing.text("", At(MARGIN, middle + 4.0), (Anchor::Start, &name));
        for (index, value) in self.values.iter().enumerate() {
            let Some(value) = value else { continue };
            let shown = value.clamp(axis.values.0, axis.values.1);
            let place = At(axis.at(shown), middle);
            let text = format!("{} %", short_number(*value, 3));
            drawing.dot(&colour(index), place, (4.0, &text));
            if shown.total_cmp(value).is_ne() {
                let (anchor, side) = match *value > 0.0 {
                    true => (Anchor::End, -8.0),
                    false => (Anchor::Start, 8.0),
                };
                drawing.text("tiny", At(place.0 + side, middle + 4.0), (anchor, &text));
            }
        }
    }
}

fn colour(index: usize) -> String {
    format!("f{}", index % SERIES_COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_drawn_and_one_beyond_the_axis_says_its_number() {
        let row = |values: &[Option<f64>]| Deviation {
            name: "UDP <in>".to_owned(),
            values: values.to_vec(),
            allowed: 1.0,
        };
        let plot = DeviationPlot {
            title: "Shares".to_owned(),
            sharers: vec!["gold".to_owned(), "best effort".to_owned()],
            rows: vec![row(&[Some(0.25), None]), row(&[Some(-40.0), Some(3.0)])],
        };
        let svg = plot.figure("x", "").drawing.standalone();
        // Two in the key, three values.
        assert_eq!(svg.matches("<circle").count(), 5);
        assert!(svg.contains("0.25 %") && svg.matches("40 %").count() == 2);
        assert!(svg.contains("&lt;in&gt;") && !svg.contains("NaN"));
    }

    #[test]
    fn without_rows_there_is_an_empty_axis() {
        let plot = DeviationPlot {
            title: String::new(),
            sharers: Vec::new(),
            rows: Vec::new(),
        };
        assert!(!plot.figure("x", "").drawing.standalone().contains("NaN"));
    }
}

//! What an order of pages saves: pages sent again by it, against those sent again in the order of addresses.

use super::Figure;
use super::axis::{Axis, Spread};
use super::svg::{Anchor, At, Drawing, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
/// Where the axis begins: names stand left of it.
const LEFT: f64 = 210.0;
const RIGHT: f64 = WIDTH - 150.0;
const TOP: f64 = 70.0;
const ROW: f64 = 22.0;

/// One guest.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderRow {
    /// Its name.
    pub name: String,
    /// Which of the kinds.
    pub kind: usize,
    /// Pages sent again by the order, and by addresses.
    pub again: (u64, u64),
}

/// The figure.
#[derive(Clone, Debug, PartialEq)]
pub struct OrderPlot {
    /// One line above the figure.
    pub title: String,
    /// The ratio that is to be reached.
    pub target: f64,
    /// The kinds, each of a colour.
    pub kinds: Vec<String>,
    /// The rows, from top to bottom.
    pub rows: Vec<OrderRow>,
}

impl OrderPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let foot = TOP + ROW * self.rows.len() as f64;
        let mut drawing = Drawing::new(&self.title, WIDTH, foot + 46.0);
        let title = fitted(&self.title, 15.0, WIDTH - 2.0 * MARGIN);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        for (index, kind) in self.kinds.iter().enumerate() {
            let x = MARGIN + 6.0 + 120.0 * index as f64;
            drawing.dot(&colour(index), At(x, 46.0), (4.0, kind));
            drawing.text("key", At(x + 10.0, 50.0), (Anchor::Start, kind));
        }
        let most = self.rows.iter().filter_map(OrderRow::ratio);
        let axis = Axis {
            spread: Spread::Linear,
            values: (0.0, most.fold(1.0, f64::max)),
            positions: (LEFT, RIGHT),
        };
        for (value, label) in axis.ticks(10) {
            let x = axis.at(value);
            drawing.line("grid", At(x, TOP), At(x, foot));
            drawing.text("small", At(x, foot + 18.0), (Anchor::Middle, &label));
        }
        for (index, row) in self.rows.iter().enumerate() {
            row.draw(&mut drawing, &axis, TOP + ROW * index as f64);
        }
        let target = axis.at(self.target);
        drawing.line("bound", At(target, TOP - 6.0), At(target, foot));
        let text = "pages sent again, by the model's order over by addresses";
        drawing.text("small muted", At(RIGHT, foot + 36.0), (Anchor::End, text));
        Figure::new(name, caption, drawing)
    }
}

impl OrderRow {
    fn ratio(&self) -> Option<f64> {
        let (again, by_address) = self.again;
        (by_address > 0).then(|| again as f64 / by_address as f64)
    }

    fn draw(&self, drawing: &mut Drawing, axis: &Axis, top: f64) {
        let middle = top + ROW / 2.0 + 4.0;
        let name = fitted(&self.name, 12.0, LEFT - MARGIN - 12.0);
        drawing.text("", At(MARGIN, middle), (Anchor::Start, &name));
        let (again, by_address) = self.again;
        let end = self.ratio().map_or(LEFT, |ratio| axis.at(ratio));
        let class = format!("run {}", colour(self.kind));
        drawing.rect(&class, At(LEFT, top + 4.0), At(end, top + ROW - 4.0));
        let text = format!("{again} : {by_address}");
        let place = At(RIGHT.max(end) + 8.0, middle);
        drawing.text("small", place, (Anchor::Start, &text));
    }
}

fn colour(kind: usize) -> String {
    format!("f{}", kind % SERIES_COLOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_bar_as_long_as_its_ratio_and_says_its_pages() {
        let row = |again| OrderRow {
            name: "hot <2k>".to_owned(),
            kind: 1,
            again,
        };
        let plot = OrderPlot {
            title: "Order".to_owned(),
            target: 0.7,
            kinds: vec!["skewed".to_owned()],
            rows: vec![row((50, 100)), row((0, 0))],
        };
        let svg = plot.figure("x", "").drawing.standalone();
        let half = format!("width=\"{:.2}\"", (RIGHT - LEFT) / 2.0);
        assert!(svg.contains(&half) && svg.contains("50 : 100"), "{svg}");
        assert!(svg.contains("hot &lt;2k&gt;") && !svg.contains("NaN"));
    }
}

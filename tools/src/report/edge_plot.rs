//! The edge: deadline misses over the budget Q, one strip per configuration, beside the least budget theory predicts.
//!
//! Each strip asks one question: is the first miss where the prediction stands?

use std::time::Duration;

use super::Figure;
use super::axis::{Axis, Spread, percent, short_number};
use super::svg::{Anchor, At, Drawing, PathData, fitted, wrapped};

const WIDTH: f64 = 860.0;
const NAMES: f64 = 24.0;
const LEFT: f64 = 236.0;
const RIGHT: f64 = 704.0;
const VERDICT: f64 = WIDTH - 24.0;
const HEADER: f64 = 92.0;
const STRIP: f64 = 62.0;
const LABELS: f64 = 20.0;
const ROW: f64 = LABELS + STRIP + 20.0;
/// Where the symlog scale of the miss share turns logarithmic: one miss in a thousand jobs stands clear of zero.
const KNEE: f64 = 0.001;
/// Budgets come in whole microseconds; half of one absorbs the rounding of a difference in milliseconds.
const ROUNDING_MS: f64 = 0.000_5;

/// Misses counted at one budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EdgePoint {
    /// The budget Q.
    pub budget: Duration,
    /// Jobs that missed their deadline.
    pub missed: usize,
    /// All jobs.
    pub jobs: usize,
}

/// One swept configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgeConfiguration {
    /// What runs: "alone", "neighbours to 90 %".
    pub name: String,
    /// Which bound predicts, and under which conditions.
    pub note: String,
    /// The least budget that the theory says suffices.
    pub predicted: Duration,
    /// The sweep, in any order.
    pub points: Vec<EdgePoint>,
}

/// The figure: every configuration over one budget axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EdgePlot {
    /// One line above the figure.
    pub title: String,
    /// The reservation's period P.
    pub period: Duration,
    /// How far the first miss may lie from the prediction.
    pub tolerance: Duration,
    /// The strips, from top to bottom.
    pub configurations: Vec<EdgeConfiguration>,
}

impl EdgeConfiguration {
    /// The greatest budget at which a deadline was missed: where the first miss appears as Q shrinks.
    pub fn first_miss(&self) -> Option<Duration> {
        self.points
            .iter()
            .filter(|p| p.missed > 0)
            .map(|p| p.budget)
            .max()
    }

    /// First miss less prediction, in milliseconds: negative when the guest did with less than predicted. Where the
    /// sweep did not enclose the edge, the relation says on which side of the sweep's end it lies.
    pub fn finding(&self) -> Option<(Relation, f64)> {
        let least = self.points.iter().map(|p| p.budget).min()?;
        let greatest = self.points.iter().map(|p| p.budget).max()?;
        let (relation, budget) = match self.first_miss() {
            None => (Relation::Below, least),
            Some(miss) if miss == greatest => (Relation::AtLeast, miss),
            Some(miss) => (Relation::At, miss),
        };
        Some((relation, millis(budget) - millis(self.predicted)))
    }
}

/// How the measured edge relates to a swept budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The first miss is there, with budgets above that have none.
    At,
    /// Nothing missed: the edge is below the least budget swept.
    Below,
    /// The greatest budget swept still missed: the edge is there or above.
    AtLeast,
}

fn millis(value: Duration) -> f64 {
    value.as_secs_f64() * 1e3
}

fn share(point: &EdgePoint) -> f64 {
    point.missed as f64 / point.jobs.max(1) as f64
}

fn signed(value: f64) -> String {
    let text = short_number(value, 2);
    if value > 0.0 && text != "0" {
        format!("+{text}")
    } else {
        text
    }
}

impl EdgePlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let bottom = HEADER + ROW * self.configurations.len() as f64 - 12.0;
        let mut drawing = Drawing::new(&self.title, WIDTH, bottom + 66.0);
        let budget = self.budget_axis();
        self.draw_header(&mut drawing);
        draw_budget_axis(&mut drawing, &budget, (bottom, millis(self.period)));
        for (index, configuration) in self.configurations.iter().enumerate() {
            let top = HEADER + ROW * index as f64 + LABELS;
            Strip {
                plot: self,
                configuration,
                budget,
                top,
            }
            .draw(&mut drawing);
        }
        Figure::new(name, caption, drawing)
    }

    /// Covers every swept budget and every prediction, with half a millisecond of air.
    fn budget_axis(&self) -> Axis {
        let swept = self
            .configurations
            .iter()
            .flat_map(|c| c.points.iter().map(|p| p.budget));
        let values = swept
            .chain(self.configurations.iter().map(|c| c.predicted))
            .map(millis);
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| {
            (low.min(v), high.max(v))
        });
        let values = if low > high {
            (0.0, millis(self.period))
        } else {
            (low - 0.5, high + 0.5)
        };
        Axis {
            spread: Spread::Linear,
            values,
            positions: (LEFT, RIGHT),
        }
    }

    fn draw_header(&self, drawing: &mut Drawing) {
        drawing.text(
            "title",
            At(NAMES, 26.0),
            (
                Anchor::Start,
                &fitted(&self.title, 15.0, WIDTH - 2.0 * NAMES),
            ),
        );
        let y = 52.0;
        drawing.line(
            "theory",
            At(NAMES + 4.0, y - 11.0),
            At(NAMES + 4.0, y + 3.0),
        );
        let tolerance = short_number(millis(self.tolerance), 2);
        drawing.text(
            "small muted",
            At(NAMES + 14.0, y),
            (
                Anchor::Start,
                &format!("least budget predicted, ±{tolerance} ms"),
            ),
        );
        drawing.dot("firstmiss", At(LEFT + 4.0, y - 4.0), (5.5, "first miss"));
        drawing.text(
            "small muted",
            At(LEFT + 15.0, y),
            (Anchor::Start, "first miss as Q shrinks"),
        );
        drawing.dot("missdot", At(LEFT + 164.0, y - 4.0), (3.2, "misses"));
        drawing.text(
            "small muted",
            At(LEFT + 173.0, y),
            (Anchor::Start, "share of jobs that missed"),
        );
        drawing.dot("nodot", At(LEFT + 336.0, y - 4.0), (3.0, "no miss"));
        drawing.text(
            "small muted",
            At(LEFT + 345.0, y),
            (Anchor::Start, "none missed"),
        );
        drawing.text(
            "small muted",
            At(VERDICT, y),
            (Anchor::End, "miss − prediction"),
        );
    }
}

fn draw_budget_axis(drawing: &mut Drawing, budget: &Axis, (bottom, period_ms): (f64, f64)) {
    for (index, (value, label)) in budget.ticks(11).into_iter().enumerate() {
        let x = budget.at(value);
        drawing.line("grid", At(x, HEADER + LABELS), At(x, bottom));
        drawing.line("tick", At(x, bottom), At(x, bottom + 5.0));
        drawing.text("small", At(x, bottom + 19.0), (Anchor::Middle, &label));
        if index % 2 == 0 && period_ms > 0.0 {
            let bandwidth = format!("{} %", short_number(100.0 * value / period_ms, 0));
            drawing.text(
                "muted tiny",
                At(x, bottom + 33.0),
                (Anchor::Middle, &bandwidth),
            );
        }
    }
    drawing.line("axis", At(LEFT, bottom), At(RIGHT, bottom));
    drawing.text(
        "small",
        At(LEFT - 12.0, bottom + 19.0),
        (Anchor::End, "budget Q (ms)"),
    );
    let share = format!("Q/P, P = {} ms", short_number(period_ms, 3));
    drawing.text(
        "muted tiny",
        At(LEFT - 12.0, bottom + 33.0),
        (Anchor::End, &share),
    );
}

/// One configuration's strip; `top` is where the miss share is 100 %.
struct Strip<'a> {
    plot: &'a EdgePlot,
    configuration: &'a EdgeConfiguration,
    budget: Axis,
    top: f64,
}

impl Strip<'_> {
    fn draw(&self, drawing: &mut Drawing) {
        self.draw_name(drawing);
        self.draw_prediction(drawing);
        self.draw_misses(drawing);
        self.draw_edge_labels(drawing);
        self.draw_verdict(drawing);
    }

    fn foot(&self) -> f64 {
        self.top + STRIP
    }

    fn misses(&self) -> Axis {
        Axis {
            spread: Spread::Symlog(KNEE),
            values: (0.0, 1.0),
            positions: (self.foot(), self.top),
        }
    }

    fn draw_name(&self, drawing: &mut Drawing) {
        let room = LEFT - NAMES - 54.0;
        let mut y = self.top + 4.0;
        for line in wrapped(&self.configuration.name, 13.0, (room, 2)) {
            drawing.text("strong", At(NAMES, y), (Anchor::Start, &line));
            y += 16.0;
        }
        for line in wrapped(&self.configuration.note, 11.0, (room, 3)) {
            drawing.text("muted small", At(NAMES, y), (Anchor::Start, &line));
            y += 14.0;
        }
    }

    fn draw_prediction(&self, drawing: &mut Drawing) {
        let (predicted, tolerance) = (
            millis(self.configuration.predicted),
            millis(self.plot.tolerance),
        );
        let clamp = |v: f64| self.budget.at(v).clamp(LEFT, RIGHT);
        drawing.rect(
            "band",
            At(clamp(predicted - tolerance), self.top),
            At(clamp(predicted + tolerance), self.foot()),
        );
        drawing.line("axis", At(LEFT, self.foot()), At(RIGHT, self.foot()));
        for (value, label) in [(0.0, "0"), (0.01, "1 %"), (1.0, "100 %")] {
            let y = self.misses().at(value);
            drawing.text("muted tiny", At(LEFT - 8.0, y + 3.5), (Anchor::End, label));
            if value > 0.0 {
                drawing.line("grid", At(LEFT, y), At(RIGHT, y));
            }
        }
        let x = self.budget.at(predicted);
        drawing.line("theory", At(x, self.top - 6.0), At(x, self.foot()));
    }

    fn draw_misses(&self, drawing: &mut Drawing) {
        let mut points = self.configuration.points.clone();
        points.sort_by_key(|p| p.budget);
        let places: Vec<At> = points.iter().map(|p| self.place(p)).collect();
        let Some(first) = places.first() else {
            return;
        };
        // The curve ends where misses do: at the first budget above which there are none.
        let missing = points.iter().rposition(|p| p.missed > 0);
        if let Some(last_miss) = missing {
            let end = (last_miss + 1).min(places.len() - 1);
            let mut line = PathData::default();
            line.move_to(*first);
            for at in places.iter().take(end + 1).skip(1) {
                line.line_to(*at);
            }
            let mut area = line.clone();
            area.line_to(At(places[end].0, self.foot()))
                .line_to(At(first.0, self.foot()))
                .close();
            drawing.path("missarea", &area);
            drawing.path("missline", &line);
        }
        for (point, at) in points.iter().zip(&places) {
            let is_first_miss = Some(point.budget) == self.configuration.first_miss();
            let (class, radius) = match point.missed {
                0 => ("nodot", 2.8),
                _ if is_first_miss => ("firstmiss", 6.0),
                _ => ("missdot", 3.2),
            };
            let q = short_number(millis(point.budget), 3);
            let tooltip = format!(
                "Q = {q} ms: {} of {} jobs missed ({})",
                point.missed,
                point.jobs,
                percent(share(point))
            );
            drawing.dot(class, *at, (radius, &tooltip));
        }
    }

    fn place(&self, point: &EdgePoint) -> At {
        At(
            self.budget.at(millis(point.budget)),
            self.misses().at(share(point)),
        )
    }

    /// Names both edges just above the strip, each on its own side, joined by a line that shows the distance.
    fn draw_edge_labels(&self, drawing: &mut Drawing) {
        let predicted = self.configuration.predicted;
        let at_prediction = self.budget.at(millis(predicted));
        let y = self.top - 8.0;
        let theory = format!("predicted {}", short_number(millis(predicted), 2));
        let Some(miss) = self.configuration.first_miss() else {
            drawing.text(
                "small theory",
                At(at_prediction + 6.0, y),
                (Anchor::Start, &theory),
            );
            return;
        };
        let at_miss = self.budget.at(millis(miss));
        let measured = format!("first miss {}", short_number(millis(miss), 2));
        let (left, right) = if miss <= predicted {
            (Anchor::End, Anchor::Start)
        } else {
            (Anchor::Start, Anchor::End)
        };
        let shift = |anchor: Anchor| if anchor == Anchor::End { -6.0 } else { 6.0 };
        drawing.text(
            "small miss",
            At(at_miss + shift(left), y),
            (left, &measured),
        );
        drawing.text(
            "small theory",
            At(at_prediction + shift(right), y),
            (right, &theory),
        );
        let height = self.top - 4.0;
        drawing.line("span", At(at_miss, height), At(at_prediction, height));
        drawing.line("span", At(at_miss, height - 3.0), At(at_miss, height + 3.0));
    }

    fn draw_verdict(&self, drawing: &mut Drawing) {
        let y = self.top + STRIP / 2.0;
        let Some((relation, distance)) = self.configuration.finding() else {
            drawing.text("muted", At(VERDICT, y + 4.0), (Anchor::End, "not measured"));
            return;
        };
        let tolerance = millis(self.plot.tolerance);
        let is_within = distance.abs() <= tolerance + ROUNDING_MS;
        let shown = short_number(tolerance, 2);
        let (class, verdict) = match (is_within, relation) {
            (true, Relation::At) => ("small good", format!("✓ within {shown} ms")),
            (true, Relation::Below) => ("small muted", "sweep lower".to_owned()),
            (true, Relation::AtLeast) => ("small muted", "sweep higher".to_owned()),
            // No miss down to a budget above the band, or one at the greatest below it: the edge may be in the band.
            (false, Relation::Below) if distance > 0.0 => ("small muted", "sweep lower".to_owned()),
            (false, Relation::AtLeast) if distance < 0.0 => {
                ("small muted", "sweep higher".to_owned())
            }
            (false, _) => ("small miss", format!("✗ beyond {shown} ms")),
        };
        let sign = match relation {
            Relation::At => "",
            Relation::Below => "< ",
            Relation::AtLeast => "≥ ",
        };
        let text = format!("{sign}{} ms", signed(distance));
        drawing.text("big", At(VERDICT, y + 2.0), (Anchor::End, &text));
        drawing.text(class, At(VERDICT, y + 19.0), (Anchor::End, &verdict));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(missing_up_to_us: u64, predicted_us: u64) -> EdgeConfiguration {
        let point = |half: u64| {
            let budget = Duration::from_micros(24_000 + 500 * half);
            let missed = if budget <= Duration::from_micros(missing_up_to_us) {
                40
            } else {
                0
            };
            EdgePoint {
                budget,
                missed,
                jobs: 400,
            }
        };
        EdgeConfiguration {
            name: "alone & <idle>".to_owned(),
            note: "aligned supply".to_owned(),
            predicted: Duration::from_micros(predicted_us),
            points: (0..=20).map(point).collect(),
        }
    }

    fn svg(configurations: Vec<EdgeConfiguration>) -> String {
        let plot = EdgePlot {
            title: "Edge".to_owned(),
            period: Duration::from_millis(50),
            tolerance: Duration::from_millis(1),
            configurations,
        };
        plot.figure("edge", "").drawing.inline()
    }

    #[test]
    fn the_first_miss_is_the_greatest_budget_with_one() {
        let edge = configuration(26_500, 26_700);
        assert_eq!(edge.first_miss(), Some(Duration::from_micros(26_500)));
        let (relation, distance) = edge.finding().unwrap();
        assert_eq!(relation, Relation::At);
        assert!((distance + 0.2).abs() < 1e-9);
    }

    #[test]
    fn each_configuration_shows_its_prediction_its_first_miss_and_its_distance() {
        let drawn = svg(vec![
            configuration(26_500, 26_700),
            configuration(29_500, 32_000),
        ]);
        for text in [
            "predicted 26.7",
            "first miss 26.5",
            "−0.2 ms",
            "✓ within 1 ms",
            "predicted 32",
            "−2.5 ms",
            "✗ beyond 1 ms",
        ] {
            assert!(drawn.contains(text), "{text}");
        }
        assert_eq!(drawn.matches("class=\"missline\"").count(), 2);
        assert!(drawn.contains("alone &amp; &lt;idle&gt;"));
    }

    #[test]
    fn a_first_miss_exactly_at_the_tolerance_is_within() {
        assert!(svg(vec![configuration(27_700, 26_700)]).contains("✓ within"));
    }

    #[test]
    fn a_sweep_that_does_not_enclose_the_edge_is_not_called_a_success() {
        let all_missed = svg(vec![configuration(34_000, 33_500)]);
        assert!(all_missed.contains("≥ +0.5 ms") && all_missed.contains("sweep higher"));
        let none_missed = svg(vec![configuration(0, 24_500)]);
        assert!(none_missed.contains("&lt; −0.5 ms") && none_missed.contains("sweep lower"));
        assert!(!all_missed.contains('✓') && !none_missed.contains('✓'));
    }

    #[test]
    fn a_sweep_without_misses_or_without_points_still_draws() {
        let none = svg(vec![configuration(0, 26_700)]);
        assert!(none.contains("&lt; −2.7 ms") && none.contains("✗ beyond 1 ms"));
        let mut unmeasured = configuration(0, 26_700);
        unmeasured.points.clear();
        assert!(svg(vec![unmeasured]).contains("not measured"));
        assert!(!svg(Vec::new()).contains("NaN"));
    }
}

//! Demand against supply over the length of an interval, with the instant that decides.
//!
//! A panel answers one question: does the supply catch up with the demand in time, and where?

use std::time::Duration;

use super::axis::{Axis, Spread, TimeUnit, time_label};
use super::svg::{Anchor, At, Drawing, PathData, fitted, wrapped};

const WIDTH: f64 = 860.0;
const MARGIN: f64 = 24.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - MARGIN;
const HEADER: f64 = 104.0;
const PLOT: f64 = 190.0;
const PANEL: f64 = PLOT + 74.0;
/// Height of a panel's name.
const NAME: f64 = 20.0;

/// A curve: lengths of intervals and CPU times.
pub type Curve = Vec<(Duration, Duration)>;

/// Where demand and supply are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instant {
    /// The length of the interval.
    pub at: Duration,
    /// What is demanded in it.
    pub demand: Duration,
    /// What is supplied in it.
    pub supply: Duration,
}

impl Instant {
    fn suffices(&self) -> bool {
        self.supply >= self.demand
    }
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Panel {
    /// What is compared: "task t1".
    pub name: String,
    /// What is demanded, a step function: each value holds up to its length.
    pub demand: Curve,
    /// What is supplied at least.
    pub supply: Curve,
    /// The deadline, if there is one for all of the panel.
    pub deadline: Option<Duration>,
    /// The instant that decides.
    pub witness: Option<Instant>,
}

/// The figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemandPlot {
    /// One line above the figure.
    pub title: String,
    /// The answer, with test and supply bound.
    pub note: String,
    /// The panels, from top to bottom.
    pub panels: Vec<Panel>,
}

impl DemandPlot {
    /// Draws the plot.
    pub fn drawing(&self) -> Drawing {
        let height = HEADER + PANEL * self.panels.len() as f64;
        let mut drawing = Drawing::new(&self.title, WIDTH, height);
        self.draw_header(&mut drawing);
        for (index, panel) in self.panels.iter().enumerate() {
            panel.draw(&mut drawing, HEADER + PANEL * index as f64 + NAME);
        }
        drawing
    }

    fn draw_header(&self, drawing: &mut Drawing) {
        let room = WIDTH - 2.0 * MARGIN;
        let title = fitted(&self.title, 15.0, room);
        drawing.text("title", At(MARGIN, 26.0), (Anchor::Start, &title));
        for (line, y) in wrapped(&self.note, 11.0, (room, 2))
            .iter()
            .zip([44.0, 58.0])
        {
            drawing.text("small muted", At(MARGIN, y), (Anchor::Start, line));
        }
        let y = 80.0;
        for (class, x, text) in [
            ("s1", MARGIN, "demanded at most"),
            ("s0", MARGIN + 150.0, "supplied at least"),
        ] {
            let mut key = PathData::default();
            key.move_to(At(x, y - 4.0)).line_to(At(x + 22.0, y - 4.0));
            drawing.path(&format!("curve {class}"), &key);
            drawing.text("small muted", At(x + 29.0, y), (Anchor::Start, text));
        }
    }
}

/// Both axes of a panel, in one unit.
struct Axes {
    unit: TimeUnit,
    length: Axis,
    time: Axis,
}

impl Axes {
    fn at(&self, (length, time): (Duration, Duration)) -> At {
        At(
            self.length.at(self.unit.of(length)),
            self.time.at(self.unit.of(time)),
        )
    }
}

impl Panel {
    fn axes(&self, top: f64) -> Axes {
        let curves = || self.demand.iter().chain(&self.supply);
        let end = curves().map(|(length, _)| *length).max();
        let most = curves().map(|(_, time)| *time).max();
        let least = Duration::from_nanos(1);
        let (end, most) = (end.unwrap_or(least), most.unwrap_or(least));
        let unit = TimeUnit::for_axis(end);
        let axis = |most: Duration, positions| Axis {
            spread: Spread::Linear,
            values: (0.0, unit.of(most.max(least))),
            positions,
        };
        Axes {
            unit,
            length: axis(end, (LEFT, RIGHT)),
            time: axis(most + most / 12, (top + PLOT, top)),
        }
    }

    fn draw(&self, drawing: &mut Drawing, top: f64) {
        let axes = self.axes(top);
        let name = fitted(&self.name, 13.0, RIGHT - LEFT);
        drawing.text("strong", At(LEFT, top - 8.0), (Anchor::Start, &name));
        draw_axes(drawing, &axes, top);
        if let Some(deadline) = self.deadline {
            let At(x, _) = axes.at((deadline, Duration::ZERO));
            drawing.line("bound", At(x, top), At(x, top + PLOT));
            let text = format!("deadline {}", time_label(deadline));
            drawing.text("small muted", At(x - 5.0, top + 11.0), (Anchor::End, &text));
        }
        draw_curve(drawing, "curve s1", &stepped(&self.demand), &axes);
        draw_curve(drawing, "curve s0", &self.supply, &axes);
        if let Some(witness) = self.witness {
            draw_witness(drawing, &witness, &axes);
        }
    }
}

fn draw_axes(drawing: &mut Drawing, axes: &Axes, top: f64) {
    let foot = top + PLOT;
    for (value, label) in axes.time.ticks(5) {
        let y = axes.time.at(value);
        drawing.line("grid", At(LEFT, y), At(RIGHT, y));
        drawing.text("small", At(LEFT - 8.0, y + 4.0), (Anchor::End, &label));
    }
    for (value, label) in axes.length.ticks(10) {
        let x = axes.length.at(value);
        drawing.line("tick", At(x, foot), At(x, foot + 5.0));
        drawing.text("small", At(x, foot + 18.0), (Anchor::Middle, &label));
    }
    drawing.line("axis", At(LEFT, foot), At(RIGHT, foot));
    drawing.line("axis", At(LEFT, top), At(LEFT, foot));
    let unit = axes.unit.symbol();
    let text = format!("length of the interval ({unit}); upwards CPU time ({unit})");
    drawing.text("small muted", At(RIGHT, foot + 34.0), (Anchor::End, &text));
}

/// The corners of a step function of which each value holds up to its length.
fn stepped(curve: &Curve) -> Curve {
    let mut corners = Curve::new();
    let mut from = Duration::ZERO;
    for &(to, value) in curve {
        match corners.last_mut() {
            Some(last) if last.1 == value => last.0 = to,
            _ => corners.extend([(from, value), (to, value)]),
        }
        from = to;
    }
    corners
}

fn draw_curve(drawing: &mut Drawing, class: &str, curve: &Curve, axes: &Axes) {
    let mut path = PathData::default();
    for (index, point) in curve.iter().enumerate() {
        match index {
            0 => path.move_to(axes.at(*point)),
            _ => path.line_to(axes.at(*point)),
        };
    }
    if !curve.is_empty() {
        drawing.path(class, &path);
    }
}

fn draw_witness(drawing: &mut Drawing, witness: &Instant, axes: &Axes) {
    let demand = axes.at((witness.at, witness.demand));
    let supply = axes.at((witness.at, witness.supply));
    let labels = [witness.demand, witness.supply, witness.at].map(time_label);
    let [demanded, supplied, length] = &labels;
    let (dot, class, text) = match witness.suffices() {
        true => (
            "ok",
            "small good",
            format!("enough at {length}: {supplied} for {demanded}"),
        ),
        false => (
            "firstmiss",
            "small miss",
            format!("too little at {length}: {supplied} for {demanded}"),
        ),
    };
    drawing.line("span", demand, supply);
    for at in [demand, supply] {
        drawing.dot(dot, at, (4.5, &text));
    }
    // On the side with more room, below both curves.
    let (anchor, shift) = match demand.0 > f64::midpoint(LEFT, RIGHT) {
        true => (Anchor::End, -10.0),
        false => (Anchor::Start, 10.0),
    };
    let y = demand.1.max(supply.1) + 14.0;
    let foot = axes.time.at(0.0) - 4.0;
    drawing.text(class, At(demand.0 + shift, y.min(foot)), (anchor, &text));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn plot(supplied: u64) -> String {
        let panel = Panel {
            name: "task <t1>".to_owned(),
            demand: vec![(ms(10), ms(3)), (ms(20), ms(3)), (ms(30), ms(6))],
            supply: vec![(ms(0), ms(0)), (ms(15), ms(0)), (ms(30), ms(15))],
            deadline: Some(ms(30)),
            witness: Some(Instant {
                at: ms(18),
                demand: ms(3),
                supply: ms(supplied),
            }),
        };
        let plot = DemandPlot {
            title: "EDF".to_owned(),
            note: "schedulable".to_owned(),
            panels: vec![panel.clone(), panel],
        };
        plot.drawing().standalone()
    }

    #[test]
    fn a_witness_says_what_was_supplied_and_whether_it_is_enough() {
        assert!(plot(3).contains("enough at 18 ms: 3 ms for 3 ms"));
        let short = plot(2);
        assert!(short.contains("too little at 18 ms: 2 ms for 3 ms"));
        assert_eq!(short.matches("deadline 30 ms").count(), 2);
        assert!(short.contains("task &lt;t1&gt;") && !short.contains("NaN"));
    }

    #[test]
    fn steps_are_drawn_as_steps() {
        let curve = vec![(ms(10), ms(3)), (ms(20), ms(3)), (ms(30), ms(6))];
        let corners = [
            (ms(0), ms(3)),
            (ms(20), ms(3)),
            (ms(20), ms(6)),
            (ms(30), ms(6)),
        ];
        assert_eq!(stepped(&curve), corners);
    }

    #[test]
    fn a_panel_without_curves_still_draws() {
        let empty = Panel {
            name: String::new(),
            demand: Vec::new(),
            supply: Vec::new(),
            deadline: None,
            witness: None,
        };
        let plot = DemandPlot {
            title: String::new(),
            note: String::new(),
            panels: vec![empty],
        };
        assert!(!plot.drawing().inline().contains("NaN"));
    }
}

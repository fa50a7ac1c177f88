//! A budget over time beside the need, and the response times that came of it.

use std::time::Duration;

use super::Figure;
use super::axis::{Axis, Spread};
use super::svg::{Anchor, At, Drawing, PathData, fitted};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 80.0;
const PANEL: f64 = 150.0;
const GAP: f64 = 52.0;

/// A value that holds from an instant on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// From when on.
    pub from: Duration,
    /// What.
    pub value: Duration,
}

/// When a job was released, and its response time if it finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Its release.
    pub at: Duration,
    /// Its response time.
    pub time: Option<Duration>,
}

/// The figure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowPlot {
    /// One line above the figure.
    pub title: String,
    /// The stretch shown, from 0.
    pub length: Duration,
    /// The server's period, up to which budgets are drawn.
    pub period: Duration,
    /// The relative deadline.
    pub deadline: Duration,
    /// Processor time needed in every period.
    pub need: Vec<Level>,
    /// Processor time reserved in every period.
    pub budget: Vec<Level>,
    /// The jobs.
    pub responses: Vec<Response>,
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl FollowPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let middle = TOP + PANEL + GAP;
        let bottom = middle + PANEL;
        let mut drawing = Drawing::new(&self.title, WIDTH, bottom + 50.0);
        let title = fitted(&self.title, 15.0, WIDTH - 48.0);
        drawing.text("title", At(24.0, 26.0), (Anchor::Start, &title));
        draw_key(&mut drawing);
        let time = Axis {
            spread: Spread::Linear,
            values: (0.0, self.length.as_secs_f64().max(1e-3)),
            positions: (LEFT, WIDTH - RIGHT),
        };
        let axis = |most: f64, (top, foot)| Axis {
            spread: Spread::Linear,
            values: (0.0, most),
            positions: (foot, top),
        };
        let share = axis(millis(self.period), (TOP, TOP + PANEL));
        draw_axes(&mut drawing, (&time, &share), "per period (ms)");
        drawing.path("curve s0", &self.steps(&self.budget, (&time, &share)));
        drawing.path("curve dashed s1", &self.steps(&self.need, (&time, &share)));
        let longest = self.responses.iter().filter_map(|job| job.time).max();
        let longest = millis(longest.unwrap_or_default().max(self.deadline)) * 1.05;
        let response = axis(longest, (middle, bottom));
        draw_axes(&mut drawing, (&time, &response), "response (ms)");
        self.draw_responses(&mut drawing, (&time, &response));
        drawing.text(
            "small",
            At((LEFT + WIDTH - RIGHT) / 2.0, bottom + 37.0),
            (Anchor::Middle, "time (s)"),
        );
        Figure::new(name, caption, drawing)
    }

    fn steps(&self, levels: &[Level], (time, value): (&Axis, &Axis)) -> PathData {
        let mut path = PathData::default();
        let inside = levels.iter().filter(|level| level.from <= self.length);
        let mut last = None;
        for level in inside {
            let (x, y) = (
                time.at(level.from.as_secs_f64()),
                value.at(millis(level.value)),
            );
            match last {
                None => path.move_to(At(x, y)),
                Some(before) => path.line_to(At(x, before)).line_to(At(x, y)),
            };
            last = Some(y);
        }
        if let Some(y) = last {
            path.line_to(At(time.at(self.length.as_secs_f64()), y));
        }
        path
    }

    fn draw_responses(&self, drawing: &mut Drawing, (time, value): (&Axis, &Axis)) {
        let deadline = value.at(millis(self.deadline));
        drawing.line("bound", At(LEFT, deadline), At(WIDTH - RIGHT, deadline));
        for job in self.responses.iter().filter(|job| job.at <= self.length) {
            let x = time.at(job.at.as_secs_f64());
            let (class, radius, y) = match job.time {
                Some(time) if time <= self.deadline => ("f0", 1.2, value.at(millis(time))),
                Some(time) => ("missdot", 2.4, value.at(millis(time))),
                None => ("missdot", 2.4, value.at(value.values.1)),
            };
            let told = job.time.map_or("never finished".to_owned(), |time| {
                format!("{:.2} ms", millis(time))
            });
            drawing.dot(class, At(x, y), (radius, &told));
        }
    }
}

fn draw_axes(drawing: &mut Drawing, (time, value): (&Axis, &Axis), label: &str) {
    let (foot, top) = value.positions;
    for (tick, text) in value.ticks(5) {
        let y = value.at(tick);
        drawing.line("grid", At(LEFT, y), At(WIDTH - RIGHT, y));
        drawing.text("muted small", At(LEFT - 8.0, y + 4.0), (Anchor::End, &text));
    }
    for (tick, text) in time.ticks(12) {
        let x = time.at(tick);
        drawing.line("tick", At(x, foot), At(x, foot + 5.0));
        drawing.text("muted small", At(x, foot + 18.0), (Anchor::Middle, &text));
    }
    drawing.line("axis", At(LEFT, foot), At(WIDTH - RIGHT, foot));
    drawing.text("small", At(LEFT, top - 6.0), (Anchor::Start, label));
}

fn draw_key(drawing: &mut Drawing) {
    let y = 46.0;
    for (x, class, name) in [
        (24.0, "curve dashed s1", "needed by the tasks"),
        (190.0, "curve s0", "budget in force"),
        (330.0, "bound", "deadline"),
    ] {
        drawing.line(class, At(x, y - 4.0), At(x + 24.0, y - 4.0));
        drawing.text("muted small", At(x + 31.0, y), (Anchor::Start, name));
    }
    drawing.dot("missdot", At(440.0, y - 4.0), (3.0, "missed"));
    drawing.text(
        "muted small",
        At(449.0, y),
        (Anchor::Start, "deadline missed"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn what_missed_is_told_from_what_did_not_and_what_is_outside_is_not_drawn() {
        let response = |at, time| Response { at: ms(at), time };
        let level = |from, value| Level {
            from: ms(from),
            value: ms(value),
        };
        let plot = FollowPlot {
            title: "Budget <x>".to_owned(),
            length: ms(1_000),
            period: ms(50),
            deadline: ms(50),
            need: vec![level(0, 10), level(500, 30)],
            budget: vec![level(0, 11), level(520, 40), level(2_000, 20)],
            responses: vec![
                response(0, Some(ms(11))),
                response(500, Some(ms(70))),
                response(550, None),
                response(3_000, None),
            ],
        };
        let svg = plot.figure("follow", "").drawing.inline();
        // One more is in the key.
        assert_eq!(svg.matches("class=\"missdot\"").count(), 3);
        assert_eq!(svg.matches("class=\"f0\"").count(), 1);
        assert!(svg.contains("never finished") && svg.contains("&lt;x&gt;"));
    }
}

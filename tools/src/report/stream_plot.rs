//! Media streams over time: how regularly frames came, what was lost, what arrived.

use std::ops::Range;
use std::time::Duration;

use super::Figure;
use super::axis::{Axis, Spread};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 24.0;
const TOP: f64 = 102.0;
/// Heights of the three panels.
const PANELS: [f64; 3] = [190.0, 90.0, 110.0];
const GAP: f64 = 46.0;
/// The deviations drawn where they are, at most: what is beyond is drawn at the edge. In ms.
const DEVIATIONS: (f64, f64) = (30.0, 150.0);

/// A frame that came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameDot {
    /// When.
    pub at: Duration,
    /// How far the time since the frame before is from nominal, in ms.
    pub deviation: f64,
}

/// Packets of all streams that were sent in a stretch of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stretch {
    /// When it begins.
    pub at: Duration,
    /// How many were sent.
    pub sent: usize,
    /// How many of these arrived.
    pub received: usize,
}

/// The figure.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamPlot {
    /// One line above the figure.
    pub title: String,
    /// The time shown; its beginning is called 0.
    pub window: Range<Duration>,
    /// Deviations up to this, in ms, are in order.
    pub bound: f64,
    /// The frames of each stream.
    pub streams: Vec<Vec<FrameDot>>,
    /// What was sent and what arrived, in stretches of this length.
    pub stretches: (Duration, Vec<Stretch>),
    /// What happened when.
    pub marks: Vec<(Duration, String)>,
}

impl StreamPlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let height = TOP + PANELS.iter().map(|panel| panel + GAP).sum::<f64>() + 8.0;
        let mut drawing = Drawing::new(&self.title, WIDTH, height);
        let title = fitted(&self.title, 15.0, WIDTH - 48.0);
        drawing.text("title", At(24.0, 26.0), (Anchor::Start, &title));
        self.draw_key(&mut drawing);
        let middle = TOP + PANELS[0] + GAP;
        let last = middle + PANELS[1] + GAP;
        self.draw_marks(&mut drawing, last + PANELS[2]);
        self.draw_deviations(&mut drawing, (TOP, TOP + PANELS[0]));
        self.draw_loss(&mut drawing, (middle, middle + PANELS[1]));
        self.draw_packets(&mut drawing, (last, last + PANELS[2]));
        let foot = At((LEFT + RIGHT) / 2.0, last + PANELS[2] + 37.0);
        drawing.text("small", foot, (Anchor::Middle, "time (s)"));
        Figure::new(name, caption, drawing)
    }

    fn time(&self) -> Axis {
        let length = self.window.end.saturating_sub(self.window.start);
        Axis {
            spread: Spread::Linear,
            values: (0.0, length.as_secs_f64().max(1e-3)),
            positions: (LEFT, RIGHT),
        }
    }

    fn x(&self, at: Duration) -> f64 {
        let since = at.as_secs_f64() - self.window.start.as_secs_f64();
        self.time().at(since)
    }

    fn frames(&self) -> impl Iterator<Item = (usize, &FrameDot)> {
        let streams = self.streams.iter().enumerate();
        let frames = streams.flat_map(|(stream, frames)| frames.iter().map(move |f| (stream, f)));
        frames.filter(|(_, frame)| self.window.contains(&frame.at))
    }

    fn draw_deviations(&self, drawing: &mut Drawing, (top, foot): (f64, f64)) {
        let sizes = self.frames().map(|(_, frame)| frame.deviation.abs());
        let most = sizes.fold(DEVIATIONS.0, f64::max).min(DEVIATIONS.1) * 1.05;
        let axis = Axis {
            spread: Spread::Linear,
            values: (-most, most),
            positions: (foot, top),
        };
        let (above, below) = (axis.at(self.bound), axis.at(-self.bound));
        drawing.rect("band", At(LEFT, above), At(RIGHT, below));
        self.draw_axes(drawing, &axis, "deviation of a frame's spacing (ms)");
        for y in [above, below] {
            drawing.line("bound", At(LEFT, y), At(RIGHT, y));
        }
        for (stream, frame) in self.frames() {
            let shown = frame.deviation.clamp(-most, most);
            let is_outside = frame.deviation.abs() > self.bound;
            let radius = if is_outside { 1.8 } else { 1.2 };
            let told = format!("stream {}: {:.1} ms", stream + 1, frame.deviation);
            let class = format!("f{}", stream % SERIES_COLOURS);
            let place = At(self.x(frame.at), axis.at(shown));
            drawing.dot(&class, place, (radius, &told));
        }
    }

    fn draw_loss(&self, drawing: &mut Drawing, (top, foot): (f64, f64)) {
        let loss = |stretch: &Stretch| match stretch.sent {
            0 => 0.0,
            sent => (1.0 - stretch.received as f64 / sent as f64) * 100.0,
        };
        let most = self.stretches.1.iter().map(loss).fold(5.0, f64::max) * 1.05;
        let axis = Axis {
            spread: Spread::Linear,
            values: (0.0, most),
            positions: (foot, top),
        };
        self.draw_axes(drawing, &axis, "packets lost (%)");
        drawing.path("missline", &self.steps(&axis, loss));
    }

    fn draw_packets(&self, drawing: &mut Drawing, (top, foot): (f64, f64)) {
        let length = self.stretches.0.as_secs_f64().max(1e-3);
        let rate = |count: usize| count as f64 / length;
        let rates = self.stretches.1.iter().map(|stretch| rate(stretch.sent));
        let axis = Axis {
            spread: Spread::Linear,
            values: (0.0, rates.fold(1.0, f64::max) * 1.05),
            positions: (foot, top),
        };
        self.draw_axes(drawing, &axis, "packets per second");
        let sent = self.steps(&axis, |stretch| rate(stretch.sent));
        let received = self.steps(&axis, |stretch| rate(stretch.received));
        drawing.path("curve dashed s1", &sent);
        drawing.path("curve s0", &received);
    }

    fn steps(&self, axis: &Axis, value: impl Fn(&Stretch) -> f64) -> PathData {
        let mut path = PathData::default();
        for (number, stretch) in self.stretches.1.iter().enumerate() {
            let y = axis.at(value(stretch));
            let (from, to) = (self.x(stretch.at), self.x(stretch.at + self.stretches.0));
            let (from, to) = (At(from.min(RIGHT), y), At(to.min(RIGHT), y));
            match number {
                0 => path.move_to(from),
                _ => path.line_to(from),
            };
            path.line_to(to);
        }
        path
    }

    fn draw_axes(&self, drawing: &mut Drawing, axis: &Axis, label: &str) {
        let (foot, top) = axis.positions;
        for (tick, text) in axis.ticks(6) {
            let y = axis.at(tick);
            drawing.line("grid", At(LEFT, y), At(RIGHT, y));
            drawing.text("muted small", At(LEFT - 8.0, y + 4.0), (Anchor::End, &text));
        }
        let time = self.time();
        for (tick, text) in time.ticks(12) {
            let x = time.at(tick);
            drawing.line("tick", At(x, foot), At(x, foot + 5.0));
            drawing.text("muted small", At(x, foot + 18.0), (Anchor::Middle, &text));
        }
        drawing.line("axis", At(LEFT, foot), At(RIGHT, foot));
        drawing.text("small", At(LEFT, top - 6.0), (Anchor::Start, label));
    }

    /// A line through all panels for each mark, with its number; the key says what it is.
    fn draw_marks(&self, drawing: &mut Drawing, foot: f64) {
        let mut x = 24.0;
        for (number, (at, what)) in self.marks.iter().enumerate() {
            let place = self.x(*at);
            drawing.line("lead", At(place, TOP - 20.0), At(place, foot));
            let number = (number + 1).to_string();
            let label = At(place + 3.0, TOP - 12.0 - 11.0 * f64::from(number == "2"));
            drawing.text("tiny strong", label, (Anchor::Start, &number));
            let what = format!("{number} {what}");
            drawing.text("small", At(x, 66.0), (Anchor::Start, &what));
            x += super::svg::text_width(&what, 11.0) + 18.0;
        }
    }

    fn draw_key(&self, drawing: &mut Drawing) {
        let y = 46.0;
        let mut x = 24.0;
        for stream in 0..self.streams.len() {
            let class = format!("f{}", stream % SERIES_COLOURS);
            drawing.dot(&class, At(x + 4.0, y - 4.0), (3.0, "stream"));
            let name = format!("stream {}", stream + 1);
            drawing.text("muted small", At(x + 12.0, y), (Anchor::Start, &name));
            x += 72.0;
        }
        for (class, name) in [("curve s0", "received"), ("curve dashed s1", "sent")] {
            drawing.line(class, At(x, y - 4.0), At(x + 24.0, y - 4.0));
            drawing.text("muted small", At(x + 31.0, y), (Anchor::Start, name));
            x += 96.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_outside_the_window_are_not_drawn_and_those_far_off_are_drawn_at_the_edge() {
        let ms = Duration::from_millis;
        let dot = |at, deviation| FrameDot {
            at: ms(at),
            deviation,
        };
        let stretch = |at, sent, received| Stretch {
            at: ms(at),
            sent,
            received,
        };
        let plot = StreamPlot {
            title: "Streams <x>".to_owned(),
            window: ms(1_000)..ms(3_000),
            bound: 20.0,
            streams: vec![
                vec![dot(1_500, 3.0), dot(5_000, 1.0)],
                vec![dot(2_000, -900.0)],
            ],
            stretches: (
                ms(1_000),
                vec![stretch(1_000, 100, 90), stretch(2_000, 0, 0)],
            ),
            marks: vec![(ms(2_000), "fifth stream".to_owned())],
        };
        let svg = plot.figure("streams", "").drawing.inline();
        assert!(svg.contains("stream 2: -900.0 ms") && svg.contains("&lt;x&gt;"));
        // One more of each is in the key.
        assert_eq!(svg.matches("class=\"f0\"").count(), 2);
        assert_eq!(svg.matches("class=\"f1\"").count(), 2);
        assert!(svg.contains("1 fifth stream") && !svg.contains("NaN"));
    }
}

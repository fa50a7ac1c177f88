//! A stretch of a schedule: releases, executions, deadlines and blackouts, one lane per task.
//!
//! The notation is the usual one of real-time scheduling: an arrow up is a release, an arrow down a deadline.

use std::time::Duration;

use super::Figure;
use super::axis::{Axis, Spread, TimeUnit, short_number};
use super::svg::{Anchor, At, Drawing, PathData, SERIES_COLOURS, fitted, text_width};

const WIDTH: f64 = 860.0;
const LEFT: f64 = 140.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 66.0;
const LANE: f64 = 56.0;
const BOX: f64 = 22.0;
const ARROW: f64 = 34.0;

/// A stretch of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub to: Duration,
}

/// A deadline on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// When it is.
    pub at: Duration,
    /// Whether its job missed it.
    pub missed: bool,
}

/// One task, or one virtual CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Its name, at the left.
    pub name: String,
    /// Arrows up.
    pub releases: Vec<Duration>,
    /// Arrows down.
    pub deadlines: Vec<Deadline>,
    /// Boxes.
    pub executions: Vec<Span>,
}

/// The figure: lanes over one time axis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePlot {
    /// One line above the figure.
    pub title: String,
    /// The stretch shown.
    pub window: Span,
    /// The lanes, from top to bottom.
    pub lanes: Vec<Lane>,
    /// When the virtual CPU had no supply; shaded across all lanes.
    pub blackouts: Vec<Span>,
}

impl TimelinePlot {
    /// Draws the plot as the figure `name`.
    pub fn figure(&self, name: &str, caption: &str) -> Figure {
        let bottom = TOP + LANE * self.lanes.len() as f64 + 8.0;
        let mut drawing = Drawing::new(&self.title, WIDTH, bottom + 50.0);
        drawing.text(
            "title",
            At(24.0, 26.0),
            (Anchor::Start, &fitted(&self.title, 15.0, WIDTH - 48.0)),
        );
        draw_notation(&mut drawing);
        let (unit, axis) = self.axis();
        let strip = Strip { unit, axis, bottom };
        strip.draw_axis(&mut drawing);
        drawing.begin_clip(At(LEFT, TOP - 12.0), At(WIDTH - RIGHT + 6.0, bottom));
        self.blackouts
            .iter()
            .for_each(|span| strip.draw_blackout(&mut drawing, *span));
        drawing.end_clip();
        for (index, lane) in self.lanes.iter().enumerate() {
            strip.draw_lane(&mut drawing, lane, index);
        }
        Figure::new(name, caption, drawing)
    }

    fn axis(&self) -> (TimeUnit, Axis) {
        let (from, to) = (
            self.window.from,
            self.window
                .to
                .max(self.window.from + Duration::from_nanos(100)),
        );
        // The unit follows the length of the window; a window late in a run still reads in milliseconds.
        let unit = TimeUnit::for_axis(to - from);
        let axis = Axis {
            spread: Spread::Linear,
            values: (unit.of(from), unit.of(to)),
            positions: (LEFT, WIDTH - RIGHT),
        };
        (unit, axis)
    }
}

struct Strip {
    unit: TimeUnit,
    axis: Axis,
    bottom: f64,
}

impl Strip {
    fn at(&self, time: Duration) -> f64 {
        self.axis.at(self.unit.of(time))
    }

    fn shows(&self, time: Duration) -> bool {
        (LEFT - 0.5..=WIDTH - RIGHT + 0.5).contains(&self.at(time))
    }

    fn draw_axis(&self, drawing: &mut Drawing) {
        for (value, label) in self.axis.ticks(10) {
            let x = self.axis.at(value);
            drawing.line("grid", At(x, TOP), At(x, self.bottom));
            drawing.line("tick", At(x, self.bottom), At(x, self.bottom + 5.0));
            drawing.text(
                "muted small",
                At(x, self.bottom + 19.0),
                (Anchor::Middle, &label),
            );
        }
        drawing.line(
            "axis",
            At(LEFT, self.bottom),
            At(WIDTH - RIGHT, self.bottom),
        );
        let label = format!("time ({})", self.unit.symbol());
        drawing.text(
            "small",
            At((LEFT + WIDTH - RIGHT) / 2.0, self.bottom + 37.0),
            (Anchor::Middle, &label),
        );
    }

    fn draw_blackout(&self, drawing: &mut Drawing, span: Span) {
        let (from, to) = (
            self.at(span.from).max(LEFT),
            self.at(span.to).min(WIDTH - RIGHT),
        );
        if to <= from {
            return;
        }
        drawing.rect("away", At(from, TOP), At(to, self.bottom));
        let label = short_number(self.unit.of(span.to.saturating_sub(span.from)), 2);
        if text_width(&label, 10.0) + 4.0 < to - from {
            drawing.text(
                "muted tiny",
                At((from + to) / 2.0, TOP - 2.0),
                (Anchor::Middle, &label),
            );
        }
    }

    fn draw_lane(&self, drawing: &mut Drawing, lane: &Lane, index: usize) {
        let foot = TOP + LANE * (index as f64 + 1.0);
        drawing.text(
            "strong",
            At(24.0, foot - 6.0),
            (Anchor::Start, &fitted(&lane.name, 12.0, LEFT - 36.0)),
        );
        drawing.line("axis", At(LEFT, foot), At(WIDTH - RIGHT, foot));
        drawing.begin_clip(
            At(LEFT - 5.0, foot - LANE),
            At(WIDTH - RIGHT + 5.0, foot + 4.0),
        );
        for span in &lane.executions {
            let (from, to) = (
                self.at(span.from).max(LEFT),
                self.at(span.to).min(WIDTH - RIGHT),
            );
            if to > from {
                // Executions of a few microseconds stay visible.
                drawing.rect(
                    &format!("run f{}", index % SERIES_COLOURS),
                    At(from, foot - BOX),
                    At(to.max(from + 0.8), foot),
                );
            }
        }
        for release in lane.releases.iter().filter(|r| self.shows(**r)) {
            draw_arrow(
                drawing,
                "ok",
                (
                    At(self.at(*release), foot),
                    At(self.at(*release), foot - ARROW),
                ),
            );
        }
        for deadline in lane.deadlines.iter().filter(|d| self.shows(d.at)) {
            let class = if deadline.missed { "bad" } else { "ok" };
            // A little to the left, so that it is told from the release that often falls on the same instant.
            let x = self.at(deadline.at) - 3.0;
            draw_arrow(drawing, class, (At(x, foot - ARROW), At(x, foot)));
        }
        drawing.end_clip();
    }
}

fn draw_arrow(drawing: &mut Drawing, class: &str, (tail, head): (At, At)) {
    let back = if head.1 < tail.1 { 6.0 } else { -6.0 };
    let mut path = PathData::default();
    path.move_to(tail).line_to(head);
    path.move_to(At(head.0 - 3.0, head.1 + back))
        .line_to(head)
        .line_to(At(head.0 + 3.0, head.1 + back));
    drawing.path(class, &path);
}

fn draw_notation(drawing: &mut Drawing) {
    let y = 46.0;
    draw_arrow(drawing, "ok", (At(28.0, y + 2.0), At(28.0, y - 11.0)));
    drawing.text("muted small", At(36.0, y), (Anchor::Start, "release"));
    draw_arrow(drawing, "ok", (At(98.0, y - 11.0), At(98.0, y + 2.0)));
    drawing.text("muted small", At(106.0, y), (Anchor::Start, "deadline"));
    draw_arrow(drawing, "bad", (At(172.0, y - 11.0), At(172.0, y + 2.0)));
    drawing.text(
        "muted small",
        At(180.0, y),
        (Anchor::Start, "deadline missed"),
    );
    drawing.rect("run f0", At(282.0, y - 9.0), At(302.0, y + 1.0));
    drawing.text("muted small", At(309.0, y), (Anchor::Start, "execution"));
    drawing.rect("away", At(376.0, y - 9.0), At(396.0, y + 1.0));
    drawing.text(
        "muted small",
        At(403.0, y),
        (Anchor::Start, "blackout: no supply, and how long"),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn only_what_falls_into_the_window_is_drawn() {
        let plot = TimelinePlot {
            title: "Window".to_owned(),
            window: Span {
                from: ms(100),
                to: ms(200),
            },
            lanes: vec![Lane {
                name: "t1 <x>".to_owned(),
                releases: vec![ms(0), ms(150), ms(300)],
                deadlines: vec![
                    Deadline {
                        at: ms(160),
                        missed: true,
                    },
                    Deadline {
                        at: ms(500),
                        missed: true,
                    },
                ],
                executions: vec![
                    Span {
                        from: ms(90),
                        to: ms(110),
                    },
                    Span {
                        from: ms(10),
                        to: ms(20),
                    },
                ],
            }],
            blackouts: vec![
                Span {
                    from: ms(120),
                    to: ms(142),
                },
                Span {
                    from: ms(0),
                    to: ms(50),
                },
            ],
        };
        let svg = plot.figure("timeline", "").drawing.inline();
        // One of each is in the notation line.
        assert_eq!(svg.matches("class=\"run f0\"").count(), 2);
        assert_eq!(svg.matches("class=\"away\"").count(), 2);
        assert_eq!(svg.matches("class=\"bad\"").count(), 2);
        assert_eq!(svg.matches("class=\"ok\"").count(), 3);
        assert!(svg.contains("t1 &lt;x&gt;") && svg.contains(">22<"));
    }
}

//! How far an experiment is, on standard error, for a person at a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// A bar over the expected time of the whole experiment. Without a terminal it shows nothing.
pub struct Progress {
    bar: ProgressBar,
    done: Duration,
    step: Instant,
    expected: Duration,
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Progress {
    /// A bar over `whole`; hidden when machines read the output.
    pub fn new(whole: Duration, json: bool) -> Self {
        let target = if json {
            ProgressDrawTarget::hidden()
        } else {
            // Hides itself where standard error is no terminal.
            ProgressDrawTarget::stderr_with_hz(4)
        };
        let bar = ProgressBar::with_draw_target(Some(millis(whole)), target);
        let template = "{msg:40!} [{bar:36}] {percent:>3} %  {elapsed_precise}, {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self {
            bar,
            done: Duration::ZERO,
            step: Instant::now(),
            expected: Duration::ZERO,
        }
    }

    /// Begins a step that will take about `expected`.
    pub fn step(&mut self, what: &str, expected: Duration) {
        self.done += self.expected;
        self.expected = expected;
        self.step = Instant::now();
        self.bar.set_message(what.to_owned());
        self.tick();
    }

    /// Shows the time that has passed. Called often.
    pub fn tick(&self) {
        let into = self.step.elapsed().min(self.expected);
        self.bar.set_position(millis(self.done + into));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

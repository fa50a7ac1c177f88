//! Waiting that ends when somebody wants the benchmark to end.

use std::time::{Duration, Instant};

use crate::experiment::interrupt;
use crate::failure::Failure;

/// How long a wait sleeps before it looks.
const STEP: Duration = Duration::from_millis(20);

/// Sleeps, unless interrupted.
pub fn sleep(duration: Duration) -> Result<(), Failure> {
    let begin = Instant::now();
    loop {
        interrupt::check()?;
        let rest = duration.saturating_sub(begin.elapsed());
        if rest.is_zero() {
            return Ok(());
        }
        std::thread::sleep(rest.min(STEP));
    }
}

/// Looks until `done` gives something; nothing once `limit` has passed.
pub fn wait_for<T>(
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>, Failure>,
) -> Result<Option<T>, Failure> {
    let begin = Instant::now();
    loop {
        if let Some(value) = done()? {
            return Ok(Some(value));
        }
        if begin.elapsed() > limit {
            return Ok(None);
        }
        sleep(STEP)?;
    }
}

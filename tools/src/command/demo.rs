//! `demo`: what this is about, in a minute.

use std::time::Duration;

use super::Context;
use super::experiment::failure;
use crate::experiment::demo;
use crate::failure::Failure;
use crate::report::terminal::Screen;

/// Runs the demonstration, `seconds` for each of its guests.
pub fn demo(context: &Context, seconds: u64) -> Result<u8, Failure> {
    let demonstration = demo::run(context, Duration::from_secs(seconds)).map_err(failure)?;
    context.print(&demonstration, |shown| shown.text(Screen::of_stdout()))?;
    Ok(0)
}

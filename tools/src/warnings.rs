//! What the libraries warn of, one line each on standard error. `RUST_LOG=debug` shows more, `RUST_LOG=off` nothing.

use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// Shows warnings from now on.
pub fn show() {
    let asked = std::env::var("RUST_LOG").unwrap_or_default();
    // An empty name would be that of errors alone.
    let level = Some(asked).filter(|level| !level.is_empty());
    let level = level.and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::WARN))
        .with_ansi(false)
        .with_writer(|| Stderr)
        .event_format(Line)
        .init();
}

/// A line such as `warning: ledger is damaged`.
struct Line;

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let kind = match *event.metadata().level() {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        write!(writer, "{kind}: ")?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Standard error, unless nobody reads it: the thread that warns may be the one that serves a guest, which never waits.
/// It never fails either: tracing-subscriber would tell of that by `eprintln`, which panics where standard error is gone.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let stderr = io::stderr();
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if poll(&mut polled, PollTimeout::ZERO) == Ok(1) {
            let _ = nix::unistd::write(&stderr, line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Ctrl-C and other requests to end, noticed at once and acted upon where everything can be undone.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::ExperimentError;

static ARRIVED: AtomicBool = AtomicBool::new(false);
/// How long a sleep lasts without looking.
const GLANCE: Duration = Duration::from_millis(20);
static WATCHER: OnceLock<()> = OnceLock::new();

/// From now on SIGINT, SIGTERM and SIGHUP do not end the process: they are noted.
///
/// Handlers are not inherited by processes started later, whose signals work as ever.
pub fn watch() -> Result<(), ExperimentError> {
    if WATCHER.set(()).is_err() {
        return Ok(());
    }
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            if let Err(error) = wait(&ready) {
                let _ = ready.send(Err(error));
            }
        })
        .map_err(ExperimentError::io("start a thread"))?;
    let answer = is_ready.recv().unwrap_or(Ok(()));
    answer.map_err(ExperimentError::io("watch for signals"))
}

fn wait(ready: &std::sync::mpsc::Sender<io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        let _ = ready.send(Ok(()));
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            ARRIVED.store(true, Ordering::Relaxed);
        }
    })
}

/// Sleeps, unless the end is asked for; `glance` is called meanwhile.
///
/// # Errors
/// [`ExperimentError::Interrupted`] if so.
pub fn sleep(duration: Duration, glance: impl Fn()) -> Result<(), ExperimentError> {
    let begin = Instant::now();
    loop {
        check()?;
        glance();
        let rest = duration.saturating_sub(begin.elapsed());
        if rest.is_zero() {
            return Ok(());
        }
        std::thread::sleep(rest.min(GLANCE));
    }
}

/// Whether the end was asked for.
///
/// # Errors
/// [`ExperimentError::Interrupted`] if so.
pub fn check() -> Result<(), ExperimentError> {
    if ARRIVED.load(Ordering::Relaxed) {
        return Err(ExperimentError::Interrupted);
    }
    Ok(())
}

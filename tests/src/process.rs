//! Processes that tests do something to, and wait for.

use std::fs;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// Whatever is waited for is over sooner, on a machine busy with other things.
pub const LIMIT: Duration = Duration::from_secs(40);
const NAP: Duration = Duration::from_millis(10);

/// Waits until `condition` holds.
///
/// # Panics
/// When that takes too long.
#[track_caller]
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < LIMIT, "not {what}");
        thread::sleep(NAP);
    }
}

/// A process that is always busy, ended on drop.
#[derive(Debug)]
pub struct Busy(Child);

impl Default for Busy {
    fn default() -> Self {
        Self::start()
    }
}

impl Busy {
    /// Starts it.
    ///
    /// # Panics
    /// When that cannot be.
    #[must_use]
    pub fn start() -> Self {
        let mut command = Command::new("sh");
        command.args(["-c", "while :; do :; done"]);
        Self(command.spawn().expect("a shell can be started"))
    }

    /// Its id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its state (proc(5)).
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).ok()?;
        let (_, rest) = stat.rsplit_once(") ")?;
        rest.chars().next()
    }

    /// Whether a signal has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.state() == Some('T')
    }

    /// Whether it runs under the ordinary policy (sched(7)).
    ///
    /// # Panics
    /// When `chrt` cannot be run.
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        let told = Command::new("chrt")
            .args(["--pid", &self.pid().to_string()])
            .output()
            .expect("chrt can be run");
        String::from_utf8_lossy(&told.stdout).contains("SCHED_OTHER")
    }

    /// That it runs as if nothing had ever been done to it.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn assert_free(&self) {
        until("free", || self.state() == Some('R') && self.is_ordinary());
        thread::sleep(NAP * 5);
        assert_eq!(self.state(), Some('R'));
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

//! QEMU while it runs: what it prints is kept, and a host that stands still is asked why, and ended.
//!
//! Its first serial port is QEMU's standard input and output, with QEMU's own commands mixed in: Ctrl-A b is a break, which
//! makes the kernel take the next key for a request (sysrq; the kernel's admin-guide/sysrq.rst).

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::BOOT_LIMIT;
use super::results::{self, Results};

/// What ends a case that took too long, and writes its output to the results port, is silent no longer than this, on a
/// machine that is busy with other things.
const GRACE: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(20);
/// All that the kernel says, to the console: what every CPU does, and which tasks wait for what.
const WHY: [char; 3] = ['9', 'l', 'w'];

/// How QEMU has ended.
pub(super) struct Ended {
    pub status: ExitStatus,
    /// How long the host had made no progress when it was ended, if that is why.
    pub stood_still: Option<Duration>,
    pub results: Results,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// Runs `qemu`, which writes results to `work`/results, to its end. `limits` are those of the cases.
pub(super) fn run(mut qemu: Command, work: &Path, limits: &[Duration]) -> io::Result<Ended> {
    let path = |name: &str| work.join(name);
    let mut child = qemu
        .stdin(Stdio::piped())
        .stdout(File::create(path("console"))?)
        .stderr(File::create(path("messages"))?)
        .spawn()?;
    let stood_still = watch(&mut child, &path("results"), limits)?;
    if stood_still.is_some() {
        ask_why(&mut child);
        end(&child);
    }
    let status = child.wait()?;
    // QEMU that fails at once leaves no such file.
    let results = results::parse(&fs::read(path("results")).unwrap_or_default());
    Ok(Ended {
        status,
        stood_still,
        results,
        stdout: fs::read(path("console"))?,
        stderr: fs::read(path("messages"))?,
    })
}

/// Waits until QEMU ends, or the host has made no progress for longer than it may: how long.
fn watch(child: &mut Child, results: &Path, limits: &[Duration]) -> io::Result<Option<Duration>> {
    let (mut seen, mut since) = (0, Instant::now());
    while child.try_wait()?.is_none() {
        let size = fs::metadata(results).map_or(0, |file| file.len());
        if size != seen {
            (seen, since) = (size, Instant::now());
        }
        let silent = since.elapsed();
        if silent > GRACE {
            let results = results::parse(&fs::read(results).unwrap_or_default());
            if silent > silence(&results, limits) {
                return Ok(Some(silent));
            }
        }
        thread::sleep(NAP);
    }
    Ok(None)
}

/// How long a host that has come so far may write nothing.
fn silence(results: &Results, limits: &[Duration]) -> Duration {
    match limits.get(results.finished.len()) {
        _ if !results.ready => BOOT_LIMIT,
        Some(limit) if results.in_case => *limit + GRACE,
        _ => GRACE,
    }
}

/// Has the kernel, if it still listens, print to the console what it is doing.
fn ask_why(child: &mut Child) {
    let Some(stdin) = &mut child.stdin else {
        return;
    };
    for key in WHY {
        // One that is gone needs no questions.
        let _ = write!(stdin, "\x01b").and_then(|()| stdin.flush());
        thread::sleep(NAP * 10);
        let _ = write!(stdin, "{key}").and_then(|()| stdin.flush());
        thread::sleep(Duration::from_secs(2));
    }
    // Ctrl-A c, and QEMU takes commands.
    let _ = write!(stdin, "\x01c\ninfo registers -a\n").and_then(|()| stdin.flush());
    thread::sleep(Duration::from_secs(2));
}

/// By a signal that `timeout` hands on to QEMU.
fn end(child: &Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_may_be_silent_for_as_long_as_what_it_is_at_may_take() {
        let limits = [Duration::from_secs(60), Duration::from_secs(1)];
        let after = |written: &str| silence(&results::parse(written.as_bytes()), &limits);
        assert_eq!(after(""), BOOT_LIMIT);
        assert_eq!(after("ready\n"), GRACE);
        assert_eq!(after("ready\nbegin 0\n"), limits[0] + GRACE);
        assert_eq!(after("ready\nbegin 0\nend 0 exit 0 0\n"), GRACE);
        let second = "ready\nbegin 0\nend 0 exit 0 0\nbegin 1\n";
        assert_eq!(after(second), limits[1] + GRACE);
        let all = format!("{second}end 1 exit 0 0\ndone\n");
        assert_eq!(after(&all), GRACE, "to switch itself off");
    }
}

//! `vtm` at a terminal: line editing, completion, history, and every way to leave.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use system_tests::process::until;
use system_tests::requires::Capability;
use system_tests::{Busy, Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);

/// The last CPU, on which the tests' VTMs are.
fn cpu() -> String {
    let count = thread::available_parallelism().unwrap().get();
    (count - 1).to_string()
}

/// The shell at a terminal.
struct Terminal {
    child: Child,
    keys: fs::File,
    shown: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(user: &User) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pair = openpty(&size, None).unwrap();
        let shell = user.command(&["vtm", "--cpu", &cpu(), "--slot", "8ms"]);
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(shell.get_program())
            .args(shell.get_args())
            .env("CHRONOVISOR_RUN_DIR", user.run_dir())
            .env("XDG_STATE_HOME", user.path("state"))
            .env("TERM", "xterm")
            .stdin(pair.slave.try_clone().unwrap())
            .stdout(pair.slave.try_clone().unwrap())
            .stderr(pair.slave);
        let child = command.spawn().unwrap();
        let keys = fs::File::from(pair.master);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut screen, seen) = (keys.try_clone().unwrap(), Arc::clone(&shown));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // The end of the shell is an error here.
            while let Ok(length @ 1..) = screen.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
                seen.lock().unwrap().push_str(&text);
            }
        });
        Self { child, keys, shown }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is shown, and forgets what was shown.
    #[track_caller]
    fn see(&self, expected: &str) {
        until(&format!("shown: {expected}"), || {
            let mut shown = self.shown.lock().unwrap();
            let found = shown.find(expected);
            if let Some(at) = found {
                shown.drain(..at + expected.len());
            }
            found.is_some()
        });
    }

    #[track_caller]
    fn ends(&mut self) -> Option<i32> {
        let mut status = None;
        until("ended", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_shell_completes_words_remembers_lines_and_releases_at_ctrl_c() {
    requires!(NICE, Need::Program("chrt"), Need::Program("setsid"));
    let user = User::new();
    let busy = Busy::start();
    let mut terminal = Terminal::open(&user);
    terminal.see("vtm> ");
    terminal.press("cre\tgold\r");
    terminal.press("reser\tgo\t8ms 40ms\r");
    terminal.see("gold: 8ms of every 40ms (20.0 %)");
    terminal.press("reserve gold -8ms 40ms\r");
    terminal.see("error: ");
    terminal.press(&format!("add gold {}\r", busy.pid()));
    terminal.see(&format!("job {}", busy.pid()));
    terminal.press("schedule\r");
    until("stopped in its turn", || busy.is_stopped());
    // The job's name is completed.
    terminal.press("rm g\t\t\r");
    busy.assert_free();
    terminal.press(&format!("add gold {}\r", busy.pid()));
    terminal.see(&format!("job {}", busy.pid()));
    // Ctrl-Z stops nothing.
    terminal.press("\u{1a}");
    terminal.press("help add\r");
    terminal.see("Usage");
    terminal.press("\u{3}");
    assert_eq!(terminal.ends(), Some(0));
    busy.assert_free();
    let history = fs::read_to_string(user.path("state/chronovisor/vtm-history")).unwrap();
    assert!(history.contains("create gold"), "{history}");

    // The line before, from the history.
    let mut terminal = Terminal::open(&user);
    terminal.see("vtm> ");
    terminal.press("\u{1b}[A\r");
    terminal.see("Usage");
}

#[test]
fn a_shell_that_is_told_to_end_releases_everything() {
    requires!(NICE, Need::Program("chrt"), Need::Program("setsid"));
    let user = User::new();
    let busy = Busy::start();
    // Ctrl-C while a command takes its time.
    let mut terminal = Terminal::open(&user);
    terminal.see("vtm> ");
    terminal.press("create gold\rreserve gold 8ms 40ms\r");
    terminal.press(&format!("add gold {}\rschedule\r", busy.pid()));
    until("stopped in its turn", || busy.is_stopped());
    terminal.press("wait 60s\r");
    terminal.see("wait 60s");
    thread::sleep(Duration::from_millis(300));
    terminal.press("\u{3}");
    assert_eq!(terminal.ends(), Some(128 + Signal::SIGINT as i32));
    busy.assert_free();

    // A signal from elsewhere while a line is edited.
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let mut terminal = Terminal::open(&user);
        terminal.see("vtm> ");
        terminal.press(&format!("create gold\radd gold {}\r", busy.pid()));
        terminal.see("job ");
        terminal.press("rese");
        terminal.see("rese");
        kill(
            Pid::from_raw(terminal.child.id().try_into().unwrap()),
            signal,
        )
        .unwrap();
        let status = terminal.ends();
        assert!(
            [Some(0), Some(128 + signal as i32)].contains(&status),
            "{status:?}"
        );
        busy.assert_free();
    }
}

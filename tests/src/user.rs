//! A user at the command line: the real `chronovisor` with a run directory of its own, every command with a time limit,
//! every guest ended with the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::built;
use crate::turn::{self, Turn};

/// Any command that does not run a guest is over sooner, on a machine busy with other things.
const SHORT: Duration = Duration::from_secs(40);
/// Between two looks at something that is waited for.
const NAP: Duration = Duration::from_millis(5);

/// A user with a run directory. Users of one machine take turns: what they reserve is the machine's.
#[derive(Debug)]
pub struct User {
    program: PathBuf,
    folder: TempDir,
    turn: Turn,
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Its exit status; 128 plus the signal that ended it otherwise, as shells have it.
    #[must_use]
    pub fn code(&self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let signal = self.status.signal().map(|signal| 128 + signal);
        self.status.code().or(signal).unwrap_or(-1)
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }

    /// Itself, if it ended with this status.
    ///
    /// # Panics
    /// When it did not, or when the program panicked.
    #[expect(
        clippy::return_self_not_must_use,
        reason = "often the status is all that is of interest"
    )]
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert!(
            self.code() == code && !self.stderr.contains("panicked"),
            "status {} instead of {code}: {self:?}",
            self.code()
        );
        self
    }
}

impl Default for User {
    fn default() -> Self {
        Self::new()
    }
}

impl User {
    /// A user with an empty run directory, once no other user is at this machine.
    ///
    /// # Panics
    /// When the program cannot be built or a folder not be made.
    #[must_use]
    pub fn new() -> Self {
        let program = built::chronovisor().unwrap_or_else(|error| panic!("{error}"));
        let turn = Turn::take(|run_dir| restore(&program, run_dir));
        let folder = tempfile::Builder::new()
            .prefix("chronovisor-user-")
            .tempdir()
            .expect("a temporary folder can be made");
        fs::create_dir(folder.path().join("run")).expect("a folder can be made in a new one");
        let user = Self {
            program,
            folder,
            turn,
        };
        user.turn.uses(&user.run_dir());
        user
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path in the user's own folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where sockets and ledger lie.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.path("run")
    }

    /// Writes a file into the user's own folder.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).expect("a file can be written");
        path
    }

    /// `chronovisor` with these arguments, not yet started.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("CHRONOVISOR_RUN_DIR", self.run_dir())
            .current_dir(self.folder.path());
        command
    }

    /// Runs `chronovisor` with these arguments to its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Ended {
        self.finish(self.command(arguments))
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    #[track_caller]
    pub fn finish(&self, command: Command) -> Ended {
        self.start(command, "").wait(SHORT)
    }

    /// Starts `chronovisor run` with this specification, in which the guest is called `name`.
    #[must_use]
    #[track_caller]
    pub fn launch(&self, name: &str, spec: &str, more: &[&str]) -> Guest<'_> {
        let file = self.spec(name, spec);
        let mut arguments = vec!["run", file.as_str()];
        arguments.extend(more);
        self.start(self.command(&arguments), name)
    }

    /// Writes a specification and returns its path as an argument.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn spec(&self, name: &str, spec: &str) -> String {
        let text = format!("name = {name:?}\n{spec}");
        let path = self.file(&format!("{}.toml", name.replace('/', "_")), text);
        path.to_string_lossy().into_owned()
    }

    /// Starts a command that runs the guest `name`; it ends with the test at the latest.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn start(&self, mut command: Command, name: &str) -> Guest<'_> {
        // Files, not pipes: nobody needs to read while the command runs.
        let output = |what: &str| {
            let file = tempfile::Builder::new()
                .prefix(what)
                .tempfile_in(self.folder.path());
            let (file, path) = file.and_then(|file| Ok(file.keep()?)).expect("a file");
            (Stdio::from(file), path)
        };
        let ((stdout, stdout_path), (stderr, stderr_path)) = (output("out-"), output("err-"));
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Guest {
            user: self,
            name: name.to_owned(),
            child,
            stdout: stdout_path,
            stderr: stderr_path,
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // What a test that failed had no time for; with the folder goes the knowledge of it.
        let restore = |run_dir: &Path| restore(&self.program, run_dir);
        if let Err(why) = turn::undo(&self.run_dir(), restore) {
            eprintln!("{why}");
        }
    }
}

/// Undoes what was prepared from a run directory.
fn restore(program: &Path, run_dir: &Path) -> Result<(), String> {
    let mut command = Command::new(program);
    command
        .args(["host", "restore"])
        .env("CHRONOVISOR_RUN_DIR", run_dir);
    let ended = command.output().map_err(|error| error.to_string())?;
    if ended.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&ended.stderr).into_owned())
}

/// A guest in the foreground of a process. Dropping it kills the process.
#[derive(Debug)]
pub struct Guest<'a> {
    user: &'a User,
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Guest<'_> {
    /// Process id of its monitor.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// Standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until `condition` holds.
    ///
    /// # Panics
    /// When that takes too long, or the process ends before.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            let ended = self.child.try_wait().expect("a child can be waited for");
            assert!(
                ended.is_none() && begun.elapsed() < SHORT,
                "not {what} ({ended:?}): {}{}",
                read(&self.stdout),
                read(&self.stderr)
            );
            thread::sleep(NAP);
        }
    }

    /// Waits until the process ends, or for `limit`; whether it has ended.
    ///
    /// # Panics
    /// When it cannot be waited for.
    #[must_use]
    pub fn ends_within(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if self
                .child
                .try_wait()
                .expect("a child can be waited for")
                .is_some()
            {
                return true;
            }
            thread::sleep(NAP);
        }
        false
    }

    /// Waits until the guest answers, and returns its status.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn status(&mut self) -> Value {
        let mut status = None;
        self.until("answering", |guest| {
            let answer = guest.user.run(&["--json", "status", &guest.name]);
            if answer.code() == 0 {
                status = Some(answer.json());
            }
            status.is_some()
        });
        status.unwrap_or_default()
    }

    /// Thread id of a vCPU.
    ///
    /// # Panics
    /// When there is no such vCPU.
    #[must_use]
    #[track_caller]
    pub fn vcpu_thread(&mut self, vcpu: usize) -> i64 {
        let status = self.status();
        status["vcpus"][vcpu]["tid"]
            .as_i64()
            .unwrap_or_else(|| panic!("no vCPU {vcpu}: {status}"))
    }

    /// Sends a signal to the process.
    ///
    /// # Panics
    /// When it has ended.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id is an i32");
        kill(Pid::from_raw(pid), signal).expect("a child can be sent a signal");
    }

    /// Waits for the end of the process.
    ///
    /// # Panics
    /// When it does not end within `limit`.
    #[must_use]
    #[track_caller]
    pub fn wait(mut self, limit: Duration) -> Ended {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Ended {
                    status,
                    stdout: read(&self.stdout),
                    stderr: read(&self.stderr),
                };
            }
            assert!(
                begun.elapsed() < limit,
                "{} still runs after {limit:?}: {}{}",
                self.name,
                read(&self.stdout),
                read(&self.stderr)
            );
            thread::sleep(NAP);
        }
    }

    /// `chronovisor stop`, and the end that follows.
    ///
    /// # Panics
    /// When it does not stop.
    #[track_caller]
    pub fn stop(self) -> Ended {
        let stopped = self.user.run(&["stop", &self.name]).expect(0);
        assert!(stopped.stdout.contains("stopped"), "{stopped:?}");
        self.wait(SHORT)
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

//! A process of the experiment: this program once more, doing one part. It ends with its owner, whatever happens.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{ExperimentError, interrupt};

/// What a part prints once it does what it is there for.
pub const READY: &str = "ready";

/// How long a part may take to get ready, or to end when asked.
const PATIENCE: Duration = Duration::from_secs(8);
const GLANCE: Duration = Duration::from_millis(20);

/// A running part. Dropping it ends the process and waits for that.
pub struct Part {
    name: String,
    child: Child,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl Part {
    /// Starts `chronovisor ARGUMENTS`; `folder` takes its standard error.
    ///
    /// Only from a thread that lives as long as the part is to: the kernel ties the part's life to it.
    pub fn spawn(name: &str, folder: &Path, arguments: &[String]) -> Result<Self, ExperimentError> {
        // By this name it is the same executable also after a new one was installed.
        let mut command = Command::new("/proc/self/exe");
        command.args(arguments);
        Self::start(name, folder, command)
    }

    /// As [`Part::spawn`], for a command that somebody else made of this program.
    pub fn start(name: &str, folder: &Path, mut command: Command) -> Result<Self, ExperimentError> {
        let stderr = folder.join(format!("{}.stderr", name.replace(' ', "-")));
        let said = File::create(&stderr)
            .map_err(ExperimentError::io(format!("create {}", stderr.display())))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .map_err(ExperimentError::io(format!("start {name}")))?;
        let (out, lines) = channel();
        if let Some(stdout) = child.stdout.take() {
            std::thread::Builder::new()
                .name("output".to_owned())
                .spawn(move || pass_on(stdout, &out))
                .map_err(ExperimentError::io("start a thread"))?;
        }
        Ok(Self {
            name: name.to_owned(),
            child,
            lines,
            stderr,
        })
    }

    /// Where its standard error goes.
    pub fn stderr(&self) -> &Path {
        &self.stderr
    }

    /// Whether it has ended, and why it failed then.
    pub fn ended(&mut self) -> Option<ExperimentError> {
        matches!(self.child.try_wait(), Ok(Some(_))).then(|| self.failed())
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).unwrap_or_default()
    }

    /// Waits until the part says that it is ready; the rest of the line.
    pub fn ready(&mut self) -> Result<String, ExperimentError> {
        self.line(READY)
    }

    /// Waits for a line that begins with `start`; the rest of it.
    pub fn line(&mut self, start: &str) -> Result<String, ExperimentError> {
        let started = Instant::now();
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    if let Some(rest) = line.strip_prefix(start) {
                        return Ok(rest.trim().to_owned());
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.failed()),
                Err(RecvTimeoutError::Timeout) if started.elapsed() > PATIENCE => {
                    return Err(self.silent(PATIENCE));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Waits until the part has ended well; what it printed. `glance` is called meanwhile.
    pub fn finish(
        self,
        patience: Duration,
        glance: impl FnMut(),
    ) -> Result<String, ExperimentError> {
        let (output, ended) = self.end(patience, glance)?;
        ended.map(|()| output)
    }

    /// Waits until the part has ended; what it printed, and why it failed if it did. `glance` is called meanwhile.
    pub fn end(
        mut self,
        patience: Duration,
        mut glance: impl FnMut(),
    ) -> Result<(String, Result<(), ExperimentError>), ExperimentError> {
        let started = Instant::now();
        let mut output = String::new();
        loop {
            interrupt::check()?;
            glance();
            match self.lines.recv_timeout(GLANCE) {
                Ok(line) => {
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) if started.elapsed() > patience => {
                    return Err(self.silent(patience));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        let ended = match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            _ => Err(self.failed()),
        };
        Ok((output, ended))
    }

    fn silent(&self, patience: Duration) -> ExperimentError {
        ExperimentError::Silent {
            name: self.name.clone(),
            patience,
            stderr: self.stderr.clone(),
        }
    }

    /// The part has ended, and not well.
    fn failed(&mut self) -> ExperimentError {
        let status = self.child.wait();
        let said = fs::read_to_string(&self.stderr).unwrap_or_default();
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        let said: Vec<&str> = last.into_iter().rev().collect();
        ExperimentError::Part {
            name: self.name.clone(),
            status: status.map_or_else(|e| e.to_string(), |status| status.to_string()),
            said: said.join("; "),
        }
    }

    fn signal(&self, signal: Signal) {
        // The child is not waited for yet, so its pid is still its own.
        let _ = kill(Pid::from_raw(self.pid()), signal);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal(Signal::SIGTERM);
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(GLANCE);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pass_on(stdout: ChildStdout, out: &std::sync::mpsc::Sender<String>) {
    let mut lines = BufReader::new(stdout);
    loop {
        let mut line = String::new();
        match lines.read_line(&mut line) {
            Ok(0) | Err(_) => break,
            Ok(_) if out.send(line.trim_end().to_owned()).is_err() => break,
            Ok(_) => {}
        }
    }
    // A part whose reader went away must not fail because of that.
    let _ = lines.read_to_end(&mut Vec::new());
}

//! Guests as a user runs them: `chronovisor run SPEC`, a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use vmm::telemetry::Event;

use super::{Bench, wait};
use crate::failure::Failure;

/// This program; by this name it is the same file also after a new one was installed.
pub const PROGRAM: &str = "/proc/self/exe";
/// How long a guest may take to end beyond its own duration.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a guest is to be.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// Its name.
    pub name: String,
    /// Its command line.
    pub line: String,
    /// The `[cpu]` table of its specification.
    pub cpu: String,
    /// Its memory, where the usual amount is not meant.
    pub memory: Option<&'static str>,
}

impl GuestPlan {
    /// A guest in a reservation (Q, P), in milliseconds.
    pub fn reserved(name: impl Into<String>, line: impl Into<String>, (q, p): (f64, f64)) -> Self {
        Self {
            name: name.into(),
            line: line.into(),
            cpu: format!("runtime = \"{q}ms\"\nperiod = \"{p}ms\"\n"),
            memory: None,
        }
    }

    /// The same with another line in its `[cpu]` table.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.cpu.push_str(line);
        self.cpu.push('\n');
        self
    }

    fn text(&self) -> String {
        let memory = self
            .memory
            .map_or_else(String::new, |size| format!("memory = \"{size}\"\n"));
        format!(
            "name = \"{}\"\n[guest]\n{memory}command_line = \"{}\"\n[cpu]\n{}",
            self.name, self.line, self.cpu
        )
    }
}

/// A guest that runs. Dropping it ends it.
#[derive(Debug)]
pub struct Guest {
    name: String,
    child: Child,
    records: PathBuf,
    errors: PathBuf,
}

impl Bench {
    /// The command that runs a guest.
    pub fn command(&self, plan: &GuestPlan) -> Result<Command, Failure> {
        self.command_of(Path::new(PROGRAM), plan)
    }

    fn command_of(&self, program: &Path, plan: &GuestPlan) -> Result<Command, Failure> {
        let spec = self
            .scratch
            .write(&format!("{}.toml", plan.name), plan.text().as_bytes())?;
        let mut command = Command::new(program);
        command
            .arg("--run-dir")
            .arg(&self.run_dir)
            .arg("run")
            .arg(spec)
            .arg("--force")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        Ok(command)
    }

    /// Starts a guest, waits for its first line of output, and keeps its records.
    pub fn start(&self, plan: &GuestPlan) -> Result<Guest, Failure> {
        self.start_by(Path::new(PROGRAM), plan)
    }

    /// The same with another copy of this program.
    pub fn start_by(&self, program: &Path, plan: &GuestPlan) -> Result<Guest, Failure> {
        let records = self.scratch.path(&format!("{}.records", plan.name));
        let errors = self.scratch.path(&format!("{}.errors", plan.name));
        let mut child = self
            .command_of(program, plan)?
            .arg("--records")
            .arg(&records)
            .stderr(File::create(&errors)?)
            .spawn()?;
        let output = child.stdout.take();
        let mut guest = Guest {
            name: plan.name.clone(),
            child,
            records,
            errors,
        };
        let mut output = BufReader::new(output.ok_or_else(|| guest.failed())?);
        let mut first = String::new();
        if output.read_line(&mut first)? == 0 {
            return Err(guest.failed());
        }
        // The rest is taken from it, so that the guest never waits for a reader.
        std::thread::spawn(move || output.read_to_end(&mut Vec::new()));
        Ok(guest)
    }
}

impl Guest {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself, at most a little more than `duration`; its records.
    pub fn finish(mut self, duration: Duration) -> Result<Vec<Event>, Failure> {
        let child = &mut self.child;
        let ended = wait::wait_for(duration + PATIENCE, || Ok(child.try_wait()?))?;
        match ended {
            Some(status) if status.success() => self.read_records(),
            Some(_) => Err(self.failed()),
            None => Err(Failure::new(format!("guest {} does not end", self.name))),
        }
    }

    /// Ends it; its records.
    pub fn stop(mut self) -> Result<Vec<Event>, Failure> {
        self.end();
        self.read_records()
    }

    fn read_records(&self) -> Result<Vec<Event>, Failure> {
        BufReader::new(File::open(&self.records)?)
            .lines()
            .map(|line| Ok(serde_json::from_str(&line?)?))
            .collect()
    }

    /// Asks it to end, and makes it end if it does not.
    fn end(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            // It is not waited for yet, so the pid is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let asked = Instant::now();
        while asked.elapsed() < PATIENCE {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn failed(&mut self) -> Failure {
        self.end();
        let said = std::fs::read_to_string(&self.errors).unwrap_or_default();
        Failure::new(format!("guest {}: {}", self.name, said.trim()))
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

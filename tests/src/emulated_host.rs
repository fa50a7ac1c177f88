//! A host with ordinary hardware virtualisation, made by software: QEMU without acceleration
//! emulates a CPU with AMD's SVM, and in it Debian's stock kernel offers an ordinary `/dev/kvm`.
//!
//! What is only possible on VMX or SVM, on the version 2 cgroup hierarchy or with other kernel
//! options is tested here, wherever the tests run. Nothing measured here says anything about time:
//! emulated instructions have no caches and world switches cost next to nothing.
//!
//! ```no_run
//! use std::time::Duration;
//! use system_tests::EmulatedHost;
//!
//! let report = EmulatedHost::new()
//!     .executable("target/debug/kvm-probe")
//!     .case("kvm answers", Duration::from_secs(10), "kvm-probe")
//!     .boot()?;
//! report.case("kvm answers").assert_success();
//! # Ok::<(), system_tests::emulated_host::HostError>(())
//! ```

mod debian;
mod executable;
mod initramfs;
mod machine;
mod modules;
mod results;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::requires;
use initramfs::Initramfs;
use machine::Ended;
pub use results::Outcome;
use results::Results;

const QEMU: &str = "qemu-system-x86_64";
/// To the first case, on a machine that is busy with other things; three seconds on an idle one.
const BOOT_LIMIT: Duration = Duration::from_secs(90);
/// How much of the console an error shows, in lines: a kernel's report of its own end has about 60,
/// the reason first.
const CONSOLE_TAIL: usize = 100;

/// Why an emulated host could not be made, or did not run its cases to the end.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// QEMU is not installed.
    #[error("{QEMU} is not on PATH; install the package qemu-system-x86")]
    NoQemu,
    /// A Debian package cannot be had.
    #[error("the Debian package {package} is not to be had, try apt-get update: {reason}")]
    Package {
        /// Its name.
        package: String,
        /// What apt or dpkg said.
        reason: String,
    },
    /// The kernel has no such module.
    #[error("the kernel package has no module {module}; check the name")]
    NoModule {
        /// Its name.
        module: String,
    },
    /// An executable needs a dynamic loader that the emulated host has not.
    #[error("{} is linked dynamically; link it statically or pack it with `program`", path.display())]
    NotStatic {
        /// The executable.
        path: PathBuf,
    },
    /// A program or one of its libraries cannot be found.
    #[error("{name} cannot be packed; install it: {reason}")]
    NoProgram {
        /// The program.
        name: String,
        /// What was missing.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The operating system's reason.
        source: io::Error,
    },
    /// The host did not run all its cases.
    #[error("the emulated host {state} ({qemu}); the console ends:\n{console}")]
    Stopped {
        /// How far it came.
        state: String,
        /// How QEMU ended.
        qemu: String,
        /// The last lines of its console and of QEMU's messages.
        console: String,
    },
}

impl HostError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        HostError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Whether this machine can make an emulated host; fetches the kernel when it is not there yet.
///
/// # Errors
/// Says what is missing.
pub fn ready() -> Result<(), HostError> {
    requires::find_program(QEMU).ok_or(HostError::NoQemu)?;
    debian::parts().map(drop)
}

/// An emulated host that has not been booted: what it consists of, and the cases to run on it.
#[derive(Clone, Debug)]
pub struct EmulatedHost {
    cpus: u32,
    memory_mib: u32,
    kernel_options: Vec<String>,
    modules: Vec<String>,
    files: Vec<(PathBuf, String)>,
    executables: Vec<PathBuf>,
    programs: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Clone, Debug)]
struct Case {
    name: String,
    limit: Duration,
    script: String,
}

impl Default for EmulatedHost {
    fn default() -> Self {
        Self::new()
    }
}

impl EmulatedHost {
    /// Two CPUs, 1 GiB, KVM for AMD, cgroup version 2 with the cpuset and cpu controllers handed
    /// to the root's children.
    #[must_use]
    pub fn new() -> Self {
        EmulatedHost {
            cpus: 2,
            memory_mib: 1024,
            kernel_options: Vec::new(),
            modules: vec!["kvm-amd".to_owned()],
            files: Vec::new(),
            executables: Vec::new(),
            programs: Vec::new(),
            cases: Vec::new(),
        }
    }

    /// Gives the host `count` CPUs.
    #[must_use]
    pub fn cpus(mut self, count: u32) -> Self {
        self.cpus = count;
        self
    }

    /// Gives the host so much memory, in MiB.
    #[must_use]
    pub fn memory_mib(mut self, size: u32) -> Self {
        self.memory_mib = size;
        self
    }

    /// Adds to the kernel's command line, for example `isolcpus=1`.
    #[must_use]
    pub fn kernel_option(mut self, option: &str) -> Self {
        self.kernel_options.push(option.to_owned());
        self
    }

    /// Loads a kernel module and those it depends on.
    #[must_use]
    pub fn module(mut self, name: &str) -> Self {
        self.modules.push(name.to_owned());
        self
    }

    /// Puts a statically linked executable on the host's `PATH` under its own name.
    #[must_use]
    pub fn executable(mut self, path: impl Into<PathBuf>) -> Self {
        self.executables.push(path.into());
        self
    }

    /// Puts a program of this machine, with the libraries it is linked with, on the host's `PATH`.
    #[must_use]
    pub fn program(mut self, name: &str) -> Self {
        self.programs.push(name.to_owned());
        self
    }

    /// Puts the file `source` at the absolute path `destination`.
    #[must_use]
    pub fn file(mut self, source: impl Into<PathBuf>, destination: &str) -> Self {
        self.files.push((source.into(), destination.to_owned()));
        self
    }

    /// Adds a case: a shell script that is ended, with all its processes, after `limit` (whole
    /// seconds, at least one). Cases run in the order they were added, as root, in an empty root
    /// folder.
    #[must_use]
    pub fn case(mut self, name: &str, limit: Duration, script: &str) -> Self {
        self.cases.push(Case {
            name: name.to_owned(),
            limit: Duration::from_secs(limit.as_secs().max(1)),
            script: script.to_owned(),
        });
        self
    }

    /// Boots the host, runs the cases and switches it off.
    ///
    /// # Errors
    /// When a part is missing, or the host stopped before all cases had ended: a panic of its
    /// kernel, or its time was up. A case that fails or times out is no error but an outcome.
    pub fn boot(&self) -> Result<Report, HostError> {
        requires::find_program(QEMU).ok_or(HostError::NoQemu)?;
        let parts = debian::parts()?;
        let work = tempfile::Builder::new()
            .prefix("chronovisor-host-")
            .tempdir();
        let work =
            work.map_err(|source| HostError::io("create a folder in", Path::new("/tmp"), source))?;
        let initramfs = work.path().join("initramfs");
        fs::write(&initramfs, self.pack(&parts)?)
            .map_err(|source| HostError::io("write", &initramfs, source))?;
        let limits: Vec<_> = self.cases.iter().map(|case| case.limit).collect();
        let started = Instant::now();
        let qemu = self.qemu(&parts.kernel, &initramfs, &work.path().join("results"));
        let ended = machine::run(qemu, work.path(), &limits)
            .map_err(|source| HostError::io("run", Path::new("timeout"), source))?;
        self.report(ended, started.elapsed())
    }

    /// `timeout` bounds the run even when the test that waits for it is killed.
    fn qemu(&self, kernel: &Path, initramfs: &Path, results: &Path) -> Command {
        let limits: Duration = self.cases.iter().map(|case| case.limit).sum();
        let mut command = Command::new("timeout");
        command
            .args(["--foreground", "--kill-after=5"])
            .arg((BOOT_LIMIT + limits).as_secs().to_string())
            .arg(QEMU)
            .args(["-machine", "q35", "-accel", "tcg,thread=multi"])
            .args(["-cpu", "EPYC,+svm,+npt", "-smp", &self.cpus.to_string()])
            .args(["-m", &self.memory_mib.to_string()])
            .args([
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
                "-serial",
                "mon:stdio",
                "-serial",
            ])
            .arg(format!("file:{}", results.display()))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", &self.command_line()]);
        command
    }

    fn command_line(&self) -> String {
        // `panic=-1` reboots at once, which ends QEMU; `quiet` saves a second of serial output.
        let mut line = "console=ttyS0 panic=-1 quiet sysrq_always_enabled".to_owned();
        for option in &self.kernel_options {
            line.push(' ');
            line.push_str(option);
        }
        line
    }

    fn pack(&self, parts: &debian::Parts) -> Result<Vec<u8>, HostError> {
        let read =
            |path: &Path| fs::read(path).map_err(|source| HostError::io("read", path, source));
        let mut archive = Initramfs::default();
        for folder in [
            "proc", "sys", "dev", "run", "tmp", "root", "cases", "modules",
        ] {
            archive.folder(folder);
        }
        archive.executable("/init", include_bytes!("emulated_host/init.sh"));
        archive.executable("/bin/busybox", &read(&parts.busybox)?);
        let mut modules = Vec::new();
        for module in &self.modules {
            modules::add(&parts.modules, module, &mut modules)?;
        }
        for (order, (name, content)) in modules.iter().enumerate() {
            archive.file(&format!("/modules/{order:02}-{name}.ko"), content);
        }
        for path in &self.executables {
            executable::add_static(path, &mut archive)?;
        }
        for name in &self.programs {
            executable::add_dynamic(name, &mut archive)?;
        }
        for (source, destination) in &self.files {
            archive.file(destination, &read(source)?);
        }
        for (index, case) in self.cases.iter().enumerate() {
            archive.file(&format!("/cases/{index}.sh"), case.script.as_bytes());
            archive.file(&format!("/cases/{index}.name"), case.name.as_bytes());
            let seconds = case.limit.as_secs().to_string();
            archive.file(&format!("/cases/{index}.limit"), seconds.as_bytes());
        }
        Ok(archive.finish())
    }

    fn report(&self, ended: Ended, wall: Duration) -> Result<Report, HostError> {
        let console = console_text(&ended);
        let results = ended.results;
        if !results.done || results.finished.len() != self.cases.len() {
            return Err(HostError::Stopped {
                state: self.how_far(&results),
                qemu: match (ended.stood_still, ended.status.code()) {
                    (Some(silent), _) => {
                        format!("no progress for {} s", silent.as_secs())
                    }
                    (None, Some(124 | 137)) => "its time was up".to_owned(),
                    _ => format!("QEMU ended with {}", ended.status),
                },
                console: tail(&console, CONSOLE_TAIL),
            });
        }
        let cases = self.cases.iter().zip(results.finished);
        let cases = cases.map(|(case, (outcome, output))| CaseReport {
            name: case.name.clone(),
            outcome,
            output: String::from_utf8_lossy(&output).into_owned(),
        });
        Ok(Report {
            cases: cases.collect(),
            console,
            wall,
        })
    }

    fn how_far(&self, results: &Results) -> String {
        let case = self.cases.get(results.finished.len());
        match case {
            _ if !results.ready => "did not come up".to_owned(),
            Some(case) if results.in_case => format!("stopped during the case `{}`", case.name),
            Some(case) => format!("stopped before the case `{}`", case.name),
            None => "did not switch itself off".to_owned(),
        }
    }
}

/// What an emulated host that ran all its cases has to tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// The cases, in the order they were given.
    pub cases: Vec<CaseReport>,
    /// What appeared on the console, kernel messages included.
    pub console: String,
    /// From the start of QEMU to its end, on this machine's clock.
    pub wall: Duration,
}

impl Report {
    /// The case called `name`.
    ///
    /// # Panics
    /// When no case has that name.
    #[must_use]
    pub fn case(&self, name: &str) -> &CaseReport {
        self.cases
            .iter()
            .find(|case| case.name == name)
            .unwrap_or_else(|| panic!("no case is called `{name}`"))
    }
}

/// What became of one case.
#[derive(Clone, Debug)]
pub struct CaseReport {
    /// Its name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Standard output and standard error; of a long one the first and the last 128 KiB.
    pub output: String,
}

impl CaseReport {
    /// Returns the output of a case that must have ended with exit status 0.
    ///
    /// # Panics
    /// When it did not, with its output.
    pub fn assert_success(&self) -> &str {
        assert_eq!(
            self.outcome,
            Outcome::Exit(0),
            "the case `{}` failed; it printed:\n{}",
            self.name,
            self.output
        );
        &self.output
    }
}

/// The console, then QEMU's own messages without those about features of the CPU model that
/// emulation always lacks.
fn console_text(qemu: &Ended) -> String {
    let mut text = String::from_utf8_lossy(&qemu.stdout).replace('\r', "");
    let messages = String::from_utf8_lossy(&qemu.stderr);
    for line in messages
        .lines()
        .filter(|line| !line.contains("TCG doesn't support"))
    {
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

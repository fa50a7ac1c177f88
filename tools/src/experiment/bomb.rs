//! A fork bomb: processes that start themselves for as long as they live, on one CPU, in a control group that bounds how
//! many there are (Documentation/admin-guide/cgroup-v1/pids.rst) and by which they are ended.
//!
//! Each also ends with the one that started it, so that nothing is left even if the experiment is killed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use sched::cgroup::{Hierarchy, PREFIX};

use super::ExperimentError;
use super::guest::path;
use super::load::enter;
use super::part::owner;
use super::process::{Part, READY};
use super::stage::Stage;
use crate::failure::Failure;

/// As many processes as there can be.
const LIMIT: u32 = 100;
/// How long each of them lives; the first one until it is ended.
const LIFE: Duration = Duration::from_millis(200);
/// How long ending them may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// `experiment part bomb`.
#[derive(Debug, Args)]
pub struct BombArgs {
    /// The CPU, for the first one.
    #[arg(long, requires = "group")]
    cpu: Option<u32>,
    /// The control group, for the first one.
    #[arg(long)]
    group: Option<PathBuf>,
    /// The process it ends with.
    #[arg(long)]
    pub owner: i32,
}

/// A fork bomb that goes off. Dropping it ends every process of it.
pub struct Bomb {
    group: Group,
    _first: Part,
}

impl Bomb {
    /// Lets one go off on the stage's CPU.
    pub fn start(stage: &Stage) -> Result<Self, ExperimentError> {
        let group = Group::create()?;
        let mut arguments = stage.arguments("bomb");
        arguments.extend(["--cpu".to_owned(), stage.cpu.to_string()]);
        arguments.extend(["--group".to_owned(), path(&group.0)]);
        arguments.extend(owner());
        let mut first = Part::spawn("the fork bomb", &stage.folder, &arguments)?;
        first.ready()?;
        Ok(Self {
            group,
            _first: first,
        })
    }
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.group.end_all();
    }
}

/// Its control group. Dropping it ends all in it and removes it.
struct Group(PathBuf);

impl Group {
    fn create() -> Result<Self, ExperimentError> {
        let hierarchy = Hierarchy::of("pids").map_err(|source| ExperimentError::Group {
            action: "bound a fork bomb".to_owned(),
            source,
        })?;
        clear_orphans(&hierarchy.root);
        let name = format!("{PREFIX}bomb{}", std::process::id());
        let group = Self(hierarchy.root.join(name));
        let failed = |path: &Path| ExperimentError::io(format!("set up {}", path.display()));
        fs::create_dir(&group.0).map_err(failed(&group.0))?;
        let limit = group.0.join("pids.max");
        fs::write(&limit, LIMIT.to_string()).map_err(failed(&limit))?;
        Ok(group)
    }

    fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    fn end_all(&self) {
        // Nobody starts another one any more.
        let _ = fs::write(self.0.join("pids.max"), "0");
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let members = self.members();
            if members.is_empty() {
                return;
            }
            for pid in members {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.end_all();
        let begin = Instant::now();
        while fs::remove_dir(&self.0).is_err() {
            if begin.elapsed() > PATIENCE {
                eprintln!("warning: cannot remove {}", self.0.display());
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Removes the groups of experiments that were killed; they are empty.
fn clear_orphans(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let pid = name.strip_prefix(PREFIX)?.strip_prefix("bomb")?;
            pid.parse::<u32>().ok()
        });
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// One process of it.
pub fn run(args: &BombArgs) -> Result<u8, Failure> {
    if let (Some(cpu), Some(group)) = (args.cpu, &args.group) {
        fs::write(group.join("cgroup.procs"), "0")?;
        enter(cpu)?;
        // Whoever loses its parent becomes a child of this one, which waits for them.
        prctl::set_child_subreaper(true)?;
        println!("{READY}");
    }
    let begin = Instant::now();
    let own = std::process::id().to_string();
    while args.group.is_some() || begin.elapsed() < LIFE {
        // Refused when there are as many as there may be: again, until some have ended.
        let _ = Command::new("/proc/self/exe")
            .args(["experiment", "part", "bomb", "--owner", &own])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        while matches!(
            waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)),
            Ok(status) if status != WaitStatus::StillAlive
        ) {}
    }
    Ok(0)
}

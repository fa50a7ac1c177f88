//! Whose turn it is at this machine: tests that change it, or fill its bandwidth, run one at a time, also those of other
//! programs, by a lock that the kernel takes back from who dies.
//!
//! What a turn prepares is noted in the lock's file. Whoever has the next turn finds there what a test that was killed has
//! left, ends the processes that it started, and has it restored: no test fails for another one's end.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{env, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The file that is locked, in the folder for temporary files.
const LOCK: &str = "chronovisor-tests.lock";
/// What stands in a run directory as long as CPUs are prepared from it.
const PREPARED: &str = "host.json";
/// Threads that are ending leave their partition a little later.
const PATIENCE: Duration = Duration::from_secs(20);
const NAP: Duration = Duration::from_millis(20);

/// A turn, until dropped.
#[derive(Debug)]
pub struct Turn {
    lock: File,
}

impl Turn {
    /// Waits for it. What is still prepared from run directories of earlier turns is undone by `restore`, which says why it
    /// could not be; that is printed, and a matter of the tests that then get no partition.
    ///
    /// # Panics
    /// When the lock cannot be had.
    #[must_use]
    pub fn take(restore: impl FnMut(&Path) -> Result<(), String>) -> Self {
        Self::at(&env::temp_dir().join(LOCK), restore)
            .unwrap_or_else(|error| panic!("no turn at this machine: {error}"))
    }

    fn at(path: &Path, mut restore: impl FnMut(&Path) -> Result<(), String>) -> io::Result<Self> {
        let mut lock = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)?;
        lock.lock()?;
        let mut noted = String::new();
        lock.read_to_string(&mut noted)?;
        for run_dir in noted.lines().map(Path::new) {
            if let Err(why) = undo(run_dir, &mut restore) {
                eprintln!("a test that was killed: {why}");
            }
        }
        lock.set_len(0)?;
        lock.seek(SeekFrom::Start(0))?;
        Ok(Self { lock })
    }

    /// Notes that CPUs may be prepared from `run_dir` in this turn, before they are.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn uses(&self, run_dir: &Path) {
        let line = format!("{}\n", run_dir.display());
        let noted = (&self.lock).write_all(line.as_bytes());
        noted.expect("the lock's file can be written");
    }
}

/// Undoes what is prepared from `run_dir`, after the processes that were started with it are ended.
///
/// # Errors
/// What `restore` says.
pub fn undo(
    run_dir: &Path,
    mut restore: impl FnMut(&Path) -> Result<(), String>,
) -> Result<(), String> {
    if !run_dir.join(PREPARED).exists() {
        return Ok(());
    }
    end_processes_of(run_dir);
    let begun = Instant::now();
    loop {
        match restore(run_dir) {
            Err(_) if begun.elapsed() < PATIENCE => thread::sleep(NAP),
            Err(why) => return Err(format!("{} is not restored: {why}", run_dir.display())),
            Ok(()) => return Ok(()),
        }
    }
}

/// Ends all processes that have `run_dir` in their environment, and with it what they have started.
fn end_processes_of(run_dir: &Path) {
    let wanted = [b"CHRONOVISOR_RUN_DIR=", run_dir.as_os_str().as_bytes()].concat();
    let has_it = |process: &PathBuf| {
        let environment = fs::read(process.join("environ")).unwrap_or_default();
        environment
            .split(|byte| *byte == 0)
            .any(|one| one == wanted)
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    for process in processes.map(|entry| entry.path()).filter(has_it) {
        let id = process.file_name().and_then(|name| name.to_str());
        if let Some(id) = id.and_then(|id| id.parse().ok()) {
            // It may have ended by itself.
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    /// A run directory in which CPUs are prepared, for all that this module knows.
    fn prepared(folder: &Path, name: &str) -> PathBuf {
        let run_dir = folder.join(name);
        fs::create_dir(&run_dir).unwrap();
        fs::write(run_dir.join(PREPARED), "{}").unwrap();
        run_dir
    }

    fn remove(run_dir: &Path) -> Result<(), String> {
        fs::remove_file(run_dir.join(PREPARED)).map_err(|error| error.to_string())
    }

    #[test]
    fn what_a_dead_test_has_prepared_is_undone_once_by_the_next_and_its_processes_end() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("lock");
        let [left, restored] = ["left", "restored"].map(|name| prepared(folder.path(), name));
        let turn = Turn::at(&lock, |_| panic!("nothing was left")).unwrap();
        turn.uses(&left);
        turn.uses(&restored);
        remove(&restored).unwrap();
        let sleeper = |run_dir: &Path| {
            let mut command = Command::new("sleep");
            command.arg("60").env("CHRONOVISOR_RUN_DIR", run_dir);
            command.process_group(0).spawn().unwrap()
        };
        let [mut of_it, mut of_another] = [&left, &restored].map(|run_dir| sleeper(run_dir));
        drop(turn);

        let mut undone = Vec::new();
        let turn = Turn::at(&lock, |run_dir| {
            undone.push(run_dir.to_owned());
            // As a partition that a thread is just leaving.
            if undone.len() < 3 {
                return Err("in use".to_owned());
            }
            remove(run_dir)
        });
        assert_eq!(undone, vec![left.clone(); 3]);
        assert!(!of_it.wait().unwrap().success(), "it was ended");
        assert!(of_another.try_wait().unwrap().is_none(), "not its own");
        of_another.kill().unwrap();
        of_another.wait().unwrap();
        drop(turn);
        let next = Turn::at(&lock, |_| panic!("undone already"));
        assert_eq!(fs::read(&lock).unwrap(), b"");
        drop(next);
    }
}

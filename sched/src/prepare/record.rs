//! What was changed on the host, in a file, so that it can be undone by another process and after a crash.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::PrepareError;
use crate::admission::Fit;

/// The version of the file's form.
pub(super) const VERSION: u32 = 1;

/// What was changed, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) version: u32,
    pub(super) cpus: Vec<u32>,
    pub(super) created: Vec<PathBuf>,
    pub(super) settings: Vec<Setting>,
    #[serde(default)]
    pub(super) fit: Fit,
}

/// One setting of the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Setting {
    pub(super) file: PathBuf,
    pub(super) before: String,
    pub(super) after: String,
    /// What to write to undo it, where that is not `before`.
    pub(super) undo: Option<String>,
}

impl Setting {
    /// Writes it and notes what the kernel makes of it; whether the kernel took it and it still is there.
    pub(super) fn apply(&mut self) -> Result<bool, PrepareError> {
        match write(&self.file, &self.after).and_then(|()| read(&self.file)) {
            Ok(now) => self.after = now,
            Err(error) if gone(&error) || refused(&error) => return Ok(false),
            Err(source) => return Err(self.not_written(&self.after, source)),
        }
        Ok(true)
    }

    /// Undoes it where the value still is ours. What is gone, such as the interrupt of a device that was removed, needs
    /// no undoing.
    pub(super) fn undo(&self) -> Result<(), PrepareError> {
        let now = match read(&self.file) {
            Err(error) if gone(&error) => return Ok(()),
            now => now.map_err(|source| self.failed("read", source))?,
        };
        if !self.is_ours(&now) {
            return Ok(());
        }
        let undo = self.undo.as_ref().unwrap_or(&self.before);
        match write(&self.file, undo) {
            Err(error) if gone(&error) => Ok(()),
            Err(source) if refused(&source) => Err(PrepareError::NotUndone {
                path: self.file.clone(),
                value: undo.clone(),
                source,
            }),
            written => written.map_err(|source| self.not_written(undo, source)),
        }
    }

    /// Whether the value is what was written here. Where that was a word of a list (`undo` takes it away again), the others
    /// are none of our business.
    fn is_ours(&self, now: &str) -> bool {
        let has = |list: &str, word: &str| list.split_whitespace().any(|one| one == word);
        match self.undo.as_deref().and_then(|undo| undo.strip_prefix('-')) {
            Some(word) => has(now, word) && !has(&self.before, word),
            None => now == self.after && self.after != self.before,
        }
    }

    fn not_written(&self, value: &str, source: io::Error) -> PrepareError {
        self.failed(&format!("write '{value}' to"), source)
    }

    fn failed(&self, action: &str, source: io::Error) -> PrepareError {
        PrepareError::Setting {
            action: action.to_owned(),
            path: self.file.clone(),
            source,
        }
    }
}

/// Interrupts of one CPU or managed by the kernel (EIO), CPUs that are offline (EINVAL), no free vector (ENOSPC), a
/// queue of another user name space (EPERM).
fn refused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::ENOSPC | libc::EPERM)
    )
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENODEV | libc::ENXIO)
    )
}

/// One write; the file is not created, as that is another error where it is gone.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).truncate(true).open(path)?;
    file.write_all(text.as_bytes())
}

pub(super) fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|text| text.trim_end().to_owned())
}

impl Record {
    /// The record in a run directory, if there is one.
    pub(super) fn load(run_dir: &Path) -> Result<Option<Self>, PrepareError> {
        let path = path_in(run_dir);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(failed("read", &path, source)),
        };
        let record: Self = serde_json::from_slice(&bytes)
            .map_err(|error| failed("understand", &path, error.into()))?;
        if record.version != VERSION {
            let other = io::Error::other(format!("version {} of its form", record.version));
            return Err(failed("understand", &path, other));
        }
        Ok(Some(record))
    }

    /// Written aside and renamed, so that it is whole or not there.
    pub(super) fn store(&self, run_dir: &Path) -> Result<(), PrepareError> {
        let path = path_in(run_dir);
        let aside = path.with_extension("new");
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        fs::create_dir_all(run_dir)
            .and_then(|()| fs::write(&aside, text))
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|source| failed("write", &path, source))
    }

    /// Forgets what was undone.
    pub(super) fn remove(run_dir: &Path) -> Result<(), PrepareError> {
        let path = path_in(run_dir);
        fs::remove_file(&path).map_err(|source| failed("remove", &path, source))
    }

    /// Adds settings that are about to be changed; one that stood there already was changed by somebody else since.
    pub(super) fn add(&mut self, settings: &[Setting]) {
        self.settings
            .retain(|old| settings.iter().all(|new| new.file != old.file));
        self.settings.extend_from_slice(settings);
    }

    /// Puts settings that were added into force, and keeps what came of them. Those the kernel refuses stay as they were.
    pub(super) fn apply(
        &mut self,
        run_dir: &Path,
        settings: Vec<Setting>,
    ) -> Result<(), PrepareError> {
        for mut setting in settings {
            let taken = setting.apply()?;
            self.settings.retain(|old| old.file != setting.file);
            if taken {
                self.settings.push(setting);
            }
        }
        self.store(run_dir)
    }
}

/// Alone at preparing and restoring from a run directory, until dropped. The directory itself is locked: a file for that
/// could never be removed without a race.
pub(super) struct Alone {
    _locked: File,
}

impl Alone {
    /// Waits for whoever prepares or restores at present.
    pub(super) fn wait(run_dir: &Path) -> Result<Self, PrepareError> {
        let lock = || {
            fs::create_dir_all(run_dir)?;
            let folder = File::open(run_dir)?;
            folder.lock()?;
            Ok(folder)
        };
        let _locked = lock().map_err(|source| failed("lock", run_dir, source))?;
        Ok(Self { _locked })
    }
}

fn path_in(run_dir: &Path) -> PathBuf {
    run_dir.join("host.json")
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> PrepareError {
    let path = path.to_owned();
    PrepareError::Record {
        action,
        path,
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn setting(file: PathBuf, before: &str, after: &str) -> Setting {
        Setting {
            file,
            before: before.to_owned(),
            after: after.to_owned(),
            undo: None,
        }
    }

    #[test]
    fn a_record_of_another_version_is_not_acted_on() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            version: 9,
            cpus: vec![],
            created: vec![],
            settings: vec![],
            fit: Fit::default(),
        };
        record.store(dir.path()).unwrap();
        let error = Record::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("version 9"), "{error}");
    }

    #[test]
    fn a_word_is_taken_out_of_a_list_that_others_have_changed_since() {
        let list = |before: &str| Setting {
            undo: Some("-cpuset".to_owned()),
            ..setting(PathBuf::new(), before, "cpuset cpu")
        };
        assert!(list("cpu").is_ours("cpuset"));
        assert!(list("").is_ours("cpuset cpu memory"));
        assert!(!list("cpu").is_ours("cpu"));
        assert!(!list("cpuset cpu").is_ours("cpuset"));
    }

    #[test]
    fn a_setting_is_undone_only_where_it_still_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("smp_affinity_list");
        fs::write(&file, "0-1\n").unwrap();
        let mut ours = setting(file.clone(), "0-1", "0");
        assert!(ours.apply().unwrap());
        fs::write(&file, "0\n").unwrap();
        ours.undo().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "0-1");
        fs::write(&file, "1\n").unwrap();
        ours.undo().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
    }

    #[test]
    fn a_setting_that_is_gone_is_neither_changed_nor_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let mut gone = setting(dir.path().join("24/smp_affinity_list"), "0-1", "0");
        assert!(!gone.apply().unwrap());
        gone.undo().unwrap();
    }

    #[test]
    fn what_was_not_taken_is_not_in_the_record_and_what_was_is() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        fs::write(&there, "3").unwrap();
        let wanted = vec![
            setting(there.clone(), "3", "1"),
            setting(dir.path().join("gone"), "3", "1"),
        ];
        let mut record = Record {
            version: VERSION,
            cpus: vec![1],
            created: vec![],
            settings: vec![setting(there.clone(), "7", "5")],
            fit: Fit::First,
        };
        record.add(&wanted);
        assert_eq!(record.settings, wanted);
        record.apply(dir.path(), wanted.clone()).unwrap();
        let kept = Record::load(dir.path()).unwrap().unwrap();
        assert_eq!(kept.fit, Fit::First);
        assert_eq!(kept.settings, wanted[..1]);
        assert_eq!(fs::read_to_string(there).unwrap(), "1");
    }

    #[test]
    fn only_one_prepares_or_restores_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Alone::wait(dir.path()).unwrap();
        let (tell, told) = mpsc::channel();
        let path = dir.path().to_owned();
        let second = std::thread::spawn(move || {
            let _alone = Alone::wait(&path).unwrap();
            tell.send(()).unwrap();
        });
        assert!(told.recv_timeout(Duration::from_millis(50)).is_err());
        drop(first);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            0,
            "nothing is left"
        );
        told.recv_timeout(Duration::from_secs(30)).unwrap();
        second.join().unwrap();
    }
}

//! The workspace's executables, as a test of another crate needs them.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::workspace;

/// Why an executable of the workspace is not there to be tested.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The test does not run from a cargo target folder.
    #[error("{executable} is not in a cargo target folder; run the tests through cargo")]
    NoTargetFolder {
        /// The running test.
        executable: PathBuf,
    },
    /// cargo could not be started.
    #[error("cannot run {cargo}; put cargo on PATH")]
    NoCargo {
        /// What was run.
        cargo: String,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// cargo ran and refused.
    #[error("cargo cannot build {name}; mend the build first:\n{output}")]
    Failed {
        /// The executable wanted.
        name: String,
        /// What cargo wrote.
        output: String,
    },
}

/// The `chronovisor` command, brought up to date.
///
/// # Errors
/// When cargo cannot build it.
pub fn chronovisor() -> Result<PathBuf, BuildError> {
    executable("chronovisor", "chronovisor")
}

/// Builds executable `name` of `package` with the profile of the running test, and returns its
/// path. Cargo makes other packages' executables available to no test, and one that lies in the
/// target folder may be older than the source.
///
/// # Errors
/// When cargo cannot build it.
pub fn executable(package: &str, name: &str) -> Result<PathBuf, BuildError> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Command::new(&cargo)
        .args(["build", "--quiet"])
        .args(["--message-format", "json-render-diagnostics"])
        .args([
            "--package",
            package,
            "--bin",
            name,
            "--profile",
            profile()?.as_str(),
        ])
        .current_dir(workspace::root())
        .output()
        .map_err(|source| BuildError::NoCargo { cargo, source })?;
    let messages = String::from_utf8_lossy(&built.stdout);
    path_of_artifact(&messages, name).ok_or_else(|| BuildError::Failed {
        name: name.to_owned(),
        output: String::from_utf8_lossy(&built.stderr).into_owned(),
    })
}

/// The profile's folder is the one above `deps`, in which the test lies.
fn profile() -> Result<String, BuildError> {
    let test = env::current_exe().unwrap_or_default();
    let folder = test
        .parent()
        .and_then(Path::parent)
        .and_then(Path::file_name);
    match folder.and_then(OsStr::to_str) {
        Some("debug") => Ok("dev".to_owned()),
        Some(profile) => Ok(profile.to_owned()),
        None => Err(BuildError::NoTargetFolder { executable: test }),
    }
}

fn path_of_artifact(messages: &str, name: &str) -> Option<PathBuf> {
    let mut artifacts = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == name);
    artifacts.find_map(|message| message["executable"].as_str().map(PathBuf::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_built_and_found() {
        let probe = executable("system-tests", "kvm-probe").unwrap();
        assert!(probe.is_file(), "{}", probe.display());
    }

    #[test]
    fn an_executable_that_does_not_exist_is_an_error_with_cargos_words() {
        let error = executable("system-tests", "nothing-of-the-kind").unwrap_err();
        assert!(error.to_string().contains("nothing-of-the-kind"), "{error}");
    }
}

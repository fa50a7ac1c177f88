//! Whose plan a router has: a host, by its name, its machine and the run directory that it keeps its own state in.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::mac;

/// A host that asks routers. The same after a restart, and for every process of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// Its name.
    pub host: String,
    /// A hash of its machine-id(5), which itself is not to be told to others; empty where it has none.
    pub machine: String,
    /// Where it keeps its state.
    pub run_dir: PathBuf,
}

impl Owner {
    /// This host, with this run directory.
    #[must_use]
    pub fn here(run_dir: &Path) -> Self {
        let read = |path| {
            fs::read_to_string(path)
                .unwrap_or_default()
                .trim()
                .to_owned()
        };
        let machine = read("/etc/machine-id");
        let hashed = format!("{:016x}", mac::hash(machine.as_bytes()));
        Self {
            host: read("/proc/sys/kernel/hostname"),
            machine: if machine.is_empty() { machine } else { hashed },
            run_dir: std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned()),
        }
    }

    /// Whether it is the same host. One that has been renamed is; one without a machine-id(5) is known by its name only.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        let has_name = !self.machine.is_empty() || self.host == other.host;
        has_name && self.machine == other.machine && self.run_dir == other.run_dir
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, run_dir, .. } = self;
        write!(f, "host '{host}' (run directory {})", run_dir.display())
    }
}

/// Who asked for what a router has, and when it was applied there: what comes late is told from what is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asker {
    /// Who.
    pub owner: Owner,
    /// When, in nanoseconds of its clock.
    pub applied: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_was_renamed_is_the_same_and_one_without_an_id_is_known_by_name() {
        let owner = |host: &str, machine: &str| Owner {
            host: host.to_owned(),
            machine: machine.to_owned(),
            run_dir: "/run/chronovisor".into(),
        };
        assert!(owner("a", "1").is(&owner("b", "1")));
        assert!(!owner("a", "1").is(&owner("a", "2")));
        assert!(owner("a", "").is(&owner("a", "")));
        assert!(!owner("a", "").is(&owner("b", "")));
        let elsewhere = Owner {
            run_dir: "/run/other".into(),
            ..owner("a", "1")
        };
        assert!(!owner("a", "1").is(&elsewhere));
    }
}

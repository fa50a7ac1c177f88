//! What other programs use of `chronovisor`: the virtual task machines of a host as a service.

pub mod vtm;

use std::path::PathBuf;

/// Where sockets and ledger lie if the command line does not say otherwise.
#[must_use]
pub fn default_run_dir() -> PathBuf {
    if let Some(folder) = std::env::var_os("CHRONOVISOR_RUN_DIR") {
        return folder.into();
    }
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/chronovisor");
    }
    let user_dir =
        std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    user_dir.join("chronovisor")
}

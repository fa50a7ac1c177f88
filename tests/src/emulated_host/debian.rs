//! Fetches Debian packages by name through the machine's own apt, and unpacks them into the cache
//! without installing them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::HostError;
use crate::{requires, workspace};

/// Debian's stock kernel for virtual machines. It has everything this needs, and is a third of the
/// size of the one for real hardware.
const KERNEL: &str = "linux-image-cloud-amd64";
/// The emulated host's user space.
const BUSYBOX: &str = "busybox-static";

/// What an emulated host is made of.
pub(super) struct Parts {
    /// The compressed kernel.
    pub kernel: PathBuf,
    /// The folder with the kernel's modules.
    pub modules: PathBuf,
    /// A static busybox.
    pub busybox: PathBuf,
}

/// Finds the parts in the cache, fetching what is not there.
pub(super) fn parts() -> Result<Parts, HostError> {
    let kernel_package = unpacked(KERNEL)?;
    let busybox_package = unpacked(BUSYBOX)?;
    Ok(Parts {
        kernel: only_entry(&kernel_package.join("boot"), "vmlinuz-")?,
        modules: kernel_package.join("lib/modules"),
        busybox: ["bin/busybox", "usr/bin/busybox"]
            .map(|path| busybox_package.join(path))
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| broken(BUSYBOX, "it holds no busybox"))?,
    })
}

/// The folder into which `package`, or the one package that it stands for, is unpacked.
fn unpacked(package: &str) -> Result<PathBuf, HostError> {
    let folder = workspace::cache().join("debian");
    let place = folder.join(package);
    if place.is_dir() {
        return Ok(place);
    }
    fs::create_dir_all(&folder).map_err(|source| HostError::io("create", &folder, source))?;
    // Tests run in processes of their own: the first one fetches, the others wait for it.
    let lock = folder.join(".lock");
    let guard = File::create(&lock)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| HostError::io("lock", &lock, source))?;
    if !place.is_dir() {
        fetch(package, &folder, &place)?;
    }
    drop(guard);
    Ok(place)
}

/// Downloads and unpacks beside `place` and renames when complete, so that what is at `place` is
/// whole.
fn fetch(package: &str, folder: &Path, place: &Path) -> Result<(), HostError> {
    if requires::find_program("apt-get").is_none() {
        return Err(broken(
            package,
            "this machine has no apt-get to fetch it with",
        ));
    }
    let work = tempfile::Builder::new()
        .prefix(".unpack-")
        .tempdir_in(folder)
        .map_err(|source| HostError::io("create a folder in", folder, source))?;
    let full_name = what_it_stands_for(package)?;
    let mut download = Command::new("apt-get");
    run(
        package,
        download.args(["download", &full_name]).current_dir(&work),
    )?;
    let archive = only_entry(work.path(), &full_name)?;
    let content = work.path().join("content");
    run(
        package,
        Command::new("dpkg").arg("-x").arg(archive).arg(&content),
    )?;
    fs::rename(&content, place).map_err(|source| HostError::io("rename", &content, source))
}

/// Kernels have a metapackage that depends on the current version; other packages are themselves.
fn what_it_stands_for(package: &str) -> Result<String, HostError> {
    let answer = run(
        package,
        Command::new("apt-cache").args(["depends", package]),
    )?;
    let dependency = answer
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| package.starts_with("linux-image-") && name.starts_with("linux-image-"));
    Ok(dependency.unwrap_or(package).to_owned())
}

fn run(package: &str, command: &mut Command) -> Result<String, HostError> {
    let done = command
        .output()
        .map_err(|error| broken(package, &format!("{:?}: {error}", command.get_program())))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        return Err(broken(package, said.trim()));
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn only_entry(folder: &Path, prefix: &str) -> Result<PathBuf, HostError> {
    fs::read_dir(folder)
        .map_err(|source| HostError::io("read", folder, source))?
        .filter_map(Result::ok)
        .find(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .ok_or_else(|| broken(prefix, &format!("{} has no such file", folder.display())))
}

fn broken(package: &str, reason: &str) -> HostError {
    HostError::Package {
        package: package.to_owned(),
        reason: reason.to_owned(),
    }
}

//! Puts executables into an initramfs: static ones as they are, others with their libraries.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::HostError;
use super::initramfs::Initramfs;
use crate::requires;

/// Where executables go: before busybox's own commands on the host's `PATH`.
const FOLDER: &str = "/usr/local/bin";

pub(super) fn add_static(path: &Path, archive: &mut Initramfs) -> Result<(), HostError> {
    let content = fs::read(path).map_err(|source| HostError::io("read", path, source))?;
    if wants_a_loader(&content) {
        return Err(HostError::NotStatic {
            path: path.to_owned(),
        });
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    archive.executable(&format!("{FOLDER}/{name}"), &content);
    Ok(())
}

pub(super) fn add_dynamic(name: &str, archive: &mut Initramfs) -> Result<(), HostError> {
    let refused = |reason: String| HostError::NoProgram {
        name: name.to_owned(),
        reason,
    };
    let path = requires::find_program(name).ok_or_else(|| refused("not on PATH".to_owned()))?;
    let ldd = Command::new("ldd").arg(&path).output();
    let ldd = ldd.map_err(|error| refused(format!("ldd: {error}")))?;
    let listing = String::from_utf8_lossy(&ldd.stdout).into_owned();
    if listing.contains("not found") {
        return Err(refused(listing));
    }
    let read = |path: &Path| fs::read(path).map_err(|source| HostError::io("read", path, source));
    archive.executable(&format!("{FOLDER}/{name}"), &read(&path)?);
    // "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f…)" and "/lib64/ld-linux… (0x7f…)"
    for library in listing
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
    {
        archive.executable(library, &read(Path::new(library))?);
    }
    Ok(())
}

/// Whether an ELF64 file has a PT_INTERP segment. What is no ELF file (a script) has none.
fn wants_a_loader(file: &[u8]) -> bool {
    const PT_INTERP: u64 = 3;
    if !file.starts_with(b"\x7fELF") {
        return false;
    }
    // Program headers: offset, size of one and number (System V ABI, "ELF Header").
    let table = number(file, 32, 8).unwrap_or(0);
    let size = number(file, 54, 2).unwrap_or(0);
    let count = number(file, 56, 2).unwrap_or(0);
    (0..count).any(|index| {
        usize::try_from(table + index * size).is_ok_and(|at| number(file, at, 4) == Some(PT_INTERP))
    })
}

fn number(file: &[u8], at: usize, bytes: usize) -> Option<u64> {
    let field = file.get(at..at.checked_add(bytes)?)?;
    Some(
        field
            .iter()
            .rev()
            .fold(0, |value, &byte| value << 8 | u64::from(byte)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dynamic_program_is_refused_where_a_static_one_is_wanted() {
        let shell = fs::canonicalize("/bin/sh").unwrap();
        let error = add_static(&shell, &mut Initramfs::default()).unwrap_err();
        assert!(matches!(error, HostError::NotStatic { .. }), "{error}");
    }

    #[test]
    fn this_test_is_static_itself() {
        let test = std::env::current_exe().unwrap();
        add_static(&test, &mut Initramfs::default()).unwrap();
    }
}

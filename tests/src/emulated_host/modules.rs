//! Kernel modules and the modules they need, in the order in which they must be loaded. The
//! package has no `modules.dep`, so the names are read from the modules themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::HostError;

/// A module's name and its content, ready for `insmod`.
pub(super) type Module = (String, Vec<u8>);

/// Adds `name` to `loaded`, after whatever it depends on.
pub(super) fn add(folder: &Path, name: &str, loaded: &mut Vec<Module>) -> Result<(), HostError> {
    if loaded.iter().any(|(present, _)| same(present, name)) {
        return Ok(());
    }
    let path = find(folder, name).ok_or_else(|| HostError::NoModule {
        module: name.to_owned(),
    })?;
    let content = read(&path)?;
    for dependency in dependencies(&content) {
        add(folder, &dependency, loaded)?;
    }
    loaded.push((name.to_owned(), content));
    Ok(())
}

/// Module names use `-` and `_` as one.
fn same(left: &str, right: &str) -> bool {
    left.replace('-', "_") == right.replace('-', "_")
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?;
    for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
        if path.is_dir() && !path.is_symlink() {
            if let Some(found) = find(&path, name) {
                return Some(found);
            }
        } else if path.to_string_lossy().contains(".ko")
            && path
                .file_name()?
                .to_str()?
                .split('.')
                .next()
                .is_some_and(|stem| same(stem, name))
        {
            return Some(path);
        }
    }
    None
}

/// Debian compresses modules with xz since version 13.
fn read(path: &Path) -> Result<Vec<u8>, HostError> {
    let failed = |source| HostError::io("read", path, source);
    if path.extension().is_some_and(|extension| extension == "xz") {
        let xz = Command::new("xz").args(["-dc"]).arg(path).output();
        xz.map(|done| done.stdout).map_err(failed)
    } else {
        fs::read(path).map_err(failed)
    }
}

/// The names in the `depends=` entry of a module's `.modinfo` section.
fn dependencies(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let list = module[at + key.len()..].split(|&byte| byte == 0).next();
    String::from_utf8_lossy(list.unwrap_or_default())
        .split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(folder: &Path, file: &str, depends: &str) {
        let content = format!("ELF\0license=GPL\0depends={depends}\0name=x\0");
        fs::write(folder.join(file), content).unwrap();
    }

    #[test]
    fn modules_come_after_what_they_depend_on_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        module(folder.path(), "top-level.ko", "left,right");
        module(folder.path(), "left.ko", "base_one");
        module(folder.path(), "right.ko", "base_one");
        module(folder.path(), "base-one.ko", "");
        let mut loaded = Vec::new();
        add(folder.path(), "top_level", &mut loaded).unwrap();
        let names: Vec<&str> = loaded.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["base_one", "left", "right", "top_level"]);
    }

    #[test]
    fn a_module_that_the_kernel_lacks_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = add(folder.path(), "nothing", &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains("nothing"), "{error}");
    }
}

//! Files of the benchmark, in the folder of its stage, which is removed with it.

use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// The folder.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new folder below `stage`.
    pub fn new(stage: &Path) -> Result<Self, Failure> {
        let path = stage.join("bench");
        std::fs::create_dir_all(&path)
            .map_err(|e| Failure::from(e).while_doing(&path.display().to_string()))?;
        Ok(Self(path))
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, Failure> {
        let path = self.path(name);
        std::fs::write(&path, bytes)
            .map_err(|e| Failure::from(e).while_doing(&path.display().to_string()))?;
        Ok(path)
    }
}

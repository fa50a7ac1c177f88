//! Where this checkout keeps things.

use std::path::{Path, PathBuf};

/// The root of the workspace: the parent of this crate's folder.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a folder of the workspace")
}

/// Downloaded material that is kept between runs; not under version control.
#[must_use]
pub fn cache() -> PathBuf {
    root().join(".cache")
}

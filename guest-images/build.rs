//! Builds `rt-guest` from source with the same cargo, for the bare machine.
//!
//! The guest is no member of the workspace: it needs a linker script and must not see the workspace's flags, which are
//! for programs that run under Linux.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Linux programs' target: it comes with every Rust on Linux, and `no_std` code for it needs no system.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Prefixes of variables that would let the outer build reach into the inner one.
const FOREIGN: [&str; 10] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_",
    "CARGO_FEATURE_",
    "CARGO_MAKEFLAGS",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "RUSTFLAGS",
];

fn main() -> Result<(), Box<dyn Error>> {
    let crate_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for watched in [
        "build.rs",
        "rt-guest/Cargo.lock",
        "rt-guest/Cargo.toml",
        "rt-guest/link.ld",
        "rt-guest/src",
        "rt-abi/Cargo.toml",
        "rt-abi/src",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            crate_dir.join(watched).display()
        );
    }
    let image = build_guest(&crate_dir.join("rt-guest"), &out.join("rt-guest-target"))?;
    fs::copy(&image, out.join("rt-guest.elf"))?;
    Ok(())
}

/// Builds the guest in `source` and returns the path of its image.
fn build_guest(source: &Path, target_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .current_dir(source)
        .args(["build", "--release", "--locked"])
        .args(["--target", TARGET])
        .arg("--target-dir")
        .arg(target_dir);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let wrapper = text.ends_with("WRAPPER") && text.starts_with("RUSTC");
        if wrapper || text == "MAKEFLAGS" || FOREIGN.iter().any(|p| text.starts_with(p)) {
            cargo.env_remove(&name);
        }
    }
    // Flags in the environment replace those of every configuration file.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags(source).join("\x1f"));
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!(
            "building the guest in {} failed: {status}",
            source.display()
        )
        .into());
    }
    Ok(target_dir.join(TARGET).join("release/rt-guest"))
}

/// A static image at fixed addresses, laid out by the guest's linker script.
fn flags(source: &Path) -> Vec<String> {
    let script = format!("link-arg=-Wl,-T,{}", source.join("link.ld").display());
    let options = [
        "relocation-model=static",
        "target-feature=+crt-static",
        "force-unwind-tables=no",
        "link-arg=-nostartfiles",
        "link-arg=-nostdlib",
        "link-arg=-static",
        "link-arg=-no-pie",
        "link-arg=-Wl,--build-id=none,-z,max-page-size=4096",
        &script,
    ];
    options
        .iter()
        .flat_map(|o| ["-C".to_string(), (*o).to_string()])
        .collect()
}

//! Rules about the source itself that no compiler checks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use system_tests::{Need, requires, workspace};

const DOCUMENTS: [&str; 3] = ["README.md", "ARCHITECTURE.md", "SPECIFICATION.md"];

/// Files that may be longer than `LONGEST` lines, each with its reason.
const LONG: &[(&str, &str)] = &[("Cargo.lock", "written by cargo")];
/// The 90th percentile of the best-kept code base of the field.
const LONGEST: usize = 554;

/// The files that talk to the kernel or the hardware; `unsafe` stands nowhere else.
const UNSAFE: &[&str] = &[
    "sched/src/kernel.rs",
    "vmm/src/kernel.rs",
    "net/src/kernel.rs",
    "guest-images/rt-guest/src/",
];

/// What documents show as an example and is no file of this project.
const EXAMPLES: &[&str] = &["guest.toml", "SPEC.toml"];

/// Folders that may be named although a checkout lies in them.
const ORDINARY_FOLDERS: &[&str] = &[
    "/", "/tmp", "/home", "/root", "/opt", "/srv", "/usr/src", "/var/tmp",
];

/// Hosts that anyone can reach.
const PUBLIC_HOSTS: &[&str] = &[
    "github.com",
    "crates.io",
    "debian.org",
    "docs.rs",
    "rust-lang.org",
];

#[test]
fn every_path_named_in_the_documents_exists() {
    requires!(Need::Program("git"), Need::Checkout);
    let files = tracked();
    for document in DOCUMENTS {
        // A document that is not there is not checked here.
        let Ok(text) = fs::read_to_string(workspace::root().join(document)) else {
            continue;
        };
        let missing: Vec<&str> = code_spans(&text)
            .filter(|span| looks_like_a_path(span) && !exists(span, &files))
            .collect();
        assert!(
            missing.is_empty(),
            "{document} names what does not exist: {missing:?}"
        );
    }
}

/// The README's first command is `cargo run`, without a word about which program.
#[test]
fn cargo_run_knows_which_program_is_meant() {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args([
            "metadata",
            "--no-deps",
            "--offline",
            "--format-version",
            "1",
        ])
        .current_dir(workspace::root())
        .output()
        .unwrap();
    let metadata: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    let members = metadata["workspace_default_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let programs: Vec<_> = packages
        .filter(|package| members.contains(&package["id"]))
        .flat_map(|package| package["targets"].as_array().unwrap())
        .filter(|target| target["kind"][0] == "bin")
        .map(|target| target["name"].as_str().unwrap())
        .collect();
    assert_eq!(programs, ["chronovisor"]);
}

#[test]
fn no_file_is_too_long_to_read() {
    requires!(Need::Program("git"), Need::Checkout);
    let long: Vec<String> = tracked()
        .iter()
        .filter(|file| !LONG.iter().any(|(name, _)| name == file))
        .map(|file| (file, text(file).lines().count()))
        .filter(|(_, lines)| *lines > LONGEST)
        .map(|(file, lines)| format!("{file}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "longer than {LONGEST} lines: {long:?}");
}

#[test]
fn unsafe_stands_only_in_the_files_that_talk_to_the_kernel() {
    requires!(Need::Program("git"), Need::Checkout);
    let astray: Vec<String> = tracked()
        .into_iter()
        .filter(|file| file.ends_with(".rs"))
        .filter(|file| !UNSAFE.iter().any(|place| file.starts_with(place)))
        .filter(|file| uses_unsafe(&text(file)))
        .collect();
    assert!(astray.is_empty(), "unsafe code in {astray:?}");
}

#[test]
fn nothing_of_the_machine_it_was_written_on_is_in_the_source() {
    requires!(Need::Program("git"), Need::Checkout);
    let traces = traces_of_this_machine();
    for file in tracked() {
        let text = text(&file);
        let found: Vec<&String> = traces
            .iter()
            .filter(|trace| text.contains(*trace))
            .collect();
        assert!(found.is_empty(), "{file} contains {found:?}");
    }
}

/// The checkout's own place, and the hosts that cargo and apt are told to fetch from.
fn traces_of_this_machine() -> BTreeSet<String> {
    let root = workspace::root();
    let mut traces = BTreeSet::from([format!("{}/", root.display())]);
    // What lies beside a checkout is of this machine too, unless every machine has such a folder.
    let above = root.parent().and_then(Path::to_str).unwrap_or("/");
    if !ORDINARY_FOLDERS.contains(&above) {
        traces.insert(format!("{above}/"));
    }
    let home = env::var_os("HOME").map(PathBuf::from).unwrap_or_default();
    let cargo_home = env::var_os("CARGO_HOME").map_or(home.join(".cargo"), PathBuf::from);
    for path in [
        cargo_home.join("config.toml"),
        cargo_home.join("config"),
        PathBuf::from("/etc/apt/sources.list"),
    ] {
        traces.extend(hosts(&fs::read_to_string(path).unwrap_or_default()));
    }
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"] {
        traces.extend(hosts(&env::var(variable).unwrap_or_default()));
    }
    traces
}

/// Whether `trace` stands in `text`, and not as the end of a longer path (`/src/` in `vmm/src/`).
fn names(text: &str, trace: &str) -> bool {
    text.match_indices(trace).any(|(at, _)| {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        !before.is_alphanumeric() && !"._-/".contains(before)
    })
}

fn hosts(text: &str) -> impl Iterator<Item = String> + '_ {
    text.split("://").skip(1).filter_map(|rest| {
        let authority = rest.split(['/', '"', '\'', ' ', '\n']).next()?;
        let host = authority.rsplit('@').next()?.split(':').next()?;
        let public = PUBLIC_HOSTS.iter().any(|known| host.ends_with(known));
        (host.contains('.') && !public).then(|| host.to_owned())
    })
}

/// Files under version control, relative to the root.
fn tracked() -> Vec<String> {
    let listing = Command::new("git")
        // Whoever owns the checkout, listing its files harms nobody.
        .args(["-c", "safe.directory=*", "ls-files", "-z"])
        .current_dir(workspace::root())
        .output()
        .expect("git runs");
    assert!(
        listing.status.success(),
        "git cannot list the files: {}",
        String::from_utf8_lossy(&listing.stderr)
    );
    String::from_utf8_lossy(&listing.stdout)
        .split_terminator('\0')
        .filter(|file| workspace::root().join(file).is_file())
        .map(str::to_owned)
        .collect()
}

/// A file's text; a file that is no text (an image) counts as empty.
fn text(file: &str) -> String {
    fs::read_to_string(workspace::root().join(file)).unwrap_or_default()
}

/// What stands between single backticks, outside fenced blocks.
fn code_spans(text: &str) -> impl Iterator<Item = &str> {
    let prose = text.split("```").step_by(2);
    prose.flat_map(|part| part.split('`').skip(1).step_by(2))
}

/// A relative path: made of the characters of file names, and either with the ending of a source
/// file or with a folder before a slash.
fn looks_like_a_path(span: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./".contains(character);
    let ending = [".rs", ".toml", ".sh", ".md"]
        .iter()
        .any(|ending| span.ends_with(ending));
    let folder = span.split_once('/').is_some_and(|(first, _)| {
        // `Q/P` and `I/O` are no paths.
        first == "." || (first.len() > 1 && !first.contains(|letter: char| letter.is_uppercase()))
    });
    span.chars().all(plain) && (ending || folder) && !EXAMPLES.contains(&span)
}

/// At the root, or anywhere when only a file's own name is given.
fn exists(span: &str, files: &[String]) -> bool {
    let anywhere = |file: &String| Path::new(file).file_name().is_some_and(|name| name == span);
    workspace::root().join(span).exists() || files.iter().any(anywhere)
}

/// Whether Rust source has the keyword outside comments and strings.
fn uses_unsafe(source: &str) -> bool {
    source.lines().any(|line| {
        let line = line.replace("\\\"", "");
        let outside_strings: String = line.split('"').step_by(2).collect();
        let code = outside_strings.split("//").next().unwrap_or_default();
        code.split(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .any(|word| word == "unsafe")
    })
}

#[test]
fn the_keyword_is_told_from_the_word() {
    assert!(uses_unsafe("    let x = unsafe { read(p) };"));
    assert!(uses_unsafe("#[unsafe(no_mangle)]"));
    assert!(!uses_unsafe("// this is unsafe"));
    assert!(!uses_unsafe("#![deny(unsafe_op_in_unsafe_fn)]"));
    assert!(!uses_unsafe("println!(\"unsafe\");"));
}

#[test]
fn paths_are_told_from_other_words_in_backticks() {
    for path in [
        "sched/src/lib.rs",
        "./test.sh",
        ".ci/run",
        "README.md",
        "tests/",
    ] {
        assert!(looks_like_a_path(path), "{path}");
    }
    for other in [
        "/dev/kvm",
        "Q/P",
        "cargo run -- demo",
        "cpu.max",
        "result.json",
        "guest.toml",
    ] {
        assert!(!looks_like_a_path(other), "{other}");
    }
}

#[test]
fn a_folder_of_this_machine_is_told_from_the_end_of_another_path() {
    assert!(names("see /src/notes", "/src/"));
    assert!(!names("see vmm/src/lib.rs", "/src/"));
}

#[test]
fn hosts_are_found_in_what_cargo_and_apt_read() {
    let found: Vec<String> = hosts(
        "registry = \"sparse+https://user@mirror.example.net:8080/index/\"\n\
         deb http://deb.debian.org/debian bookworm main",
    )
    .collect();
    assert_eq!(found, ["mirror.example.net"]);
}

//! The demonstration and what every experiment owes the host: what it was before, however the experiment ends.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use system_tests::requires::Capability;
use system_tests::{Need, User, requires};

const NEEDS: [Need; 3] = [Need::Kvm, Need::Root, Need::Capability(Capability::SysNice)];

/// Control groups of this project, wherever they are.
fn groups() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    for _ in 0..3 {
        let below = folders
            .drain(..)
            .filter_map(|folder| fs::read_dir(folder).ok())
            .flatten()
            .flatten();
        let below: Vec<PathBuf> = below
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
            .collect();
        let ours = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("chronovisor."))
        };
        found.extend(below.iter().filter(ours).cloned());
        folders = below;
    }
    found
}

/// Processes that are parts of an experiment with this run directory.
fn parts(run_dir: &Path) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let run_dir = run_dir.to_string_lossy().into_owned();
    commands
        .map(|bytes| String::from_utf8_lossy(&bytes).replace('\0', " "))
        .filter(|command| command.contains(&run_dir) && command.contains("experiment part"))
        .collect()
}

fn until(what: &str, condition: impl Fn() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(30), "not {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_demonstration_shows_a_difference_and_leaves_nothing_behind() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], Need::Cpus(2));
    let user = User::new();
    let before = groups();
    let shown = user
        .run(&["--json", "demo", "--seconds", "4"])
        .expect(0)
        .json();
    let missed = |run: usize| -> u64 {
        let tasks = shown["runs"][run]["tasks"].as_array().unwrap();
        tasks
            .iter()
            .map(|task| task["misses"].as_u64().unwrap())
            .sum()
    };
    let (loaded, reserved) = (missed(1), missed(2));
    assert!(loaded >= 10 && reserved * 10 <= loaded, "{shown}");
    assert_eq!(shown["promise"]["kind"], "partition", "{shown}");
    assert_eq!(groups(), before);
    assert_eq!(fs::read_dir(user.run_dir()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_experiment_puts_the_host_back() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], Need::Cpus(2));
    let user = User::new();
    let before = groups();
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let demo = user.start(user.command(&["demo", "--seconds", "60"]), "");
        until("running", || !parts(&user.run_dir()).is_empty());
        assert_ne!(groups(), before, "there is a partition");
        demo.signal(signal);
        let ended = demo.wait(Duration::from_secs(30)).expect(130);
        assert!(ended.stderr.contains("put back"), "{ended:?}");
        assert_eq!(groups(), before);
        assert_eq!(parts(&user.run_dir()), Vec::<String>::new());
    }
}

#[test]
fn a_killed_experiment_takes_its_parts_along_and_the_next_one_clears_up() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], Need::Cpus(2));
    let user = User::new();
    let before = groups();
    let demo = user.start(user.command(&["demo", "--seconds", "60"]), "");
    until("running", || !parts(&user.run_dir()).is_empty());
    demo.signal(Signal::SIGKILL);
    let _ = demo.wait(Duration::from_secs(30));
    until("without parts", || parts(&user.run_dir()).is_empty());
    let _ = user.run(&["demo", "--seconds", "2"]).expect(0);
    assert_eq!(groups(), before);
    assert_eq!(fs::read_dir(user.run_dir()).unwrap().count(), 0);
}

#[test]
fn without_such_a_cpu_nothing_is_started() {
    let user = User::new();
    let refused = user
        .run(&["experiment", "edge", "--quick", "--cpu", "4000"])
        .expect(1);
    assert!(refused.stderr.contains("4000"), "{refused:?}");
}

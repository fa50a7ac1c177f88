//! A guest that is saved goes on in another process where it stopped, in real time, and lives only once.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::{Need, User, requires};

const MINUTE: Duration = Duration::from_secs(60);
const MS: u64 = 1_000_000;

/// Two tasks on as many vCPUs; b starts late, so that the grids differ.
fn spec(vcpus: u16) -> String {
    let last = vcpus - 1;
    format!(
        "[guest]\nduration = \"2500ms\"\nseed = 7\n\
         [[guest.task]]\nname = \"a\"\nexecution = \"2ms\"\nperiod = \"20ms\"\n\
         [[guest.task]]\nname = \"b\"\nexecution = \"5ms\"\nperiod = \"50ms\"\noffset = \"7ms\"\nvcpu = {last}\n\
         [cpu]\nbackend = \"fifo\"\nfifo_priority = 20\n"
    )
}

/// Execution time and period of each task, in nanoseconds.
const TASKS: [(u64, u64); 2] = [(2 * MS, 20 * MS), (5 * MS, 50 * MS)];

/// The jobs recorded in a file, by task.
fn jobs(records: &Path) -> BTreeMap<u64, Vec<Value>> {
    let mut jobs: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
    for line in fs::read_to_string(records).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        if record["event"] == "job" {
            jobs.entry(number(&record, "task"))
                .or_default()
                .push(record);
        }
    }
    jobs
}

fn number(job: &Value, key: &str) -> u64 {
    job[key].as_u64().unwrap_or_else(|| panic!("{key}: {job}"))
}

/// Saves a running guest, lets it go on `away` later, and returns both lives' records, and when it was away in guest
/// time as its own clock has it.
fn two_lives(user: &User, vcpus: u16, away: Duration) -> [BTreeMap<u64, Vec<Value>>; 2] {
    let (first, second) = (user.path("first"), user.path("second"));
    let arguments = ["--records".to_owned(), first.display().to_string()];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut guest = user.launch("cv-saved", &spec(vcpus), &arguments);
    guest.until("at work", |_| {
        let status = user.run(&["--json", "status", "cv-saved"]);
        status.code() == 0 && status.json()["records"]["tasks"]["0"]["jobs"].as_u64() > Some(20)
    });
    user.run(&["save", "cv-saved", "saved"]).expect(0);
    let ended = guest.wait(MINUTE).expect(0);
    assert!(ended.stderr.contains("cv-saved: saved"), "{ended:?}");
    std::thread::sleep(away);
    let spec = user.spec("cv-saved", &spec(vcpus));
    let path = second.display().to_string();
    let command = user.command(&["restore", &spec, "saved", "--records", &path]);
    let ended = user.start(command, "cv-saved").wait(MINUTE).expect(0);
    assert!(ended.stdout.contains("task a jobs"), "{ended:?}");
    assert!(
        !ended.stdout.contains("rt-guest: ready"),
        "booted again: {ended:?}"
    );
    [jobs(&first), jobs(&second)]
}

fn assert_one_sequence(lives: &[BTreeMap<u64, Vec<Value>>; 2], away: Duration) {
    let [first, second] = lives;
    assert_eq!(first.keys().collect::<Vec<_>>(), [&0, &1]);
    assert_eq!(second.keys().collect::<Vec<_>>(), [&0, &1]);
    for (task, (execution, period)) in (0..).zip(TASKS) {
        let all: Vec<&Value> = first[&task].iter().chain(&second[&task]).collect();
        let numbers: Vec<u64> = all.iter().map(|job| number(job, "job")).collect();
        let expected: Vec<u64> = (0..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "task {task}: jobs lost or doubled");
        let origin = number(all[0], "release");
        for job in &all {
            let release = origin + number(job, "job") * period;
            assert_eq!(number(job, "release"), release, "off the grid: {job}");
            let executed = number(job, "executed");
            // To a clock tick less; preemption and restoring may cost a little more.
            let range = execution - 1000..execution + execution / 2;
            assert!(range.contains(&executed), "{job}");
        }
        // The guest's own clock shows that time went on without it.
        let last = number(&first[&task][first[&task].len() - 1], "finish");
        let resumed = second[&task].iter().map(|job| number(job, "finish")).min();
        let gap = resumed.unwrap().saturating_sub(last);
        let away = u64::try_from(away.as_nanos()).unwrap();
        assert!(
            (away..away + 1500 * MS).contains(&gap),
            "task {task}: {gap} ns"
        );
    }
}

#[test]
fn a_saved_guest_goes_on_in_another_process_without_losing_or_repeating_a_job() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let away = Duration::from_millis(400);
    let lives = two_lives(&user, 1, away);
    assert_one_sequence(&lives, away);
}

#[test]
fn two_vcpus_go_on_together() {
    requires!(Need::Kvm, Need::Root, Need::Cpus(2));
    let user = User::new();
    let away = Duration::from_millis(100);
    let lives = two_lives(&user, 2, away);
    assert_one_sequence(&lives, away);
}

#[test]
fn a_guest_that_was_saved_lives_only_where_it_is_restored() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let mut guest = user.launch("cv-once", &spec(1).replace("2500ms", "60s"), &[]);
    guest.status();
    // A folder that exists is not overwritten, and the guest goes on.
    fs::create_dir(user.path("mine")).unwrap();
    fs::write(user.path("mine/state"), "mine").unwrap();
    let refused = user.run(&["save", "cv-once", "mine"]).expect(1);
    assert!(refused.stderr.contains("mine"), "{refused:?}");
    assert_eq!(fs::read(user.path("mine/state")).unwrap(), b"mine");
    assert_eq!(guest.status()["state"], "running");
    let nowhere = user.run(&["save", "cv-once", "no/such/place"]).expect(1);
    assert!(nowhere.stderr.contains("no/such/place"), "{nowhere:?}");
    assert_eq!(guest.status()["state"], "running");

    user.run(&["pause", "cv-once"]).expect(0);
    user.run(&["save", "cv-once", "saved"]).expect(0);
    guest.wait(MINUTE).expect(0);
    let gone = user.run(&["resume", "cv-once"]).expect(1);
    assert!(gone.stderr.contains("no guest `cv-once`"), "{gone:?}");

    let spec = user.spec("cv-once", &spec(1).replace("2500ms", "60s"));
    let mut restored = user.start(user.command(&["restore", &spec, "saved"]), "cv-once");
    // It was paused when it was saved; it runs where it is restored.
    assert_eq!(restored.status()["state"], "running");
    let twice = user.run(&["restore", &spec, "saved"]).expect(3);
    assert!(twice.stderr.contains("cv-once"), "{twice:?}");
    restored.stop().expect(0);
}

#[test]
fn a_guest_can_be_saved_again_and_again() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let long = spec(1).replace("2500ms", "60s");
    let mut guest = user.launch("cv-again", &long, &[]);
    for round in 0..5 {
        guest.status();
        let folder = format!("saved-{round}");
        user.run(&["save", "cv-again", &folder]).expect(0);
        guest.wait(MINUTE).expect(0);
        let spec = user.spec("cv-again", &long);
        guest = user.start(user.command(&["restore", &spec, &folder]), "cv-again");
    }
    guest.until("still at work", |_| {
        let status = user.run(&["--json", "status", "cv-again"]);
        status.code() == 0 && status.json()["records"]["tasks"]["0"]["jobs"].as_u64() > Some(10)
    });
    guest.stop().expect(0);
}

#[test]
fn a_damaged_or_foreign_state_is_an_error_and_nothing_is_started() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let long = spec(1).replace("2500ms", "60s");
    let mut guest = user.launch("cv-damaged", &long, &[]);
    guest.status();
    user.run(&["save", "cv-damaged", "saved"]).expect(0);
    guest.wait(MINUTE).expect(0);
    let state = fs::read(user.path("saved/state")).unwrap();
    let memory = fs::read(user.path("saved/memory")).unwrap();
    let name = user.spec("cv-damaged", &long);
    let restore = |spec: &str, state: &[u8], memory: &[u8]| {
        fs::write(user.path("saved/state"), state).unwrap();
        fs::write(user.path("saved/memory"), memory).unwrap();
        let ended = user.start(user.command(&["restore", spec, "saved"]), "cv-damaged");
        let ended = ended.wait(MINUTE).expect(1);
        assert!(ended.stderr.starts_with("error: "), "{ended:?}");
        let listed = user.run(&["ls"]).expect(0);
        assert!(listed.stdout.contains("no guests"), "{listed:?}");
        ended.stderr
    };
    for length in [0, 1, 7, state.len() / 2, state.len() - 1] {
        restore(&name, &state[..length], &memory);
    }
    let left_over = restore(&name, &[&state[..], b"more"].concat(), &memory);
    assert!(left_over.contains("left over"), "{left_over}");
    let mut other_version = state.clone();
    let kind = usize::from(state[0]);
    other_version[kind + 1] += 1;
    let version = restore(&name, &other_version, &memory);
    assert!(version.contains("version 2"), "{version}");
    restore(&name, &state, &memory[..memory.len() / 2]);
    let two = user.spec("cv-damaged", &spec(2));
    let other_machine = restore(&two, &state, &memory);
    assert!(other_machine.contains("number of vCPUs"), "{other_machine}");
    fs::remove_file(user.path("saved/memory")).unwrap();
    let missing = user.run(&["restore", &name, "saved"]).expect(1);
    assert!(missing.stderr.contains("saved/memory"), "{missing:?}");

    // Bits that flip: an error, or a guest that fails by itself; the monitor neither panics nor hangs.
    fs::write(user.path("saved/memory"), &memory).unwrap();
    let watched = long.replace(
        "duration = \"60s\"",
        "duration = \"60s\"\nwatchdog = \"150ms\"",
    );
    let watched = user.spec("cv-damaged", &watched);
    let begun = Instant::now();
    for round in 0..40 {
        let mut flipped = state.clone();
        let at = (round * 7919 + 13) % flipped.len();
        flipped[at] ^= 1 << (round % 8);
        fs::write(user.path("saved/state"), &flipped).unwrap();
        let mut guest = user.start(user.command(&["restore", &watched, "saved"]), "cv-damaged");
        if !guest.ends_within(Duration::from_millis(400)) {
            guest.signal(Signal::SIGTERM);
        }
        let ended = guest.wait(MINUTE);
        assert!(ended.code() < 110, "byte {at}: {ended:?}");
        assert!(!ended.stderr.contains("panicked"), "byte {at}: {ended:?}");
        if begun.elapsed() > Duration::from_secs(30) {
            break;
        }
    }
}

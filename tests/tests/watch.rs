//! `watch`: guests that do not get what they need are adapted by rules, within their bounds.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::Guest;
use system_tests::{Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);

/// A guest that needs 10 ms of every 100, in a reservation that has to be larger than (5 ms, 50 ms).
fn gold(runtime: &str) -> String {
    format!(
        "[guest]\nduration = \"120s\"\n[[guest.task]]\nname = \"t\"\nexecution = \"10ms\"\nperiod = \"100ms\"\n\
         [cpu]\nruntime = {runtime:?}\nperiod = \"50ms\"\n"
    )
}

fn donor(runtime: &str) -> String {
    format!(
        "[guest]\nduration = \"120s\"\nhogs = [0]\n[cpu]\nruntime = {runtime:?}\nperiod = \"50ms\"\n"
    )
}

fn rule(name: &str, more: &str) -> String {
    format!(
        "[[rule]]\nname = {name:?}\njob = \"cv-gold\"\nwhen = \"deadline-miss\"\nwithin = \"2s\"\ncount = 3\n\
         raise_by = \"8ms\"\ncool_down = \"1s\"\n{more}\n"
    )
}

fn watch<'a>(user: &'a User, rules: &str) -> Guest<'a> {
    let file = user.file("rules.toml", rules);
    let file = file.to_string_lossy();
    user.start(user.command(&["--json", "watch", &file]), "")
}

/// The events so far.
fn events(watcher: &Guest<'_>) -> Vec<Value> {
    let output = watcher.stdout();
    // The last line may not be whole yet.
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn count(watcher: &Guest<'_>, event: &str) -> usize {
    let events = events(watcher);
    events.iter().filter(|seen| seen["event"] == event).count()
}

/// Runtime that is granted to a guest, in milliseconds.
fn runtime(guest: &mut Guest<'_>) -> u64 {
    let status = guest.status();
    let reservation = &status["vcpus"][0]["granted"]["request"]["reservation"];
    reservation["runtime_ns"].as_u64().unwrap() / 1_000_000
}

/// Jobs that ended and jobs that were late.
fn jobs(guest: &mut Guest<'_>) -> (u64, u64) {
    let status = guest.status();
    let task = &status["records"]["tasks"]["0"];
    (
        task["jobs"].as_u64().unwrap(),
        task["misses"].as_u64().unwrap(),
    )
}

#[test]
fn a_guest_that_misses_deadlines_gets_budget_from_its_donor_and_misses_no_more() {
    requires!(Need::Kvm, NICE);
    let user = User::new();
    let more = "up_to = \"24ms\"\nfrom = \"cv-donor\"\ndown_to = \"4ms\"";
    // It comes before the guests do.
    let mut watcher = watch(&user, &rule("take", more));
    watcher.until("without guests", |watcher| count(watcher, "gone") == 2);
    let mut donor = user.launch("cv-donor", &donor("20ms"), &[]);
    let mut gold = user.launch("cv-gold", &gold("4ms"), &[]);
    watcher.until("acting", |watcher| count(watcher, "done") > 0);
    let (got, left) = (runtime(&mut gold), runtime(&mut donor));
    assert_eq!(got + left, 24, "{got} and {left}");
    assert!(got >= 12 && left >= 4, "{got} and {left}");
    // What had piled up until then is worked off.
    std::thread::sleep(Duration::from_secs(2));
    let (jobs_before, late_before) = jobs(&mut gold);
    gold.until("30 jobs later", |_| {
        let status = user.run(&["--json", "status", "cv-gold"]).expect(0).json();
        status["records"]["tasks"]["0"]["jobs"].as_u64().unwrap() >= jobs_before + 30
    });
    let (jobs_after, late_after) = jobs(&mut gold);
    let (all, late) = (jobs_after - jobs_before, late_after - late_before);
    assert!(late * 4 <= all, "{late} of {all} late");
    gold.stop().expect(0);
    watcher.until("without gold", |watcher| count(watcher, "gone") == 3);
    // What gold had is the donor's again, who gave it.
    let decisions = |watcher: &Guest<'_>| {
        let events = events(watcher);
        let mut causes = events
            .iter()
            .filter_map(|event| event.get("cause").cloned());
        causes.any(|cause| cause == "gone")
    };
    watcher.until("giving back", decisions);
    donor.until("whole", |_| {
        let status = user.run(&["--json", "status", "cv-donor"]).expect(0).json();
        let reservation = &status["vcpus"][0]["granted"]["request"]["reservation"];
        reservation["runtime_ns"] == 20_000_000
    });
    watcher.signal(Signal::SIGINT);
    let ended = watcher.wait(Duration::from_secs(10)).expect(0);
    assert_eq!(ended.stderr, "");
    donor.stop().expect(0);
}

#[test]
fn what_the_host_refuses_is_said_with_the_reason_and_the_next_rule_takes_from_the_donor() {
    requires!(Need::Kvm, NICE);
    let user = User::new();
    let mut donor = user.launch("cv-donor", &donor("20ms"), &[]);
    let mut gold = user.launch("cv-gold", &gold("4ms"), &[]);
    gold.status();
    donor.status();
    // More than any host has.
    let all = rule("all", "up_to = \"49900us\"").replace("8ms", "45900us");
    let take = rule(
        "take",
        "up_to = \"24ms\"\nfrom = \"cv-donor\"\ndown_to = \"12ms\"",
    );
    let mut watcher = watch(&user, &(all + &take));
    watcher.until("acting", |watcher| count(watcher, "done") > 0);
    let events = events(&watcher);
    let refused = events.iter().find(|event| event["event"] == "refused");
    let refused = refused.unwrap_or_else(|| panic!("{events:?}"));
    assert_eq!(refused["rule"], "all", "{refused}");
    assert!(
        refused["reason"].as_str().unwrap().contains("fit"),
        "{refused}"
    );
    let done = events
        .iter()
        .find(|event| event["event"] == "done")
        .unwrap();
    assert_eq!(done["rule"], "take");
    assert_eq!((runtime(&mut gold), runtime(&mut donor)), (12, 12));
    watcher.signal(Signal::SIGTERM);
    watcher.wait(Duration::from_secs(10)).expect(0);
    // What was changed stays.
    assert_eq!((runtime(&mut gold), runtime(&mut donor)), (12, 12));
    gold.stop().expect(0);
    donor.stop().expect(0);
}

#[test]
fn what_was_taken_is_given_back_when_it_is_quiet_and_taken_again_when_that_was_too_soon() {
    requires!(Need::Kvm, NICE);
    let user = User::new();
    let mut donor = user.launch("cv-donor", &donor("20ms"), &[]);
    let mut gold = user.launch("cv-gold", &gold("4ms"), &[]);
    gold.status();
    donor.status();
    let more = "up_to = \"12ms\"\nfrom = \"cv-donor\"\ndown_to = \"4ms\"\ngive_back_after = \"3s\"";
    let mut watcher = watch(&user, &rule("take", more));
    watcher.until("acting thrice", |watcher| count(watcher, "done") >= 3);
    watcher.signal(Signal::SIGINT);
    let seen = events(&watcher);
    let millis =
        |change: &Value, when: &str| change[when]["runtime_ns"].as_u64().unwrap() / 1_000_000;
    let decided: Vec<_> = seen
        .iter()
        .filter(|event| event["event"] == "decision")
        .map(|event| {
            let (to, from) = (
                &event["action"]["transfer"]["to"],
                &event["action"]["transfer"]["from"],
            );
            (
                event["cause"].as_str().unwrap(),
                to["job"].as_str().unwrap(),
                millis(to, "after"),
                millis(from, "after"),
            )
        })
        .collect();
    let expected = [
        ("violation", "cv-gold", 12, 12),
        ("quiet", "cv-donor", 20, 4),
        ("violation", "cv-gold", 12, 12),
    ];
    assert_eq!(decided[..3], expected, "{seen:?}");
    watcher.wait(Duration::from_secs(10)).expect(0);
    gold.stop().expect(0);
    donor.stop().expect(0);
}

/// `vtm` on the last CPU, with these words.
fn vtm(user: &User, words: &[&str]) {
    let arguments = [&["vtm"], words].concat();
    user.run(&arguments).expect(0);
}

#[test]
fn a_vtm_whose_slots_were_missed_gets_a_slot_of_its_donor() {
    requires!(NICE);
    let user = User::new();
    let last = std::thread::available_parallelism().unwrap().get() - 1;
    let serve = ["vtm", "serve", "--cpu", &last.to_string(), "--slot", "8ms"];
    let mut service = user.start(user.command(&serve), "");
    service.until("serving", |_| user.run(&["vtm", "status"]).code() == 0);
    for (name, execution) in [("gold", "8ms"), ("besteffort", "16ms")] {
        vtm(&user, &["create", name]);
        vtm(&user, &["reserve", name, execution, "40ms"]);
    }
    vtm(&user, &["schedule"]);
    let rules = "[[rule]]\nname = \"slots\"\nkind = \"vtm\"\njob = \"gold\"\nwhen = \"supply-short\"\n\
        raise_by = \"8ms\"\nup_to = \"16ms\"\nfrom = \"besteffort\"\ndown_to = \"8ms\"\n";
    let mut watcher = watch(&user, rules);
    watcher.until("watching", |watcher| count(watcher, "here") == 2);
    // Nobody dispatches for a while. If that begins in a slot of gold, gold is not short.
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(1100));
        service.signal(Signal::SIGSTOP);
        std::thread::sleep(Duration::from_millis(2500));
        service.signal(Signal::SIGCONT);
        std::thread::sleep(Duration::from_millis(1500));
        if count(&watcher, "done") > 0 {
            break;
        }
    }
    let events = events(&watcher);
    let decision = events.iter().find(|event| event["event"] == "decision");
    let transfer = &decision.unwrap_or_else(|| panic!("{events:?}"))["action"]["transfer"];
    for (end, job, runtime) in [("to", "vtm:gold", 16), ("from", "vtm:besteffort", 8)] {
        assert_eq!(transfer[end]["job"], job, "{events:?}");
        let after = &transfer[end]["after"]["runtime_ns"];
        assert_eq!(after.as_u64(), Some(runtime * 1_000_000), "{events:?}");
    }
    assert_eq!(count(&watcher, "done"), 1, "{events:?}");
    let status = user.run(&["--json", "vtm", "status"]).expect(0).json();
    for (number, nanos) in [(0, 16_000_000), (1, 8_000_000)] {
        let promise = &status["data"]["vtms"][number]["promise"];
        assert_eq!(promise["execution"]["nanos"], nanos, "{status}");
    }
    watcher.signal(Signal::SIGINT);
    watcher.wait(Duration::from_secs(10)).expect(0);
    vtm(&user, &["quit"]);
    service.wait(Duration::from_secs(10)).expect(0);
}

#[test]
fn the_example_is_a_file_of_rules_and_a_wrong_one_is_refused_by_key() {
    let user = User::new();
    let example = user.run(&["watch", "--example"]).expect(0).stdout;
    let mut watcher = watch(&user, &example);
    watcher.until("watching", |watcher| count(watcher, "gone") == 2);
    watcher.signal(Signal::SIGINT);
    let ended = watcher.wait(Duration::from_secs(10)).expect(0);
    assert_eq!(ended.stdout.lines().count(), 2, "{ended:?}");
    let wrong = example.replace("raise_by = \"2ms\"", "raise_by = \"0ms\"");
    let file = user.file("wrong.toml", wrong);
    let refused = user.run(&["watch", &file.to_string_lossy()]).expect(1);
    for part in ["wrong.toml", "gold on time", "raise_by", "0ns", "1us"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    assert!(user.run(&["watch"]).code() == 2);
}

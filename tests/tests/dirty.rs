//! What a guest writes is recorded while it runs, and migrations are replayed over that.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs::File;
use std::time::Duration;

use migration::ram::PageSet;
use migration::trace::{Reader, Sample};
use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::{Need, User, requires};

/// Writes 20 pages every 5 ms, one after the other, round and round 4 MiB.
const SPEC: &str = "[guest]\nmemory = \"8MiB\"\nduration = \"60s\"\n\
    [[guest.task]]\nname = \"w\"\nperiod = \"5ms\"\nwrites = { pages = 20, set = \"4MiB\", content = \"random\" }\n\
    [cpu]\nbackend = \"other\"\n";

fn samples(path: &std::path::Path) -> Vec<Sample> {
    let reader = Reader::new(File::open(path).unwrap()).unwrap();
    reader.collect::<Result<_, _>>().unwrap()
}

#[test]
fn a_recording_shows_what_the_task_wrote_and_costs_what_it_may() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut guest = user.launch("cv-dirty", SPEC, &[]);
    guest.until("at work", |_| {
        let status = user.run(&["--json", "status", "cv-dirty"]);
        status.code() == 0 && status.json()["records"]["tasks"]["0"]["jobs"].as_u64() > Some(20)
    });
    let record = |out: &str, more: &[&str]| {
        let mut words = vec!["--json", "dirty", "record", "cv-dirty", "--out", out];
        words.extend(more);
        user.run(&words)
    };
    let often = record("often", &["--seconds", "2", "--cost", "100"])
        .expect(0)
        .json();
    let seen = samples(&user.path("often"));
    let mut all = PageSet::empty(2048);
    seen.iter().for_each(|sample| all.union_with(&sample.dirty));
    // 8000 writes in 2 s go round 1024 pages: each is there, and beside them rings, stacks and the guest's own few.
    assert!((1024..1024 + 64).contains(&all.len()), "{all:?}");
    let windows = often["recording"]["windows"].as_u64().unwrap();
    let faults = often["recording"]["faults"].as_u64().unwrap();
    assert_eq!(windows, seen.len() as u64);
    assert_eq!(
        faults,
        seen.iter().map(|sample| sample.dirty.len()).sum::<u64>()
    );
    // Nothing is written twice within a window, so that every write was seen.
    let written = often["tasks"][0]["writes_per_second"].as_f64().unwrap() * 2.0;
    assert!(faults as f64 > written * 0.8, "{faults} of {written}");
    // All its pages once a second are 3 % of its time, at 27 us each.
    let seldom = record("seldom", &["--seconds", "3", "--cost", "5"]);
    let seldom = seldom.expect(0).json();
    let share = seldom["fault_share"].as_f64().unwrap();
    assert!(share <= 0.05, "{share}");
    assert!(
        seldom["recording"]["windows"].as_u64().unwrap() < windows / 2,
        "{seldom}"
    );
    let refused = record("dear", &["--seconds", "9", "--cost", "1"]).expect(1);
    let why = "may take 1.00 %: raise --cost to ";
    assert!(refused.stderr.contains(why), "{refused:?}");
    // What was seen until then is a whole trace.
    assert!(!samples(&user.path("dear")).is_empty());
    let again = record("often", &["--seconds", "2"]).expect(1);
    assert!(
        again.stderr.contains("cannot write") && again.stderr.contains("often"),
        "{again:?}"
    );
    guest.stop().expect(0);
}

#[test]
fn a_signal_ends_a_recording_before_its_time_and_the_next_one_can_begin() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut guest = user.launch("cv-ended", SPEC, &[]);
    guest.until("at work", |_| {
        let status = user.run(&["--json", "status", "cv-ended"]);
        status.code() == 0 && status.json()["records"]["tasks"]["0"]["jobs"].as_u64() > Some(20)
    });
    for (out, signal) in [("int", Signal::SIGINT), ("hup", Signal::SIGHUP)] {
        let words = [
            "--json",
            "dirty",
            "record",
            "cv-ended",
            "--seconds",
            "50",
            "--out",
            out,
        ];
        let client = user.start(user.command(&words), "");
        system_tests::process::until("the trace", || user.path(out).exists());
        client.signal(signal);
        let ended = client.wait(Duration::from_secs(10)).expect(0).json();
        let windows = ended["recording"]["windows"].as_u64().unwrap();
        assert_eq!(windows, samples(&user.path(out)).len() as u64);
    }
    guest.stop().expect(0);
}

#[test]
fn a_trace_is_replayed_faster_on_a_faster_path() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut guest = user.launch("cv-replay", SPEC, &[]);
    guest.until("at work", |_| {
        let status = user.run(&["--json", "status", "cv-replay"]);
        status.code() == 0 && status.json()["records"]["tasks"]["0"]["jobs"].as_u64() > Some(20)
    });
    let record = [
        "dirty",
        "record",
        "cv-replay",
        "--seconds",
        "3",
        "--out",
        "trace",
        "--cost",
        "100",
    ];
    user.run(&record).expect(0);
    guest.stop().expect(0);
    let at = |rate: &str| -> Value {
        let words = ["--json", "dirty", "simulate", "trace", "--rate", rate];
        user.run(&words).json()
    };
    let (slow, fast) = (at("200Mbit/s"), at("1Gbit/s"));
    let total = |answer: &Value| answer["replayed"]["total_s"].as_f64().unwrap();
    // 8 MiB take 0.34 s and 0.07 s, and the slow path carries little more than the guest writes.
    assert!((0.34..2.0).contains(&total(&slow)), "{slow}");
    assert!((0.07..0.2).contains(&total(&fast)), "{fast}");
    let broken = user.path("trace");
    let bytes = std::fs::read(&broken).unwrap();
    std::fs::write(&broken, &bytes[..bytes.len() / 2]).unwrap();
    let words = ["--json", "dirty", "simulate", "trace", "--rate", "1Gbit/s"];
    let half = user.run(&words);
    assert!(
        half.stderr.contains("warning: trace is cut off"),
        "{half:?}"
    );
    let half = half.expect(0).json();
    assert!(
        (1.0..2.0).contains(&half["trace_s"].as_f64().unwrap()),
        "{half}"
    );
    assert!((0.07..0.2).contains(&total(&half)), "{half}");
    std::fs::write(&broken, &bytes[..20]).unwrap();
    let refused = user.run(&words).expect(1);
    assert!(refused.stderr.contains("cut off after 0"), "{refused:?}");
}

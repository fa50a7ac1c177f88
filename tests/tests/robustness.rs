//! Guests that misbehave: each gets a report and an exit status of its own, and the monitor stays alive meanwhile.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::user::Ended;
use system_tests::{Need, User, requires};

const MINUTE: Duration = Duration::from_secs(60);

fn spec(line: &str, more: &str) -> String {
    format!("[guest]\ncommand_line = {line:?}\n{more}\n[cpu]\nbackend = \"other\"\n")
}

/// The guest's own end, as `--json` tells it, and the exit status.
fn fault(user: &User, fault: &str) -> (Value, Ended) {
    let spec = spec(&format!("fault={fault}"), "watchdog = \"400ms\"");
    let name = format!("cv-{fault}");
    let ended = user.launch(&name, &spec, &["--json"]).wait(MINUTE);
    assert!(!ended.stderr.contains("panicked"), "{ended:?}");
    (ended.json(), ended)
}

#[test]
fn every_way_to_fail_has_a_report_and_the_failures_of_different_kinds_have_different_statuses() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut statuses = BTreeSet::new();
    for (kind, reasons) in [
        ("triple", &["triple-fault"][..]),
        // The guest's own handler tells what happened and ends the guest.
        ("ud", &["debug-exit"]),
        ("hang", &["hung"]),
        // A host whose KVM runs the guest's kernel in its own interpreter cannot fetch code from nowhere; on others the
        // processor tries to run what reads as ones.
        ("wild", &["kvm-failure", "debug-exit", "triple-fault"]),
        // A million pages without memory behind them: slower than the watchdog on many hosts.
        (
            "memory",
            &["hung", "debug-exit", "triple-fault", "kvm-failure"],
        ),
    ] {
        let begun = Instant::now();
        let (outcome, ended) = fault(&user, kind);
        let reason = outcome["end"]["reason"].as_str().unwrap();
        assert!(reasons.contains(&reason), "{kind}: {outcome}");
        assert!(ended.code() > 63 && ended.code() < 110, "{kind}: {ended:?}");
        assert!(outcome["registers"]["rip"].is_u64(), "{kind}: {outcome}");
        assert!(begun.elapsed() < Duration::from_secs(15), "{kind}");
        statuses.insert((reason.to_owned(), ended.code()));
    }
    let reasons: BTreeSet<_> = statuses.iter().map(|(reason, _)| reason).collect();
    let codes: BTreeSet<_> = statuses.iter().map(|(_, code)| code).collect();
    assert_eq!(codes.len(), statuses.len(), "{statuses:?}");
    assert!(reasons.len() >= 3, "{statuses:?}");
}

#[test]
fn a_report_for_people_says_why_and_where() {
    requires!(Need::Kvm);
    let user = User::new();
    let guest = user.launch("cv-report", &spec("fault=triple", ""), &[]);
    let ended = guest.wait(MINUTE).expect(101);
    for part in [
        "cv-report: guest triple-faulted",
        "vCPU 0 was at",
        "rip 0x",
        "cr3",
    ] {
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
    }
    let wrong = user
        .launch("cv-words", &spec("fault=ud", ""), &[])
        .wait(MINUTE);
    assert!(wrong.stdout.contains("exception 6"), "{wrong:?}");
}

#[test]
fn a_guest_that_hangs_can_be_asked_paused_and_stopped() {
    requires!(Need::Kvm);
    let user = User::new();
    let mut guest = user.launch("cv-hang", &spec("fault=hang", ""), &[]);
    guest.until("hanging", |guest| guest.stdout().contains("ready"));
    assert_eq!(guest.status()["state"], "running");
    user.run(&["pause", "cv-hang"]).expect(0);
    user.run(&["resume", "cv-hang"]).expect(0);
    assert_eq!(guest.status()["state"], "running");
    guest.stop().expect(0);
}

#[test]
fn a_hanging_guest_in_a_reservation_is_ended_by_its_watchdog() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let spec = spec("fault=hang", "watchdog = \"300ms\"").replace(
        "backend = \"other\"",
        "runtime = \"2ms\"\nperiod = \"20ms\"",
    );
    let ended = user
        .launch("cv-hang-dl", &spec, &[])
        .wait(MINUTE)
        .expect(106);
    assert!(ended.stderr.contains("guest hung"), "{ended:?}");
}

#[test]
fn a_paused_guest_does_not_count_as_hung() {
    requires!(Need::Kvm);
    let user = User::new();
    let line = "duration=60s task=t,c=1ms,t=20ms";
    let mut guest = user.launch("cv-rest", &spec(line, "watchdog = \"500ms\""), &[]);
    guest.status();
    user.run(&["pause", "cv-rest"]).expect(0);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(guest.status()["state"], "paused");
    user.run(&["resume", "cv-rest"]).expect(0);
    std::thread::sleep(Duration::from_millis(1200));
    assert_eq!(guest.status()["state"], "running");
    guest.stop().expect(0);
}

#[test]
fn a_storm_of_device_accesses_neither_ends_nor_blocks_the_monitor() {
    requires!(Need::Kvm);
    let user = User::new();
    for kind in ["pio", "mmio"] {
        for seed in [1, 2, 3] {
            let name = format!("cv-storm-{kind}-{seed}");
            let line = format!("storm={kind} seed={seed} duration=1200ms");
            let mut guest = user.launch(&name, &spec(&line, ""), &[]);
            let mut answers = 0;
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_millis(700) {
                assert_eq!(guest.status()["state"], "running");
                answers += 1;
            }
            assert!(answers > 1, "{answers}");
            let ended = guest.wait(MINUTE).expect(0);
            assert!(ended.stdout.contains("storm "), "{ended:?}");
        }
    }
}

#[test]
fn a_guest_that_floods_the_serial_port_is_still_under_control() {
    requires!(Need::Kvm);
    let user = User::new();
    // Many short jobs, each with a record over the serial port.
    let line = "duration=60s stream=1 task=a,c=10us,t=400us task=b,c=10us,t=500us";
    let mut guest = user.launch("cv-flood", &spec(line, ""), &[]);
    guest.until("printing", |guest| guest.stdout().len() > 20_000);
    assert_eq!(guest.status()["state"], "running");
    guest.stop().expect(0);
}

#[test]
fn an_image_that_is_none_is_an_error_that_says_what_is_wrong() {
    requires!(Need::Kvm);
    let user = User::new();
    let image = |name: &str, content: &[u8]| user.file(name, content).display().to_string();
    for (path, part) in [
        (image("empty", b""), "ELF"),
        (image("text", b"#!/bin/sh\necho no\n"), "ELF"),
        (
            std::env::current_exe().unwrap().display().to_string(),
            "guest image",
        ),
        ("/no/such/image".to_owned(), "/no/such/image"),
        ("/dev".to_owned(), "/dev"),
    ] {
        let spec = format!("[guest]\nimage = {path:?}\n[cpu]\nbackend = \"other\"\n");
        let ended = user.launch("cv-image", &spec, &[]).wait(MINUTE).expect(1);
        assert!(ended.stderr.contains(part), "{path}: {ended:?}");
    }
    let listed = user.run(&["ls"]).expect(0);
    assert!(listed.stdout.contains("no guests"), "{listed:?}");
}

#[test]
fn a_run_directory_with_rubbish_in_it_is_repaired() {
    requires!(Need::Kvm);
    let user = User::new();
    let line = spec("duration=60s task=t,c=1ms,t=20ms", "");
    fs::write(user.run_dir().join("ledger.json"), b"{\"not\": a ledger").unwrap();
    fs::write(user.run_dir().join("cv-rubbish.sock"), b"not a socket").unwrap();
    let mut guest = user.launch("cv-rubbish", &line, &[]);
    assert_eq!(guest.status()["state"], "running");
    // Damaged while the guest runs: what runs here is known still.
    fs::write(user.run_dir().join("ledger.json"), b"").unwrap();
    user.launch("cv-rubbish-2", &line.replace("60s", "50ms"), &[])
        .wait(MINUTE)
        .expect(0);
    guest.stop().expect(0);
}

#[test]
fn callers_that_talk_nonsense_are_answered_and_do_no_harm() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    requires!(Need::Kvm);
    let user = User::new();
    let line = spec("duration=60s task=t,c=1ms,t=20ms", "");
    let mut guest = user.launch("cv-nonsense", &line, &[]);
    guest.status();
    let socket = user.run_dir().join("cv-nonsense.sock");
    let silent = UnixStream::connect(&socket).unwrap();
    for nonsense in [
        &b"\n"[..],
        b"{}\n",
        b"\xff\xfe\n",
        b"{\"version\":2,\"request\":{\"kind\":\"stop\"}}\n",
        b"{\"version\":1,\"request\":{\"kind\":\"stop\"},\"force\":true}\n",
        b"{\"version\":1,\"request\":{\"kind\":\"adapt\",\"vcpu\":7,\"reservation\":{\"runtime_ns\":5000000,\"period_ns\":50000000}}}\n",
        b"{\"version\":1,\"request\":{\"kind\":\"adapt\",\"vcpu\":0,\"reservation\":{\"runtime_ns\":5,\"period_ns\":50}}}\n",
        b"{\"version\":1,\"request\":{\"kind\":\"enforce\",\"vcpu\":0,\"reservation\":{\"runtime_ns\":5000000,\"period_ns\":50000000}}}\n",
    ] {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(nonsense).unwrap();
        stream.set_read_timeout(Some(MINUTE)).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("\"Err\""), "{nonsense:?}: {answer}");
    }
    // A caller that hangs up, and one that sends more than is ever read.
    drop(UnixStream::connect(&socket).unwrap());
    let mut stream = UnixStream::connect(&socket).unwrap();
    let _ = stream.write_all(&vec![b'x'; 2 << 20]);
    assert_eq!(guest.status()["state"], "running");
    drop(silent);
    guest.stop().expect(0);
}

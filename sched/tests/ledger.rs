//! The ledger under damage, death and concurrency. Needs no privileges: nothing here is put into force.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use sched::framework::Manager;
use sched::ledger::{Bound, Change, Ledger};
use sched::reservation::{BackendKind, Reservation, VcpuRequest};
use support::Host;
use system_tests::{Need, requires};

/// Real-time groups share one host-wide limit of 95 %, with or without partitions.
fn group(percent: u64) -> VcpuRequest {
    let ms = Duration::from_millis;
    VcpuRequest {
        reservation: Reservation::new(ms(percent), ms(100)).ok(),
        backend: BackendKind::RtCgroup,
        ..VcpuRequest::default()
    }
}

#[test]
fn what_is_dropped_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let first = ledger.reserve("a", &[group(60)]).unwrap();
    let refusal = ledger.reserve("b", &[group(60)]).unwrap_err();
    assert_eq!(refusal.bound, Bound::RtGroups);
    let text = refusal.to_string();
    assert!(
        text.contains("needs 60.00 %") && text.contains("35.00 % left"),
        "{text}"
    );
    assert!(
        text.contains("(34.999 ms, 100 ms)") || text.contains("(35 ms, 100 ms)"),
        "{text}"
    );
    drop(first);
    assert!(ledger.reserve("b", &[group(60)]).is_ok());
}

#[test]
fn a_refused_request_leaves_the_file_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let _first = ledger.reserve("a", &[group(60)]).unwrap();
    let before = fs::read(dir.path().join("ledger.json")).unwrap();
    assert!(ledger.reserve("b", &[group(20), group(20)]).is_err());
    assert!(ledger.admit("c", &[group(10)]).is_ok());
    assert_eq!(fs::read(dir.path().join("ledger.json")).unwrap(), before);
}

#[test]
fn an_exchange_that_was_made_from_an_earlier_state_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let _a = ledger.reserve("a", &[group(40)]).unwrap();
    let _b = ledger.reserve("b", &[group(40)]).unwrap();
    let pair = |a, b| {
        [("a", a), ("b", b)].map(|(vm, percent)| Change {
            vm: vm.to_owned(),
            vcpu: 0,
            reservation: group(percent).reservation.unwrap(),
        })
    };
    ledger.exchange(&pair(40, 40), &pair(30, 50)).unwrap();
    let before = ledger.entries().unwrap();
    for stale in [pair(40, 40), pair(30, 40), pair(40, 50)] {
        let refusal = ledger.exchange(&stale, &pair(50, 30)).unwrap_err();
        assert_eq!(refusal.bound, Bound::Changed);
        assert!(refusal.to_string().contains("try again"), "{refusal}");
    }
    assert!(ledger.exchange(&pair(30, 50), &pair(60, 60)).is_err());
    assert_eq!(ledger.entries().unwrap(), before);
}

#[test]
fn a_change_of_several_with_one_unknown_changes_none() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let _a = ledger.reserve("a", &[group(40)]).unwrap();
    let before = ledger.entries().unwrap();
    let both = ["a", "nobody"].map(|vm| Change {
        vm: vm.to_owned(),
        vcpu: 0,
        reservation: group(20).reservation.unwrap(),
    });
    let refusal = ledger.adapt(&both).unwrap_err();
    assert_eq!(refusal.bound, Bound::NotAdmitted);
    assert_eq!(ledger.entries().unwrap(), before);
}

#[test]
fn a_second_vm_of_the_same_name_is_refused_while_the_first_lives() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let first = ledger.reserve("a", &[group(1)]).unwrap();
    let refusal = ledger.reserve("a", &[group(1)]).unwrap_err();
    assert!(matches!(refusal.bound, Bound::NameTaken { .. }));
    first.release().unwrap();
    assert!(ledger.reserve("a", &[group(1)]).is_ok());
}

#[test]
fn names_that_cannot_be_file_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    for name in ["", "a/b", "..", "a b", "x\n", &"n".repeat(108)] {
        let refusal = ledger.admit(name, &[group(1)]).unwrap_err();
        assert!(matches!(refusal.bound, Bound::BadName { .. }), "{name:?}");
    }
}

#[test]
fn a_damaged_file_is_rebuilt_and_keeps_what_this_process_was_granted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.json");
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let _first = ledger.reserve("a", &[group(60)]).unwrap();
    let whole = fs::read(&path).unwrap();
    for damage in [&whole[..whole.len() / 2], b"", b"{}", &[0xff; 300]] {
        fs::write(&path, damage).unwrap();
        assert!(
            ledger.admit("b", &[group(60)]).is_err(),
            "60 % are still taken"
        );
        assert!(
            ledger
                .entries()
                .unwrap()
                .iter()
                .any(|entry| entry.vm == "a")
        );
    }
}

#[test]
fn threads_and_handles_exclude_one_another() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path()).unwrap();
    let other_handle = Ledger::open(dir.path()).unwrap();
    let admitted: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..40)
            .map(|i| {
                let mut ledger = if i % 2 == 0 { &ledger } else { &other_handle }.clone();
                scope.spawn(move || ledger.reserve(&format!("vm{i}"), &[group(5)]))
            })
            .collect();
        let results = workers.into_iter().map(|worker| worker.join().unwrap());
        results.filter_map(Result::ok).collect()
    });
    assert_eq!(admitted.len(), 19, "19 x 5 % is the limit");
    assert_eq!(ledger.entries().unwrap().len(), 19);
}

/// Run as a child of the next test: takes its share, says so, and waits to be killed.
#[test]
#[ignore = "a part of the test of a killed process"]
fn child_that_is_killed() {
    let Ok(dir) = std::env::var("SCHED_TEST_LEDGER") else {
        return;
    };
    let mut ledger = Ledger::open(dir.as_ref()).unwrap();
    let _admitted = ledger.reserve("victim", &[group(60)]).unwrap();
    fs::write(format!("{dir}/ready"), "").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

/// A process that has taken its share of the ledger in `dir`.
fn victim(dir: &Path) -> std::process::Child {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_is_killed", "--ignored"])
        .env("SCHED_TEST_LEDGER", dir)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !dir.join("ready").exists() {
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[test]
fn a_change_that_does_not_fit_even_without_a_killed_process_is_not_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    let _admitted = ledger.reserve("a", &[group(20)]).unwrap();
    let mut child = victim(dir.path());
    child.kill().unwrap();
    child.wait().unwrap();
    let before = ledger.entries().unwrap()[0].clone();
    let refused = group(99).reservation.unwrap();
    assert!(ledger.adapt(&[Change::new("a", 0, refused)]).is_err());
    assert_eq!(ledger.entries().unwrap(), [before]);
}

#[test]
fn what_a_killed_process_had_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = victim(dir.path());
    let ledger = Ledger::open(dir.path()).unwrap();
    assert!(ledger.admit("b", &[group(60)]).is_err());
    assert!(ledger.admit("victim", &[group(1)]).is_err());
    child.kill().unwrap();
    // Not even reaped: a zombie holds nothing.
    while ledger.admit("b", &[group(60)]).is_err() {
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(ledger.admit("victim", &[group(1)]).is_ok());
    child.wait().unwrap();
}

/// Run by the next test as an unprivileged user.
#[test]
#[ignore = "a part of the test of missing capabilities"]
fn child_without_capabilities() {
    use sched::backend::{Tid, apply};
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open(dir.path()).unwrap();
    for backend in [BackendKind::Deadline, BackendKind::Fifo] {
        let ms = Duration::from_millis;
        let request = VcpuRequest {
            reservation: Reservation::new(ms(1), ms(50)).ok(),
            backend,
            ..VcpuRequest::default()
        };
        let admitted = ledger.reserve("vm", &[request]).unwrap();
        let error = apply(Tid::current(), admitted.vcpu(0).unwrap()).err();
        println!(
            "said: {}",
            error.map(|error| error.to_string()).unwrap_or_default()
        );
    }
}

#[test]
fn without_the_capability_the_message_names_it() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    requires!(Need::Root);
    // In a partition it would be told of the partition first.
    let _host = Host::lock();
    // The checkout may be where no other user gets.
    let open_folder = std::fs::Permissions::from_mode(0o755);
    let folder = tempfile::Builder::new()
        .permissions(open_folder)
        .tempdir()
        .unwrap();
    let program = folder.path().join("ledger-test");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let child = Command::new(&program)
        .args([
            "--exact",
            "child_without_capabilities",
            "--ignored",
            "--nocapture",
        ])
        .uid(65534)
        .gid(65534)
        .output();
    let output = child.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines: Vec<_> = said
        .lines()
        .filter(|line| line.contains("said: "))
        .collect();
    assert_eq!(
        lines.len(),
        2,
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        lines.iter().all(|line| line.contains("CAP_SYS_NICE")),
        "{said}"
    );
}

//! What a user is promised: deadlines, the choice of a CPU, and CPU time that another guest has just given back.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::process::Command;

use system_tests::requires::Capability;
use system_tests::{Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);

fn spec(cpu: &str) -> String {
    format!("[guest]\nduration = \"60s\"\n[cpu]\n{cpu}\n")
}

/// Runtime, deadline and period that the kernel enforces on a thread, by the words of another program.
fn in_force(tid: i64) -> String {
    let mut chrt = Command::new("chrt");
    let told = chrt.args(["--pid", &tid.to_string()]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let parameters = told
        .lines()
        .find_map(|line| line.split_once("runtime/deadline/period parameters: "));
    parameters.unwrap_or_else(|| panic!("{told}")).1.to_owned()
}

#[test]
fn a_deadline_is_what_the_kernel_enforces_and_can_be_adapted() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"));
    let user = User::new();
    let constrained = spec("runtime = \"10ms\"\nperiod = \"40ms\"\ndeadline = \"30ms\"");
    let checked = user.run(&["check", &user.spec("cv-due", &constrained)]);
    let shown = "(10 ms, 40 ms, deadline 30 ms)";
    assert!(checked.expect(0).stdout.contains(shown));

    let mut guest = user.launch("cv-due", &constrained, &[]);
    let tid = guest.vcpu_thread(0);
    // A millisecond more for the kernel's backstop.
    assert_eq!(in_force(tid), "11000000/30000000/40000000");
    for command in [&["ls"][..], &["status", "cv-due"]] {
        let text = user.run(command).expect(0).stdout;
        assert!(text.contains(shown), "{text}");
    }
    let status = guest.status();
    let read_back = &status["vcpus"][0]["in_force"]["Ok"]["reservation"];
    assert_eq!(read_back["deadline_ns"], 30_000_000, "{status}");

    // A deadline stays where it is, unless it is the end of the period.
    user.run(&["adapt", "cv-due", "--period", "50ms"]).expect(0);
    assert_eq!(in_force(tid), "11000000/30000000/50000000");
    let adapted = user.run(&["adapt", "cv-due", "--deadline", "20ms"]);
    let text = adapted.expect(0).stdout;
    assert!(text.contains("(10 ms, 50 ms, deadline 20 ms)"), "{text}");
    assert_eq!(in_force(tid), "11000000/20000000/50000000");
    let refused = user.run(&["adapt", "cv-due", "--deadline", "9ms"]);
    assert!(refused.expect(1).stderr.contains("9 ms is shorter"));
    user.run(&["adapt", "cv-due", "--deadline", "50ms"])
        .expect(0);
    user.run(&["adapt", "cv-due", "--period", "40ms"]).expect(0);
    assert_eq!(in_force(tid), "11000000/40000000/40000000");
    guest.stop().expect(0);
}

#[test]
fn a_deadline_that_the_back_end_cannot_keep_is_refused() {
    requires!(NICE);
    let user = User::new();
    let cpu = "runtime = \"1ms\"\nperiod = \"40ms\"\ndeadline = \"30ms\"\nbackend = \"cfs-quota\"";
    let refused = user.run(&["check", &user.spec("cv-quota", &spec(cpu))]);
    let text = refused.expect(3).stderr;
    assert!(text.contains("cfs-quota cannot keep"), "{text}");
}

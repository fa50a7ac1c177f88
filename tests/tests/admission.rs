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

#[test]
fn a_guest_that_is_started_right_after_another_has_left_gets_its_cpu_time() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"), Need::Cpus(2));
    let user = User::new();
    // One of them fits on all CPUs together, two do not.
    let most = spec("runtime = \"1600ms\"\nperiod = \"2s\"\nenforcement = \"tick\"");
    let mut first = user.launch("cv-leaves", &most, &[]);
    let _ = first.vcpu_thread(0);
    let at_once = user.run(&["check", &user.spec("cv-comes", &most)]);
    assert!(at_once.expect(3).stderr.contains("cv-comes"));
    user.run(&["stop", "cv-leaves"]).expect(0);
    let mut next = user.launch("cv-comes", &most, &[]);
    let tid = next.vcpu_thread(0);
    assert_eq!(in_force(tid), "1600000000/2000000000/2000000000");
    let ended = next.stop().expect(0);
    assert!(ended.stderr.contains("cv-comes starts in"), "{ended:?}");
}

#[test]
fn a_guest_grows_into_what_another_has_just_given_up() {
    requires!(Need::Kvm, NICE, Need::Program("chrt"), Need::Cpus(2));
    let user = User::new();
    let spec = |runtime| {
        let cpu = format!("runtime = \"{runtime}\"\nperiod = \"1s\"\nenforcement = \"tick\"");
        spec(&cpu)
    };
    let mut shrinks = user.launch("cv-shrinks", &spec("600ms"), &[]);
    let mut grows = user.launch("cv-grows", &spec("500ms"), &[]);
    let tids = [shrinks.vcpu_thread(0), grows.vcpu_thread(0)];
    let adapt = |name, runtime| user.run(&["adapt", name, "--runtime", runtime]);
    adapt("cv-grows", "800ms").expect(3);
    adapt("cv-shrinks", "200ms").expect(0);
    adapt("cv-grows", "800ms").expect(0);
    assert_eq!(in_force(tids[0]), "200000000/1000000000/1000000000");
    assert_eq!(in_force(tids[1]), "800000000/1000000000/1000000000");
    grows.stop().expect(0);
    shrinks.stop().expect(0);
}

#[test]
fn an_unknown_fit_is_refused_with_those_that_there_are() {
    requires!(NICE);
    let user = User::new();
    let refused = user.run(&["host", "prepare", "--cpus", "1", "--fit", "tight"]);
    let text = refused.expect(2).stderr;
    assert!(text.contains("use first, best or worst"), "{text}");
}

//! Shows that the emulated host is the host that other tests take it for.

use std::time::Duration;

use system_tests::emulated_host::{EmulatedHost, HostError, Outcome};
use system_tests::{Need, requires};

const SHORT: Duration = Duration::from_secs(20);

#[test]
fn an_emulated_host_has_ordinary_kvm_cgroup_v2_and_deadline_scheduling() {
    requires!(Need::EmulatedHost, Need::Program("chrt"));
    let report = EmulatedHost::new()
        .kernel_option("isolcpus=1")
        .executable(env!("CARGO_BIN_EXE_kvm-probe"))
        .program("chrt")
        .case("kvm", SHORT, "kvm-probe")
        .case(
            "svm",
            SHORT,
            "grep -qw svm /proc/cpuinfo && cat /sys/module/kvm_amd/parameters/npt",
        )
        .case(
            "cpus",
            SHORT,
            "nproc --all; cat /sys/devices/system/cpu/isolated",
        )
        .case("cgroup", SHORT, CGROUP)
        .case("deadline", SHORT, DEADLINE)
        .boot()
        .unwrap();
    println!("the host ran for {:?}", report.wall);
    let output = |name| report.case(name).assert_success().trim();
    assert_eq!(output("kvm"), "api_version=12 reset_cs_base=0xffff0000");
    assert_eq!(output("svm"), "Y");
    assert_eq!(output("cpus"), "2\n1");
    assert_eq!(output("cgroup"), "1\n10000 100000");
    assert!(output("deadline").contains("SCHED_DEADLINE"));
}

const CGROUP: &str = "cd /sys/fs/cgroup && mkdir group && cd group &&
    echo 1 >cpuset.cpus && echo '10000 100000' >cpu.max &&
    sh -c 'echo $$ >cgroup.procs && cat cpuset.cpus.effective cpu.max'";

const DEADLINE: &str = "chrt --deadline --sched-runtime 1000000 --sched-deadline 10000000 \
    --sched-period 10000000 0 sh -c 'chrt --pid $$'";

#[test]
fn every_case_has_its_own_outcome_whatever_it_does() {
    requires!(Need::EmulatedHost);
    let report = EmulatedHost::new()
        .cpus(1)
        .memory_mib(512)
        .case("fails", SHORT, "echo end 0 exit 0 0; exit 3")
        .case(
            "hangs",
            Duration::from_secs(1),
            "echo first; sleep 1000 & wait",
        )
        .case(
            "prints much",
            SHORT,
            "echo start; yes | head -c 1000000; echo finish",
        )
        .case("killed", SHORT, "kill -TERM $$")
        .case("leftovers", SHORT, "! pgrep sleep")
        .boot()
        .unwrap();
    assert_eq!(report.case("fails").outcome, Outcome::Exit(3));
    assert_eq!(report.case("fails").output, "end 0 exit 0 0\n");
    assert_eq!(report.case("hangs").outcome, Outcome::TimedOut);
    assert_eq!(report.case("hangs").output, "first\n");
    assert_eq!(report.case("killed").outcome, Outcome::Exit(128 + 15));
    let much = report.case("prints much").assert_success();
    assert!(much.starts_with("start\n") && much.ends_with("finish\n"));
    assert!(much.len() < 300_000 && much.contains("bytes left out"));
    report.case("leftovers").assert_success();
}

#[test]
fn a_case_that_ends_before_its_watch_has_started_has_not_timed_out() {
    requires!(Need::EmulatedHost);
    let host = EmulatedHost::new().memory_mib(512);
    let host = (0..30).fold(host, |host, index| {
        host.case(&index.to_string(), Duration::from_secs(3), "exit 7")
    });
    let report = host.boot().unwrap();
    assert!(
        report
            .cases
            .iter()
            .all(|case| case.outcome == Outcome::Exit(7)),
        "{:?}",
        report.cases
    );
}

#[test]
fn a_kernel_that_dies_is_an_error_that_names_the_case_and_shows_the_console() {
    requires!(Need::EmulatedHost);
    let error = EmulatedHost::new()
        .cpus(1)
        .memory_mib(512)
        .case("fine", SHORT, "true")
        .case("crash", SHORT, "echo c >/proc/sysrq-trigger; sleep 10")
        .boot()
        .unwrap_err();
    let HostError::Stopped { state, console, .. } = error else {
        panic!("{error}");
    };
    assert_eq!(state, "stopped during the case `crash`");
    assert!(console.contains("sysrq triggered crash"), "{console}");
}

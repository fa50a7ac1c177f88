//! Shows that the emulated host is the host that other tests take it for.

use std::time::Duration;

use serde_json::Value;

use system_tests::emulated_host::{EmulatedHost, HostError, Outcome};
use system_tests::{Need, built, requires};

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

#[test]
fn a_host_that_stands_still_is_ended_and_says_what_its_cpus_do() {
    requires!(Need::EmulatedHost, Need::Program("chrt"));
    let error = EmulatedHost::new()
        .cpus(1)
        .memory_mib(512)
        .program("chrt")
        .case(
            "busy",
            Duration::from_secs(1),
            "echo -1 >/proc/sys/kernel/sched_rt_runtime_us; exec chrt --fifo 99 yes >/dev/null",
        )
        .boot()
        .unwrap_err();
    let HostError::Stopped {
        state,
        qemu,
        console,
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(state, "stopped during the case `busy`");
    assert!(qemu.starts_with("no progress for "), "{qemu}");
    assert!(console.contains("Comm: yes"), "{console}");
}

/// A task set that an emulated CPU in an emulated CPU keeps up with.
const SLOW_TASKS: &str =
    "duration = \"2s\"\n[[guest.task]]\nname = \"a\"\nexecution = \"20ms\"\nperiod = \"500ms\"\n";

/// Writes a specification to `/NAME.toml`.
fn write_spec(name: &str, guest: &str, cpu: &str) -> String {
    format!("cat >/{name}.toml <<'END'\nname = \"{name}\"\n[guest]\n{guest}[cpu]\n{cpu}END\n")
}

/// A script that runs a guest and shows its records.
fn run_script(name: &str, guest: &str, cpu: &str) -> String {
    write_spec(name, guest, cpu)
        + &format!("chronovisor run /{name}.toml --records /{name}.records && cat /{name}.records")
}

/// The records that a script has shown.
fn jobs(output: &str) -> Vec<Value> {
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|record| record["event"] == "job")
        .collect()
}

/// That the jobs of a task are numbered one after the other, released on its grid, and took what they should.
#[track_caller]
fn assert_sane(jobs: &[Value], task: u64, least: usize) {
    let of_task: Vec<&Value> = jobs.iter().filter(|job| job["task"] == task).collect();
    assert!(of_task.len() >= least, "task {task}: {jobs:?}");
    let number = |job: &Value, key: &str| {
        let number = job[key].as_u64();
        number.unwrap_or_else(|| panic!("{key}: {job}"))
    };
    let origin = number(of_task[0], "release");
    for (expected, job) in (0..).zip(&of_task) {
        assert_eq!(number(job, "job"), expected, "{jobs:?}");
        assert_eq!(
            number(job, "release"),
            origin + expected * 500_000_000,
            "{job}"
        );
        let executed = number(job, "executed");
        assert!((19_999_000..100_000_000).contains(&executed), "{job}");
    }
}

#[test]
fn real_time_guests_run_on_ordinary_kvm_and_cgroup_version_2() {
    requires!(Need::EmulatedHost);
    let long = Duration::from_secs(60);
    let two = SLOW_TASKS.to_owned()
        + "[[guest.task]]\nname = \"b\"\nexecution = \"20ms\"\nperiod = \"500ms\"\nvcpu = 1\n";
    let reservation = "runtime = \"200ms\"\nperiod = \"400ms\"\ncpu = 1\n";
    let ordinary = "backend = \"other\"\n";
    let report = EmulatedHost::new()
        .executable(built::chronovisor().unwrap())
        .program("chrt")
        .case("one", long, &run_script("one", SLOW_TASKS, ordinary))
        .case("two", long, &run_script("two", &two, ordinary))
        .case("prepare", SHORT, "chronovisor host prepare --cpus 1")
        .case(
            "reserved",
            long,
            &run_script("reserved", SLOW_TASKS, reservation),
        )
        .case(
            "adapted",
            long,
            &(write_spec("adapted", &SLOW_TASKS.replace("2s", "60s"), reservation) + ADAPT),
        )
        .case(
            "saved",
            long,
            &(write_spec("saved", &SLOW_TASKS.replace("2s", "60s"), reservation) + SAVE),
        )
        .case("restore", SHORT, "chronovisor host restore")
        .case(
            "quota",
            long,
            &(write_spec("quota", &SLOW_TASKS.replace("2s", "60s"), QUOTA) + CONTROLLER),
        )
        .case("faults", long, FAULTS)
        .boot()
        .unwrap();
    println!("the host ran for {:?}", report.wall);
    let output = |name| report.case(name).assert_success();
    assert!(output("prepare").contains("prepared"));
    assert!(output("restore").contains("restored"));
    assert_sane(&jobs(output("one")), 0, 3);
    assert_sane(&jobs(output("two")), 0, 3);
    assert_sane(&jobs(output("two")), 1, 3);
    assert_sane(&jobs(output("reserved")), 0, 3);
    let adapted = output("adapted");
    assert!(adapted.contains("/400000000/400000000"), "{adapted}");
    assert!(adapted.contains("/300000000/300000000"), "{adapted}");
    assert_sane(&jobs(output("saved")), 0, 6);
    assert!(output("quota").ends_with("as found\n"));
    let faults = output("faults");
    for part in ["triple 101", "hang 106", "ud 82", "triple-faulted"] {
        assert!(faults.contains(part), "{part}: {faults}");
    }
}

const ADAPT: &str = r#"
chronovisor run /adapted.toml >/dev/null &
until chronovisor status adapted >/dev/null 2>&1; do sleep 0.1; done
tid=$(chronovisor status adapted | sed -n 's/.*(thread \([0-9]*\)).*/\1/p')
chrt --pid $tid
chronovisor adapt adapted --runtime 100ms --period 300ms || exit 1
chrt --pid $tid
chronovisor adapt adapted --runtime 400ms 2>&1 && exit 2
chronovisor stop adapted || exit 3
wait
"#;

// The restored guest is stopped before it ends by itself: the emulator lets a task use ports only while the task register
// says "available TSS", and what KVM tells and takes is "busy TSS", as real processors have it.
const SAVE: &str = r#"
some_jobs() {
    until chronovisor status saved 2>/dev/null | grep -qE ' ([3-9]|[1-9][0-9]+) jobs'; do sleep 0.2; done
}
chronovisor run /saved.toml --records /first.records &
some_jobs
chronovisor save saved /folder || exit 1
wait
chronovisor restore /saved.toml /folder --records /second.records &
some_jobs
chronovisor stop saved || exit 2
wait
cat /first.records /second.records
"#;

const QUOTA: &str = "runtime = \"200ms\"\nperiod = \"400ms\"\nbackend = \"cfs-quota\"\n";

/// The root hands out the cpu controller while a guest, or somebody else, uses it: ended, killed, and shared.
const CONTROLLER: &str = r#"
cd /sys/fs/cgroup
quota() {
    chronovisor run /quota.toml >/dev/null &
    until chronovisor status quota 2>/dev/null | grep -q 'in force'; do sleep 0.1; done
    grep -qw cpu cgroup.subtree_control || exit 1
}
as_found() {
    ! grep -qw cpu cgroup.subtree_control && ! ls -d chronovisor.* 2>/dev/null
}
echo -cpu >cgroup.subtree_control
mkdir other
quota; chronovisor stop quota; wait
as_found || exit 2
quota; kill -KILL $!; wait
chronovisor ls
as_found || exit 3
quota; echo 50 >other/cpu.weight; chronovisor stop quota; wait
grep -qw cpu cgroup.subtree_control || exit 4
echo 100 >other/cpu.weight
chronovisor ls
as_found || exit 5
rmdir other
echo +cpu >cgroup.subtree_control
echo as found
"#;

const FAULTS: &str = r#"
for fault in triple hang ud; do
    printf 'name = "f"\n[guest]\ncommand_line = "fault=%s"\nwatchdog = "2s"\n[cpu]\nbackend = "other"\n' $fault >/f.toml
    chronovisor run /f.toml
    echo $fault $?
done
"#;

//! Guests whose specification says what their tasks need, and not what is to be reserved.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use system_tests::requires::Capability;
use system_tests::user::Guest;
use system_tests::{Need, User, host_figures::keep_figures, requires};

const NEEDS: [Need; 3] = [Need::Kvm, Need::Root, Need::Capability(Capability::SysNice)];

/// The task set of Cucinotta, Anastasi and Abeni.
const PAPER: &str = "[[guest.task]]\nname = \"t1\"\nexecution = \"30ms\"\nperiod = \"150ms\"\n\
    [[guest.task]]\nname = \"t2\"\nexecution = \"50ms\"\nperiod = \"200ms\"\n";

fn spec(guest: &str, cpu: &str) -> String {
    format!("[guest]\n{guest}\n{PAPER}[cpu]\n{cpu}\n")
}

/// The last CPU as a partition, until the test is over.
struct Partition<'a> {
    user: &'a User,
    cpu: u32,
}

impl<'a> Partition<'a> {
    fn prepare(user: &'a User) -> Self {
        let online = fs::read_to_string("/sys/devices/system/cpu/online").unwrap();
        let cpu: u32 = online
            .trim()
            .rsplit(['-', ','])
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let partition = Self { user, cpu };
        let cpu = cpu.to_string();
        let _ = user.run(&["host", "prepare", "--cpus", &cpu]).expect(0);
        partition
    }

    /// The paper's load: real-time tasks of the host.
    fn load(&self) -> Guest<'a> {
        let set = "sched=rm task=load1,c=50ms,t=120ms task=load2,c=20ms,t=80ms";
        let (cpu, owner) = (self.cpu.to_string(), std::process::id().to_string());
        let arguments = [
            "experiment",
            "part",
            "tasks",
            "--priority",
            "50",
            "--cpu",
            &cpu,
        ];
        let mut command = self.user.command(&arguments);
        command.args(["--owner", &owner, set]);
        let mut load = self.user.start(command, "load");
        load.until("ready", |load| load.stdout().contains("ready"));
        load
    }
}

impl Drop for Partition<'_> {
    fn drop(&mut self) {
        let _ = self.user.run(&["host", "restore"]);
    }
}

/// Deadlines missed and met, by the guest's own records.
fn deadlines(records: &std::path::Path) -> (usize, usize) {
    let text = fs::read_to_string(records).unwrap();
    let events = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let jobs = events.filter(|event| event["event"] == "job");
    let missed = |job: &Value| job["finish"].as_u64() > job["deadline"].as_u64();
    let (missed, met): (Vec<Value>, Vec<Value>) = jobs.partition(missed);
    (missed.len(), met.len())
}

#[test]
fn a_guest_whose_specification_has_only_tasks_misses_no_deadline_beside_load() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], Need::Cpus(2));
    let user = User::new();
    let partition = Partition::prepare(&user);
    let load = partition.load();
    let records = user.path("records");
    let cpu = partition.cpu;
    let run = |name: &str, wanted: &str| {
        let spec = spec("duration = \"6s\"", &format!("cpu = {cpu}\n{wanted}"));
        let shown = ["--records", &records.to_string_lossy()];
        let ended = user
            .launch(name, &spec, &shown)
            .wait(Duration::from_secs(40))
            .expect(0);
        (ended, deadlines(&records))
    };
    let (_, (missed, _)) = run("cv-ordinary", "backend = \"other\"");
    assert!(
        missed > 10,
        "the load is too weak to show anything: {missed}"
    );
    for (name, wanted) in [("cv-best", ""), ("cv-least", "period = \"50ms\"")] {
        let (ended, (missed, met)) = run(name, wanted);
        for part in [
            "Joseph and Pandya",
            "Shin and Lee 2003",
            "task t2",
            "overheads assumed",
        ] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
        assert!(
            missed == 0 && met >= 60,
            "{missed} missed, {met} met: {ended:?}"
        );
    }
    drop(load);
}

fn checked(user: &User, spec: &str) -> Value {
    let spec = user.spec("cv-checked", spec);
    user.run(&["--json", "check", &spec]).expect(0).json()
}

fn runtime(checked: &Value, vcpu: usize) -> u64 {
    checked["vcpus"][vcpu]["request"]["reservation"]["runtime_ns"]
        .as_u64()
        .unwrap()
}

#[test]
fn what_is_measured_of_the_host_is_charged_and_what_is_not_is_assumed() {
    requires!(NEEDS[2]);
    let user = User::new();
    let fifty = spec("", "period = \"50ms\"");
    let assumed = checked(&user, &fifty);
    let source = |checked: &Value| checked["design"]["overheads"].as_str().unwrap().to_owned();
    assert!(source(&assumed).contains("overheads assumed"), "{assumed}");
    keep_figures(&user, |_| {});
    let measured = checked(&user, &fifty);
    assert!(
        source(&measured).contains("measured on CPU 0"),
        "{measured}"
    );
    assert!(
        source(&measured).contains("2025-01-02T03-04-05Z"),
        "{measured}"
    );
    // 400 us for each of two jobs of t1 and one of t2, and a release of t2 that interrupts t1: (30.4 + 0.3) ms within two
    // periods less what the budget lacks in them; and a switch.
    assert!(runtime(&measured, 0) > 32_050_000, "{measured}");
    let free = |kept: &mut Value| {
        for cost in ["budget_switch", "timer_latency", "exit"] {
            kept["figures"][cost]["p99"] = "0ns".into();
        }
    };
    keep_figures(&user, free);
    assert_eq!(runtime(&checked(&user, &fifty), 0), 32_000_000);
    for (key, value, part) in [
        ("version", json!(7), "version 7"),
        ("kind", json!("ledger"), "`ledger`"),
        ("figures", json!([]), "make no sense"),
    ] {
        keep_figures(&user, |kept| kept[key] = value);
        let spec = user.spec("cv-other", &fifty);
        let ended = user.run(&["check", &spec]).expect(0);
        assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        assert!(ended.stdout.contains("overheads assumed"), "{ended:?}");
    }
    keep_figures(&user, |kept| kept["figures"]["cpu_model"] = "Z80".into());
    let ended = user
        .run(&["check", &user.spec("cv-other", &fifty)])
        .expect(0);
    assert!(ended.stderr.contains("another processor"), "{ended:?}");
}

#[test]
fn execution_times_of_another_host_are_changed_for_this_one_in_the_guest_too() {
    requires!(NEEDS[2]);
    let user = User::new();
    // Memory is slower by a quarter here.
    let reference = "reference = { integer = \"10ms\", float = \"13ms\", memory = \"16ms\" }";
    let slower = spec(reference, "period = \"20ms\"");
    let spec = user.spec("cv-slower", &slower);
    let ended = user.run(&["check", &spec]).expect(1);
    assert!(
        ended.stderr.contains("`chronovisor host measure`"),
        "{ended:?}"
    );
    keep_figures(&user, |_| {});
    let told = checked(&user, &slower);
    let line = told["command_line"].as_str().unwrap();
    assert!(
        line.contains("task=t1,c=37500us,t=150ms task=t2,c=62500us,t=200ms"),
        "{told}"
    );
    assert!(runtime(&told, 0) > 11_250_000, "{told}");
    let ended = user.run(&["check", &spec]).expect(0);
    assert!(
        ended
            .stdout
            .contains("execution times are those of this host"),
        "{ended:?}"
    );
    assert!(!ended.stdout.contains("without optimisation"), "{ended:?}");
    keep_figures(&user, |kept| kept["figures"]["optimised"] = false.into());
    let ended = user.run(&["check", &spec]).expect(0);
    assert!(ended.stdout.contains("without optimisation"), "{ended:?}");
    // More than three times as slow is more than there is.
    let ended = user
        .run(&[
            "check",
            &user.spec(
                "cv-slowest",
                &slower.replace("memory = \"16ms\"", "memory = \"6ms\""),
            ),
        ])
        .expect(3);
    assert!(
        ended.stderr.contains("as they are on this host"),
        "{ended:?}"
    );
}

#[test]
fn every_vcpu_is_given_what_its_own_tasks_need() {
    requires!(NEEDS[2]);
    let user = User::new();
    let third =
        "[[guest.task]]\nname = \"t3\"\nexecution = \"1ms\"\nperiod = \"100ms\"\nvcpu = 1\n";
    let two = |cpu: &str| format!("[guest]\nscheduler = \"edf\"\n{PAPER}{third}[cpu]\n{cpu}");
    let told = checked(&user, &two("period = \"20ms\""));
    assert!(runtime(&told, 0) > 9_000_000, "{told}");
    assert!((200_000..2_000_000).contains(&runtime(&told, 1)), "{told}");
    assert_eq!(told["design"]["vcpus"][1]["witnesses"][0]["task"], "t3");
    assert_eq!(told["design"]["vcpus"][1]["scheduler"], "EDF");
    let written = two("period = \"20ms\"\n[[cpu.vcpu]]\nruntime = \"15ms\"\n");
    let told = checked(&user, &written);
    assert_eq!(runtime(&told, 0), 15_000_000);
    assert_eq!(told["design"]["vcpus"].as_array().unwrap().len(), 1);
}

#[test]
fn a_budget_that_comes_early_in_its_period_may_be_smaller() {
    requires!(NEEDS[2]);
    let user = User::new();
    let of = |deadline: &str| {
        let told = checked(&user, &spec("", &format!("period = \"50ms\"\n{deadline}")));
        (runtime(&told, 0), told.to_string())
    };
    let (late, told) = of("");
    assert!(told.contains("Shin and Lee 2003"), "{told}");
    let (early, told) = of("deadline = \"38ms\"");
    assert!(early < late - 1_000_000, "{early} {late}");
    assert!(told.contains("Easwaran, Anand and Lee 2007"), "{told}");
    assert!(told.contains("\"deadline_ns\":38000000"), "{told}");
    let without = user.spec("cv-without", &spec("", "deadline = \"38ms\""));
    let ended = user.run(&["check", &without]).expect(1);
    assert!(ended.stderr.contains("cpu.period"), "{ended:?}");
}

#[test]
fn tasks_that_no_reservation_serves_are_refused_with_the_reason() {
    requires!(NEEDS[2]);
    let user = User::new();
    let task = |c: &str, t: &str| {
        format!("[[guest.task]]\nname = \"big{c}\"\nexecution = {c:?}\nperiod = {t:?}\n")
    };
    let guest = |more: &str, cpu: &str| format!("[guest]\n{PAPER}{more}[cpu]\n{cpu}\n");
    for (spec, status, parts) in [
        (
            guest(&task("120ms", "200ms"), ""),
            3,
            ["no reservation serves the tasks of vCPU 0", "105"],
        ),
        (
            guest(&task("9900us", "10ms"), ""),
            3,
            ["no reservation serves", "400us for every release"],
        ),
        (
            guest(&task("50ms", "100ms"), "period = \"50ms\""),
            3,
            ["with all of a period of 50ms", "task t2"],
        ),
        (
            guest(&task("54ms", "150ms"), "period = \"2ms\""),
            3,
            ["exact enforcement", "another period"],
        ),
        (guest("", "period = \"50us\""), 1, ["50 us", "100 us"]),
        (
            guest("", "enforcement = \"tick\""),
            1,
            ["cpu.enforcement = \"tick\"", "runtime and period"],
        ),
        (
            guest("", "backend = \"rt-cgroup\""),
            1,
            ["cpu.backend = \"rt-cgroup\"", "runtime and period"],
        ),
        (
            guest("", "vcpus = 2"),
            1,
            ["cpu.runtime", "tasks on this vCPU"],
        ),
        (guest(&task("5ms", "0ms"), ""), 1, ["t=0", "100us"]),
        (guest(&task("-5ms", "10ms"), ""), 1, ["-5ms", "28ms"]),
        (guest(&task("15ms", "10ms"), ""), 1, ["c=15ms", "10ms"]),
        (
            guest(&task("1ms", "99999999999s"), ""),
            1,
            ["99999999999s", "time"],
        ),
    ] {
        let file = user.spec("cv-refused", &spec);
        for command in ["check", "run"] {
            let ended = user.run(&[command, &file]).expect(status);
            for part in parts {
                assert!(ended.stderr.contains(part), "{part}: {ended:?}");
            }
            assert!(ended.stderr.contains("cv-refused.toml"), "{ended:?}");
        }
    }
    let listed = user.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(listed, json!([]));
}

#[test]
fn the_host_is_measured_on_a_partition_and_what_was_found_is_used() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], Need::Cpus(2));
    let user = User::new();
    let told = user.run(&["--json", "host", "measure"]).expect(0).json();
    let micros = |key: &str, of: &str| {
        let text = told[key][of].as_str().unwrap();
        text.parse::<vmm::units::Span>()
            .unwrap()
            .duration()
            .as_secs_f64()
            * 1e6
    };
    for (cost, least) in [
        ("timer_latency", 1.0),
        ("exit", 1.0),
        ("budget_switch", 0.0),
    ] {
        assert!(told[cost]["samples"].as_u64().unwrap() >= 100, "{told}");
        let (median, p99) = (micros(cost, "median"), micros(cost, "p99"));
        assert!(
            least <= median && median <= p99 && p99 <= micros(cost, "max"),
            "{told}"
        );
        assert!(median < 2_000.0, "{told}");
    }
    for work in ["integer", "float", "memory"] {
        assert!(micros("speed", work) > 500.0, "{told}");
    }
    let ended = user
        .run(&["check", &user.spec("cv-after", &spec("", ""))])
        .expect(0);
    let date = told["date"].as_str().unwrap();
    assert!(ended.stdout.contains("overheads measured on"), "{ended:?}");
    assert!(ended.stdout.contains(date), "{ended:?}");
    let refused = user.run(&["host", "measure", "--cpu", "4000"]).expect(1);
    assert!(refused.stderr.contains("4000"), "{refused:?}");
}

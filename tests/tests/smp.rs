//! Guests with several vCPUs: one server per vCPU, whose periods begin together, and a spin lock that works across them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::Guest;
use system_tests::{Need, User, requires};

const NICE: Need = Need::Capability(Capability::SysNice);
/// P in nanoseconds.
const PERIOD: i64 = 20_000_000;

/// Two vCPUs that never sleep once the guest has started; their tasks share a lock.
fn spec(cpu: &str) -> String {
    format!(
        "[guest]\ncommand_line = \"duration=60s vcpus=2 task=a,c=3ms,t=17ms,s=1ms task=b,c=3ms,t=19ms,s=1ms,cpu=1 hog=0 hog=1\"\n\
         [cpu]\nruntime = \"8ms\"\nperiod = \"20ms\"\n{cpu}\n"
    )
}

/// The kernel's absolute deadline of a thread.
fn deadline(tid: i64) -> i64 {
    let text = fs::read_to_string(format!("/proc/{tid}/sched")).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("dl.deadline"))
        .unwrap();
    line.split(':').nth(1).unwrap().trim().parse().unwrap()
}

/// The share of a CPU that a thread gets over `length`.
fn share(tid: i64, length: Duration) -> f64 {
    let consumed = || -> f64 {
        let stat = fs::read_to_string(format!("/proc/{tid}/schedstat")).unwrap();
        stat.split(' ').next().unwrap().parse().unwrap()
    };
    let (begun, before) = (Instant::now(), consumed());
    std::thread::sleep(length);
    (consumed() - before) / 1e9 / begun.elapsed().as_secs_f64()
}

/// How much later, on a circle of a period, vCPU 1's periods begin than those of vCPU 0, in milliseconds.
fn phase(guest: &mut Guest<'_>) -> f64 {
    let [first, second] = [0, 1].map(|vcpu| guest.vcpu_thread(vcpu));
    (deadline(second) - deadline(first)).rem_euclid(PERIOD) as f64 / 1e6
}

/// Waits until the phase is `wanted`, give or take what is tolerated and a timer's lateness. A host that takes a CPU away
/// for longer than a period moves it; the threads move back.
fn until_phase(guest: &mut Guest<'_>, wanted: f64) {
    let (mut seen, mut in_a_row) = (Vec::new(), 0);
    while in_a_row < 5 {
        let phase = phase(guest);
        let apart = (phase - wanted).rem_euclid(20.0);
        in_a_row = if apart.min(20.0 - apart) < 1.0 {
            in_a_row + 1
        } else {
            0
        };
        seen.push(phase);
        assert!(seen.len() < 200, "never {wanted} ms apart: {seen:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_kernels_deadlines_of_busy_vcpus_coincide_unless_told_otherwise() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let user = User::new();
    let mut guest = user.launch("cv-aligned", &spec(""), &[]);
    until_phase(&mut guest, 0.0);
    // A pause stops both somewhere, and each wakes when it does.
    user.run(&["pause", "cv-aligned"]).expect(0);
    user.run(&["resume", "cv-aligned"]).expect(0);
    until_phase(&mut guest, 0.0);
    guest.stop().expect(0);
    let apart = spec("[[cpu.vcpu]]\n[[cpu.vcpu]]\nphase = \"7ms\"");
    let mut guest = user.launch("cv-apart", &apart, &[]);
    until_phase(&mut guest, 7.0);
    // What brings them there takes nothing away and adds nothing in the long run.
    for vcpu in 0..2 {
        let share = share(guest.vcpu_thread(vcpu), Duration::from_secs(1));
        assert!((0.3..0.46).contains(&share), "vCPU {vcpu}: {share} of 0.4");
    }
    guest.stop().expect(0);
}

#[test]
fn sections_of_two_vcpus_exclude_each_other_and_their_spinning_is_told() {
    requires!(Need::Kvm, NICE, Need::Cpus(2));
    let user = User::new();
    let records = user.path("records").to_string_lossy().into_owned();
    // As far apart as can be: the lock's holder is away while the other one spins.
    let cpu = "[[cpu.vcpu]]\n[[cpu.vcpu]]\nphase = \"10ms\"";
    let spec = spec(cpu).replace("duration=60s", "duration=2s");
    let guest = user.launch("cv-lock", &spec, &["--records", &records, "--json"]);
    let outcome = guest.wait(Duration::from_secs(40)).expect(0);
    let mut sections: Vec<Value> = fs::read_to_string(&records)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .filter(|event: &Value| event["event"] == "section")
        .collect();
    let number = |value: &Value, key: &str| value[key].as_u64().unwrap();
    sections.sort_unstable_by_key(|section| number(section, "before"));
    assert!(sections.len() > 50, "{}", sections.len());
    for vcpu in 0..2 {
        assert!(
            sections
                .iter()
                .any(|section| number(section, "vcpu") == vcpu)
        );
    }
    // The counter in the sections is not incremented atomically: two at once would lose a number and give another twice.
    for (count, section) in (0..).zip(&sections) {
        assert_eq!(number(section, "before"), count, "{section}");
    }
    for pair in sections.windows(2) {
        assert!(
            number(&pair[0], "back") <= number(&pair[1], "got"),
            "{pair:?}"
        );
    }
    let tasks = outcome.json()["status"]["records"]["tasks"].clone();
    let told = |key: &str| -> u64 {
        let of = |task: &str| number(&tasks[task]["sections"], key);
        of("0") + of("1")
    };
    assert_eq!(told("count"), sections.len() as u64);
    let spun: u64 = sections.iter().map(|section| number(section, "spun")).sum();
    assert_eq!(told("total_spin"), spun);
    assert!(told("longest_wait") >= told("longest_spin"));
}

//! What is known on the host of the throttles of a guest, by back end.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::{Need, User, requires};

/// The account of a guest that wants a third more than it may have, after some periods, and how `status` tells it.
fn account(user: &User, name: &str, cpu: &str) -> (Value, String) {
    let spec = format!(
        "[guest]\ncommand_line = \"duration=60s task=t,c=80ms,t=100ms\"\n\
         [cpu]\nruntime = \"20ms\"\nperiod = \"50ms\"\n{cpu}\n"
    );
    let mut guest = user.launch(name, &spec, &[]);
    let mut vcpu = Value::Null;
    while vcpu["account"]["consumed"]["secs"].as_u64() < Some(1) {
        vcpu = guest.status()["vcpus"][0].clone();
    }
    let text = user.run(&["status", name]).expect(0).stdout;
    guest.stop().expect(0);
    (vcpu, text)
}

fn waited(vcpu: &Value) -> f64 {
    let time = &vcpu["account"]["waited"];
    time["secs"].as_f64().unwrap() + time["nanos"].as_f64().unwrap() / 1e9
}

#[test]
fn the_kernels_throttles_of_a_quota_are_told() {
    requires!(Need::Kvm, Need::Root, Need::CgroupV1("cpu"));
    let user = User::new();
    let (vcpu, text) = account(&user, "cv-quota", "backend = \"cfs-quota\"");
    let throttling = &vcpu["throttling"];
    assert!(throttling["throttled"].as_u64() > Some(5), "{vcpu}");
    assert!(
        throttling["periods"].as_u64() >= throttling["throttled"].as_u64(),
        "{vcpu}"
    );
    assert_eq!(vcpu["account"]["yields"], Value::Null);
    for part in ["throttled in", "longest blackout not known"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_the_kernel_does_not_count_is_not_known_instead_of_zero() {
    requires!(
        Need::Kvm,
        Need::Root,
        Need::CgroupV1("cpu"),
        Need::Capability(Capability::SysNice),
    );
    let user = User::new();
    for (name, cpu) in [
        ("cv-tick", "enforcement = \"tick\""),
        ("cv-group", "backend = \"rt-cgroup\""),
    ] {
        let (vcpu, text) = account(&user, name, cpu);
        assert!(
            text.contains("throttles and longest blackout not known"),
            "{text}"
        );
        assert_eq!(vcpu["throttling"], Value::Null);
        assert_eq!(vcpu["account"]["blackouts"], Value::Null);
        // 30 ms of every 50 ms, and 20 ms consumed.
        assert!(waited(&vcpu) > 0.5, "{vcpu}");
    }
}

#[test]
fn budgets_that_the_thread_ends_itself_are_counted() {
    requires!(Need::Kvm, Need::Root, Need::Capability(Capability::SysNice));
    let user = User::new();
    let (vcpu, text) = account(&user, "cv-exact", "");
    assert!(vcpu["account"]["yields"].as_u64() > Some(5), "{vcpu}");
    assert!(text.contains("budgets used up"), "{text}");
    assert!(!text.contains("not known"), "{text}");
}

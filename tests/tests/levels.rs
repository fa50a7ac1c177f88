//! The levels of the host as `tree` shows them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use system_tests::{Need, User, requires};

#[test]
fn every_thread_of_a_guest_stands_on_its_cpu_and_carries_its_vcpu_and_its_vm() {
    requires!(Need::Kvm, Need::Root, Need::CgroupV1("cpu"));
    let user = User::new();
    let mut guest = user.launch(
        "cv-levels",
        "[guest]\ncommand_line = \"duration=60s task=t,c=1ms,t=100ms\"\n\
         [cpu]\nvcpus = 2\nruntime = \"20ms\"\nperiod = \"100ms\"\nbackend = \"cfs-quota\"\ncpu = 0\n",
        &[],
    );
    let tids = [0, 1].map(|vcpu| guest.vcpu_thread(vcpu).to_string());
    let tree = user.run(&["--json", "tree"]).expect(0).json();
    let cpu = tree
        .as_array()
        .unwrap()
        .iter()
        .find(|cpu| cpu["name"] == "0")
        .unwrap();
    for (vcpu, tid) in tids.iter().enumerate() {
        let thread = &cpu["above"][vcpu];
        assert_eq!(
            (&thread["kind"], &thread["name"]),
            (&"thread".into(), &tid.as_str().into())
        );
        assert_eq!(thread["granted"]["vm"], "cv-levels");
        let above = &thread["above"][0];
        assert_eq!(above["name"], vcpu.to_string());
        assert_eq!(above["above"][0]["name"], "cv-levels");
    }
    let text = user.run(&["tree"]).expect(0).stdout;
    assert!(text.contains("CPU 0: 40.00 % promised"), "{text}");
    guest.stop().expect(0);
    let text = user.run(&["tree"]).expect(0).stdout;
    assert!(!text.contains("cv-levels"), "{text}");
}

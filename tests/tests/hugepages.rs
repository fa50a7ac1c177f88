//! A guest whose memory is made of huge pages, reserved on the host beforehand.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fs;
use std::time::Duration;

use system_tests::{Need, User, requires};

const RESERVED: &str = "/proc/sys/vm/nr_hugepages";
/// What the guest has: pages of 2 MiB.
const PAGES: u64 = 4;
const SPEC: &str = "[guest]\nmemory = \"8MiB\"\nhugepages = true\n\
    command_line = \"duration=60s task=t,c=1ms,t=20ms\"\n[cpu]\nbackend = \"other\"\n";

/// The host's reserved huge pages; as they were again when it is dropped.
struct HugePages {
    before: String,
}

impl HugePages {
    fn reserve(count: u64) -> Self {
        let before = fs::read_to_string(RESERVED).unwrap();
        let pages = Self { before };
        fs::write(RESERVED, count.to_string()).unwrap();
        pages
    }

    fn free() -> u64 {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text
            .lines()
            .find(|line| line.starts_with("HugePages_Free:"));
        let count = line.and_then(|line| line.split_whitespace().nth(1));
        count.unwrap().parse().unwrap()
    }
}

impl Drop for HugePages {
    fn drop(&mut self) {
        // A failure is for the test to show that runs next.
        let _ = fs::write(RESERVED, &self.before);
    }
}

#[test]
fn a_guest_in_huge_pages_has_those_that_were_reserved_and_gives_them_back() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    let _reserved = HugePages::reserve(PAGES);
    assert_eq!(
        HugePages::free(),
        PAGES,
        "the host has no huge pages to reserve"
    );
    let mut guest = user.launch("cv-huge", SPEC, &[]);
    guest.until("working", |guest| guest.stdout().contains("ready"));
    assert_eq!(guest.status()["state"], "running");
    assert_eq!(HugePages::free(), 0);
    guest.stop().expect(0);
    assert_eq!(HugePages::free(), PAGES);
}

#[test]
fn a_guest_without_enough_reserved_huge_pages_is_told_how_to_reserve_them() {
    requires!(Need::Kvm, Need::Root);
    let user = User::new();
    for reserved in [0, PAGES - 1] {
        let _reserved = HugePages::reserve(reserved);
        let guest = user.launch("cv-not-huge", SPEC, &[]);
        let ended = guest.wait(Duration::from_secs(60)).expect(1);
        for part in ["8MiB", "vm.nr_hugepages"] {
            assert!(ended.stderr.contains(part), "{part}: {ended:?}");
        }
        assert_eq!(HugePages::free(), reserved);
    }
}

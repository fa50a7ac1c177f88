//! What a test that was killed leaves does not fail the next one.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use sched::partition::Partition;
use sched::prepare;
use support::Host;

#[test]
fn a_partition_that_a_killed_test_has_left_is_undone_when_the_host_is_locked_again() {
    requires_partitions!();
    let online = sched::cpus::online();
    let last = online[online.len() - 1];
    let run_dir = tempfile::tempdir().unwrap();
    let host = Host::lock();
    host.turn.uses(run_dir.path());
    prepare::prepare(run_dir.path(), &[last]).unwrap();
    // All that the kernel does for who is killed.
    drop(host);
    // Other programs may lock the host in between, and undo it then.
    let _host = Host::lock();
    assert!(Partition::of(last).is_none());
    assert!(prepare::prepared(run_dir.path()).unwrap().is_empty());
}

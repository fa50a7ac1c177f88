//! Partitions, back ends and the ledger on the real kernel.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sched::backend::{BackendError, apply};
use sched::framework::Manager;
use sched::host::HostCheck;
use sched::kernel::{Policy, policy, set_policy};
use sched::ledger::{Bound, Change, Ledger};
use sched::prepare::{self, PrepareError};
use sched::request::{AdmissionTest, Granted};
use sched::reservation::{BackendKind, Enforcement, Placement, Reservation, VcpuRequest};
use support::{Host, Prepared, Sleeper};
use system_tests::requires::Capability;
use system_tests::{Need, requires};

fn reservation(q_ms: u64, p_ms: u64) -> Reservation {
    Reservation::new(Duration::from_millis(q_ms), Duration::from_millis(p_ms)).unwrap()
}

fn request(backend: BackendKind, q_ms: u64, p_ms: u64) -> VcpuRequest {
    VcpuRequest {
        reservation: Some(reservation(q_ms, p_ms)),
        backend,
        enforcement: Enforcement::Tick,
        ..VcpuRequest::default()
    }
}

fn deadline(q_ms: u64, p_ms: u64) -> VcpuRequest {
    request(BackendKind::Deadline, q_ms, p_ms)
}

fn granted(request: VcpuRequest, placement: Placement) -> Granted {
    Granted {
        vm: "test".to_owned(),
        vcpu: 0,
        surplus: request.surplus(),
        request,
        placement,
        test: AdmissionTest::None,
    }
}

/// Every cpuset setting that preparing might change.
fn cpuset_state() -> Vec<(String, String)> {
    let root = Path::new("/sys/fs/cgroup/cpuset");
    let mut state = Vec::new();
    for file in fs::read_dir(root).into_iter().flatten().flatten() {
        let name = file.file_name().to_string_lossy().into_owned();
        let text = if name.starts_with("cpuset.sched") || name == "cpuset.cpus" {
            fs::read_to_string(file.path()).unwrap_or_default()
        } else {
            String::new()
        };
        state.push((name, text));
    }
    state.sort();
    state
}

#[test]
fn restoring_leaves_the_host_as_it_was_found() {
    requires_partitions!();
    let host = Host::lock();
    let before = cpuset_state();
    let prepared = Prepared::last_cpu(&host);
    assert_ne!(cpuset_state(), before);
    drop(prepared);
    assert_eq!(cpuset_state(), before);
}

#[test]
fn preparing_twice_is_preparing_once_and_another_set_is_refused() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let again = prepare::prepare(prepared.run_dir(), &[cpu]).unwrap();
    assert_eq!(again, std::slice::from_ref(&prepared.partition));
    let other = prepare::prepare(prepared.run_dir(), &[0]);
    assert!(matches!(other, Err(PrepareError::AlreadyPrepared { .. })));
    let elsewhere = tempfile::tempdir().unwrap();
    let foreign = prepare::prepare(elsewhere.path(), &[cpu]);
    assert!(
        matches!(foreign, Err(PrepareError::NotOwned { .. })),
        "{foreign:?}"
    );
}

/// Every interrupt's CPUs, the masks of every network queue, and the idle limit of every CPU.
fn steering() -> BTreeMap<PathBuf, String> {
    let mut files = Vec::new();
    let mut add = |folder: &str, name: &str| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        files.extend(entries.map(|entry| entry.path().join(name)));
    };
    add("/proc/irq", "smp_affinity_list");
    add("/sys/devices/system/cpu", "power/pm_qos_resume_latency_us");
    for device in fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
    {
        let queues = device.path().join("queues");
        add(&queues.to_string_lossy(), "rps_cpus");
        add(&queues.to_string_lossy(), "xps_cpus");
    }
    files.push("/proc/irq/default_smp_affinity".into());
    let value = |file: PathBuf| Some((file.clone(), fs::read_to_string(file).ok()?));
    files.into_iter().filter_map(value).collect()
}

/// A setting that a test needs, put back on drop.
struct Put {
    file: PathBuf,
    before: String,
}

impl Put {
    fn new(file: &str, value: &str) -> Self {
        let before = fs::read_to_string(file).unwrap();
        fs::write(file, value).unwrap();
        let file = file.into();
        Self { file, before }
    }
}

impl Drop for Put {
    fn drop(&mut self) {
        fs::write(&self.file, &self.before).unwrap();
    }
}

#[test]
fn a_prepared_cpu_is_quiet_and_a_restored_one_is_as_it_was() {
    requires_partitions!();
    let host = Host::lock();
    let cpus = sched::cpus::online();
    let cpu = cpus[cpus.len() - 1];
    let queue = "/sys/class/net/lo/queues/rx-0/rps_cpus";
    // Packets of all CPUs' own, received on the last one.
    let _steered = (Path::new(queue).exists() && cpu < 32)
        .then(|| Put::new(queue, &format!("{:x}", 1u32 << cpu | 1)));
    let before = steering();
    let prepared = Prepared::last_cpu(&host);
    let during = steering();
    let check = HostCheck::run("test", Duration::ZERO);
    let of_cpu = check.cpus.iter().find(|check| check.cpu == cpu).unwrap();
    assert_eq!(of_cpu.packets_steered, [""; 0]);
    assert!(!of_cpu.deep_idle_allowed);
    // Some interrupts can be steered on any machine, if not all of them.
    let movable = |file: &Path, text: &str| {
        file.ends_with("smp_affinity_list")
            && sched::cpus::parse(text).is_some_and(|list| list.len() > 1 && list.contains(&cpu))
    };
    let steerable = before.iter().filter(|(file, text)| movable(file, text));
    let (moved, kept): (Vec<_>, Vec<_>) = steerable
        .map(|(file, _)| file)
        .partition(|file| during[*file] != before[*file]);
    assert!(!moved.is_empty() || kept.is_empty(), "{kept:?}");
    for file in moved {
        let list = sched::cpus::parse(&during[file]).unwrap();
        assert!(
            !list.contains(&cpu) && !list.is_empty(),
            "{file:?}: {list:?}"
        );
    }
    drop(prepared);
    assert_eq!(steering(), before);
}

#[test]
fn preparing_again_steers_away_what_came_since_and_keeps_what_others_set() {
    requires_partitions!();
    let host = Host::lock();
    let last = sched::cpus::online().pop().unwrap();
    let file = format!("/sys/devices/system/cpu/cpu{last}/power/pm_qos_resume_latency_us");
    if !Path::new(&file).exists() {
        return;
    }
    // Put back after the partition is undone.
    let _latency = Put::new(&file, "60");
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let value = || fs::read_to_string(&file).unwrap().trim().to_owned();
    assert_eq!(value(), "n/a");
    fs::write(&file, "70").unwrap();
    prepare::prepare(prepared.run_dir(), &[cpu]).unwrap();
    assert_eq!(value(), "n/a");
    prepare::restore(prepared.run_dir()).unwrap();
    assert_eq!(value(), "70", "the value it had last");
}

#[test]
fn preparing_and_restoring_at_the_same_time_take_turns() {
    requires_partitions!();
    let _host = Host::lock();
    let before = (cpuset_state(), steering());
    let cpus = sched::cpus::online();
    let cpu = cpus[cpus.len() - 1];
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..5 {
                    prepare::prepare(dir.path(), &[cpu]).unwrap();
                    prepare::restore(dir.path()).unwrap();
                }
            });
        }
    });
    assert_eq!((cpuset_state(), steering()), before);
}

#[test]
fn a_partition_in_use_is_not_taken_away() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let sleeper = Sleeper::start();
    let cpu = prepared.partition.cpu;
    let grant = granted(deadline(1, 50), Placement::Partition { cpu });
    let mut server = sleeper.applies(&grant).unwrap();
    let refused = prepare::restore(prepared.run_dir());
    assert!(
        matches!(refused, Err(PrepareError::InUse { .. })),
        "{refused:?}"
    );
    assert!(sched::partition::Partition::of(cpu).is_some());
    server.release().unwrap();
}

#[test]
fn a_reservation_in_force_is_what_the_kernel_has_and_adapts_in_place() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let sleeper = Sleeper::start();
    let cpu = prepared.partition.cpu;
    let exact = VcpuRequest {
        enforcement: Enforcement::Exact,
        ..deadline(10, 40)
    };
    let grant = granted(exact, Placement::Partition { cpu });
    let mut server = sleeper.applies(&grant).unwrap();
    let in_force = server.in_force().unwrap();
    assert_eq!(in_force.cpus, [cpu]);
    assert_eq!(in_force.reservation, Some(reservation(10, 40)));
    let kernel = |q_us, d_ms, p_ms| Policy::Deadline {
        runtime: Duration::from_micros(q_us),
        deadline: Duration::from_millis(d_ms),
        period: Duration::from_millis(p_ms),
    };
    assert_eq!(policy(sleeper.tid), Ok(kernel(11_000, 40, 40)));
    server.adapt(reservation(20, 50)).unwrap();
    assert_eq!(policy(sleeper.tid), Ok(kernel(21_000, 50, 50)));
    let by = |ms| {
        let earlier = reservation(20, 50).with_deadline(Duration::from_millis(ms));
        earlier.unwrap()
    };
    let in_force = server.adapt(by(30)).unwrap();
    assert_eq!(in_force.reservation, Some(by(30)));
    assert_eq!(policy(sleeper.tid), Ok(kernel(21_000, 30, 50)));
    // No room for a surplus: the kernel's tick enforces.
    server.adapt(by(20)).unwrap();
    assert_eq!(policy(sleeper.tid), Ok(kernel(20_000, 20, 50)));
    set_policy(sleeper.tid, kernel(20_000, 50, 50)).unwrap();
    assert!(matches!(
        server.in_force(),
        Err(BackendError::NotInForce { .. })
    ));
    server.release().unwrap();
    assert_eq!(policy(sleeper.tid), Ok(Policy::Other));
}

#[test]
fn a_pinned_thread_is_told_that_it_needs_a_partition() {
    requires!(Need::Capability(Capability::SysNice), Need::Cpus(2));
    let _host = Host::lock();
    let sleeper = Sleeper::start();
    let mut one = nix::sched::CpuSet::new();
    one.set(0).unwrap();
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(sleeper.tid.0), &one).unwrap();
    let refused = apply(sleeper.tid, &granted(deadline(1, 50), Placement::Global)).err();
    let text = refused.map(|error| error.to_string()).unwrap_or_default();
    assert!(text.contains("one-CPU partition"), "{text}");
    assert_eq!(policy(sleeper.tid), Ok(Policy::Other));
}

#[test]
fn a_sleeping_thread_is_told_to_be_woken_and_a_running_one_is_moved() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let grant = granted(deadline(1, 50), Placement::Partition { cpu });
    let sleeper = Sleeper::start();
    // Last ran on CPU 0, and sleeps: only its next wake-up takes it to the partition.
    sleeper.does(|| {
        let mut first = nix::sched::CpuSet::new();
        first.set(0).unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &first).unwrap();
    });
    std::thread::sleep(Duration::from_millis(10));
    let refused = apply(sleeper.tid, &grant).err();
    assert!(
        matches!(refused, Some(BackendError::Asleep { .. })),
        "{refused:?}"
    );
    let mut server = sleeper.applies(&grant).unwrap();
    server.release().unwrap();
}

#[test]
fn bandwidth_that_returns_late_is_waited_for() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let grant = granted(deadline(160, 200), Placement::Partition { cpu });
    let (first, second) = (Sleeper::start(), Sleeper::start());
    let mut server = first.applies(&grant).unwrap();
    server.release().unwrap();
    let mut next = second.applies(&grant).unwrap();
    next.release().unwrap();
}

#[test]
fn bandwidth_that_is_not_there_is_an_error_after_a_bounded_wait() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let grant = granted(deadline(25, 50), Placement::Partition { cpu });
    let (first, second) = (Sleeper::start(), Sleeper::start());
    let mut server = first.applies(&grant).unwrap();
    let started = Instant::now();
    let refused = second.applies(&grant).err();
    assert!(
        matches!(refused, Some(BackendError::Busy { .. })),
        "{refused:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(2));
    assert_eq!(policy(second.tid), Ok(Policy::Other));
    server.release().unwrap();
}

#[test]
fn every_other_back_end_is_in_force_and_gone_after_release() {
    let nice = Need::Capability(Capability::SysNice);
    requires!(Need::Root, nice, Need::CgroupV1("cpu"));
    let _host = Host::lock();
    let grants = [
        (
            request(BackendKind::RtCgroup, 10, 50),
            Policy::Fifo { priority: 60 },
        ),
        (request(BackendKind::CfsQuota, 10, 50), Policy::Other),
        (
            request(BackendKind::Fifo, 10, 50),
            Policy::Fifo { priority: 60 },
        ),
        (request(BackendKind::Other, 10, 50), Policy::Other),
    ];
    for (request, wanted) in grants {
        let sleeper = Sleeper::start();
        let kind = request.backend;
        let grant = granted(request, Placement::Pinned { cpu: 0 });
        let mut server = apply(sleeper.tid, &grant).unwrap();
        assert_eq!(policy(sleeper.tid), Ok(wanted), "{kind}");
        assert_eq!(server.in_force().unwrap().cpus, [0], "{kind}");
        if kind.needs_reservation() {
            let changed = server.adapt(reservation(5, 20)).unwrap();
            assert_eq!(changed.reservation, Some(reservation(5, 20)), "{kind}");
        } else {
            assert!(server.adapt(reservation(5, 20)).is_err(), "{kind}");
        }
        server.release().unwrap();
        assert_eq!(policy(sleeper.tid), Ok(Policy::Other), "{kind}");
        assert!(!Path::new("/sys/fs/cgroup/cpu/chronovisor.test.vcpu0").exists());
    }
}

#[test]
fn a_group_left_by_a_crash_is_gone_after_the_next_opening() {
    requires!(Need::Root, Need::CgroupV1("cpu"));
    let _host = Host::lock();
    let orphan = Path::new("/sys/fs/cgroup/cpu/chronovisor.crashed.vcpu0");
    fs::create_dir(orphan).unwrap();
    let dir = tempfile::tempdir().unwrap();
    Ledger::open(dir.path()).unwrap();
    assert!(!orphan.exists());
}

#[test]
fn threads_in_a_partition_that_nobody_entered_count_against_it() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let ledger = Ledger::open(prepared.run_dir()).unwrap();
    assert!(ledger.admit("vm", &[deadline(40, 50)]).is_ok());
    let sleeper = Sleeper::start();
    let stranger = granted(deadline(20, 50), Placement::Partition { cpu });
    let mut server = sleeper.applies(&stranger).unwrap();
    let wanted = VcpuRequest {
        cpu: Some(cpu),
        ..deadline(40, 50)
    };
    let refusal = ledger.admit("vm", &[wanted]).unwrap_err();
    assert_eq!(refusal.bound, Bound::PartitionCpu { cpu });
    assert!(refusal.nearest.unwrap().runtime() > Duration::from_micros(24_900));
    server.release().unwrap();
}

#[test]
fn budget_moves_between_two_vms_together_or_not_at_all() {
    requires_partitions!();
    let host = Host::lock();
    let prepared = Prepared::last_cpu(&host);
    let cpu = prepared.partition.cpu;
    let mut ledger = Ledger::open(prepared.run_dir()).unwrap();
    let wanted = |q| VcpuRequest {
        cpu: Some(cpu),
        ..deadline(q, 50)
    };
    let _x = ledger.reserve("x", &[wanted(20)]).unwrap();
    let _y = ledger.reserve("y", &[wanted(20)]).unwrap();
    let change = |vm: &str, q| Change {
        vm: vm.to_owned(),
        vcpu: 0,
        reservation: reservation(q, 50),
    };
    let before = ledger.entries().unwrap();
    assert!(ledger.adapt(&[change("x", 30)]).is_err());
    assert!(ledger.adapt(&[change("y", 15), change("x", 35)]).is_err());
    assert_eq!(ledger.entries().unwrap(), before);
    let after = ledger.adapt(&[change("y", 10), change("x", 30)]).unwrap();
    assert_eq!(after[1].request.reservation, Some(reservation(30, 50)));
}

#[test]
fn a_thread_that_has_ended_is_no_error_to_release() {
    let sleeper = Sleeper::start();
    let grant = granted(request(BackendKind::Other, 1, 50), Placement::Anywhere);
    let mut server = sleeper.applies(&grant).unwrap();
    drop(sleeper);
    server.release().unwrap();
}

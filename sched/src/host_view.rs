//! The kernel's side of admission: limits, partitions, and the SCHED_DEADLINE threads that nobody entered.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity};

use crate::admission::{Bandwidth, Limits};
use crate::book::Book;
use crate::cpus;
use crate::kernel::{Policy, Tid, policy};
use crate::partition::{self, Partition};
use crate::placement::{HostView, PartitionView};
use crate::process::{DeadlineThread, deadline_threads};
use crate::request::{AdmissionTest, BackendKind, Enforcement, Granted, Placement, VcpuRequest};
use crate::reservation::Reservation;

/// The view without the threads outside partitions, which take a millisecond to find ([`foreign`]).
pub(crate) fn read(book: &Book) -> HostView {
    let online = cpus::online();
    let partitions = partition::usable(&online);
    HostView {
        limits: limits(),
        partitions: views(book, partitions.into_iter()),
        fit: book.fit,
        online,
        foreign: None,
    }
}

/// As much of the view as changing `granted` in place takes.
pub(crate) fn read_for(book: &Book, granted: &[Granted]) -> HostView {
    let placements = || granted.iter().map(|granted| granted.placement);
    if placements().any(|placement| placement == Placement::Global) {
        let mut host = read(book);
        host.foreign = Some(foreign(book, &host));
        return host;
    }
    let partitions = placements().filter_map(|placement| match placement {
        Placement::Partition { cpu } => Partition::entered(cpu),
        _ => None,
    });
    HostView {
        limits: limits(),
        partitions: views(book, partitions),
        fit: book.fit,
        online: Vec::new(),
        foreign: None,
    }
}

fn views(book: &Book, partitions: impl Iterator<Item = Partition>) -> Vec<PartitionView> {
    let known = book.threads();
    let foreign = |partition: &Partition| {
        let threads = partition.threads().into_iter();
        threads
            .filter(|tid| !known.contains(tid))
            .filter_map(density_of)
            .sum()
    };
    partitions
        .map(|partition| PartitionView {
            cpu: partition.cpu,
            foreign: foreign(&partition),
        })
        .collect()
}

/// The SCHED_DEADLINE threads outside partitions that the book does not account for.
pub(crate) fn foreign(book: &Book, host: &HostView) -> Vec<Bandwidth> {
    let known = book.threads();
    let threads = deadline_threads().into_iter();
    threads
        .filter(|thread| !known.contains(&thread.tid))
        .filter(|thread| !partitioned(host, thread.tid))
        .filter_map(|thread| density(thread.policy))
        .collect()
}

/// What a live SCHED_DEADLINE thread looks like in a ledger entry.
pub(crate) fn granted_by_kernel(vm: &str, vcpu: usize, thread: &DeadlineThread) -> Option<Granted> {
    let Policy::Deadline {
        runtime,
        deadline,
        period,
    } = thread.policy
    else {
        return None;
    };
    let reservation = Reservation::new(runtime, period).and_then(|r| r.with_deadline(deadline));
    let request = VcpuRequest {
        reservation: Some(reservation.ok()?),
        backend: BackendKind::Deadline,
        // What the kernel has includes any surplus already.
        enforcement: Enforcement::Tick,
        ..VcpuRequest::default()
    };
    let usable = partition::usable(&cpus::online());
    let home = usable
        .iter()
        .find(|partition| partition.threads().contains(&thread.tid));
    let (placement, test) = match home {
        Some(partition) => {
            let cpu = partition.cpu;
            (Placement::Partition { cpu }, AdmissionTest::PartitionedEdf)
        }
        None => (Placement::Global, AdmissionTest::GlobalEdf),
    };
    Some(Granted {
        vm: vm.to_owned(),
        vcpu,
        request,
        placement,
        surplus: Duration::ZERO,
        test,
    })
}

/// A kernel setting whose file stays open.
struct Sysctl {
    path: &'static str,
    file: OnceLock<Option<File>>,
}

impl Sysctl {
    const fn new(path: &'static str) -> Self {
        Self {
            path,
            file: OnceLock::new(),
        }
    }

    /// Its value now; `None` where the kernel has no such setting.
    fn read(&self) -> Option<i64> {
        let file = self
            .file
            .get_or_init(|| File::open(self.path).ok())
            .as_ref()?;
        let mut text = [0; 32];
        let length = file.read_at(&mut text, 0).ok()?;
        std::str::from_utf8(&text[..length])
            .ok()?
            .trim()
            .parse()
            .ok()
    }
}

/// How long real-time threads may run in which period; none if throttling is off.
pub(crate) fn rt_throttling() -> Option<(Duration, Duration)> {
    // Kept open: they are read for every change of a reservation.
    static RUNTIME: Sysctl = Sysctl::new("/proc/sys/kernel/sched_rt_runtime_us");
    static PERIOD: Sysctl = Sysctl::new("/proc/sys/kernel/sched_rt_period_us");
    let runtime = RUNTIME.read().unwrap_or(950_000);
    let period = PERIOD.read().unwrap_or(1_000_000);
    let us = |value: i64| Duration::from_micros(value.max(0).unsigned_abs());
    (runtime >= 0).then(|| (us(runtime), us(period)))
}

/// The limits in force (Documentation/scheduler/sched-rt-group.rst; the fair server came with Linux 6.12).
pub fn limits() -> Limits {
    let realtime = rt_throttling().map_or(Bandwidth::ONE, |(runtime, period)| {
        Bandwidth::ratio(runtime, period)
    });
    let ms = Duration::from_millis;
    static HAS_FAIR_SERVER: OnceLock<bool> = OnceLock::new();
    let fair_server = if *HAS_FAIR_SERVER.get_or_init(|| kernel_release() >= (6, 12)) {
        Bandwidth::ratio(ms(50), ms(1000))
    } else {
        Bandwidth::ZERO
    };
    Limits {
        realtime,
        fair_server,
    }
}

/// The running kernel's version, `(major, minor)`.
fn kernel_release() -> (u32, u32) {
    let Ok(name) = nix::sys::utsname::uname() else {
        return (0, 0);
    };
    let release = name.release().to_string_lossy();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn density_of(tid: Tid) -> Option<Bandwidth> {
    density(policy(tid).ok()?)
}

/// At a rate of Q / D a server has demanded no less, in any interval, than it may.
fn density(policy: Policy) -> Option<Bandwidth> {
    match policy {
        Policy::Deadline {
            runtime, deadline, ..
        } => Some(Bandwidth::ratio(runtime, deadline)),
        _ => None,
    }
}

/// Whether a thread may run in partitions only.
fn partitioned(host: &HostView, tid: Tid) -> bool {
    let Ok(allowed) = sched_getaffinity(tid.pid()) else {
        return false;
    };
    let may_run = |allowed: &CpuSet, cpu: u32| allowed.is_set(cpu as usize).unwrap_or(false);
    host.online
        .iter()
        .filter(|&&cpu| may_run(&allowed, cpu))
        .all(|&cpu| host.partitions.iter().any(|view| view.cpu == cpu))
}

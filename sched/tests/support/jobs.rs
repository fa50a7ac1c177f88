//! Processes that are made jobs of VTMs, and how they are found and left.

#![allow(
    dead_code,
    reason = "every test program uses its own part of this module"
)]

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity};
use nix::unistd::Pid;
use sched::framework::Manager;
use sched::kernel::{SchedAttr, Tid, attributes};
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, Suspend, VtmConfig, VtmScheduler};

pub fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

pub fn share(execution: u64, period: u64) -> CpuShare {
    CpuShare {
        period: ms(period),
        need: Need::Time(ms(execution)),
        max_delay: None,
    }
}

/// A CPU that is no partition.
pub fn cpu() -> u32 {
    let mut online = sched::cpus::online();
    let partitions = sched::partition::usable(&online);
    online.retain(|cpu| partitions.iter().all(|partition| partition.cpu != *cpu));
    *online.last().unwrap()
}

/// A process of the test's own, ended on drop.
pub struct Process(pub Child);

impl Process {
    pub fn start(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub fn busy() -> Self {
        Self::start(&["sh", "-c", "while :; do :; done"])
    }

    pub fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    pub fn source(&self) -> JobSource {
        JobSource::Process(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Returns from the test, having said so, where there can be no VTMs.
#[macro_export]
macro_rules! requires_real_time {
    () => {
        system_tests::requires!(
            system_tests::Need::Root,
            system_tests::Need::Capability(system_tests::requires::Capability::SysNice)
        );
    };
}

/// What of a process must be left as it was found.
#[derive(Debug, PartialEq)]
pub struct Look {
    pub policy: SchedAttr,
    cpus: Vec<bool>,
    freezer: String,
    stopped: bool,
}

impl Look {
    pub fn at(pid: i32) -> Self {
        let allowed = sched_getaffinity(Pid::from_raw(pid)).unwrap();
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        Self {
            policy: attributes(Tid(pid)).unwrap(),
            cpus: (0..CpuSet::count())
                .map(|cpu| allowed.is_set(cpu).unwrap())
                .collect(),
            freezer: groups,
            stopped: is_stopped(pid),
        }
    }
}

pub fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// Clock ticks of CPU time.
pub fn ticks(pid: i32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, rest)) = stat.rsplit_once(')') else {
        return 0;
    };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

/// Whether a busy process gets on, within a time that a loaded host may take.
pub fn runs(pid: i32) -> bool {
    let before = ticks(pid);
    eventually(|| ticks(pid) > before + 2)
}

pub fn is_still(pid: i32) -> bool {
    // One that is on a CPU at this moment may take a tick to notice.
    sleep(ms(30));
    let before = ticks(pid);
    sleep(ms(200));
    ticks(pid) <= before + 1
}

pub fn eventually(mut holds: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    while begin.elapsed() < ms(60_000) {
        if holds() {
            return true;
        }
        sleep(ms(10));
    }
    false
}

pub fn groups_left() -> Vec<String> {
    let own = format!("chronovisor.vtm{}-", std::process::id());
    let hierarchies = ["/sys/fs/cgroup/freezer", "/sys/fs/cgroup"];
    let entries = hierarchies
        .iter()
        .flat_map(|root| fs::read_dir(root).into_iter().flatten());
    let names = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with(&own)).collect()
}

pub fn scheduler(suspend: Suspend) -> VtmScheduler {
    VtmScheduler::new(VtmConfig {
        suspend,
        ..VtmConfig::on(cpu())
    })
    .unwrap()
}

/// A scheduler with one VTM, "a", that has half of the CPU.
pub fn half(suspend: Suspend) -> VtmScheduler {
    let mut vtms = scheduler(suspend);
    vtms.create("a", RoundRobin::default()).unwrap();
    vtms.reserve("a", &share(10, 20)).unwrap();
    vtms
}

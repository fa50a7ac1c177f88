//! VTMs on the real kernel: processes that run in the slots of their table only, and are left as they were found.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sched::framework::{Manager, Scheduler};
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, Suspend, VtmConfig, VtmScheduler};
use support::Host;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn share(execution: u64, period: u64) -> CpuShare {
    CpuShare {
        period: ms(period),
        need: Need::Time(ms(execution)),
        max_delay: None,
    }
}

/// A CPU that is no partition.
fn cpu() -> u32 {
    let mut online = sched::cpus::online();
    let partitions = sched::partition::usable(&online);
    online.retain(|cpu| partitions.iter().all(|partition| partition.cpu != *cpu));
    *online.last().unwrap()
}

/// A process of the test's own, ended on drop.
struct Process(Child);

impl Process {
    fn start(words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn busy() -> Self {
        Self::start(&["sh", "-c", "while :; do :; done"])
    }

    fn pid(&self) -> i32 {
        self.0.id().try_into().unwrap()
    }

    fn source(&self) -> JobSource {
        JobSource::Process(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn scheduler(suspend: Suspend) -> VtmScheduler {
    VtmScheduler::new(VtmConfig {
        suspend,
        ..VtmConfig::on(cpu())
    })
    .unwrap()
}

#[test]
fn busy_jobs_get_what_their_vtm_was_promised_on_a_loaded_cpu() {
    let _host = Host::lock();
    let load: Vec<_> = (0..2).map(|_| Process::busy()).collect();
    for suspend in [Suspend::Signals, Suspend::Freezer] {
        let mut vtms = scheduler(suspend);
        vtms.create("gold", RoundRobin::default()).unwrap();
        vtms.create("rest", RoundRobin::default()).unwrap();
        let (one, other) = (Process::busy(), Process::busy());
        vtms.reserve("gold", &share(20, 50)).unwrap();
        vtms.reserve("rest", &share(20, 100)).unwrap();
        vtms.add_job("gold", &one.source()).unwrap();
        vtms.add_job("rest", &other.source()).unwrap();
        vtms.schedule().unwrap();
        let before = vtms.status();
        let begin = Instant::now();
        sleep(ms(3000));
        let after = vtms.status();
        let wall = begin.elapsed().as_secs_f64();
        for (at, promised) in [(0, 0.4), (1, 0.2)] {
            let used = after.vtms[at].cpu_time - before.vtms[at].cpu_time;
            let got = used.as_secs_f64() / wall;
            println!("{suspend:?} {} {got:.4} of {promised}", after.vtms[at].name);
        }
        println!("{:?}", after.dispatches);
    }
    drop(load);
}

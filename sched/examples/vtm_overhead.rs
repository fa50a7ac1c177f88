//! What a dispatch costs: `cargo run --release -p sched --example vtm_overhead [VTMs JOBS]...`, jobs of each VTM, as root.
//!
//! CPU time of the dispatcher for each dispatch, sleeping and waking included, with one active job in each VTM, in slots
//! of 10 ms that all belong to another VTM than the one before. With jobs that compute, and with jobs that sleep: between those
//! the CPU is idle or with others, which makes a dispatch dearer. Without arguments: the numbers of Duran-Limon
//! et al., and 150 jobs for their 200, as many as the kernel's default of 32768 processes has room for.

use std::error::Error;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use sched::framework::{Manager, Scheduler};
use sched::vtm::{CpuShare, JobSource, Need, RoundRobin, Suspend, VtmConfig, VtmScheduler};

const SLOT: Duration = Duration::from_millis(10);
/// What jobs do, and the command that does it. Those that compute end by themselves should nobody be left to end them.
const JOBS: [(&str, &[&str]); 2] = [
    (
        "compute",
        &["sh", "-c", "ulimit -t 60; while :; do :; done"],
    ),
    ("sleep", &["sleep", "100000"]),
];

const LENGTH: Duration = Duration::from_secs(5);

/// Processes, ended on drop.
#[derive(Default)]
struct Processes(Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Whoever has ended already needs no more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let given: Result<Vec<u32>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let given = given?;
    let mut sizes: Vec<(u32, u32)> = given
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect();
    if given.is_empty() {
        let of = |vtms: u32| [2, 20, 150].map(|jobs| (vtms, jobs));
        sizes = [2, 20, 200].into_iter().flat_map(of).collect();
    }
    println!("VTMs x jobs, which   dispatches    mean  median     p99     max   ready after");
    for (vtms, jobs) in sizes {
        for job in JOBS {
            measure(vtms, jobs, job)?;
        }
    }
    Ok(())
}

fn measure(vtms: u32, jobs: u32, (what, words): (&str, &[&str])) -> Result<(), Box<dyn Error>> {
    let begin = Instant::now();
    let mut processes = Processes::default();
    let last = sched::cpus::online().pop().unwrap_or_default();
    let mut scheduler = VtmScheduler::new(VtmConfig {
        slot: SLOT,
        suspend: Suspend::Signals,
        ..VtmConfig::on(last)
    })?;
    // A tenth of the CPU stays free for processes that are not real-time.
    let period = SLOT * (vtms + vtms.div_ceil(9));
    for vtm in 0..vtms {
        let name = format!("vtm{vtm}");
        scheduler.create(&name, RoundRobin::default())?;
        let share = CpuShare {
            period,
            need: Need::Time(SLOT),
            max_delay: None,
        };
        scheduler.reserve(&name, &share)?;
        for _ in 0..jobs {
            let mut command = Command::new(words[0]);
            let child = command.args(&words[1..]).stdin(Stdio::null()).spawn()?;
            let pid = i32::try_from(child.id())?;
            processes.0.push(child);
            scheduler.add_job(&name, &JobSource::Process(pid))?;
        }
    }
    let ready = begin.elapsed();
    scheduler.schedule()?;
    sleep(LENGTH);
    let cost = scheduler.status().dispatches.cost;
    let us = |duration: Duration| duration.as_secs_f64() * 1e6;
    let mean = us(cost.total) / cost.count.max(1) as f64;
    println!(
        "{vtms:4} x {jobs:3} {what:>8} {:12} {mean:7.1} {:7.1} {:7.1} {:7.1} us   {:.1} s",
        cost.count,
        us(cost.median),
        us(cost.p99),
        us(cost.max),
        ready.as_secs_f64()
    );
    Ok(())
}

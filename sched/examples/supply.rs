//! What one busy thread is supplied inside a reservation, beside two busy SCHED_OTHER threads and a busy SCHED_FIFO one.
//!
//! `cargo run --release -p sched --example supply -- RUNTIME_US PERIOD_US exact|tick SECONDS [CPU [LEAD_NS]]`
//!
//! Needs root. With a CPU it uses that CPU's partition, prepared for the run if it is not.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sched::account::Account;
use sched::backend::apply;
use sched::budget::{BudgetTimer, Expiry};
use sched::framework::Manager;
use sched::histogram::Histogram;
use sched::kernel::{Policy, Tid, monotonic, set_policy, thread_cpu_time};
use sched::ledger::Ledger;
use sched::partition::Partition;
use sched::prepare;
use sched::reservation::{BackendKind, Enforcement, Reservation, VcpuRequest};

type Failure = Box<dyn Error + Send + Sync>;

struct Arguments {
    reservation: Reservation,
    enforcement: Enforcement,
    duration: Duration,
    cpu: Option<u32>,
    lead: i64,
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let dir = std::env::temp_dir().join("sched-supply");
    if let Some(cpu) = arguments.cpu.filter(|&cpu| Partition::of(cpu).is_none()) {
        prepare::prepare(&dir, &[cpu])?;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let load = start_load(&stop, arguments.cpu);
    let mut ledger = Ledger::open(&dir)?;
    let measured = thread::spawn(move || measure(&mut ledger, &arguments)).join();
    stop.store(true, Ordering::Relaxed);
    for thread in load {
        let _ = thread.join();
    }
    prepare::restore(&dir)?;
    match measured {
        Ok(result) => result,
        Err(_) => Err("the measuring thread panicked".into()),
    }
}

fn arguments() -> Result<Arguments, Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [runtime, period, enforcement, seconds, rest @ ..] = words.as_slice() else {
        return Err("usage: supply RUNTIME_US PERIOD_US exact|tick SECONDS [CPU [LEAD_NS]]".into());
    };
    let us = |word: &str| word.parse().map(Duration::from_micros);
    Ok(Arguments {
        reservation: Reservation::new(us(runtime)?, us(period)?)?,
        enforcement: if enforcement == "tick" {
            Enforcement::Tick
        } else {
            Enforcement::Exact
        },
        duration: Duration::from_secs(seconds.parse()?),
        cpu: rest.first().map(|word| word.parse()).transpose()?,
        lead: rest.get(1).map_or(Ok(0), |word| word.parse())?,
    })
}

fn start_load(stop: &Arc<AtomicBool>, cpu: Option<u32>) -> Vec<thread::JoinHandle<()>> {
    let policies = [Policy::Other, Policy::Other, Policy::Fifo { priority: 50 }];
    let start = |policy| {
        let stop = Arc::clone(stop);
        thread::spawn(move || {
            let mut set = nix::sched::CpuSet::new();
            if let Some(cpu) = cpu {
                let _ = set.set(cpu as usize);
                let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
            }
            if let Err(errno) = set_policy(Tid::current(), policy) {
                eprintln!("load thread stays ordinary: {errno}");
            }
            while !stop.load(Ordering::Relaxed) {
                std::hint::spin_loop();
            }
        })
    };
    policies.map(start).into()
}

fn measure(ledger: &mut Ledger, arguments: &Arguments) -> Result<(), Failure> {
    let request = VcpuRequest {
        reservation: Some(arguments.reservation),
        backend: BackendKind::Deadline,
        enforcement: arguments.enforcement,
        cpu: arguments.cpu,
        fifo_priority: None,
    };
    let before = monotonic();
    let admitted = ledger.reserve("supply", &[request])?;
    let granted = admitted.vcpu(0).ok_or("nothing granted")?;
    let admission = monotonic() - before;
    let mut server = apply(Tid::current(), granted)?;
    let applied = monotonic() - before - admission;
    println!(
        "{:?}; admitted in {admission:?}, applied in {applied:?}",
        server.in_force()?
    );

    let mut signals = SigSet::empty();
    signals.add(Signal::SIGALRM);
    signals.thread_block()?;
    let pending = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK)?;
    let mut account = Account::new(Some(arguments.reservation));
    let mut timer = match arguments.enforcement {
        Enforcement::Exact => Some(BudgetTimer::new(
            libc::SIGALRM,
            granted.surplus,
            arguments.lead,
        )?),
        Enforcement::Tick => None,
    };
    if let Some(timer) = &mut timer {
        timer.arm();
    }
    let (started, cpu) = (monotonic(), thread_cpu_time());
    let (mut last, mut gaps) = (started, Histogram::new());
    while last - started < arguments.duration {
        let now = monotonic();
        if now - last > Duration::from_micros(300) {
            gaps.record(now - last);
        }
        last = now;
        if let (Some(timer), Ok(Some(_))) = (&mut timer, pending.read_signal()) {
            match timer.on_expiry(&mut account) {
                Expiry::Rearmed | Expiry::Yielded { .. } => {}
            }
        }
    }
    let (elapsed, consumed) = (monotonic() - started, thread_cpu_time() - cpu);
    server.release()?;
    let share = consumed.as_secs_f64() / elapsed.as_secs_f64();
    let lost = gaps.summary();
    println!(
        "{} {:?}: share {:.3} %, gaps over 0.3 ms: median {:?} p99 {:?} p99.9 {:?} max {:?} of {}",
        arguments.reservation,
        arguments.enforcement,
        share * 100.0,
        lost.median,
        lost.p99,
        lost.p999,
        lost.max,
        lost.count,
    );
    println!("{}", serde_json::to_string(&account.snapshot())?);
    Ok(())
}

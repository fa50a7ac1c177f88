//! How fast the simulator is: `cargo run --release -p sched --example sim`. One line for every host policy.

use std::error::Error;
use std::time::{Duration, Instant};

use sched::sim::{
    GuestPolicy, Host, Overheads, Policy, Record, Run, Server, Slot, Task, Vcpu, Vm, simulate,
};

const CPUS: usize = 4;
const VMS: u64 = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let ms = Duration::from_millis;
    let slots = |cpu: usize| {
        let slot = |owner| Slot {
            owner: Some(owner),
            length: ms(2),
        };
        vec![slot(cpu), slot(cpu + CPUS)]
    };
    let policies = [
        ("EDF, hard CBS", Policy::Deadline),
        ("deferrable servers", Policy::Deferrable),
        ("periodic servers", Policy::Periodic),
        (
            "work-conserving periodic servers",
            Policy::WorkConservingPeriodic,
        ),
        ("sporadic servers", Policy::Sporadic),
        ("credit", Policy::Credit { slice: ms(30) }),
        (
            "proportional share",
            Policy::ProportionalShare {
                latency: ms(18),
                granularity: ms(2),
            },
        ),
        (
            "dispatch table",
            Policy::Table((0..CPUS).map(slots).collect()),
        ),
    ];
    println!("{VMS} VMs with 5 tasks each, on {CPUS} CPUs, each VM bound to one");
    for (name, policy) in policies {
        measure(name, policy, true)?;
    }
    measure("EDF, hard CBS, global", Policy::Deadline, false)
}

fn measure(name: &str, policy: Policy, is_bound: bool) -> Result<(), Box<dyn Error>> {
    let vms = (0..VMS).map(|number| vm(number, is_bound)).collect();
    let host = Host {
        overheads: Overheads {
            switch: Duration::from_micros(2),
            budget_switch: Duration::from_micros(3),
        },
        ..Host::new(CPUS, policy, vms)
    };
    let run = Run {
        length: Duration::from_secs(600),
        seed: 1,
        record: Record::Counts,
    };
    let started = Instant::now();
    let outcome = simulate(&host, &run)?;
    let seconds = started.elapsed().as_secs_f64();
    let events = outcome.events.total();
    println!(
        "{name:34} {:>6.2} million events/s ({events} events in {seconds:.2} s)",
        events as f64 / seconds / 1e6
    );
    Ok(())
}

/// A VM that needs about two fifths of a CPU.
fn vm(number: u64, is_bound: bool) -> Vm {
    let us = Duration::from_micros;
    let task = |place: u64| Task {
        shortest: us(200),
        ..Task::new(
            us(600 + 100 * place),
            us(8_000 + 3_000 * place + 170 * number),
        )
    };
    let server = Server::new(us(2_200 + 10 * number), us(5_000 + 100 * number));
    Vm::single(Vcpu {
        cpu: usize::try_from(number)
            .ok()
            .map(|number| number % CPUS)
            .filter(|_| is_bound),
        ..Vcpu::new(
            server,
            GuestPolicy::RateMonotonic,
            (0..5).map(task).collect(),
        )
    })
}

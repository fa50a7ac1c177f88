//! The round trip of a port access from the guest to the process and back.

use std::hint::black_box;
use std::process::Command;
use std::time::{Duration, Instant};

use vmm::exit::{Decision, VcpuExit, decide};
use vmm::machine::{self, MachinePlan};
use vmm::memory::MemoryPlan;
use vmm::units::ByteSize;

use super::Bench;
use super::guest::GuestPlan;
use super::outcome::{Check, Row, Target};
use crate::experiment::interrupt;
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// Rounds of both, taking turns; the better half of a shared machine's noise hits both alike.
const ROUNDS: usize = 5;
/// Exits served in the measurement of our own part.
const EXITS: u32 = 200_000;
const PORT: u16 = 0x80;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let accesses = bench.pick(20_000, 4_000);
    let line = format!("bench=pio,n={accesses},port={PORT:#x}");
    let plan = GuestPlan {
        name: "bench-pio".to_owned(),
        line: line.clone(),
        cpu: "backend = \"other\"\n".to_owned(),
        memory: None,
    };
    let image = bench.scratch.write("rt-guest", guest_images::RT_GUEST)?;
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.pick(ROUNDS, 2) {
        interrupt::check()?;
        own.push(median_of(&mut bench.command(&plan)?)?);
        if let Some(qemu) = &bench.qemu {
            peer.push(median_of(&mut qemu.command(&image, &line))?);
        }
    }
    let served = serve_exits()?;
    let user = Check::new("our part", (micros(served), "us"), Target::AtMost(1.0));
    let own = micros(middle(own));
    if peer.is_empty() {
        let trip = Check::new("round trip", (own, "us"), Target::None);
        return Ok(Row::new(vec![trip.beside("QEMU is not installed"), user]));
    }
    let peer = micros(middle(peer));
    let ratio = Check::new("against QEMU", (own / peer, "x"), Target::AtMost(1.0));
    let ratio = ratio.beside(format!("{own:.2} us, QEMU {peer:.2} us"));
    Ok(Row::new(vec![ratio, user])
        .note("round trips: medians of rounds that take turns, both ordinary threads"))
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn middle(times: Vec<Duration>) -> Duration {
    let times = Distribution::new(times);
    times.quantile(Quantile::MEDIAN).unwrap_or_default()
}

/// The median that the guest prints: `bench pio n=.. min=.. median=.. p99=.. max=..`, in nanoseconds.
fn median_of(command: &mut Command) -> Result<Duration, Failure> {
    let output = command.spawn()?.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let median = text
        .split_whitespace()
        .find_map(|word| word.strip_prefix("median=")?.parse().ok());
    median.map(Duration::from_nanos).ok_or_else(|| {
        let program = command.get_program().to_string_lossy().into_owned();
        Failure::new(format!("{program} measured nothing: {}", text.trim()))
    })
}

/// What a vCPU thread does between two KVM_RUN for such an access: the decision, the bus, the coalesced output. Measured
/// without KVM, so that no clock is read in the running loop.
fn serve_exits() -> Result<Duration, Failure> {
    let built = machine::build(
        MachinePlan {
            memory: MemoryPlan {
                size: ByteSize::mebibytes(4),
                hugepages: false,
            },
            vcpus: 1,
        },
        None,
        |errand| errand(),
    )?;
    let machine = &built.machine;
    let mut rounds = Vec::new();
    for _ in 0..9 {
        let begin = Instant::now();
        for _ in 0..EXITS {
            machine.deliver_coalesced();
            let exit = black_box(VcpuExit::IoOut(PORT, &[0]));
            if let Decision::PortWrite(port, data) = decide(exit) {
                let effect = machine.ports().write(u64::from(port), data);
                drop(black_box(effect));
            }
        }
        rounds.push(begin.elapsed() / EXITS);
    }
    Ok(middle(rounds))
}

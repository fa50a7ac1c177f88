//! How fast a CPU is: fixed pieces of work, each a chain in which every step waits for the one before, so that neither
//! the width of the processor nor the compiler decides.

use std::hint::black_box;
use std::time::Duration;

use sched::kernel::{Policy, Tid, thread_cpu_time};
use sched::partition::Partition;
use vmm::speed::SpeedFigures;
use vmm::units::Span;

use crate::failure::Failure;

/// Of so many rounds the fastest counts: whatever else a CPU does makes work longer, never shorter.
const ROUNDS: usize = 12;
/// Steps of a round; some milliseconds each.
const INTEGER: u32 = 4_000_000;
const FLOAT: u32 = 4_000_000;
const READS: u32 = 100_000;
/// Lines of memory that reads wander over, and entries in one: 64 MiB in all.
const LINES: u32 = 1 << 20;
const LINE: u32 = 16;

/// The figures of a partition's CPU.
pub fn measure(cpu: u32) -> Result<SpeedFigures, Failure> {
    let worker = std::thread::Builder::new().name("speed".to_owned()).spawn(
        move || -> Result<SpeedFigures, Failure> {
            let partition = Partition::of(cpu)
                .ok_or_else(|| Failure::new(format!("CPU {cpu} is not a partition any more")))?;
            partition.join(Tid::current())?;
            sched::kernel::set_policy(Tid::current(), Policy::Other)?;
            Ok(figures())
        },
    )?;
    worker
        .join()
        .map_err(|_| Failure::new("the thread that measures speed came to an end"))?
}

fn figures() -> SpeedFigures {
    let paths = paths();
    SpeedFigures {
        integer: fastest(|| integer(black_box(1))),
        float: fastest(|| float(black_box(1.0)).to_bits()),
        memory: fastest(|| u64::from(read(&paths, black_box(0)))),
    }
}

/// CPU time, so that waiting for the CPU does not count.
fn fastest(work: impl Fn() -> u64) -> Span {
    let round = |_| {
        let begun = thread_cpu_time();
        black_box(work());
        thread_cpu_time().saturating_sub(begun)
    };
    let least = (0..ROUNDS).map(round).min().unwrap_or_default();
    // Finer figures would mean nothing.
    let micros = u64::try_from(least.as_micros()).unwrap_or(u64::MAX);
    Span::from(Duration::from_micros(micros.max(1)))
}

/// One step of a random number generator with a multiplication and a shift (Knuth's MMIX constants).
fn next(value: u64) -> u64 {
    let value = value
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    value ^ (value >> 29)
}

fn integer(from: u64) -> u64 {
    (0..INTEGER).fold(from, |value, _| next(value))
}

fn float(from: f64) -> f64 {
    (0..FLOAT).fold(from, |value, _| value * 0.999_999 + 1e-6)
}

/// One cycle through all lines in random order (Sattolo, Information Processing Letters 1986): where to read next.
fn paths() -> Vec<u32> {
    let mut order: Vec<u32> = (0..LINES).collect();
    let mut random = 1;
    for last in (1..order.len()).rev() {
        random = next(random);
        let other = (random >> 32) % last as u64;
        order.swap(last, usize::try_from(other).unwrap_or(0));
    }
    let mut paths = vec![0; (LINES * LINE) as usize];
    for (line, to) in order.into_iter().enumerate() {
        paths[line * LINE as usize] = to * LINE;
    }
    paths
}

fn read(paths: &[u32], from: u32) -> u32 {
    (0..READS).fold(from, |at, _| paths[at as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_come_through_all_lines_before_one_comes_again() {
        let paths = paths();
        let mut at = 0;
        for step in 1..=LINES {
            at = paths[at as usize];
            assert_eq!(at == 0, step == LINES, "after {step} steps");
        }
    }

    #[test]
    fn every_kind_of_work_takes_time() {
        let figures = figures();
        for time in [figures.integer, figures.float, figures.memory] {
            assert!(time.duration() > Duration::from_micros(500), "{figures}");
        }
    }
}

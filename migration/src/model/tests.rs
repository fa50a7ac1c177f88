//! The closed forms against slow ones, and what must hold whatever the guest.

mod decisions;
mod estimates;
mod rounds;

use std::time::Duration;

use units::{BitRate, ByteSize};

use super::{CpuCost, Path, Requirement, Skewed};

/// A path whose CPUs are never the bottleneck.
fn path(bits: u64) -> Path {
    let cpu = CpuCost {
        per_page: Duration::from_nanos(100),
        per_mebibyte: Duration::from_micros(100),
        share: 1.0,
    };
    Path {
        rate: BitRate::new(bits),
        rate_spread: 0.0,
        page_overhead: ByteSize::new(0),
        zero_pages: 0,
        compression: 1.0,
        compression_again: 1.0,
        round_cost: Duration::from_micros(200),
        pages_per_clear: 8,
        switch_delay: Duration::ZERO,
        switch_over: Skewed::fixed(Duration::from_millis(1)),
        source: cpu,
        destination: cpu,
        tracked_write: Duration::from_micros(26),
    }
}

fn asked(downtime_ms: u64, finish_ms: u64) -> Requirement {
    Requirement {
        downtime: Duration::from_millis(downtime_ms),
        finish: Duration::from_millis(finish_ms),
        confidence: 0.95,
    }
}

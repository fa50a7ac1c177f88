//! Times port accesses: each is an exit to the VMM.

use crate::clock::{self, Clock};
use crate::end::{self, Exit};
use crate::start_info::StartInfo;
use crate::{console, hw, memory};

/// Times `count` writes of a byte to `port`, prints how long they took in nanoseconds, and ends the guest.
pub fn run(port: u16, count: u32, clock: &Clock, info: &StartInfo) -> ! {
    let size = (u64::from(count) * 4).next_multiple_of(4096);
    let samples = info
        .free_ram(size)
        .and_then(|end| memory::samples(end - size, count.into()));
    let Some(samples) = samples else {
        crate::fail(
            Exit::Machine,
            format_args!("not enough memory for {count} samples"),
        )
    };
    // Each page of samples is touched before it is written to between two measurements.
    samples.fill(0);
    for sample in samples.iter_mut() {
        let begin = hw::rdtsc();
        hw::write_u8(port, 0);
        let ticks = hw::rdtsc().wrapping_sub(begin);
        *sample = u32::try_from(ticks).unwrap_or(u32::MAX);
    }
    samples.sort_unstable();
    let page = clock.page();
    let ns = |permille: usize| {
        let last = samples.len().saturating_sub(1);
        let sample = samples.get(last * permille / 1000).copied();
        clock::length(&page, sample.unwrap_or(0).into())
    };
    console::line(format_args!(
        "bench pio n={count} min={} median={} p99={} max={}",
        ns(0),
        ns(500),
        ns(990),
        ns(1000)
    ));
    end::end(Exit::Done)
}

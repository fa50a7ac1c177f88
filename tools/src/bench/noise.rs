//! The noise of the measured CPU.

use std::time::Duration;

use sched::kernel::Tid;
use sched::noise::{CpuNoise, measure};
use sched::partition::Partition;

/// Measures the noise of the partition of `cpu` for `length`; nothing if that is not possible.
pub fn of_partition(cpu: u32, length: Duration) -> Option<CpuNoise> {
    // In a thread of its own: the one that measures inherits its group, and this one stays outside.
    let observer = std::thread::spawn(move || {
        Partition::of(cpu)?.join(Tid::current()).ok()?;
        measure(&[cpu], length).ok()?.pop()
    });
    observer.join().ok().flatten()
}

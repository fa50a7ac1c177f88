//! What making a dispatch table and adapting a pair of VTMs costs: `cargo run --release -p sched --example dispatch_table`.
//!
//! The VTMs are those of Duran-Limon et al.: 20 ms per 400 ms, for 200 of them 20 ms per 4000 ms; one gets 10 ms that
//! another gives up.

use std::error::Error;
use std::time::Duration;

use sched::histogram::Histogram;
use sched::kernel::monotonic;
use sched::vtm::{Need, Placement, Policy, Table, Vtm};

const ROUNDS: usize = 2000;
const SLOT: Duration = Duration::from_millis(10);

fn main() -> Result<(), Box<dyn Error>> {
    for policy in [Policy::RateMonotonic, Policy::EarliestDeadlineFirst] {
        println!("{policy:?}");
        for (count, period) in [(2, 400), (20, 400), (200, 4000)] {
            measure(policy, count, Duration::from_millis(period))?;
        }
    }
    Ok(())
}

fn measure(policy: Policy, count: usize, period: Duration) -> Result<(), Box<dyn Error>> {
    let vtm = |index: usize, slots: u32| Vtm {
        name: format!("vtm{index}"),
        period,
        need: Need::Time(SLOT * slots),
        max_delay: None,
    };
    let vtms: Vec<_> = (0..count).map(|index| vtm(index, 2)).collect();
    let (mut making, mut adapting) = (Histogram::new(), Histogram::new());
    let started = monotonic();
    let mut table = Table::new(SLOT, policy, Placement::default(), &vtms)?;
    making.record(monotonic() - started);
    for round in 0..ROUNDS {
        let (one, other) = (round * 7 % count, (round * 7 + count / 2) % count);
        for slots in [[3, 1], [2, 2]] {
            let changes = [vtm(one, slots[0]), vtm(other, slots[1])];
            let started = monotonic();
            table.adapt(&changes)?;
            adapting.record(monotonic() - started);
        }
    }
    println!("{count:4} VTMs: make   {}", making.summary());
    println!("{count:4} VTMs: adapt  {}", adapting.summary());
    Ok(())
}

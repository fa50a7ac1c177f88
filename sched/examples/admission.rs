//! What one decision about 1000 reservations on 64 CPUs costs: `cargo run --release -p sched --example admission`.

use std::error::Error;
use std::time::Duration;

use sched::admission::{Bandwidth, Fit, Limits, Packing, Policy, Server, Wanted};
use sched::histogram::Histogram;
use sched::kernel::monotonic;
use sched::reservation::Reservation;

const CPUS: u32 = 64;
const RESERVATIONS: usize = 1000;
const ROUNDS: u32 = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    println!("{RESERVATIONS} reservations on {CPUS} CPUs");
    measure("deadline = period", false)?;
    measure("deadline < period", true)
}

fn measure(kind: &str, constrained: bool) -> Result<(), Box<dyn Error>> {
    let mut all = Vec::with_capacity(RESERVATIONS);
    for index in 0..RESERVATIONS {
        all.push(wanted(index, 5, constrained)?);
    }
    let mut packing = Packing::new(
        Limits::modern(),
        (0..CPUS).map(|cpu| (cpu, Bandwidth::ZERO)),
    );
    let started = monotonic();
    let placed = packing.place_all(Policy::default(), &all)?;
    println!("{kind}: all placed in {:?}", monotonic() - started);

    let [mut admitting, mut adapting, mut refusing, mut hurrying] =
        std::array::from_fn(|_| Histogram::new());
    let small = wanted(RESERVATIONS, 3, constrained)?;
    let large = wanted(RESERVATIONS, 60, constrained)?;
    let pair = Reservation::new(Duration::from_millis(9), Duration::from_millis(150))?;
    // From hardly any time beside the runtime to so much that it just does not fit.
    let mut urgent = Vec::new();
    for thousandths in 1010.. {
        let server = Server::from(pair.with_deadline(pair.runtime() * thousandths / 1000)?);
        if (0..CPUS).any(|cpu| packing.fits(cpu, &server).is_ok()) {
            break;
        }
        urgent.push(Wanted { server, ..large });
    }
    for round in 0..ROUNDS {
        let started = monotonic();
        let (id, _) = packing.place(Fit::Worst, small)?;
        admitting.record(monotonic() - started);
        packing.remove(id);

        let (id, _) = placed[usize::try_from(round)? % RESERVATIONS];
        let started = monotonic();
        packing.change(&[(id, small.server)])?;
        adapting.record(monotonic() - started);

        let started = monotonic();
        if packing.place(Fit::Worst, large).is_ok() {
            return Err("60 % fit".into());
        }
        refusing.record(monotonic() - started);

        let urgent = urgent[usize::try_from(round)? % urgent.len()];
        let started = monotonic();
        if packing.place(Fit::Worst, urgent).is_ok() {
            return Err("a deadline that was too early fits".into());
        }
        hurrying.record(monotonic() - started);
    }
    println!("{kind}: admit                  {}", admitting.summary());
    println!("{kind}: change                 {}", adapting.summary());
    println!("{kind}: refuse, with offers    {}", refusing.summary());
    println!("{kind}: refuse by demand       {}", hurrying.summary());
    Ok(())
}

/// A reservation of about `percent` of a CPU, with a period between 10 and 109 ms.
fn wanted(index: usize, percent: u64, constrained: bool) -> Result<Wanted, Box<dyn Error>> {
    let period = Duration::from_micros(10_000 + u64::try_from(index)? * 7_919 % 100_000);
    let reservation = Reservation::new(period.mul_f64(percent as f64 / 100.0), period)?;
    let deadline = if constrained { period * 3 / 4 } else { period };
    Ok(Wanted {
        server: Server::from(reservation.with_deadline(deadline)?),
        group: index,
        cpu: None,
    })
}

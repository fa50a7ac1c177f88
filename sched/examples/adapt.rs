//! What admission and adaptation cost: `cargo run --release -p sched --example adapt [NUMBER OF OTHER VMS]`.
//! Needs root and a second CPU.

use std::error::Error;
use std::path::Path;
use std::slice;
use std::time::Duration;

use sched::backend::apply;
use sched::framework::Manager;
use sched::histogram::Histogram;
use sched::kernel::{Tid, monotonic};
use sched::ledger::{Change, Ledger};
use sched::prepare;
use sched::reservation::{Reservation, VcpuRequest};

const ROUNDS: u32 = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join("sched-adapt");
    let cpus = sched::cpus::online();
    let cpu = *cpus.last().ok_or("no CPU is online")?;
    prepare::prepare(&dir, &[cpu])?;
    // A thread of its own: whatever happens, it has left the partition when it has ended.
    let measured = std::thread::scope(|scope| {
        let thread = scope.spawn(|| measure(&dir, cpu).map_err(|error| error.to_string()));
        thread.join()
    });
    prepare::restore(&dir)?;
    measured.map_err(|_| "the measurement panicked")??;
    Ok(())
}

fn measure(dir: &Path, cpu: u32) -> Result<(), Box<dyn Error>> {
    let mut ledger = Ledger::open(dir)?;
    let ms = Duration::from_millis;
    let pair = [
        Reservation::new(ms(10), ms(40))?,
        Reservation::new(ms(12), ms(40))?,
    ];
    let request = VcpuRequest {
        reservation: Some(pair[0]),
        cpu: Some(cpu),
        ..VcpuRequest::default()
    };
    let _neighbour = ledger.reserve("neighbour", slice::from_ref(&request))?;
    let small = VcpuRequest {
        reservation: Some(Reservation::new(Duration::from_micros(20), ms(1000))?),
        ..request.clone()
    };
    let count = std::env::args()
        .nth(1)
        .map_or(Ok(0), |count| count.parse())?;
    let others = (0..count)
        .map(|number: u32| ledger.reserve(&format!("other{number}"), slice::from_ref(&small)));
    let _others = others.collect::<Result<Vec<_>, _>>()?;
    let (mut admitting, mut applying) = (Histogram::new(), Histogram::new());
    for _ in 0..50 {
        let started = monotonic();
        let admitted = ledger.reserve("vm", slice::from_ref(&request))?;
        let granted = admitted.vcpu(0).ok_or("nothing granted")?;
        let done = monotonic();
        admitting.record(done - started);
        let mut server = apply(Tid::current(), granted)?;
        applying.record(monotonic() - done);
        server.release()?;
        // The kernel returns the bandwidth a period late.
        std::thread::sleep(ms(60));
    }
    println!("admit                          {}", admitting.summary());
    println!("apply and read back            {}", applying.summary());

    let admitted = ledger.reserve("vm", &[request])?;
    let granted = admitted.vcpu(0).ok_or("nothing granted")?;
    let mut server = apply(Tid::current(), granted)?;
    let (mut booking, mut setting) = (Histogram::new(), Histogram::new());
    for round in 0..ROUNDS {
        let new = pair[usize::from(round % 2 == 0)];
        let started = monotonic();
        ledger.adapt(&[Change::new("vm", 0, new)])?;
        let booked = monotonic();
        server.adapt(new)?;
        booking.record(booked - started);
        setting.record(monotonic() - booked);
    }
    server.release()?;
    println!("adapt: ledger                  {}", booking.summary());
    println!("adapt: kernel and read back    {}", setting.summary());
    Ok(())
}

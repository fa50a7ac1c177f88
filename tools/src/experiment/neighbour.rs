//! A neighbour: a busy thread in a SCHED_DEADLINE reservation, admitted like a VM and enforced like one.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use sched::account::Account;
use sched::backend;
use sched::budget::BudgetTimer;
use sched::framework::Manager;
use sched::kernel::Tid;
use sched::ledger::Ledger;
use sched::request::{BackendKind, Enforcement, VcpuRequest};
use sched::reservation::Reservation;

use super::process::READY;
use crate::failure::Failure;

/// Ends the budget.
const BUDGET: Signal = Signal::SIGUSR2;
/// Turns of the busy loop between two looks for the signal.
const TURNS: u32 = 200;

/// The request of a neighbour.
pub fn request(
    cpu: Option<u32>,
    (runtime, period): (Duration, Duration),
) -> Result<VcpuRequest, sched::reservation::ReservationError> {
    Ok(VcpuRequest {
        reservation: Some(Reservation::new(runtime, period)?),
        backend: BackendKind::Deadline,
        enforcement: Enforcement::Exact,
        cpu,
        fifo_priority: None,
    })
}

/// Runs a neighbour until the process is ended.
pub fn run(
    run_dir: &Path,
    name: &str,
    cpu: Option<u32>,
    pair: (Duration, Duration),
) -> Result<u8, Failure> {
    let mut ledger = Ledger::open(run_dir)?;
    let request = request(cpu, pair)?;
    let reservation = request.reservation;
    let admitted = ledger.reserve(name, &[request])?;
    let granted = admitted
        .vcpu(0)
        .ok_or_else(|| Failure::new("nothing was granted"))?;
    let surplus = granted.surplus;
    let mut signals = SigSet::empty();
    signals.add(BUDGET);
    signals.thread_block()?;
    let expiries = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK)?;
    let in_force = backend::apply(Tid::current(), granted)?.in_force()?;
    ledger.attach(name, 0, Tid::current())?;
    let mut account = Account::new(reservation);
    let mut timer = BudgetTimer::new(BUDGET as i32, surplus, 0)?;
    println!("{READY} {}", serde_json::to_string(&in_force)?);
    timer.arm();
    loop {
        for _ in 0..TURNS {
            std::hint::spin_loop();
        }
        if let Ok(Some(_)) = expiries.read_signal() {
            let _ = timer.on_expiry(&mut account);
        }
    }
}

//! What a CPU can be promised to VTMs: all of it, but for what the kernel keeps from real-time processes.

use std::time::Duration;

use super::config::VtmConfig;
use super::error::VtmError;
use super::table::Table;
use crate::cpus;
use crate::framework::Manager;
use crate::host_view::{self, rt_throttling};
use crate::ledger::{Admitted, Bound};
use crate::partition::Partition;
use crate::request::{BackendKind, Enforcement, VcpuRequest};
use crate::reservation::{Reservation, nanos};

/// What a dispatch takes of the CPU, at most: real time too.
const DISPATCH: Duration = Duration::from_micros(20);

/// The period of the reservation that takes a CPU as a whole.
const WHOLE: Duration = Duration::from_secs(1);

/// What the names of the ledger's entries begin with.
const ENTRY: &str = "vtm.cpu";

/// The name of the ledger's entry.
fn entry(cpu: u32) -> String {
    format!("{ENTRY}{cpu}")
}

/// Whether an entry of the ledger stands for the VTMs of a CPU, by its name.
pub fn is_of_vtms(vm: &str) -> bool {
    vm.starts_with(ENTRY)
}

/// Takes the CPU, from virtual machines where there is a ledger.
pub(super) fn take_cpu(
    config: &VtmConfig,
) -> Result<(Option<Partition>, Option<Admitted>), VtmError> {
    let cpu = config.cpu;
    let online = cpus::online();
    if !online.contains(&cpu) {
        return Err(VtmError::CpuOffline { cpu, online });
    }
    let partition = Partition::of(cpu);
    let Some(ledger) = &config.ledger else {
        return match partition {
            Some(_) => Err(VtmError::Partition { cpu }),
            None => Ok((None, None)),
        };
    };
    if partition.is_none() {
        return Err(VtmError::NoPartition { cpu });
    }
    let runtime = host_view::limits().per_cpu().of(WHOLE);
    let request = VcpuRequest {
        reservation: Reservation::new(runtime, WHOLE).ok(),
        backend: BackendKind::Deadline,
        enforcement: Enforcement::Tick,
        cpu: Some(cpu),
        fifo_priority: None,
    };
    let admitted = ledger.clone().reserve(&entry(cpu), &[request]);
    let admitted = admitted.map_err(|refusal| match refusal.bound {
        Bound::NoPartition { .. } => VtmError::NoPartition { cpu },
        _ => VtmError::CpuTaken {
            cpu,
            refusal: Box::new(refusal),
        },
    })?;
    Ok((partition, Some(admitted)))
}

/// Refuses a table that real-time throttling would break: it stops all real-time processes of a CPU that have run for
/// `sched_rt_runtime_us` of a `sched_rt_period_us` (Documentation/scheduler/sched-rt-group.rst).
pub(super) fn check(table: &Table) -> Result<(), VtmError> {
    let Some((most, window)) = rt_throttling().filter(|(most, window)| most < window) else {
        return Ok(());
    };
    let busy = busiest(table, window);
    if busy > most {
        return Err(VtmError::Throttled { window, busy, most });
    }
    Ok(())
}

/// How long VTMs and the dispatcher have the CPU in the busiest `window`. It begins with a slot.
fn busiest(table: &Table, window: Duration) -> Duration {
    let (slots, slot) = (table.slots(), nanos(table.slot()));
    let length = slots.len() as u64;
    let owned = |at: u64| {
        let owner = usize::try_from(at % length).map(|at| slots[at]);
        u64::from(owner.is_ok_and(|owner| owner.is_some()))
    };
    let (whole, rest) = (nanos(window) / slot, nanos(window) % slot);
    let (rounds, within) = (whole / length, whole % length);
    let per_round: u64 = (0..length).map(owned).sum();
    let mut count: u64 = (0..within).map(owned).sum();
    let mut busiest = 0;
    for begin in 0..length {
        let busy = (rounds * per_round + count) * slot + owned(begin + within) * rest;
        busiest = busiest.max(busy);
        count = count + owned(begin + within) - owned(begin);
    }
    // In a slot of a VTM the dispatcher takes the VTM's time.
    let idle = whole - (busiest / slot).min(whole);
    let dispatcher = nanos(DISPATCH).min(slot).saturating_mul(idle);
    Duration::from_nanos(busiest.saturating_add(dispatcher))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vtm::{CpuShare, Need, Placement, Policy};
    use proptest::prelude::*;

    fn table(slot: u64, vtms: &[(u64, u64)]) -> Result<Table, crate::vtm::TableError> {
        let ms = Duration::from_millis;
        let vtm = |(index, &(execution, period)): (usize, &(u64, u64))| {
            let share = CpuShare {
                period: ms(period),
                need: Need::Time(ms(execution)),
                max_delay: None,
            };
            share.of(&index.to_string())
        };
        let vtms: Vec<_> = vtms.iter().enumerate().map(vtm).collect();
        Table::new(
            ms(slot),
            Policy::EarliestDeadlineFirst,
            Placement::AllAsSoon,
            &vtms,
        )
    }

    #[test]
    fn a_table_that_is_idle_for_a_twentieth_is_busy_for_the_rest() {
        let busy = busiest(&table(10, &[(90, 100)]).unwrap(), Duration::from_secs(1));
        assert_eq!(busy, Duration::from_micros(900_000 + 10 * 20));
        let full = busiest(&table(10, &[(100, 100)]).unwrap(), Duration::from_secs(1));
        assert_eq!(full, Duration::from_secs(1));
    }

    #[test]
    fn a_long_busy_stretch_counts_though_the_table_is_idle_for_longer() {
        let busy = busiest(
            &table(100, &[(2000, 10_000)]).unwrap(),
            Duration::from_secs(1),
        );
        assert_eq!(busy, Duration::from_secs(1));
    }

    proptest! {
        #[test]
        fn no_window_is_busier(slot in 1u64..20, window in 1u64..200, vtms in prop::collection::vec((1u64..6, 1u64..12), 1..3)) {
            let vtms: Vec<_> = vtms.iter().map(|&(e, p)| (e.min(p) * slot, p * slot)).collect();
            let Ok(table) = table(slot, &vtms) else { return Ok(()) };
            let owner = |ms: u64| table.at(Duration::from_millis(ms)).is_some();
            let length = u64::try_from(table.hyperperiod().as_millis()).unwrap();
            let slow = (0..length).step_by(usize::try_from(slot).unwrap())
                .map(|begin| (begin..begin + window).filter(|&ms| owner(ms)).count() as u64).max().unwrap();
            let fast = busiest(&table, Duration::from_millis(window));
            prop_assert!(fast >= Duration::from_millis(slow));
            prop_assert!(fast <= Duration::from_millis(slow) + DISPATCH * 200);
        }
    }
}

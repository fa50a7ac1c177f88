//! What the ledger decides on its book and a view of the host: whom to admit, where and from when, and which changes.

use std::time::Duration;

use crate::book::Book;
use crate::host_view;
use crate::ledger::Change;
use crate::placement::{self, HostView};
use crate::refusal::{Bound, Refusal};
use crate::request::{Granted, VcpuRequest};
use crate::zero_lag::Step;

/// What a VM is granted.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) granted: Vec<Granted>,
    /// From when on, if something has to become free first (CLOCK_MONOTONIC).
    pub(crate) from: Option<Duration>,
}

/// Something that fits, perhaps only later.
struct Found<T> {
    what: T,
    /// From when on, and why not now.
    later: Option<(Duration, Refusal)>,
}

pub(crate) fn not_admitted(vm: &str, vcpu: usize) -> Refusal {
    Refusal::new(vm, Bound::NotAdmitted).of_vcpu(vcpu)
}

/// Places a VM beside everything in the book. The host is searched for foreign SCHED_DEADLINE threads only if the
/// partitions do not suffice, with what is becoming free neither.
pub(crate) fn plan(
    book: &Book,
    now: Duration,
    vm: &str,
    requests: &[VcpuRequest],
) -> Result<Planned, Refusal> {
    check_name(vm)?;
    if let Some(entry) = book.find(vm) {
        let pid = entry.process.pid;
        return Err(Refusal::new(vm, Bound::NameTaken { pid }));
    }
    let mut host = host_view::read(book);
    let taken = book.granted();
    let place = |host: &HostView| placement::place(host, &taken, vm, requests);
    let in_partitions = if host.partitions.is_empty() {
        None
    } else {
        Some(earliest(book, now, &host, &[], place))
    };
    let found = match in_partitions {
        Some(Ok(found)) => found,
        // A CPU without a partition may be the one that partitions leave.
        Some(Err(refusal))
            if !refusal.may_be_stale() && !matches!(refusal.bound, Bound::NoPartition { .. }) =>
        {
            return Err(refusal);
        }
        _ => {
            host.foreign = Some(host_view::foreign(book, &host));
            earliest(book, now, &host, &[], place)?
        }
    };
    Ok(Planned {
        granted: found.what,
        from: found.later.map(|(instant, _)| instant),
    })
}

/// When `test` passes first on a host that still holds, from `now` on, what is becoming free. What a change is about holds
/// nothing against itself.
fn earliest<T>(
    book: &Book,
    now: Duration,
    host: &HostView,
    steps: &[Step],
    test: impl Fn(&HostView) -> Result<T, Refusal>,
) -> Result<Found<T>, Refusal> {
    let at = |instant| test(&host.holding(book.freeing.held(instant, steps)));
    let first = match at(now) {
        Ok(what) => return Ok(Found { what, later: None }),
        Err(refusal) => refusal,
    };
    let instants = book.freeing.instants();
    let Some(&all_free) = instants.last() else {
        return Err(first);
    };
    let with_all = at(all_free)?;
    let earliest = instants.partition_point(|&instant| at(instant).is_err());
    let earliest = instants.get(earliest);
    let earlier = earliest.and_then(|&instant| Some((instant, at(instant).ok()?)));
    let (instant, what) = earlier.unwrap_or((all_free, with_all));
    let later = Some((instant, first));
    Ok(Found { what, later })
}

/// Whether a vCPU has this reservation.
pub(crate) fn still(book: &mut Book, state: &Change) -> Result<(), Refusal> {
    let entry = book.vcpu_mut(&state.vm, state.vcpu);
    let entry = entry.ok_or_else(|| not_admitted(&state.vm, state.vcpu))?;
    if entry.granted.request.reservation == Some(state.reservation) {
        return Ok(());
    }
    Err(Refusal::new(&state.vm, Bound::Changed).of_vcpu(state.vcpu))
}

/// The grants after `changes`, which are in the book afterwards if all of them fit. Those that together take no more than
/// they hold have nothing to wait for.
pub(crate) fn adapted(
    book: &mut Book,
    now: Duration,
    changes: &[Change],
) -> Result<Vec<Granted>, Refusal> {
    let before = book.granted();
    let mut result = Vec::with_capacity(changes.len());
    let mut steps = Vec::with_capacity(changes.len());
    for change in changes {
        let entry = book.vcpu_mut(&change.vm, change.vcpu);
        let entry = entry.ok_or_else(|| not_admitted(&change.vm, change.vcpu))?;
        let old = entry.granted.clone();
        entry.granted.request.reservation = Some(change.reservation);
        entry.granted.surplus = entry.granted.request.surplus();
        steps.extend(Step::new(&old, &entry.granted));
        result.push(entry.granted.clone());
    }
    let host = host_view::read_for(book, &result);
    let fits = |host: &HostView| placement::change(host, &before, &result);
    if book.freeing.covers(&steps) {
        fits(&host)?;
    } else if let Some((instant, mut refusal)) = earliest(book, now, &host, &steps, fits)?.later {
        refusal.otherwise.after = Some(instant.saturating_sub(now));
        return Err(refusal);
    }
    book.freeing.changed(&steps, now);
    Ok(result)
}

/// A name becomes part of file and control-group names.
fn check_name(vm: &str) -> Result<(), Refusal> {
    let reason = if vm.is_empty() {
        "it is empty"
    } else if vm.len() > 64 {
        "it is longer than 64 bytes"
    } else if vm.starts_with('.') {
        "it starts with a dot"
    } else if !vm
        .chars()
        .all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_'))
    {
        "only letters, digits, '.', '-' and '_' are allowed"
    } else {
        return Ok(());
    };
    let reason = reason.to_owned();
    Err(Refusal::new(vm, Bound::BadName { reason }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::{Bandwidth, Fit, Limits};
    use crate::placement::PartitionView;
    use crate::request::{AdmissionTest, Placement};
    use crate::reservation::Reservation;
    use proptest::prelude::*;

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    fn left(vcpu: usize, runtime: u64, period: u64) -> Granted {
        Granted {
            vm: "a".to_owned(),
            vcpu,
            request: VcpuRequest {
                reservation: Reservation::new(ms(runtime), ms(period)).ok(),
                ..VcpuRequest::default()
            },
            placement: Placement::Partition { cpu: 1 },
            surplus: Duration::ZERO,
            test: AdmissionTest::PartitionedEdf,
        }
    }

    fn host() -> HostView {
        let foreign = Bandwidth::ZERO;
        HostView {
            limits: Limits::modern(),
            online: vec![1],
            partitions: vec![PartitionView { cpu: 1, foreign }],
            fit: Fit::Worst,
            foreign: None,
        }
    }

    proptest! {
        #[test]
        fn what_fits_later_fits_from_the_first_instant_that_suffices(
            gone in prop::collection::vec((1u64..20, 20u64..200), 0..8), at_most in 0u64..1000,
        ) {
            let mut book = Book::default();
            for (vcpu, &(runtime, period)) in gone.iter().enumerate() {
                book.freeing.gone(&left(vcpu, runtime, period), ms(1000));
            }
            let fits = |host: &HostView| {
                let free = host.partitions[0].foreign <= Bandwidth::ratio(ms(at_most), ms(1000));
                free.then_some(()).ok_or_else(|| not_admitted("b", 0))
            };
            let found = earliest(&book, ms(1000), &host(), &[], fits).unwrap();
            let mut periods: Vec<_> = gone.iter().map(|&(_, period)| ms(1000 + period)).collect();
            periods.push(ms(1000));
            let suffices = |at: &&Duration| fits(&host().holding(book.freeing.held(**at, &[]))).is_ok();
            let first = periods.iter().filter(suffices).min().copied();
            prop_assert_eq!(Some(found.later.map_or(ms(1000), |(instant, _)| instant)), first);
        }
    }

    #[test]
    fn what_does_not_fit_when_all_is_free_is_refused_for_what_is_missing_then() {
        let mut book = Book::default();
        book.freeing.gone(&left(0, 10, 50), ms(1000));
        let never = |host: &HostView| -> Result<(), _> {
            let vcpu = usize::from(host.partitions[0].foreign == Bandwidth::ZERO);
            Err(not_admitted("b", vcpu))
        };
        let refusal = earliest(&book, ms(1000), &host(), &[], never).err();
        assert_eq!(refusal.and_then(|refusal| refusal.vcpu), Some(1));
    }
}

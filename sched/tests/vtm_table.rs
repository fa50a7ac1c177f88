//! Dispatch tables against the published one, against an exhaustive search, and against rate monotonic step by step.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::HashSet;
use std::time::Duration;

use proptest::prelude::*;
use sched::vtm::table::MOST_SLOTS;
use sched::vtm::{Need, Placement, Policy, Quantity, Table, TableError, Vtm};

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

fn vtm(name: &str, period: u64, execution: u64) -> Vtm {
    Vtm {
        name: name.to_owned(),
        period: ms(period),
        need: Need::Time(ms(execution)),
        max_delay: None,
    }
}

/// The slots as letters, idle ones as dots.
fn drawn(table: &Table) -> String {
    let letter = |owner: &Option<usize>| match owner {
        Some(vtm) => table.vtms()[*vtm].name.chars().next().unwrap(),
        None => '.',
    };
    table.slots().iter().map(letter).collect()
}

/// The paper's two VTMs.
fn gold_and_best_effort() -> [Vtm; 2] {
    [vtm("gold", 40, 16), vtm("best effort", 80, 8)]
}

fn soon_and_late() -> [Placement; 2] {
    [Placement::AllAsSoon, Placement::HighestAsSoonOthersAsLate]
}

#[test]
fn the_published_table_comes_out_slot_for_slot() {
    for policy in [Policy::RateMonotonic, Policy::EarliestDeadlineFirst] {
        let placement = Placement::HighestAsSoonOthersAsLate;
        let table = Table::new(ms(8), policy, placement, &gold_and_best_effort()).unwrap();
        assert_eq!(drawn(&table), "gg...gg..b");
        assert_eq!(table.hyperperiod(), ms(80));
        let soon = Table::new(ms(8), policy, Placement::AllAsSoon, &gold_and_best_effort());
        assert_eq!(drawn(&soon.unwrap()), "ggb..gg...");
    }
}

#[test]
fn the_table_repeats_and_tells_who_has_the_cpu_at_a_time() {
    let table = Table::new(
        ms(8),
        Policy::default(),
        Placement::default(),
        &gold_and_best_effort(),
    )
    .unwrap();
    let at = |time| table.at(time).map(|vtm| vtm.name.as_str());
    assert_eq!(at(ms(0)), Some("gold"));
    assert_eq!(at(Duration::from_micros(15_999)), Some("gold"));
    assert_eq!(at(ms(16)), None);
    assert_eq!(at(ms(72)), Some("best effort"));
    assert_eq!(at(ms(80)), Some("gold"));
    assert_eq!(at(ms(80 * 1_000_000 + 72)), Some("best effort"));
}

#[test]
fn usage_in_percent_is_rounded_up_to_whole_slots() {
    let execution = |percent| {
        let mut gold = vtm("gold", 40, 16);
        gold.need = Need::Usage(percent);
        let table = Table::new(ms(8), Policy::default(), Placement::default(), &[gold]);
        table.map(|table| drawn(&table))
    };
    assert_eq!(execution(40.0).unwrap(), "gg...");
    assert_eq!(execution(40.1).unwrap(), "ggg..");
    assert_eq!(execution(14.19).unwrap(), "g....");
    assert_eq!(execution(100.0).unwrap(), "ggggg");
    for wrong in [0.0, -1.0, 100.1, f64::NAN, f64::INFINITY] {
        let error = execution(wrong).unwrap_err();
        assert!(matches!(error, TableError::Usage { .. }), "{error}");
    }
}

#[test]
fn a_maximum_delay_moves_the_first_slot_and_no_other() {
    let mut vtms = gold_and_best_effort();
    vtms[1].need = Need::Time(ms(16));
    vtms[1].max_delay = Some(ms(30));
    let of = |placement| {
        let table = Table::new(ms(8), Policy::default(), placement, &vtms);
        drawn(&table.unwrap())
    };
    assert_eq!(of(Placement::HighestAsSoonOthersAsLate), "gg.b.gg..b");
    assert_eq!(of(Placement::AllAsSoon), "ggbb.gg...");
}

fn refused(vtms: &[Vtm]) -> TableError {
    Table::new(ms(8), Policy::default(), Placement::default(), vtms).unwrap_err()
}

#[test]
fn what_is_wrong_is_named_with_its_value_and_what_would_do() {
    assert_eq!(refused(&[]), TableError::NoVtm);
    let twice = refused(&[vtm("a", 40, 8), vtm("a", 80, 8)]);
    assert!(matches!(twice, TableError::NameTaken { .. }));
    let zero = Table::new(ms(0), Policy::default(), Placement::default(), &[]);
    assert_eq!(zero.unwrap_err(), TableError::ZeroSlot);
    let zero = refused(&[vtm("a", 40, 0)]);
    let quantity = Quantity::ExecutionTime;
    assert!(matches!(&zero, TableError::Zero { quantity: q, .. } if *q == quantity));
    assert_eq!(
        refused(&[vtm("a", 40, 12)]).to_string(),
        "the execution time of 'a', 12 ms, is not a multiple of the slot of 8 ms: use 16 ms, or a slot of 4 ms"
    );
    assert_eq!(
        refused(&[vtm("a", 44, 8)]).to_string(),
        "the period of 'a', 44 ms, is not a multiple of the slot of 8 ms: use 48 ms, or a slot of 4 ms"
    );
    assert_eq!(
        refused(&[vtm("a", 40, 48)]).to_string(),
        "the execution time of 'a', 48 ms, is longer than its period: use at most 40 ms"
    );
    let endless = refused(&[vtm("a", 8_000_000_000, 8)]);
    assert!(matches!(endless, TableError::HyperperiodTooLong { .. }));
}

#[test]
fn a_hyperperiod_that_is_too_long_is_refused_with_a_period_that_is_not() {
    let slots = |name, period: u64| vtm(name, period * 8, 8);
    let vtms = [slots("a", 1009), slots("b", 991)];
    let error = refused(&vtms);
    let TableError::HyperperiodTooLong { vtm, nearest, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(vtm, "b");
    assert_eq!(*nearest, Some(ms(1009 * 8)));
    assert!(
        error.to_string().contains("use a period of 8072 ms"),
        "{error}"
    );
    const { assert!(1009 * 991 > MOST_SLOTS) };
}

#[test]
fn a_vtm_that_does_not_fit_is_told_what_would() {
    let error = refused(&[vtm("gold", 40, 24), vtm("best effort", 80, 40)]);
    assert_eq!(
        error.to_string(),
        "'best effort' does not fit: 8 ms of its 40 ms find no free slot in the period from 0 us (all VTMs together take \
         110.0 % of the CPU); the longest execution time that fits is 32 ms"
    );
    // Rate monotonic cannot use more than 83 % here; deadlines can use all.
    let vtms = [vtm("a", 40, 16), vtm("b", 56, 32)];
    let error = refused(&vtms);
    let TableError::DoesNotFit {
        longest,
        fits_by_deadline,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!((*longest, *fits_by_deadline), (Some(ms(24)), true));
    let by_deadline = Policy::EarliestDeadlineFirst;
    assert!(Table::new(ms(8), by_deadline, Placement::default(), &vtms).is_ok());
}

#[test]
fn a_delay_that_cannot_be_held_is_refused_with_the_shortest_that_can() {
    let mut vtms = [vtm("a", 40, 16), vtm("b", 80, 16)];
    vtms[1].max_delay = Some(ms(15));
    let error = refused(&vtms);
    let TableError::Delayed { shortest, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*shortest, ms(16));
    vtms[1].max_delay = Some(ms(16));
    assert!(Table::new(ms(8), Policy::default(), Placement::default(), &vtms).is_ok());
}

#[test]
fn a_refused_adaptation_leaves_the_table_as_it_was() {
    let vtms = gold_and_best_effort();
    let mut table = Table::new(ms(8), Policy::default(), Placement::default(), &vtms).unwrap();
    let before = table.clone();
    for changes in [
        [vtm("gold", 40, 24), vtm("best effort", 80, 40)],
        [vtm("gold", 40, 24), vtm("nobody", 80, 8)],
        [vtm("gold", 40, 24), vtm("best effort", 80, 9)],
    ] {
        assert!(table.adapt(&changes).is_err());
        assert_eq!(table, before);
    }
    table
        .adapt(&[vtm("gold", 40, 32), vtm("best effort", 80, 8)])
        .unwrap();
    assert_eq!(drawn(&table), "gggg.ggggb");
}

/// A VTM in slots: period, execution time, last slot that may be its first.
type Small = (usize, usize, Option<usize>);

fn small() -> impl Strategy<Value = Small> {
    let period = prop::sample::select(vec![2usize, 3, 4, 6, 12]);
    period.prop_flat_map(|period| {
        let delay = prop::option::weighted(0.3, 0..period);
        (Just(period), 1..=period.div_ceil(2), delay)
    })
}

/// The same in slots of 1 ms; a delay is a little longer than it has to be.
fn vtms(all: &[Small]) -> Vec<Vtm> {
    let named = all.iter().enumerate();
    let vtm = |(index, &(period, execution, latest)): (usize, &Small)| Vtm {
        max_delay: latest.map(|latest| ms(latest as u64) + Duration::from_micros(300)),
        ..vtm(&index.to_string(), period as u64, execution as u64)
    };
    named.map(vtm).collect()
}

/// Why a row of slots is not what was asked for.
fn wrong(all: &[Small], slots: &[Option<usize>]) -> Option<String> {
    for (index, &(period, execution, latest)) in all.iter().enumerate() {
        for (number, window) in slots.chunks(period).enumerate() {
            let own: Vec<usize> = (0..window.len())
                .filter(|&at| window[at] == Some(index))
                .collect();
            if own.len() != execution {
                return Some(format!("{index} has {own:?} in its period {number}"));
            }
            if latest.is_some_and(|latest| own[0] > latest) {
                return Some(format!(
                    "{index} begins at {} in its period {number}",
                    own[0]
                ));
            }
        }
    }
    None
}

/// Whether any table exists: all ways to fill 12 slots.
fn exists(
    all: &[Small],
    slot: usize,
    left: &mut [usize],
    dead: &mut HashSet<(usize, Vec<usize>)>,
) -> bool {
    for (job, &(period, execution, _)) in left.iter_mut().zip(all) {
        if slot.is_multiple_of(period) {
            if *job > 0 {
                return false;
            }
            *job = if slot < 12 { execution } else { 0 };
        }
    }
    let late = all
        .iter()
        .zip(left.iter())
        .any(|(&(period, execution, latest), &job)| {
            job == execution && latest.is_some_and(|latest| slot % period > latest)
        });
    if slot == 12 {
        return true;
    }
    if late || dead.contains(&(slot, left.to_vec())) {
        return false;
    }
    for next in 0..=all.len() {
        let mut left = left.to_vec();
        match left.get_mut(next) {
            Some(0) => continue,
            Some(job) => *job -= 1,
            None => {}
        }
        if exists(all, slot + 1, &mut left, dead) {
            return true;
        }
    }
    dead.insert((slot, left.to_vec()));
    false
}

/// Rate monotonic, slot by slot.
fn rate_monotonic(all: &[Small]) -> Vec<Option<usize>> {
    let mut left = vec![0; all.len()];
    let mut slots = Vec::new();
    for slot in 0..12 {
        for (job, &(period, execution, _)) in left.iter_mut().zip(all) {
            if slot % period == 0 {
                *job = execution;
            }
        }
        let pending = (0..all.len()).filter(|&index| left[index] > 0);
        let next = pending.min_by_key(|&index| all[index].0);
        if let Some(next) = next {
            left[next] -= 1;
        }
        slots.push(next);
    }
    slots
}

/// A table, repeated until it has 12 slots.
fn twelve(table: &Table) -> Vec<Option<usize>> {
    table.slots().iter().copied().cycle().take(12).collect()
}

proptest! {
    #[test]
    fn by_deadlines_a_table_is_found_if_and_only_if_there_is_one(
        all in prop::collection::vec(small(), 1..5),
    ) {
        let found = exists(&all, 0, &mut vec![0; all.len()], &mut HashSet::new());
        for placement in soon_and_late() {
            let table = Table::new(ms(1), Policy::EarliestDeadlineFirst, placement, &vtms(&all));
            prop_assert_eq!(table.is_ok(), found, "{:?}", table);
            if let Ok(table) = table {
                prop_assert_eq!(wrong(&all, &twelve(&table)), None, "{}", drawn(&table));
            }
        }
    }

    #[test]
    fn rate_monotonic_refuses_only_what_rate_monotonic_misses(
        all in prop::collection::vec(small(), 1..5),
    ) {
        let expected = rate_monotonic(&all);
        let misses = wrong(&all, &expected);
        for placement in soon_and_late() {
            match Table::new(ms(1), Policy::RateMonotonic, placement, &vtms(&all)) {
                Ok(table) => {
                    prop_assert_eq!(wrong(&all, &twelve(&table)), None, "{}", drawn(&table));
                    if placement == Placement::AllAsSoon {
                        prop_assert_eq!(twelve(&table), expected.clone());
                    }
                }
                Err(error) => prop_assert!(misses.is_some(), "{error}"),
            }
        }
    }

    #[test]
    fn what_would_fit_fits_and_a_slot_more_does_not(
        all in prop::collection::vec(small(), 1..6), by_deadline: bool,
    ) {
        let policy = if by_deadline { Policy::EarliestDeadlineFirst } else { Policy::RateMonotonic };
        let placement = Placement::AllAsSoon;
        let mut vtms = vtms(&all);
        let fits = |vtms: &[Vtm]| Table::new(ms(1), policy, placement, vtms).is_ok();
        let Err(error) = Table::new(ms(1), policy, placement, &vtms) else { return Ok(()) };
        match error {
            TableError::DoesNotFit { vtm, longest: Some(longest), fits_by_deadline, .. } => {
                let edf = Table::new(ms(1), Policy::EarliestDeadlineFirst, placement, &vtms);
                prop_assert_eq!(edf.is_ok(), fits_by_deadline);
                let index: usize = vtm.parse().unwrap();
                vtms[index].need = Need::Time(longest);
                prop_assert!(fits(&vtms));
                vtms[index].need = Need::Time(longest + ms(1));
                prop_assert!(!fits(&vtms));
            }
            TableError::Delayed { vtm, shortest, .. } => {
                let index: usize = vtm.parse().unwrap();
                vtms[index].max_delay = Some(shortest);
                prop_assert!(fits(&vtms));
                vtms[index].max_delay = Some(shortest - ms(1));
                prop_assert!(!fits(&vtms));
            }
            TableError::DoesNotFit { vtm, .. } => {
                let index: usize = vtm.parse().unwrap();
                vtms[index].need = Need::Time(ms(1));
                prop_assert!(!fits(&vtms));
            }
            other => prop_assert!(false, "{}", other),
        }
    }

    #[test]
    fn an_adapted_table_is_the_one_that_would_be_made_anew(
        all in prop::collection::vec(small(), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), small(), any::<bool>()), 1..4),
        by_deadline: bool,
    ) {
        let policy = if by_deadline { Policy::EarliestDeadlineFirst } else { Policy::RateMonotonic };
        for placement in soon_and_late() {
            let Ok(mut table) = Table::new(ms(1), policy, placement, &vtms(&all)) else { continue };
            let mut all = all.clone();
            let mut changed = Vec::new();
            for &(which, (period, execution, latest), same_period) in &changes {
                let index = which.index(all.len());
                let period = if same_period { all[index].0 } else { period };
                all[index] = (period, execution.min(period), latest);
                changed.push(index);
            }
            let new = vtms(&all);
            let changes: Vec<_> = changed.iter().map(|&index| new[index].clone()).collect();
            let anew = Table::new(ms(1), policy, placement, &new);
            let before = table.clone();
            match (table.adapt(&changes), anew) {
                (Ok(()), Ok(anew)) => prop_assert_eq!(table, anew),
                (Err(error), Err(other)) => {
                    prop_assert_eq!(error, other);
                    prop_assert_eq!(table, before);
                }
                (adapted, anew) => prop_assert!(false, "{adapted:?} but {anew:?}"),
            }
        }
    }
}

//! At every message boundary of the control connection, both ways, and all over the streams: cut, stall, corrupt.

use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use super::fixture::{Ended, Guest, OnTape, Try, hasty, run};
use crate::transport::relay::{Fault, Plan};
use crate::wire::Kind;

/// Where something may go wrong: before each message and behind the last one, or, where a byte is to change, in its head and at the end of what it says.
/// Of the pages on the streams, the first and last of a round.
fn places(undisturbed: &Ended, fault: Fault) -> Vec<Plan> {
    let mut places = Vec::new();
    for (&(connection, direction), tape) in &undisturbed.tapes {
        let frames = undisturbed.frames(connection, direction);
        let is_pages = |at: Option<&OnTape>| at.is_some_and(|at| at.kind == Kind::Pages.number());
        let mut add = |after| {
            places.push(Plan {
                connection,
                direction,
                after,
                fault,
            });
        };
        for (index, &OnTape { start, length, .. }) in frames.iter().enumerate() {
            let neighbours = index.wrapping_sub(1)..=index + 1;
            if neighbours.into_iter().all(|at| is_pages(frames.get(at))) {
                continue;
            }
            if fault == Fault::Corrupt {
                add(start + 9);
                add(start + length - 9);
            } else {
                add(start);
            }
        }
        if fault != Fault::Corrupt && !tape.is_empty() {
            add(tape.len() as u64);
        }
    }
    places
}

/// Tries at once: they mostly wait.
const TOGETHER: usize = 8;

/// How many moved, stayed, and stayed after they had been paused.
type Count = [usize; 3];

fn every_place_with(fault: Fault) -> Count {
    let undisturbed = run(&mut Guest::new(), &Try::default());
    undisturbed.assert_moved();
    let places = places(&undisturbed, fault);
    let todo = Mutex::new(places.into_iter());
    let count = Mutex::new(Count::default());
    let next = || todo.lock().unwrap().next();
    thread::scope(|scope| {
        for _ in 0..TOGETHER {
            scope.spawn(|| {
                while let Some(plan) = next() {
                    let index = one(plan);
                    count.lock().unwrap()[index] += 1;
                }
            });
        }
    });
    count.into_inner().unwrap()
}

/// One copy is left. Where it stayed it goes on soon, and a second try brings all of it over.
fn one(plan: Plan) -> usize {
    let mut guest = Guest::new();
    let tried = Try {
        plan: Some(plan),
        patience: hasty(),
        limit: Duration::from_secs(2),
        ..Try::default()
    };
    let ended = run(&mut guest, &tried);
    let what = format!("{plan:?}");
    ended.assert_one(&what);
    if ended.destination_runs {
        return 0;
    }
    let paused = ended.switch_over.map(|times| {
        let stood = times.resumed.expect("who stays goes on");
        let limit = hasty().pause + Duration::from_millis(1500);
        assert!(stood < limit, "{what}: it stood for {stood:?}");
    });
    run(&mut guest, &Try::default()).assert_moved();
    if paused.is_some() { 2 } else { 1 }
}

fn assert_all_met([moved, stayed, paused]: Count) {
    println!("{moved} moved, {stayed} stayed unpaused, {paused} stayed after a pause");
    assert!(
        moved > 0 && stayed > 0 && paused > 0,
        "{moved}, {stayed}, {paused}"
    );
}

#[test]
fn wherever_the_link_is_cut_one_copy_is_left_and_the_next_try_is_right() {
    assert_all_met(every_place_with(Fault::Cut));
}

#[test]
fn wherever_the_link_stalls_the_guest_goes_on_in_time_and_the_next_try_is_right() {
    assert_all_met(every_place_with(Fault::Stall));
}

#[test]
fn whichever_byte_is_changed_one_copy_is_left_and_the_next_try_is_right() {
    assert_all_met(every_place_with(Fault::Corrupt));
}

//! Explores every order in which messages, timeouts, crashes and faults can meet the two state machines of a migration.
//!
//! The machines are those that run; what is around them is a model: one control connection in order, which may break at any time and lose its tail;
//! inquiries between the hosts, which may arrive never, late, in any order and any number of times; processes that may be killed between any two actions;
//! hosts that start anew and forget what was not forced to disk; disks that fail, halfway too; timeouts at any time; an operator who tells the truth.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

#[path = "explorer/act.rs"]
mod act;
#[path = "explorer/moves.rs"]
mod moves;
#[path = "explorer/search.rs"]
mod search;
#[path = "explorer/world.rs"]
mod world;

use search::{Report, explore};
use world::{Broken, Loss};

fn must_find(broken: Broken, wrong: &str) {
    let found = explore(broken).err();
    let Some(found) = found else {
        panic!("{broken:?} is not noticed");
    };
    println!("{broken:?}: {found}");
    assert!(found.to_string().contains(wrong), "{broken:?}: {found}");
}

#[test]
fn whatever_dies_at_most_one_copy_runs_and_exactly_one_is_left() {
    let report = explore(Broken::Nothing).unwrap_or_else(|found| panic!("{found}"));
    let Report {
        states,
        moves,
        ends,
        in_doubt,
        losses,
        ..
    } = &report;
    println!(
        "{states} states, {moves} moves, {ends} ends, {in_doubt} of them waiting for an operator after a host started anew"
    );
    println!("ends without a copy, by why: {losses:?}");
    // The model reaches what it is there for.
    assert!(*states > 10_000, "{states}");
    assert!(report.moved > 0 && report.stayed > 0, "{report:?}");
    for loss in [Loss::OnlyCopyKilled, Loss::OwnerKilled] {
        assert!(losses.contains_key(&loss), "{losses:?}");
    }
}

#[test]
fn a_source_that_does_not_journal_is_noticed() {
    must_find(Broken::SourceWithoutJournal, "no copy is left");
}

#[test]
fn a_destination_that_does_not_journal_is_noticed() {
    must_find(Broken::DestinationWithoutJournal, "an older state runs");
}

#[test]
fn a_destination_that_runs_before_it_journals_is_noticed() {
    must_find(Broken::RunsBeforeWriting, "two copies run");
}

#[test]
fn a_destination_that_runs_without_asking_is_noticed() {
    must_find(Broken::RunsWithoutAsking, "two copies run");
}

#[test]
fn a_source_that_resumes_without_asking_is_noticed() {
    must_find(Broken::ResumesWithoutAsking, "two copies run");
}

#[test]
fn a_source_that_resumes_before_it_erases_its_record_is_noticed() {
    must_find(Broken::ResumesBeforeErasing, "an older state runs");
}

#[test]
fn a_desk_that_answers_for_a_process_that_lives_is_noticed() {
    must_find(Broken::DeskDoesNotLookAtLocks, "no copy is left");
}

#[test]
fn a_host_that_forgot_and_is_believed_is_noticed() {
    must_find(Broken::BootsAreNotCompared, "an older state runs");
}

#[test]
fn a_source_that_never_erases_its_record_is_noticed() {
    must_find(Broken::NeverErases, "an older state runs");
}

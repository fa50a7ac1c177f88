//! Two hosts on loopback: a guest that writes goes over, and whatever happens on the way, one copy is left and runs.

mod callers;
mod cancel;
mod desk;
mod faults;
mod fixture;
mod pause;

use std::time::Duration;

use super::*;
use crate::protocol::{Notice, Outcome};
use crate::wire::Side;
use fixture::{Guest, Try, run};

#[test]
fn a_guest_moves_and_nothing_is_left_of_the_session() {
    let mut guest = Guest::new();
    let ended = run(&mut guest, &Try::over_tls());
    ended.assert_moved();
    let rounds: Vec<u32> = ended.rounds.iter().map(|round| round.round).collect();
    assert_eq!(rounds, [0, 1, 2, 3], "three rounds and the last one");
    let first = &ended.rounds[0];
    assert!(first.pages == fixture::PAGES as u64 && first.bytes > 4096 && !first.elapsed.is_zero());
}

#[test]
fn the_steps_of_the_switch_over_are_told_in_their_order() {
    let ended = run(&mut Guest::new(), &Try::default());
    let times = ended.switch_over.expect("the guest was paused");
    let steps = [
        times.stands,
        times.saved,
        times.last_sent,
        times.prepared,
        times.running,
    ];
    assert!(
        steps.iter().all(Option::is_some) && steps.is_sorted(),
        "{times:?}"
    );
    assert_eq!(times.resumed, None);
}

#[test]
fn the_source_answers_inquiries_no_longer_than_its_session_lasts() {
    let ended = run(&mut Guest::new(), &Try::default());
    let address = ended.answered_at.expect("it answered");
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[test]
fn a_refusal_leaves_the_guest_running_where_it_was() {
    let tried = Try {
        refuse: true,
        ..Try::over_tls()
    };
    let mut guest = Guest::new();
    let ended = run(&mut guest, &tried);
    assert_eq!(ended.source, Some(Outcome::Stayed));
    assert!(ended.source_runs && !ended.destination_runs);
    assert_eq!(ended.switch_over, None, "it was never paused");
    let refused = |notice: &Notice| matches!(notice, Notice::Refused(refuse) if refuse.reason == "no CPU left");
    assert!(ended.notices.iter().any(refused), "{:?}", ended.notices);
    run(&mut guest, &Try::default()).assert_moved();
}

#[test]
fn a_destination_that_cannot_do_its_part_late_gives_the_guest_back() {
    for step in ["hold", "restore", "run"] {
        let mut guest = Guest::new();
        let tried = Try {
            fail: Some((Side::Destination, step)),
            ..Try::default()
        };
        let ended = run(&mut guest, &tried);
        ended.assert_stayed(step);
        assert!(ended.freed, "{step}");
        let told = |notice: &Notice| matches!(notice, Notice::Aborted { reason } if reason.contains("on purpose"));
        assert!(
            ended.notices.iter().any(told),
            "{step}: {:?}",
            ended.notices
        );
        assert_eq!(
            ended.switch_over.is_some(),
            step != "hold",
            "{step}: paused only once the destination has its budget"
        );
        run(&mut guest, &Try::default()).assert_moved();
    }
}

#[test]
fn a_source_that_cannot_do_its_part_keeps_the_guest() {
    for step in ["copy", "pause", "save"] {
        let mut guest = Guest::new();
        let tried = Try {
            fail: Some((Side::Source, step)),
            ..Try::default()
        };
        let ended = run(&mut guest, &tried);
        ended.assert_stayed(step);
        run(&mut guest, &Try::default()).assert_moved();
    }
}

#[test]
fn a_host_knows_its_life() {
    let boot = boot().unwrap();
    assert_eq!(boot, super::boot().unwrap());
    assert_ne!(boot.0, [0; 16]);
}

#[test]
fn who_never_comes_is_not_waited_for_longer_than_was_said() {
    let hosts = fixture::Hosts::new(&Try::default());
    let mut arriving = hosts.arriving(&Guest::new(), &Try::default());
    let limit = Duration::from_millis(50);
    let received = hosts
        .arrival
        .receive(&hosts.listener, &mut arriving, limit)
        .unwrap();
    assert_eq!(received, None);
}

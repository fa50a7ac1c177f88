//! Cancelled at each phase, by either side; and what an operator says to sessions in doubt.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::{DestinationSide, Guest, Hosts, SESSION, SOURCE, Step, Try, run, transport};
use crate::drive::inquire;
use crate::protocol::{DestinationEvent, Notice, Outcome, SourceEvent, Word};
use crate::transport::Security;
use crate::transport::relay::{Direction, Fault, Relay};
use crate::wire::Side::{self, Destination, Source};
use crate::wire::{Inquire, Kind, Standing};

/// Until here a guest that is cancelled stays: what comes later may be too late.
const EARLY: [Step; 6] = [
    (Destination, "admit"),
    (Source, "copy"),
    (Source, "first round"),
    (Source, "later round"),
    (Source, "switch"),
    (Destination, "hold"),
];
const LATE: [Step; 5] = [
    (Source, "pause"),
    (Source, "save"),
    (Destination, "restore"),
    (Destination, "run"),
    (Source, "let go"),
];

fn cancelled(at: Step, by: Side) -> bool {
    let mut guest = Guest::new();
    let tried = Try {
        cancel: Some((at, by)),
        ..Try::default()
    };
    let what = format!("{at:?} by {by:?}");
    let ended = run(&mut guest, &tried);
    ended.assert_one(&what);
    if ended.destination_runs {
        return false;
    }
    let cancelled = |notice: &Notice| matches!(notice, Notice::Aborted { reason } if reason.contains("cancelled"));
    assert!(
        ended.notices.iter().any(cancelled),
        "{what}: {:?}",
        ended.notices
    );
    run(&mut guest, &Try::default()).assert_moved();
    true
}

#[test]
fn whoever_cancels_before_the_pause_leaves_the_guest_where_it_was() {
    thread::scope(|scope| {
        for at in EARLY {
            for by in [Source, Destination] {
                scope.spawn(move || assert!(cancelled(at, by), "{at:?} by {by:?}"));
            }
        }
    });
}

#[test]
fn whoever_cancels_later_gets_one_copy_whichever() {
    let stayed: usize = thread::scope(|scope| {
        let tries = LATE.into_iter().flat_map(|at| {
            [Source, Destination].map(|by| scope.spawn(move || usize::from(cancelled(at, by))))
        });
        let tries: Vec<_> = tries.collect();
        tries.into_iter().map(|tried| tried.join().unwrap()).sum()
    });
    assert!(
        (1..10).contains(&stayed),
        "{stayed} of 10 stayed: before the decision they do, after it not"
    );
}

#[test]
fn waiting_for_a_guest_can_be_ended() {
    let hosts = Hosts::new(&Try::default());
    let mut arriving = hosts.arriving(&Guest::new(), &Try::default());
    let remote = hosts.arrival.remote.clone();
    assert!(!remote.hand_in(DestinationEvent::Cancel), "nobody receives");
    let begun = Instant::now();
    let received = thread::scope(|scope| {
        scope.spawn(|| {
            while !remote.hand_in(DestinationEvent::Cancel) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        let limit = Duration::from_secs(60);
        hosts
            .arrival
            .receive(&hosts.listener, &mut arriving, limit)
            .unwrap()
    });
    assert_eq!(received, None);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

/// Where the session stands there.
fn stands(destination: SocketAddr) -> Option<Standing> {
    let question = Inquire {
        session: SESSION,
        from: Source,
        standing: Standing::Open,
        boot: SOURCE,
    };
    let address = destination.to_string();
    let answer = inquire(&address, None, &Security::Plain, &transport(), question);
    answer.ok().map(|peer| peer.standing)
}

/// `Commit` is lost, and neither side reaches the other: both are in doubt until an operator tells the destination what it is to do, and the source the
/// contrary.
fn told(word: Word) -> (Option<Outcome>, Option<Outcome>) {
    let tried = Try {
        answers: false,
        ..Try::default()
    };
    let undisturbed = run(&mut Guest::new(), &tried);
    undisturbed.assert_moved();
    let plan = undisturbed.within(Direction::FromCaller, Kind::Commit, Fault::Cut);
    let (mut guest, hosts) = (Guest::new(), Hosts::new(&tried));
    let relay = Relay::start(hosts.listener.address(), Some(plan)).unwrap();
    let (mut arriving, mut nobody) = (
        hosts.arriving(&guest, &tried),
        hosts.arriving(&guest, &tried),
    );
    let remote = &hosts.arrival.remote;
    let receive = |host: &mut DestinationSide| {
        let receiving = hosts
            .arrival
            .receive(&hosts.listener, host, Duration::from_secs(20));
        receiving.unwrap()
    };
    let (departed, received) = thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            let outcome = receive(&mut arriving);
            // From now on this host answers from its folder.
            assert_eq!(receive(&mut nobody), None);
            outcome
        });
        let departing = scope.spawn(|| hosts.depart(&mut guest, relay.address(), &tried));
        while stands(hosts.listener.address()) != Some(Standing::Prepared) {
            thread::sleep(Duration::from_millis(5));
        }
        // Until both have noticed that their connection is lost.
        thread::sleep(Duration::from_millis(200));
        let waits = !departing.is_finished() && remote.hand_in(DestinationEvent::Cancel);
        remote.hand_in(DestinationEvent::Word(word));
        let other = match word {
            Word::Run => Word::Discard,
            Word::Discard => Word::Run,
        };
        hosts.tell_source(&SourceEvent::Word(other));
        let mut somebody = hosts.arriving(&Guest::new(), &tried);
        scope.spawn({
            let hosts = &hosts;
            move || hosts.keep_desk(&mut somebody)
        });
        let departed = departing.join().unwrap();
        while !receiving.is_finished() {
            // What is not over yet is not ended by it.
            (hosts.files() == 0).then(|| remote.hand_in(DestinationEvent::Cancel));
            thread::sleep(Duration::from_millis(5));
        }
        hosts.desk.remote.hand_in(DestinationEvent::Cancel);
        assert!(waits, "both sides wait");
        (departed, receiving.join().unwrap())
    });
    let too_late = arriving.notices.contains(&Notice::TooLate);
    assert!(too_late, "{:?}", arriving.notices);
    assert_eq!(arriving.machine.runs(), word == Word::Run);
    assert_eq!(hosts.files(), 0, "the desk erases what the source leaves");
    assert_ne!(guest.machine.runs(), arriving.machine.runs());
    (departed.outcome, received)
}

#[test]
fn an_operators_words_end_the_doubt_of_both_sides() {
    let (moved, stayed) = (Some(Outcome::Moved), Some(Outcome::Stayed));
    thread::scope(|scope| {
        scope.spawn(|| assert_eq!(told(Word::Run), (moved, moved)));
        scope.spawn(|| assert_eq!(told(Word::Discard), (stayed, stayed)));
    });
}

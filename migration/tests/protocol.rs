//! The state machines one at a time: the order of what they do, what they say when something is wrong, and how a session goes that nothing disturbs.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::time::Duration;

use migration::protocol::desk::{Peer, Settled, settle};
use migration::protocol::{
    Destination, DestinationAction, DestinationEvent, DestinationSetup, Notice, Outcome, Patience,
    Record, Source, SourceAction, SourceEvent, SourceSetup,
};
use migration::ram::Part;
use migration::wire::{
    Accept, Boot, Digest, Hello, Message, Offer, Prepare, SPOKEN, Session, Side, Standing, Token,
    Version, Versions,
};

const SOURCE_BOOT: Boot = Boot([1; 16]);
const DESTINATION_BOOT: Boot = Boot([2; 16]);
const SESSION: Session = Session([3; 16]);

fn offer() -> Offer {
    Offer {
        spec: b"spec".to_vec(),
        memory_bytes: 1 << 20,
        downtime_ns: 1,
        finish_ns: 2,
        confidence_ppm: 950_000,
        streams: 2,
        features: 0,
        boot: SOURCE_BOOT,
        inquiries: "source".to_owned(),
    }
}

fn accept(streams: u16) -> Accept {
    Accept {
        token: Token([9; 16]),
        streams,
        features: 0,
        boot: DESTINATION_BOOT,
        inquiries: "destination".to_owned(),
        facts: Vec::new(),
    }
}

fn hello(least: u16, greatest: u16) -> Message {
    Message::Hello(Hello {
        versions: Versions {
            least: Version(least),
            greatest: Version(greatest),
        },
        session: SESSION,
        name: "guest".to_owned(),
    })
}

fn source() -> Source {
    let setup = SourceSetup {
        session: SESSION,
        name: "guest".to_owned(),
        versions: SPOKEN,
        offer: offer(),
        patience: Patience::default(),
    };
    let (source, first) = Source::start(setup);
    assert_eq!(first, [SourceAction::Send(hello(1, 1))]);
    source
}

fn destination() -> Destination {
    Destination::start(DestinationSetup {
        versions: SPOKEN,
        patience: Patience::default(),
    })
}

fn prepare() -> Prepare {
    Prepare {
        round: 2,
        parts: 1,
        digest: Digest(5),
    }
}

fn part() -> Part {
    Part {
        kind: "vcpu".to_owned(),
        version: 1,
        bytes: vec![1],
    }
}

/// What brings a source to the decision, step by step.
fn source_path() -> Vec<SourceEvent> {
    let received = SourceEvent::Received;
    vec![
        received(hello(1, 1)),
        received(Message::Accept(accept(2))),
        SourceEvent::RoundSent { round: 0 },
        received(Message::RoundDone { round: 0 }),
        SourceEvent::RoundSent { round: 1 },
        received(Message::RoundDone { round: 1 }),
        SourceEvent::SwitchNow,
        received(Message::SwitchReady),
        SourceEvent::LastSent(prepare()),
        received(Message::Prepared),
    ]
}

fn destination_path() -> Vec<DestinationEvent> {
    let received = DestinationEvent::Received;
    vec![
        received(hello(1, 1)),
        received(Message::Offer(offer())),
        DestinationEvent::Admitted(accept(2)),
        DestinationEvent::RoundReceived { round: 0 },
        DestinationEvent::RoundReceived { round: 1 },
        received(Message::Switch),
        received(Message::Part(part())),
        received(Message::Prepare(prepare())),
        DestinationEvent::Restored,
        received(Message::Commit),
        DestinationEvent::Started,
    ]
}

fn source_after(steps: usize) -> Source {
    let mut source = source();
    for event in source_path().into_iter().take(steps) {
        let _ = source.handle(event);
    }
    source
}

fn destination_after(steps: usize) -> Destination {
    let mut destination = destination();
    for event in destination_path().into_iter().take(steps) {
        let _ = destination.handle(event);
    }
    destination
}

fn record(side: Side) -> Record {
    let (peer, peer_boot) = match side {
        Side::Source => ("destination", DESTINATION_BOOT),
        Side::Destination => ("source", SOURCE_BOOT),
    };
    Record {
        session: SESSION,
        side,
        name: "guest".to_owned(),
        peer: peer.to_owned(),
        peer_boot,
    }
}

#[test]
fn a_source_that_nothing_disturbs_does_its_work_in_order() {
    let mut source = source();
    let done: Vec<SourceAction> = source_path()
        .into_iter()
        .flat_map(|event| source.handle(event))
        .collect();
    assert_eq!(
        done,
        [
            SourceAction::Agree(Version(1)),
            SourceAction::Send(Message::Offer(offer())),
            SourceAction::Copy(accept(2)),
            SourceAction::RoundDone { round: 0 },
            SourceAction::RoundDone { round: 1 },
            SourceAction::Send(Message::Switch),
            SourceAction::Journal(record(Side::Source)),
            SourceAction::Pause,
            SourceAction::SendLast,
            SourceAction::Send(Message::Prepare(prepare())),
            SourceAction::Send(Message::Commit),
        ]
    );
    assert_eq!(
        source.handle(SourceEvent::Received(Message::Running)),
        [
            SourceAction::LetGo,
            SourceAction::Erase,
            SourceAction::Send(Message::Done),
            SourceAction::Close,
            SourceAction::End(Outcome::Moved),
        ]
    );
}

#[test]
fn a_destination_that_nothing_disturbs_does_its_work_in_order() {
    let mut destination = destination();
    let done: Vec<DestinationAction> = destination_path()
        .into_iter()
        .flat_map(|event| destination.handle(event))
        .collect();
    let send = DestinationAction::Send;
    assert_eq!(
        done,
        [
            send(hello(1, 1)),
            DestinationAction::Agree(Version(1)),
            DestinationAction::Admit(offer()),
            DestinationAction::Claim(SESSION),
            DestinationAction::Receive,
            send(Message::Accept(accept(2))),
            send(Message::RoundDone { round: 0 }),
            send(Message::RoundDone { round: 1 }),
            DestinationAction::Hold,
            send(Message::SwitchReady),
            DestinationAction::Keep(part()),
            DestinationAction::Restore(prepare()),
            send(Message::Prepared),
            DestinationAction::Journal(record(Side::Destination)),
            DestinationAction::Run,
            send(Message::Running),
            DestinationAction::Persist,
        ]
    );
    assert_eq!(
        destination.handle(DestinationEvent::Received(Message::Done)),
        [
            DestinationAction::Erase,
            DestinationAction::Close,
            DestinationAction::Unclaim,
            DestinationAction::End(Outcome::Moved),
        ]
    );
}

/// In every state a timeout, a lost connection, a cancel and a message out of turn lead back to a guest that runs at the source, until it is decided.
#[test]
fn until_the_decision_everything_that_goes_wrong_leaves_the_guest_with_the_source() {
    let lost = || SourceEvent::Lost {
        reason: "reset by peer".to_owned(),
    };
    let wrong = [
        SourceEvent::Timeout,
        lost(),
        SourceEvent::Cancel,
        SourceEvent::Received(Message::Done),
        SourceEvent::Failed {
            reason: "no space left".to_owned(),
        },
    ];
    let decision = source_path().len();
    for steps in 0..decision {
        for event in wrong.clone() {
            let mut source = source_after(steps);
            assert!(source.patience() > Duration::ZERO);
            let actions = source.handle(event.clone());
            assert_eq!(
                actions.last(),
                Some(&SourceAction::End(Outcome::Stayed)),
                "{event:?} after {steps} steps"
            );
            let erases = actions.iter().position(|a| *a == SourceAction::Erase);
            let resumes = actions.iter().position(|a| *a == SourceAction::Resume);
            assert_eq!(
                erases.is_some(),
                steps >= 8,
                "{event:?} after {steps} steps"
            );
            assert!(erases <= resumes);
        }
    }
    for event in wrong {
        let mut source = source_after(decision);
        let actions = source.handle(event.clone());
        assert!(!actions.contains(&SourceAction::Resume), "{event:?}");
        assert!(!actions.contains(&SourceAction::Erase), "{event:?}");
    }
}

#[test]
fn a_destination_frees_everything_until_it_is_prepared_and_then_nothing_on_its_own() {
    let lost = || DestinationEvent::Lost {
        reason: "reset by peer".to_owned(),
    };
    let wrong = [
        DestinationEvent::Timeout,
        lost(),
        DestinationEvent::Received(Message::Done),
    ];
    for steps in 0..=9 {
        for event in wrong.clone() {
            let mut destination = destination_after(steps);
            assert!(destination.patience() > Duration::ZERO);
            let actions = destination.handle(event.clone());
            let frees = actions.contains(&DestinationAction::Free);
            assert_eq!(frees, steps < 9, "{event:?} after {steps} steps");
            assert!(!actions.contains(&DestinationAction::Run));
            let asks = DestinationAction::Inquire(Standing::Prepared);
            assert_eq!(actions.contains(&asks), steps == 9);
        }
    }
}

#[test]
fn what_is_wrong_is_said_with_what_was_got_and_expected() {
    let reason = |actions: Vec<SourceAction>| match actions.first() {
        Some(SourceAction::Report(Notice::Aborted { reason })) => reason.clone(),
        other => panic!("{other:?}"),
    };
    let said = reason(source_after(1).handle(SourceEvent::Received(Message::Prepared)));
    assert_eq!(
        said,
        "the destination said Prepared, expected Accept or Refuse"
    );
    let said = reason(source_after(9).handle(SourceEvent::Timeout));
    assert_eq!(said, "expected Prepared: nothing came for 2s");
    let said = reason(source_after(0).handle(SourceEvent::Received(hello(2, 3))));
    assert!(said.ends_with("update this host"), "{said}");
    let three = Message::Accept(accept(3));
    let said = reason(source_after(1).handle(SourceEvent::Received(three)));
    assert_eq!(said, "the destination takes 3 streams, expected 1 to 2");
    let late = SourceEvent::Received(Message::RoundDone { round: 7 });
    let said = reason(source_after(3).handle(late));
    assert!(
        said.contains("expected RoundDone of the round that was sent"),
        "{said}"
    );
}

#[test]
fn a_peer_without_a_common_version_is_refused_in_words_that_it_can_read() {
    let actions = destination().handle(DestinationEvent::Received(hello(2, 3)));
    let refusal = actions.iter().find_map(|action| match action {
        DestinationAction::Send(Message::Refuse(refuse)) => Some(refuse.reason.clone()),
        _ => None,
    });
    assert!(refusal.unwrap().contains("speaks version 2 to 3"));
}

#[test]
fn a_destination_that_lost_the_source_runs_only_once_it_knows() {
    let boot = SOURCE_BOOT;
    let told = |standing, boot| {
        let mut destination = destination_after(9);
        let _ = destination.handle(DestinationEvent::Timeout);
        destination.handle(DestinationEvent::Peer(Peer { standing, boot }))
    };
    for standing in [Standing::Committed, Standing::Orphaned] {
        assert!(told(standing, boot).contains(&DestinationAction::Run));
    }
    assert_eq!(told(Standing::Open, boot), []);
    assert!(told(Standing::Nothing, boot).contains(&DestinationAction::Free));
    let restarted = told(Standing::Nothing, Boot([8; 16]));
    assert_eq!(restarted, [DestinationAction::Report(Notice::InDoubt)]);
}

#[test]
fn a_committed_source_goes_back_only_once_it_knows_that_the_guest_never_ran() {
    let told = |standing, boot| {
        let mut source = source_after(10);
        assert_eq!(source.standing(), Standing::Committed);
        let asks = source.handle(SourceEvent::Timeout);
        assert!(asks.contains(&SourceAction::Inquire(Standing::Committed)));
        source.handle(SourceEvent::Peer(Peer { standing, boot }))
    };
    let resumes = |actions: Vec<SourceAction>| actions.contains(&SourceAction::Resume);
    assert!(resumes(told(Standing::Nothing, DESTINATION_BOOT)));
    assert!(resumes(told(Standing::Declined, DESTINATION_BOOT)));
    assert_eq!(told(Standing::Prepared, DESTINATION_BOOT), []);
    let restarted = told(Standing::Nothing, Boot([8; 16]));
    assert_eq!(restarted, [SourceAction::Report(Notice::InDoubt)]);
    assert!(told(Standing::Running, DESTINATION_BOOT).contains(&SourceAction::LetGo));
}

#[test]
fn a_desk_keeps_a_dead_side_s_record_until_the_other_side_needs_it_no_more() {
    let peer = |standing| {
        Some(Peer {
            standing,
            boot: SOURCE_BOOT,
        })
    };
    let kept = Settled::Kept(Standing::Orphaned);
    assert_eq!(settle(Side::Source, None), kept);
    assert_eq!(settle(Side::Source, peer(Standing::Open)), kept);
    assert_eq!(settle(Side::Source, peer(Standing::Prepared)), kept);
    assert_eq!(settle(Side::Source, peer(Standing::Declined)), kept);
    assert_eq!(settle(Side::Source, peer(Standing::Running)), Settled::Over);
    assert_eq!(settle(Side::Source, peer(Standing::Nothing)), Settled::Lost);
    let kept = Settled::Kept(Standing::Running);
    assert_eq!(settle(Side::Destination, None), kept);
    assert_eq!(settle(Side::Destination, peer(Standing::Committed)), kept);
    let over = settle(Side::Destination, peer(Standing::Nothing));
    assert_eq!(over, Settled::Over);
    assert_eq!(over.standing(), Standing::Nothing);
}

#[test]
fn a_disk_that_does_not_write_keeps_the_guest_standing_until_it_does() {
    let mut source = source_after(9);
    let _ = source.handle(SourceEvent::Cancel);
    let stuck = source.handle(SourceEvent::Failed {
        reason: "no space left".to_owned(),
    });
    assert!(matches!(
        stuck.as_slice(),
        [SourceAction::Report(Notice::Stuck { .. })]
    ));
    let again = source.handle(SourceEvent::Timeout);
    assert_eq!(again[..2], [SourceAction::Erase, SourceAction::Resume]);
}

#[test]
fn a_round_may_be_acknowledged_before_its_sender_has_said_that_it_is_sent() {
    let mut source = source_after(2);
    let done = |round| SourceEvent::Received(Message::RoundDone { round });
    assert_eq!(source.handle(done(0)), []);
    assert_eq!(
        source.handle(SourceEvent::RoundSent { round: 0 }),
        [SourceAction::RoundDone { round: 0 }]
    );
    assert_eq!(source.handle(SourceEvent::RoundSent { round: 1 }), []);
    assert_eq!(
        source.handle(done(1)),
        [SourceAction::RoundDone { round: 1 }]
    );
    // But not twice, and not another round's.
    assert_eq!(source.handle(done(2)), []);
    for round in [2, 3] {
        let mut source = source.clone();
        let actions = source.handle(done(round));
        assert!(
            actions.contains(&SourceAction::End(Outcome::Stayed)),
            "{actions:?}"
        );
    }
}

#[test]
fn a_destination_keeps_no_more_parts_than_a_state_has() {
    let mut destination = destination();
    for event in destination_path().into_iter().take(6) {
        let _ = destination.handle(event);
    }
    let mut part = || destination.handle(DestinationEvent::Received(Message::Part(part())));
    let kept = (0..).take_while(|_| matches!(part()[..], [DestinationAction::Keep(_)]));
    assert_eq!(kept.count(), 1024);
}

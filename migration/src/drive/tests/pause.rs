//! However slow the other side is, a guest that may still stay does not stand for longer than was said.

use std::time::{Duration, Instant};

use super::fixture::{Guest, Try, patience, run};
use crate::protocol::{Notice, Patience};
use crate::transport::relay::{Direction, Fault, Plan};
use crate::wire::Kind;

/// Everything but the pause has all the time in the world.
fn patient() -> Patience {
    Patience {
        pause: Duration::from_millis(150),
        ..patience()
    }
}

fn stood(plan: Plan, part_bytes: usize) -> Duration {
    let mut guest = Guest::new();
    let tried = Try {
        plan: Some(plan),
        patience: patient(),
        part_bytes,
        ..Try::default()
    };
    let begun = Instant::now();
    let ended = run(&mut guest, &tried);
    ended.assert_stayed(&format!("{plan:?}"));
    assert!(begun.elapsed() < Duration::from_secs(15), "{plan:?}");
    let why = |notice: &Notice| matches!(notice, Notice::Aborted { reason } if reason.contains("has stood for 150ms"));
    assert!(ended.notices.iter().any(why), "{:?}", ended.notices);
    run(&mut guest, &Try::default()).assert_moved();
    let times = ended.switch_over.expect("it was paused");
    times.resumed.expect("it goes on")
}

/// From this message on bytes only trickle.
fn trickle(direction: Direction, kind: Kind) -> Plan {
    let undisturbed = run(&mut Guest::new(), &Try::default());
    undisturbed.assert_moved();
    undisturbed.within(direction, kind, Fault::Trickle)
}

#[test]
fn a_destination_that_takes_the_state_byte_by_byte_does_not_hold_the_guest() {
    let plan = trickle(Direction::FromCaller, Kind::Part);
    // Little enough for the kernel's buffers: the source waits for an answer. So much that it waits in its own write.
    for part_bytes in [70_000, 16 << 20] {
        let stood = stood(plan, part_bytes);
        assert!(
            stood < Duration::from_millis(1500),
            "{part_bytes}: {stood:?}"
        );
    }
}

#[test]
fn a_destination_that_answers_byte_by_byte_does_not_hold_the_guest() {
    let plan = trickle(Direction::ToCaller, Kind::Prepared);
    let stood = stood(plan, 70_000);
    assert!(stood < Duration::from_millis(1500), "{stood:?}");
}

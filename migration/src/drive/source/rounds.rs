//! The thread that sends the rounds.

use std::sync::mpsc::{Receiver, Sender};

use super::{Incoming, Planner, Step, failure};
use crate::precopy::{Precopy, Progress};
use crate::protocol::SourceEvent;

/// What it is told after each round.
pub(super) enum Go {
    /// The round is in the destination's memory: on.
    Next,
    /// The guest stands: the last one.
    Last,
}

/// Sends rounds as the planner says, until the last one or until nobody wants any.
pub(super) fn send(
    mut precopy: Precopy<'_>,
    mut planner: Box<dyn Planner>,
    orders: &Receiver<Go>,
    tell: &Sender<Incoming>,
) {
    let say = |incoming| {
        // After the session's end nobody listens.
        let _ = tell.send(incoming);
    };
    let mut bytes = 0;
    let mut alive = |progress: &Progress| {
        // A round that takes its time without getting on is not alive.
        if std::mem::replace(&mut bytes, progress.bytes) != progress.bytes {
            say(Incoming::Alive(*progress));
        }
    };
    let mut last = None;
    loop {
        let sent = precopy
            .dirty()
            .and_then(|dirty| match planner.next(&dirty, last.as_ref()) {
                Step::Round(classes) => precopy.round(&classes, &mut alive).map(Some),
                Step::Switch => Ok(None),
            });
        match sent {
            Ok(Some(sent)) => {
                say(Incoming::Round(sent.progress));
                last = Some(sent);
            }
            Ok(None) => say(Incoming::Event(SourceEvent::SwitchNow)),
            Err(error) => {
                let reason = failure(&error);
                return say(Incoming::Event(SourceEvent::Lost { reason }));
            }
        }
        match orders.recv() {
            Ok(Go::Next) => {}
            Ok(Go::Last) => break,
            Err(_) => return,
        }
    }
    match precopy.last_round(&mut |_| {}) {
        Ok(sent) => say(Incoming::Last(sent)),
        Err(error) => {
            let reason = failure(&error);
            return say(Incoming::Event(SourceEvent::Lost { reason }));
        }
    }
    // The streams stay until the session closes them.
    let _ = orders.recv();
}

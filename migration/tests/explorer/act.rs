//! What the two processes' actions do to the world.

use migration::protocol::{DestinationAction, DestinationEvent, SourceAction, SourceEvent};
use migration::ram::Part;
use migration::wire::{Accept, Digest, Message, Prepare, Refuse, Token};

use super::world::{Copy, File, Owner, Side2, World};

/// How an action goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Well,
    /// It fails and nothing has changed.
    Fails,
    /// It fails, and yet part of it is done.
    FailsHalfway,
}

pub const ALL: [Fate; 3] = [Fate::Well, Fate::Fails, Fate::FailsHalfway];

fn failed(what: &str) -> String {
    format!("{what} failed")
}

fn part() -> Part {
    Part {
        kind: "guest".to_owned(),
        version: 1,
        bytes: Vec::new(),
    }
}

/// Does the source's next action; `None` where it cannot go this way.
pub fn source(world: &World, fate: Fate) -> Option<World> {
    let mut next = world.clone();
    let process = next.source.as_mut()?;
    let action = process.todo.pop_front()?;
    if fate != Fate::Well {
        return fail_source(next, &action, fate);
    }
    match action {
        SourceAction::Send(message) => {
            if process.open && next.connection {
                next.to_destination.push_back(message);
            }
        }
        SourceAction::Copy(_) => process
            .coming
            .push_back(SourceEvent::RoundSent { round: 0 }),
        SourceAction::RoundDone { .. } => process.coming.push_back(SourceEvent::SwitchNow),
        SourceAction::Journal(_) => {
            next.source_host.file = File {
                written: true,
                on_disk: true,
            };
        }
        SourceAction::Erase => erase(&mut next, Side2::Source),
        SourceAction::Pause => next.source_host.copy.as_mut()?.runs = false,
        SourceAction::SendLast => send_last(&mut next)?,
        SourceAction::Resume => next.run(Side2::Source),
        SourceAction::LetGo => next.source_host.copy = None,
        SourceAction::Close => {
            process.open = false;
            process.coming.clear();
            next.connection = false;
            next.to_source.clear();
        }
        SourceAction::Inquire(standing) => next.post(Side2::Destination, true, standing),
        SourceAction::End(outcome) => {
            process.ended = Some(outcome);
            process.coming.clear();
        }
        SourceAction::Agree(_) | SourceAction::Report(_) => {}
    }
    Some(next)
}

fn send_last(next: &mut World) -> Option<()> {
    let age = next.source_host.copy?.age;
    let process = next.source.as_mut()?;
    if process.open && next.connection {
        next.to_destination.push_back(Message::Part(part()));
    }
    process.coming.push_back(SourceEvent::LastSent(Prepare {
        round: 1,
        parts: 1,
        digest: Digest(age.into()),
    }));
    Some(())
}

fn fail_source(mut next: World, action: &SourceAction, fate: Fate) -> Option<World> {
    let halfway = fate == Fate::FailsHalfway;
    match action {
        SourceAction::Journal(_) => next.source_host.file.written |= halfway,
        SourceAction::Erase if next.source_host.file.written => {
            if halfway {
                let on_disk = next.source_host.file.on_disk;
                erase(&mut next, Side2::Source);
                next.source_host.file.on_disk = on_disk;
            }
        }
        SourceAction::Pause | SourceAction::SendLast if !halfway => {}
        _ => return None,
    }
    let process = next.source.as_mut()?;
    process.todo.clear();
    process.coming.push_front(SourceEvent::Failed {
        reason: failed("it"),
    });
    Some(next)
}

fn erase(next: &mut World, side: Side2) {
    let whole = |copy: Option<Copy>| copy.is_some_and(|copy| copy.complete);
    next.host(side).file = File::default();
    // A source that erases its record with the guest still in its hands goes on; a destination that does so hands it back.
    match side {
        Side2::Source if whole(next.source_host.copy) => next.owner = Owner::Source,
        Side2::Destination
            if next.owner == Owner::Destination
                && !next.destination_host.copy.is_some_and(|copy| copy.runs) =>
        {
            next.owner = Owner::Undecided;
        }
        _ => {}
    }
}

/// Does the destination's next action; `None` where it cannot go this way.
pub fn destination(world: &World, fate: Fate) -> Option<World> {
    let mut next = world.clone();
    let process = next.destination.as_mut()?;
    let action = process.todo.pop_front()?;
    if fate != Fate::Well {
        return fail_destination(next, &action, fate);
    }
    match action {
        DestinationAction::Send(message) => {
            if process.open && next.connection {
                next.to_source.push_back(message);
            }
        }
        DestinationAction::Admit(_) => process
            .coming
            .push_back(DestinationEvent::Admitted(accept())),
        DestinationAction::Receive => {
            next.destination_host.copy = Some(Copy {
                age: 0,
                runs: false,
                complete: false,
            });
        }
        DestinationAction::Restore(prepare) => {
            let copy = next.destination_host.copy.as_mut()?;
            copy.age = u8::try_from(prepare.digest.0).ok()?;
            process.coming.push_back(DestinationEvent::Restored);
        }
        DestinationAction::Journal(_) => {
            next.destination_host.file.written = true;
            next.owner = Owner::Destination;
        }
        DestinationAction::Run => {
            process.coming.push_back(DestinationEvent::Started);
            next.run(Side2::Destination);
        }
        DestinationAction::Persist => {
            next.destination_host.file.on_disk = next.destination_host.file.written;
        }
        DestinationAction::Erase => erase(&mut next, Side2::Destination),
        DestinationAction::Free => next.destination_host.copy = None,
        DestinationAction::Close => {
            process.open = false;
            next.connection = false;
            next.to_destination.clear();
        }
        DestinationAction::Inquire(standing) => next.post(Side2::Source, true, standing),
        DestinationAction::End(outcome) => {
            process.ended = Some(outcome);
            process.coming.clear();
        }
        DestinationAction::Agree(_)
        | DestinationAction::Report(_)
        | DestinationAction::Claim(_)
        | DestinationAction::Unclaim
        | DestinationAction::Hold
        | DestinationAction::Keep(_) => {}
    }
    Some(next)
}

fn accept() -> Accept {
    Accept {
        token: Token([7; 16]),
        streams: 1,
        features: 0,
        boot: migration::wire::Boot([0; 16]),
        inquiries: "d".to_owned(),
        facts: Vec::new(),
    }
}

fn fail_destination(mut next: World, action: &DestinationAction, fate: Fate) -> Option<World> {
    let halfway = fate == Fate::FailsHalfway;
    let file = &mut next.destination_host.file;
    let mut event = DestinationEvent::Failed {
        reason: failed("it"),
    };
    match action {
        DestinationAction::Journal(_) if halfway => {
            file.written = true;
            next.owner = Owner::Destination;
        }
        DestinationAction::Journal(_) => {}
        DestinationAction::Erase if file.written && halfway => {
            let on_disk = file.on_disk;
            erase(&mut next, Side2::Destination);
            next.destination_host.file.on_disk = on_disk;
        }
        DestinationAction::Erase if file.written => {}
        DestinationAction::Persist => {
            file.on_disk = file.written && halfway;
            return Some(next);
        }
        DestinationAction::Admit(_) if !halfway => {
            event = DestinationEvent::Refused(Refuse {
                reason: failed("admission"),
                nearest: Vec::new(),
            });
        }
        DestinationAction::Hold | DestinationAction::Restore(_) | DestinationAction::Run
            if !halfway => {}
        _ => return None,
    }
    let process = next.destination.as_mut()?;
    process.todo.clear();
    process.coming.push_front(event);
    Some(next)
}

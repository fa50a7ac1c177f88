//! Messages over connections that are good, and over others.

use super::*;
use crate::ram::Part;
use crate::wire::Message;

fn framed(tls: bool, plan: Option<Plan>) -> (Framed, Framed) {
    let (caller, called) = good(plan, tls);
    (Framed::new(caller), Framed::new(called))
}

fn heard(framed: &mut Framed) -> Option<Message> {
    match framed.hear(Duration::from_secs(1)).unwrap()? {
        Received::Message(message) => Some(message),
        Received::Pages(..) => panic!("no pages were sent"),
    }
}

#[test]
fn messages_small_and_large_arrive() {
    for tls in [true, false] {
        let (mut caller, mut called) = framed(tls, None);
        let part = Message::Part(Part {
            kind: "vcpu".into(),
            version: 3,
            bytes: vec![5; 3 << 20],
        });
        let messages = [
            Message::Switch,
            part,
            Message::SwitchReady,
            Message::Prepared,
        ];
        thread::scope(|scope| {
            scope.spawn(|| {
                messages
                    .iter()
                    .for_each(|message| caller.say(message).unwrap());
                caller.connection().close().unwrap();
            });
            for message in &messages {
                assert_eq!(heard(&mut called).as_ref(), Some(message));
            }
            assert_eq!(heard(&mut called), None);
        });
    }
}

#[test]
fn silence_has_an_end_and_can_be_waited_out() {
    let (mut caller, mut called) = framed(true, None);
    let error = called.hear(Duration::from_millis(30)).unwrap_err();
    assert!(
        matches!(
            error,
            TransportError::Stalled {
                what: "say anything",
                ..
            }
        ),
        "{error:?}"
    );
    caller.say(&Message::Switch).unwrap();
    assert_eq!(
        heard(&mut called),
        Some(Message::Switch),
        "the connection is still good"
    );
}

#[test]
fn a_frame_cut_in_its_middle_and_a_damaged_one_are_errors() {
    for fault in [Fault::Cut, Fault::Corrupt] {
        let (mut caller, mut called) = framed(false, plan(Direction::FromCaller, 40, fault));
        caller.say(&Message::Switch).unwrap();
        let _ = caller.say(&Message::SwitchReady);
        assert_eq!(heard(&mut called), Some(Message::Switch));
        let error = called.hear(Duration::from_secs(1)).unwrap_err();
        match fault {
            Fault::Corrupt => assert!(matches!(error, TransportError::Message { .. }), "{error:?}"),
            _ => assert!(
                matches!(
                    error,
                    TransportError::Closed { .. } | TransportError::Message { .. }
                ),
                "{error:?}"
            ),
        }
    }
}

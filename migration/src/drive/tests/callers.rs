//! Who else calls a host that takes guests: the silent, the mad, those who come too late, and those who ask.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use super::fixture::{Ended, Guest, Hosts, SESSION, Try, run_between, tls, transport};
use crate::drive::inquire;
use crate::drive::reception::MOST_CALLERS;
use crate::protocol::Outcome;
use crate::transport::{Connection, Framed, Received, Security};
use crate::wire::{Boot, Hello, Inquire, Message, SPOKEN, Session, Side, Standing, Stream, Token};

fn call(address: SocketAddr, security: &Security) -> Framed {
    let connection = Connection::connect(address, "127.0.0.1", security, &transport());
    Framed::new(connection.unwrap())
}

fn hello(session: Session) -> Message {
    Message::Hello(Hello {
        versions: SPOKEN,
        session,
        name: "another".into(),
    })
}

/// The next message, or none where the connection was closed.
fn hear(framed: &mut Framed) -> Option<Message> {
    match framed.hear(Duration::from_secs(5)) {
        Ok(Some(Received::Message(message))) => Some(message),
        _ => None,
    }
}

/// A guest moves to a destination whom others call before.
fn moves_after(tried: &Try, call: impl FnOnce(SocketAddr)) -> Ended {
    let hosts = Hosts::new(tried);
    let mut guest = Guest::new();
    let ended = run_between(&hosts, &mut guest, tried, || call(hosts.listener.address()));
    ended.assert_moved();
    ended
}

#[test]
fn bad_callers_neither_end_the_waiting_nor_keep_a_good_one_out() {
    for security in [Security::Plain, tls()] {
        let tried = Try {
            security: security.clone(),
            ..Try::default()
        };
        let begun = Instant::now();
        let mut silent = Vec::new();
        moves_after(&tried, |address| {
            // Says nothing; says half a frame; speaks something else; goes away at once.
            silent.push(TcpStream::connect(address).unwrap());
            let mut half = TcpStream::connect(address).unwrap();
            half.write_all(b"CVMG\0\0").unwrap();
            silent.push(half);
            let mut mad = TcpStream::connect(address).unwrap();
            mad.write_all(&[b'x'; 4096]).unwrap();
            drop(TcpStream::connect(address).unwrap());
            // Good certificates and no sense.
            for message in [
                Message::Switch,
                Message::Stream(Stream {
                    session: SESSION,
                    token: Token([0; 16]),
                    index: 0,
                }),
            ] {
                let mut framed = call(address, &security);
                framed.say(&message).unwrap();
                assert_eq!(hear(&mut framed), None, "it is sent away");
            }
        });
        let patience = tried.patience.greeting;
        assert!(
            begun.elapsed() < 3 * patience,
            "nobody waited for the silent"
        );
    }
}

fn hasty_at_the_door() -> Try {
    let mut tried = Try::default();
    tried.patience.greeting = Duration::from_millis(800);
    tried
}

#[test]
fn so_many_silent_callers_at_once_are_kept_and_they_not_for_long() {
    let tried = hasty_at_the_door();
    let hosts = Hosts::new(&tried);
    let mut guest = Guest::new();
    let address = hosts.listener.address();
    let ended = run_between(&hosts, &mut guest, &tried, || {
        let begun = Instant::now();
        let callers = (0..3 * MOST_CALLERS).map(|_| TcpStream::connect(address).unwrap());
        let callers: Vec<_> = callers.collect();
        let is_closed = |mut caller: &TcpStream, limit| {
            caller.set_read_timeout(Some(limit)).unwrap();
            let got = caller.read(&mut [0; 1]);
            !matches!(got, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        };
        let soon = Duration::from_millis(10);
        thread::sleep(Duration::from_millis(150));
        let kept = callers.iter().filter(|caller| !is_closed(caller, soon));
        assert_eq!(kept.count(), MOST_CALLERS);
        let long = Duration::from_secs(5);
        assert!(callers.iter().all(|caller| is_closed(caller, long)));
        assert!(
            begun.elapsed() < tried.patience.greeting * 4,
            "each has its deadline"
        );
    });
    ended.assert_moved();
}

#[test]
fn who_speaks_byte_by_byte_has_no_longer_than_who_says_nothing() {
    let tried = hasty_at_the_door();
    moves_after(&tried, |address| {
        let begun = Instant::now();
        let mut slow = TcpStream::connect(address).unwrap();
        while slow.write_all(b"C").is_ok() {
            thread::sleep(Duration::from_millis(20));
            assert!(begun.elapsed() < tried.patience.greeting * 3);
        }
    });
}

#[test]
fn a_second_guest_is_refused_with_the_reason_and_the_first_goes_on() {
    let tried = Try::default();
    let hosts = Hosts::new(&tried);
    let mut arriving = hosts.arriving(&Guest::new(), &tried);
    let address = hosts.listener.address();
    let received = thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            hosts
                .arrival
                .receive(&hosts.listener, &mut arriving, tried.limit)
        });
        let mut first = call(address, &Security::Plain);
        first.say(&hello(SESSION)).unwrap();
        assert!(matches!(hear(&mut first), Some(Message::Hello(_))));
        for session in [Session([8; 16]), SESSION] {
            let mut second = call(address, &Security::Plain);
            second.say(&hello(session)).unwrap();
            let Some(Message::Refuse(refuse)) = hear(&mut second) else {
                panic!("expected a refusal");
            };
            assert!(
                refuse.reason.contains("takes another guest right now"),
                "{}",
                refuse.reason
            );
        }
        let reason = "enough".to_owned();
        first.say(&Message::Abort { reason }).unwrap();
        receiving.join().unwrap().unwrap()
    });
    assert_eq!(received, Some(Outcome::Stayed));
}

#[test]
fn a_session_that_lives_answers_for_itself_and_other_sessions_are_answered_from_the_folder() {
    let tried = Try::default();
    let hosts = Hosts::new(&tried);
    let mut arriving = hosts.arriving(&Guest::new(), &tried);
    let address = hosts.listener.address();
    let ask = |session| {
        let question = Inquire {
            session,
            from: Side::Source,
            standing: Standing::Committed,
            boot: Boot([1; 16]),
        };
        let addresses = format!("127.0.0.1:9, {address}");
        let answer = inquire(&addresses, None, &Security::Plain, &transport(), question);
        answer.unwrap().standing
    };
    thread::scope(|scope| {
        let receiving = scope.spawn(|| {
            hosts
                .arrival
                .receive(&hosts.listener, &mut arriving, tried.limit)
        });
        assert_eq!(ask(SESSION), Standing::Nothing, "nobody has come");
        let mut first = call(address, &Security::Plain);
        first.say(&hello(SESSION)).unwrap();
        assert!(matches!(hear(&mut first), Some(Message::Hello(_))));
        assert_eq!(ask(SESSION), Standing::Open);
        assert_eq!(ask(Session([8; 16])), Standing::Nothing);
        first.connection().breaker().unwrap().cut();
        receiving.join().unwrap().unwrap();
    });
}

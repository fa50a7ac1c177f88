//! Connections over loopback, as they should be and as they should not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::authority::{Authority, Issued, Validity};
use super::relay::{Direction, Fault, Plan, Relay};
use super::*;

mod messages;

const DAY: Duration = Duration::from_secs(86400);

fn soon() -> Settings {
    Settings {
        connect: Duration::from_secs(3),
        stall: Duration::from_secs(1),
        priority: None,
    }
}

fn valid() -> Validity {
    Validity::starting(SystemTime::now(), DAY)
}

fn expired() -> Validity {
    Validity {
        from: SystemTime::now() - 3 * DAY,
        until: SystemTime::now() - DAY,
    }
}

fn authority() -> Authority {
    Authority::new("test authority", valid()).unwrap()
}

fn identity(issued: &Issued, authority: &Authority) -> Security {
    let identity = Identity::from_pem(
        issued.certificate.as_bytes(),
        issued.key.as_bytes(),
        authority.certificate().as_bytes(),
    );
    Security::Tls(identity.unwrap())
}

fn host(authority: &Authority) -> Security {
    identity(
        &authority.issue(&["127.0.0.1", "host"], valid()).unwrap(),
        authority,
    )
}

fn listen(security: Security) -> Listener {
    Listener::bind((Ipv4Addr::LOCALHOST, 0).into(), security, soon()).unwrap()
}

type Outcome = Result<Connection, TransportError>;

/// Both ends of a connection: the caller's and the called one's.
fn both(called: Security, caller: &Security, plan: Option<Plan>) -> (Outcome, Outcome) {
    let listener = listen(called);
    let relay = Relay::start(listener.address(), plan).unwrap();
    let address = relay.address();
    let ends = thread::scope(|scope| {
        let called = scope.spawn(move || {
            listener
                .accept(Duration::from_secs(2))
                .unwrap()
                .unwrap()
                .greet()
        });
        let calling = Connection::connect(address, "127.0.0.1", caller, &soon());
        (calling, called.join().unwrap())
    });
    // The relay must outlive the connections.
    thread::spawn(move || {
        thread::sleep(Duration::from_secs(5));
        drop(relay);
    });
    ends
}

fn good(plan: Option<Plan>, tls: bool) -> (Connection, Connection) {
    let authority = authority();
    let security = if tls {
        host(&authority)
    } else {
        Security::Plain
    };
    let (caller, called) = both(security.clone(), &security, plan);
    (caller.unwrap(), called.unwrap())
}

fn plan(direction: Direction, after: u64, fault: Fault) -> Option<Plan> {
    Some(Plan {
        connection: 0,
        direction,
        after,
        fault,
    })
}

#[test]
fn bytes_arrive_in_both_directions_with_and_without_tls() {
    for tls in [true, false] {
        let (mut caller, mut called) = good(None, tls);
        let sent: Vec<u8> = (0..1_000_003u32).map(|at| at.to_le_bytes()[1]).collect();
        let mut got = vec![0; sent.len()];
        thread::scope(|scope| {
            scope.spawn(|| caller.send(&sent).unwrap());
            called.receive(&mut got).unwrap();
        });
        assert!(got == sent);
        called.send(b"thanks").unwrap();
        let mut answer = [0; 6];
        caller.receive(&mut answer).unwrap();
        assert_eq!(&answer, b"thanks");
        caller.close().unwrap();
        assert_eq!(
            called.receive_some(&mut answer).unwrap(),
            0,
            "closed in order, tls {tls}"
        );
    }
}

fn texts(called: Security, caller: &Security) -> (String, String) {
    let (caller, called) = both(called, caller, None);
    let text = |outcome: Outcome| outcome.err().expect("refused").to_string();
    (text(caller), text(called))
}

#[test]
fn a_certificate_that_has_expired_is_named_at_both_ends() {
    let authority = authority();
    let old = identity(
        &authority.issue(&["127.0.0.1"], expired()).unwrap(),
        &authority,
    );
    let (caller, called) = texts(host(&authority), &old);
    assert!(
        caller.contains("refuses this host's certificate: it has expired"),
        "{caller}"
    );
    assert!(called.contains("refused here: it has expired"), "{called}");
    let (caller, called) = texts(old, &host(&authority));
    assert!(caller.contains("refused here: it has expired"), "{caller}");
    assert!(
        called.contains("refuses this host's certificate: it has expired"),
        "{called}"
    );
}

#[test]
fn a_certificate_of_another_authority_is_named_at_both_ends() {
    let ours = authority();
    let stranger = Authority::new("another authority", valid()).unwrap();
    for (theirs, here, there) in [
        (
            stranger,
            "its issuer is unknown here",
            "its issuer is unknown there",
        ),
        // Of the same name, as two hosts make them that were set up alike.
        (
            authority(),
            "it is not signed by the authority of that name that is known here",
            "it is not signed by",
        ),
    ] {
        let refused_here = format!("refused here: {here}");
        let refused_there = format!("refuses this host's certificate: {there}");
        let stranger = identity(&theirs.issue(&["127.0.0.1"], valid()).unwrap(), &ours);
        let (caller, called) = texts(host(&ours), &stranger);
        assert!(caller.contains(&refused_there), "{caller}");
        assert!(called.contains(&refused_here), "{called}");
        let (caller, called) = texts(stranger, &host(&ours));
        assert!(caller.contains(&refused_here), "{caller}");
        assert!(called.contains(&refused_there), "{called}");
    }
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let authority = authority();
    let other = identity(
        &authority.issue(&["elsewhere"], valid()).unwrap(),
        &authority,
    );
    let (caller, _) = texts(other, &host(&authority));
    assert!(caller.contains("it is for another name"), "{caller}");
}

#[test]
fn a_caller_without_tls_gets_nothing_from_a_host_with_it() {
    let listener = listen(host(&authority()));
    let address = listener.address();
    let mut plain = Connection::connect(address, "", &Security::Plain, &soon()).unwrap();
    plain.send(&[b'x'; 100]).unwrap();
    let refused = listener
        .accept(Duration::from_secs(2))
        .unwrap()
        .unwrap()
        .greet();
    let error = refused.err().expect("refused").to_string();
    assert!(error.contains("do both sides use TLS?"), "{error}");
}

#[test]
fn a_host_that_says_nothing_is_given_up() {
    let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let begun = Instant::now();
    let settings = Settings {
        connect: Duration::from_millis(200),
        ..soon()
    };
    let outcome = Connection::connect(
        mute.local_addr().unwrap(),
        "host",
        &host(&authority()),
        &settings,
    );
    assert!(
        matches!(outcome, Err(TransportError::Stalled { .. })),
        "{:?}",
        outcome.err()
    );
    assert!(begun.elapsed() < Duration::from_secs(2));
}

#[test]
fn a_handshake_that_drips_is_given_up() {
    let listener = listen(host(&authority()));
    let address = listener.address();
    let dripping = thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        // The head of a TLS record of 16 KiB, then a byte now and then.
        let mut sent = socket.write_all(&[22, 3, 1, 64, 0]);
        while sent.is_ok() {
            thread::sleep(Duration::from_millis(50));
            sent = socket.write_all(&[0]);
        }
    });
    let begun = Instant::now();
    let outcome = listener
        .accept(Duration::from_secs(2))
        .unwrap()
        .unwrap()
        .greet();
    assert!(outcome.is_err());
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "{:?}",
        begun.elapsed()
    );
    dripping.join().unwrap();
}

#[test]
fn nobody_there_is_said_with_the_address() {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .unwrap()
        .local_addr()
        .unwrap();
    let outcome = Connection::connect(free, "host", &Security::Plain, &soon());
    let error = outcome.err().expect("nobody listens").to_string();
    assert!(
        error.contains(&free.to_string()) && error.contains("chronovisor receive"),
        "{error}"
    );
}

#[test]
fn nobody_calling_is_no_error() {
    assert!(
        listen(Security::Plain)
            .accept(Duration::from_millis(20))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_cut_a_stall_and_a_damaged_byte_are_told_apart() {
    for tls in [true, false] {
        for (fault, expected) in [
            (Fault::Cut, "Closed"),
            (Fault::Stall, "Stalled"),
            (Fault::Corrupt, "Damaged"),
        ] {
            // Behind the handshake, within the bytes that follow.
            let (mut caller, mut called) = good(plan(Direction::FromCaller, 50_000, fault), tls);
            let outcome = thread::scope(|scope| {
                scope.spawn(|| caller.send(&[7; 100_000]));
                let mut got = vec![0; 100_000];
                called.receive(&mut got).map(|()| got)
            });
            match (outcome, tls) {
                // Without TLS the checksums of frames have to find it.
                (Ok(got), false) if fault == Fault::Corrupt => assert!(got != [7; 100_000]),
                (outcome, _) => {
                    let error = format!("{:?}", outcome.expect_err("it broke"));
                    assert!(
                        error.starts_with(expected),
                        "{error}, expected {expected}, tls {tls}"
                    );
                }
            }
        }
    }
}

#[test]
fn a_peer_that_takes_nothing_does_not_hold_the_sender() {
    for tls in [true, false] {
        let (mut caller, called) = good(None, tls);
        let begun = Instant::now();
        let error = caller.send(&vec![1; 64 << 20]).unwrap_err();
        assert!(
            matches!(
                error,
                TransportError::Stalled {
                    what: "take bytes",
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(begun.elapsed() < Duration::from_secs(20));
        drop(called);
    }
}

#[test]
fn a_breaker_ends_a_wait_at_once() {
    let (mut caller, _called) = good(None, true);
    let breaker = caller.breaker().unwrap();
    let cutter = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        breaker.cut();
    });
    let begun = Instant::now();
    assert!(caller.receive(&mut [0; 1]).is_err());
    assert!(
        begun.elapsed() < Duration::from_millis(900),
        "before the limit"
    );
    cutter.join().unwrap();
}

#[test]
fn packets_carry_the_priority_asked_for() {
    let listener = listen(Security::Plain);
    let settings = Settings {
        priority: Some(6),
        ..soon()
    };
    let connection =
        Connection::connect(listener.address(), "", &Security::Plain, &settings).unwrap();
    assert_eq!(connection.priority(), Some(6));
}

#[test]
fn a_key_that_is_none_is_named() {
    let authority = authority();
    let issued = authority.issue(&["host"], valid()).unwrap();
    let ca = authority.certificate().as_bytes();
    let certificate = issued.certificate.as_bytes();
    let text = |outcome: Result<Identity, TransportError>| outcome.unwrap_err().to_string();
    let error = text(Identity::from_pem(certificate, b"nonsense", ca));
    assert!(error.contains("private key"), "{error}");
    let error = text(Identity::from_pem(b"", issued.key.as_bytes(), ca));
    assert!(
        error.contains("this host's certificate: there is none"),
        "{error}"
    );
    let other = authority.issue(&["host"], valid()).unwrap();
    let error = text(Identity::from_pem(certificate, other.key.as_bytes(), ca));
    assert!(error.contains("this host's certificate and key"), "{error}");
}

#[test]
fn a_socket_of_a_stranger_gets_no_answer_beyond_an_alert() {
    let listener = listen(host(&authority()));
    let address: SocketAddr = listener.address();
    let stranger = thread::spawn(move || {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = socket.read_to_end(&mut answer);
        answer
    });
    assert!(
        listener
            .accept(Duration::from_secs(2))
            .unwrap()
            .unwrap()
            .greet()
            .is_err()
    );
    let answer = stranger.join().unwrap();
    assert!(
        answer.is_empty() || answer[0] == 21,
        "an alert or nothing, not {answer:02x?}"
    );
}

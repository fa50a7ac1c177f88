//! The wire: what is written is read back the same, what is damaged is an error that says what was got and expected, and version 1 stays what it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::fmt::Write;

use migration::protocol::Record;
use migration::ram::{PAGE_SIZE, PageNumber, Part};
use migration::wire::frame::{MOST_CONTROL_BYTES, MOST_PART_BYTES};
use migration::wire::{
    Accept, Answer, Boot, Digest, Encoding, EndOfRound, FrameError, HEAD_BYTES, Hello, Incoming,
    Inquire, Kind, Message, MessageError, NEWEST, Offer, Outgoing, PagesHeader, Prepare, Refuse,
    RoundDigest, SPOKEN, Session, Side, Standing, StateDigest, Stream, Token, Version,
    VersionError, Versions,
};
use proptest::prelude::*;

const GOLDEN: &str = include_str!("fixtures/version-1.txt");

fn versions(least: u16, greatest: u16) -> Versions {
    Versions {
        least: Version(least),
        greatest: Version(greatest),
    }
}

/// One message of every kind, and more where a kind has several forms.
fn every_message() -> Vec<Message> {
    let session = Session(*b"0123456789abcdef");
    let token = Token([0xa5; 16]);
    let boot = Boot(*b"BOOTbootBOOTboot");
    let inquire = |from, standing| {
        Message::Inquire(Inquire {
            session,
            from,
            standing,
            boot,
        })
    };
    let mut messages = vec![
        Message::Hello(Hello {
            versions: versions(1, 1),
            session,
            name: "guest-ä".to_owned(),
        }),
        Message::Refuse(Refuse {
            reason: "no CPU has 0.4 ms in 4 ms left".to_owned(),
            nearest: vec![1, 2, 3],
        }),
        Message::Offer(Offer {
            spec: b"name = \"guest\"".to_vec(),
            memory_bytes: 256 << 20,
            downtime_ns: 20_000_000,
            finish_ns: 10_000_000_000,
            confidence_ppm: 950_000,
            streams: 2,
            features: 0b101,
            boot,
            inquiries: "[fd00::1]:7001".to_owned(),
        }),
        Message::Accept(Accept {
            token,
            streams: 2,
            features: 0b100,
            boot,
            inquiries: "10.0.0.2:7001".to_owned(),
            facts: vec![0xff; 5],
        }),
        Message::Stream(Stream {
            session,
            token,
            index: 1,
        }),
        Message::EndOfRound(EndOfRound {
            round: 3,
            pages: 65_536,
            digest: Digest(0x0123_4567_89ab_cdef),
        }),
        Message::RoundDone { round: 3 },
        Message::Switch,
        Message::SwitchReady,
        Message::Part(Part {
            kind: "vcpu".to_owned(),
            version: 7,
            bytes: vec![0, 1, 2, 3],
        }),
        Message::Prepare(Prepare {
            round: 4,
            parts: 6,
            digest: Digest(u64::MAX),
        }),
        Message::Prepared,
        Message::Commit,
        Message::Running,
        Message::Done,
        Message::Abort {
            reason: "cancelled".to_owned(),
        },
    ];
    let standings = [
        Standing::Nothing,
        Standing::Open,
        Standing::Committed,
        Standing::Orphaned,
        Standing::Prepared,
        Standing::Declined,
        Standing::Running,
    ];
    for standing in standings {
        messages.push(inquire(Side::Source, standing));
        messages.push(Message::Answer(Answer { standing, boot }));
    }
    messages.push(inquire(Side::Destination, Standing::Prepared));
    messages
}

fn frame_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message
        .write(&mut Outgoing::new(NEWEST), &mut bytes)
        .unwrap();
    bytes
}

fn read_one(bytes: &[u8]) -> Result<Message, MessageError> {
    let cut = Incoming::new(SPOKEN).frame(bytes)?.unwrap();
    Message::read(cut.head.kind, cut.payload)
}

fn pages_frame(out: &mut Outgoing, header: &PagesHeader, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    out.frame(Kind::Pages, &mut frame, |into| {
        into.extend(header.to_bytes());
        into.extend(bytes);
    })
    .unwrap();
    frame
}

fn pages_header(encoding: Encoding, count: u32, bytes: u32) -> PagesHeader {
    PagesHeader {
        first: PageNumber(0x1_2345),
        round: 2,
        count,
        encoding,
        bytes,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Every frame of version 1, and the record on disk, as lines of name and hexadecimal digits.
fn version_1() -> String {
    let mut text = String::new();
    for message in every_message() {
        writeln!(text, "{:?} {}", message.kind(), hex(&frame_of(&message))).unwrap();
    }
    let pages = [
        pages_frame(
            &mut Outgoing::new(NEWEST),
            &pages_header(Encoding::Zero, 256, 0),
            &[],
        ),
        pages_frame(
            &mut Outgoing::new(NEWEST),
            &pages_header(Encoding::Compressed, 2, 3),
            &[9, 8, 7],
        ),
    ];
    for frame in pages {
        writeln!(text, "Pages {}", hex(&frame)).unwrap();
    }
    writeln!(text, "Journal {}", hex(&record().to_bytes().unwrap())).unwrap();
    text
}

fn record() -> Record {
    Record {
        session: Session([3; 16]),
        side: Side::Destination,
        name: "guest".to_owned(),
        peer: "10.0.0.1:7001".to_owned(),
        peer_boot: Boot([4; 16]),
    }
}

#[test]
fn version_1_has_the_bytes_that_it_always_had() {
    let written = version_1();
    for kind in Kind::ALL {
        let name = format!("{kind:?} ");
        assert!(
            GOLDEN.lines().any(|line| line.starts_with(&name)),
            "no {kind:?} in the fixture"
        );
    }
    for (golden, written) in GOLDEN.lines().zip(written.lines()) {
        assert_eq!(golden, written);
    }
    assert_eq!(GOLDEN, written);
}

#[test]
fn the_bytes_of_version_1_are_read_as_what_was_meant() {
    let unhex = |text: &str| -> Vec<u8> {
        let digits = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16);
        digits.map(|pair| byte(pair).unwrap()).collect()
    };
    let frames = GOLDEN.lines().map(|line| line.split_once(' ').unwrap());
    let messages: Vec<Message> = frames
        .clone()
        .filter(|(name, _)| *name != "Pages" && *name != "Journal")
        .map(|(_, text)| read_one(&unhex(text)).unwrap())
        .collect();
    assert_eq!(messages, every_message());
    for (name, text) in frames {
        let bytes = unhex(text);
        if name == "Journal" {
            assert_eq!(Record::from_bytes(&bytes), Ok(record()));
        } else if name == "Pages" {
            let cut = Incoming::new(SPOKEN).frame(&bytes).unwrap().unwrap();
            let (header, rest) = PagesHeader::parse(cut.payload).unwrap();
            assert_eq!(header.round, 2);
            assert_eq!(usize::try_from(header.bytes), Ok(rest.len()));
        }
    }
}

#[test]
fn two_releases_use_the_newest_version_that_both_speak() {
    assert_eq!(versions(1, 1).agree(versions(1, 2)), Ok(Version(1)));
    assert_eq!(versions(1, 2).agree(versions(1, 1)), Ok(Version(1)));
    assert_eq!(versions(2, 3).agree(versions(1, 2)), Ok(Version(2)));
    assert_eq!(versions(4, 5).agree(versions(4, 5)), Ok(Version(5)));
}

#[test]
fn releases_that_share_no_version_say_which_host_to_update() {
    let newer = versions(1, 1).agree(versions(2, 3)).unwrap_err();
    assert!(matches!(newer, VersionError::Newer { .. }), "{newer}");
    assert_eq!(
        newer.to_string(),
        "the other host speaks version 2 to 3 of the migration protocol and this one 1: update this host"
    );
    let older = versions(3, 4).agree(versions(1, 2)).unwrap_err();
    assert!(older.to_string().ends_with("update the other host"));
    for senseless in [versions(0, 0), versions(0, 1), versions(2, 1)] {
        let error = versions(1, 1).agree(senseless).unwrap_err();
        assert!(matches!(error, VersionError::Senseless { .. }), "{error}");
    }
}

/// A release of the future greets: its `Hello` can be read, and nothing else of it.
#[test]
fn a_newer_release_can_greet_and_then_speaks_the_agreed_version_only() {
    let future = versions(1, 2);
    let hello = Message::Hello(Hello {
        versions: future,
        session: Session([0; 16]),
        name: "guest".to_owned(),
    });
    let mut out = Outgoing::new(future.greatest);
    let mut bytes = Vec::new();
    hello.write(&mut out, &mut bytes).unwrap();
    let mut incoming = Incoming::new(SPOKEN);
    let cut = incoming.frame(&bytes).unwrap().unwrap();
    assert_eq!(Message::read(cut.head.kind, cut.payload), Ok(hello));
    let mut too_new = (out.clone(), incoming.clone());
    let mut bytes = Vec::new();
    Message::Switch.write(&mut too_new.0, &mut bytes).unwrap();
    let error = too_new.1.frame(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a frame of version 2, expected 1: use releases that follow one another"
    );
    let agreed = SPOKEN.agree(future).unwrap();
    out.agree(agreed);
    incoming.agree(agreed);
    let mut bytes = Vec::new();
    Message::Switch.write(&mut out, &mut bytes).unwrap();
    assert!(incoming.frame(&bytes).unwrap().is_some());
}

#[test]
fn versions_0_and_2_are_refused() {
    for version in [0, 2] {
        let mut bytes = Vec::new();
        let mut out = Outgoing::new(Version(version));
        Message::Commit.write(&mut out, &mut bytes).unwrap();
        let error = Incoming::new(SPOKEN).frame(&bytes).unwrap_err();
        assert!(
            matches!(error, FrameError::Version { got, .. } if got == Version(version)),
            "{error}"
        );
    }
}

#[test]
fn repeated_and_missing_frames_are_told_apart() {
    let mut out = Outgoing::new(NEWEST);
    let [first, second, third] = [(); 3].map(|()| {
        let mut bytes = Vec::new();
        Message::Prepared.write(&mut out, &mut bytes).unwrap();
        bytes
    });
    let mut incoming = Incoming::new(SPOKEN);
    incoming.frame(&first).unwrap();
    let repeated = incoming.frame(&first).unwrap_err().to_string();
    assert_eq!(
        repeated,
        "frame 0 of kind Prepared, expected frame 1: it is repeated or late"
    );
    let missing = incoming.frame(&third).unwrap_err().to_string();
    assert!(missing.ends_with("frames are missing before it"));
    assert!(incoming.frame(&second).unwrap().is_some());
}

#[test]
fn an_unknown_kind_and_a_stranger_are_refused() {
    let mut bytes = frame_of(&Message::Done);
    bytes[..4].copy_from_slice(b"GET ");
    let error = Incoming::new(SPOKEN).frame(&bytes).unwrap_err();
    assert!(matches!(error, FrameError::Magic { .. }), "{error}");
    // A head that is whole, of a kind that does not exist.
    let mut out = Outgoing::new(NEWEST);
    let mut bytes = Vec::new();
    Message::Done.write(&mut out, &mut bytes).unwrap();
    bytes[6] = 99;
    let check = xxhash_rust::xxh3::xxh3_64(&bytes[..20]).to_le_bytes();
    bytes[20..24].copy_from_slice(&check[..4]);
    let error = Incoming::new(SPOKEN).frame(&bytes).unwrap_err();
    assert_eq!(
        error.to_string(),
        "unknown kind of frame 99, expected 1 to 20"
    );
}

#[test]
fn lengths_beyond_the_bounds_are_refused_on_both_ways() {
    let mut out = Outgoing::new(NEWEST);
    let mut bytes = vec![1, 2, 3];
    let error = out
        .frame(Kind::Offer, &mut bytes, |into| {
            into.extend(vec![0; MOST_CONTROL_BYTES + 1]);
        })
        .unwrap_err();
    assert!(matches!(error, FrameError::Length { .. }), "{error}");
    assert_eq!(bytes, [1, 2, 3]);
    let mut head = frame_of(&Message::Done);
    head[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
    let check = xxhash_rust::xxh3::xxh3_64(&head[..20]).to_le_bytes();
    head[20..24].copy_from_slice(&check[..4]);
    let error = Incoming::new(SPOKEN).frame(&head).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Done of 4294967295 bytes, expected at most 65536"
    );
    let part = Message::Part(Part {
        kind: "k".repeat(33),
        version: 1,
        bytes: Vec::new(),
    });
    let error = part.write(&mut out, &mut Vec::new()).unwrap_err();
    assert!(
        error.to_string().contains("is 33, expected 1 to 32"),
        "{error}"
    );
    let part = Message::Part(Part {
        kind: "k".to_owned(),
        version: 1,
        bytes: vec![0; MOST_PART_BYTES + 1],
    });
    assert!(part.write(&mut out, &mut Vec::new()).is_err());
    let name = Message::Hello(Hello {
        versions: SPOKEN,
        session: Session([0; 16]),
        name: "n".repeat(1025),
    });
    let error = name.write(&mut out, &mut Vec::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "length of a guest's name is 1025, expected 1 to 1024"
    );
}

#[test]
fn left_over_bytes_are_an_error_in_every_message_that_has_an_end() {
    for message in every_message() {
        let kind = message.kind();
        // The rest of these is a name, an offer, a part.
        if matches!(kind, Kind::Hello | Kind::Refuse | Kind::Part) {
            continue;
        }
        let frame = frame_of(&message);
        let mut payload = frame[HEAD_BYTES..frame.len() - 8].to_vec();
        payload.push(0);
        let error = Message::read(kind, &payload).unwrap_err();
        assert!(
            matches!(error, MessageError::LeftOver { bytes: 1, .. }),
            "{kind:?}: {error}"
        );
    }
    let mut bytes = record().to_bytes().unwrap();
    bytes.push(0);
    assert!(Record::from_bytes(&bytes).is_err());
}

#[test]
fn pages_are_no_message_and_a_record_is_not_sent() {
    for kind in [Kind::Pages, Kind::Journal] {
        let error = Message::read(kind, &[]).unwrap_err();
        assert_eq!(error, MessageError::Misplaced { kind });
    }
}

#[test]
fn a_header_of_pages_that_contradicts_itself_is_refused() {
    let page = u32::try_from(PAGE_SIZE).unwrap();
    let good = pages_header(Encoding::Raw, 1, page);
    let payload = |header: &PagesHeader, bytes: usize| {
        let mut payload = header.to_bytes().to_vec();
        payload.extend(vec![0; bytes]);
        payload
    };
    assert!(PagesHeader::parse(&payload(&good, PAGE_SIZE)).is_ok());
    let refused = [
        (payload(&good, PAGE_SIZE - 1), "after the header"),
        (
            payload(&pages_header(Encoding::Raw, 2, page), PAGE_SIZE),
            "cannot take",
        ),
        (
            payload(&pages_header(Encoding::Zero, 1, 1), 1),
            "cannot take",
        ),
        (
            payload(&pages_header(Encoding::Delta, 1, 0), 0),
            "cannot take",
        ),
        (payload(&pages_header(Encoding::Zero, 0, 0), 0), "0 pages"),
        (
            payload(&pages_header(Encoding::Zero, 257, 0), 0),
            "257 pages",
        ),
        (vec![0; 23], "23 bytes"),
    ];
    for (payload, expected) in refused {
        let error = PagesHeader::parse(&payload).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let beyond = PagesHeader {
        first: PageNumber(u64::MAX),
        ..pages_header(Encoding::Zero, 1, 0)
    };
    assert!(PagesHeader::parse(&beyond.to_bytes()).is_err());
    let mut unknown = pages_header(Encoding::Zero, 1, 0).to_bytes();
    unknown[16] = 9;
    let error = PagesHeader::parse(&unknown).unwrap_err().to_string();
    assert!(
        error.contains("unknown encoding 9, expected 0 to 3"),
        "{error}"
    );
    unknown[16] = 0;
    unknown[18] = 1;
    assert!(PagesHeader::parse(&unknown).is_err());
}

#[test]
fn the_digest_sees_a_page_a_stream_and_a_part_that_are_missing_or_exchanged() {
    let part = |kind: &str, bytes: &[u8]| Part {
        kind: kind.to_owned(),
        version: 1,
        bytes: bytes.to_vec(),
    };
    let digest = |streams: &[u64], parts: &[Part]| {
        let mut state = StateDigest::default();
        streams.iter().for_each(|s| state.stream(Digest(*s)));
        parts.iter().for_each(|p| state.part(p));
        state.finish()
    };
    let (a, b) = (part("a", b"bc"), part("ab", b"c"));
    let whole = digest(&[1, 2], &[a.clone(), b.clone()]);
    for other in [
        digest(&[2, 1], &[a.clone(), b.clone()]),
        digest(&[1], &[a.clone(), b.clone()]),
        digest(&[1, 2], &[b.clone(), a.clone()]),
        digest(&[1, 2], &[a.clone()]),
    ] {
        assert_ne!(whole, other);
    }
    assert_ne!(digest(&[], &[a]), digest(&[], &[b]));
    let mut round = RoundDigest::default();
    let header = pages_header(Encoding::Compressed, 1, 1);
    round.add(&header, &[1]);
    let first = round.take();
    round.add(&header, &[2]);
    assert_ne!(first, round.take());
    assert_eq!(round.take(), RoundDigest::default().take());
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{1,60}"
}

fn message() -> impl Strategy<Value = Message> {
    let opaque = || proptest::collection::vec(any::<u8>(), 0..200);
    let offer = (
        opaque(),
        any::<[u64; 4]>(),
        any::<u32>(),
        1_u16..=64,
        any::<[u8; 16]>(),
        text(),
    );
    let accept = (
        any::<[u8; 16]>(),
        1_u16..=64,
        any::<u64>(),
        any::<[u8; 16]>(),
        text(),
        opaque(),
    );
    prop_oneof![
        proptest::sample::select(every_message()),
        (any::<[u16; 2]>(), any::<[u8; 16]>(), text()).prop_map(|(v, session, name)| {
            Message::Hello(Hello {
                versions: versions(v[0], v[1]),
                session: Session(session),
                name,
            })
        }),
        (text(), opaque())
            .prop_map(|(reason, nearest)| Message::Refuse(Refuse { reason, nearest })),
        offer.prop_map(
            |(spec, n, ppm, streams, boot, inquiries)| Message::Offer(Offer {
                spec,
                memory_bytes: n[0],
                downtime_ns: n[1],
                finish_ns: n[2],
                confidence_ppm: ppm,
                streams,
                features: n[3],
                boot: Boot(boot),
                inquiries,
            })
        ),
        accept.prop_map(|(token, streams, features, boot, inquiries, facts)| {
            Message::Accept(Accept {
                token: Token(token),
                streams,
                features,
                boot: Boot(boot),
                inquiries,
                facts,
            })
        }),
        (any::<u32>(), any::<u64>(), any::<u64>()).prop_map(|(round, pages, digest)| {
            Message::EndOfRound(EndOfRound {
                round,
                pages,
                digest: Digest(digest),
            })
        }),
        ("\\PC{1,8}", any::<u16>(), opaque()).prop_map(|(kind, version, bytes)| {
            Message::Part(Part {
                kind,
                version,
                bytes,
            })
        }),
        text().prop_map(|reason| Message::Abort { reason }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_the_same(messages in proptest::collection::vec(message(), 1..8)) {
        let (mut out, mut incoming) = (Outgoing::new(NEWEST), Incoming::new(SPOKEN));
        let mut bytes = Vec::new();
        for message in &messages {
            message.write(&mut out, &mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        let mut read = Vec::new();
        while let Some(cut) = incoming.frame(rest).unwrap() {
            read.push(Message::read(cut.head.kind, cut.payload).unwrap());
            rest = cut.after;
        }
        prop_assert_eq!(read, messages);
    }

    #[test]
    fn any_flipped_bit_is_noticed(message in message(), place in any::<prop::sample::Index>()) {
        let mut bytes = frame_of(&message);
        let bit = place.index(bytes.len() * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        let read = Incoming::new(SPOKEN).frame(&bytes);
        prop_assert!(read.is_err(), "{:?}", read);
    }

    #[test]
    fn any_truncation_is_noticed(message in message(), place in any::<prop::sample::Index>()) {
        let bytes = frame_of(&message);
        let length = 1 + place.index(bytes.len() - 1);
        let error = Incoming::new(SPOKEN).frame(&bytes[..length]).unwrap_err();
        let got_length = matches!(error, FrameError::Truncated { got, .. } if got == length);
        prop_assert!(got_length, "{}", error);
    }

    #[test]
    fn headers_of_pages_are_read_back_the_same(
        first in 0..u64::MAX / 2, round in any::<u32>(), count in 1_u32..=256, raw in any::<bool>(),
    ) {
        let page = u32::try_from(PAGE_SIZE).unwrap();
        let (encoding, bytes) = if raw { (Encoding::Raw, count * page) } else { (Encoding::Delta, count) };
        let header = PagesHeader { first: PageNumber(first), round, count, encoding, bytes };
        let content = vec![0x5a; usize::try_from(bytes).unwrap()];
        let frame = pages_frame(&mut Outgoing::new(NEWEST), &header, &content);
        let cut = Incoming::new(SPOKEN).frame(&frame).unwrap().unwrap();
        prop_assert_eq!(PagesHeader::parse(cut.payload), Ok((header, content.as_slice())));
    }
}

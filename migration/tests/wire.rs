//! The wire: what is written is read back the same, what is damaged is an error that says what was got and expected, and version 1 stays what it is.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

#[path = "wire/golden.rs"]
mod golden;
#[path = "wire/properties.rs"]
mod properties;
#[path = "wire/samples.rs"]
mod samples;

use migration::protocol::Record;
use migration::ram::{PAGE_SIZE, PageNumber, Part};
use migration::wire::frame::{MOST_CONTROL_BYTES, MOST_PART_BYTES};
use migration::wire::{
    Digest, Encoding, FrameError, HEAD_BYTES, Hello, Incoming, Kind, Message, MessageError, NEWEST,
    Outgoing, PagesHeader, RoundDigest, SPOKEN, Session, StateDigest, Version, VersionError,
};
use samples::{every_message, frame_of, pages_header, record, versions};

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
        digest(&[1, 2], std::slice::from_ref(&a)),
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

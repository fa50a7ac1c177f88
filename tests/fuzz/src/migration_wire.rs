//! What may come over a migration connection, and what may stand in a session's file.

use migration::protocol::{
    Destination, DestinationAction, DestinationEvent, DestinationSetup, Patience, Record,
};
use migration::wire::{
    Encoding, Hello, Incoming, Kind, Message, NEWEST, Offer, Outgoing, PagesHeader, SPOKEN,
    Session, Side,
};

/// Frames as they come; each payload also without its checksum, which no fuzzer guesses.
pub fn run(data: &[u8]) {
    let mut incoming = Incoming::new(SPOKEN);
    let mut rest = data;
    while let Ok(Some(cut)) = incoming.frame(rest) {
        assert!(cut.after.len() < rest.len());
        payload(cut.head.kind, cut.payload);
        rest = cut.after;
    }
    if let Ok(record) = Record::from_bytes(data) {
        let written = record.to_bytes().expect("what was read can be written");
        assert_eq!(Record::from_bytes(&written), Ok(record));
    }
    if let Some((kind, bytes)) = data.split_first() {
        let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
        payload(kind, bytes);
    }
    talk(data);
}

/// What is read is written back, and read as the same.
fn payload(kind: Kind, bytes: &[u8]) {
    if let Ok((header, content)) = PagesHeader::parse(bytes) {
        assert_eq!(&header.to_bytes()[..], &bytes[..header.to_bytes().len()]);
        assert!(content.len() <= 1 << 20);
    }
    let Ok(message) = Message::read(kind, bytes) else {
        return;
    };
    assert_eq!(message.kind(), kind);
    let mut frame = Vec::new();
    message
        .write(&mut Outgoing::new(NEWEST), &mut frame)
        .expect("what was read can be written");
    let cut = Incoming::new(SPOKEN)
        .frame(&frame)
        .expect("what was written is a frame")
        .expect("it is not empty");
    assert_eq!(Message::read(cut.head.kind, cut.payload), Ok(message));
}

/// A destination that hears one message per stretch of bytes never runs what was not committed.
fn talk(data: &[u8]) {
    let mut destination = Destination::start(DestinationSetup {
        versions: SPOKEN,
        patience: Patience::default(),
    });
    let mut prepared = false;
    for said in data.chunks(24).take(64) {
        let Some((kind, bytes)) = said.split_first() else {
            continue;
        };
        let kind = Kind::ALL[usize::from(*kind) % Kind::ALL.len()];
        let Ok(message) = Message::read(kind, bytes) else {
            continue;
        };
        let commits = message == Message::Commit;
        let actions = destination.handle(DestinationEvent::Received(message));
        let runs = actions.contains(&DestinationAction::Run);
        assert!(!runs || (commits && prepared), "it runs without a commit");
        if actions
            .iter()
            .any(|action| matches!(action, DestinationAction::Restore(_)))
        {
            let restored = destination.handle(DestinationEvent::Restored);
            prepared |= restored.contains(&DestinationAction::Send(Message::Prepared));
        }
    }
}

/// A connection's first messages, pages, a record.
pub fn corpus() -> Vec<Vec<u8>> {
    let session = Session([5; 16]);
    let mut out = Outgoing::new(NEWEST);
    let mut control = Vec::new();
    let hello = Message::Hello(Hello {
        versions: SPOKEN,
        session,
        name: "guest".to_owned(),
    });
    let offer = Message::Offer(Offer {
        spec: b"name = \"guest\"".to_vec(),
        memory_bytes: 1 << 20,
        downtime_ns: 1,
        finish_ns: 2,
        confidence_ppm: 3,
        streams: 1,
        features: 0,
        boot: migration::wire::Boot([6; 16]),
        inquiries: "10.0.0.1:7001".to_owned(),
    });
    for message in [&hello, &offer, &Message::Switch, &Message::Commit] {
        message
            .write(&mut out, &mut control)
            .expect("it is within all bounds");
    }
    let header = PagesHeader {
        first: migration::ram::PageNumber(1),
        round: 0,
        count: 1,
        encoding: Encoding::Compressed,
        bytes: 3,
    };
    let mut pages = vec![5];
    pages.extend(header.to_bytes());
    pages.extend([1, 2, 3]);
    let record = Record {
        session,
        side: Side::Source,
        name: "guest".to_owned(),
        peer: "10.0.0.2:7001".to_owned(),
        peer_boot: migration::wire::Boot([7; 16]),
    };
    let record = record.to_bytes().expect("it is within all bounds");
    vec![control, pages, record]
}

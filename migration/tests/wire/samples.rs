//! Messages, pages and a record to write and to read.

use migration::protocol::Record;
use migration::ram::{PageNumber, Part};
use migration::wire::{
    Accept, Answer, Boot, Digest, Encoding, EndOfRound, Hello, Incoming, Inquire, Kind, Message,
    MessageError, NEWEST, Offer, Outgoing, PagesHeader, Prepare, Refuse, SPOKEN, Session, Side,
    Standing, Stream, Token, Version, Versions,
};

pub fn versions(least: u16, greatest: u16) -> Versions {
    Versions {
        least: Version(least),
        greatest: Version(greatest),
    }
}

/// One message of every kind, and more where a kind has several forms.
pub fn every_message() -> Vec<Message> {
    let mut messages = session_messages();
    messages.extend(inquiries());
    messages
}

const SESSION: Session = Session(*b"0123456789abcdef");
const BOOT: Boot = Boot(*b"BOOTbootBOOTboot");

fn session_messages() -> Vec<Message> {
    let session = SESSION;
    let token = Token([0xa5; 16]);
    let boot = BOOT;
    vec![
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
    ]
}

/// Everything that one side's host asks and the other's answers.
fn inquiries() -> Vec<Message> {
    let session = SESSION;
    let boot = BOOT;
    let mut messages = Vec::new();
    let inquire = |from, standing| {
        Message::Inquire(Inquire {
            session,
            from,
            standing,
            boot,
        })
    };
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

pub fn frame_of(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    message
        .write(&mut Outgoing::new(NEWEST), &mut bytes)
        .unwrap();
    bytes
}

pub fn read_one(bytes: &[u8]) -> Result<Message, MessageError> {
    let cut = Incoming::new(SPOKEN).frame(bytes)?.unwrap();
    Message::read(cut.head.kind, cut.payload)
}

pub fn pages_frame(out: &mut Outgoing, header: &PagesHeader, bytes: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    out.frame(Kind::Pages, &mut frame, |into| {
        into.extend(header.to_bytes());
        into.extend(bytes);
    })
    .unwrap();
    frame
}

pub fn pages_header(encoding: Encoding, count: u32, bytes: u32) -> PagesHeader {
    PagesHeader {
        first: PageNumber(0x1_2345),
        round: 2,
        count,
        encoding,
        bytes,
    }
}

pub fn record() -> Record {
    Record {
        session: Session([3; 16]),
        side: Side::Destination,
        name: "guest".to_owned(),
        peer: "10.0.0.1:7001".to_owned(),
        peer_boot: Boot([4; 16]),
    }
}

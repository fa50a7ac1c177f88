//! The bytes of version 1.

use std::fmt::Write;

use migration::protocol::Record;
use migration::wire::{Encoding, Incoming, Kind, Message, NEWEST, Outgoing, PagesHeader, SPOKEN};

use super::samples::{every_message, frame_of, pages_frame, pages_header, read_one, record};

const GOLDEN: &str = include_str!("../fixtures/version-1.txt");

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

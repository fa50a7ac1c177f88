//! Any message, any damage.

use migration::ram::{PAGE_SIZE, PageNumber, Part};
use migration::wire::{
    Accept, Boot, Digest, Encoding, EndOfRound, FrameError, Hello, Incoming, Message, NEWEST,
    Offer, Outgoing, PagesHeader, Refuse, SPOKEN, Session, Token,
};
use proptest::prelude::*;

use super::samples::{every_message, frame_of, pages_frame, versions};

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

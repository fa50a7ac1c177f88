//! What a receiver says to frames that somebody else made.

use super::*;
use crate::wire::{Digest, Encoding, Kind, Message, PagesHeader, RoundDigest};

fn told(frames: impl FnOnce(&mut Framed)) -> String {
    let (mut sender, receiver, _relay) = connect(None);
    let ram = FakeRam::new(PAGES);
    let receiver = StreamReceiver::new(receiver, 0, ram).unwrap();
    let receiving = thread::spawn(move || receiver.run(Duration::from_secs(10), &mut |_| ()));
    frames(&mut sender);
    let _ = sender.flush();
    let _ = sender.connection().close();
    receiving.join().unwrap().unwrap_err().to_string()
}

fn zeros(first: u64, count: u32, round: u32) -> PagesHeader {
    PagesHeader {
        first: PageNumber(first),
        round,
        count,
        encoding: Encoding::Zero,
        bytes: 0,
    }
}

fn add(framed: &mut Framed, header: PagesHeader) {
    framed
        .add(Kind::Pages, |into| into.extend(header.to_bytes()))
        .unwrap();
}

fn end(round: u32, pages: u64, digest: Digest) -> Message {
    Message::EndOfRound(EndOfRound {
        round,
        pages,
        digest,
    })
}

#[test]
fn a_stream_that_carries_what_it_should_not_is_refused() {
    let all = PAGES as u64;
    let text = told(|to| add(to, zeros(all - 1, 2, 0)));
    assert!(
        text.contains("pages up to 301 came for a guest of 300"),
        "{text}"
    );
    let text = told(|to| add(to, zeros(u64::MAX - 300, 256, 0)));
    assert!(text.contains("came for a guest of 300"), "{text}");
    let text = told(|to| add(to, zeros(5, 1, 1)));
    assert!(text.contains("sent page 5 of round 1 in round 0"), "{text}");
    let text = told(|to| to.say(&Message::Switch).unwrap());
    assert!(text.contains("carried a Switch"), "{text}");
    let text = told(|to| add(to, zeros(5, 1, 0)));
    assert!(text.contains("ended after 1 pages of round 0"), "{text}");
    let mut digest = RoundDigest::default();
    digest.add(&zeros(5, 1, 0), &[]);
    let good = digest.take();
    for (round, pages, digest) in [(0, 2, good), (1, 1, good), (0, 1, Digest(good.0 ^ 1))] {
        let text = told(|to| {
            add(to, zeros(5, 1, 0));
            let _ = to.say(&end(round, pages, digest));
        });
        assert!(text.contains("expected round 0, 1 pages"), "{text}");
    }
}

#[test]
fn a_delta_against_memory_that_is_another_is_refused() {
    let base = [1; PAGE_SIZE];
    let mut now = base;
    now[8] = 2;
    let mut delta = [0; crate::page::delta::MOST_BYTES];
    let bytes = crate::page::delta::encode(&base, &now, &mut delta).unwrap();
    let header = PagesHeader {
        encoding: Encoding::Delta,
        bytes: u32::try_from(bytes).unwrap(),
        ..zeros(5, 1, 0)
    };
    let text = told(|to| {
        to.add(Kind::Pages, |into| {
            into.extend(header.to_bytes());
            into.extend(&delta[..bytes]);
        })
        .unwrap();
    });
    assert!(
        text.contains("the two hosts hold different pages"),
        "{text}"
    );
}

//! Pages come out as they went in, and whatever else comes in does no harm.

use proptest::prelude::*;
use units::ByteSize;

use super::*;

const PAGES: u64 = 40;

/// What happens to some pages between two times that they are sent.
#[derive(Debug, Clone)]
enum Change {
    Zero,
    Random(u64),
    Repeating(u8),
    Words(Vec<(usize, u64)>),
    Nothing,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        Just(Change::Zero),
        any::<u64>().prop_map(Change::Random),
        any::<u8>().prop_map(Change::Repeating),
        proptest::collection::vec((0..PAGE_SIZE / 8, any::<u64>()), 1..20).prop_map(Change::Words),
        Just(Change::Nothing),
    ]
}

/// Bytes without pattern, the same for the same seed (xorshift).
fn random(page: &mut [u8], seed: u64) {
    let mut state = seed | 1;
    for word in page.chunks_exact_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes());
    }
}

impl Change {
    fn happen(&self, page: &mut [u8]) {
        match self {
            Self::Zero => page.fill(0),
            Self::Random(seed) => random(page, *seed),
            Self::Repeating(byte) => page.fill(*byte),
            Self::Words(words) => {
                for &(at, value) in words {
                    page[at * 8..at * 8 + 8].copy_from_slice(&value.to_le_bytes());
                }
            }
            Self::Nothing => {}
        }
    }
}

fn settings() -> impl Strategy<Value = EncoderSettings> {
    let remember = prop_oneof![Just(0u64), Just(8), Just(1000)];
    (any::<bool>(), remember).prop_map(|(compress, pages)| EncoderSettings {
        compress,
        remember: ByteSize::new(pages * 4096),
    })
}

fn place(page: u64) -> usize {
    usize::try_from(page).unwrap() * PAGE_SIZE
}

/// Sends pages, and puts what comes out where they belong.
fn transfer(
    encoder: &mut Encoder,
    decoder: &mut Decoder,
    first: u64,
    from: &[u8],
    to: &mut [u8],
) -> Vec<Run> {
    let (mut page, mut runs) = (first, Vec::new());
    let mut content = &from[place(first)..];
    while !content.is_empty() {
        let mut bytes = Vec::new();
        let run = encoder.encode(PageNumber(page), content, &mut bytes);
        let header = PagesHeader {
            first: PageNumber(page),
            round: 0,
            count: run.count,
            encoding: run.encoding,
            bytes: u32::try_from(bytes.len()).unwrap(),
        };
        let payload = [&header.to_bytes()[..], &bytes].concat();
        let (header, bytes) =
            PagesHeader::parse(&payload).expect("the wire takes what the encoder makes");
        let here = place(page)..place(page + u64::from(run.count));
        let now = to[here.clone()].to_vec();
        let read = |into: &mut [u8]| {
            into.copy_from_slice(&now);
            Ok::<(), PageError>(())
        };
        to[here.clone()].copy_from_slice(decoder.decode(&header, bytes, read).unwrap());
        content = &content[here.len()..];
        page += u64::from(run.count);
        runs.push(run);
    }
    runs
}

proptest! {
    #[test]
    fn pages_come_out_as_they_went_in(
        settings in settings(),
        rounds in proptest::collection::vec((0..PAGES, 1..=PAGES, proptest::collection::vec(change(), 1..6)), 1..8),
    ) {
        let mut encoder = Encoder::new(&settings, 1).unwrap();
        let mut decoder = Decoder::new().unwrap();
        let mut source = vec![0; place(PAGES)];
        let mut destination = source.clone();
        for (first, count, changes) in rounds {
            let behind = (first + count).min(PAGES);
            for (page, change) in source[place(first)..place(behind)].chunks_exact_mut(PAGE_SIZE).zip(changes.iter().cycle()) {
                change.happen(page);
            }
            transfer(&mut encoder, &mut decoder, first, &source[..place(behind)], &mut destination);
            prop_assert!(source == destination);
        }
    }

    #[test]
    fn whatever_comes_in_is_pages_or_an_error(
        encoding in prop_oneof![Just(Encoding::Compressed), Just(Encoding::Delta), Just(Encoding::Raw), Just(Encoding::Zero)],
        count in 1u32..=256, bytes in proptest::collection::vec(any::<u8>(), 0..6000),
    ) {
        let mut decoder = Decoder::new().unwrap();
        let header = PagesHeader { first: PageNumber(0), round: 0, count, encoding, bytes: 0 };
        let read = |into: &mut [u8]| { into.fill(7); Ok::<(), PageError>(()) };
        if let Ok(content) = decoder.decode(&header, &bytes, read) {
            prop_assert_eq!(content.len(), count as usize * PAGE_SIZE);
        }
    }

    #[test]
    fn damaged_pages_are_errors_or_pages_of_the_right_length(seed in any::<u64>(), at in any::<proptest::sample::Index>(), bit in 0u8..8, cut in any::<bool>()) {
        let mut encoder = Encoder::new(&EncoderSettings { compress: true, ..EncoderSettings::PLAIN }, 1).unwrap();
        let mut content = vec![0; PAGE_SIZE * 3];
        random(&mut content[..PAGE_SIZE], seed);
        content[PAGE_SIZE] = 1;
        let mut bytes = Vec::new();
        let run = encoder.encode(PageNumber(0), &content, &mut bytes);
        prop_assert_eq!(run.encoding, Encoding::Compressed);
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
        let header = PagesHeader { first: PageNumber(0), round: 0, count: run.count, encoding: run.encoding, bytes: 0 };
        let mut decoder = Decoder::new().unwrap();
        let outcome = decoder.decode(&header, &bytes, |_: &mut [u8]| Ok::<(), PageError>(()));
        prop_assert!(!cut || outcome.is_err());
        if let Ok(content) = outcome {
            prop_assert_eq!(content.len(), run.count as usize * PAGE_SIZE);
        }
    }

    #[test]
    fn changes_turn_one_page_into_the_other(seed in any::<u64>(), change in change()) {
        let mut base = vec![0; PAGE_SIZE];
        random(&mut base, seed);
        let mut now = base.clone();
        change.happen(&mut now);
        let mut bytes = [0; delta::MOST_BYTES];
        let written = delta::encode(&base, &now, &mut bytes);
        if matches!(change, Change::Nothing | Change::Words(_)) {
            prop_assert!(written.is_some());
        }
        if let Some(written) = written {
            delta::apply(&bytes[..written], &mut base).unwrap();
            prop_assert!(base == now);
        }
    }

    #[test]
    fn changes_on_another_base_are_noticed(seed in any::<u64>(), word in 0..PAGE_SIZE / 8) {
        let mut base = vec![0; PAGE_SIZE];
        random(&mut base, seed);
        let mut now = base.clone();
        now[100] ^= 1;
        let mut bytes = [0; delta::MOST_BYTES];
        let written = delta::encode(&base, &now, &mut bytes).unwrap();
        prop_assume!(word != 100 / 8);
        base[word * 8] ^= 1;
        prop_assert_eq!(delta::apply(&bytes[..written], &mut base), Err(delta::DeltaError::Base));
    }
}

fn all(settings: EncoderSettings, content: &[u8]) -> Vec<Run> {
    let mut encoder = Encoder::new(&settings, 1).unwrap();
    let mut to = vec![1; content.len()];
    let runs = transfer(
        &mut encoder,
        &mut Decoder::new().unwrap(),
        0,
        content,
        &mut to,
    );
    assert!(to == content);
    runs
}

fn run_of(count: u32, encoding: Encoding) -> Run {
    Run { count, encoding }
}

#[test]
fn zeros_go_together_and_without_bytes() {
    let mut content = vec![0; PAGE_SIZE * 256];
    assert_eq!(
        all(EncoderSettings::PLAIN, &content),
        [run_of(256, Encoding::Zero)]
    );
    content[PAGE_SIZE * 100 + 4095] = 1;
    let expected = [
        run_of(100, Encoding::Zero),
        run_of(1, Encoding::Raw),
        run_of(155, Encoding::Zero),
    ];
    assert_eq!(all(EncoderSettings::PLAIN, &content), expected);
}

#[test]
fn what_does_not_shrink_goes_as_it_is() {
    let mut content = vec![0; PAGE_SIZE * 20];
    random(&mut content, 5);
    let compress = EncoderSettings {
        compress: true,
        ..EncoderSettings::PLAIN
    };
    assert_eq!(
        all(compress, &content),
        [run_of(16, Encoding::Raw), run_of(4, Encoding::Raw)]
    );
    content.fill(9);
    assert_eq!(
        all(compress, &content),
        [
            run_of(16, Encoding::Compressed),
            run_of(4, Encoding::Compressed)
        ]
    );
}

#[test]
fn a_page_sent_again_goes_by_its_changes() {
    let remember = EncoderSettings {
        compress: false,
        remember: ByteSize::new(100 * 4096),
    };
    let mut encoder = Encoder::new(&remember, 1).unwrap();
    let mut decoder = Decoder::new().unwrap();
    let mut content = vec![0; PAGE_SIZE * 3];
    random(&mut content, 5);
    let mut to = vec![0; content.len()];
    assert_eq!(
        transfer(&mut encoder, &mut decoder, 0, &content, &mut to),
        [run_of(3, Encoding::Raw)]
    );
    content[PAGE_SIZE] ^= 1;
    random(&mut content[2 * PAGE_SIZE..], 6);
    let runs = transfer(&mut encoder, &mut decoder, 0, &content, &mut to);
    assert_eq!(
        runs,
        [
            run_of(1, Encoding::Delta),
            run_of(1, Encoding::Delta),
            run_of(1, Encoding::Raw)
        ]
    );
    assert!(to == content);
}

#[test]
fn a_compressed_gigabyte_of_nothing_does_not_come_in() {
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let header = PagesHeader {
        first: PageNumber(3),
        round: 0,
        count: 2,
        encoding: Encoding::Compressed,
        bytes: 0,
    };
    let mut decoder = Decoder::new().unwrap();
    let read = |_: &mut [u8]| Ok::<(), PageError>(());
    let error = decoder
        .decode(&header, &bomb, read)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("2 pages from page 3 on, sent as Compressed"),
        "{error}"
    );
}

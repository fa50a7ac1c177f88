use std::time::Duration;

use proptest::prelude::*;

use super::timeline::Holds;
use super::{Reader, Replay, ReplayError, Sample, Timeline, TimelineError, TraceError, Writer};
use crate::model::{CpuCost, Path, Random, Requirement, Skewed, Writes};
use crate::ram::{PageNumber, PageSet};

const MS: Duration = Duration::from_millis(1);

fn set(pages: u64, numbers: &[u64]) -> PageSet {
    let mut set = PageSet::empty(pages);
    for &number in numbers {
        set.insert(PageNumber(number));
    }
    set
}

fn written(pages: u64, samples: &[Sample]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), pages).unwrap();
    for sample in samples {
        writer.add(sample).unwrap();
    }
    writer.finish().unwrap()
}

/// All samples, or the first error.
fn read(bytes: &[u8]) -> Result<Vec<Sample>, TraceError> {
    Reader::new(bytes)?.collect()
}

/// Two windows with a gap between them.
fn example() -> Vec<Sample> {
    vec![
        Sample {
            at: MS * 5,
            window: MS * 5,
            dirty: set(300, &[0, 1, 2, 130, 299]),
        },
        Sample {
            at: MS * 20,
            window: MS * 10,
            dirty: set(300, &[]),
        },
    ]
}

/// The example as version 1 writes it. Whoever changes this breaks recorded traces.
const VERSION_1: &str = "434852444952545901000c002c01000000000000e8860c82\
    010d00c096b1020300027f00a801006b810557\
    0109c096b10280ade204000fff06bc\
    00020000000000000014d80727";

#[test]
fn the_bytes_of_version_1_stay_what_they_are() {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    assert_eq!(hex(&written(300, &example())), VERSION_1);
    let bytes: Vec<u8> = (0..VERSION_1.len() / 2)
        .map(|at| u8::from_str_radix(&VERSION_1[2 * at..2 * at + 2], 16).unwrap())
        .collect();
    assert_eq!(read(&bytes).unwrap(), example());
}

#[test]
fn a_trace_cut_off_anywhere_gives_its_whole_samples_and_says_so() {
    let bytes = written(300, &example());
    for length in 0..bytes.len() {
        let reader = match Reader::new(&bytes[..length]) {
            Ok(reader) => reader,
            Err(error) => {
                let cut = matches!(
                    error,
                    TraceError::NotATrace | TraceError::Truncated { samples: 0 }
                );
                assert!(cut && length < 24, "{length}: {error}");
                continue;
            }
        };
        let items: Vec<_> = reader.collect();
        let (last, good) = items.split_last().unwrap();
        let count = good.len() as u64;
        assert!(
            good.iter()
                .zip(example())
                .all(|(found, wanted)| *found.as_ref().unwrap() == wanted)
        );
        assert!(
            matches!(last, Err(TraceError::Truncated { samples }) if *samples == count),
            "{length}: {last:?}"
        );
    }
}

#[test]
fn a_changed_bit_anywhere_is_an_error() {
    let bytes = written(300, &example());
    for bit in 0..bytes.len() * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&bytes).is_err(), "bit {bit} changed unnoticed");
    }
}

/// A sample frame with this payload, checksum right, after the header of a guest of 300 pages.
fn with_payload(payload: &[u8]) -> Vec<u8> {
    let mut bytes = written(300, &[]);
    bytes.truncate(24);
    bytes.extend([super::SAMPLE, u8::try_from(payload.len()).unwrap()]);
    bytes.extend(payload);
    bytes.extend(super::checksum::crc(payload).to_le_bytes());
    bytes
}

#[test]
fn nonsense_is_named() {
    let cases: [(&[u8], &str); 9] = [
        (&[0, 0, 0], "its window has no length"),
        // 60 s and a nanosecond.
        (
            &[0, 0x81, 0xb0, 0x9d, 0xc2, 0xdf, 0x01, 0],
            "its window is longer than 60s",
        ),
        (
            &[0, 5, 1, 0xac, 2, 0],
            "it has pages that the guest does not have",
        ),
        (
            &[0, 5, 1, 0, 0xac, 2],
            "it has pages that the guest does not have",
        ),
        (&[0, 5, 2, 0, 0, 0, 0], "two of its ranges are one"),
        (&[0, 5, 1, 0, 0, 9], "bytes follow its last range"),
        (&[0, 5, 2, 0, 0], "it ends within a number"),
        (&[0xff; 11], "one of its numbers is beyond 64 bits"),
        (&[0, 5, 1, 0, 0x80], "it ends within a number"),
    ];
    for (payload, text) in cases {
        let error = read(&with_payload(payload)).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("sample 0 of the trace makes no sense: {text}"),
            "{payload:?}"
        );
    }
    let mut neither = written(300, &[]);
    neither[24] = 7;
    assert_eq!(
        read(&neither).unwrap_err().to_string(),
        "sample 0 of the trace makes no sense: it is neither a sample nor the end"
    );
    let mut more = written(300, &example());
    more.push(0);
    assert!(matches!(read(&more), Err(TraceError::LeftOver)));
    let mut huge = written(300, &[]);
    huge.truncate(24);
    huge.extend([1, 0xff, 0xff, 0xff, 0xff, 0x7f]);
    assert_eq!(
        read(&huge).unwrap_err().to_string(),
        "sample 0 of the trace makes no sense: it is longer than a sample of all pages"
    );
}

#[test]
fn other_files_and_versions_are_refused() {
    assert!(matches!(
        read(b"\x7fELF....and so on.........."),
        Err(TraceError::NotATrace)
    ));
    let mut later = written(300, &example());
    later[8] = 2;
    assert_eq!(
        read(&later).unwrap_err().to_string(),
        "the trace is of version 2; this program reads version 1"
    );
    let header = |bits: u16, pages: u64| {
        let mut bytes = [
            &b"CHRDIRTY"[..],
            &[1, 0],
            &bits.to_le_bytes(),
            &pages.to_le_bytes(),
        ]
        .concat();
        let sum = super::checksum::crc(&bytes);
        bytes.extend(sum.to_le_bytes());
        Reader::new(bytes.as_slice()).unwrap_err().to_string()
    };
    assert_eq!(
        header(21, 300),
        "the trace's header says bits of a page's size: 21; it has to be 12 (4 KiB)"
    );
    assert_eq!(
        header(12, 0),
        "the trace's header says pages: 0; it has to be from 1 to 1073741824 (4 TiB)"
    );
    assert!(header(12, 1 << 40).contains("1099511627776"));
}

#[test]
fn a_sample_that_does_not_belong_is_not_written() {
    let mut writer = Writer::new(Vec::new(), 300).unwrap();
    let [first, mut second]: [Sample; 2] = example().try_into().unwrap();
    writer.add(&first).unwrap();
    second.window = MS * 16;
    let error = writer.add(&second).unwrap_err();
    assert_eq!(
        error.to_string(),
        "a window of 16ms that ends at 20ms does not follow the last one, which ended at 5ms"
    );
    second.at = MS * 100_000;
    second.window = MS * 60_001;
    assert_eq!(
        writer.add(&second).unwrap_err().to_string(),
        "a window of 60.001s is too long for a trace; 60s is the longest"
    );
    second.window = Duration::ZERO;
    assert!(writer.add(&second).is_err());
    second.dirty = set(64, &[]);
    assert_eq!(
        writer.add(&second).unwrap_err().to_string(),
        "a sample of 64 pages does not belong to a trace of 300 pages"
    );
    assert_eq!(read(&writer.finish().unwrap()).unwrap(), [first]);
    assert!(Writer::new(Vec::new(), 0).is_err());
}

proptest! {
    #[test]
    fn what_is_written_is_read(pages in 1..3000u64, windows in prop::collection::vec((0..1u64 << 40, 1..=60_000_000_000u64, any::<u64>()), 0..12)) {
        let mut at = Duration::ZERO;
        let mut samples = Vec::new();
        for (gap, window, seed) in windows {
            let mut random = Random::new(seed);
            let share = random.unit();
            let numbers: Vec<u64> = (0..pages).filter(|_| random.unit() < share).collect();
            let window = Duration::from_nanos(window);
            at += Duration::from_nanos(gap) + window;
            samples.push(Sample { at, window, dirty: set(pages, &numbers) });
        }
        prop_assert_eq!(read(&written(pages, &samples)).unwrap(), samples);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), behind_header: bool) {
        let mut all = if behind_header { written(300, &[])[..24].to_vec() } else { Vec::new() };
        all.extend(bytes);
        let _ = read(&all);
    }

    #[test]
    fn a_timeline_knows_each_window_s_pages(seed: u64, pages in 1..200u64) {
        let mut random = Random::new(seed);
        let mut samples = Vec::new();
        for window in 1..6u32 {
            let numbers: Vec<u64> = (0..pages).filter(|_| random.unit() < 0.2).collect();
            samples.push(Sample { at: MS * window, window: MS, dirty: set(pages, &numbers) });
        }
        let bytes = written(pages, &samples);
        let timeline = Timeline::of_trace(Reader::new(bytes.as_slice()).unwrap(), &mut random).unwrap();
        prop_assert_eq!(timeline.length(), MS * 5);
        for sample in &samples {
            prop_assert_eq!(&timeline.dirty(sample.at - sample.window, sample.at), &sample.dirty);
        }
        let mut all = set(pages, &[]);
        samples.iter().for_each(|sample| all.union_with(&sample.dirty));
        prop_assert_eq!(timeline.dirty(Duration::ZERO, MS * 5), all);
    }
}

#[test]
fn a_trace_with_a_gap_is_not_replayed() {
    let bytes = written(300, &example());
    let error = Timeline::of_trace(Reader::new(bytes.as_slice()).unwrap(), &mut Random::new(1))
        .unwrap_err();
    assert!(
        matches!(error, TimelineError::Gap { gap, at } if gap == MS * 5 && at == MS * 10),
        "{error}"
    );
    let outside = Timeline::of_writes(4, MS, &[(MS, PageNumber(4))]).unwrap_err();
    assert_eq!(
        outside.to_string(),
        "page 4 is written at 1ms, outside a guest of 4 pages that is watched for 1ms"
    );
}

#[test]
fn the_whole_samples_of_a_trace_that_is_cut_off_are_replayed() {
    let bytes = written(300, &example()[..1]);
    let timeline = |bytes| Timeline::of_trace(Reader::new(bytes).unwrap(), &mut Random::new(1));
    let (whole, cut) = (
        timeline(&bytes[..]).unwrap(),
        timeline(&bytes[..bytes.len() - 1]).unwrap(),
    );
    assert_eq!((whole.is_cut_off(), cut.is_cut_off()), (false, true));
    assert_eq!(cut.length(), MS * 5);
    assert_eq!(cut.dirty(Duration::ZERO, MS * 5), example()[0].dirty);
    // Nothing can be made of no sample at all.
    let error = timeline(&bytes[..30]).unwrap_err();
    assert!(
        matches!(
            error,
            TimelineError::Trace(TraceError::Truncated { samples: 0 })
        ),
        "{error}"
    );
}

#[test]
fn a_trace_that_is_too_large_is_refused_before_it_is_held() {
    let bytes = written(300, &example());
    let within = |pages, writes| {
        let reader = Reader::new(bytes.as_slice()).unwrap();
        let made = Timeline::within(Holds { pages, writes }, reader, &mut Random::new(1));
        made.unwrap_err().to_string()
    };
    assert_eq!(
        within(299, 100),
        "the trace has 300 pages, and a replay holds 299 at most; record a smaller guest"
    );
    assert_eq!(
        within(300, 4),
        "the trace has 5 writes, and a replay holds 4 at most; record for less time, or with longer windows"
    );
    assert!(within(300, 5).contains("5ms"), "only the gap is wrong then");
    // A header and a sample of a few bytes.
    let bytes = written(1 << 30, &[]);
    let reader = Reader::new(bytes.as_slice()).unwrap();
    let error = Timeline::of_trace(reader, &mut Random::new(1)).unwrap_err();
    assert!(error.to_string().contains("1073741824 pages"), "{error}");
}

/// One page per millisecond, and nothing else takes time.
fn slow_path() -> Path {
    let cpu = CpuCost {
        per_page: Duration::ZERO,
        per_mebibyte: Duration::ZERO,
        share: 1.0,
    };
    Path {
        rate: "32768kbit/s".parse().unwrap(),
        rate_spread: 0.0,
        page_overhead: units::ByteSize::new(0),
        zero_pages: 0,
        compression: 1.0,
        compression_again: 1.0,
        round_cost: Duration::ZERO,
        pages_per_clear: 1,
        switch_delay: Duration::ZERO,
        switch_over: Skewed::fixed(MS),
        source: cpu,
        destination: cpu,
        tracked_write: Duration::ZERO,
    }
}

const ASKED: Requirement = Requirement {
    downtime: Duration::from_secs(1),
    finish: Duration::from_secs(10),
    confidence: 0.95,
};

#[test]
fn a_replay_counts_by_hand() {
    // Ten pages by address, page i sent at i ms. Page 2 is written before it is sent, page 3 after, page 9 while page 3 is sent again.
    let ms = |at: u32, page: u64| {
        (
            Duration::from_micros(u64::from(at) * 1000 + 500),
            PageNumber(page),
        )
    };
    let writes = [ms(101, 2), ms(105, 3), ms(110, 9)];
    let timeline = Timeline::of_writes(10, MS * 200, &writes).unwrap();
    let (path, start) = (slow_path(), MS * 100);
    let replay = Replay {
        timeline: &timeline,
        path: &path,
        requirement: ASKED,
        start,
    };
    let rates = Writes::known(&[1.0; 10]);
    let outcome = replay.run(&rates, &mut Random::new(1)).unwrap();
    let rounds: Vec<_> = outcome
        .rounds
        .iter()
        .map(|round| (round.sent, round.took, round.dirty))
        .collect();
    assert_eq!(rounds, [(10, MS * 10, 1), (1, MS, 1), (1, MS, 0)]);
    assert_eq!(
        (outcome.pages, outcome.again, outcome.bytes),
        (12, 2, 12 * 4096)
    );
    assert_eq!(
        (outcome.total, outcome.downtime, outcome.never),
        (MS * 13, MS, None)
    );
}

#[test]
fn what_happens_after_the_trace_is_not_made_up() {
    let timeline = Timeline::of_writes(10, MS * 105, &[]).unwrap();
    let (path, start) = (slow_path(), MS * 100);
    let replay = Replay {
        timeline: &timeline,
        path: &path,
        requirement: ASKED,
        start,
    };
    let error = replay
        .run(&Writes::known(&[1.0; 10]), &mut Random::new(1))
        .unwrap_err();
    assert!(
        matches!(error, ReplayError::TooShort { length, at } if length == MS * 105 && at == MS * 110),
        "{error}"
    );
    let other = replay
        .run(&Writes::known(&[1.0; 11]), &mut Random::new(1))
        .unwrap_err();
    assert_eq!(
        other.to_string(),
        "rates of 11 pages do not belong to a trace of 10 pages"
    );
}

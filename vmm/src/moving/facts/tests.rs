use migration::wire::message::MOST_OPAQUE;
use proptest::prelude::*;

use super::*;
use crate::units::Span;

fn basis(model: &str, speed: Option<u64>) -> HostBasis {
    let figure = |ns| Span::from(Duration::from_nanos(ns));
    HostBasis {
        overheads: [10_000, 20_000, 30_000].map(Duration::from_nanos),
        speed: speed.map(|ns| SpeedFigures {
            integer: figure(ns),
            float: figure(ns + 1),
            memory: figure(ns + 2),
        }),
        model: model.to_owned(),
    }
}

pub(in crate::moving) fn facts(model: &str, speed: Option<u64>) -> HostFacts {
    HostFacts {
        basis: basis(model, speed),
        kernel: "6.18".to_owned(),
        migration: Some(BitRate::new(400_000_000)),
        cpuid: vec![u32::MAX; MASKS.len()],
        capabilities: 511,
    }
}

fn server(q: u64, p: u64) -> Reservation {
    Reservation::new(Duration::from_millis(q), Duration::from_millis(p)).unwrap()
}

fn terms() -> Terms {
    Terms {
        source: facts("a", Some(1_000_000)),
        threads: vec![server(1, 4), server(1, 10)],
        rate: Some(BitRate::new(300_000_000)),
        best_effort: false,
    }
}

fn answer() -> Answer {
    Answer {
        destination: facts("b", None),
        vcpus: vec![Some(server(20, 50)), None],
        threads: vec![server(1, 4)],
        unchecked: vec!["vCPU 1: it has no reservation".to_owned()],
    }
}

#[test]
fn what_is_written_is_read_again_and_small() {
    assert_eq!(Terms::decode(&terms().encode()).unwrap(), terms());
    assert_eq!(Answer::decode(&answer().encode()).unwrap(), answer());
    assert!(terms().encode().len() < 512);
}

#[test]
fn a_version_of_the_future_left_over_bytes_and_none_are_errors() {
    let mut bytes = terms().encode();
    bytes[0] = 2;
    assert_eq!(Terms::decode(&bytes), Err(FactsError::Version { found: 2 }));
    let more = [terms().encode(), vec![0]].concat();
    let why = Terms::decode(&more).unwrap_err().to_string();
    assert!(why.contains("1 bytes are left over"), "{why}");
    assert!(Terms::decode(&[]).is_err());
    assert!(Terms::decode(&vec![1; MOST_OPAQUE + 1]).is_err());
}

#[test]
fn values_that_no_host_has_are_refused_by_name() {
    let why = |change: &dyn Fn(&mut Terms)| {
        let mut terms = terms();
        change(&mut terms);
        Terms::decode(&terms.encode()).unwrap_err().to_string()
    };
    let name = "x".repeat(LONGEST_NAME + 1);
    assert!(why(&|terms| terms.source.basis.model.clone_from(&name)).contains("model"));
    assert!(why(&|terms| terms.source.kernel = "a\nb".to_owned()).contains("kernel"));
    assert!(why(&|terms| terms.source.cpuid.clear()).contains("cpuid"));
    assert!(
        why(&|terms| terms.source.basis.overheads[1] = Duration::from_secs(1)).contains("overhead")
    );
    assert!(why(&|terms| terms.threads = vec![server(1, 4); MOST_THREADS + 1]).contains("threads"));
    let slow = SpeedFigures {
        integer: Span::from(Duration::ZERO),
        ..basis("a", Some(1)).speed.unwrap()
    };
    assert!(why(&|terms| terms.source.basis.speed = Some(slow)).contains("speed"));
    let mut many = answer();
    many.vcpus = vec![None; MOST_VCPUS + 1];
    assert!(Answer::decode(&many.encode()).is_err());
}

#[test]
fn features_that_the_other_host_lacks_are_named() {
    let (here, mut there) = (facts("a", None), facts("b", None));
    assert!(here.missing_at(&there).is_empty());
    // AVX2 and an unnamed bit of leaf 7, EBX.
    there.cpuid[2] &= !(1 << 5 | 1 << 2);
    there.capabilities &= !2;
    let missing = here.missing_at(&there);
    assert_eq!(
        missing,
        ["CPUID 0x7.0 EBX bit 2", "AVX2", "KVM's TSC deadline timer"]
    );
    assert!(there.missing_at(&here).is_empty());
}

#[test]
fn speeds_are_compared_where_they_were_measured_and_taken_for_equal_only_on_the_same_processor() {
    let slow = facts("a", Some(2_000_000));
    let fast = facts("b", Some(1_000_000));
    let speed = slow.beside(&fast).unwrap().unwrap();
    assert_eq!(
        speed.of(Duration::from_millis(10)),
        Duration::from_millis(20)
    );
    assert_eq!(facts("a", Some(1_020_000)).beside(&fast).unwrap(), None);
    assert_eq!(facts("a", None).beside(&facts("a", None)).unwrap(), None);
    let why = facts("a", None).beside(&fast).unwrap_err();
    assert!(why.contains("chronovisor host measure"), "{why}");
}

#[test]
fn two_pieces_are_one_and_two_again() {
    let both = join(b"plan", b"terms");
    assert_eq!(split(&both).unwrap(), (&b"plan"[..], &b"terms"[..]));
    assert!(split(&both[..3]).is_err());
    assert!(split(&both[..6]).is_err());
}

proptest! {
    #[test]
    fn whatever_bytes_come_nothing_breaks(at in 0..2000usize, byte: u8, cut in 0..2000usize, noise in prop::collection::vec(any::<u8>(), 0..200)) {
        for mut bytes in [terms().encode(), answer().encode()] {
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = Terms::decode(&bytes);
            let _ = Answer::decode(&bytes);
            let _ = split(&bytes);
        }
        let _ = Terms::decode(&[&[1, 0], &noise[..]].concat());
        let _ = Answer::decode(&[&[1, 0], &noise[..]].concat());
    }
}

use proptest::prelude::*;
use sched::analysis::overhead::Overheads;

use super::super::contract::{self, VcpuTerms, judge, works};
use super::*;

fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const WISH: Wish = Wish {
    downtime: Duration::from_millis(20),
    finish: Duration::from_secs(10),
    confidence: 0.95,
    rate: None,
    streams: 1,
    compress: false,
    protected: true,
    best_effort: false,
};

const MEANS: Means = Means {
    assured: None,
    cpus: [0.9; 2],
    reserved: true,
};

/// `hot` of 8192 pages, written `rate` times a second each.
fn writes(hot: usize, rate: f64) -> Writes {
    let mut rates = vec![0.0; 8192];
    rates[..hot].fill(rate);
    Writes::known(&rates)
}

fn promised(writes: &Writes, wish: &Wish, means: &Means) -> Result<Promise, Refusal> {
    let guest = Guest {
        writes,
        zero_pages: 0,
        ratio: 1.0,
    };
    promise(&guest, wish, means, &|_| Ok(Judgement::default()))
}

fn mbit(rate: u64) -> BitRate {
    BitRate::new(rate * 1_000_000)
}

#[test]
fn an_assured_rate_is_taken_and_so_is_the_cpu_time_for_it() {
    let means = Means {
        assured: Some(mbit(400)),
        ..MEANS
    };
    let promise = promised(&writes(100, 5.0), &WISH, &means).unwrap();
    let rate = promise.rate.unwrap().bits_per_second() as f64;
    assert!((rate - 4e8).abs() < 2e6, "{rate}");
    // 32 MiB at 400 Mbit/s, headers included.
    let total = promise.total.median.as_secs_f64();
    assert!((0.68..0.80).contains(&total), "{total}");
    assert!(promise.downtime.bound <= ms(20) && promise.need < mbit(60));
    // 45.6 MiB/s of 0.83 ms each with a fifth more, and 1 ms of 10 for the switch-over.
    let stream = promise.threads[0];
    assert_eq!((stream.period(), promise.threads.len()), (ms(4), 2));
    assert!((0.04..0.07).contains(&stream.utilisation()), "{stream}");
    let text = promise.to_string();
    for part in [
        "yes: total 7",
        " ms (95 %: ",
        "needs 400 Mbit/s, assured, and (",
        "on both hosts, reserved",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn without_an_assured_rate_the_least_that_keeps_the_promise_is_taken() {
    let promise = promised(&writes(100, 5.0), &WISH, &MEANS).unwrap();
    assert!(promise.rate.unwrap() < mbit(60), "{:?}", promise.rate);
    assert!(promise.total.bound <= WISH.finish);
    assert!(promise.to_string().contains("which no queue assures"));
    let sooner = Wish {
        finish: Duration::from_secs(1),
        ..WISH
    };
    let sooner = promised(&writes(100, 5.0), &sooner, &MEANS).unwrap();
    assert!(sooner.rate > promise.rate && sooner.share() > promise.share());
}

#[test]
fn nothing_is_reserved_or_paced_where_nothing_is_to_be() {
    let means = Means {
        reserved: false,
        ..MEANS
    };
    let promise = promised(&writes(0, 0.0), &WISH, &means).unwrap();
    assert!(promise.rate.is_none() && promise.threads.is_empty());
    // 32 MiB at 0.9 of a CPU.
    let total = promise.total.median.as_secs_f64();
    assert!((0.02..0.05).contains(&total), "{total}");
    assert!(promise.to_string().contains("no CPU time is reserved"));
}

#[test]
fn pages_of_zeroes_take_next_to_nothing() {
    let (writes, means) = (
        writes(0, 0.0),
        Means {
            assured: Some(mbit(100)),
            ..MEANS
        },
    );
    let of = |zero_pages| {
        let guest = Guest {
            writes: &writes,
            zero_pages,
            ratio: 1.0,
        };
        promise(&guest, &WISH, &means, &|_| Ok(Judgement::default())).unwrap()
    };
    let (full, empty) = (of(0), of(8000));
    assert!(empty.bytes.median < full.bytes.median / 30);
    assert!(
        empty.total.median < full.total.median / 5,
        "{:?} {:?}",
        empty.total,
        full.total
    );
}

#[test]
fn what_cannot_be_kept_is_refused_with_what_could() {
    let slow = Means {
        assured: Some(mbit(100)),
        ..MEANS
    };
    // 2000 pages that are always dirty, 3000 pages/s on the link.
    let refusal = promised(&writes(2000, 500.0), &WISH, &slow).unwrap_err();
    let nearest = refusal.nearest.clone().unwrap();
    assert!(nearest.downtime.unwrap() > ms(400), "{refusal}");
    let text = refusal.to_string();
    assert!(text.starts_with("no, because the guest writes"), "{text}");
    assert!(text.contains("; possible with a downtime of "), "{text}");
    let possible = Wish {
        downtime: nearest.downtime.unwrap(),
        finish: nearest.finish.unwrap_or(WISH.finish),
        ..WISH
    };
    promised(&writes(2000, 500.0), &possible, &slow).unwrap();
    let soon = Wish {
        finish: Duration::from_secs(1),
        ..WISH
    };
    let refusal = promised(&writes(10, 1.0), &soon, &slow).unwrap_err();
    assert!(refusal.nearest.unwrap().finish.unwrap() > Duration::from_secs(2));
    let shortest = Wish {
        downtime: Duration::from_micros(500),
        ..WISH
    };
    let text = promised(&writes(10, 1.0), &shortest, &slow)
        .unwrap_err()
        .to_string();
    assert!(text.contains("switch-over alone take"), "{text}");
}

#[test]
fn a_rate_beyond_the_assured_one_is_refused_and_wishes_without_sense_are() {
    let means = Means {
        assured: Some(mbit(100)),
        ..MEANS
    };
    let why = |wish: Wish| promised(&writes(0, 0.0), &wish, &means).unwrap_err();
    let more = why(Wish {
        rate: Some(mbit(200)),
        ..WISH
    });
    assert_eq!(more.nearest.unwrap().rate, Some(mbit(100)));
    for (wish, part) in [
        (
            Wish {
                confidence: 1.0,
                ..WISH
            },
            "confidence of 1",
        ),
        (
            Wish {
                downtime: Duration::ZERO,
                ..WISH
            },
            "downtime of 0ns",
        ),
        (
            Wish {
                finish: ms(10),
                ..WISH
            },
            "within 10ms",
        ),
        (Wish { streams: 0, ..WISH }, "0 streams"),
        (
            Wish {
                streams: 65,
                ..WISH
            },
            "65 streams",
        ),
    ] {
        let text = why(wish).to_string();
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn the_papers_reservation_is_refused_and_the_least_budget_is_what_would_be_possible() {
    let line = "task=t1,c=30ms,t=150ms task=t2,c=50ms,t=200ms";
    let tasks = rt_abi::taskset::TaskSet::parse(line).unwrap();
    let judged = |budget, tracking| {
        let request = VcpuRequest {
            reservation: Some(Reservation::new(budget, ms(50)).unwrap()),
            ..VcpuRequest::default()
        };
        let work = works(Some(&tasks), 1).remove(0);
        let terms = contract::Terms {
            pause: WISH.downtime,
            tracking,
            tracked_write: TRACKED_WRITE,
            overheads: Overheads::default(),
        };
        judge(&[VcpuTerms { request, work }], &terms)
    };
    let writes = writes(100, 5.0);
    let guest = Guest {
        writes: &writes,
        zero_pages: 0,
        ratio: 1.0,
    };
    let refusal = promise(&guest, &WISH, &MEANS, &|share| judged(ms(28), share)).unwrap_err();
    let (vcpu, least) = refusal.nearest.clone().unwrap().budgets[0];
    assert!(
        refusal.to_string().contains("; possible with Q = "),
        "{refusal}"
    );
    assert_eq!(vcpu, 0);
    let promise = promise(&guest, &WISH, &MEANS, &|share| judged(least, share)).unwrap();
    // 500 writes a second of 27 us.
    assert!(
        (0.003..0.03).contains(&promise.tracking),
        "{}",
        promise.tracking
    );
    let held = &promise.contract.held[0];
    assert!(held.raised.runtime() > least);
    assert!(
        promise.to_string().contains("while it is copied"),
        "{promise}"
    );
    assert_eq!(
        promise.json()["budgets"][0].as_f64(),
        Some(held.raised.runtime().as_secs_f64())
    );
}

#[test]
fn a_refusal_arrives_as_it_was_said() {
    let refusal = Refusal {
        reason: "x".repeat(2000),
        nearest: Some(Nearest {
            downtime: Some(ms(3)),
            finish: None,
            rate: Some(mbit(7)),
            budgets: vec![(1, ms(9))],
            otherwise: Some("a smaller guest".to_owned()),
        }),
    };
    let heard = Refusal::heard(&refusal.wire());
    assert_eq!(heard.reason.len(), 1024);
    assert_eq!(heard.nearest, refusal.nearest);
    assert!(heard.to_string().ends_with(
        "possible with a downtime of 3 ms and 7 Mbit/s and Q = 9 ms on vCPU 1 and a smaller guest"
    ));
    let plain = Refusal::because("no");
    assert_eq!(Refusal::heard(&plain.wire()), plain);
    let hostile = migration::wire::Refuse {
        reason: "no".to_owned(),
        nearest: vec![255; 100],
    };
    assert_eq!(Refusal::heard(&hostile), plain);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever is promised is within what was asked and what can be had; and what is called possible is possible.
    #[test]
    fn a_promise_keeps_to_what_was_asked_and_a_refusals_nearest_is_promised(
        hot in 0usize..4000, rate in 0.1..2000.0f64, down in 2u64..200, finish in 1u64..60,
        assured in prop::option::of(20u64..2_000), cpu in 0.01..0.9f64, reserved: bool,
    ) {
        let writes = writes(hot, rate);
        let wish = Wish { downtime: ms(down), finish: Duration::from_secs(finish), ..WISH };
        let means = Means { assured: assured.map(mbit), cpus: [cpu, 0.9], reserved };
        match promised(&writes, &wish, &means) {
            Ok(promise) => {
                prop_assert!(promise.downtime.bound <= wish.downtime && promise.total.bound <= wish.finish);
                prop_assert!(promise.total.median <= promise.total.bound);
                prop_assert_eq!(promise.threads.is_empty(), !reserved);
                prop_assert!(promise.path.source.share <= cpu * 1.000_001);
                if let (Some(assured), Some(rate)) = (means.assured, promise.rate) {
                    prop_assert!(rate <= assured);
                }
            }
            Err(refusal) => {
                let nearest = refusal.nearest.unwrap();
                let wish = Wish {
                    downtime: nearest.downtime.unwrap_or(wish.downtime),
                    finish: nearest.finish.unwrap_or(wish.finish),
                    ..wish
                };
                let again = promised(&writes, &wish, &means);
                prop_assert!(again.is_ok(), "{:?}", again.err().map(|refusal| refusal.to_string()));
            }
        }
    }
}

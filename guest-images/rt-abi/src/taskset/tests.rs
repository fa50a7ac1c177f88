use super::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::string::{String, ToString};
use std::vec::Vec;

fn pattern() -> impl Strategy<Value = Pattern> {
    prop_oneof![
        Just(Pattern::Sequential),
        Just(Pattern::Random),
        Just(Pattern::Hot),
        Just(Pattern::Zipf)
    ]
}

fn dirty() -> impl Strategy<Value = Dirty> {
    let content = prop_oneof![
        Just(Content::Counter),
        Just(Content::Random),
        Just(Content::Half)
    ];
    (1u64..1 << 28, any::<u32>(), pattern(), content).prop_map(
        |(region, touched, pattern, content)| Dirty {
            pages: u32::try_from(u64::from(touched) % region).unwrap().max(1),
            region: region * PAGE,
            pattern,
            content,
            // A task's periods are longer than some phases: the set gives it one.
            phase: 0,
        },
    )
}

/// Times of every magnitude, with and without round values, so that every unit occurs.
fn time(least: u64, most: u64) -> impl Strategy<Value = u64> {
    let unit = prop_oneof![
        Just(1u64),
        Just(1_000),
        Just(1_000_000),
        Just(1_000_000_000)
    ];
    (0..=most - least, 0u32..50, unit)
        .prop_map(move |(above, shift, unit)| ((least + (above >> shift)) / unit * unit).max(least))
}

/// A valid periodic task; names and priorities are given by the set.
fn periodic() -> impl Strategy<Value = Task> {
    let times = time(LEAST_PERIOD, LONGEST)
        .prop_flat_map(|period| (Just(period), time(1, period)))
        .prop_flat_map(|(period, deadline)| (Just(period), Just(deadline), time(1, deadline)))
        .prop_flat_map(|(period, deadline, most)| {
            let least = prop_oneof![Just(most), time(0, most)];
            (Just(period), Just(deadline), Just(most), least)
        })
        .prop_flat_map(|(period, deadline, most, least)| {
            let critical = prop_oneof![Just(0), time(0, least)];
            (Just((period, deadline)), Just(most), Just(least), critical)
        });
    let rest = (0..MAX_VCPUS, time(0, LONGEST), any::<bool>());
    let steps = option::of(0..LONGEST);
    (times, rest, option::of(dirty()), any::<bool>(), steps).prop_map(
        |(
            ((period, deadline), c_max, c_min, critical),
            (vcpu, offset, gaps),
            dirty,
            implicit,
            longer,
        )| {
            Task {
                step: longer.map(|longer| Step {
                    c: deadline,
                    every: (period + longer).min(LONGEST),
                }),
                vcpu,
                c_min,
                c_max,
                deadline: if implicit { period } else { deadline },
                offset,
                gaps,
                dirty,
                critical,
                ..Task::periodic(Name::HOG, 0, period)
            }
        },
    )
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        (any::<u16>(), 1..=u32::MAX).prop_map(|(port, count)| Mode::Bench { port, count }),
        prop_oneof![Just(Storm::Pio), Just(Storm::Mmio)].prop_map(Mode::Storm),
        prop_oneof![
            Just(Fault::Triple),
            Just(Fault::InvalidOpcode),
            Just(Fault::Hang),
            Just(Fault::Wild),
            Just(Fault::WildMemory)
        ]
        .prop_map(Mode::Fault),
    ]
}

/// The options of a valid set without tasks.
fn options() -> impl Strategy<Value = TaskSet> {
    let policy = prop_oneof![Just(Policy::RateMonotonic), Just(Policy::Edf)];
    let times = (time(1, LONGEST), time(1_000, LONGEST), time(0, LONGEST));
    let clock = option::of(1_000u64..=100_000_000);
    (policy, times, any::<u64>(), any::<bool>(), clock).prop_map(
        |(policy, (duration, gap, start), seed, stream, tsc_khz)| TaskSet {
            policy,
            duration,
            seed,
            gap,
            start,
            stream,
            tsc_khz,
            ..TaskSet::default()
        },
    )
}

/// Any valid task set.
fn task_set() -> impl Strategy<Value = TaskSet> {
    let tasks = vec((periodic(), option::of(any::<u8>())), 0..20);
    let hogs = proptest::sample::subsequence((0..MAX_VCPUS).collect::<Vec<_>>(), 0..8);
    let more_vcpus = 0..=MAX_VCPUS;
    let running = (options(), tasks, hogs, more_vcpus).prop_map(|(mut set, tasks, hogs, more)| {
        for (place, (mut task, priority)) in tasks.into_iter().enumerate() {
            task.name = Name::new(&std::format!("t-{place}.x_Y")).unwrap();
            task.priority = priority.filter(|_| set.policy == Policy::RateMonotonic);
            set.add(task).unwrap();
        }
        for vcpu in hogs {
            set.add(Task::hog(vcpu)).unwrap();
        }
        set.vcpus = set.vcpus.max(more);
        set
    });
    let other = (options(), mode(), 1..=MAX_VCPUS).prop_map(|(set, mode, vcpus)| TaskSet {
        mode,
        vcpus,
        ..set
    });
    prop_oneof![3 => running, 1 => other]
}

/// Text made of pieces of the grammar, so that it gets further than noise would.
fn nearly_a_line() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => proptest::sample::select(std::vec![
            "task=", "hog=", "sched=", "duration=", "bench=pio", "storm=", "fault=", "vcpus=", "seed=", "c=", "t=", "d=",
            "c2=", "step=", "o=", "cpu=", "prio=", "dirty=", "region=", "pattern=", "content=", "phase=", "port=", ",", " ", "=", "..", ".", "0x", "ms", "s",
            "ns", "K", "G", "rm", "edf", "hot", "1", "0", "30", "18446744073709551615", "99999999999999999999999",
        ]).prop_map(String::from),
        1 => any::<String>(),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_task_set_survives_being_written_and_read(set in task_set()) {
        prop_assert_eq!(TaskSet::parse(&set.to_string()), Ok(set));
    }

    #[test]
    fn what_is_accepted_is_written_so_that_it_reads_the_same(line in nearly_a_line()) {
        if let Ok(set) = TaskSet::parse(&line) {
            prop_assert_eq!(TaskSet::parse(&set.to_string()), Ok(set));
        }
    }

    #[test]
    fn no_text_panics_and_every_error_is_one_bounded_printable_line(line in prop_oneof![nearly_a_line(), any::<String>()]) {
        if let Err(error) = TaskSet::parse(&line) {
            let message = error.to_string();
            prop_assert!(message.len() < 300 && !message.chars().any(char::is_control), "{message:?}");
        }
    }

    #[test]
    fn one_changed_byte_of_a_valid_line_does_not_panic(set in task_set(), place: proptest::sample::Index, byte in 32u8..127) {
        let mut line = set.to_string().into_bytes();
        let place = place.index(line.len());
        line[place] = byte;
        let _ = TaskSet::parse(&String::from_utf8(line).unwrap());
    }

    #[test]
    fn a_time_survives_being_written_and_read(ns: u64) {
        prop_assert_eq!(Time::parse(&Time(ns).to_string()), Some(Time(ns)));
    }

    #[test]
    fn a_size_survives_being_written_and_read(bytes: u64) {
        prop_assert_eq!(Size::parse(&Size(bytes).to_string()), Some(Size(bytes)));
    }

    #[test]
    fn a_decimal_time_is_exact(whole in 0u64..1_000_000, thousandths in 0u64..1_000) {
        let text = std::format!("{whole}.{thousandths:03}ms");
        prop_assert_eq!(Time::parse(&text), Some(Time(whole * 1_000_000 + thousandths * 1_000)));
    }
}

#[test]
fn the_task_set_of_the_cbs_kvm_paper_reads_as_it_is_meant() {
    let set = TaskSet::parse("sched=rm duration=10s task=t1,c=30ms,t=150ms task=t2,c=50ms,t=200ms");
    let mut expected = TaskSet {
        duration: 10_000_000_000,
        ..TaskSet::default()
    };
    for (name, c, t) in [("t1", 30, 150), ("t2", 50, 200)] {
        let name = Name::new(name).unwrap();
        expected
            .add(Task::periodic(name, c * 1_000_000, t * 1_000_000))
            .unwrap();
    }
    assert_eq!(set, Ok(expected));
}

#[test]
fn every_key_reads_as_it_is_meant() {
    let line = "sched=rm seed=0x10 gap=0.5ms start=1s stream=1 tsc_khz=2100000 vcpus=4 \
                task=a,c=3ms..8ms,t=20ms,d=10ms,o=1.5us,cpu=2,prio=7,gaps=1,s=2.5ms task=b,t=10ms,dirty=64,pattern=hot hog=3";
    let set = TaskSet::parse(line).unwrap();
    assert_eq!((set.seed, set.gap, set.start), (16, 500_000, 1_000_000_000));
    assert_eq!(
        (set.stream, set.tsc_khz, set.vcpus),
        (true, Some(2_100_000), 4)
    );
    let [a, b, hog] = set.tasks() else {
        panic!("{set:?}")
    };
    assert_eq!(
        (a.c_min, a.c_max, a.period),
        (3_000_000, 8_000_000, 20_000_000)
    );
    assert_eq!((a.deadline, a.offset, a.vcpu), (10_000_000, 1_500, 2));
    assert_eq!((a.priority, a.gaps, a.dirty), (Some(7), true, None));
    assert_eq!((a.critical, b.critical), (2_500_000, 0));
    let dirty = Dirty {
        pages: 64,
        region: 16 << 20,
        pattern: Pattern::Hot,
        content: Content::Counter,
        phase: 0,
    };
    assert_eq!((b.dirty, b.c_max, b.deadline), (Some(dirty), 0, 10_000_000));
    assert_eq!(*hog, Task::hog(3));
}

#[test]
fn memory_that_a_task_writes_is_read_and_written_as_it_was_meant() {
    let line = "task=w,t=1ms,dirty=20,region=32M,pattern=zipf,content=half,phase=5s";
    let set = TaskSet::parse(line).unwrap();
    let dirty = Dirty {
        pages: 20,
        region: 32 << 20,
        pattern: Pattern::Zipf,
        content: Content::Half,
        phase: 5_000_000_000,
    };
    assert_eq!(set.tasks()[0].dirty, Some(dirty));
    assert_eq!(set.tasks()[0].to_string(), line);
}

#[test]
fn a_guest_has_as_many_vcpus_as_its_tasks_use_unless_told() {
    let vcpus = |line| TaskSet::parse(line).map(|set| set.vcpus);
    assert_eq!(vcpus(""), Ok(1));
    assert_eq!(vcpus("hog=0 task=a,c=1ms,t=10ms,cpu=2"), Ok(3));
    assert_eq!(vcpus("vcpus=5 hog=2"), Ok(5));
}

#[test]
fn the_other_modes_read_with_their_defaults() {
    let mode = |line| TaskSet::parse(line).map(|set| set.mode);
    let bench = |port, count| Ok(Mode::Bench { port, count });
    assert_eq!(mode("bench=pio"), bench(0x80, 20_000));
    assert_eq!(mode("bench=pio,n=7,port=0x3f8"), bench(0x3f8, 7));
    assert_eq!(mode("storm=mmio"), Ok(Mode::Storm(Storm::Mmio)));
    assert_eq!(mode("fault=ud"), Ok(Mode::Fault(Fault::InvalidOpcode)));
}

/// Checks that each line is refused with a message that contains the text beside it.
fn assert_refused(cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        let message = TaskSet::parse(line).unwrap_err().to_string();
        assert!(message.contains(expected), "{line}: {message}");
    }
}

#[test]
fn an_error_in_an_option_names_the_key_the_value_and_what_would_fit() {
    assert_refused(&[
        ("foo=1", "unknown key `foo`; the keys here are sched,"),
        ("quiet", "`quiet` is not of the form key=value"),
        ("sched=fifo", "sched=fifo is not rm or edf"),
        (
            "duration=10",
            "duration=10 is not a time in whole nanoseconds",
        ),
        ("duration=0.1ns", "duration=0.1ns is not a time in whole"),
        ("duration=0s", "duration=0ns is below the shortest run, 1ns"),
        ("gap=2000000000s", "is above the longest time, 3600000s"),
        ("gap=999ns", "gap=999ns is below the shortest gap, 1us"),
        ("seed=-1", "seed=-1 is not a whole number below 2^64"),
        (
            "seed=1 seed=2",
            "seed=2 gives `seed` a second time; remove one",
        ),
        (
            "tsc_khz=999",
            "tsc_khz=999 is below the slowest clock, 1000",
        ),
        ("vcpus=17", "vcpus=17 is above the most vCPUs, 16"),
        ("vcpus=0", "vcpus=0 is below one, 1"),
    ]);
}

#[test]
fn an_error_in_the_words_of_a_task_names_the_task() {
    assert_refused(&[
        ("task=,c=1ms", "task= is not a name of 1 to 15 letters"),
        (
            "task=sixteen-letters_",
            "task=sixteen-letters_ is not a name",
        ),
        ("task=a,c=1ms,", "task a: `` is not of the form key=value"),
        ("task=a,c=1ms", "task a: `t` is missing; write t=TIME"),
        ("task=a,t=1ms", "task a: `c` is missing; write c=TIME"),
        (
            "task=a,t=1ms,region=1M",
            "`dirty` is missing; write dirty=PAGES",
        ),
        (
            "task=a,c=1ms,t=9ms,c2=2ms",
            "task a: `step` is missing; write step=TIME",
        ),
        (
            "task=a,c=1ms,t=9ms,step=2s",
            "task a: `c2` is missing; write c2=TIME",
        ),
        (
            "task=a,c=1ms,c=1ms",
            "task a: c=1ms gives `c` a second time",
        ),
        (
            "task=a,x=1",
            "task a: unknown key `x`; the keys here are c, t,",
        ),
        (
            "task=a,prio=256",
            "prio=256 is not a whole number from 0 to 255",
        ),
        ("task=a,gaps=yes", "task a: gaps=yes is not 0 or 1"),
        ("task=a,c=1ms..2,t=9ms", "c=1ms..2 is not a time or two"),
    ]);
}

#[test]
fn an_error_in_the_values_of_a_task_names_the_bound() {
    assert_refused(&[
        (
            "task=a,c=40ms,t=50ms,d=30ms",
            "task a: c=40ms is above its deadline, 30ms",
        ),
        (
            "task=a,c=4ms,t=50ms,d=60ms",
            "d=60ms is above its period, 50ms",
        ),
        (
            "task=a,c=8ms..3ms,t=50ms",
            "c=3ms is below the lower end of its range, 8ms",
        ),
        (
            "task=a,c=1us,t=50us",
            "t=50us is below the least period, 100us",
        ),
        (
            "task=a,c=0ms,t=50ms",
            "c=0ns is below the least execution time, 1ns",
        ),
        (
            "task=a,c=3ms..8ms,t=50ms,s=4ms",
            "task a: s=4ms is above the least execution time of its job, 3ms",
        ),
        (
            "task=a,t=9ms,dirty=1,s=1ms",
            "s=1ms is above the least execution time of its job, 0ns",
        ),
        (
            "vcpus=2 task=a,c=1ms,t=9ms,cpu=2",
            "cpu=2 is above the last vCPU of this guest (see vcpus), 1",
        ),
        ("hog=16", "task hog: cpu=16 is above the highest vCPU, 15"),
        (
            "sched=edf task=a,c=1ms,t=9ms,prio=1",
            "prio=1 has no meaning under sched=edf",
        ),
        (
            "task=a,c=1ms,t=9ms,c2=10ms,step=1s",
            "c2=10ms is above its deadline, 9ms",
        ),
        (
            "task=a,c=2ms,t=9ms,s=2ms,c2=1ms,step=1s",
            "c2=1ms is below its critical section, 2ms",
        ),
        (
            "task=a,c=1ms,t=9ms,c2=2ms,step=8ms",
            "step=8ms is below its period, 9ms",
        ),
        ("task=a,t=9ms,dirty=0", "dirty=0 is below one page, 1"),
        (
            "task=a,t=9ms,dirty=5,region=16K",
            "dirty=5 is above the pages of its region, 4",
        ),
        (
            "task=a,t=9ms,dirty=1,region=5000",
            "region=5000 is not whole pages; use a multiple of 4K",
        ),
        (
            "task=a,t=9ms,dirty=1,region=2048G",
            "region=2048G is above the largest region, 1024G",
        ),
    ]);
}

#[test]
fn tasks_and_modes_that_contradict_each_other_are_refused() {
    assert_refused(&[
        ("hog=0 hog=0", "hog=0 is there twice"),
        (
            "task=hog,c=1ms,t=9ms",
            "task=hog is what hogs are called; rename it",
        ),
        (
            "task=a,c=1ms,t=9ms task=a,c=1ms,t=9ms",
            "task=a is the name of two tasks; rename one",
        ),
        ("bench=mmio", "bench=mmio is not pio[,n=COUNT][,port=PORT]"),
        ("bench=pio,n=0", "n=0 is below one, 1"),
        (
            "bench=pio,x=0",
            "unknown key `x`; the keys here are n, port",
        ),
        ("storm=disk", "storm=disk is not pio or mmio"),
        (
            "storm=pio fault=ud",
            "fault=ud is one too many; choose one of",
        ),
        (
            "storm=pio hog=0",
            "task=hog would not run beside bench, storm or fault",
        ),
    ]);
}

#[test]
fn the_thirty_third_task_is_refused() {
    let many = (0..33).map(|n| std::format!("task=t{n},c=1ms,t=9ms "));
    let expected = "task=t32 is above the greatest number of tasks, 32";
    assert_refused(&[(&many.collect::<String>(), expected)]);
}

#[test]
fn a_long_word_is_cut_in_the_error() {
    let line = std::format!("seed={}", "é".repeat(1_000));
    let message = TaskSet::parse(&line).unwrap_err().to_string();
    assert_eq!(
        message,
        std::format!(
            "seed={}... is not a whole number below 2^64",
            "é".repeat(14)
        )
    );
}

use super::*;
use crate::taskset::{LONGEST, Policy};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use std::string::ToString;

fn error(line: &str) -> std::string::String {
    TaskSet::parse(line).unwrap_err().to_string()
}

#[test]
fn a_guest_with_everything_reads_as_one_would_write_it() {
    let line = "sched=rm duration=1s seed=0 vcpus=1 net=10.77.0.2/24,10.77.0.1 http=80,t=2s,prio=9 \
        rtp=10.77.0.1:5004,c=5680us,rate=1214000 rtp=10.77.0.9:5006,c=0ns,rate=800000,o=5ms,t=20ms \
        echo=7 sink=9 source=19 virtio_mmio.device=4K@0xd0000000:5 virtio_mmio.device=512@0xfeb00e00:12";
    let set = TaskSet::parse(line).unwrap();
    assert_eq!(set.to_string(), line);
    assert_eq!(
        set.interface().unwrap().gateway,
        Some(Ipv4Addr::new(10, 77, 0, 1))
    );
    assert_eq!(set.web_port(), Some(80));
    assert_eq!(
        set.services,
        Services {
            echo: Some(7),
            sink: Some(9),
            source: Some(19)
        }
    );
    let names: std::vec::Vec<_> = set
        .tasks()
        .iter()
        .map(|task| task.name.to_string())
        .collect();
    assert_eq!(names, ["net", "http", "rtp0", "rtp1"]);
    let transports: std::vec::Vec<_> = set
        .transports()
        .map(|t| (t.size, t.address, t.interrupt))
        .collect();
    assert_eq!(transports, [(4096, 0xd000_0000, 5), (512, 0xfeb0_0e00, 12)]);
}

#[test]
fn the_identity_that_linux_allows_for_a_transport_is_read_over() {
    let set = TaskSet::parse("virtio_mmio.device=0x200@0xfeb00000:6:3").unwrap();
    let transport = Transport {
        size: 512,
        address: 0xfeb0_0000,
        interrupt: 6,
    };
    assert_eq!(
        set.transports().copied().collect::<std::vec::Vec<_>>(),
        [transport]
    );
}

#[test]
fn what_cannot_be_is_refused_with_what_to_change() {
    for (line, parts) in [
        ("net=10.77.0.2", &["net=10.77.0.2", "ADDRESS/PREFIX"][..]),
        ("net=10.77.0.300/24", &["ADDRESS/PREFIX"]),
        ("net=10.77.0.2/33", &["33", "31"]),
        ("net=10.77.0.0/24", &["10.77.0.0", "host"]),
        ("net=224.0.0.1/24", &["224.0.0.1", "host"]),
        ("net=10.77.0.2/24,10.78.0.1", &["10.78.0.1", "outside"]),
        ("net=10.77.0.2/24,10.77.0.2", &["gateway"]),
        ("net=10.77.0.2/24,t=1us", &["net", "t=1us", "100us"]),
        ("net=10.77.0.2/24,c=1ms", &["`c`", "t, prio"]),
        ("net=10.77.0.2/24 net=10.77.0.3/24", &["second time"]),
        ("sched=edf net=10.77.0.2/24,prio=1", &["prio", "edf"]),
        ("echo=7", &["net=ADDRESS/PREFIX"]),
        ("http=80", &["net=ADDRESS/PREFIX"]),
        ("rtp=10.0.0.1:99", &["net=ADDRESS/PREFIX"]),
        ("net=10.77.0.2/24 echo=0", &["echo=0", "1 to 65535"]),
        ("net=10.77.0.2/24 http=80 sink=80", &["sink=80", "another"]),
        (
            "net=10.77.0.2/24 echo=5004 rtp=10.77.0.1:5004",
            &["5004", "sent from"],
        ),
        ("net=10.77.0.2/24 rtp=10.77.0.1", &["ADDRESS:PORT"]),
        ("net=10.77.0.2/24 rtp=10.77.0.1:0", &["ADDRESS:PORT"]),
        (
            "net=10.77.0.2/24 rtp=10.77.0.1:9,rate=9",
            &["rate=9", "128"],
        ),
        (
            "net=10.77.0.2/24 rtp=10.77.0.1:9,c=41ms",
            &["rtp0", "41ms", "40ms"],
        ),
        (
            "net=10.77.0.2/24 rtp=10.77.0.1:9 task=rtp0,c=1ms,t=2ms",
            &["rtp0", "two tasks"],
        ),
        (
            "task=net,c=1ms,t=2ms net=10.77.0.2/24",
            &["net", "two tasks"],
        ),
        ("virtio_mmio.device=4K", &["SIZE@ADDRESS"]),
        ("virtio_mmio.device=4K@0xd0000000:24", &["below 24"]),
        ("virtio_mmio.device=4K@0xfffff001:5", &["below 4 GiB"]),
        ("bench=pio net=10.77.0.2/24", &["bench"]),
    ] {
        let message = error(line);
        for part in parts {
            assert!(
                message.contains(part),
                "{line}: {message:?} does not mention {part:?}"
            );
        }
    }
}

fn endpoint() -> impl Strategy<Value = SocketAddrV4> {
    (1u32.., 1u16..)
        .prop_map(|(address, port)| SocketAddrV4::new(Ipv4Addr::from_bits(address), port))
}

/// A valid set with a network, and services and streams.
fn with_network() -> impl Strategy<Value = TaskSet> {
    let interface = (1u8..31, 1u32..0xdfff_ffff, option::of(any::<u32>()));
    let streams = vec(
        (
            endpoint(),
            1_000_000u64..1_000_000_000,
            128u64..65_536,
            any::<u64>(),
            0..LONGEST,
        ),
        0..5,
    );
    let places = (
        LEAST_PERIOD..LONGEST,
        LEAST_PERIOD..LONGEST,
        any::<Option<u8>>(),
    );
    let ports = (
        option::of(1u16..5000),
        option::of(1u16..100),
        option::of(100u16..200),
        option::of(200u16..),
    );
    let transports = vec((0u64..1 << 20, 0u64..1 << 29, 0u32..24), 0..=MAX_TRANSPORTS);
    (interface, streams, places, ports, transports).prop_filter_map(
        "not an address of a host",
        |((prefix, address, gateway), streams, places, ports, transports)| {
            let (echo, web, sink, source) = ports;
            let mask = u32::MAX << (32 - u32::from(prefix));
            let gateway = gateway.map(|host| Ipv4Addr::from_bits(address & mask | host & !mask));
            let interface = Interface {
                address: Ipv4Addr::from_bits(address),
                prefix,
                gateway,
            };
            let mut set = TaskSet {
                services: Services { echo, sink, source },
                ..TaskSet::default()
            };
            let mut network = Task::network(interface, places.0);
            network.priority = places.2;
            set.add(network).unwrap();
            if let Some(port) = web {
                set.add(Task::web(port, places.1)).unwrap();
            }
            for (number, (to, period, bytes, execution, offset)) in (0..).zip(streams) {
                let rate = bytes * 8_000_000_000 / period;
                let times = (execution % period, period);
                set.add(Task {
                    offset,
                    ..Task::streaming(number, Stream { to, rate }, times)
                })
                .unwrap();
            }
            for (more, address, interrupt) in transports {
                set.add_transport(Transport {
                    size: LEAST_TRANSPORT + more,
                    address: address * 4,
                    interrupt,
                })
                .unwrap();
            }
            set.check().is_ok().then_some(set)
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_reads_as_it_was(set in with_network()) {
        prop_assert_eq!(TaskSet::parse(&set.to_string()), Ok(set));
    }

    #[test]
    fn services_take_their_place_by_period_and_priority(set in with_network(), t in 1u64..1000) {
        let mut set = set;
        set.add(Task::periodic(Name::new("other").unwrap(), 1, t * 1_000_000)).unwrap();
        let ranks = crate::policy::ranks(Policy::RateMonotonic, set.tasks());
        let network = set.tasks()[0];
        let other = set.tasks().len() - 1;
        let first = network.priority.is_some() || network.period <= t * 1_000_000;
        prop_assert_eq!(ranks[0] < ranks[other], first);
        prop_assert_eq!(crate::policy::next_release(&network, 0, 5), u64::MAX);
    }

    #[test]
    fn no_text_panics_the_reader(
        key in "(net|http|rtp|echo|virtio_mmio.device)",
        value in "[0-9./:@,=a-zKM]{0,40}",
    ) {
        let _ = TaskSet::parse(&std::format!("{key}={value}"));
        let _ = TaskSet::parse(&std::format!("net=10.0.0.2/8 {key}={value}"));
    }
}

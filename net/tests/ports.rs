//! Ports on the real kernel: what goes where, what is dropped and counted, what is left behind. How much passes is measured in
//! `shares.rs`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::ports::{PortCounters, PortSpec, Ports, PortsConfig, PortsError};
use net::share::{Priority, Share};
use net::tap::{Tap, TapError};
use net::tree::TreeError;
use system_tests::{Need, requires};
use units::BitRate;

use support::traffic::{frame, source};
use support::{NEEDS, namespace, printed};

const BRIDGE: &str = "chronovisor0";
const EVERYBODY: [u8; 6] = [0xff; 6];

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn share(assured: &str, ceil: &str) -> Share {
    Share::new(rate(assured), rate(ceil), Priority::BestEffort).unwrap()
}

fn config() -> PortsConfig {
    PortsConfig {
        bridge: BRIDGE.to_owned(),
        capacity: rate("10Gbit/s"),
        broadcast: rate("1Mbit/s"),
        mtu: 1500,
        address: Some(("10.77.0.1".parse().unwrap(), 24)),
    }
}

fn ports(namespace: &Namespace) -> Ports {
    namespace.run(|| Ports::create(&config())).unwrap().unwrap()
}

fn mac(number: u8) -> Mac {
    Mac::new([2, 0, 0x5e, 0x10, 0, number]).unwrap()
}

fn attach(namespace: &Namespace, ports: &mut Ports, number: u8) -> Tap {
    let spec = PortSpec {
        mac: mac(number),
        share: share("100Mbit/s", "1Gbit/s"),
    };
    namespace.run(|| ports.attach(&spec)).unwrap().unwrap()
}

fn send(tap: &Tap, from: [u8; 6], to: [u8; 6]) {
    let frame = frame(from, to, 100);
    let mut tap = tap;
    assert_eq!(tap.write(&frame).unwrap(), frame.len());
}

/// Those of the frames of the experimental protocol that come within a moment, by source.
fn received(tap: &Tap) -> Vec<[u8; 6]> {
    let begun = Instant::now();
    let mut from = Vec::new();
    let mut buffer = [0; 2000];
    let mut tap = tap;
    while begun.elapsed() < Duration::from_millis(50) {
        match tap.read(&mut buffer) {
            Ok(length) => from.extend(source(&buffer[..length])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    from
}

fn counters(ports: &mut Ports, tap: &Tap) -> PortCounters {
    let states = ports.list().unwrap().into_iter();
    let mut own = states.filter(|state| state.name == tap.name());
    own.next().unwrap().counters
}

#[test]
fn a_frame_is_counted_where_it_came_from_and_where_it_goes() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("count");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    let before = [counters(&mut ports, &a), counters(&mut ports, &b)];
    // The bridge need not have seen the receiver.
    for _ in 0..7 {
        send(&a, mac(1).octets(), mac(2).octets());
    }
    assert_eq!(received(&b), [mac(1).octets(); 7]);
    let after = [counters(&mut ports, &a), counters(&mut ports, &b)];
    assert_eq!(after[0].out.packets - before[0].out.packets, 7);
    assert_eq!(after[0].out.bytes - before[0].out.bytes, 700);
    assert_eq!(after[1].into.packets - before[1].into.packets, 7);
    assert_eq!(after[0].into, before[0].into);
    assert_eq!(after[1].out, before[1].out);
}

#[test]
fn frames_for_an_address_that_nobody_has_reach_nobody() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("nowhere");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    send(&a, mac(1).octets(), mac(77).octets());
    assert_eq!(received(&b), [] as [[u8; 6]; 0]);
    assert_eq!(counters(&mut ports, &b).into.packets, 0);
}

#[test]
fn a_foreign_source_address_is_dropped_and_counted_and_nothing_else_is() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("spoof");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    let before = counters(&mut ports, &a);
    // Another port's, nobody's, one that differs in the last bit or in the first, a group's.
    let own = mac(1).octets();
    let wrong = [
        mac(2).octets(),
        mac(9).octets(),
        [own[0], own[1], own[2], own[3], own[4], own[5] ^ 1],
        [own[0] ^ 4, own[1], own[2], own[3], own[4], own[5]],
        EVERYBODY,
    ];
    for from in wrong {
        send(&a, from, mac(2).octets());
        send(&a, from, EVERYBODY);
    }
    send(&a, own, mac(2).octets());
    assert_eq!(received(&b), [own]);
    let after = counters(&mut ports, &a);
    assert_eq!(after.foreign_mac_drops - before.foreign_mac_drops, 10);
    assert_eq!(after.out.packets - before.out.packets, 1);
    assert_eq!(counters(&mut ports, &b).foreign_mac_drops, 0);
}

#[test]
fn frames_that_find_the_queue_full_are_drops_of_the_class_alone() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("full");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    ports
        .change(&[(a.name(), share("1Mbit/s", "1Mbit/s"))])
        .unwrap();
    let (mut writer, frame) = (&a, frame(mac(1).octets(), mac(2).octets(), 1500));
    for _ in 0..200 {
        writer.write_all(&frame).unwrap();
    }
    let after = counters(&mut ports, &a);
    // 140 kB and what leaves meanwhile.
    assert!((80..110).contains(&after.out.drops), "{after:?}");
    assert!(
        (100_000..=140_000).contains(&after.out.backlog),
        "{after:?}"
    );
    assert_eq!(after.foreign_mac_drops, 0);
    drop(b);
}

#[test]
fn what_a_tap_does_not_read_is_counted_as_link_drops() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("stall");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    let mut netlink = namespace.netlink().unwrap();
    b.set_queue_length(&mut netlink, 10).unwrap();
    let before = counters(&mut ports, &b).link_drops;
    for _ in 0..50 {
        send(&a, mac(1).octets(), mac(2).octets());
    }
    thread::sleep(Duration::from_millis(50));
    let dropped = counters(&mut ports, &b).link_drops - before;
    assert!((38..=45).contains(&dropped), "{dropped}");
}

#[test]
fn broadcasts_reach_every_port_and_the_host_in_a_class_of_their_own() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("broadcast");
    let mut ports = ports(&namespace);
    let taps: Vec<_> = (1..=3).map(|n| attach(&namespace, &mut ports, n)).collect();
    let before: Vec<_> = taps.iter().map(|tap| counters(&mut ports, tap)).collect();
    let multicast = [0x01, 0x00, 0x5e, 0, 0, 5];
    send(&taps[0], mac(1).octets(), EVERYBODY);
    send(&taps[0], mac(1).octets(), multicast);
    for (tap, expected) in taps.iter().zip([0, 2, 2]) {
        assert_eq!(received(tap).len(), expected, "{}", tap.name());
    }
    let after: Vec<_> = taps.iter().map(|tap| counters(&mut ports, tap)).collect();
    let grown =
        |n: usize, packets: fn(&PortCounters) -> u64| packets(&after[n]) - packets(&before[n]);
    assert_eq!(grown(0, |c| c.broadcast_out.packets), 2);
    assert_eq!(grown(0, |c| c.out.packets), 0);
    assert!(grown(1, |c| c.broadcast_into.packets) >= 2);
    assert_eq!(grown(1, |c| c.into.packets), 0);
}

#[test]
fn a_change_holds_in_both_directions_or_not_at_all() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("change");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    let shares = |ports: &mut Ports| -> Vec<_> {
        let states = ports.list().unwrap().into_iter();
        states
            .map(|s| (s.out.assured, s.into.assured, s.out.ceil, s.into.ceil))
            .collect()
    };
    let before = shares(&mut ports);
    let (small, great) = (share("5Mbit/s", "10Mbit/s"), share("1Gbit/s", "2Gbit/s"));
    ports
        .change(&[(a.name(), small), (b.name(), great)])
        .unwrap();
    let of = |share: Share| (share.assured, share.assured, share.ceil, share.ceil);
    assert_eq!(shares(&mut ports), [of(small), of(great)]);
    let original = share("100Mbit/s", "1Gbit/s");
    for wrong in ["cv1p9", "eth0", "", "cvp", "cv99p1"] {
        let error = ports
            .change(&[(a.name(), original), (wrong, original)])
            .unwrap_err();
        assert!(matches!(error, PortsError::NoPort { .. }), "{error}");
    }
    let gone = ("cv2p9", small, great);
    let error = ports
        .replace(&[(a.name(), small, original), gone])
        .unwrap_err();
    assert!(error.to_string().contains("change the class"), "{error}");
    let zero = Share {
        assured: rate("0bit/s"),
        ..original
    };
    let error = ports
        .change(&[(a.name(), original), (b.name(), zero)])
        .unwrap_err();
    assert!(
        matches!(error, PortsError::Tree(TreeError::Share(_))),
        "{error}"
    );
    assert_eq!(shares(&mut ports), [of(small), of(great)]);
    ports
        .change(&[(a.name(), original), (b.name(), original)])
        .unwrap();
    assert_eq!(shares(&mut ports), before);
}

#[test]
fn capacity_and_broadcast_rate_can_be_changed() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let namespace = namespace("capacity");
    let mut ports = ports(&namespace);
    let _a = attach(&namespace, &mut ports, 1);
    ports
        .set_capacity(rate("5Gbit/s"), rate("3Mbit/s"))
        .unwrap();
    let out = printed(
        &namespace,
        &["tc", "class", "show", "dev", "chronovisor0-tx"],
    );
    let into = printed(
        &namespace,
        &["tc", "class", "show", "dev", "chronovisor0-rx"],
    );
    for line in [
        "4356:1 root rate 5Gbit ceil 5Gbit",
        "4356:10 parent 4356:1 rate 3Mbit ceil 3Mbit",
    ] {
        assert!(out.contains(line), "no `{line}` in:\n{out}");
    }
    assert!(out.contains("rate 8Kbit ceil 3Mbit"), "{out}");
    assert!(into.contains("rate 6Mbit ceil 6Mbit"), "{into}");
    let _b = attach(&namespace, &mut ports, 2);
    let into = printed(
        &namespace,
        &["tc", "class", "show", "dev", "chronovisor0-rx"],
    );
    assert_eq!(into.matches("rate 6Mbit ceil 6Mbit").count(), 2, "{into}");
}

#[test]
fn a_port_that_is_detached_leaves_nothing_and_its_place_is_taken_again() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let namespace = namespace("detach");
    let mut ports = ports(&namespace);
    let traces = || -> Vec<String> {
        let tc = |what, device| printed(&namespace, &["tc", what, "show", "dev", device]);
        let mut lines: Vec<_> = ["chronovisor0-tx", "chronovisor0-rx"]
            .iter()
            .flat_map(|device| [tc("class", device), tc("filter", device)])
            .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
            .collect();
        lines.sort();
        lines
    };
    let before = traces();
    let a = attach(&namespace, &mut ports, 1);
    assert_ne!(traces(), before);
    ports.detach(a.name()).unwrap();
    let name = a.name().to_owned();
    drop(a);
    assert_eq!(traces(), before);
    let error = ports.detach(&name).unwrap_err();
    assert!(matches!(error, PortsError::NoPort { .. }), "{error}");
    assert_eq!(attach(&namespace, &mut ports, 1).name(), name);
}

#[test]
fn what_a_crash_leaves_behind_the_next_who_opens_takes_away() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("crash");
    let mut ports = ports(&namespace);
    let a = attach(&namespace, &mut ports, 1);
    let b = attach(&namespace, &mut ports, 2);
    // As the kernel does when a process ends.
    drop(a);
    let mut again = namespace.run(|| Ports::open(BRIDGE)).unwrap().unwrap();
    assert_eq!(again.repair().unwrap(), 0);
    let names: Vec<_> = again
        .list()
        .unwrap()
        .into_iter()
        .map(|state| state.name)
        .collect();
    assert_eq!(names, [b.name()]);
    drop(b);
    assert_eq!(again.repair().unwrap(), 1);
}

#[test]
fn a_bridge_is_made_once_and_leaves_nothing() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("once");
    let mut netlink = namespace.netlink().unwrap();
    let open = || namespace.run(|| Ports::open(BRIDGE)).unwrap();
    assert!(matches!(open().unwrap_err(), PortsError::None { .. }));
    let before = device::list(&mut netlink).unwrap().len();
    let ports = ports(&namespace);
    let error = namespace
        .run(|| Ports::create(&config()))
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, PortsError::Exists { .. }), "{error}");
    ports.delete().unwrap();
    assert_eq!(device::list(&mut netlink).unwrap().len(), before);
    assert!(matches!(open().unwrap_err(), PortsError::None { .. }));
}

#[test]
fn somebody_elses_interface_of_a_needed_name_is_never_touched() {
    requires!(NEEDS[0], NEEDS[1]);
    for name in [BRIDGE, "chronovisor0-tx", "chronovisor0-rx"] {
        let namespace = namespace("taken");
        let mut netlink = namespace.netlink().unwrap();
        netlink.apply(&[device::add_bridge(name)]).unwrap();
        let before = device::list(&mut netlink).unwrap();
        for error in [
            namespace
                .run(|| Ports::create(&config()))
                .unwrap()
                .unwrap_err(),
            namespace.run(|| Ports::open(name)).unwrap().unwrap_err(),
        ] {
            let is_about_it = matches!(&error, PortsError::Foreign { name: n } if n == name);
            assert!(
                is_about_it || matches!(error, PortsError::Netlink(_)),
                "{error}"
            );
        }
        assert_eq!(device::list(&mut netlink).unwrap(), before);
    }
}

#[test]
fn a_bridge_that_cannot_be_finished_is_not_begun() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("undone");
    let mut netlink = namespace.netlink().unwrap();
    let before = device::list(&mut netlink).unwrap();
    let wrong = [
        PortsConfig {
            mtu: 40,
            ..config()
        },
        PortsConfig {
            capacity: rate("0bit/s"),
            ..config()
        },
        PortsConfig {
            broadcast: rate("101Gbit/s"),
            ..config()
        },
        PortsConfig {
            address: Some(("10.77.0.1".parse().unwrap(), 64)),
            ..config()
        },
        PortsConfig {
            bridge: "chronovisor-long".to_owned(),
            ..config()
        },
        PortsConfig {
            bridge: String::new(),
            ..config()
        },
    ];
    for config in wrong {
        let error = namespace
            .run(|| Ports::create(&config))
            .unwrap()
            .unwrap_err();
        assert!(!error.to_string().is_empty());
        assert_eq!(
            device::list(&mut netlink).unwrap(),
            before,
            "{config:?}: {error}"
        );
    }
}

#[test]
fn a_tap_of_a_name_that_is_taken_is_refused() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("tap");
    let tap = |name: &str| namespace.run(|| Tap::open(name)).unwrap();
    let first = tap("t0").unwrap();
    for name in ["t0", "lo"] {
        let error = tap(name).unwrap_err();
        assert!(
            matches!(&error, TapError::Exists { name: n } if n == name),
            "{error}"
        );
    }
    for name in ["", "t%d", "a/b", "a-name-of-17-chars"] {
        assert!(matches!(tap(name).unwrap_err(), TapError::Netlink(_)));
    }
    drop(first);
    drop(tap("t0").unwrap());
}

//! Trees against what the kernel reports of them, and against what `tc` says.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use net::class::ClassId;
use net::device;
use net::htb;
use net::namespace::Namespace;
use net::share::{Priority, Share};
use net::tree::{Match, NewClass, Tree, TreeError};
use nix::errno::Errno;
use system_tests::{Need, requires};
use units::BitRate;

use support::{NEEDS, namespace, printed};

fn share(assured: &str, ceil: &str, priority: Priority) -> Share {
    Share {
        assured: assured.parse().expect("a rate"),
        ceil: ceil.parse().expect("a rate"),
        priority,
    }
}

fn best_effort(assured: &str, ceil: &str) -> Share {
    share(assured, ceil, Priority::BestEffort)
}

fn class(minor: u16) -> ClassId {
    ClassId::new(minor).expect("a class of one's own")
}

fn rate(text: &str) -> BitRate {
    text.parse().expect("a rate")
}

/// A namespace with an interface `q`.
fn with_queue(what: &str) -> Namespace {
    let namespace = namespace(what);
    let mut netlink = namespace.netlink().expect("a socket");
    netlink.apply(&[device::add_ifb("q")]).expect("an ifb");
    let link = device::get(&mut netlink, "q").expect("the ifb");
    netlink.apply(&[device::set_up(&link, true)]).expect("up");
    namespace
}

fn tree_of(namespace: &Namespace, capacity: &str) -> Tree {
    let create = || Tree::create("q", rate(capacity), &best_effort("1Mbit/s", "10Mbit/s"));
    namespace.run(create).expect("inside").expect("a tree")
}

#[test]
fn the_kernel_reports_every_share_as_it_was_given() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = with_queue("round-trip");
    let mut tree = tree_of(&namespace, "100Gbit/s");
    let rates = [
        "8kbit/s",
        "100kbit/s",
        "600kbit/s",
        "1214kbit/s",
        "6Mbit/s",
        "10Mbit/s",
        "999Mbit/s",
        "1Gbit/s",
        "5Gbit/s",
        "34.359738Gbit/s",
        "34.4Gbit/s",
        "100Gbit/s",
    ];
    let pairs = rates
        .iter()
        .enumerate()
        .flat_map(|(at, assured)| rates[at..].iter().map(move |ceil| (*assured, *ceil)));
    tree.add(&[NewClass {
        id: class(0x10),
        share: best_effort("8kbit/s", "8kbit/s"),
        matches: vec![],
    }])
    .unwrap();
    for (number, (assured, ceil)) in (0u16..).zip(pairs) {
        let priority = Priority::ALL[usize::from(number % 2)];
        let (id, wanted) = (class(0x20 + number), share(assured, ceil, priority));
        let matches = vec![Match::Marked];
        tree.add(&[NewClass {
            id,
            share: wanted,
            matches,
        }])
        .unwrap();
        tree.change(&[(class(0x10), wanted)]).unwrap();
        let classes = tree.classes().unwrap();
        for id in [id, class(0x10)] {
            let (reported, counters) = classes[&id];
            assert_eq!(reported.assured, wanted.assured);
            assert_eq!(reported.ceil, wanted.ceil);
            assert_eq!(reported.priority, u32::from(number % 2));
            assert_eq!(reported.quantum, htb::quantum(wanted.assured));
            // A tick is 64 ns.
            let burst = htb::burst(wanted.assured).bytes();
            let tick = wanted.assured.bits_per_second() * 64 / 8_000_000_000 + 1;
            assert!(
                reported.burst.bytes().abs_diff(burst) <= tick,
                "{assured}: {} instead of {burst}",
                reported.burst
            );
            assert_eq!(counters, net::class::Counters::default());
        }
    }
}

#[test]
fn tc_reads_what_was_made() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let namespace = with_queue("oracle");
    let mut tree = tree_of(&namespace, "1Gbit/s");
    tree.add(&[
        NewClass {
            id: class(0x20),
            share: share("600Mbit/s", "900Mbit/s", Priority::Gold),
            matches: vec![
                Match::Destination {
                    network: "10.1.2.0".parse().unwrap(),
                    prefix: 24,
                },
                Match::Destination {
                    network: "fd00:1::".parse().unwrap(),
                    prefix: 48,
                },
            ],
        },
        NewClass {
            id: class(0x21),
            share: best_effort("5Mbit/s", "40Gbit/s"),
            matches: vec![Match::Marked],
        },
    ])
    .unwrap();
    let classes = printed(&namespace, &["tc", "class", "show", "dev", "q"]);
    for line in [
        "class htb 4356:1 root rate 1Gbit ceil 1Gbit",
        "class htb 4356:20 parent 4356:1 leaf",
        "prio 0 rate 600Mbit ceil 900Mbit burst 75000b cburst 112500b",
        "prio 1 rate 5Mbit ceil 40Gbit",
    ] {
        assert!(classes.contains(line), "no `{line}` in:\n{classes}");
    }
    let queues = printed(&namespace, &["tc", "qdisc", "show", "dev", "q"]);
    for line in [
        "qdisc htb 4356: root refcnt 2 r2q 10 default 0x2 direct_packets_stat 0",
        "parent 4356:20 limit 3750000b",
        "parent 4356:21 limit 140000b",
    ] {
        assert!(queues.contains(line), "no `{line}` in:\n{queues}");
    }
    let filters = printed(&namespace, &["tc", "filter", "show", "dev", "q"]);
    for line in [
        "protocol ip pref 4 u32",
        "flowid 4356:20",
        "match 0a010200/ffffff00 at 16",
        "protocol ipv6 pref 6 u32",
        "match fd000001/ffffffff at 24",
        "match 00000000/ffff0000 at 28",
    ] {
        assert!(filters.contains(line), "no `{line}` in:\n{filters}");
    }
    tree.change(&[(class(0x21), best_effort("100Mbit/s", "200Mbit/s"))])
        .unwrap();
    let queues = printed(&namespace, &["tc", "qdisc", "show", "dev", "q"]);
    assert!(queues.contains("parent 4356:21 limit 625000b"), "{queues}");

    tree.remove(&[class(0x20)]).unwrap();
    let filters = printed(&namespace, &["tc", "filter", "show", "dev", "q"]);
    assert!(!filters.contains("flowid"), "{filters}");
    tree.delete().unwrap();
    let queues = printed(&namespace, &["tc", "qdisc", "show", "dev", "q"]);
    assert!(!queues.contains("htb"), "{queues}");
}

#[test]
fn a_tree_is_found_again_and_made_only_once() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = with_queue("again");
    let open = || namespace.run(|| Tree::open("q")).unwrap();
    assert!(matches!(open().unwrap_err(), TreeError::None { .. }));
    drop(tree_of(&namespace, "1Gbit/s"));
    let mut tree = open().unwrap();
    assert_eq!(tree.classes().unwrap().len(), 2);
    let again = namespace
        .run(|| Tree::create("q", rate("1Gbit/s"), &best_effort("1Mbit/s", "1Mbit/s")))
        .unwrap();
    assert!(matches!(again.unwrap_err(), TreeError::Exists { .. }));
    tree.set_capacity(rate("2Gbit/s")).unwrap();
    assert_eq!(
        tree.classes().unwrap()[&ClassId::LINK].0.ceil,
        rate("2Gbit/s")
    );
    tree.delete().unwrap();
    assert!(matches!(open().unwrap_err(), TreeError::None { .. }));
}

#[test]
fn somebody_elses_queue_is_never_touched() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let namespace = with_queue("foreign");
    let foreign = [
        "tc qdisc add dev q root handle 1: htb default 10",
        "tc qdisc add dev q root handle 7: tbf rate 1mbit burst 10kb limit 10kb",
        // The number of ours, the kind of another.
        "tc qdisc add dev q root handle 4356: bfifo limit 9999",
    ];
    for command in foreign {
        printed(&namespace, &command.split(' ').collect::<Vec<_>>());
        let before = printed(&namespace, &["tc", "qdisc", "show", "dev", "q"]);
        let create = || Tree::create("q", rate("1Gbit/s"), &best_effort("1Mbit/s", "1Mbit/s"));
        let error = namespace.run(create).unwrap().unwrap_err();
        assert!(matches!(error, TreeError::Foreign { .. }), "{error}");
        assert!(
            error.to_string().contains("tc qdisc del dev q root"),
            "{error}"
        );
        let error = namespace.run(|| Tree::open("q")).unwrap().unwrap_err();
        assert!(matches!(error, TreeError::Foreign { .. }), "{error}");
        let after = printed(&namespace, &["tc", "qdisc", "show", "dev", "q"]);
        assert_eq!(before, after);
        printed(&namespace, &["tc", "qdisc", "del", "dev", "q", "root"]);
    }
}

#[test]
fn filters_that_others_put_at_an_interfaces_hooks_outlive_a_tree() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let namespace = with_queue("hooks");
    printed(&namespace, &["tc", "qdisc", "add", "dev", "q", "clsact"]);
    let filter = "tc filter add dev q egress protocol ip u32 match ip dst 10.0.0.1 action mirred egress mirror dev lo";
    printed(&namespace, &filter.split(' ').collect::<Vec<_>>());
    let hooks = || printed(&namespace, &["tc", "filter", "show", "dev", "q", "egress"]);
    let before = hooks();
    assert!(before.contains("mirred"), "{before}");
    let tree = tree_of(&namespace, "1Gbit/s");
    assert_eq!(hooks(), before);
    tree.delete().unwrap();
    assert_eq!(hooks(), before);
}

#[test]
fn a_refused_change_leaves_every_class_as_it_was() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = with_queue("all-or-none");
    let mut tree = tree_of(&namespace, "1Gbit/s");
    let new = |minor| NewClass {
        id: class(minor),
        share: best_effort("5Mbit/s", "10Mbit/s"),
        matches: vec![Match::Destination {
            network: "10.0.0.1".parse().unwrap(),
            prefix: 32,
        }],
    };
    tree.add(&[new(0x20), new(0x21)]).unwrap();
    let rates = |tree: &mut Tree| -> Vec<_> {
        let classes = tree.classes().unwrap().into_iter();
        classes.map(|(id, (rates, _))| (id, rates)).collect()
    };
    let before = rates(&mut tree);

    let other = best_effort("100Mbit/s", "100Mbit/s");
    let error = tree
        .change(&[(class(0x20), other), (class(0x99), other)])
        .unwrap_err();
    assert!(error.to_string().contains("no class 4356:99"), "{error}");
    for wrong in [
        best_effort("0bit/s", "1Mbit/s"),
        best_effort("1Mbit/s", "101Gbit/s"),
        best_effort("101Gbit/s", "101Gbit/s"),
        best_effort("2Mbit/s", "1Mbit/s"),
    ] {
        let error = tree
            .change(&[(class(0x20), other), (class(0x21), wrong)])
            .unwrap_err();
        assert!(matches!(error, TreeError::Share(_)), "{error}");
        let share = NewClass {
            share: wrong,
            ..new(0x22)
        };
        assert!(matches!(
            tree.add(&[share]).unwrap_err(),
            TreeError::Share(_)
        ));
    }
    // Step four of six fails: the class exists.
    let error = tree.add(&[new(0x22), new(0x20), new(0x23)]).unwrap_err();
    assert!(
        error.to_string().contains("add the class 4356:20 to q"),
        "{error}"
    );
    assert!(matches!(
        tree.remove(&[class(0x20), class(0x99)]),
        Err(TreeError::NoClass { .. })
    ));
    assert_eq!(rates(&mut tree), before);
    tree.remove(&[class(0x20), class(0x21)]).unwrap();
}

#[test]
fn an_interface_that_vanishes_is_an_error_and_a_new_one_of_its_name_is_another() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = with_queue("vanish");
    let mut tree = tree_of(&namespace, "1Gbit/s");
    let mut netlink = namespace.netlink().unwrap();
    netlink
        .apply(&[device::delete("q"), device::add_ifb("q")])
        .unwrap();
    let error = tree.set_capacity(rate("2Gbit/s")).unwrap_err();
    let TreeError::Netlink(error) = error else {
        panic!("{error}")
    };
    assert_eq!(error.errno(), Some(Errno::ENODEV), "{error}");
    assert!(error.to_string().contains("of q"), "{error}");
    tree.delete().unwrap();
    let error = namespace.run(|| Tree::open("eth7")).unwrap().unwrap_err();
    assert!(error.to_string().contains("no interface eth7"), "{error}");
}

#[test]
fn a_tree_is_found_however_many_interfaces_come_and_go() {
    const OTHERS: usize = 200;
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("churn");
    let mut netlink = namespace.netlink().unwrap();
    let name = |number: usize| format!("f{}", number % OTHERS);
    // Before it in every list, which is therefore given in several parts.
    for number in 0..OTHERS {
        netlink.apply(&[device::add_ifb(&name(number))]).unwrap();
        let link = device::get(&mut netlink, &name(number)).unwrap();
        netlink.apply(&[device::set_up(&link, true)]).unwrap();
    }
    netlink.apply(&[device::add_ifb("q")]).unwrap();
    tree_of(&namespace, "1Gbit/s");
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut gone = (0..OTHERS).map(name);
            while let (false, Some(name)) = (done.load(Ordering::Relaxed), gone.next()) {
                netlink.apply(&[device::delete(&name)]).unwrap();
            }
        });
        let lost = (0..500).filter(|_| namespace.run(|| Tree::open("q")).unwrap().is_err());
        let lost = lost.count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(lost, 0);
    });
}

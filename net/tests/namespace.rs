//! Namespaces, interfaces and transactions, against the kernel and against what `ip` says.

mod support;

use std::process::Command;

use net::device;
use net::namespace::{Namespace, NamespaceError};
use net::netlink::{NetlinkError, Step};
use nix::errno::Errno;
use system_tests::{Need, requires};

use support::{NEEDS, namespace, printed};

#[test]
fn a_namespace_is_one_of_ips_and_goes_when_dropped() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("ip"));
    let namespace = namespace("name");
    let name = namespace.name().to_owned();
    let listed = || {
        let output = Command::new("ip").args(["netns", "list"]).output().unwrap();
        let names = String::from_utf8(output.stdout).unwrap();
        names
            .lines()
            .any(|line| line.split(' ').next() == Some(&name))
    };
    assert!(listed());
    let error = Namespace::create(&name).unwrap_err();
    assert!(matches!(error, NamespaceError::Exists { .. }), "{error}");
    assert!(printed(&namespace, &["ip", "link", "show", "lo"]).contains("LOOPBACK,UP"));
    drop(namespace);
    assert!(!listed());
    let error = Namespace::open(&name).unwrap_err();
    assert!(error.to_string().contains(&name), "{error}");
}

#[test]
fn a_socket_stays_in_the_namespace_it_was_opened_in() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("socket");
    let mut netlink = namespace.netlink().unwrap();
    netlink.apply(&[device::add_ifb("chronovisor-d")]).unwrap();
    assert!(
        device::find(&mut netlink, "chronovisor-d")
            .unwrap()
            .is_some()
    );
    let mut own = net::netlink::Netlink::open().unwrap();
    assert_eq!(device::find(&mut own, "chronovisor-d").unwrap(), None);
}

#[test]
fn interfaces_are_made_as_ip_would_make_them() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("ip"));
    let (one, other) = (namespace("one"), namespace("other"));
    let mut netlink = one.netlink().unwrap();
    let made = [
        device::add_bridge("b"),
        device::add_ifb("i"),
        device::add_veth("v", "w", Some(&other)),
    ];
    netlink.apply(&made).unwrap();
    let bridge = device::get(&mut netlink, "b").unwrap();
    let veth = device::get(&mut netlink, "v").unwrap();
    let mac = "02:00:5e:10:00:01".parse().unwrap();
    let changes = [
        device::set_mtu(&bridge, 9000),
        device::set_alias(&bridge, "mine"),
        device::add_address(&bridge, "10.9.8.1".parse().unwrap(), 24),
        device::set_up(&bridge, true),
        device::set_bridge(&veth, Some(&bridge)),
        device::guard_port(&veth),
        device::set_queue_length(&veth, 77),
        device::set_up(&veth, true),
        device::add_route("10.1.0.0".parse().unwrap(), 16, "10.9.8.7".parse().unwrap()),
    ];
    netlink.apply(&changes).unwrap();
    netlink.apply(&device::open_port(&veth, mac)).unwrap();
    let bridge = device::get(&mut netlink, "b").unwrap();
    assert_eq!((bridge.mtu, bridge.up), (9000, true));
    assert_eq!(bridge.kind.as_deref(), Some("bridge"));
    assert_eq!(bridge.alias.as_deref(), Some("mine"));
    assert_eq!(
        device::get(&mut netlink, "v").unwrap().bridge,
        Some(bridge.index)
    );
    assert_eq!(
        device::get(&mut netlink, "i").unwrap().kind.as_deref(),
        Some("ifb")
    );

    let veth = printed(&one, &["ip", "-d", "link", "show", "v"]);
    assert!(
        veth.contains("learning off flood off") && veth.contains("qlen 77"),
        "{veth}"
    );
    let bridge = printed(&one, &["ip", "-d", "address", "show", "b"]);
    assert!(
        bridge.contains("10.9.8.1/24 brd 10.9.8.255") && bridge.contains("mcast_snooping 0"),
        "{bridge}"
    );
    let neighbours = printed(&one, &["bridge", "fdb", "show", "dev", "v"]);
    assert!(
        neighbours.contains("02:00:5e:10:00:01 sticky master b static"),
        "{neighbours}"
    );
    let route = printed(&one, &["ip", "route"]);
    assert!(
        route.contains("10.1.0.0/16 via 10.9.8.7 dev b proto static"),
        "{route}"
    );
    let peer = printed(&other, &["ip", "link", "show", "w"]);
    assert!(peer.contains("w@"), "{peer}");
}

#[test]
fn a_refused_step_takes_all_earlier_ones_back() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("steps");
    let mut netlink = namespace.netlink().unwrap();
    let names = |netlink: &mut _| -> Vec<String> {
        let links = device::list(netlink).unwrap();
        links.into_iter().map(|link| link.name).collect()
    };
    let before = names(&mut netlink);
    let step = |name| Step::new(device::add_ifb(name), device::delete(name));
    let mut transaction = netlink.transaction();
    transaction.apply(vec![step("d0")]).unwrap();
    let error = transaction
        .apply(vec![step("d1"), step("d0"), step("d2")])
        .unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EEXIST), "{error}");
    assert!(error.to_string().contains("create the ifb d0"), "{error}");
    drop(transaction);
    assert_eq!(names(&mut netlink), before);

    let mut transaction = netlink.transaction();
    transaction.apply(vec![step("d0"), step("d1")]).unwrap();
    transaction.commit();
    assert_eq!(names(&mut netlink).len(), before.len() + 2);
}

#[test]
fn more_requests_than_a_socket_can_answer_at_once_are_all_answered() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("many");
    let mut netlink = namespace.netlink().unwrap();
    netlink.apply(&[device::add_ifb("d")]).unwrap();
    let link = device::get(&mut netlink, "d").unwrap();
    let change = device::set_mtu(&link, 1400);
    let answers = netlink.send(&vec![change; 1000]).unwrap();
    assert_eq!(answers.len(), 1000);
    assert!(answers.iter().all(Result::is_ok));
}

#[test]
fn an_interface_that_does_not_exist_is_named() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("none");
    let mut netlink = namespace.netlink().unwrap();
    for name in ["eth7", "a-name-that-is-longer-than-any-interface's"] {
        let error = device::get(&mut netlink, name).unwrap_err();
        assert!(matches!(error, NetlinkError::NoInterface { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

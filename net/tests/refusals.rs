//! What cannot be done is said, and leaves everything as it was.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::env;

use net::device;
use net::namespace::Namespace;
use net::ports::{PortSpec, Ports, PortsConfig, PortsError};
use net::probe::{self, Feature, ProbeError};
use net::share::{Priority, Share};
use net::tree::Tree;
use system_tests::{Need, requires};
use units::BitRate;

use support::{NEEDS, namespace, printed};

/// Set in the part of a test that has no privileges.
const PART: &str = "CHRONOVISOR_TEST_UNPRIVILEGED";

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn share(assured: &str) -> Share {
    Share::new(rate(assured), rate("1Gbit/s"), Priority::Gold).unwrap()
}

fn config(bridge: &str) -> PortsConfig {
    PortsConfig {
        bridge: bridge.to_owned(),
        capacity: rate("10Gbit/s"),
        broadcast: rate("1Mbit/s"),
        mtu: 1500,
        address: None,
    }
}

fn spec() -> PortSpec {
    PortSpec {
        mac: "02:00:5e:10:00:01".parse().unwrap(),
        share: share("1Mbit/s"),
    }
}

/// Interfaces, queues and filters, without what they counted.
fn everything(namespace: &Namespace) -> Vec<String> {
    let mut lines = Vec::new();
    let mut add = |command: &str| {
        let text = printed(namespace, &command.split(' ').collect::<Vec<_>>());
        lines.extend(text.lines().map(str::to_owned));
    };
    add("ip link");
    add("tc qdisc show");
    let links = device::list(&mut namespace.netlink().unwrap()).unwrap();
    for link in links {
        for what in ["class show dev", "filter show dev"] {
            add(&format!("tc {what} {}", link.name));
        }
    }
    lines.sort();
    lines
}

/// Runs the test `name` once more, inside, as nobody.
fn as_nobody(namespace: &Namespace, name: &str) {
    let test = env::current_exe().unwrap();
    let output = namespace
        .command("setpriv")
        .unwrap()
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(test)
        .args(["--exact", name, "--nocapture"])
        .env(PART, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{output:?}"
    );
}

#[test]
fn without_cap_net_admin_nothing_changes_and_the_capability_is_named() {
    const NAME: &str = "without_cap_net_admin_nothing_changes_and_the_capability_is_named";
    if env::var_os(PART).is_some() {
        return try_without_privileges();
    }
    let programs = ["tc", "ip", "setpriv"].map(Need::Program);
    requires!(
        NEEDS[0],
        NEEDS[1],
        Need::Root,
        programs[0],
        programs[1],
        programs[2]
    );
    let namespace = namespace("nobody");
    let ports = namespace.run(|| Ports::create(&config("b"))).unwrap();
    let tap = namespace
        .run(|| ports.unwrap().attach(&spec()))
        .unwrap()
        .unwrap();
    namespace
        .netlink()
        .unwrap()
        .apply(&[device::add_ifb("q")])
        .unwrap();
    let create = || Tree::create("q", rate("1Gbit/s"), &share("1Mbit/s"));
    namespace.run(create).unwrap().unwrap();
    let before = everything(&namespace);
    as_nobody(&namespace, NAME);
    assert_eq!(everything(&namespace), before);
    drop(tap);
}

fn try_without_privileges() {
    let names = |error: &dyn std::error::Error| {
        let text = error.to_string();
        assert!(text.contains("CAP_NET_ADMIN"), "{text}");
    };
    names(&Ports::create(&config("c")).unwrap_err());
    let mut ports = Ports::open("b").unwrap();
    let port = ports.list().unwrap()[0].name.clone();
    names(&ports.change(&[(&port, share("2Mbit/s"))]).unwrap_err());
    names(&ports.attach(&spec()).unwrap_err());
    names(&ports.detach(&port).unwrap_err());
    names(
        &ports
            .set_capacity(rate("1Gbit/s"), rate("2Mbit/s"))
            .unwrap_err(),
    );
    names(&ports.delete().unwrap_err());
    names(&Tree::create("b", rate("1Gbit/s"), &share("1Mbit/s")).unwrap_err());
    let mut tree = Tree::open("q").unwrap();
    names(&tree.set_capacity(rate("2Gbit/s")).unwrap_err());
    names(&tree.delete().unwrap_err());
    names(&probe::check().unwrap_err());
}

#[test]
fn a_port_that_cannot_be_finished_is_not_begun() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"), Need::Program("ip"));
    let namespace = namespace("unfinished");
    let mut ports = namespace
        .run(|| Ports::create(&config("b")))
        .unwrap()
        .unwrap();
    // The queues are there, so that classes and filters are made before the bridge is missed.
    namespace
        .netlink()
        .unwrap()
        .apply(&[device::delete("b")])
        .unwrap();
    let before = everything(&namespace);
    let error = namespace
        .run(|| ports.attach(&spec()))
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("give the bridge b"), "{error}");
    assert_eq!(everything(&namespace), before);
}

#[test]
fn a_queue_that_vanishes_is_named_and_what_is_left_can_be_removed() {
    requires!(NEEDS[0], NEEDS[1]);
    let namespace = namespace("half");
    let mut ports = namespace
        .run(|| Ports::create(&config("b")))
        .unwrap()
        .unwrap();
    let tap = namespace.run(|| ports.attach(&spec())).unwrap().unwrap();
    let before = ports.list().unwrap()[0].out;
    let mut netlink = namespace.netlink().unwrap();
    netlink.apply(&[device::delete("b-rx")]).unwrap();
    let error = ports.change(&[(tap.name(), share("9Mbit/s"))]).unwrap_err();
    assert!(error.to_string().contains("b-rx"), "{error}");
    let error = namespace
        .run(|| ports.attach(&spec()))
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("b-rx"), "{error}");
    // The half that could have been changed was not.
    let mut out = namespace.run(|| Tree::open("b-tx")).unwrap().unwrap();
    let classes = out.classes().unwrap();
    assert!(
        classes.values().any(|(rates, _)| *rates == before),
        "{classes:?}"
    );
    let error = namespace.run(|| Ports::open("b")).unwrap().unwrap_err();
    assert!(matches!(error, PortsError::None { .. }), "{error}");
    ports.delete().unwrap();
    for name in ["b", "b-tx", "b-rx"] {
        assert_eq!(device::find(&mut netlink, name).unwrap(), None);
    }
}

#[test]
fn what_the_kernel_has_is_found_without_a_trace() {
    requires!(NEEDS[0], NEEDS[1]);
    let names = || -> Vec<_> {
        let links = device::list(&mut net::netlink::Netlink::open().unwrap()).unwrap();
        links
            .into_iter()
            .map(|link| link.name)
            .filter(|name| name.contains("probe"))
            .collect()
    };
    // This machine runs the other tests, so it has all.
    assert_eq!(probe::missing().unwrap(), []);
    assert_eq!(names(), [] as [String; 0]);
    let missing = vec![Feature::Htb, Feature::Mirred];
    let error = ProbeError::Missing { missing }.to_string();
    assert!(
        error.contains("CONFIG_NET_SCH_HTB (module sch_htb), CONFIG_NET_ACT_MIRRED"),
        "{error}"
    );
}

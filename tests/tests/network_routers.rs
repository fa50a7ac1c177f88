//! Shares of the network on remote routers: marked at the edge, queued at the core, both ways.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use net::Network;
use net::namespace::Namespace;
use net::network::NetworkStatus;
use net::plan::{NetworkPlan, SharePlan, Traffic};
use net::share::{Priority, Share};
use system_tests::requires::Capability;
use system_tests::{Need, User, requires};
use units::BitRate;

const NEEDS: [Need; 5] = [
    Need::Capability(Capability::SysAdmin),
    Need::Capability(Capability::NetAdmin),
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("nsenter"),
];

/// What is behind each cable: which namespaces, by which interfaces.
const CABLES: [[(usize, &str, &str); 2]; 4] = [
    [(0, "eth0", "10.1.0.2/24"), (1, "host", "10.1.0.1/24")],
    [(1, "core", "10.2.0.1/24"), (2, "left", "10.2.0.2/24")],
    [(2, "right", "10.3.0.1/24"), (3, "core", "10.3.0.2/24")],
    [(3, "host", "10.4.0.1/24"), (4, "eth0", "10.4.0.2/24")],
];
/// The ways: where, to which network, by whom.
const ROUTES: [(usize, &str, &str); 8] = [
    (0, "default", "10.1.0.1"),
    (1, "default", "10.2.0.2"),
    (2, "10.1.0.0/24", "10.2.0.1"),
    (2, "10.4.0.0/24", "10.3.0.2"),
    (3, "default", "10.3.0.1"),
    (4, "default", "10.4.0.1"),
    (1, "10.1.0.0/24", "10.1.0.2"),
    (3, "10.4.0.0/24", "10.4.0.2"),
];

/// A host, an edge router, the core router, another edge router, another host.
struct Route {
    namespaces: Vec<Namespace>,
}

impl Route {
    fn new(what: &str) -> Self {
        let name = |role| format!("chronovisor-{what}-{role}-{}", std::process::id());
        let roles = ["host", "edge", "core", "edge2", "far"];
        let made = roles.map(|role| Namespace::create(&name(role)).unwrap());
        let route = Self {
            namespaces: made.into(),
        };
        for [one, other] in CABLES {
            let far = route.namespaces[other.0].name().to_owned();
            let add = format!(
                "ip link add {} type veth peer name {} netns {far}",
                one.1, other.1
            );
            route.command(one.0, &add);
            for (at, link, address) in [one, other] {
                route.command(at, &format!("ip address add {address} dev {link}"));
                route.command(at, &format!("ip link set {link} up"));
            }
        }
        for router in 1..=3 {
            route.command(router, "sysctl -q -w net.ipv4.ip_forward=1");
        }
        for (at, network, gateway) in ROUTES {
            // Networks that a router is in itself need no way.
            if network == "default" || at == 2 {
                route.command(at, &format!("ip route add {network} via {gateway}"));
            }
        }
        route
    }

    fn command(&self, at: usize, words: &str) {
        let words: Vec<_> = words.split(' ').collect();
        let mut command = self.namespaces[at].command(words[0]).unwrap();
        let output = command.args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
    }

    /// A plan with all routers, and with this for the second one's capacity.
    fn plan(&self, user: &User, capacity: &str) -> NetworkPlan {
        let mut text = String::new();
        for (at, rest) in [
            (1, "role = 'edge'\ninterface = 'core'".to_owned()),
            (
                2,
                format!(
                    "role = 'core'\ninterface = ['left', 'right']\ncapacity = '{capacity}'\nheadroom = '0bit/s'"
                ),
            ),
            (3, "role = 'edge'\ninterface = 'core'".to_owned()),
        ] {
            let namespace = self.namespaces[at].name();
            let command = serde_json::json!([
                "nsenter",
                format!("--net=/run/netns/{namespace}"),
                user.program(),
                "--run-dir",
                user.path(namespace),
                "net",
                "agent"
            ]);
            text += &format!("[[router]]\nname = 'r{at}'\n{rest}\ncommand = {command}\n");
        }
        NetworkPlan::parse(&text).unwrap()
    }

    fn inside<T: Send>(&self, at: usize, work: impl FnOnce() -> T + Send) -> T {
        self.namespaces[at].run(work).unwrap()
    }

    fn send(&self, from: usize, to: &str, count: usize) {
        self.inside(from, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..count {
                // The far end answers that nobody listens there; that is no failure to send.
                let _ = socket.send_to(&[0; 100], to);
                let _ = socket.take_error();
            }
        });
        thread::sleep(Duration::from_millis(100));
    }
}

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn share(name: &str, assured: &str, host: &str) -> SharePlan {
    SharePlan {
        name: name.to_owned(),
        share: Share::new(rate(assured), rate("10Mbit/s"), Priority::Gold).unwrap(),
        traffic: Traffic::Destinations(vec![host.parse().unwrap()]),
    }
}

/// What the core router says.
fn core(status: &NetworkStatus) -> &NetworkStatus {
    status.routers[1].status.as_ref().unwrap()
}

/// Packets of the first share on each interface of the core.
fn packets(status: &NetworkStatus) -> [u64; 2] {
    [0, 1].map(|interface| core(status).uplink[interface].shares[0].counters.packets)
}

#[test]
fn packets_are_marked_at_the_edges_and_queued_at_the_core_both_ways() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let user = User::new();
    let route = Route::new("net-routers");
    let run_dir = user.path("host");
    let plan = route.plan(&user, "10Mbit/s");
    let network = route.inside(0, || Network::apply(&run_dir, &plan)).unwrap();
    let status = || route.inside(0, || network.status()).unwrap();
    route
        .inside(0, || network.reserve(&share("gold", "6Mbit/s", "10.4.0.2")))
        .unwrap();
    let too_much = route.inside(0, || network.reserve(&share("rest", "5Mbit/s", "10.4.0.3")));
    let too_much = too_much.unwrap_err();
    assert!(
        too_much.is_refusal() && too_much.to_string().contains("fits is 4Mbit/s"),
        "{too_much}"
    );
    route
        .inside(0, || network.reserve(&share("rest", "4Mbit/s", "10.4.0.3")))
        .unwrap();
    assert_eq!(core(&status()).uplink[0].interface, "left");
    assert_eq!(packets(&status()), [0, 0]);
    route.send(0, "10.4.0.2:9", 30);
    let [back, forth] = packets(&status());
    assert!(forth == 30, "{forth} of 30");
    route.send(4, "10.1.0.2:9", 20);
    let [also_back, _] = packets(&status());
    assert!(also_back >= back + 20, "{also_back} after {back}");

    let change = |gold: &str, rest: &str| {
        let change = |name: &str, assured| (name.to_owned(), rate(assured));
        let changes = [change("gold", gold), change("rest", rest)];
        route.inside(0, || network.adapt_assured(&changes))
    };
    change("7Mbit/s", "3Mbit/s").unwrap();
    for uplink in &core(&status()).uplink {
        let assured = [0, 1].map(|at| uplink.shares[at].share.assured);
        assert_eq!(assured, [rate("7Mbit/s"), rate("3Mbit/s")]);
    }
    // One router cannot do it: none does, and what it lost is mended by applying once more.
    route.command(2, "tc qdisc delete dev right root");
    let broken = change("6Mbit/s", "4Mbit/s").unwrap_err();
    assert!(broken.to_string().contains("router 'r2'"), "{broken}");
    assert_eq!(network_share(&route, &network, "gold"), rate("7Mbit/s"));
    let plan_again = plan.clone();
    let network = route
        .inside(0, || Network::apply(&run_dir, &plan_again))
        .unwrap();
    let status = route.inside(0, || network.status()).unwrap();
    let assured = core(&status)
        .uplink
        .iter()
        .map(|uplink| uplink.shares[0].share.assured);
    assert!(assured.eq([rate("7Mbit/s"); 2]));

    drop(network);
    assert!(route.inside(0, || Network::clear(&run_dir)).unwrap());
    for (at, dev) in [(2, "left"), (2, "right")] {
        let mut tc = route.namespaces[at].command("tc").unwrap();
        let output = tc.args(["qdisc", "show", "dev", dev]).output().unwrap();
        assert!(!String::from_utf8_lossy(&output.stdout).contains("htb"));
    }
}

#[test]
fn a_router_keeps_the_plan_of_one_host_and_tells_others_whose_it_is() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let user = User::new();
    let route = Route::new("net-router-owner");
    let plan = route.plan(&user, "10Mbit/s");
    let [own, other] = [(0, user.path("host")), (4, user.path("far"))];
    let apply = |(at, run_dir): &(usize, std::path::PathBuf)| {
        route.inside(*at, || Network::apply(run_dir, &plan))
    };
    let clear =
        |(at, run_dir): &(usize, std::path::PathBuf)| route.inside(*at, || Network::clear(run_dir));
    let network = apply(&own).unwrap();
    route
        .inside(0, || network.reserve(&share("gold", "6Mbit/s", "10.4.0.2")))
        .unwrap();
    let denied = apply(&other).unwrap_err();
    let run_dir = own.1.display();
    for names in [
        "router 'r1': this router has the plan of host",
        &format!("(run directory {run_dir})"),
        "/routed net clear`",
    ] {
        assert!(denied.to_string().contains(names), "{names}: {denied}");
    }
    assert!(denied.is_refusal(), "{denied}");
    // Who has nothing there takes nothing away.
    assert!(!clear(&other).unwrap());
    let status = route.inside(0, || network.status()).unwrap();
    assert_eq!(
        core(&status).uplink[1].shares[0].share.assured,
        rate("6Mbit/s")
    );
    route.send(0, "10.4.0.2:9", 30);
    let status = route.inside(0, || network.status()).unwrap();
    assert_eq!(packets(&status)[1], 30);
    // The same host once more, as after a restart that has cost it its state.
    drop(network);
    std::fs::remove_dir_all(&own.1).unwrap();
    apply(&own).unwrap();
    // A router's own user may give it to another, as the error says.
    for at in [1, 2, 3] {
        let routed = user.path(route.namespaces[at].name()).join("routed");
        assert!(route.inside(at, || Network::clear(&routed)).unwrap());
    }
    apply(&other).unwrap();
    assert!(clear(&own).unwrap(), "its routers have nothing of it");
    let network = route.inside(4, || Network::open(&other.1)).unwrap();
    let status = route.inside(4, || network.status()).unwrap();
    assert_eq!(core(&status).uplink.len(), 2, "the other's plan stands");
    drop(network);
    assert!(clear(&other).unwrap());
}

fn network_share(route: &Route, network: &Network, name: &str) -> BitRate {
    route.inside(0, || network.share_of(name)).unwrap().assured
}

#[test]
fn a_change_on_routers_takes_milliseconds_not_what_starting_programs_takes() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let user = User::new();
    let route = Route::new("net-router-cost");
    let run_dir = user.path("host");
    let plan = route.plan(&user, "10Mbit/s");
    let network = route.inside(0, || Network::apply(&run_dir, &plan)).unwrap();
    for (name, assured, host) in [
        ("gold", "6Mbit/s", "10.4.0.2"),
        ("rest", "3Mbit/s", "10.4.0.3"),
    ] {
        route
            .inside(0, || network.reserve(&share(name, assured, host)))
            .unwrap();
    }
    let mut costs = Vec::new();
    for round in 0..200_u64 {
        let step = round % 2 * 1_000_000;
        let changes = [
            ("gold".to_owned(), BitRate::new(6_000_000 + step)),
            ("rest".to_owned(), BitRate::new(3_000_000 - step)),
        ];
        let begun = Instant::now();
        route.inside(0, || network.adapt_assured(&changes)).unwrap();
        costs.push(begun.elapsed());
    }
    costs.sort_unstable();
    let median = costs[costs.len() / 2];
    assert!(median < Duration::from_millis(20), "{median:?}");
    drop(network);
    route.inside(0, || Network::clear(&run_dir)).unwrap();
}

//! A host's network as a whole, against what the kernel has.

mod support;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::path::Path;

use net::admission::Wanted;
use net::class::ClassId;
use net::device::Link;
use net::mac::Mac;
use net::namespace::Namespace;
use net::network::NetworkError;
use net::plan::{NetworkPlan, Role, RouterPlan, SharePlan, Traffic};
use net::ports::Ports;
use net::share::{Priority, Share};
use net::tree::Tree;
use net::{Network, Port, PortRequest, device};
use system_tests::requires;
use units::BitRate;

use support::{NEEDS, namespace, printed};

const PLAN: &str = r#"
[bridge]
name = "vms"
capacity = "1Gbit/s"
headroom = "0bit/s"
[uplink]
interface = "up0"
capacity = "10Mbit/s"
headroom = "0bit/s"
[[share]]
name = "gold"
assured = "6Mbit/s"
priority = "gold"
destinations = ["192.0.2.1", "2001:db8::1"]
[[share]]
name = "rest"
assured = "4Mbit/s"
dscp = 9
"#;

fn plan() -> NetworkPlan {
    NetworkPlan::parse(PLAN).expect("a plan")
}

fn rate(text: &str) -> BitRate {
    text.parse().expect("a rate")
}

fn share(assured: &str, ceil: &str) -> Share {
    Share::new(rate(assured), rate(ceil), Priority::BestEffort).expect("a share")
}

fn request(vm: &str, assured: &str) -> PortRequest {
    PortRequest {
        vm: vm.to_owned(),
        mac: Mac::of_name(vm),
        share: share(assured, "1Gbit/s"),
        mtu: 1500,
    }
}

/// A namespace with interfaces `up0` and `up1`, and a run directory.
struct Host {
    namespace: Namespace,
    dir: tempfile::TempDir,
}

impl Host {
    fn new(what: &str) -> Self {
        let namespace = namespace(what);
        let mut netlink = namespace.netlink().expect("a socket");
        for name in ["up0", "up1"] {
            netlink.apply(&[device::add_ifb(name)]).expect("an ifb");
            let link = device::get(&mut netlink, name).expect("the ifb");
            netlink.apply(&[device::set_up(&link, true)]).expect("up");
        }
        let dir = tempfile::tempdir().expect("a folder");
        Self { namespace, dir }
    }

    fn run_dir(&self) -> &Path {
        self.dir.path()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).expect("inside")
    }

    fn apply(&self, plan: &NetworkPlan) -> Result<Network, NetworkError> {
        self.inside(|| Network::apply(self.run_dir(), plan))
    }

    fn open(&self) -> Result<Network, NetworkError> {
        self.inside(|| Network::open(self.run_dir()))
    }

    fn attach(&self, network: &Network, vm: &str, assured: &str) -> Result<Port, NetworkError> {
        self.inside(|| network.attach(&request(vm, assured)))
    }

    /// Interfaces, queueing disciplines, classes and filters, without what is counted and what the kernel numbers itself.
    fn everything(&self) -> BTreeSet<String> {
        let mut netlink = self.namespace.netlink().expect("a socket");
        let links = device::list(&mut netlink).expect("links");
        let mut all = BTreeSet::new();
        for Link { name, mtu, .. } in links {
            all.insert(format!("{name} mtu {mtu}"));
            for what in ["qdisc", "class", "filter"] {
                let told = printed(&self.namespace, &["tc", what, "show", "dev", &name]);
                all.extend(
                    told.lines()
                        .map(|line| format!("{name} {}", without_numbers(line))),
                );
            }
        }
        all
    }

    #[track_caller]
    fn has_only(&self, expected: &BTreeSet<String>) {
        let there = self.everything();
        let more: Vec<_> = there.difference(expected).collect();
        let less: Vec<_> = expected.difference(&there).collect();
        assert!(
            more.is_empty() && less.is_empty(),
            "too much: {more:#?}\nmissing: {less:#?}"
        );
    }

    /// What the class of `name` on `up0` is assured.
    fn assured(&self, network: &Network, name: &str) -> BitRate {
        let status = self.inside(|| network.status()).expect("a status");
        let shares = &status.uplink[0].shares;
        let at = shares
            .iter()
            .position(|one| one.name == name)
            .expect("a share");
        let minor = 0x11 + u16::try_from(at).expect("few shares");
        let class = ClassId::new(minor).expect("a class");
        let mut tree = self.inside(|| Tree::open("up0")).expect("a tree");
        tree.classes().expect("classes")[&class].0.assured
    }
}

/// The numbers of queues that the kernel gives out, in turn.
fn without_numbers(line: &str) -> String {
    let words = line.split_whitespace();
    let words = words.filter(|word| !(word.ends_with(':') && word.len() == 5 && *word != "4356:"));
    words.collect::<Vec<_>>().join(" ")
}

/// As if the process had been killed: its descriptors are closed, nothing else is done.
fn crash(port: Port) {
    nix::unistd::close(port.tap.as_raw_fd()).expect("the tap was open");
    std::mem::forget(port);
}

#[test]
fn what_was_applied_is_there_until_it_is_cleared_and_then_nothing_is_left() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-clear");
    let before = host.everything();
    let network = host.apply(&plan()).expect("applied");
    let port = host.attach(&network, "vm", "10Mbit/s").expect("a port");
    let status = host.inside(|| network.status()).expect("a status");
    let bridge = status.bridge.expect("a bridge");
    assert_eq!(bridge.ports[0].vm, "vm");
    assert_eq!(bridge.ports[0].port, port.name);
    assert_eq!(status.uplink[0].shares[0].name, "gold");
    assert_eq!(host.assured(&network, "gold"), rate("6Mbit/s"));
    let denied = host
        .inside(|| Network::clear(host.run_dir()))
        .expect_err("a VM is there");
    assert!(denied.to_string().contains("'vm'"), "{denied}");
    drop(port);
    let status = host.inside(|| network.status()).expect("a status");
    assert!(status.bridge.expect("a bridge").ports.is_empty());
    assert!(
        host.inside(|| Network::clear(host.run_dir()))
            .expect("cleared")
    );
    host.has_only(&before);
    assert!(
        !host
            .inside(|| Network::clear(host.run_dir()))
            .expect("nothing")
    );
    let none = host.open().expect_err("nothing is applied");
    assert!(none.to_string().contains("net apply"), "{none}");
}

#[test]
fn what_nobody_knows_of_any_more_is_cleared_by_its_plan() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-lost");
    let before = host.everything();
    drop(host.apply(&plan()).expect("applied"));
    let clear = || host.inside(|| Network::clear_lost(host.run_dir(), &plan()));
    let known = clear().expect_err("it is known");
    assert!(known.to_string().contains("net clear"), "{known}");
    for file in ["network.json", "network-1.json"] {
        std::fs::write(host.run_dir().join(file), "damaged").expect("written");
    }
    let damaged = host.open().expect_err("damaged");
    assert!(damaged.to_string().contains("--lost"), "{damaged}");
    for file in ["network.json", "network-1.json"] {
        std::fs::remove_file(host.run_dir().join(file)).expect("removed");
    }
    clear().expect("cleared");
    host.has_only(&before);
}

#[test]
fn shares_change_together_or_not_at_all() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-adapt");
    let network = host.apply(&plan()).expect("applied");
    let other = host.open().expect("opened");
    let vm = host.attach(&network, "vm", "500Mbit/s").expect("a port");
    let adapt = |changes: &[(&str, &str)]| {
        let changes = changes
            .iter()
            .map(|(name, assured)| (String::from(*name), rate(assured)));
        let changes: Vec<_> = changes.collect();
        host.inside(|| other.adapt_assured(&changes))
    };
    adapt(&[
        ("gold", "7Mbit/s"),
        ("rest", "3Mbit/s"),
        ("vm", "600Mbit/s"),
    ])
    .expect("adapted");
    assert_eq!(host.assured(&network, "gold"), rate("7Mbit/s"));
    assert_eq!(host.assured(&network, "rest"), rate("3Mbit/s"));
    let out = || {
        let mut ports = host.inside(|| Ports::open("vms")).expect("ports");
        ports.list().expect("ports")[0].out.assured
    };
    assert_eq!(out(), rate("600Mbit/s"));
    let before = host.everything();
    let denied = adapt(&[("vm", "700Mbit/s"), ("gold", "8Mbit/s")]).expect_err("too much");
    assert!(
        denied.is_refusal() && denied.to_string().contains("fits is 7Mbit/s"),
        "{denied}"
    );
    host.has_only(&before);
    // A class that somebody removed: what was changed before is taken back.
    printed(&host.namespace, &["tc", "filter", "del", "dev", "up0"]);
    printed(
        &host.namespace,
        &["tc", "class", "del", "dev", "up0", "classid", "4356:12"],
    );
    adapt(&[
        ("vm", "700Mbit/s"),
        ("gold", "6Mbit/s"),
        ("rest", "2Mbit/s"),
    ])
    .expect_err("no class");
    assert_eq!(out(), rate("600Mbit/s"));
    drop(vm);
}

#[test]
fn names_and_addresses_are_had_once_and_shares_only_as_far_as_they_fit() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-admission");
    let network = host.apply(&plan()).expect("applied");
    let vm = host.attach(&network, "vm", "500Mbit/s").expect("a port");
    let refused = |request: PortRequest| {
        let denied = host
            .inside(|| network.attach(&request))
            .expect_err("refused");
        assert!(denied.is_refusal(), "{denied}");
        denied.to_string()
    };
    assert!(refused(request("vm", "1Mbit/s")).contains("'vm' has a share already"));
    assert!(refused(request("gold", "1Mbit/s")).contains("'gold' has a share already"));
    let same = PortRequest {
        mac: Mac::of_name("vm"),
        ..request("other", "1Mbit/s")
    };
    assert!(refused(same).contains("is the address of 'vm' already"));
    let long = PortRequest {
        mtu: 9000,
        ..request("other", "1Mbit/s")
    };
    assert!(refused(long).contains("write at most 1500"));
    assert!(refused(request("other", "500Mbit/s")).contains("nearest that fits is 499Mbit/s"));
    // A process that was killed holds nothing.
    crash(vm);
    let vm = host
        .attach(&network, "vm", "999Mbit/s")
        .expect("what it had is free");
    drop(vm);
}

#[test]
fn a_vm_that_crashed_leaves_nothing_behind_that_the_next_one_does_not_clear() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-crash");
    let network = host.apply(&plan()).expect("applied");
    let before = host.everything();
    crash(host.attach(&network, "vm", "10Mbit/s").expect("a port"));
    assert_ne!(host.everything(), before, "classes stay");
    let next = host.open().expect("opened");
    host.has_only(&before);
    assert!(
        host.inside(|| next.status())
            .expect("a status")
            .bridge
            .expect("a bridge")
            .ports
            .is_empty()
    );
}

#[test]
fn queues_of_others_are_left_alone_and_nothing_is_applied_beside_them() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-foreign");
    printed(
        &host.namespace,
        &[
            "tc", "qdisc", "add", "dev", "up0", "root", "handle", "7:", "pfifo",
        ],
    );
    let before = host.everything();
    let foreign = host.apply(&plan()).expect_err("a foreign queue");
    assert!(
        foreign.to_string().contains("pfifo") && foreign.to_string().contains("up0"),
        "{foreign}"
    );
    host.has_only(&before);
    assert!(host.open().is_err());
    let mut unknown = plan();
    unknown.uplink.as_mut().expect("an uplink").interfaces =
        vec!["up1".to_owned(), "nowhere".to_owned()];
    let error = host.apply(&unknown).expect_err("no interface");
    assert!(error.to_string().contains("nowhere"), "{error}");
    host.has_only(&before);
    // The tree of another run directory is not ours.
    let mut aside = plan();
    (
        aside.bridge,
        aside.uplink.as_mut().expect("an uplink").interfaces[0],
    ) = (None, "up1".to_owned());
    let other = tempfile::tempdir().expect("a folder");
    host.inside(|| Network::apply(other.path(), &aside))
        .expect("applied");
    let both = host.everything();
    assert!(host.apply(&aside).is_err());
    assert!(
        !host
            .inside(|| Network::clear(host.run_dir()))
            .expect("nothing")
    );
    host.has_only(&both);
}

#[test]
fn a_plan_that_cannot_be_had_leaves_the_one_that_is_in_force() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-roll-back");
    let network = host.apply(&plan()).expect("applied");
    let vm = host.attach(&network, "vm", "500Mbit/s").expect("a port");
    let before = host.everything();
    // The last step fails: a router that there is not.
    let mut routed = plan();
    routed
        .uplink
        .as_mut()
        .expect("an uplink")
        .interfaces
        .push("up1".to_owned());
    routed.routers.push(RouterPlan {
        name: "nowhere".to_owned(),
        role: Role::Edge {
            interfaces: vec!["eth0".to_owned()],
        },
        command: vec!["/no/such/program".to_owned()],
    });
    let error = host.apply(&routed).expect_err("no router");
    let text = error.to_string();
    assert!(
        text.starts_with("router 'nowhere': cannot start") && !text.contains("taken back"),
        "{text}"
    );
    host.has_only(&before);
    let mut renamed = plan();
    renamed.bridge.as_mut().expect("a bridge").name = "other".to_owned();
    assert!(host.apply(&renamed).is_err());
    let mut small = plan();
    small.bridge.as_mut().expect("a bridge").capacity = rate("400Mbit/s");
    let refused = host.apply(&small).expect_err("too small");
    assert!(refused.is_refusal(), "{refused}");
    host.has_only(&before);
    // Another plan, and the port is still there.
    let mut more = plan();
    more.uplink
        .as_mut()
        .expect("an uplink")
        .interfaces
        .push("up1".to_owned());
    let network = host.apply(&more).expect("applied");
    let status = host.inside(|| network.status()).expect("a status");
    assert_eq!(
        (
            status.uplink.len(),
            status.bridge.expect("a bridge").ports.len()
        ),
        (2, 1)
    );
    host.apply(&plan()).expect("applied");
    host.has_only(&before);
    drop(vm);
}

#[test]
fn a_reserved_share_is_one_more_class_until_it_is_released() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-reserve");
    let mut small = plan();
    small.shares.pop();
    let network = host.apply(&small).expect("applied");
    let before = host.everything();
    let wanted = SharePlan {
        name: "vtm".to_owned(),
        share: share("4Mbit/s", "10Mbit/s"),
        traffic: Traffic::Uid(65534),
    };
    host.inside(|| network.reserve(&wanted)).expect("reserved");
    assert_eq!(host.assured(&network, "vtm"), rate("4Mbit/s"));
    assert!(printed(&host.namespace, &["nft", "list", "ruleset"]).contains("skuid 65534"));
    let twice = host.inside(|| network.reserve(&wanted)).expect_err("taken");
    assert!(twice.to_string().contains("adapt it"), "{twice}");
    host.inside(|| network.adapt(&[Wanted::new("vtm", share("3Mbit/s", "3Mbit/s"))]))
        .expect("adapted");
    assert_eq!(host.assured(&network, "vtm"), rate("3Mbit/s"));
    host.inside(|| network.release("vtm")).expect("released");
    host.has_only(&before);
    assert_eq!(printed(&host.namespace, &["nft", "list", "ruleset"]), "");
}

#[test]
fn an_interface_that_vanishes_is_named_and_the_rest_can_be_cleared() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("network-vanish");
    let network = host.apply(&plan()).expect("applied");
    printed(&host.namespace, &["ip", "link", "delete", "up0"]);
    let change = [("gold".to_owned(), rate("5Mbit/s"))];
    let gone = host
        .inside(|| network.adapt_assured(&change))
        .expect_err("gone");
    assert!(gone.to_string().contains("up0"), "{gone}");
    let vm = host
        .attach(&network, "vm", "10Mbit/s")
        .expect("VMs need no uplink");
    drop(vm);
    assert!(
        host.inside(|| Network::clear(host.run_dir()))
            .expect("cleared")
    );
}

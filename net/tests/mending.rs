//! Changes that go wrong twice, routers that do not answer, and several who change one share at once.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use net::admission::Wanted;
use net::mac::Mac;
use net::namespace::Namespace;
use net::network::{Adaptation, NetworkError};
use net::plan::{NetworkPlan, SharePlan, Traffic};
use net::share::{Priority, Share};
use net::{Network, PortRequest, device};
use system_tests::{Need, requires};
use units::BitRate;

use support::{NEEDS, namespace, printed};

/// Says yes to everything, writes down what it was asked, and does what the file `harm` says before it answers a request
/// that the file names.
const AGENT: &str = r#"
while read -r line; do
    echo "$line" >>DIR/asked
    kind=${line#*'"kind":"'}
    kind=${kind%%'"'*}
    if [ -e "DIR/harm-$kind" ]; then
        . "DIR/harm-$kind"
        echo '{"version":2,"reply":{"Err":{"refused":false,"message":"a router that refuses"}}}'
    else
        echo '{"version":2,"reply":{"Ok":{"kind":"done"}}}'
    fi
done
"#;

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
destinations = ["192.0.2.1"]
[[router]]
name = "core"
role = "core"
interface = "eth0"
capacity = "10Mbit/s"
headroom = "0bit/s"
"#;

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn share(assured: &str) -> Share {
    Share::new(rate(assured), rate("10Mbit/s"), Priority::BestEffort).unwrap()
}

/// A host whose router does as it is told by files.
struct Host {
    namespace: Namespace,
    dir: tempfile::TempDir,
}

impl Host {
    fn new(what: &str) -> Self {
        let namespace = namespace(what);
        let mut netlink = namespace.netlink().unwrap();
        netlink.apply(&[device::add_ifb("up0")]).unwrap();
        let link = device::get(&mut netlink, "up0").unwrap();
        netlink.apply(&[device::set_up(&link, true)]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        Self { namespace, dir }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the router does before it refuses requests of this kind.
    fn harm(&self, kind: &str, commands: &str) {
        fs::write(self.file(&format!("harm-{kind}")), commands).unwrap();
    }

    fn heal(&self, kind: &str) {
        fs::remove_file(self.file(&format!("harm-{kind}"))).unwrap();
    }

    /// The kinds of requests that the router had since this was last asked.
    fn asked(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("asked")).unwrap_or_default();
        let _ = fs::remove_file(self.file("asked"));
        let kind = |line: &str| {
            let (_, behind) = line.split_once("\"kind\":\"").unwrap();
            behind.split('"').next().unwrap().to_owned()
        };
        text.lines().map(kind).collect()
    }

    fn plan(&self) -> NetworkPlan {
        let agent = AGENT.replace("DIR", &self.dir.path().to_string_lossy());
        let command = serde_json::json!(["sh", "-c", agent]);
        NetworkPlan::parse(&format!("{PLAN}command = {command}\n")).unwrap()
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    fn apply(&self) -> Network {
        let run_dir = self.file("run");
        self.inside(|| Network::apply(&run_dir, &self.plan()))
            .unwrap()
    }

    fn open(&self) -> Result<Network, NetworkError> {
        self.inside(|| Network::open(&self.file("run")))
    }

    fn clear(&self) -> Result<bool, NetworkError> {
        self.inside(|| Network::clear(&self.file("run")))
    }

    /// What the kernel's class of the first share is assured.
    fn class(&self) -> Option<String> {
        let told = printed(
            &self.namespace,
            &["tc", "class", "show", "dev", "up0", "classid", "4356:11"],
        );
        let rate = told.split(" rate ").nth(1)?;
        Some(rate.split(' ').next().unwrap().to_owned())
    }

    fn tc(&self, words: &str) {
        printed(&self.namespace, &words.split(' ').collect::<Vec<_>>());
    }
}

fn vm(assured: &str) -> PortRequest {
    PortRequest {
        vm: "vm".to_owned(),
        mac: Mac::of_name("vm"),
        share: Share::new(rate(assured), rate("1Gbit/s"), Priority::BestEffort).unwrap(),
        mtu: 1500,
    }
}

#[test]
fn rates_that_can_neither_be_changed_nor_taken_back_are_said_and_mended_by_who_comes_next() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-rates");
    let network = host.apply();
    assert_eq!(host.class().unwrap(), "6Mbit");
    // When the router is asked, the uplink has its new rate; the router takes the class away and refuses.
    host.harm(
        "adapt",
        "tc filter del dev up0; tc class del dev up0 classid 4356:11",
    );
    let change = |assured: &str| {
        let change = [("gold".to_owned(), rate(assured))];
        host.inside(|| network.adapt_assured(&change))
    };
    let error = change("7Mbit/s").unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, NetworkError::Partly { .. }), "{text}");
    assert!(
        text.contains("a router that refuses") && text.contains("up0 has no class 4356:11"),
        "{text}"
    );
    assert_eq!(host.class(), None);
    // Another process finds it marked, and makes the kernel what the state says.
    let other = host.open().unwrap();
    assert_eq!(host.class().unwrap(), "6Mbit");
    let held = host.inside(|| other.share_of("gold")).unwrap();
    assert_eq!(held.assured, rate("6Mbit/s"));
    host.heal("adapt");
    change("5Mbit/s").unwrap();
    assert_eq!(host.class().unwrap(), "5Mbit");
}

#[test]
fn a_plan_that_can_neither_be_had_nor_taken_back_keeps_nobody_from_the_bridge() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-plan");
    let network = host.apply();
    host.harm("apply", "tc qdisc replace dev up0 root handle 7: pfifo");
    let wanted = SharePlan {
        name: "rest".to_owned(),
        share: share("4Mbit/s"),
        traffic: Traffic::Destinations(vec!["192.0.2.2".parse().unwrap()]),
    };
    let error = host.inside(|| network.reserve(&wanted)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("a router that refuses") && text.contains("pfifo"),
        "{text}"
    );
    host.heal("apply");
    // The uplink is somebody else's now: who changes it is told so, and VMs do not need it.
    let change = [("gold".to_owned(), rate("5Mbit/s"))];
    let foreign = host.inside(|| network.adapt_assured(&change)).unwrap_err();
    assert!(foreign.to_string().contains("pfifo"), "{foreign}");
    let port = host.inside(|| network.attach(&vm("10Mbit/s"))).unwrap();
    host.inside(|| network.adapt(&[Wanted::new("vm", vm("20Mbit/s").share)]))
        .unwrap();
    // Not forgotten by what went well meanwhile.
    host.tc("tc qdisc del dev up0 root");
    host.inside(|| network.adapt_assured(&change)).unwrap();
    assert_eq!(host.class().unwrap(), "5Mbit");
    host.inside(|| network.reserve(&wanted)).unwrap();
    drop(port);
    assert!(host.clear().unwrap());
}

#[test]
fn a_router_that_may_have_half_of_a_change_is_given_all_of_the_state_before_the_next() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-router");
    let network = host.apply();
    // It dies with the first question, and again when it is to take the change back.
    host.harm("adapt", "exit 1");
    let change = |assured: &str| {
        let change = [("gold".to_owned(), rate(assured))];
        host.inside(|| network.adapt_assured(&change))
    };
    let error = change("7Mbit/s").unwrap_err();
    assert!(
        error
            .to_string()
            .contains("nor could the others take it back"),
        "{error}"
    );
    assert_eq!(host.class().unwrap(), "6Mbit", "here it was taken back");
    host.heal("adapt");
    host.asked();
    let port = host.inside(|| network.attach(&vm("10Mbit/s"))).unwrap();
    host.inside(|| network.adapt(&[Wanted::new("vm", vm("20Mbit/s").share)]))
        .unwrap();
    assert_eq!(host.asked(), [""; 0], "a VM asks no router");
    change("7Mbit/s").unwrap();
    assert_eq!(host.asked(), ["apply", "adapt"]);
    change("6Mbit/s").unwrap();
    assert_eq!(host.asked(), ["adapt"]);
    drop(port);
}

#[test]
fn a_router_that_does_not_answer_keeps_nobody_else_waiting() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-dead");
    let network = host.apply();
    let soon = Duration::from_secs(3);
    for kind in ["status", "clear"] {
        host.harm(kind, "exec sleep 60");
    }
    thread::scope(|scope| {
        let status = scope.spawn(|| {
            let status = host.inside(|| network.status()).unwrap();
            status.routers[0].status.clone().unwrap_err()
        });
        thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let other = host.open().unwrap();
        drop(host.inside(|| other.attach(&vm("10Mbit/s"))).unwrap());
        drop(host.inside(|| network.attach(&vm("10Mbit/s"))).unwrap());
        assert!(begun.elapsed() < soon, "{:?}", begun.elapsed());
        assert!(!status.is_finished(), "the router was not waited for");
        assert!(status.join().unwrap().contains("no answer within"));
    });
    drop(network);
    thread::scope(|scope| {
        let clear = scope.spawn(|| host.clear().unwrap_err().to_string());
        thread::sleep(Duration::from_millis(500));
        let begun = Instant::now();
        let none = host.open().unwrap_err();
        assert!(none.to_string().contains("net apply"), "{none}");
        assert!(begun.elapsed() < soon, "{:?}", begun.elapsed());
        assert!(!clear.is_finished(), "the router was not waited for");
        let error = clear.join().unwrap();
        assert!(
            error.contains("this host is cleared") && error.contains("router 'core'"),
            "{error}"
        );
    });
    assert!(
        device::find(&mut host.namespace.netlink().unwrap(), "vms")
            .unwrap()
            .is_none()
    );
    host.heal("clear");
    host.asked();
    assert!(host.clear().unwrap(), "the router is asked once more");
    assert_eq!(host.asked(), ["clear"]);
    assert!(!host.clear().unwrap());
}

#[test]
fn a_router_that_never_comes_back_is_given_up_by_name_of_a_plan_without_it() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-never");
    drop(host.apply());
    host.harm("clear", "exit 1");
    let error = host.clear().unwrap_err();
    assert!(error.to_string().contains("--lost"), "{error}");
    let mut without = host.plan();
    without.routers.clear();
    host.inside(|| Network::clear_lost(&host.file("run"), &without))
        .unwrap();
    assert!(!host.clear().unwrap());
}

#[test]
fn what_a_router_still_has_takes_nothing_from_who_came_after_on_this_host() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-after");
    drop(host.apply());
    host.harm("clear", "exit 1");
    host.clear().unwrap_err();
    let kept = || {
        let slots = ["network.json", "network-1.json"];
        slots.map(|slot| fs::read(host.file("run").join(slot)).map_or(0, |text| text.len()))
    };
    host.clear().unwrap_err();
    let before = kept();
    host.clear().unwrap_err();
    host.clear().unwrap_err();
    assert_eq!(kept(), before, "trying again adds nothing");
    let mut without = host.plan();
    without.routers.clear();
    let other = host.file("other");
    drop(host.inside(|| Network::apply(&other, &without)).unwrap());
    let class = host.class();
    assert!(class.is_some());
    host.clear().unwrap_err();
    host.heal("clear");
    assert!(host.clear().unwrap());
    assert_eq!(host.class(), class, "it is another's");
    assert!(host.inside(|| Network::clear(&other)).unwrap());
    assert_eq!(host.class(), None);
}

#[test]
fn a_router_that_was_never_reached_keeps_no_other_plan_from_being_applied() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("tc"));
    let host = Host::new("mend-unreached");
    let run_dir = host.file("run");
    for kind in ["apply", "clear"] {
        host.harm(kind, "exit 1");
    }
    let apply = |plan: &NetworkPlan| host.inside(|| Network::apply(&run_dir, plan));
    let error = apply(&host.plan()).unwrap_err();
    assert!(matches!(error, NetworkError::Partly { .. }), "{error}");
    let mut without = host.plan();
    without.routers.clear();
    apply(&without).unwrap();
    assert_eq!(host.class().unwrap(), "6Mbit");
    let mut mistyped = host.plan();
    mistyped.routers[0].command = vec!["/no/such/program".to_owned()];
    let error = apply(&mistyped).unwrap_err();
    assert!(matches!(error, NetworkError::Router(_)), "{error}");
    assert_eq!(host.class().unwrap(), "6Mbit");
    assert!(host.clear().unwrap());
}

#[test]
fn who_changes_a_ceiling_and_who_changes_a_priority_do_not_undo_each_other() {
    requires!(NEEDS[0], NEEDS[1]);
    let host = Host::new("mend-lost-update");
    let mut plan = host.plan();
    plan.routers.clear();
    let run_dir = host.file("run");
    let network = host.inside(|| Network::apply(&run_dir, &plan)).unwrap();
    let base = Adaptation::assured("gold", rate("5Mbit/s"));
    for round in 0..100_u64 {
        let ceil = rate("6Mbit/s").bits_per_second() + round * 8_000;
        let ceil = Some(BitRate::new(ceil));
        let priority = Some(Priority::ALL[usize::from(round % 2 == 0)]);
        let both = [
            Adaptation {
                ceil,
                ..base.clone()
            },
            Adaptation {
                priority,
                ..base.clone()
            },
        ];
        let together = Barrier::new(2);
        let change = |change: &Adaptation| {
            let other = host.open().unwrap();
            together.wait();
            host.inside(|| other.adapt_each(std::slice::from_ref(change)))
        };
        thread::scope(|scope| {
            let changes = both.each_ref().map(|one| scope.spawn(|| change(one)));
            for change in changes {
                change.join().unwrap().unwrap();
            }
        });
        let share = host.inside(|| network.share_of("gold")).unwrap();
        assert_eq!((Some(share.ceil), Some(share.priority)), (ceil, priority));
    }
}

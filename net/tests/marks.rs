//! Shares by control group and by user, with packets of both kinds.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use net::namespace::Namespace;
use net::network::NetworkStatus;
use net::plan::{NetworkPlan, SharePlan, Traffic};
use net::share::{Priority, Share};
use net::{Network, device};
use system_tests::{Need, requires};

use support::{NEEDS, namespace, printed};

const PLAN: &str = r#"
[uplink]
interface = "up0"
capacity = "10Mbit/s"
headroom = "0bit/s"
"#;

/// A control group of this test's own.
struct Group {
    name: String,
    folder: PathBuf,
}

impl Group {
    /// Nothing where version 2 is mounted nowhere below /sys/fs/cgroup.
    fn new(what: &str) -> Option<Self> {
        let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        let root = roots
            .into_iter()
            .find(|root| root.join("cgroup.controllers").exists())?;
        let name = format!("chronovisor-{what}-{}", std::process::id());
        let folder = root.join(&name).join("inner");
        fs::create_dir_all(&folder).unwrap();
        Some(Self { name, folder })
    }

    fn traffic(&self) -> Traffic {
        Traffic::Cgroup(format!("/{}/inner", self.name))
    }

    fn remove(&self) {
        // Those who were in it need a moment to be gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() || !self.folder.exists() {
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        let _ = fs::remove_dir(self.folder.parent().unwrap());
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A namespace with an uplink that has addresses of both kinds; what is sent there goes nowhere.
struct Host {
    namespace: Namespace,
    dir: tempfile::TempDir,
}

impl Host {
    fn new(what: &str) -> Self {
        let namespace = namespace(what);
        for words in [
            "ip link add up0 type ifb",
            "ip link set up0 up",
            "ip address add 192.0.2.9/24 dev up0",
            "ip address add 2001:db8::9/64 dev up0 nodad",
        ] {
            printed(&namespace, &words.split(' ').collect::<Vec<_>>());
        }
        let dir = tempfile::tempdir().unwrap();
        Self { namespace, dir }
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(work).unwrap()
    }

    fn apply(&self) -> Network {
        let plan = NetworkPlan::parse(PLAN).unwrap();
        self.inside(|| Network::apply(self.dir.path(), &plan))
            .unwrap()
    }

    fn reserve(&self, network: &Network, name: &str, traffic: Traffic) -> Result<(), String> {
        let rate = |text: &str| text.parse().unwrap();
        let plan = SharePlan {
            name: name.to_owned(),
            share: Share::new(rate("2Mbit/s"), rate("10Mbit/s"), Priority::BestEffort).unwrap(),
            traffic,
        };
        let reserved = self.inside(|| network.reserve(&plan));
        reserved.map_err(|error| error.to_string())
    }

    /// Sends datagrams, after `first` was done by the same process.
    fn send(&self, first: &str, to: &str, count: usize) {
        let script = format!("{first}; for i in {{1..{count}}}; do echo >/dev/udp/{to}/9; done");
        printed(&self.namespace, &["bash", "-c", &script]);
    }

    fn send_as(&self, uid: u32, to: &str, count: usize) {
        let script = format!("for i in {{1..{count}}}; do echo >/dev/udp/{to}/9; done");
        let uid = format!("--reuid={uid}");
        let command = ["setpriv", &uid, "--clear-groups", "bash", "-c", &script];
        printed(&self.namespace, &command);
    }

    /// The packets of each share, and of nobody's.
    fn packets(&self, network: &Network) -> Vec<(String, u64)> {
        thread::sleep(Duration::from_millis(100));
        let NetworkStatus { uplink, .. } = self.inside(|| network.status()).unwrap();
        let shares = uplink[0].shares.iter();
        shares
            .map(|share| (share.name.clone(), share.counters.packets))
            .collect()
    }
}

fn counts(all: &[(&str, u64)]) -> Vec<(String, u64)> {
    all.iter()
        .map(|(name, count)| ((*name).to_owned(), *count))
        .collect()
}

const PROGRAMS: [Need; 4] = [
    Need::Program("ip"),
    Need::Program("nft"),
    Need::Program("bash"),
    Need::Program("setpriv"),
];

#[test]
fn a_control_groups_packets_have_its_share_and_when_it_vanishes_the_others_keep_theirs() {
    requires!(
        NEEDS[0],
        NEEDS[1],
        Need::Root,
        PROGRAMS[0],
        PROGRAMS[1],
        PROGRAMS[2],
        PROGRAMS[3]
    );
    let Some(group) = Group::new("marks-group") else {
        println!("skipped: no control groups of version 2 below /sys/fs/cgroup");
        return;
    };
    let host = Host::new("marks-group");
    let network = host.apply();
    host.reserve(&network, "group", group.traffic()).unwrap();
    host.reserve(&network, "user", Traffic::Uid(65_534))
        .unwrap();
    let join = format!("echo $$ >{}/cgroup.procs", group.folder.display());
    host.send(&join, "192.0.2.1", 30);
    host.send(&join, "2001:db8::1", 7);
    host.send(":", "192.0.2.1", 5);
    host.send_as(65_534, "192.0.2.1", 3);
    assert_eq!(
        host.packets(&network),
        counts(&[("group", 37), ("user", 3)])
    );

    group.remove();
    // Its rule is left out, and all others are made anew.
    host.reserve(&network, "other", Traffic::Uid(65_533))
        .unwrap();
    host.send_as(65_533, "192.0.2.1", 11);
    host.send_as(65_534, "192.0.2.1", 4);
    assert_eq!(
        host.packets(&network),
        counts(&[("group", 37), ("user", 7), ("other", 11)])
    );
    let status = host.inside(|| network.status()).unwrap();
    let gone = status.uplink[0].shares[0].gone.clone().unwrap();
    assert!(gone.contains("there is no control group"), "{gone}");
    assert_eq!(status.uplink[0].shares[1].gone, None);
    let rules = printed(&host.namespace, &["nft", "list", "ruleset"]);
    assert!(!rules.contains("cgroupv2"), "{rules}");
    // A new share of a group that is not there is nobody's: said before anything changes.
    let none = host.reserve(&network, "none", Traffic::Cgroup("/no/such".to_owned()));
    let none = none.unwrap_err();
    assert!(
        none.contains("there is no control group /no/such"),
        "{none}"
    );
    assert_eq!(host.packets(&network).len(), 3);
    host.inside(|| network.release("group")).unwrap();
    assert!(host.inside(|| Network::clear(host.dir.path())).unwrap());
}

#[test]
fn a_users_packets_of_ip_version_6_have_its_share() {
    requires!(
        NEEDS[0],
        NEEDS[1],
        Need::Root,
        PROGRAMS[0],
        PROGRAMS[1],
        PROGRAMS[2],
        PROGRAMS[3]
    );
    let host = Host::new("marks-six");
    let network = host.apply();
    host.reserve(&network, "user", Traffic::Uid(65_534))
        .unwrap();
    let six = Traffic::Destinations(vec!["2001:db8::1".parse().unwrap()]);
    host.reserve(&network, "host", six).unwrap();
    host.send_as(65_534, "2001:db8::1", 20);
    host.send_as(65_533, "2001:db8::1", 6);
    assert_eq!(host.packets(&network), counts(&[("user", 20), ("host", 6)]));
    assert!(
        device::find(&mut host.namespace.netlink().unwrap(), "up0")
            .unwrap()
            .is_some()
    );
}

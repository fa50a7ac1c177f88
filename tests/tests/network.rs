//! `net`, and shares of the network for VTMs, by the command line.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use net::namespace::Namespace;
use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::{Ended, Guest};
use system_tests::{Need, User, requires};

const NEEDS: [Need; 4] = [
    Need::Capability(Capability::SysAdmin),
    Need::Capability(Capability::NetAdmin),
    Need::Program("ip"),
    Need::Program("nft"),
];

const PLAN: &str = r#"
[bridge]
name = "vms"
capacity = "1Gbit/s"
[uplink]
interface = "up0"
capacity = "10Mbit/s"
headroom = "0bit/s"
[[share]]
name = "gold"
assured = "6Mbit/s"
priority = "gold"
destinations = ["192.0.2.1"]
[[share]]
name = "rest"
assured = "4Mbit/s"
destinations = ["192.0.2.2"]
"#;

/// A namespace of this test's own, in which commands run.
struct Host<'a> {
    user: &'a User,
    namespace: Namespace,
    run_dir: String,
}

impl<'a> Host<'a> {
    fn new(user: &'a User, what: &str) -> Self {
        let name = format!("chronovisor-{what}-{}", std::process::id());
        Self {
            user,
            namespace: Namespace::create(&name).unwrap(),
            run_dir: user.path(what).to_string_lossy().into_owned(),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(self.user.program()).unwrap();
        command
            .args(arguments)
            .env("CHRONOVISOR_RUN_DIR", &self.run_dir);
        command
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ended {
        self.user.finish(self.command(arguments))
    }

    /// What a program of the system prints inside.
    #[track_caller]
    fn printed(&self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let mut command = self.namespace.command(words[0]).unwrap();
        let output = command.args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn links(&self) -> BTreeSet<String> {
        let links = self.printed("ip -o link");
        let names = links.lines().filter_map(|line| line.split(": ").nth(1));
        names.map(str::to_owned).collect()
    }

    fn status(&self) -> Value {
        self.run(&["--json", "net", "status"]).expect(0).json()
    }

    /// Sends datagrams from here, and lets them arrive.
    fn send(&self, to: &str, count: usize) {
        let send = || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..count {
                socket.send_to(&[0; 100], to).unwrap();
            }
        };
        self.namespace.run(send).unwrap();
        thread::sleep(Duration::from_millis(100));
    }
}

/// Joins two namespaces by a cable, with addresses in a network of its own.
fn join(one: (&Host, &str, &str), other: (&Host, &str, &str)) {
    let name = other.0.namespace.name();
    one.0.printed(&format!(
        "ip link add {} type veth peer name {} netns {name}",
        one.1, other.1
    ));
    for (host, link, address) in [one, other] {
        host.printed(&format!("ip address add {address} dev {link}"));
        host.printed(&format!("ip link set {link} up"));
    }
}

fn packets(status: &Value, interface: usize, share: usize) -> u64 {
    status["uplink"][interface]["shares"][share]["counters"]["packets"]
        .as_u64()
        .unwrap()
}

/// A plan that does not suit the host, and commands that find nothing.
fn look_before_anything_is_applied(user: &User, host: &Host) {
    let nowhere = PLAN.replace("up0", "nowhere");
    let nowhere = user.file("nowhere.toml", nowhere);
    let nowhere = nowhere.to_string_lossy();
    let missing = host.run(&["net", "plan", &nowhere]).expect(1);
    assert!(
        missing.stderr.contains("no interface nowhere"),
        "{missing:?}"
    );
    let none = host.run(&["net", "status"]).expect(1);
    assert!(none.stderr.contains("chronovisor net apply"), "{none:?}");
    host.run(&["net", "clear"]).expect(0);
    let state = Path::new(&host.run_dir).join("network.lock");
    assert!(!state.exists(), "looking leaves nothing behind");
}

#[test]
fn a_network_is_planned_applied_shown_adapted_and_cleared() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let user = User::new();
    let host = Host::new(&user, "net-commands");
    host.printed("ip link add up0 type ifb");
    host.printed("ip link set up0 up");
    let before = host.links();
    let example = host.run(&["net", "plan", "--example"]).expect(0);
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let example = path(&user.file("example.toml", example.stdout));
    host.run(&["net", "plan", &example]).expect(0);
    let plan = path(&user.file("network.toml", PLAN));
    let shown = host.run(&["net", "plan", &plan]).expect(0).stdout;
    assert!(
        shown.contains("uplink up0: 10Mbit/s, head room 0bit/s, 0bit/s left"),
        "{shown}"
    );
    look_before_anything_is_applied(&user, &host);
    assert_eq!(host.links(), before, "a plan changes nothing");

    host.run(&["net", "apply", &plan]).expect(0);
    let status = host.status();
    assert_eq!(
        status["uplink"][0]["shares"][0]["share"]["assured"],
        "6Mbit/s"
    );
    assert_eq!(status["bridge"]["link"]["headroom"], "50Mbit/s");
    let table = host.run(&["net", "status"]).expect(0).stdout;
    for word in ["vms", "gold", "best-effort", "(others)", "DROPS"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let rates = host
        .run(&["net", "status", "--seconds", "1"])
        .expect(0)
        .stdout;
    assert!(rates.contains("0bit/s"), "{rates}");

    let adapted = host
        .run(&["net", "adapt", "gold", "7Mbit/s", "rest", "3Mbit/s"])
        .expect(0);
    assert!(
        adapted
            .stdout
            .contains("gold: 7Mbit/s (at most 10Mbit/s, gold)"),
        "{adapted:?}"
    );
    let refused = host.run(&["net", "adapt", "gold", "8Mbit/s"]).expect(3);
    assert!(
        refused.stderr.contains("the nearest that fits is 7Mbit/s"),
        "{refused:?}"
    );
    assert!(
        host.run(&["net", "adapt", "silver", "1Mbit/s"])
            .expect(3)
            .stderr
            .contains("use one of gold, rest")
    );
    assert!(
        host.run(&["net", "adapt", "gold", "6Mbit/s", "rest"])
            .expect(2)
            .stderr
            .contains("`rest`")
    );
    let ceil = [
        "--json", "net", "adapt", "gold", "5Mbit/s", "--ceil", "5Mbit/s",
    ];
    assert_eq!(
        host.run(&ceil).expect(0).json()[0]["share"]["ceil"],
        "5Mbit/s"
    );

    host.run(&["net", "clear"]).expect(0);
    assert_eq!(host.links(), before);
    assert!(
        host.run(&["net", "clear"])
            .expect(0)
            .stdout
            .contains("nothing")
    );
}

#[test]
fn bad_plans_are_refused_by_name_and_change_nothing() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let user = User::new();
    let host = Host::new(&user, "net-bad");
    host.printed("ip link add up0 type ifb");
    let before = (host.links(), host.printed("tc qdisc show dev up0"));
    for (from, to, code, names) in [
        ("\"6Mbit/s\"", "\"7Mbit/s\"", 3, "nearest that fits is"),
        ("\"6Mbit/s\"", "\"0bit/s\"", 1, "assured = 0bit/s"),
        (
            "\"1Gbit/s\"",
            "\"101Gbit/s\"",
            1,
            "bridge.capacity = 101Gbit/s",
        ),
        ("192.0.2.2", "192.0.2.1", 1, "destination 192.0.2.1"),
        ("\"up0\"", "\"nowhere\"", 1, "nowhere"),
        ("priority", "importance", 1, "unknown field `importance`"),
        ("[bridge]", "[bridge", 1, "TOML"),
    ] {
        let plan = user.file("bad.toml", PLAN.replacen(from, to, 1));
        let ended = host
            .run(&["net", "apply", plan.to_str().unwrap()])
            .expect(code);
        assert!(ended.stderr.contains(names), "{to}: {ended:?}");
        assert!(
            ended.stderr.contains("bad.toml") || to == "\"nowhere\"",
            "{ended:?}"
        );
    }
    assert_eq!(
        (host.links(), host.printed("tc qdisc show dev up0")),
        before
    );
}

#[test]
fn whenever_an_apply_is_killed_the_next_one_finds_its_way() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2]);
    let user = User::new();
    let host = Host::new(&user, "net-killed");
    host.printed("ip link add up0 type ifb");
    host.printed("ip link set up0 up");
    let before = (host.links(), host.printed("tc qdisc show dev up0"));
    let plan = user.file("network.toml", PLAN);
    let other = user.file("other.toml", PLAN.replace("vms", "others"));
    let mut broken_off = 0;
    for round in 0..40_u64 {
        let file = if round % 2 == 0 { &plan } else { &other };
        let mut child = host
            .command(&["net", "apply", file.to_str().unwrap()])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_micros(500 * round));
        child.kill().unwrap();
        child.wait().unwrap();
        let mark = std::fs::read_to_string(format!("{}/network.lock", host.run_dir));
        broken_off += usize::from(mark.is_ok_and(|mark| mark.starts_with("changing")));
        if round % 4 == 3 {
            host.run(&["net", "apply", plan.to_str().unwrap()])
                .expect(0);
            assert!(host.links().contains("vms") && !host.links().contains("others"));
            host.run(&["net", "clear"]).expect(0);
            assert_eq!(
                (host.links(), host.printed("tc qdisc show dev up0")),
                before
            );
        }
    }
    assert!(broken_off > 0, "no apply was killed in the middle");
}

/// The last CPU.
fn cpu() -> String {
    let count = thread::available_parallelism().unwrap().get();
    (count - 1).to_string()
}

fn serve<'a>(host: &Host<'a>) -> Guest<'a> {
    let command = host.command(&["vtm", "serve", "--cpu", &cpu(), "--slot", "8ms"]);
    let mut service = host.user.start(command, "the service");
    service.until("serving", |service| service.stdout().contains("served at"));
    service
}

#[test]
fn vtms_have_shares_of_the_uplink_by_destination_and_by_user() {
    requires!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        NEEDS[3],
        Need::Program("setpriv"),
        Need::Capability(Capability::SysNice)
    );
    let user = User::new();
    let host = Host::new(&user, "net-vtm");
    let far = Host::new(&user, "net-vtm-far");
    join(
        (&host, "up0", "192.0.2.9/24"),
        (&far, "eth0", "192.0.2.1/24"),
    );
    let plan = PLAN.split("[[share]]").next().unwrap();
    let plan = user.file("network.toml", plan);
    let service = serve(&host);
    host.run(&["vtm", "create", "gold"]).expect(0);
    let none = host
        .run(&["vtm", "network", "reserve", "gold", "6Mbit/s", "192.0.2.1"])
        .expect(3);
    assert!(none.stderr.contains("net apply"), "{none:?}");
    host.run(&["net", "apply", plan.to_str().unwrap()])
        .expect(0);
    let nobody = host
        .run(&[
            "vtm",
            "network",
            "reserve",
            "silver",
            "6Mbit/s",
            "192.0.2.1",
        ])
        .expect(3);
    assert!(
        nobody.stderr.contains("no VTM is called 'silver'"),
        "{nobody:?}"
    );
    let whose = host
        .run(&["vtm", "network", "reserve", "gold", "6Mbit/s"])
        .expect(3);
    assert!(whose.stderr.contains("--uid"), "{whose:?}");
    let named = host
        .run(&["vtm", "network", "reserve", "gold", "6Mbit/s", "a.example"])
        .expect(2);
    assert!(named.stderr.contains("such as 192.0.2.10"), "{named:?}");
    let reserve = [
        "vtm",
        "network_reserve",
        "gold",
        "6Mbit/s",
        "192.0.2.1",
        "--priority",
        "gold",
    ];
    let reserved = host.run(&reserve).expect(0).stdout;
    assert_eq!(
        reserved,
        "gold: 6Mbit/s (at most 10Mbit/s, gold) of the network\n"
    );
    host.run(&["vtm", "create", "rest"]).expect(0);
    let too_much = host
        .run(&[
            "vtm", "network", "reserve", "rest", "5Mbit/s", "--uid", "65534",
        ])
        .expect(3);
    assert!(too_much.stderr.contains("fits is 4Mbit/s"), "{too_much:?}");
    host.run(&[
        "vtm", "network", "reserve", "rest", "4Mbit/s", "--uid", "65534",
    ])
    .expect(0);

    packets_are_counted_where_they_belong(&host);
    shares_change_and_end(&host, service);
}

fn packets_are_counted_where_they_belong(host: &Host<'_>) {
    host.send("192.0.2.1:9", 50);
    let status = host.status();
    assert_eq!(packets(&status, 0, 0), 50, "{status:#}");
    let mut nobody = host.namespace.command("setpriv").unwrap();
    nobody.args([
        "--reuid",
        "65534",
        "--clear-groups",
        "bash",
        "-c",
        "for i in {1..20}; do echo > /dev/udp/192.0.2.1/9; done",
    ]);
    assert!(nobody.status().unwrap().success());
    thread::sleep(Duration::from_millis(100));
    assert_eq!(
        packets(&host.status(), 0, 1),
        20,
        "by user before by destination"
    );
}

fn shares_change_and_end(host: &Host<'_>, service: Guest<'_>) {
    let adapted = host
        .run(&["vtm", "network_adapt", "gold", "7Mbit/s", "rest", "3Mbit/s"])
        .expect(0);
    assert_eq!(adapted.stdout.matches("Mbit/s (at most").count(), 2);
    host.run(&["vtm", "network", "adapt", "gold", "8Mbit/s"])
        .expect(3);
    let status = host.status();
    let assured = |share: usize| status["uplink"][0]["shares"][share]["share"]["assured"].clone();
    assert_eq!(
        (assured(0), assured(1)),
        ("7Mbit/s".into(), "3Mbit/s".into())
    );
    host.run(&["vtm", "release", "rest"]).expect(0);
    assert_eq!(
        host.status()["uplink"][0]["shares"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    // A service that is killed holds no share of the network.
    service.signal(nix::sys::signal::Signal::SIGKILL);
    let _ = service.wait(Duration::from_secs(10));
    assert_eq!(
        host.status()["uplink"][0]["shares"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    host.run(&["net", "clear"]).expect(0);
}

//! What cannot be done with the network, by the command line: said with the name of what is wrong, and nothing changed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::process::Command;

use net::namespace::Namespace;
use system_tests::requires::Capability;
use system_tests::user::Ended;
use system_tests::{Need, User, requires};

const NEEDS: [Need; 5] = [
    Need::Capability(Capability::SysAdmin),
    Need::Capability(Capability::NetAdmin),
    Need::Root,
    Need::Program("ip"),
    Need::Program("tc"),
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
ceil = "10Mbit/s"
priority = "gold"
destinations = ["192.0.2.1"]
[[share]]
name = "rest"
assured = "4Mbit/s"
destinations = ["192.0.2.2"]
"#;

/// A namespace of this test's own, with an interface `up0`.
struct Host<'a> {
    user: &'a User,
    namespace: Namespace,
    run_dir: String,
}

impl<'a> Host<'a> {
    fn new(user: &'a User, what: &str) -> Self {
        let name = format!("chronovisor-{what}-{}", std::process::id());
        let host = Self {
            user,
            namespace: Namespace::create(&name).unwrap(),
            run_dir: user.path(what).to_string_lossy().into_owned(),
        };
        host.printed("ip link add up0 type ifb");
        host.printed("ip link set up0 up");
        host
    }

    /// Runs the command, `before` in front of it.
    #[track_caller]
    fn run_by(&self, before: &[&str], arguments: &[&str]) -> Ended {
        let program = self.user.program().to_str().unwrap();
        let words = [before, &[program], arguments].concat();
        let mut command: Command = self.namespace.command(words[0]).unwrap();
        command
            .args(&words[1..])
            .env("CHRONOVISOR_RUN_DIR", &self.run_dir);
        self.user.finish(command)
    }

    #[track_caller]
    fn run(&self, arguments: &[&str]) -> Ended {
        self.run_by(&[], arguments)
    }

    #[track_caller]
    fn printed(&self, words: &str) -> String {
        let words: Vec<_> = words.split(' ').collect();
        let mut command = self.namespace.command(words[0]).unwrap();
        let output = command.args(&words[1..]).output().unwrap();
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn apply(&self, plan: &str) -> Ended {
        let file = self.user.file("network.toml", plan);
        self.run(&["net", "apply", file.to_str().unwrap()])
    }

    /// Interfaces, queues with what they counted, filters, and what the state says.
    fn everything(&self) -> Vec<String> {
        let mut all = vec![self.printed("ip -o link"), self.printed("tc qdisc show")];
        for device in ["up0", "vms-tx", "vms-rx"] {
            all.push(self.printed(&format!("tc -s class show dev {device}")));
            all.push(self.printed(&format!("tc filter show dev {device}")));
        }
        all.push(self.run(&["--json", "net", "status"]).expect(0).stdout);
        all
    }
}

#[test]
fn whatever_is_asked_for_wrongly_is_named_and_every_class_stays() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let user = User::new();
    let host = Host::new(&user, "net-wrong");
    host.apply(PLAN).expect(0);
    let before = host.everything();
    for (words, code, names) in [
        ("gold 7Mbit/s", 3, "the nearest that fits is 6Mbit/s"),
        (
            "gold 5Mbit/s --ceil 4Mbit/s",
            1,
            "ceil = 4Mbit/s is below assured",
        ),
        (
            "gold 5Mbit/s --ceil 11Mbit/s",
            3,
            "nearest that fits is 10Mbit/s",
        ),
        ("gold 0bit/s", 1, "0bit/s"),
        ("gold 101Gbit/s", 1, "101Gbit/s"),
        ("gold 5Mbit/s --ceil 101Gbit/s", 1, "101Gbit/s"),
        ("gold 5Mbit/s --ceil -1Mbit/s", 2, "-1Mbit/s"),
        ("gold fast", 2, "fast"),
        ("gold 1Mbit/s gold 2Mbit/s", 3, "named twice"),
        ("nobody 1Mbit/s", 3, "use one of gold, rest"),
    ] {
        let words: Vec<_> = ["net", "adapt"]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        let ended = host.run(&words).expect(code);
        assert!(ended.stderr.contains(names), "{words:?}: {ended:?}");
    }
    for (from, to, code, names) in [
        (
            "\"10Mbit/s\"\npriority",
            "\"5Mbit/s\"\npriority",
            1,
            "5Mbit/s",
        ),
        ("\"6Mbit/s\"", "\"6.5Mbit/s\"", 3, "nearest that fits is"),
        ("\"6Mbit/s\"", "\"0bit/s\"", 1, "assured = 0bit/s"),
        ("\"6Mbit/s\"", "\"101Gbit/s\"", 1, "101Gbit/s"),
        ("\"1Gbit/s\"", "\"100.1Gbit/s\"", 1, "bridge.capacity"),
        ("192.0.2.2", "192.0.2.1", 1, "destination 192.0.2.1"),
        (
            "\"192.0.2.2\"",
            "\"192.0.2.7\", \"192.0.2.7\"",
            1,
            "192.0.2.7",
        ),
        ("\"rest\"", "\"gold\"", 1, "gold"),
        ("\"up0\"", "[\"up0\", \"nowhere\"]", 1, "nowhere"),
        ("\"up0\"", "[\"up0\", \"up0\"]", 1, "up0"),
    ] {
        let ended = host.apply(&PLAN.replacen(from, to, 1)).expect(code);
        assert!(ended.stderr.contains(names), "{to}: {ended:?}");
    }
    assert_eq!(host.everything(), before);
}

#[test]
fn without_cap_net_admin_the_capability_is_named_and_every_class_stays() {
    requires!(
        NEEDS[0],
        NEEDS[1],
        NEEDS[2],
        NEEDS[3],
        NEEDS[4],
        Need::Program("setpriv")
    );
    let user = User::new();
    let host = Host::new(&user, "net-powerless");
    let plan = user.file("network.toml", PLAN);
    let plan = plan.to_str().unwrap();
    let without = [
        "setpriv",
        "--bounding-set",
        "-net_admin",
        "--inh-caps",
        "-net_admin",
    ];
    let nothing = (host.printed("ip -o link"), host.printed("tc qdisc show"));
    let denied = host.run_by(&without, &["net", "apply", plan]).expect(1);
    assert!(denied.stderr.contains("CAP_NET_ADMIN"), "{denied:?}");
    assert_eq!(
        (host.printed("ip -o link"), host.printed("tc qdisc show")),
        nothing
    );
    host.apply(PLAN).expect(0);
    let before = host.everything();
    let small = user.file("small.toml", PLAN.replacen("6Mbit/s", "5Mbit/s", 1));
    for words in [
        &["net", "adapt", "gold", "5Mbit/s"][..],
        &["net", "adapt", "gold", "5Mbit/s", "rest", "3Mbit/s"],
        &["net", "apply", small.to_str().unwrap()],
        &["net", "clear"],
    ] {
        let denied = host.run_by(&without, words).expect(1);
        assert!(denied.stderr.contains("CAP_NET_ADMIN"), "{denied:?}");
        assert_eq!(host.everything(), before, "{words:?}");
    }
    let nobody = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let denied = host.run_by(&nobody, &["net", "clear"]);
    assert_ne!(denied.code(), 0, "{denied:?}");
    assert_eq!(host.everything(), before);
}

#[test]
fn an_interface_that_vanishes_is_named_by_every_command_and_the_rest_is_cleared() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3], NEEDS[4]);
    let user = User::new();
    let host = Host::new(&user, "net-gone");
    let before = host.printed("ip -o link");
    host.apply(PLAN).expect(0);
    host.printed("ip link delete up0");
    for words in [&["net", "adapt", "gold", "5Mbit/s"][..], &["net", "status"]] {
        let gone = host.run(words).expect(1);
        assert!(gone.stderr.contains("up0"), "{gone:?}");
    }
    let gone = host.apply(PLAN).expect(1);
    assert!(gone.stderr.contains("up0"), "{gone:?}");
    host.run(&["net", "clear"]).expect(0);
    assert_eq!(
        host.printed("ip -o link").lines().count() + 1,
        before.lines().count()
    );
    // It comes back, and everything with it.
    host.printed("ip link add up0 type ifb");
    host.apply(PLAN).expect(0);
    host.run(&["net", "clear"]).expect(0);
}

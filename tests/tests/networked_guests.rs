//! Guests with a share of the network, as a user has them: specification, admission, status, saving, crashes.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use net::namespace::Namespace;
use nix::sys::signal::Signal;
use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::{Ended, Guest};
use system_tests::{Need, User, requires};

const ADMIN: Need = Need::Capability(Capability::NetAdmin);
const NICE: Need = Need::Capability(Capability::SysNice);
const NETWORK: &str =
    "[bridge]\nname = \"vms0\"\ncapacity = \"1Gbit/s\"\naddress = \"10.98.0.1/24\"\n";

/// A user whose commands run in a network namespace.
struct Networked {
    user: User,
    namespace: Namespace,
}

impl Networked {
    fn new(what: &str) -> Self {
        let name = format!("chronovisor-{what}-{}", std::process::id());
        Self {
            user: User::new(),
            namespace: Namespace::create(&name).unwrap(),
        }
    }

    fn apply(self) -> Self {
        let file = self.user.file("network.toml", NETWORK);
        self.run(&["net", "apply", file.to_str().unwrap()])
            .expect(0);
        self
    }

    fn inside<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        self.namespace.run(what).unwrap()
    }

    fn run(&self, arguments: &[&str]) -> Ended {
        self.inside(|| self.user.run(arguments))
    }

    fn launch(&self, name: &str, network: &str) -> Guest<'_> {
        self.inside(|| self.user.launch(name, &spec(network), &[]))
    }

    /// Sends datagrams until `wanted` of them came back, each within some time.
    fn echo(&self, wanted: usize) {
        let socket = self.inside(|| UdpSocket::bind("10.98.0.1:0")).unwrap();
        socket.connect("10.98.0.2:7").unwrap();
        let patience = Some(Duration::from_millis(300));
        socket.set_read_timeout(patience).unwrap();
        let (mut answered, begun) = (0, Instant::now());
        while answered < wanted {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{answered} answers"
            );
            socket.send(&[0; 100]).unwrap();
            answered += usize::from(socket.recv(&mut [0; 200]).is_ok());
        }
    }

    fn ports(&self) -> String {
        self.run(&["net", "status"]).expect(0).stdout
    }
}

impl Drop for Networked {
    fn drop(&mut self) {
        // The namespace takes it along if this fails.
        drop(self.run(&["net", "clear"]));
    }
}

fn spec(network: &str) -> String {
    let assured = if network.contains("assured") {
        ""
    } else {
        "assured = \"100Mbit/s\""
    };
    format!(
        "[guest]\nduration = \"60s\"\nmemory = \"16MiB\"\n[guest.net]\naddress = \"10.98.0.2/24\"\necho = 7\n\
         [cpu]\nruntime = \"8ms\"\nperiod = \"20ms\"\n[network]\n{assured}\n{network}\n"
    )
}

fn network(guest: &mut Guest<'_>) -> Value {
    guest.status()["network"].clone()
}

#[test]
fn a_guest_where_no_network_was_applied_is_refused_with_the_command_that_helps() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("none");
    let spec = networked.user.spec("cv-none", &spec(""));
    for command in ["check", "run"] {
        let refused = networked.run(&[command, &spec]);
        assert_ne!(refused.code(), 0);
        assert!(
            refused.stderr.contains("chronovisor net apply"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_guest_has_its_share_and_its_devices_thread_has_cpu_time_as_long_as_it_runs() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("share").apply();
    let text = networked.user.spec("cv-share", &spec(""));
    let checked = networked.run(&["check", &text]).expect(0).stdout;
    assert!(
        checked.contains("network thread: (500 us, 10 ms)"),
        "{checked}"
    );
    assert!(checked.contains("100Mbit/s"), "{checked}");
    let mut guest = networked.launch("cv-share", "");
    networked.echo(20);
    let status = network(&mut guest);
    assert_eq!(
        status["in_force"]["Ok"]["reservation"]["runtime_ns"],
        500_000
    );
    let counters = &status["counters"];
    assert!(counters["received"].as_u64().unwrap() >= 20, "{status}");
    assert!(counters["consumed"].as_u64().unwrap() > 0, "{status}");
    for lost in ["too_long", "refused", "tap_errors", "faults"] {
        assert_eq!(counters[lost], 0, "{status}");
    }
    assert!(networked.ports().contains("cv-share"));
    let listed = networked.run(&["--json", "ls"]).expect(0).json();
    assert_eq!(listed[0]["vcpus"], 1, "the device's thread is no vCPU");
    let refused = networked.run(&["net", "clear"]).expect(3);
    assert!(
        refused.stderr.contains("chronovisor stop cv-share"),
        "{refused:?}"
    );
    networked.run(&["pause", "cv-share"]).expect(0);
    networked.run(&["resume", "cv-share"]).expect(0);
    networked.echo(20);
    networked.run(&["stop", "cv-share"]).expect(0);
    assert!(!networked.ports().contains("cv-share"), "stopped for good");
    guest.wait(Duration::from_secs(20)).expect(0);
}

#[test]
fn a_guest_whose_interface_is_deleted_runs_on_and_its_owner_is_told_which_one() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("gone").apply();
    let mut guest = networked.launch("cv-gone", "");
    networked.echo(1);
    let listed = networked.run(&["--json", "ls"]).expect(0).stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    // The device's thread is none.
    assert_eq!(listed[0]["vcpus"], 1, "{listed}");
    let port = network(&mut guest)["port"].as_str().unwrap().to_owned();
    let deleted = std::process::Command::new("ip")
        .args(["-n", networked.namespace.name(), "link", "delete", &port])
        .status();
    assert!(deleted.unwrap().success());
    let begun = Instant::now();
    while network(&mut guest)["fault"] != "gone" {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = networked.run(&["status", "cv-gone"]).expect(0).stdout;
    let said = format!("has stopped: its interface {port} is gone");
    assert!(status.contains(&said), "{status}");
    let ended = guest.stop();
    assert!(ended.stderr.contains(&port), "{ended:?}");
    ended.expect(0);
}

#[test]
fn a_saved_guest_goes_on_with_its_connections_and_its_address() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("saved").apply();
    let guest = networked.launch("cv-saved", "");
    networked.echo(5);
    networked.run(&["save", "cv-saved", "saved"]).expect(0);
    guest.wait(Duration::from_secs(10)).expect(0);
    let other = networked
        .user
        .spec("cv-saved", &spec("mac = \"02:00:00:00:00:05\""));
    let refused = networked.run(&["restore", &other, "saved"]);
    assert_ne!(refused.code(), 0);
    assert!(refused.stderr.contains("mac = "), "{refused:?}");
    let own = networked.user.spec("cv-saved", &spec(""));
    let restore = networked.user.command(&["restore", &own, "saved"]);
    let mut guest = networked.inside(|| networked.user.start(restore, "cv-saved"));
    networked.echo(20);
    assert_eq!(network(&mut guest)["needs_reset"], false);
    guest.stop().expect(0);
}

#[test]
fn what_a_killed_guest_had_of_the_network_is_there_for_the_next_one() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("killed").apply();
    let guest = networked.launch("cv-killed", "mac = \"02:00:00:00:00:07\"");
    networked.echo(1);
    guest.signal(Signal::SIGKILL);
    assert_ne!(guest.wait(Duration::from_secs(10)).code(), 0);
    let guest = networked.launch(
        "cv-next",
        "mac = \"02:00:00:00:00:07\"\nassured = \"900Mbit/s\"",
    );
    networked.echo(1);
    guest.stop().expect(0);
}

#[test]
fn a_thread_or_a_share_that_does_not_fit_leaves_nothing_behind() {
    requires!(Need::Kvm, NICE, ADMIN);
    let networked = Networked::new("full").apply();
    for (written, said) in [
        ("runtime = \"9990us\"\nperiod = \"10ms\"", "network.runtime"),
        ("assured = \"2Gbit/s\"", "2Gbit/s"),
    ] {
        let text = networked.user.spec("cv-full", &spec(written));
        let refused = networked.run(&["run", &text]);
        assert_ne!(refused.code(), 0);
        assert!(refused.stderr.contains(said), "{refused:?}");
        assert!(!networked.ports().contains("cv-full"));
    }
    let guest = networked.launch("cv-full", "");
    networked.echo(1);
    guest.stop().expect(0);
}

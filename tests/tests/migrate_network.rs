//! A guest with connections goes from one host to another: both are network namespaces, with a switch between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest_images::RT_GUEST;
use migration::ram::{GuestRam, Machine, PageNumber};
use net::Network;
use net::device;
use net::namespace::Namespace;
use net::netlink::Netlink;
use net::plan::NetworkPlan;
use rt_abi::flow;
use sched::framework::Factory;
use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::{Ended, Guest};
use system_tests::{Need, User, requires};
use vmm::guest::{Lender, MovingVm, Observer, Outcome, Reception, RunningVm, Vms, supervise};
use vmm::spec::{VmPlan, VmSpec};
use vmm::telemetry::Event;

const NEEDS: [Need; 4] = [
    Need::Kvm,
    Need::Root,
    Need::Capability(Capability::NetAdmin),
    Need::Capability(Capability::SysAdmin),
];
const PATIENCE: Duration = Duration::from_secs(20);
const HOSTS: [&str; 2] = ["10.97.0.11", "10.97.0.12"];
const CLIENT: &str = "10.97.0.1";
const GUEST: &str = "10.97.0.2";
const SINK: u16 = 9;
const SOURCE: u16 = 19;

/// Neither the vCPU nor the device's thread has a reservation: the test is about what arrives, not when.
const SPEC: &str = "name = \"cv-moved\"\n[guest]\nmemory = \"16MiB\"\nduration = \"120s\"\n\
    [guest.net]\naddress = \"10.97.0.2/24\"\nsink = 9\nsource = 19\n\
    [cpu]\nbackend = \"other\"\n[network]\nassured = \"200Mbit/s\"\nceil = \"400Mbit/s\"\nbackend = \"other\"\n";

/// Two hosts, and a switch with a client.
struct Lan {
    switch: Namespace,
    hosts: [Namespace; 2],
}

impl Lan {
    fn new(what: &str) -> Self {
        let name = |end: &str| format!("chronovisor-{what}-{end}-{}", std::process::id());
        let [switch, a, b] = ["switch", "a", "b"].map(|end| Namespace::create(&name(end)).unwrap());
        let mut netlink = switch.netlink().unwrap();
        netlink.apply(&[device::add_bridge("sw")]).unwrap();
        let bridge = device::get(&mut netlink, "sw").unwrap();
        let address = device::add_address(&bridge, CLIENT.parse().unwrap(), 24);
        netlink
            .apply(&[address, device::set_up(&bridge, true)])
            .unwrap();
        Self {
            switch,
            hosts: [a, b],
        }
    }

    /// Connects a host whose network has been applied.
    fn connect(&self, host: usize) {
        let mut netlink = self.hosts[host].netlink().unwrap();
        let port = ["a", "b"][host];
        let cable = device::add_veth("up", port, Some(&self.switch));
        netlink.apply(&[cable]).unwrap();
        plug(&mut netlink, "up", "vms0");
        plug(&mut self.switch.netlink().unwrap(), port, "sw");
    }

    /// Behind which port of the switch the guest is.
    fn place(&self) -> String {
        let mut command = self.switch.command("bridge").unwrap();
        let listed = command.args(["fdb", "show", "br", "sw"]).output().unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        let own = net::mac::Mac::of_name("cv-moved").to_string();
        let mut lines = listed.lines().filter(|line| line.starts_with(&own));
        let line = lines.next().unwrap_or_default();
        line.split(' ').nth(2).unwrap_or("nothing").to_owned()
    }

    /// A connection to the guest, which may not be there yet.
    fn open(&self, port: u16) -> TcpStream {
        let to: SocketAddr = format!("{GUEST}:{port}").parse().unwrap();
        let begun = Instant::now();
        loop {
            let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(1));
            match self.switch.run(connect).unwrap() {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    stream.set_write_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
            }
        }
    }
}

fn plug(netlink: &mut Netlink, name: &str, bridge: &str) {
    let [link, bridge] = [name, bridge].map(|name| device::get(netlink, name).unwrap());
    let steps = [
        device::set_bridge(&link, Some(&bridge)),
        device::set_up(&link, true),
    ];
    netlink.apply(&steps).unwrap();
}

/// What a connection has carried so far, and the longest time in which it carried nothing.
#[derive(Default)]
struct Carried {
    bytes: AtomicU64,
    longest: AtomicU64,
    stop: AtomicBool,
}

impl Carried {
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    fn more_than(&self, bytes: u64) {
        let begun = Instant::now();
        while self.bytes() < bytes {
            assert!(begun.elapsed() < PATIENCE, "{} of {bytes}", self.bytes());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Goes on until it is stopped, or the connection breaks.
    fn run(&self, mut step: impl FnMut(u64) -> usize) {
        let mut last = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let count = step(self.bytes());
            self.bytes.fetch_add(count as u64, Ordering::Relaxed);
            let gap = u64::try_from(last.elapsed().as_millis()).unwrap();
            self.longest.fetch_max(gap, Ordering::Relaxed);
            last = Instant::now();
        }
    }
}

/// Takes what the guest sends, every byte of it checked.
fn download(mut stream: TcpStream, carried: &Carried) {
    let (mut bytes, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    carried.run(|so_far| {
        let count = stream.read(&mut bytes).unwrap();
        assert!(count > 0, "closed after {so_far} bytes");
        flow::fill(&mut expected[..count], usize::try_from(so_far).unwrap());
        assert!(bytes[..count] == expected[..count], "after {so_far} bytes");
        count
    });
}

fn upload(mut stream: TcpStream, carried: &Carried) {
    let bytes = vec![7; 16 << 10];
    carried.run(|so_far| {
        stream
            .write(&bytes)
            .unwrap_or_else(|error| panic!("after {so_far} bytes: {error}"))
    });
}

/// Nobody looks.
struct Silent;

impl Observer for Silent {
    fn output(&mut self, _: &[u8]) {}
    fn event(&mut self, _: &Event) {}
}

/// Supervises a guest on this thread until it is over.
fn supervised(vm: RunningVm, reception: Reception) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let mut nobody = Silent;
    let outcome = supervise(vm, reception, &mut nobody);
    runtime.unwrap().block_on(outcome).unwrap()
}

fn plan() -> VmPlan {
    VmSpec::parse(SPEC).unwrap().plan().unwrap()
}

/// A host's network.
fn network(host: usize) -> String {
    let address = HOSTS[host];
    format!("[bridge]\nname = \"vms0\"\ncapacity = \"10Gbit/s\"\naddress = \"{address}/24\"\n")
}

fn apply(run_dir: &Path, host: usize) {
    let plan = NetworkPlan::parse(&network(host)).unwrap();
    drop(Network::apply(run_dir, &plan).unwrap());
}

/// Copies the memory of a guest that stands still.
fn copy(from: &impl GuestRam, to: &impl GuestRam) {
    let mut bytes = vec![0; 256 << 12];
    for first in (0..from.pages()).step_by(256) {
        let count = usize::try_from((from.pages() - first).min(256)).unwrap();
        let bytes = &mut bytes[..count << 12];
        from.read(PageNumber(first), bytes).unwrap();
        to.write(PageNumber(first), bytes).unwrap();
    }
}

/// Moves a guest that is supervised to one that stands ready, which runs then.
fn carry_over(lender: &Lender, target: RunningVm) -> RunningVm {
    let mut target = MovingVm::new(target).unwrap();
    let mut loan = lender.borrow().unwrap();
    let guest = loan.guest();
    guest.pause().unwrap();
    // So that something surely comes meanwhile.
    thread::sleep(Duration::from_millis(20));
    copy(&guest.vm().pages(), &target.vm().pages());
    target.restore(&guest.save().unwrap()).unwrap();
    target.resume().unwrap();
    loan.moved();
    target.give_back().0
}

#[test]
fn connections_go_on_where_the_guest_has_come_to_and_no_frame_for_it_is_lost() {
    for need in NEEDS {
        requires!(need);
    }
    requires!(Need::Program("bridge"));
    let lan = Lan::new("carried");
    let dirs = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let [here, there] = &lan.hosts;
    for (host, dir) in dirs.iter().enumerate() {
        lan.hosts[host].run(|| apply(dir.path(), host)).unwrap();
        lan.connect(host);
    }
    let (source, source_reception) = here
        .run(|| {
            let run_dir = dirs[0].path();
            let built = Vms { run_dir }
                .make(plan())
                .unwrap()
                .build(RT_GUEST)
                .unwrap();
            let reception = Reception::open(&built, run_dir).unwrap();
            (built.start().unwrap(), reception)
        })
        .unwrap();
    let lender = source.lender();
    let [down, up] = [(); 2].map(|()| Carried::default());
    thread::scope(|scope| {
        let left = scope.spawn(|| here.run(|| supervised(source, source_reception)).unwrap());
        let [from, to] = [SOURCE, SINK].map(|port| lan.open(port));
        scope.spawn(|| download(from, &down));
        scope.spawn(|| upload(to, &up));
        for carried in [&down, &up] {
            carried.more_than(1 << 20);
        }
        let (target, reception) = there
            .run(|| {
                let run_dir = dirs[1].path();
                let admitted = Vms { run_dir }.make_for_arrival(plan()).unwrap();
                let built = admitted.prepare().unwrap();
                let reception = Reception::open(&built, run_dir).unwrap();
                (built.stand().unwrap(), reception)
            })
            .unwrap();
        for carried in [&down, &up] {
            carried.more_than(carried.bytes() + (1 << 20));
        }
        assert_eq!(lan.place(), "a");
        for carried in [&down, &up] {
            carried.longest.store(0, Ordering::Relaxed);
        }
        let target = here.run(|| carry_over(&lender, target)).unwrap();
        assert_eq!(lan.place(), "b");
        let arrived = target.lender();
        let new = scope.spawn(|| there.run(|| supervised(target, reception)).unwrap());
        for carried in [&down, &up] {
            carried.more_than(carried.bytes() + (1 << 20));
            carried.stop.store(true, Ordering::Relaxed);
        }
        let left = left.join().unwrap().status.network.unwrap();
        println!(
            "left: {} passed on, {} lost",
            left.passed_on_in_move, left.lost_in_move
        );
        println!(
            "longest silence: {:?}",
            [&down, &up].map(|c| c.longest.load(Ordering::Relaxed))
        );
        assert!(left.passed_on_in_move > 0);
        thread::sleep(Duration::from_millis(600));
        arrived.borrow().unwrap().moved();
        let new = new.join().unwrap().status.network.unwrap();
        println!("arrived: {:?}, {} lost", new.counters, new.lost_in_move);
        assert_eq!((left.lost_in_move, new.lost_in_move), (0, 0));
    });
}

/// `chronovisor` at one of two hosts of one user: the second has a run directory beside the first one's.
struct Commands<'a> {
    user: &'a User,
    lan: &'a Lan,
}

impl Commands<'_> {
    fn command(&self, host: usize, arguments: &[&str]) -> Command {
        let mut command = self.user.command(arguments);
        let run_dir = [self.user.run_dir(), self.user.path("there")];
        command.env("CHRONOVISOR_RUN_DIR", &run_dir[host]);
        command
    }

    fn run(&self, host: usize, arguments: &[&str]) -> Ended {
        let finish = || self.user.finish(self.command(host, arguments));
        self.lan.hosts[host].run(finish).unwrap()
    }

    fn start(&self, host: usize, arguments: &[&str]) -> Guest<'_> {
        let start = || self.user.start(self.command(host, arguments), "cv-moved");
        self.lan.hosts[host].run(start).unwrap()
    }

    fn apply(&self, host: usize, network: &str) {
        let file = self.user.file(&format!("{host}.toml"), network);
        self.run(host, &["net", "apply", file.to_str().unwrap()])
            .expect(0);
        self.lan.connect(host);
    }

    fn receive(&self) -> Guest<'_> {
        let arguments = ["--json", "receive", "0.0.0.0:7420", "--once", "--plain"];
        let mut receiving = self.start(1, &arguments);
        receiving.until("waiting", |receiving| {
            receiving.stdout().contains("listening")
        });
        receiving
    }

    fn migrate(&self, more: &[&str]) -> Value {
        let mut arguments = vec!["--json", "migrate", "cv-moved", HOSTS[1], "--plain"];
        arguments.extend(["--downtime", "1s", "--finish", "60s"]);
        arguments.extend(more);
        let answer = self.run(0, &arguments).expect(0).json();
        assert_eq!(answer["outcome"], "moved", "{answer}");
        answer
    }
}

impl Drop for Commands<'_> {
    fn drop(&mut self) {
        // The namespaces take it along if this fails.
        for host in 0..2 {
            drop(self.run(host, &["net", "clear"]));
        }
    }
}

#[test]
fn a_transfer_runs_through_a_migration_by_command() {
    for need in NEEDS {
        requires!(need);
    }
    requires!(Need::Program("bridge"));
    let (user, lan) = (User::new(), Lan::new("command"));
    let hosts = Commands {
        user: &user,
        lan: &lan,
    };
    for host in 0..2 {
        hosts.apply(host, &network(host));
    }
    let receiving = hosts.receive();
    let file = user.file("guest.toml", SPEC);
    let source = hosts.start(0, &["--json", "run", file.to_str().unwrap()]);
    let [down, up] = [(); 2].map(|()| Carried::default());
    thread::scope(|scope| {
        let [from, to] = [SOURCE, SINK].map(|port| lan.open(port));
        scope.spawn(|| download(from, &down));
        scope.spawn(|| upload(to, &up));
        for carried in [&down, &up] {
            carried.more_than(1 << 20);
            carried.longest.store(0, Ordering::Relaxed);
        }
        let answer = hosts.migrate(&["--rate", "500Mbit/s"]);
        println!("{} {}", answer["measured"], answer["rounds"]);
        assert_eq!(lan.place(), "b");
        for carried in [&down, &up] {
            carried.more_than(carried.bytes() + (1 << 20));
            carried.stop.store(true, Ordering::Relaxed);
        }
    });
    let silences = [&down, &up].map(|carried| carried.longest.load(Ordering::Relaxed));
    println!("longest silence: {silences:?} ms");
    let left = source.wait(PATIENCE).expect(0).json();
    let left = &left["status"]["network"];
    println!("left: {left}");
    assert_eq!(left["lost_in_move"], 0, "{left}");
    let stopped = hosts.run(1, &["stop", "cv-moved"]);
    stopped.expect(0);
    let arrived = receiving.wait(PATIENCE).expect(0);
    println!("arrived: {}", arrived.stdout);
    assert!(!hosts.run(0, &["net", "status"]).stdout.contains("cv-moved"));
}

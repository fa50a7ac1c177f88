//! A guest with connections goes from one host to another: both are network namespaces, with a switch between them.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod carried;
mod lan;

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use guest_images::RT_GUEST;
use migration::ram::{GuestRam, Machine, PageNumber};
use net::Network;
use net::plan::NetworkPlan;
use sched::framework::Factory;
use serde_json::Value;
use system_tests::requires::Capability;
use system_tests::user::{Ended, Guest};
use system_tests::{Need, User, requires};
use vmm::guest::{Lender, MovingVm, Observer, Outcome, Reception, RunningVm, Vms, supervise};
use vmm::spec::{VmPlan, VmSpec};
use vmm::telemetry::Event;

use carried::{Carried, download, upload};
use lan::{HOSTS, Lan, network};

const NEEDS: [Need; 4] = [
    Need::Kvm,
    Need::Root,
    Need::Capability(Capability::NetAdmin),
    Need::Capability(Capability::SysAdmin),
];
const PATIENCE: Duration = Duration::from_secs(20);
const GUEST: &str = "10.97.0.2";
const SINK: u16 = 9;
const SOURCE: u16 = 19;

/// Neither the vCPU nor the device's thread has a reservation: the test is about what arrives, not when.
const SPEC: &str = "name = \"cv-moved\"\n[guest]\nmemory = \"16MiB\"\nduration = \"120s\"\n\
    [guest.net]\naddress = \"10.97.0.2/24\"\nsink = 9\nsource = 19\n\
    [cpu]\nbackend = \"other\"\n[network]\nassured = \"200Mbit/s\"\nceil = \"400Mbit/s\"\nbackend = \"other\"\n";

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
        lan.lay_cable(host);
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
        let [from, to] = [SOURCE, SINK].map(|port| lan.open(GUEST, port));
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
            carried.forget_silences();
        }
        let target = here.run(|| carry_over(&lender, target)).unwrap();
        assert_eq!(lan.place(), "b");
        let arrived = target.lender();
        let new = scope.spawn(|| there.run(|| supervised(target, reception)).unwrap());
        for carried in [&down, &up] {
            carried.more_than(carried.bytes() + (1 << 20));
            carried.stop();
        }
        let left = left.join().unwrap().status.network.unwrap();
        println!(
            "left: {} passed on, {} lost",
            left.passed_on_in_move, left.lost_in_move
        );
        println!(
            "longest silence: {:?}",
            [&down, &up].map(Carried::longest_silence)
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

    fn start(&self, host: usize, name: &str, arguments: &[&str]) -> Guest<'_> {
        let start = || self.user.start(self.command(host, arguments), name);
        self.lan.hosts[host].run(start).unwrap()
    }

    /// Runs a guest at the first host.
    fn launch(&self, name: &str, spec: &str) -> Guest<'_> {
        let file = self.user.file(&format!("{name}.toml"), spec);
        self.start(0, name, &["--json", "run", file.to_str().unwrap()])
    }

    fn apply(&self, host: usize, network: &str) {
        self.lan.lay_cable(host);
        let file = self.user.file(&format!("{host}.toml"), network);
        self.run(host, &["net", "apply", file.to_str().unwrap()])
            .expect(0);
        self.lan.connect(host);
    }

    fn receive(&self) -> Guest<'_> {
        let arguments = ["--json", "receive", "0.0.0.0:7420", "--once", "--plain"];
        let mut receiving = self.start(1, "cv-moved", &arguments);
        receiving.until("waiting", |receiving| {
            receiving.stdout().contains("listening")
        });
        receiving
    }

    fn migrate(&self) -> Value {
        let mut arguments = vec!["--json", "migrate", "cv-moved", HOSTS[1], "--plain"];
        arguments.extend(["--downtime", "1s", "--finish", "60s", "--best-effort"]);
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
    let source = hosts.launch("cv-moved", SPEC);
    let [down, up] = [(); 2].map(|()| Carried::default());
    thread::scope(|scope| {
        let [from, to] = [SOURCE, SINK].map(|port| lan.open(GUEST, port));
        scope.spawn(|| download(from, &down));
        scope.spawn(|| upload(to, &up));
        for carried in [&down, &up] {
            carried.more_than(1 << 20);
            carried.forget_silences();
        }
        let answer = hosts.migrate();
        println!("{} {}", answer["measured"], answer["rounds"]);
        assert_eq!(lan.place(), "b");
        for carried in [&down, &up] {
            carried.more_than(carried.bytes() + (1 << 20));
            carried.stop();
        }
    });
    let silences = [&down, &up].map(Carried::longest_silence);
    println!("longest silence: {silences:?} ms");
    let left = source.wait(PATIENCE).expect(0).json();
    let left = &left["status"]["network"];
    println!("left: {left}");
    assert_eq!(left["lost_in_move"], 0, "{left}");
    hosts.run(1, &["stop", "cv-moved"]).expect(0);
    let arrived = receiving.wait(PATIENCE).expect(0).stdout;
    assert!(arrived.contains("\"lost_in_move\": 0"), "{arrived}");
    assert!(!hosts.run(0, &["net", "status"]).stdout.contains("cv-moved"));
}

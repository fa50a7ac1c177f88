//! The virtio network device under real guests, with a real tap in a network namespace.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use net::namespace::Namespace;
use net::tap::Tap;
use nix::errno::Errno;
use sched::request::{AdmissionTest, BackendKind, Granted, Placement, VcpuRequest};
use system_tests::requires::Capability;
use system_tests::{Need, requires};
use units::ByteSize;
use vmm::clock::Clock;
use vmm::device::virtio::Fault;
use vmm::device::virtio::net::{Card, Identity, NetworkCounters, Worker};
use vmm::device::{Effect, SerialOutput};
use vmm::kernel::set_run_signal_mask;
use vmm::machine::{self, Machine, MachinePlan};
use vmm::memory::MemoryPlan;
use vmm::vcpu::{kick, kick_signals, serve};

const ADMIN: Need = Need::Capability(Capability::NetAdmin);
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const TAP: &str = "cvtap0";
const GUEST: &str = "10.99.0.2";

/// A guest of one vCPU without any reservation, its tap in a namespace of its own.
struct Echo {
    stop: Arc<AtomicBool>,
    vcpu: Option<std::thread::JoinHandle<()>>,
    worker: Option<Worker>,
    output: SerialOutput,
    namespace: Namespace,
}

fn ip(namespace: &Namespace, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(["-n", namespace.name()]);
    let done = command.args(arguments.split(' ')).status().unwrap();
    assert!(done.success(), "ip {arguments}");
}

fn granted() -> Granted {
    Granted {
        vm: "echo".to_owned(),
        vcpu: 1,
        request: VcpuRequest {
            backend: BackendKind::Other,
            ..VcpuRequest::default()
        },
        placement: Placement::Anywhere,
        surplus: Duration::ZERO,
        test: AdmissionTest::None,
    }
}

impl Echo {
    fn start(what: &str, services: &str) -> Self {
        let name = format!("chronovisor-{what}-{}", std::process::id());
        let namespace = Namespace::create(&name).unwrap();
        let tap = namespace.run(|| Tap::open(TAP)).unwrap().unwrap();
        ip(&namespace, &format!("address add 10.99.0.1/24 dev {TAP}"));
        ip(&namespace, &format!("link set {TAP} up txqueuelen 1000"));
        let memory = MemoryPlan {
            size: ByteSize::mebibytes(16),
            hugepages: false,
        };
        let card = Card {
            identity: Identity {
                mac: MAC,
                mtu: 1500,
            },
            wire: Box::new(tap),
        };
        let plan = MachinePlan { memory, vcpus: 1 };
        let built = machine::build(plan, Some(card), |errand| errand()).unwrap();
        let line = format!("duration=60s net={GUEST}/24 {services}");
        built.load(guest_images::RT_GUEST, &line).unwrap();
        let _ = Clock::start(&built.machine, &built.vcpus[0], 0).unwrap();
        let worker = Worker::start(built.network.unwrap(), granted(), |_| ()).unwrap();
        worker.run();
        let stop = Arc::new(AtomicBool::new(false));
        let (told, machine) = (Arc::clone(&stop), built.machine);
        let mut vcpus = built.vcpus;
        // Kicks only come inside KVM_RUN; threads inherit this.
        kick_signals().thread_block().unwrap();
        set_run_signal_mask(&vcpus[0], 0).unwrap();
        let vcpu = std::thread::spawn(move || run(&machine, &mut vcpus[0], &told));
        Self {
            stop,
            vcpu: Some(vcpu),
            worker: Some(worker),
            output: built.output,
            namespace,
        }
    }

    fn counters(&self) -> NetworkCounters {
        self.worker.as_ref().unwrap().desk().counters()
    }

    fn said(&mut self) -> String {
        let mut bytes = Vec::new();
        self.output.drain(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn socket(&self) -> UdpSocket {
        let socket = self.namespace.run(|| UdpSocket::bind("10.99.0.1:0"));
        let socket = socket.unwrap().unwrap();
        let patience = Some(Duration::from_millis(200));
        socket.set_read_timeout(patience).unwrap();
        socket
    }

    /// Sends until the guest answers for the first time.
    fn await_answer(&mut self, socket: &UdpSocket, port: u16) {
        let to = SocketAddr::new(GUEST.parse().unwrap(), port);
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            socket.send_to(&[0; 32], to).unwrap();
            if socket.recv(&mut [0; 2048]).is_ok() {
                return;
            }
        }
        let (counters, said) = (self.counters(), self.said());
        panic!("no answer; {counters:?}\n{said}");
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.worker = None;
        self.stop.store(true, Ordering::Release);
        if let Some(vcpu) = self.vcpu.take() {
            kick(&vcpu);
            vcpu.join().unwrap();
        }
    }
}

fn run(machine: &Machine, vcpu: &mut kvm_ioctls::VcpuFd, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        match vcpu.run() {
            Ok(exit) => {
                machine.deliver_coalesced();
                if let Some(Effect::None) = serve(machine, exit) {
                    continue;
                }
                return;
            }
            Err(error)
                if [Errno::EINTR, Errno::EAGAIN]
                    .map(|e| e as i32)
                    .contains(&error.errno()) => {}
            Err(error) => panic!("KVM_RUN: {error}"),
        }
    }
}

#[test]
fn a_guest_answers_datagrams_through_its_device() {
    requires!(Need::Kvm, ADMIN);
    let mut guest = Echo::start("echo", "echo=7");
    let socket = guest.socket();
    guest.await_answer(&socket, 7);
    let to = SocketAddr::new(GUEST.parse().unwrap(), 7);
    let mut times = Vec::new();
    for number in 0..200_u8 {
        let sent = [number; 64];
        let begun = Instant::now();
        socket.send_to(&sent, to).unwrap();
        let mut answer = [0; 2048];
        let length = socket.recv(&mut answer).unwrap();
        times.push(begun.elapsed());
        // But for the times that the guest puts in.
        assert_eq!(length, 64);
        assert_eq!((&answer[..8], &answer[24..64]), (&sent[..8], &sent[24..]));
    }
    times.sort_unstable();
    println!("median {:?}, p99 {:?}", times[100], times[197]);
    println!("{:?}\n{}", guest.counters(), guest.said());
}

/// Bytes per second that `carry` moves over a connection to `port` of the guest.
fn throughput(
    guest: &Echo,
    port: u16,
    carry: impl Fn(&mut TcpStream) -> std::io::Result<usize> + Sync,
) -> f64 {
    let to = SocketAddr::new(GUEST.parse().unwrap(), port);
    let stream = guest
        .namespace
        .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)));
    let mut stream = stream.unwrap().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    stream
        .set_write_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(2) {
        bytes += carry(&mut stream).unwrap();
    }
    bytes as f64 / begun.elapsed().as_secs_f64()
}

#[test]
fn a_tap_that_is_deleted_stops_the_device_and_nothing_else() {
    requires!(Need::Kvm, ADMIN);
    let mut guest = Echo::start("deleted", "echo=7");
    let socket = guest.socket();
    guest.await_answer(&socket, 7);
    ip(&guest.namespace, &format!("link delete {TAP}"));
    let notifier = Arc::clone(guest.worker.as_ref().unwrap().desk().notifier());
    let begun = Instant::now();
    while notifier.fault().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(notifier.take_fault(), Some(Fault::Gone));
    assert!(notifier.needs_reset());
    assert_eq!(guest.counters().tap_errors, 1);
    // The vCPU runs on, and the thread is idle.
    std::thread::sleep(Duration::from_millis(50));
    let wakes = guest.counters().wakes;
    std::thread::sleep(Duration::from_millis(50));
    assert!(guest.counters().wakes < wakes + 10);
    assert!(!guest.vcpu.as_ref().unwrap().is_finished());
}

#[test]
fn a_guest_takes_and_gives_streams_through_its_device_and_nothing_is_lost() {
    requires!(Need::Kvm, ADMIN);
    let mut guest = Echo::start("streams", "echo=7 sink=9 source=19");
    let socket = guest.socket();
    guest.await_answer(&socket, 7);
    let block = vec![7; 1 << 16];
    let into = throughput(&guest, 9, |stream| stream.write(&block));
    println!(
        "into the guest {:.0} Mbit/s, {:?}",
        into / 125e3,
        guest.counters()
    );
    let out = throughput(&guest, 19, |stream| stream.read(&mut vec![0; 1 << 16]));
    println!(
        "out of the guest {:.0} Mbit/s, {:?}",
        out / 125e3,
        guest.counters()
    );
    println!("{}", guest.said());
    let counters = guest.counters();
    assert!(into > 1e6 && out > 1e6, "{into} and {out} bytes per second");
    assert_eq!(
        (counters.too_long, counters.refused, counters.faults),
        (0, 0, 0)
    );
}

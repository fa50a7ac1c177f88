//! A neighbour is flooded with small packets, and the kernel receives them on the measured CPU.
//!
//! Two network namespaces of our own, joined by a veth pair. A thread off the measured CPU sends UDP packets of 64 bytes;
//! receive packet steering (Documentation/networking/scaling.rst) has the receiving end's soft interrupts run on the
//! measured CPU. Everything goes away with the namespaces.

use std::fs::File;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};

use super::Bench;
use super::guest::GuestPlan;
use super::outcome::{Check, Row, Target};
use super::supply::Shares;
use super::timeline::Timeline;
use crate::failure::Failure;

const SENDER: &str = "10.255.77.1";
const RECEIVER: &str = "10.255.77.2";
const PORT: u16 = 9;
const PAYLOAD: [u8; 64] = [0; 64];
/// Packets per second: a link of 100 Mbit/s full of such packets (84 bytes each with all that surrounds them), rounded.
const SMALL: Option<u32> = Some(100_000);
/// As many as the sender can.
const FULL: Option<u32> = None;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let link = Link::new()?;
    let mut checks = Vec::new();
    let mut row = Row::new(Vec::new());
    let settings = [
        ("received elsewhere", None, FULL),
        ("received here", Some(bench.cpu), SMALL),
        ("received here, full rate", Some(bench.cpu), FULL),
    ];
    for (label, cpu, rate) in settings {
        link.steer(cpu)?;
        let (timeline, interrupts, sent) = flooded(bench, &link, rate)?;
        if cpu.is_some() && interrupts < 1000 {
            return Err(Failure::new(
                "no packet was received on the measured CPU: the kernel lacks receive packet steering (CONFIG_RPS)",
            ));
        }
        let shares = Shares::of(&timeline)?;
        let within = Target::Within {
            of: 25.0,
            tolerance: 1.0,
        };
        checks.push(Check::new(
            format!("{label}, mean"),
            (shares.mean, "%"),
            within,
        ));
        checks.push(Check::new(
            format!("{label}, least"),
            (shares.least, "%"),
            within,
        ));
        row = row.note(format!(
            "{label}: {:.0} thousand packets/s, {interrupts} receive interrupts on the CPU",
            sent / 1e3
        ));
    }
    row.checks = checks;
    Ok(row)
}

/// The guest under one flood: what it got, receive interrupts on its CPU, packets sent per second.
fn flooded(bench: &Bench, link: &Link, rate: Option<u32>) -> Result<(Timeline, u64, f64), Failure> {
    let seconds: u64 = bench.pick(20, 4);
    let before = softirqs(bench.cpu)?;
    let flood = Flood::start(link, rate)?;
    let line = format!("hog=0 gap=50us duration={}ms", seconds * 1000 + 500);
    let plan = GuestPlan::reserved("bench-flood", line, (10.0, 40.0));
    let events = bench.start(&plan)?.finish(Duration::from_secs(seconds))?;
    let sent = flood.rate();
    drop(flood);
    let interrupts = softirqs(bench.cpu)?.saturating_sub(before);
    Ok((Timeline::of(&events, 0), interrupts, sent))
}

/// Receive soft interrupts of `cpu` so far.
fn softirqs(cpu: u32) -> Result<u64, Failure> {
    let text = std::fs::read_to_string("/proc/softirqs")?;
    let column = format!("CPU{cpu}");
    let mut lines = text.lines();
    let heads = lines.next().unwrap_or_default();
    let at = heads.split_whitespace().position(|head| head == column);
    let count = lines
        .find_map(|line| line.trim_start().strip_prefix("NET_RX:"))
        .zip(at)
        .and_then(|(counts, at)| counts.split_whitespace().nth(at)?.parse().ok());
    count.ok_or_else(|| Failure::new(format!("/proc/softirqs does not count {column}")))
}

/// Two namespaces with a link between them; dropping it removes both, and the link with them.
struct Link {
    sender: String,
    receiver: String,
}

impl Link {
    fn new() -> Result<Self, Failure> {
        let pid = std::process::id();
        let link = Self {
            sender: format!("chronovisor-{pid}-a"),
            receiver: format!("chronovisor-{pid}-b"),
        };
        let (a, b) = (link.sender.as_str(), link.receiver.as_str());
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&[
            "-n", a, "link", "add", "veth-a", "type", "veth", "peer", "name", "veth-b", "netns", b,
        ])?;
        for (namespace, device, address) in [(a, "veth-a", SENDER), (b, "veth-b", RECEIVER)] {
            let address = format!("{address}/30");
            ip(&["-n", namespace, "address", "add", &address, "dev", device])?;
            ip(&["-n", namespace, "link", "set", device, "up"])?;
        }
        Ok(link)
    }

    /// Has packets received on `cpu`, or where they were sent.
    fn steer(&self, cpu: Option<u32>) -> Result<(), Failure> {
        let mask = cpu.map_or(0, |cpu| 1u64 << cpu);
        let steer = format!("echo {mask:x} > /sys/class/net/veth-b/queues/rx-0/rps_cpus");
        // /sys shows the devices of a namespace only to those who mount it there, as `ip netns exec` does.
        ip(&["netns", "exec", &self.receiver, "sh", "-c", &steer])
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for namespace in [&self.sender, &self.receiver] {
            // One that was not made yet cannot be removed either.
            let _ = ip(&["netns", "delete", namespace]);
        }
    }
}

fn ip(arguments: &[&str]) -> Result<(), Failure> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .map_err(|e| Failure::from(e).while_doing("ip (from the package iproute2)"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(format!(
        "ip {}: {}",
        arguments.join(" "),
        said.trim()
    )))
}

/// A thread that sends as fast as it can; dropping it ends it.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begin: Instant,
    thread: Option<JoinHandle<()>>,
    /// Takes the packets; nobody reads them.
    _sink: UdpSocket,
}

impl Flood {
    fn start(link: &Link, rate: Option<u32>) -> Result<Self, Failure> {
        let _sink = socket_in(&link.receiver, RECEIVER, PORT)?;
        let source = socket_in(&link.sender, SENDER, 0)?;
        source.connect((RECEIVER, PORT))?;
        let (stop, sent) = (Arc::default(), Arc::default());
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::Builder::new()
            .name("flood".to_owned())
            .spawn(move || send(&source, rate, &stopped, &count))?;
        Ok(Self {
            stop,
            sent,
            begin: Instant::now(),
            thread: Some(thread),
            _sink,
        })
    }

    /// Packets per second so far.
    fn rate(&self) -> f64 {
        self.sent.load(Ordering::Relaxed) as f64 / self.begin.elapsed().as_secs_f64()
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Sends at `rate` packets per second, or as fast as it can.
fn send(source: &UdpSocket, rate: Option<u32>, stop: &AtomicBool, count: &AtomicU64) {
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = rate.map(|rate| begin.elapsed().as_secs_f64() * f64::from(rate));
        if due.is_some_and(|due| count.load(Ordering::Relaxed) as f64 >= due) {
            std::thread::sleep(Duration::from_micros(200));
            continue;
        }
        // A full queue is what a flood is about.
        if source.send(&PAYLOAD).is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A socket in another namespace, made by a thread that goes there and ends: a socket stays where it was made.
fn socket_in(namespace: &str, address: &'static str, port: u16) -> Result<UdpSocket, Failure> {
    let path = format!("/run/netns/{namespace}");
    let made = std::thread::spawn(move || -> Result<UdpSocket, Failure> {
        let namespace = File::open(&path).map_err(|e| Failure::from(e).while_doing(&path))?;
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(UdpSocket::bind((address, port))?)
    });
    made.join()
        .unwrap_or_else(|_| Err(Failure::new("the thread that makes a socket panicked")))
}

//! The guest's network, frame by frame: QEMU hands frames over as datagrams, without any offload, so that the guest can be sent what
//! no kernel would send.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Child;
use std::sync::RwLockReadGuard;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rt_abi::random::Random;
use system_tests::{Need, requires};

use crate::qemu::{self, Machine};

const QEMU: Need = Need::Program("qemu-system-x86_64");
const DONE: Option<i32> = Some(0x10 * 2 + 1);
const PATIENCE: Duration = Duration::from_secs(30);
const GUEST_MAC: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const ARP: [u8; 2] = [8, 6];
const IP: [u8; 2] = [8, 0];
const UDP: u8 = 17;
const TCP: u8 = 6;

/// A guest whose wire is a pair of UDP sockets.
struct Wire {
    socket: UdpSocket,
    child: Child,
    output: Receiver<Vec<String>>,
    _image: tempfile::TempDir,
    _shared: RwLockReadGuard<'static, ()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Wire {
    fn start(line: &str) -> Self {
        let shared = qemu::among_others();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        // A port that was free a moment ago.
        let theirs = UdpSocket::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let own = socket.local_addr().unwrap();
        socket.connect(theirs).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("rt-guest");
        std::fs::write(&image, guest_images::RT_GUEST).unwrap();
        let machine = Machine {
            memory: 8,
            ..Machine::new("tcg", "microvm,acpi=off")
        };
        let mut command = std::process::Command::new("qemu-system-x86_64");
        machine.command(&mut command, &image, 1, &format!("net={GUEST}/24 {line}"));
        let wire = format!(
            "dgram,id=n0,local.type=inet,local.host=127.0.0.1,local.port={},remote.type=inet,remote.host=127.0.0.1,remote.port={}",
            theirs.port(),
            own.port()
        );
        command
            .args(["-global", "virtio-mmio.force-legacy=false"])
            .args(["-netdev", &wire])
            .args(["-device", "virtio-net-device,netdev=n0"]);
        let mut child = command.spawn().unwrap();
        let wire = Self {
            socket,
            output: qemu::lines_of(&mut child),
            child,
            _image: directory,
            _shared: shared,
        };
        wire.assert_alive();
        wire
    }

    /// Sends a frame; one that cannot be taken is lost, as on a wire.
    fn send(&self, kind: [u8; 2], payload: &[u8]) {
        let frame = [&GUEST_MAC[..], &OWN_MAC, &kind, payload].concat();
        let _ = self.socket.send(&frame);
    }

    /// The payload of the next frame of this kind that is `wanted`, within `time`.
    fn receive(
        &self,
        time: Duration,
        kind: [u8; 2],
        wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let begin = Instant::now();
        let mut frame = [0; 4096];
        while let Some(left) = time.checked_sub(begin.elapsed()).filter(|t| !t.is_zero()) {
            self.socket.set_read_timeout(Some(left)).unwrap();
            let Ok(length) = self.socket.recv(&mut frame) else {
                continue;
            };
            let payload = frame[..length].get(14..).unwrap_or_default();
            if frame[12..14] == kind && wanted(payload) {
                return Some(payload.to_vec());
            }
            if frame[12..14] == ARP && payload.get(7) == Some(&1) {
                self.send(ARP, &arp(2));
            }
        }
        None
    }

    /// Asks for the guest's hardware address until it is told.
    fn assert_alive(&self) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            self.send(ARP, &arp(1));
            let is_answer =
                |payload: &[u8]| payload.get(6..14) == Some(&[&[0, 2], &GUEST_MAC[..]].concat());
            if self
                .receive(Duration::from_millis(200), ARP, is_answer)
                .is_some()
            {
                return;
            }
        }
        panic!("the guest does not answer: {:?}", self.output.try_recv());
    }

    /// Has a datagram echoed.
    fn assert_echoes(&self) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            self.send(IP, &ip(UDP, OWN, &udp(b"and back")));
            let is_echo = |packet: &[u8]| packet.get(28..36) == Some(b"and back");
            if self
                .receive(Duration::from_millis(200), IP, is_echo)
                .is_some()
            {
                return;
            }
        }
        panic!("no echo");
    }

    /// Begins a TCP connection from `port`; whether the guest agrees.
    fn begins(&self, port: u16, time: Duration) -> bool {
        self.send(IP, &ip(TCP, OWN, &syn(OWN, port)));
        let is_answer = |packet: &[u8]| {
            packet.get(9) == Some(&TCP)
                && packet.get(22..24) == Some(&port.to_be_bytes())
                && packet.get(33) == Some(&0x12)
        };
        self.receive(time, IP, is_answer).is_some()
    }

    fn end(mut self) {
        let status = qemu::wait(&mut self.child);
        let lines = self.output.recv().unwrap();
        assert_eq!(status, DONE, "{lines:?}");
    }
}

/// A request (1) or an answer (2).
fn arp(operation: u8) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(OWN_MAC);
    packet.extend(OWN.octets());
    packet.extend(GUEST_MAC);
    packet.extend(GUEST.octets());
    packet
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !u16::try_from(sum).unwrap()
}

fn ip(protocol: u8, from: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
    header.extend([0, 1, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(GUEST.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    [&header, payload].concat()
}

/// From port 9999 to the echo service, without a checksum.
fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = vec![0x27, 0x0f, 0, 7];
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    [&datagram, payload].concat()
}

fn syn(from: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut segment = port.to_be_bytes().to_vec();
    segment.extend([0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0x20, 0, 0, 0, 0, 0]);
    let pseudo = [&from.octets()[..], &GUEST.octets(), &[0, TCP, 0, 20]].concat();
    let sum = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// Garbage that begins like something, with lengths of all kinds.
fn garbage(random: &mut Random) -> ([u8; 2], Vec<u8>) {
    let length = usize::try_from(random.uniform(0, 1500)).unwrap();
    let mut bytes: Vec<u8> = (0..length).map(|_| low(random)).collect();
    let template = match random.uniform(0, 6) {
        0 => return ([low(random), low(random)], bytes),
        1 => return (ARP, [&arp(1)[..], &bytes].concat()),
        2 => ip(UDP, OWN, &udp(&bytes)),
        3 => ip(TCP, OWN, &syn(OWN, 1234)),
        4 => ip(1, OWN, &bytes),
        5 => ip(low(random), OWN, &bytes),
        _ => return ([0x86, 0xdd], [&[0x60], &bytes[..]].concat()),
    };
    // A few bytes of what would be right are wrong, the IP header's own among them.
    bytes = template;
    for _ in 0..random.uniform(0, 4) {
        let at = usize::try_from(random.uniform(0, 40)).unwrap() % bytes.len();
        bytes[at] = low(random);
    }
    let keep = usize::try_from(random.uniform(0, bytes.len() as u64)).unwrap();
    if random.uniform(0, 3) == 0 {
        bytes.truncate(keep);
    }
    (if random.uniform(0, 9) == 0 { ARP } else { IP }, bytes)
}

fn low(random: &mut Random) -> u8 {
    u8::try_from(random.next() & 0xff).unwrap()
}

#[test]
fn garbage_neither_stops_nor_ends_the_guest() {
    requires!(QEMU);
    let wire = Wire::start("echo=7 sink=9 duration=12s");
    let mut random = Random::new(20);
    for round in 0..40 {
        for _ in 0..100 {
            let (kind, payload) = garbage(&mut random);
            wire.send(kind, &payload);
        }
        if round % 10 == 0 {
            wire.assert_alive();
        }
    }
    wire.assert_echoes();
    wire.end();
}

#[test]
fn a_flood_of_connections_that_never_come_about_passes() {
    requires!(QEMU);
    let wire = Wire::start("sink=9 echo=7 duration=30s");
    for i in 0..2000_u32 {
        let from = Ipv4Addr::from_bits(0x0a4d_0003 + i % 200);
        let port = u16::try_from(1024 + i).unwrap();
        wire.send(IP, &ip(TCP, from, &syn(from, port)));
    }
    wire.assert_alive();
    wire.assert_echoes();
    // Those that were begun are given up after five seconds.
    let begin = Instant::now();
    let port = |i: u64| u16::try_from(40_000 + i).unwrap();
    assert!((0..60).any(|i| wire.begins(port(i), Duration::from_millis(250))));
    println!("a connection came about after {:?}", begin.elapsed());
}

#[test]
fn what_is_sent_to_others_or_with_a_wrong_checksum_is_not_answered() {
    requires!(QEMU);
    let wire = Wire::start("echo=7 duration=20s");
    let mut datagram = udp(b"are you?");
    datagram[6..8].copy_from_slice(&[0x12, 0x34]);
    wire.send(IP, &ip(UDP, OWN, &datagram));
    let mut elsewhere = ip(UDP, OWN, &udp(b"are you?"));
    elsewhere[19] = 9;
    wire.send(IP, &elsewhere);
    let is_echo = |packet: &[u8]| packet.get(28..36) == Some(b"are you?");
    assert_eq!(wire.receive(Duration::from_secs(1), IP, is_echo), None);
    wire.assert_echoes();
}

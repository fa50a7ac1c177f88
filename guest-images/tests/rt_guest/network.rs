//! The guest's network under QEMU's microvm, with a tap in a network namespace of its own.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use net::namespace::Namespace;
use rt_abi::rtp::{HEADER, OVERHEAD, Packet};
use rt_abi::{echo, image};
use system_tests::requires::Capability;
use system_tests::{Need, requires};

use crate::qemu::{self, Machine};

const NEEDS: [Need; 4] = [
    Need::Program("qemu-system-x86_64"),
    Need::Kvm,
    Need::Program("ip"),
    Need::Capability(Capability::SysAdmin),
];
const HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const DONE: Option<i32> = Some(0x10 * 2 + 1);
/// Nothing here takes longer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A guest with a network, in a namespace of its own.
struct Guest {
    namespace: Namespace,
    child: Child,
    output: Mutex<Receiver<Vec<String>>>,
    _image: tempfile::TempDir,
    _alone: RwLockWriteGuard<'static, ()>,
}

impl Drop for Guest {
    fn drop(&mut self) {
        // Nothing to do for one that has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Guest {
    /// Starts a guest with `memory` MiB and waits until it answers.
    fn start(memory: u32, line: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let alone = qemu::alone();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("chronovisor-guest-{}-{number}", std::process::id());
        let namespace = Namespace::create(&name).unwrap();
        for arguments in [
            "tuntap add dev tap0 mode tap vnet_hdr",
            "address add 10.77.0.1/24 dev tap0",
            "link set tap0 up",
        ] {
            let mut ip = namespace.command("ip").unwrap();
            assert!(ip.args(arguments.split(' ')).status().unwrap().success());
        }
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("rt-guest");
        std::fs::write(&image, guest_images::RT_GUEST).unwrap();
        let machine = Machine {
            memory,
            ..Machine::new("kvm", "microvm,acpi=off")
        };
        let mut command = namespace.command("qemu-system-x86_64").unwrap();
        let line = format!("net={GUEST}/24,{HOST} echo=7 {line}");
        machine.command(&mut command, &image, 1, &line);
        with_tap(&mut command);
        let mut child = command.spawn().unwrap();
        let guest = Self {
            namespace,
            output: Mutex::new(qemu::lines_of(&mut child)),
            child,
            _image: directory,
            _alone: alone,
        };
        guest.wait_until_it_answers();
        guest
    }

    fn wait_until_it_answers(&self) {
        let begin = Instant::now();
        let socket = self.udp(0);
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        while begin.elapsed() < PATIENCE {
            let _ = socket.send_to(b"there?", (GUEST, 7));
            if socket.recv(&mut [0; 64]).is_ok() {
                return;
            }
        }
        panic!("the guest does not answer");
    }

    /// A UDP socket beside the guest.
    fn udp(&self, port: u16) -> UdpSocket {
        let socket = self.namespace.run(|| UdpSocket::bind((HOST, port)));
        let socket = socket.unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    /// A TCP connection to the guest; a refused one is tried again, since a server has so many at a time.
    fn tcp(&self, port: u16) -> TcpStream {
        let to = SocketAddr::V4(SocketAddrV4::new(GUEST, port));
        let begin = Instant::now();
        loop {
            let connect = || TcpStream::connect_timeout(&to, PATIENCE);
            match self.namespace.run(connect).unwrap() {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return stream;
                }
                Err(e) if begin.elapsed() > PATIENCE => panic!("no connection to {to}: {e}"),
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Waits for the end; what it printed.
    fn end(&mut self) -> (Option<i32>, Vec<String>) {
        let status = qemu::wait(&mut self.child);
        (status, self.output.lock().unwrap().recv().unwrap())
    }
}

fn with_tap(command: &mut Command) {
    command
        .args(["-global", "virtio-mmio.force-legacy=false"])
        .args(["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"])
        .args(["-device", "virtio-net-device,netdev=n0"]);
}

/// Sends a request and reads the answer: status line and body.
fn ask(stream: &mut TcpStream, request: &str) -> (String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    let mut bytes = [0; 1024];
    loop {
        let count = stream.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("\r\n")
                .find_map(|l| l.strip_prefix("Content-Length: "));
            if body.len() >= length.unwrap().parse().unwrap() {
                let status = head.split("\r\n").next().unwrap();
                return (status.to_owned(), body.to_owned());
            }
        }
        assert!(count > 0, "the connection ended after {text:?}");
    }
}

const ROTATE: &str = "GET /rotate HTTP/1.1\r\nHost: guest\r\n\r\n";

fn assert_rotated(answer: &(String, String)) {
    assert_eq!(answer.0, "HTTP/1.1 200 OK");
    let checksum = format!("adler32 {:08x}", image::ROTATED);
    assert!(answer.1.contains(&checksum), "{answer:?}");
}

#[test]
fn datagrams_come_back_as_they_were_with_the_times_of_the_guest() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let mut guest = Guest::start(4, "duration=6s task=t,c=1ms,t=10ms");
    let socket = guest.udp(0);
    let mut last = 0;
    for length in (0..1472).step_by(16) {
        let sent: Vec<u8> = (0..length)
            .map(|i| u8::try_from(i % 251).unwrap())
            .collect();
        socket.send_to(&sent, (GUEST, 7)).unwrap();
        let mut reply = [0; 2000];
        let count = socket.recv(&mut reply).unwrap();
        let reply = &reply[..count];
        assert_eq!(count, length);
        match echo::stamps(reply) {
            Some((received, answered)) => {
                assert!(last < received && received <= answered);
                assert!(answered - received < 1_000_000_000);
                last = answered;
                assert_eq!(reply[..8], sent[..8]);
                assert_eq!(reply[24..], sent[24..]);
            }
            None => assert_eq!(reply, sent),
        }
    }
    let (status, lines) = guest.end();
    assert_eq!(status, DONE, "{lines:?}");
    let task = lines.iter().find(|line| line.starts_with("task t jobs "));
    assert!(task.unwrap().starts_with("task t jobs 600 "), "{lines:?}");
}

#[test]
fn ten_clients_at_once_get_the_rotated_image_and_wrong_requests_a_reason() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let guest = Guest::start(32, "duration=60s http=80 task=t,c=1ms,t=10ms");
    let answers: Vec<_> = thread::scope(|scope| {
        let client = || {
            let mut stream = guest.tcp(80);
            [ask(&mut stream, ROTATE), ask(&mut stream, ROTATE)]
        };
        let clients: Vec<_> = (0..10).map(|_| scope.spawn(client)).collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    assert_eq!(answers.len(), 20);
    answers.iter().for_each(assert_rotated);
    let mut stream = guest.tcp(80);
    let missing = ask(&mut stream, "GET /nothing HTTP/1.1\r\n\r\n");
    assert_eq!(missing.0, "HTTP/1.1 404 Not Found");
    // The connection lives on, and what comes in pieces is put together.
    stream.write_all(&ROTATE.as_bytes()[..9]).unwrap();
    thread::sleep(Duration::from_millis(50));
    assert_rotated(&ask(&mut stream, &ROTATE[9..]));
    for (request, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\n\r\n", "405"),
        ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n12345", "413"),
    ] {
        let answer = ask(&mut guest.tcp(80), request);
        assert!(answer.0.contains(status), "{request:?}: {answer:?}");
    }
}

#[test]
fn connections_that_are_dropped_or_say_nothing_do_not_keep_others_from_being_served() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let guest = Guest::start(32, "duration=60s http=80 sink=9");
    let silent: Vec<_> = (0..8).map(|_| guest.tcp(80)).collect();
    for round in 0..60 {
        let mut stream = guest.tcp(80);
        // Some leave in the middle of a request, some while it is worked on.
        let said = if round % 20 == 0 {
            ROTATE
        } else {
            &ROTATE[..round % 30]
        };
        let _ = stream.write_all(said.as_bytes());
    }
    assert_rotated(&ask(&mut guest.tcp(80), ROTATE));
    // Those that are silent are given up after ten seconds.
    let begin = Instant::now();
    for mut stream in silent {
        let end = stream.read(&mut [0; 16]).map_err(|e| e.kind());
        assert!(
            matches!(end, Ok(0) | Err(ErrorKind::ConnectionReset)),
            "{end:?}"
        );
    }
    assert!(begin.elapsed() < PATIENCE);
    assert_rotated(&ask(&mut guest.tcp(80), ROTATE));
}

/// What a receiver knows of a stream.
#[derive(Default)]
struct Received {
    wire: u64,
    frames: u64,
    last: Option<Packet>,
}

impl Received {
    fn take(&mut self, bytes: &[u8]) {
        let packet = Packet::read(bytes).unwrap();
        if let Some(last) = self.last {
            assert_eq!(packet.sequence, last.sequence.wrapping_add(1));
            let frames = u64::from(last.last);
            assert_eq!(packet.frame, last.frame + frames);
            let ticks = if last.last { 3600 } else { 0 };
            assert_eq!(packet.timestamp, last.timestamp.wrapping_add(ticks));
            assert_eq!(packet.source, last.source);
        }
        self.frames += u64::from(packet.last);
        self.wire += (bytes.len() - HEADER) as u64 + OVERHEAD;
        self.last = Some(packet);
    }
}

#[test]
fn streams_keep_their_rate_and_order() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    let mut guest = Guest::start(
        4,
        "start=3s duration=4s rtp=10.77.0.1:5004,c=5.68ms rtp=10.77.0.1:5004,c=1ms,o=10ms,rate=2000000",
    );
    let socket = guest.udp(5004);
    let mut streams: BTreeMap<u32, Received> = BTreeMap::new();
    let mut bytes = [0; 2000];
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    while let Ok(count) = socket.recv(&mut bytes) {
        let source = Packet::read(&bytes[..count]).unwrap().source;
        streams.entry(source).or_default().take(&bytes[..count]);
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
    }
    assert_eq!(streams.len(), 2);
    for (stream, rate) in streams.values().zip([1_214_000.0, 2_000_000.0]) {
        // 100 frames, the last of which may be cut off by the end of the run.
        assert!(
            (99..=100).contains(&stream.frames),
            "{} frames",
            stream.frames
        );
        let seconds = stream.frames as f64 * 0.04;
        let measured = stream.wire as f64 * 8.0 / seconds;
        assert!(
            (measured / rate - 1.0).abs() < 0.01,
            "{measured} instead of {rate} bit/s"
        );
    }
    let (status, lines) = guest.end();
    assert_eq!(status, DONE, "{lines:?}");
}

/// Bits per second, in 10^9, of what `step` moves in `time`.
fn rate(time: Duration, mut step: impl FnMut(&mut [u8]) -> usize) -> f64 {
    let mut buffer = vec![0; 1 << 20];
    let begin = Instant::now();
    let mut bytes = 0;
    while begin.elapsed() < time {
        bytes += step(&mut buffer);
    }
    bytes as f64 * 8.0 / begin.elapsed().as_secs_f64() / 1e9
}

#[test]
fn tcp_flows_in_both_directions() {
    requires!(NEEDS[0], NEEDS[1], NEEDS[2], NEEDS[3]);
    const TIME: Duration = Duration::from_secs(2);
    let guest = Guest::start(16, "duration=60s sink=9 source=19");
    let (mut sink, mut source) = (guest.tcp(9), guest.tcp(19));
    let to_guest = rate(TIME, |bytes| sink.write(bytes).unwrap());
    let from_guest = rate(TIME, |bytes| source.read(bytes).unwrap());
    println!("TCP under QEMU: {to_guest:.2} Gbit/s to the guest, {from_guest:.2} from it");
    // A machine whose two CPUs run other tests as well gives a tenth of the usual.
    assert!(
        to_guest > 0.1 && from_guest > 0.1,
        "{to_guest} {from_guest}"
    );
    drop((sink, source));
    guest.wait_until_it_answers();
}

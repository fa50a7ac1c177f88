//! The services of a guest, as a user has them: shares of a network, a specification, `run`.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use net::namespace::Namespace;
use rt_abi::rtp::{HEADER, OVERHEAD, Packet};
use rt_abi::{echo, image};
use system_tests::requires::Capability;
use system_tests::{Need, User, requires};

const NEEDS: [Need; 4] = [
    Need::Kvm,
    Need::Root,
    Need::Capability(Capability::NetAdmin),
    Need::Capability(Capability::SysAdmin),
];
const PATIENCE: Duration = Duration::from_secs(30);
const GUEST: &str = "10.77.0.2";

const NETWORK: &str = r#"
[bridge]
name = "chronovisor0"
capacity = "1Gbit/s"
address = "10.77.0.1/24"
"#;

/// Neither the vCPU nor the device's thread has a reservation: what is seen here is what the services do, not when.
const SPEC: &str = r#"
name = "services"
[guest]
memory = "32MiB"
duration = "60s"
[[guest.task]]
name = "control"
execution = "1ms"
period = "20ms"
[guest.net]
address = "10.77.0.2/24"
period = "2ms"
execution = "1ms"
echo = 7
http = 80
[[guest.rtp]]
to = "10.77.0.1:5004"
execution = "2ms"
[cpu]
backend = "other"
[network]
assured = "100Mbit/s"
backend = "other"
"#;

/// A guest that runs in a namespace of its own.
struct Guest<'a> {
    user: &'a User,
    namespace: Namespace,
    run_dir: String,
    child: Option<Child>,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Nothing to do for one that has ended.
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = self.command(&["net", "clear"]).output();
    }
}

impl<'a> Guest<'a> {
    fn start(user: &'a User) -> Self {
        let name = format!("chronovisor-services-{}", std::process::id());
        let mut guest = Self {
            user,
            namespace: Namespace::create(&name).unwrap(),
            run_dir: user.path("run").to_string_lossy().into_owned(),
            child: None,
        };
        let [network, spec] =
            [("network.toml", NETWORK), ("guest.toml", SPEC)].map(|(name, text)| {
                let path = user.path(name);
                std::fs::write(&path, text).unwrap();
                path.to_string_lossy().into_owned()
            });
        let applied = guest.command(&["net", "apply", &network]).output().unwrap();
        assert!(applied.status.success(), "{applied:?}");
        let mut run = guest.command(&["run", &spec]);
        guest.child = Some(run.stdout(Stdio::null()).spawn().unwrap());
        guest
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.namespace.command(self.user.program()).unwrap();
        command
            .args(arguments)
            .env("CHRONOVISOR_RUN_DIR", &self.run_dir);
        command
    }

    fn udp(&self, port: u16, patience: Duration) -> UdpSocket {
        let bind = || UdpSocket::bind(("10.77.0.1", port));
        let socket = self.namespace.run(bind).unwrap().unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket
    }

    /// Has a datagram echoed; the first one may come before the guest is there.
    fn echoed(&self) -> (u64, u64) {
        let socket = self.udp(0, Duration::from_millis(200));
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let _ = socket.send_to(&[7; 100], (GUEST, 7));
            let mut reply = [0; 200];
            if let Ok(100) = socket.recv(&mut reply) {
                assert_eq!((&reply[..8], &reply[24..100]), (&[7; 8][..], &[7; 76][..]));
                return echo::stamps(&reply).unwrap();
            }
        }
        panic!("no echo");
    }

    fn rotated(&self) -> String {
        let to: SocketAddr = format!("{GUEST}:80").parse().unwrap();
        let connect = || TcpStream::connect_timeout(&to, PATIENCE);
        let mut stream = self.namespace.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request = "GET /rotate HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

/// Packets of the first stream until `time` is over: by frame, and their bytes on the wire.
fn stream_of(guest: &Guest<'_>, time: Duration) -> BTreeMap<u64, (u64, bool)> {
    let socket = guest.udp(5004, PATIENCE);
    let (begin, mut frames) = (Instant::now(), BTreeMap::new());
    let mut last: Option<Packet> = None;
    while begin.elapsed() < time {
        let mut bytes = [0; 2000];
        let length = socket.recv(&mut bytes).unwrap();
        let packet = Packet::read(&bytes[..length]).unwrap();
        if let Some(last) = last {
            assert_eq!(packet.sequence, last.sequence.wrapping_add(1));
        }
        let frame: &mut (u64, bool) = frames.entry(packet.frame).or_default();
        frame.0 += (length - HEADER) as u64 + OVERHEAD;
        frame.1 = packet.last;
        last = Some(packet);
    }
    frames
}

#[test]
fn echo_http_and_a_stream_come_from_a_guest_in_its_share() {
    for need in NEEDS {
        requires!(need);
    }
    let user = User::new();
    let guest = Guest::start(&user);
    let first = guest.echoed();
    let second = guest.echoed();
    assert!(first.0 <= first.1 && first.1 < second.0);
    thread::scope(|scope| {
        let stream = scope.spawn(|| stream_of(&guest, Duration::from_secs(3)));
        let clients: Vec<_> = (0..10).map(|_| scope.spawn(|| guest.rotated())).collect();
        for client in clients {
            let answer = client.join().unwrap();
            let checksum = format!("adler32 {:08x}", image::ROTATED);
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
            assert!(answer.contains(&checksum), "{answer}");
        }
        let frames = stream.join().unwrap();
        let inner: Vec<_> = frames
            .values()
            .skip(1)
            .take(frames.len().saturating_sub(2))
            .collect();
        assert!(inner.len() > 10, "{} frames", frames.len());
        // 1214 kbit/s with 25 frames in a second.
        assert!(
            inner.iter().all(|(bytes, last)| *bytes == 6070 && *last),
            "{inner:?}"
        );
    });
}

//! A guest's port at two hosts with a switch between them: who gets the guest's frames before, while and after it moves.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::thread;
use std::time::{Duration, Instant};

use net::announcement;
use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::netlink::Netlink;
use net::passage::{Late, Passage};
use net::ports::{PortCounters, PortSpec, Ports, PortsConfig};
use net::share::{Priority, Share};
use net::tap::{Offloads, Tap};
use system_tests::{Need, requires};
use units::BitRate;

use support::traffic::{HEADER, frame, large_frame, source};
use support::{NEEDS, namespace, printed};

const BRIDGE: &str = "chronovisor0";
const EVERYBODY: [u8; 6] = [0xff; 6];

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn mac(number: u8) -> Mac {
    Mac::new([2, 0, 0x5e, 0x10, 0, number]).unwrap()
}

const GUEST: u8 = 1;
const CLIENT: u8 = 7;

/// A host with a bridge of ports, one of which is a cable to the switch.
struct Host {
    namespace: Namespace,
    ports: Ports,
}

impl Host {
    fn new(name: &str, switch: &Switch) -> Self {
        let namespace = quiet(name);
        let config = PortsConfig {
            bridge: BRIDGE.to_owned(),
            capacity: rate("10Gbit/s"),
            broadcast: rate("1Mbit/s"),
            mtu: 1500,
            address: None,
        };
        let ports = namespace.run(|| Ports::create(&config)).unwrap().unwrap();
        let mut netlink = namespace.netlink().unwrap();
        let cable = device::add_veth("up", name, Some(&switch.namespace));
        netlink.apply(&[cable]).unwrap();
        plug(&mut netlink, "up", BRIDGE);
        plug(&mut switch.namespace.netlink().unwrap(), name, "sw");
        // A cable's ends notice each other some time after they are up.
        forwards(&namespace, "up");
        forwards(&switch.namespace, name);
        Self { namespace, ports }
    }

    fn spec(number: u8) -> PortSpec {
        let share = Share::new(rate("100Mbit/s"), rate("1Gbit/s"), Priority::BestEffort);
        PortSpec {
            mac: mac(number),
            share: share.unwrap(),
        }
    }

    fn attach(&mut self, number: u8) -> Tap {
        let ports = &mut self.ports;
        let attach = || ports.attach(&Self::spec(number));
        self.namespace.run(attach).unwrap().unwrap()
    }

    fn attach_closed(&mut self, number: u8) -> Tap {
        let ports = &mut self.ports;
        let attach = || ports.attach_closed(&Self::spec(number));
        self.namespace.run(attach).unwrap().unwrap()
    }

    fn passage(&self, tap: &Tap, number: u8) -> Passage {
        let of = || Passage::of(tap.name(), mac(number));
        self.namespace.run(of).unwrap().unwrap()
    }

    fn counters(&mut self, tap: &Tap) -> PortCounters {
        let states = self.ports.list().unwrap().into_iter();
        let mut own = states.filter(|state| state.name == tap.name());
        own.next().unwrap().counters
    }
}

/// A bridge as any switch is, and a client at it.
struct Switch {
    client: Tap,
    namespace: Namespace,
}

impl Switch {
    fn new(what: &str) -> Self {
        let namespace = quiet(&format!("{what}-switch"));
        let mut netlink = namespace.netlink().unwrap();
        netlink.apply(&[device::add_bridge("sw")]).unwrap();
        let bridge = device::get(&mut netlink, "sw").unwrap();
        netlink.apply(&[device::set_up(&bridge, true)]).unwrap();
        let client = namespace.run(|| Tap::open("client")).unwrap().unwrap();
        plug(&mut netlink, "client", "sw");
        Self { client, namespace }
    }

    /// Behind which port the guest is, as `bridge` says.
    fn knows(&self) -> String {
        let listed = printed(&self.namespace, &["bridge", "fdb", "show", "br", "sw"]);
        let own = mac(GUEST).to_string();
        let line = listed.lines().find(|line| line.starts_with(&own));
        let words = line.map(|line| line.split(' ').nth(2).unwrap());
        words.unwrap_or("nothing").to_owned()
    }
}

/// A namespace in which no host speaks by itself.
fn quiet(name: &str) -> Namespace {
    const OFF: &str = "/proc/sys/net/ipv6/conf/default/disable_ipv6";
    let namespace = namespace(name);
    // Where there is no IPv6 nobody speaks it.
    let _ = namespace.run(|| std::fs::write(OFF, "1")).unwrap();
    namespace
}

fn plug(netlink: &mut Netlink, name: &str, bridge: &str) {
    let [link, bridge] = [name, bridge].map(|name| device::get(netlink, name).unwrap());
    let steps = [
        device::set_bridge(&link, Some(&bridge)),
        device::set_up(&link, true),
    ];
    netlink.apply(&steps).unwrap();
}

fn forwards(namespace: &Namespace, port: &str) {
    let begun = Instant::now();
    while !printed(namespace, &["bridge", "link", "show", "dev", port]).contains("forwarding") {
        assert!(begun.elapsed() < Duration::from_secs(5), "{port}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Two hosts and a switch that has seen the guest at the first.
fn moving(what: &str) -> (Switch, [Host; 2], [Tap; 2]) {
    let switch = Switch::new(what);
    let [mut a, mut b] = ["a", "b"].map(|host| Host::new(&format!("{what}-{host}"), &switch));
    let here = a.attach(GUEST);
    let there = b.attach_closed(GUEST);
    send(&here, mac(GUEST), mac(CLIENT).octets());
    assert_eq!(received(&switch.client, 1), 1);
    (switch, [a, b], [here, there])
}

fn send(tap: &Tap, from: Mac, to: [u8; 6]) {
    let frame = frame(from.octets(), to, 100);
    let mut tap = tap;
    tap.write_all(&frame).unwrap();
}

/// What comes within a moment: so many frames as are expected, however long that takes, and those of a moment more.
fn frames(tap: &Tap, expected: usize) -> Vec<Vec<u8>> {
    const MOMENT: Duration = Duration::from_millis(50);
    let (begun, mut last) = (Instant::now(), Instant::now());
    let (mut frames, mut buffer, mut tap) = (Vec::new(), vec![0; 1 << 17], tap);
    while last.elapsed() < MOMENT
        || (frames.len() < expected && begun.elapsed() < Duration::from_secs(5))
    {
        match tap.read(&mut buffer) {
            Ok(length) => {
                frames.push(buffer[..length].to_vec());
                last = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
    frames
}

/// How many frames of the tests came.
fn received(tap: &Tap, expected: usize) -> usize {
    let frames = frames(tap, expected);
    frames
        .iter()
        .filter(|bytes| source(bytes).is_some())
        .count()
}

/// Whether the guest is where `tap` is, for the client.
fn reaches(switch: &Switch, taps: [&Tap; 2]) -> [usize; 2] {
    send(&switch.client, mac(CLIENT), mac(GUEST).octets());
    taps.map(|tap| received(tap, 0))
}

#[test]
fn a_switch_sends_the_guests_frames_to_its_new_place_after_one_announcement() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("bridge"));
    let (switch, [_a, mut b], [here, there]) = moving("ann");
    // The port waits: nothing is taken from the guest's old place, and nothing stale comes.
    assert_eq!(reaches(&switch, [&here, &there]), [1, 0]);
    send(&switch.client, mac(CLIENT), EVERYBODY);
    assert_eq!([&here, &there].map(|tap| received(tap, 0)), [1, 0]);
    let before = b.counters(&there);
    let mut arriving = b.passage(&there, GUEST);
    arriving.open().unwrap();
    send(&switch.client, mac(CLIENT), EVERYBODY);
    assert_eq!([&here, &there].map(|tap| received(tap, 1)), [1, 1]);
    let from_here = switch.knows();
    arriving.announce().unwrap();
    // Everybody at the switch sees the frame as it was built, the guest itself too.
    let seen = frames(&switch.client, 1);
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0][HEADER..], announcement::frame(mac(GUEST)));
    assert_eq!([from_here.as_str(), &switch.knows()], ["ann-a", "ann-b"]);
    frames(&there, 0);
    assert_eq!(reaches(&switch, [&here, &there]), [0, 1]);
    // No frame of the guest's, so none of its share, and no foreign one.
    let after = b.counters(&there);
    assert_eq!(after.foreign_mac_drops, before.foreign_mac_drops);
    assert_eq!(
        [after.out, after.broadcast_out],
        [before.out, before.broadcast_out]
    );
}

#[test]
fn a_late_frame_from_the_old_place_does_not_take_the_address_away_from_the_new_one() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("bridge"));
    let (switch, [_a, mut b], [here, there]) = moving("late");
    let neighbour = b.attach(2);
    let mut arriving = b.passage(&there, GUEST);
    arriving.open().unwrap();
    arriving.announce().unwrap();
    // What still waited in the old host's queues.
    send(&here, mac(GUEST), EVERYBODY);
    assert_eq!(received(&neighbour, 1), 1);
    frames(&there, 0);
    send(&neighbour, mac(2), mac(GUEST).octets());
    assert_eq!(received(&there, 1), 1);
    // The switch believes the last that it saw, until the next announcement.
    assert_eq!(switch.knows(), "late-a");
    arriving.announce().unwrap();
    thread::sleep(Duration::from_millis(20));
    assert_eq!(switch.knows(), "late-b");
}

#[test]
fn what_came_to_the_old_place_meanwhile_is_passed_on_whole_and_the_old_port_gets_no_more() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("bridge"));
    let (switch, [mut a, b], [here, there]) = moving("pass");
    let whole = Offloads {
        checksum: true,
        tcp4: true,
        ..Offloads::default()
    };
    for tap in [&here, &there] {
        tap.set_offloads(whole).unwrap();
    }
    let neighbour = a.attach(2);
    for _ in 0..5 {
        send(&neighbour, mac(2), mac(GUEST).octets());
    }
    let train = large_frame(mac(2).octets(), mac(GUEST).octets(), 20_000);
    (&neighbour).write_all(&train).unwrap();
    send(&neighbour, mac(2), EVERYBODY);
    thread::sleep(Duration::from_millis(50));
    let mut arriving = b.passage(&there, GUEST);
    let mut leaving = a.passage(&here, GUEST);
    arriving.open().unwrap();
    arriving.announce().unwrap();
    thread::sleep(Duration::from_millis(20));
    leaving.close().unwrap();
    let late = leaving.pass_on(&here);
    let Late { passed_on, lost } = late;
    // That the announcement came here too is no loss.
    assert_eq!((passed_on, lost), (7, 0));
    let got = frames(&there, 7);
    let small = got.iter().filter(|bytes| source(bytes).is_some()).count();
    let trains: Vec<_> = got.iter().filter(|bytes| bytes.len() > 1600).collect();
    assert_eq!((small, trains.len()), (6, 1), "{} frames", got.len());
    assert_eq!(trains[0][HEADER..], train[HEADER..]);
    for to in [mac(GUEST).octets(), EVERYBODY] {
        send(&switch.client, mac(CLIENT), to);
        send(&neighbour, mac(2), to);
    }
    assert_eq!(received(&there, 4), 4);
    assert_eq!(received(&here, 0), 0);
}

#[test]
fn what_a_closed_tap_drops_is_counted_and_what_comes_early_waits_in_an_open_one() {
    requires!(NEEDS[0], NEEDS[1], Need::Program("bridge"));
    let (switch, [_a, b], [_here, there]) = moving("early");
    let mut arriving = b.passage(&there, GUEST);
    there
        .set_queue_length(&mut b.namespace.netlink().unwrap(), 10)
        .unwrap();
    arriving.open().unwrap();
    arriving.announce().unwrap();
    thread::sleep(Duration::from_millis(20));
    let before = arriving.unread().unwrap();
    for _ in 0..50 {
        send(&switch.client, mac(CLIENT), mac(GUEST).octets());
    }
    thread::sleep(Duration::from_millis(50));
    let dropped = arriving.unread().unwrap() - before;
    assert_eq!(received(&there, 0), 50 - usize::try_from(dropped).unwrap());
    assert!((35..=45).contains(&dropped), "{dropped}");
}

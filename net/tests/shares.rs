//! How much passes. The bounds are wide enough for a machine that is busy with other things; the figures are printed.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail tests")]

mod support;

use std::thread;
use std::time::{Duration, Instant};

use net::class::{ClassId, Counters};
use net::device;
use net::mac::Mac;
use net::namespace::Namespace;
use net::ports::{PortSpec, PortState, Ports, PortsConfig};
use net::share::{Priority, Share};
use net::tap::{Offloads, Tap};
use net::tree::Tree;
use system_tests::requires;
use units::BitRate;

use support::traffic::{self, Background};
use support::{NEEDS, namespace};

const UPLINK: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 99];
const EVERYBODY: [u8; 6] = [0xff; 6];
const BULK: u16 = 28_960;

fn rate(text: &str) -> BitRate {
    text.parse().unwrap()
}

fn share(assured: &str, ceil: &str, priority: Priority) -> Share {
    Share::new(rate(assured), rate(ceil), priority).unwrap()
}

fn mac(number: u8) -> [u8; 6] {
    [2, 0, 0x5e, 0x10, 0, number]
}

/// VMs at a bridge, and one interface of it that nothing limits.
struct World {
    taps: Vec<Tap>,
    uplink: Tap,
    ports: Ports,
    namespace: Namespace,
}

fn world(what: &str, capacity: &str, shares: &[Share]) -> World {
    let namespace = namespace(what);
    let config = PortsConfig {
        bridge: "b".to_owned(),
        capacity: rate(capacity),
        broadcast: rate("1Mbit/s"),
        mtu: 1500,
        address: None,
    };
    let mut ports = namespace.run(|| Ports::create(&config)).unwrap().unwrap();
    let offloads = Offloads {
        checksum: true,
        tcp4: true,
        ..Offloads::default()
    };
    let mut netlink = namespace.netlink().unwrap();
    let uplink = namespace.run(|| Tap::open("uplink")).unwrap().unwrap();
    uplink.set_offloads(offloads).unwrap();
    let link = device::get(&mut netlink, "uplink").unwrap();
    let bridge = device::get(&mut netlink, "b").unwrap();
    let [add, floods] = device::open_port(&link, Mac::new(UPLINK).unwrap());
    let requests = [
        device::without_ipv6_address(&link),
        device::set_bridge(&link, Some(&bridge)),
        add,
        floods,
        device::set_up(&link, true),
    ];
    netlink.apply(&requests).unwrap();
    let mut attach = |(number, share): (u8, &Share)| {
        let spec = PortSpec {
            mac: Mac::new(mac(number)).unwrap(),
            share: *share,
        };
        let tap = namespace.run(|| ports.attach(&spec)).unwrap().unwrap();
        tap.set_offloads(offloads).unwrap();
        tap
    };
    let taps = (1..).zip(shares).map(&mut attach).collect();
    World {
        taps,
        uplink,
        ports,
        namespace,
    }
}

impl World {
    /// Every VM sends `bits` per second to the uplink, and the uplink as much to every VM.
    fn flood(&self, bits: u64) -> Vec<Background> {
        let bulk = |from, to| {
            if bits > 100_000_000 {
                traffic::large_frame(from, to, BULK)
            } else {
                traffic::frame(from, to, 1514)
            }
        };
        let both = (1..).zip(&self.taps).flat_map(|(number, tap)| {
            let out = traffic::flood(tap.file(), bulk(mac(number), UPLINK), bits);
            let into = traffic::flood(self.uplink.file(), bulk(UPLINK, mac(number)), bits);
            [out, into]
        });
        both.collect()
    }

    fn states(&mut self) -> Vec<PortState> {
        self.ports.list().unwrap()
    }

    /// Mbit/s out of and into each VM, over so much time.
    fn rates(&mut self, time: Duration) -> Vec<[f64; 2]> {
        let (before, begun) = (self.states(), Instant::now());
        thread::sleep(time);
        let (after, took) = (self.states(), begun.elapsed());
        let rate = |after: Counters, before: Counters| {
            let bits = 8.0 * f64::from(u32::try_from(after.bytes - before.bytes).unwrap());
            bits / took.as_secs_f64() / 1e6
        };
        let pairs = after.iter().zip(&before);
        let rates = pairs.map(|(a, b)| {
            [
                rate(a.counters.out, b.counters.out),
                rate(a.counters.into, b.counters.into),
            ]
        });
        rates.collect()
    }
}

/// How often a test looks again when something else held up the senders meanwhile: a share that does not hold never looks as
/// if it did.
const LOOKS: u32 = 10;

fn settles(what: &str, world: &mut World, expected: &[f64], tolerance: f64) {
    until(what, world, expected, |error| error.abs() < tolerance);
}

fn settles_at_least(what: &str, world: &mut World, expected: &[f64], tolerance: f64) {
    until(what, world, expected, |error| error > -tolerance);
}

/// Looks until the relative error of every VM's rate is good.
fn until(what: &str, world: &mut World, expected: &[f64], good: impl Fn(f64) -> bool) {
    thread::sleep(Duration::from_millis(500));
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        let rates = world.rates(Duration::from_secs(2));
        let pairs = rates.iter().zip(expected);
        let mut errors =
            pairs.flat_map(|(rates, expected)| rates.map(|rate| rate / expected - 1.0));
        if errors.all(&good) {
            return println!("{what}: {expected:?} Mbit/s, out and into {rates:.3?}");
        }
        seen.push(rates);
    }
    panic!("{what}: never {expected:?} Mbit/s: {seen:.3?}");
}

const BEST: Priority = Priority::BestEffort;
const GOLD: Priority = Priority::Gold;

#[test]
fn two_vms_that_want_more_get_their_shares_of_10_mbit_both_ways() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("6Mbit/s", "10Mbit/s", BEST),
        share("4Mbit/s", "10Mbit/s", BEST),
    ];
    let mut world = world("ten", "10Mbit/s", &shares);
    let _flood = world.flood(15_000_000);
    settles("10 Mbit/s", &mut world, &[6.0, 4.0], 0.02);
}

#[test]
fn two_vms_that_want_more_get_their_shares_of_1_gbit_both_ways() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("600Mbit/s", "1Gbit/s", BEST),
        share("400Mbit/s", "1Gbit/s", BEST),
    ];
    let mut world = world("giga", "1Gbit/s", &shares);
    let _flood = world.flood(1_000_000_000);
    settles("1 Gbit/s", &mut world, &[600.0, 400.0], 0.05);
}

#[test]
fn spare_bandwidth_goes_to_gold_first() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("5Mbit/s", "10Mbit/s", GOLD),
        share("3Mbit/s", "10Mbit/s", BEST),
    ];
    let mut world = world("gold", "10Mbit/s", &shares);
    let _flood = world.flood(15_000_000);
    settles("gold first", &mut world, &[7.0, 3.0], 0.02);
}

#[test]
fn what_gold_leaves_best_effort_takes_and_nobody_passes_its_ceiling() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("6Mbit/s", "8Mbit/s", GOLD),
        share("2Mbit/s", "7Mbit/s", BEST),
    ];
    let mut world = world("ceil", "20Mbit/s", &shares);
    let _flood = world.flood(15_000_000);
    settles("ceilings", &mut world, &[8.0, 7.0], 0.02);
}

#[test]
fn spoofed_frames_take_nothing_of_anothers_share() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("6Mbit/s", "10Mbit/s", BEST),
        share("4Mbit/s", "10Mbit/s", BEST),
    ];
    let mut world = world("spoof-share", "10Mbit/s", &shares);
    let _flood = world.flood(15_000_000);
    // The second VM sends in the name of the first as well.
    let lie = traffic::frame(mac(1), UPLINK, 1514);
    let _lie = traffic::flood(world.taps[1].file(), lie, 15_000_000);
    settles("with spoofed frames", &mut world, &[6.0, 4.0], 0.02);
    let states = world.states();
    assert!(states[1].counters.foreign_mac_drops > 1000, "{states:?}");
    assert_eq!(states[0].counters.foreign_mac_drops, 0);
}

#[test]
fn a_storm_of_broadcasts_takes_nothing_of_a_share_and_drowns_nobody_elses() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("6Mbit/s", "10Mbit/s", BEST),
        share("2Mbit/s", "10Mbit/s", BEST),
        share("1Mbit/s", "10Mbit/s", BEST),
    ];
    let mut world = world("storm", "10Mbit/s", &shares);
    let _flood = world.flood(15_000_000);
    let storm = traffic::frame(mac(2), EVERYBODY, 1514);
    let _storm = traffic::flood(world.taps[1].file(), storm, 15_000_000);
    // A hundred small broadcasts a second, as of ARP.
    let quiet = traffic::frame(mac(3), EVERYBODY, 100);
    let _quiet = traffic::flood(world.taps[2].file(), quiet, 80_000);
    // All shares and the storm's 1 Mbit/s fill the link out of the VMs; into them 1 Mbit/s is left for who wants it.
    settles_at_least("storm", &mut world, &[6.0, 2.0, 1.0], 0.02);
    let before = world.states();
    let rates = world.rates(Duration::from_secs(2));
    let after = world.states();
    let grown =
        |port: usize, count: fn(&PortState) -> u64| count(&after[port]) - count(&before[port]);
    let megabits = |bytes: u64| 8.0 * f64::from(u32::try_from(bytes).unwrap()) / 2e6;
    let stormy = megabits(grown(1, |state| state.counters.broadcast_out.bytes));
    let quiet = grown(2, |state| state.counters.broadcast_out.packets);
    let lost = grown(2, |state| state.counters.broadcast_out.drops);
    let heard = megabits(grown(0, |state| state.counters.broadcast_into.bytes));
    let unheard = grown(0, |state| state.counters.broadcast_into.drops);
    println!(
        "storm: {rates:.3?}; {stormy:.3} Mbit/s of it out; quiet {quiet} frames out, {lost} lost; VM 1 hears {heard:.3} Mbit/s, {unheard} lost"
    );
    assert!(stormy < 1.05, "{stormy}");
    // Senders may be held up, but nothing that they send is lost.
    assert!(quiet > 50 && lost == 0, "{quiet} {lost}");
    assert!(unheard == 0, "{unheard}");
}

#[test]
fn golds_frames_do_not_wait_for_a_flood() {
    requires!(NEEDS[0], NEEDS[1]);
    let shares = [
        share("6Mbit/s", "10Mbit/s", GOLD),
        share("4Mbit/s", "10Mbit/s", BEST),
    ];
    let world = world("latency", "10Mbit/s", &shares);
    let _echo = traffic::echo(world.uplink.file(), UPLINK, mac(1));
    let _drain = traffic::drain(world.taps[1].file());
    let flood = |number: usize, from, to| {
        let tap = if number == 0 {
            &world.uplink
        } else {
            &world.taps[1]
        };
        traffic::flood(tap.file(), traffic::frame(from, to, 1514), 15_000_000)
    };
    let _flood = [flood(1, mac(2), UPLINK), flood(0, UPLINK, mac(2))];
    thread::sleep(Duration::from_millis(500));
    let times = traffic::round_trips(world.taps[0].file(), mac(1), UPLINK, 500);
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "gold beside a flood: median {median:?}, p99 {:?}, worst {worst:?}",
        times[495]
    );
    // A full frame of best effort at 10 Mbit/s takes 1.2 ms, its queue 112 ms.
    assert!(median < Duration::from_millis(3), "{median:?}");
}

#[test]
fn a_change_takes_effect_at_once_and_costs_little() {
    requires!(NEEDS[0], NEEDS[1]);
    let one = [
        share("6Mbit/s", "10Mbit/s", BEST),
        share("4Mbit/s", "10Mbit/s", BEST),
    ];
    let other = [
        share("4Mbit/s", "10Mbit/s", BEST),
        share("6Mbit/s", "10Mbit/s", BEST),
    ];
    let mut world = world("effect", "10Mbit/s", &one);
    let names: Vec<_> = world.taps.iter().map(|tap| tap.name().to_owned()).collect();
    let pair = |shares: [Share; 2]| {
        [
            (names[0].as_str(), shares[0]),
            (names[1].as_str(), shares[1]),
        ]
    };
    let mut block = world.namespace.run(|| Tree::open("b-tx")).unwrap().unwrap();
    let classes = block.classes().unwrap().into_iter();
    let classes: Vec<_> = classes
        .filter(|(_, (rates, _))| rates.ceil == rate("10Mbit/s"))
        .map(|(id, _)| id)
        .filter(|id| ClassId::new(id.minor()).is_some())
        .collect();
    let median = median_of_changes("change of a pair of classes", |turn| {
        let [a, b] = if turn % 2 == 0 { other } else { one };
        block.change(&[(classes[0], a), (classes[1], b)]).unwrap();
    });
    assert!(median < Duration::from_millis(1), "{median:?}");
    let median = median_of_changes("change of a pair of VMs, both ways", |turn| {
        let shares = pair(if turn % 2 == 0 { other } else { one });
        world.ports.change(&shares).unwrap();
    });
    assert!(median < Duration::from_millis(2), "{median:?}");
    median_of_changes("the same, known what they are", |turn| {
        let (from, to) = if turn % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        let shares = [0, 1].map(|n| (classes[n], from[n], to[n]));
        block.replace(&shares).unwrap();
    });
    let median = median_of_changes("VMs, both ways, known what they are", |turn| {
        let (from, to) = if turn % 2 == 0 {
            (one, other)
        } else {
            (other, one)
        };
        let shares = [0, 1].map(|n| (names[n].as_str(), from[n], to[n]));
        world.ports.replace(&shares).unwrap();
    });
    assert!(median < Duration::from_millis(1), "{median:?}");
    // The last of the thousand was back to the first; once more.
    world.ports.change(&pair(other)).unwrap();
    let _flood = world.flood(15_000_000);
    settles("before a change", &mut world, &[4.0, 6.0], 0.02);
    world.ports.change(&pair(one)).unwrap();
    settles("after it", &mut world, &[6.0, 4.0], 0.02);
}

fn median_of_changes(what: &str, mut change: impl FnMut(u32)) -> Duration {
    let timed = |turn| {
        let begun = Instant::now();
        change(turn);
        begun.elapsed()
    };
    let mut times: Vec<_> = (0..1000).map(timed).collect();
    times.sort();
    let (least, median, p99) = (times[0], times[500], times[990]);
    println!("{what}: least {least:?}, median {median:?}, p99 {p99:?}");
    median
}

//! What classes pass while a load runs, and gold's round trips.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use net::ports::PortCounters;

use super::case::{Case, Direction, Lengths, Link};
use super::fabric::{self, ECHO, Fabric};
use super::load::Sending;
use crate::experiment::progress::Progress;
use crate::experiment::{ExperimentError, interrupt};
use crate::report::stats::Distribution;
use crate::traffic::echo::{self, EchoError};

/// A load is one if it offers so many times what is to pass.
const ENOUGH: f64 = 1.05;
/// Between two round trips.
const PAUSE: Duration = Duration::from_millis(2);

/// What came of a case.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The case.
    pub case: Case,
    /// What the two passed, bits per second on the wire.
    pub passed: [f64; 2],
    /// What went to everybody, in the same direction.
    pub others: f64,
    /// Frames of best effort with a foreign address that were dropped, per second.
    pub foreign: f64,
    /// What they offered, bits per second, but for TCP, which offers what it gets; and without what was spoofed or went to
    /// everybody.
    pub offered: Vec<f64>,
}

impl Outcome {
    /// How far each is from its share, percent.
    pub fn deviations(&self) -> [f64; 2] {
        let expected = self.case.expected(self.others);
        [0, 1].map(|index: usize| self.case.deviation(self.passed[index], expected[index]))
    }

    /// Whether floods could offer more than was to pass: where other programs take the CPUs too they cannot, and what
    /// passed says nothing about shares.
    pub fn is_loaded(&self) -> bool {
        let expected = self.case.expected(self.others);
        is_enough(&self.offered, &expected)
    }

    /// Whether both are within what is allowed.
    pub fn is_met(&self) -> bool {
        let allowed = f64::from(self.case.link.allowed);
        self.deviations().iter().all(|off| off.abs() <= allowed)
    }
}

/// Whether what was offered is more than what is to pass.
pub fn is_enough(offered: &[f64], expected: &[f64]) -> bool {
    let mut both = offered.iter().zip(expected);
    both.all(|(offered, expected)| *offered >= expected * ENOUGH)
}

/// Counters at an instant.
struct Reading {
    at: Instant,
    counters: [PortCounters; 2],
}

impl Reading {
    fn take(fabric: &mut Fabric) -> Result<Self, ExperimentError> {
        let (at, counters) = fabric.counters()?;
        Ok(Self { at, counters })
    }

    /// Bits that VM `index` passed.
    fn bits(&self, index: usize, direction: Direction) -> f64 {
        let counters = &self.counters[index];
        let of = match direction {
            Direction::In => counters.into,
            Direction::Out => counters.out,
        };
        of.bytes as f64 * 8.0
    }

    fn others(&self, direction: Direction) -> f64 {
        let of = |counters: &PortCounters| match direction {
            Direction::In => counters.broadcast_into.bytes,
            Direction::Out => counters.broadcast_out.bytes,
        };
        self.counters.iter().map(of).sum::<u64>() as f64 * 8.0
    }

    fn foreign(&self) -> f64 {
        self.counters[1].foreign_mac_drops as f64
    }
}

/// Runs a case.
pub fn shares(
    case: Case,
    fabric: &mut Fabric,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<Outcome, ExperimentError> {
    let sending = Sending::start(&case, fabric)?;
    interrupt::sleep(lengths.settled(case.load), || progress.tick())?;
    let first = Reading::take(fabric)?;
    interrupt::sleep(lengths.measure, || progress.tick())?;
    let last = Reading::take(fabric)?;
    let offered = sending.offered();
    drop(sending);
    let seconds = (last.at - first.at).as_secs_f64();
    let passed = |index| {
        let bits = |reading: &Reading| reading.bits(index, case.direction);
        (bits(&last) - bits(&first)) / seconds
    };
    Ok(Outcome {
        case,
        passed: [0, 1].map(passed),
        others: (last.others(case.direction) - first.others(case.direction)) / seconds,
        foreign: (last.foreign() - first.foreign()) / seconds,
        offered,
    })
}

/// Gold's round trips while best effort floods.
#[derive(Clone, Debug)]
pub struct RoundTrips {
    /// The link.
    pub link: Link,
    /// Which way best effort floods; not at all if nothing is said.
    pub flood: Option<Direction>,
    /// Whether gold is a guest, and no namespace.
    pub is_guest: bool,
    /// The times.
    pub times: Distribution,
}

/// Measures round trips between the host and gold.
pub fn round_trips(
    (link, flood): (Link, Option<Direction>),
    fabric: &Fabric,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<RoundTrips, ExperimentError> {
    let [gold, other] = &fabric.machines;
    let rate = Case::flood(&link);
    let _sending = match flood {
        None => None,
        Some(Direction::In) => Some(Sending::flood_in(other, rate)?),
        Some(Direction::Out) => Some(Sending::flood_out(other, rate)?),
    };
    let server = gold.inside(|| fabric::receive(ECHO))?;
    let answering = server.map(echo::answer).transpose();
    let _answering = answering.map_err(ExperimentError::io("answer datagrams"))?;
    interrupt::sleep(lengths.settle, || progress.tick())?;
    let times = between(gold.address, (lengths, progress))?;
    Ok(RoundTrips {
        link,
        flood,
        is_guest: false,
        times,
    })
}

/// Round trips between the calling thread's namespace and an echo.
pub fn between(
    gold: Ipv4Addr,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<Distribution, ExperimentError> {
    let socket =
        fabric::to(SocketAddrV4::new(gold, ECHO)).map_err(ExperimentError::io("make a socket"))?;
    let glance = || {
        progress.tick();
        interrupt::check()
    };
    let times = echo::round_trips(&socket, (lengths.round_trips, PAUSE), glance);
    times.map_err(|error| match error {
        EchoError::Socket(source) => ExperimentError::io("measure round trips")(source),
        EchoError::Ended(error) => error,
    })
}

//! One scenario: four streams, then a fifth, and what the watch does about it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use sched::qos::{Event, Presence, Rule, Watch};

use super::course::Course;
use super::flood;
use super::guests::{self, Guests};
use super::listening::{Clock, Listener, Place};
use super::monitor::{Losses, Pace};
use super::need::{FIRST_STREAMS, Need, STREAMS, for_each};
use super::network::{BEST_EFFORT_TARGET, EAST, Network};
use super::quality::{self, Adapting, Hands, Held, Pair, StreamsSeen};
use super::rtp::{Position, Unwrapping};
use super::shares::{self, Shares};
use super::streams::{Processes, Senders};
use super::vtms::{FRAME, Vtms};
use super::{Adaptation, Mode, Timing};
use crate::experiment::namespaces::open_inside;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};
use units::BitRate;

/// The load on the network: twice what best effort is assured at most.
const LOAD: BitRate = BitRate::new(10_000_000);
/// Between two looks of the watch.
const LOOK: Duration = Duration::from_millis(20);
/// A frame that leaves so much later than it should is late: the next one is due. Waiting for the VTM's next slots and for the
/// frames of three other streams explains less (16 and 22 ms).
pub const LATE: Duration = FRAME;

/// Changes to tell their cost: as many as the paper's figures are means of, back and forth.
const CHANGES: u32 = 30;
/// Between two of them: no part of a period.
const PAUSE: Duration = Duration::from_millis(17);

/// An adaptation that was carried out.
#[derive(Clone, Copy, Debug)]
pub struct Adapted {
    /// Of what.
    pub held: Held,
    /// When it was begun.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
}

/// What adapting costs: repeated changes, one by one.
#[derive(Clone, Debug, Default)]
pub struct Costs {
    /// Of CPU shares, on this host.
    pub local: Vec<Duration>,
    /// Of bandwidth, on the routers, to the last answer.
    pub remote: Vec<Duration>,
}

/// What came of a scenario.
pub struct Ran {
    /// Who sent the streams.
    pub mode: Mode,
    /// What was adapted.
    pub adaptation: Adaptation,
    /// The streams.
    pub courses: Vec<Course>,
    /// The stretch with four streams.
    pub before: Range<Duration>,
    /// The stretch with five.
    pub after: Range<Duration>,
    /// What the watch saw and did.
    pub events: Vec<(Duration, Event)>,
    /// The adaptations.
    pub adapted: Vec<Adapted>,
    /// Gold's rate at the bottleneck in both stretches, as its class counts bytes, in bit/s.
    pub wire: (Option<f64>, Option<f64>),
    /// CPU time that a stream needed for a frame, while there were four.
    pub need: Duration,
    /// What more changes cost, where both are adapted: while the five streams still run.
    pub costs: Costs,
}

/// The hosts: one CPU, and the network.
pub struct Hosts<'a> {
    /// With the CPU.
    pub stage: &'a Stage,
    /// The network.
    pub network: &'a Network,
}

/// Carries adaptations out and writes them down.
struct Carrying<'a> {
    senders: &'a mut dyn Senders,
    shares: &'a mut Shares,
    clock: Clock,
    adapted: Vec<Adapted>,
}

impl Adapting for Carrying<'_> {
    fn adapt(&mut self, held: Held, pair: Pair) -> Result<(), String> {
        let at = self.clock.now();
        let took = match held {
            Held::Cpu => self.senders.adapt(pair),
            Held::Link => self.shares.adapt(pair),
        };
        let took = took.map_err(|error| error.to_string())?;
        self.adapted.push(Adapted { held, at, took });
        Ok(())
    }
}

/// The streams as their monitors see them.
struct Monitors {
    known: (Vec<usize>, Vec<usize>),
    unwrapping: (Vec<Unwrapping>, Vec<Unwrapping>),
    paces: Vec<Pace>,
    losses: Vec<Losses>,
}

impl Monitors {
    fn new() -> Self {
        let count = usize::from(STREAMS);
        Self {
            known: (vec![0; count], vec![0; count]),
            unwrapping: (
                vec![Unwrapping::default(); count],
                vec![Unwrapping::default(); count],
            ),
            paces: vec![Pace::new(LATE); count],
            losses: vec![Losses::default(); count],
        }
    }

    /// Takes in what has come since.
    fn look(&mut self, departures: &Listener, arrivals: &Listener) {
        let (paces, losses) = (&mut self.paces, &mut self.losses);
        take(
            departures,
            (&mut self.known.0, &mut self.unwrapping.0),
            |stream, position, at| {
                paces[stream].sent(position, at);
            },
        );
        take(
            arrivals,
            (&mut self.known.1, &mut self.unwrapping.1),
            |stream, position, _| {
                losses[stream].arrived(position);
            },
        );
    }

    fn seen(&self) -> StreamsSeen {
        StreamsSeen {
            sent: self.paces.iter().map(Pace::task).collect(),
            arrived: self.losses.iter().map(Losses::task).collect(),
        }
    }
}

fn take(
    listener: &Listener,
    (known, unwrapping): (&mut [usize], &mut [Unwrapping]),
    mut each: impl FnMut(usize, Position, Duration),
) {
    for (stream, new) in listener.since(known).into_iter().enumerate() {
        for seen in &new {
            each(stream, unwrapping[stream].position(&seen.header), seen.at);
        }
        known[stream] += new.len();
    }
}

/// The streams, and all that sees and adapts them.
struct Scene<'a> {
    carrying: Carrying<'a>,
    monitors: Monitors,
    watch: Watch,
    events: Vec<(Duration, Event)>,
    departures: Listener,
    arrivals: Listener,
    clock: Clock,
    progress: &'a Progress,
}

impl Scene<'_> {
    /// Watches until `end`.
    fn watch_until(&mut self, end: Duration) -> Result<(), ExperimentError> {
        while self.clock.now() < end {
            interrupt::sleep(LOOK, || self.progress.tick())?;
            self.look();
        }
        Ok(())
    }

    fn look(&mut self) {
        self.monitors.look(&self.departures, &self.arrivals);
        let now = self.clock.now();
        let (cpu, link) = (self.carrying.senders.cpu(), self.carrying.shares.link());
        let seen: BTreeMap<String, Presence> = quality::seen(&self.monitors.seen(), cpu, link);
        let mut hands = Hands {
            cpu,
            link,
            adapting: &mut self.carrying,
        };
        let events = self.watch.step(now, &seen, &mut hands);
        self.events
            .extend(events.into_iter().map(|event| (now, event)));
    }

    /// Begins stream `number`.
    fn begin(&mut self, number: u16) -> Result<(), ExperimentError> {
        let glance = || self.progress.tick();
        (self.carrying.senders).begin(number, (&self.departures, &glance))?;
        self.monitors.look(&self.departures, &self.arrivals);
        self.monitors.paces[usize::from(number)].moved();
        Ok(())
    }
}

/// Changes both kinds back and forth.
fn costs(
    carrying: &mut Carrying<'_>,
    first_cpu: Pair,
    progress: &Progress,
) -> Result<Costs, ExperimentError> {
    let (cpu, link) = (carrying.senders.cpu(), carrying.shares.link());
    let first_link = shares::first()?;
    let mut costs = Costs::default();
    for change in 0..CHANGES {
        let (cpu, link) = match change % 2 {
            0 => (first_cpu, first_link),
            _ => (cpu, link),
        };
        interrupt::sleep(PAUSE, || progress.tick())?;
        costs.local.push(carrying.senders.adapt(cpu)?);
        costs.remote.push(carrying.shares.adapt(link)?);
    }
    Ok(costs)
}

/// The rules of a scenario: what CPU time there is at first, and what gold has of it at most.
fn rules(
    adaptation: Adaptation,
    (cpu, most): (Pair, Duration),
) -> Result<Vec<Rule>, ExperimentError> {
    let mut rules = Vec::new();
    if adaptation.adapts(Held::Cpu) {
        rules.push(Held::Cpu.rule(cpu, most));
    }
    if adaptation.adapts(Held::Link) {
        rules.push(Held::Link.rule(shares::first()?, shares::greatest()?));
    }
    Ok(rules)
}

/// Runs one scenario.
pub fn run(
    (mode, adaptation): (Mode, Adaptation),
    hosts: &Hosts,
    (need, timing): (Need, Timing),
    progress: &Progress,
) -> Result<Ran, ExperimentError> {
    let clock = Clock::start();
    let arrivals = open_inside(&hosts.network.client, || Place::arrival(STREAMS))?;
    let arrivals = Listener::start(arrivals, STREAMS, clock)?;
    let departures = open_inside(&hosts.network.source, || Place::departure(EAST))?;
    let departures = Listener::start(departures, STREAMS, clock)?;
    let mut shares = Shares::reserve((hosts.stage, hosts.network))?;
    let at = (hosts.stage, hosts.network);
    let (mut senders, most): (Box<dyn Senders>, Duration) = match mode {
        Mode::Vtms => {
            let vtms = Vtms::new(hosts.stage, need.cpu()?, STREAMS)?;
            let mut processes = Processes::new(vtms, need.size, at);
            processes.transcode()?;
            (Box::new(processes), need.budgets().1)
        }
        Mode::Guests => (Box::new(Guests::start(at, timing)?), guests::greatest()),
    };
    let socket = open_inside(&hosts.network.source, flood::socket)?;
    let _flood = flood::start(socket, BEST_EFFORT_TARGET, LOAD)?;
    let scene = Scene {
        watch: Watch::new(rules(adaptation, (senders.cpu(), most))?),
        carrying: Carrying {
            senders: &mut *senders,
            shares: &mut shares,
            clock,
            adapted: Vec::new(),
        },
        monitors: Monitors::new(),
        events: Vec::new(),
        departures,
        arrivals,
        clock,
        progress,
    };
    scene.play((mode, adaptation), timing)
}

/// What is read between two stretches.
struct Reading {
    at: Duration,
    bytes: Option<u64>,
    used: Duration,
}

impl Scene<'_> {
    fn read(&self) -> Reading {
        Reading {
            at: self.clock.now(),
            bytes: self.carrying.shares.gold_bytes(),
            used: self.carrying.senders.used(),
        }
    }

    /// Four streams, then five.
    fn play(
        mut self,
        (mode, adaptation): (Mode, Adaptation),
        timing: Timing,
    ) -> Result<Ran, ExperimentError> {
        let first_cpu = self.carrying.senders.cpu();
        for number in 0..FIRST_STREAMS {
            self.carrying.senders.start(number)?;
        }
        for number in 0..FIRST_STREAMS {
            self.begin(number)?;
        }
        self.settle(timing)?;
        self.monitors.look(&self.departures, &self.arrivals);
        self.monitors.paces.iter_mut().for_each(Pace::moved);
        let first = self.read();
        self.watch_until(first.at + timing.before)?;
        let four = self.read();
        self.carrying.senders.start(FIRST_STREAMS)?;
        self.begin(FIRST_STREAMS)?;
        let second = self.read();
        self.watch_until(second.at + timing.after)?;
        let third = self.read();
        let costs = match adaptation {
            Adaptation::Both => costs(&mut self.carrying, first_cpu, self.progress)?,
            _ => Costs::default(),
        };
        // What is still in queues arrives.
        self.settle(timing)?;
        let courses = self.courses();
        let stretch = first.at..four.at;
        let frames = courses.iter().map(|course| course.frames_sent(&stretch));
        Ok(Ran {
            mode,
            adaptation,
            need: for_each(four.used.saturating_sub(first.used), frames.sum()),
            before: first.at..second.at,
            after: second.at..third.at,
            wire: (rate(&first, &second), rate(&second, &third)),
            events: self.events,
            adapted: self.carrying.adapted,
            courses,
            costs,
        })
    }

    fn settle(&self, timing: Timing) -> Result<(), ExperimentError> {
        interrupt::sleep(timing.settling, || self.progress.tick())
    }

    fn courses(&self) -> Vec<Course> {
        let (sent, received) = (self.departures.all(), self.arrivals.all());
        let both = sent.iter().zip(&received);
        both.map(|(sent, received)| Course::new(sent, received))
            .collect()
    }
}

/// Bits in a second between two readings.
fn rate(from: &Reading, to: &Reading) -> Option<f64> {
    let bytes = to.bytes?.saturating_sub(from.bytes?);
    Some(bytes as f64 * 8.0 / to.at.saturating_sub(from.at).as_secs_f64())
}

//! One scenario: four streams, then a fifth, and what the watch does about it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use sched::qos::{Event, Presence, Rule, Watch};

use super::course::Course;
use super::ffmpeg::{self, Size};
use super::flood::{self, Flood};
use super::listening::{Clock, Listener, Place};
use super::monitor::{Losses, Pace};
use super::need::{FIRST_STREAMS, Need, STREAMS};
use super::network::{BEST_EFFORT_TARGET, Network, open_inside, program};
use super::quality::{self, Adapting, BEST_EFFORT, Hands, Held, Pair, StreamsSeen};
use super::rtp::{Position, Unwrapping};
use super::shares::{self, Shares};
use super::vtms::{FRAME, Vtms};
use super::{Adaptation, Timing, streams};
use crate::experiment::process::Part;
use crate::experiment::progress::Progress;
use crate::experiment::stage::Stage;
use crate::experiment::{ExperimentError, interrupt};
use units::BitRate;

/// How many transcode.
const TRANSCODING: u16 = 2;
/// The load on the network: twice what best effort is assured at most.
const LOAD: BitRate = BitRate::new(10_000_000);
/// Between two looks of the watch.
const LOOK: Duration = Duration::from_millis(20);
/// A frame that leaves so much later than it should is late: another one should have left since.
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
    vtms: &'a mut Vtms,
    shares: &'a mut Shares,
    clock: Clock,
    adapted: Vec<Adapted>,
}

impl Adapting for Carrying<'_> {
    fn adapt(&mut self, held: Held, pair: Pair) -> Result<(), String> {
        let at = self.clock.now();
        let took = match held {
            Held::Cpu => self.vtms.adapt(pair),
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

/// The streams, and all that sees and adapts them. Fields are dropped in this order: VTMs leave processes as they were found,
/// then these are ended.
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
        let (cpu, link) = (self.carrying.vtms.cpu(), self.carrying.shares.link());
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

    /// Begins stream `number` and makes it a job of gold as soon as it streams.
    fn begin(
        &mut self,
        number: u16,
        (size, hosts): (Size, &Hosts),
    ) -> Result<Part, ExperimentError> {
        let mut part = streams::start(number, size, (hosts.stage, hosts.network))?;
        let begin = streams::wait(number, &mut part, &self.departures, &|| {
            self.progress.tick()
        });
        begin?;
        streams::admit(&part, self.carrying.vtms)?;
        self.monitors.look(&self.departures, &self.arrivals);
        self.monitors.paces[usize::from(number)].moved();
        Ok(part)
    }
}

/// Changes both kinds back and forth.
fn costs(
    carrying: &mut Carrying<'_>,
    need: Need,
    progress: &Progress,
) -> Result<Costs, ExperimentError> {
    let (cpu, link) = (carrying.vtms.cpu(), carrying.shares.link());
    let (first_cpu, first_link) = (need.cpu()?, shares::first()?);
    let mut costs = Costs::default();
    for change in 0..CHANGES {
        let (cpu, link) = match change % 2 {
            0 => (first_cpu, first_link),
            _ => (cpu, link),
        };
        interrupt::sleep(PAUSE, || progress.tick())?;
        costs.local.push(carrying.vtms.adapt(cpu)?);
        costs.remote.push(carrying.shares.adapt(link)?);
    }
    Ok(costs)
}

/// The rules of a scenario.
fn rules(adaptation: Adaptation, need: Need) -> Result<Vec<Rule>, ExperimentError> {
    let mut rules = Vec::new();
    if adaptation.adapts(Held::Cpu) {
        rules.push(Held::Cpu.rule(need.cpu()?, need.budgets().1));
    }
    if adaptation.adapts(Held::Link) {
        rules.push(Held::Link.rule(shares::first()?, shares::greatest()?));
    }
    Ok(rules)
}

/// Runs one scenario.
pub fn run(
    adaptation: Adaptation,
    hosts: &Hosts,
    (need, timing): (Need, Timing),
    progress: &Progress,
) -> Result<Ran, ExperimentError> {
    let clock = Clock::start();
    let arrivals = open_inside(&hosts.network.client, || Place::arrival(STREAMS))?;
    let arrivals = Listener::start(arrivals, STREAMS, clock)?;
    let departures = open_inside(&hosts.network.source, Place::departure)?;
    let departures = Listener::start(departures, STREAMS, clock)?;
    let mut shares = Shares::reserve((hosts.stage, hosts.network))?;
    // Processes outlive the VTMs, which leave them as they were found.
    let mut parts: Vec<Part> = Vec::new();
    let mut vtms = Vtms::new(hosts.stage, need.cpu()?, STREAMS)?;
    parts.extend(best_effort(hosts, &mut vtms)?);
    let socket = open_inside(&hosts.network.source, flood::socket)?;
    let flood = Flood::start(socket, BEST_EFFORT_TARGET, LOAD)?;
    let mut scene = Scene {
        carrying: Carrying {
            vtms: &mut vtms,
            shares: &mut shares,
            clock,
            adapted: Vec::new(),
        },
        monitors: Monitors::new(),
        watch: quality::watch(rules(adaptation, need)?),
        events: Vec::new(),
        departures,
        arrivals,
        clock,
        progress,
    };
    for number in 0..FIRST_STREAMS {
        parts.push(scene.begin(number, (need.size, hosts))?);
    }
    interrupt::sleep(timing.settling, || progress.tick())?;
    scene.monitors.look(&scene.departures, &scene.arrivals);
    scene.monitors.paces.iter_mut().for_each(Pace::moved);
    let first = (clock.now(), scene.carrying.shares.gold_bytes());
    scene.watch_until(first.0 + timing.before)?;
    parts.push(scene.begin(FIRST_STREAMS, (need.size, hosts))?);
    let second = (clock.now(), scene.carrying.shares.gold_bytes());
    scene.watch_until(second.0 + timing.after)?;
    let third = (clock.now(), scene.carrying.shares.gold_bytes());
    let costs = match adaptation {
        Adaptation::Both => costs(&mut scene.carrying, need, progress)?,
        _ => Costs::default(),
    };
    // What is still in queues arrives.
    interrupt::sleep(timing.settling, || progress.tick())?;
    let (sent, received) = (scene.departures.all(), scene.arrivals.all());
    let courses = sent.iter().zip(&received);
    let ran = Ran {
        adaptation,
        courses: courses
            .map(|(sent, received)| Course::new(sent, received))
            .collect(),
        before: first.0..second.0,
        after: second.0..third.0,
        wire: (rate(first, second), rate(second, third)),
        events: std::mem::take(&mut scene.events),
        adapted: std::mem::take(&mut scene.carrying.adapted),
        costs,
    };
    drop(scene);
    drop(flood);
    drop(vtms);
    drop(parts);
    Ok(ran)
}

/// Bits in a second between two readings.
fn rate(from: (Duration, Option<u64>), to: (Duration, Option<u64>)) -> Option<f64> {
    let bytes = to.1?.saturating_sub(from.1?);
    Some(bytes as f64 * 8.0 / to.0.saturating_sub(from.0).as_secs_f64())
}

/// Starts transcoding as jobs of best effort.
fn best_effort(hosts: &Hosts, vtms: &mut Vtms) -> Result<Vec<Part>, ExperimentError> {
    let file = super::film(hosts.stage);
    let words = ffmpeg::transcoding(&file);
    let start = |number| {
        let command = program(&hosts.network.source, &words);
        let name = format!("transcoding {number}");
        let part = Part::start(&name, &hosts.stage.folder, command)?;
        vtms.add(BEST_EFFORT, part.pid())?;
        Ok(part)
    };
    (1..=TRANSCODING).map(start).collect()
}

//! What a busy guest is supplied with: its share in windows of a second, and its blackouts.

use std::collections::HashMap;
use std::time::Duration;

use sched::kernel::Policy;

use super::Bench;
use super::guest::GuestPlan;
use super::load::{Load, USUAL};
use super::outcome::{Check, Row, Target};
use super::timeline::Timeline;
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// (Q, P) in milliseconds.
type Pair = (f64, f64);
const A: Pair = (10.0, 40.0);
const B: Pair = (2.5, 10.0);
const C: Pair = (1.0, 5.0);

/// The guest counts a shorter gap as time it ran, unless told otherwise.
pub const INTERRUPTION: Duration = Duration::from_micros(300);
const WINDOW: Duration = Duration::from_secs(1);

/// Runs that several rows look at.
#[derive(Default)]
pub struct SupplyRuns(HashMap<String, Timeline>);

/// How a run is made.
struct Setting {
    pair: Pair,
    enforcement: &'static str,
    seconds: u64,
}

impl Bench {
    /// A hog in a reservation beside the usual load.
    fn supply(&mut self, pair: Pair, enforcement: &'static str) -> Result<Timeline, Failure> {
        let key = format!("{pair:?} {enforcement}");
        if let Some(known) = self.supplies.0.get(&key) {
            return Ok(known.clone());
        }
        let full = if enforcement == "exact" { 60 } else { 10 };
        let seconds = self.pick(full, 5);
        let setting = Setting {
            pair,
            enforcement,
            seconds,
        };
        let timeline = self.watch(&setting, &USUAL)?;
        self.supplies.0.insert(key, timeline.clone());
        Ok(timeline)
    }

    fn watch(&self, setting: &Setting, load: &[Policy]) -> Result<Timeline, Failure> {
        // Started before the guest, which would wait for its start otherwise; its first moments are not looked at.
        let _load = Load::start(self.cpu, load)?;
        let guest = self.start(&hog("bench-supply", setting))?;
        let events = guest.finish(Duration::from_secs(setting.seconds + 1))?;
        Ok(Timeline::of(&events, 0))
    }
}

/// A busy guest that sees gaps from 50 us on and runs for a little longer than whole seconds.
fn hog(name: &'static str, setting: &Setting) -> GuestPlan {
    let line = format!("hog=0 gap=50us duration={}ms", setting.seconds * 1000 + 500);
    GuestPlan::reserved(name, line, setting.pair)
        .with(&format!("enforcement = \"{}\"", setting.enforcement))
}

fn share(bench: &mut Bench, pair: Pair, tolerance: f64) -> Result<Row, Failure> {
    let timeline = bench.supply(pair, "exact")?;
    let strict = Shares::of(&timeline)?;
    let exact = Shares::of(&timeline.without_interrupts(INTERRUPTION))?;
    let tick = Shares::of(&bench.supply(pair, "tick")?.without_interrupts(INTERRUPTION))?;
    let target = Target::Within {
        of: 25.0,
        tolerance,
    };
    let checks = vec![
        Check::new("mean", (exact.mean, "%"), target)
            .beside(format!("tick only {:.2} %", tick.mean)),
        Check::new("least window", (exact.least, "%"), target)
            .beside(format!("tick only {:.2} %", tick.least)),
        Check::new("greatest window", (exact.greatest, "%"), target)
            .beside(format!("tick only {:.2} %", tick.greatest)),
    ];
    Ok(Row::new(checks).note(format!(
        "{} windows of 1 s; {:.2} % on average without the host's interrupts of 50 to 300 us, which are charged to the reservation",
        exact.count, strict.mean
    )))
}

/// Shares of windows, in per cent.
pub struct Shares {
    /// Their mean.
    pub mean: f64,
    /// The least.
    pub least: f64,
    /// The greatest.
    pub greatest: f64,
    /// How many.
    pub count: usize,
}

impl Shares {
    /// The shares of all whole seconds.
    pub fn of(timeline: &Timeline) -> Result<Self, Failure> {
        let shares = timeline.shares(WINDOW);
        if shares.is_empty() {
            return Err(Failure::new("the guest was watched for less than a second"));
        }
        Ok(Self {
            mean: shares.iter().sum::<f64>() / shares.len() as f64,
            least: shares.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: shares.iter().copied().fold(0.0, f64::max),
            count: shares.len(),
        })
    }
}

fn blackout(bench: &mut Bench, pair: Pair) -> Result<Row, Failure> {
    let blackouts = distribution(&bench.supply(pair, "exact")?, pair);
    let beside = if pair == C {
        None
    } else {
        let tick = distribution(&bench.supply(pair, "tick")?, pair);
        Some((p999(&tick), longest(&tick)))
    };
    let gap = pair.1 - pair.0;
    let limit = |slack: f64| Target::AtMost(((gap + slack) * 10.0).round() / 10.0);
    let mut checks = vec![
        Check::new("p99.9", (p999(&blackouts), "ms"), limit(0.3)),
        Check::new("longest", (longest(&blackouts), "ms"), limit(1.0)),
    ];
    if let Some((p999, longest)) = beside {
        checks[0].beside = Some(format!("tick only {p999:.2} ms"));
        checks[1].beside = Some(format!("tick only {longest:.2} ms"));
    }
    let median = millis(blackouts.quantile(Quantile::MEDIAN));
    Ok(Row::new(checks).note(format!(
        "{} blackouts, median {median:.3} ms",
        blackouts.count()
    )))
}

/// Blackouts are gaps of at least half of P - Q; shorter ones are the host's noise, which the share counts too.
fn distribution(timeline: &Timeline, (q, p): Pair) -> Distribution {
    let least = Duration::from_secs_f64((p - q) / 2e3);
    timeline.blackouts(least).collect()
}

fn millis(time: Option<Duration>) -> f64 {
    time.unwrap_or_default().as_secs_f64() * 1e3
}

fn p999(times: &Distribution) -> f64 {
    millis(times.quantile(Quantile::P999))
}

fn longest(times: &Distribution) -> f64 {
    millis(times.max())
}

/// Neighbours that, with the guest's 11 of 40 ms, have 90 % of the CPU admitted. Busy guests as well.
const NEIGHBOURS: [(&str, Pair); 2] = [
    ("bench-neighbour-1", (5.0, 20.0)),
    ("bench-neighbour-2", (5.5, 20.0)),
];

/// Never above the longest blackout of the periodic resource model, 2 (P - Q) (Shin and Lee, RTSS 2003).
pub fn blackout_neighbours(bench: &mut Bench) -> Result<Row, Failure> {
    let setting = Setting {
        pair: A,
        enforcement: "exact",
        seconds: bench.pick(30, 5),
    };
    let beside = |(name, pair): (&'static str, Pair)| {
        let setting = Setting {
            pair,
            enforcement: "exact",
            seconds: setting.seconds + 5,
        };
        bench.start(&hog(name, &setting))
    };
    let neighbours = NEIGHBOURS
        .into_iter()
        .map(beside)
        .collect::<Result<Vec<_>, _>>()?;
    let timeline = bench.watch(&setting, &USUAL)?;
    drop(neighbours);
    let blackouts = distribution(&timeline, A);
    let bound = 2.0 * (A.1 - A.0) + 0.3;
    let check = Check::new(
        "longest",
        (longest(&blackouts), "ms"),
        Target::AtMost(bound),
    );
    let median = millis(blackouts.quantile(Quantile::MEDIAN));
    Ok(Row::new(vec![check]).note(format!(
        "{} gaps of half of P - Q and more, median {median:.2} ms; 90 % of the CPU admitted",
        blackouts.count()
    )))
}

/// The row `share-10-40`.
pub fn share_10_40(bench: &mut Bench) -> Result<Row, Failure> {
    share(bench, A, 0.2)
}

/// The row `share-2.5-10`.
pub fn share_2_10(bench: &mut Bench) -> Result<Row, Failure> {
    share(bench, B, 0.3)
}

/// The row `blackout-10-40`.
pub fn blackout_10_40(bench: &mut Bench) -> Result<Row, Failure> {
    blackout(bench, A)
}

/// The row `blackout-2.5-10`.
pub fn blackout_2_10(bench: &mut Bench) -> Result<Row, Failure> {
    blackout(bench, B)
}

/// The row `blackout-1-5`.
pub fn blackout_1_5(bench: &mut Bench) -> Result<Row, Failure> {
    blackout(bench, C)
}

//! Changes of shares: when they take effect, and what they cost.

use std::time::{Duration, Instant};

use net::share::Share;

use super::case::{Case, Direction, Lengths, Link, Load};
use super::effect::{Sample, delay};
use super::fabric::Fabric;
use super::load::Sending;
use super::measure::is_enough;
use crate::experiment::progress::Progress;
use crate::experiment::{ExperimentError, interrupt};
use crate::report::stats::Distribution;

/// How long classes are watched before and after a change.
const BEFORE: Duration = Duration::from_millis(60);
const AFTER: Duration = Duration::from_millis(160);
/// Between two looks.
const GLANCE: Duration = Duration::from_millis(1);
/// How finely the delay is sought.
const STEP: Duration = Duration::from_micros(100);

/// Tenths of the link for gold, in turns; best effort has the others. Both must go on to offer more than they have, or what
/// best effort leaves is gold's as soon as its queue is empty, and the rate after the change is not the promised one.
fn tenths(link: &Link) -> [u64; 2] {
    if *link == Link::LARGE { [6, 5] } else { [6, 2] }
}

/// What gold and best effort had passed when, since a change.
#[derive(Clone, Debug)]
pub struct Trace {
    /// Tenths of the link that gold had before and has now.
    pub tenths: (u64, u64),
    /// Gold's samples and those of best effort.
    pub samples: [Vec<Sample>; 2],
    /// When it took effect.
    pub delay: Option<Duration>,
}

/// Changes under load.
#[derive(Clone, Debug)]
pub struct Changes {
    /// The link.
    pub link: Link,
    /// One after the other.
    pub traces: Vec<Trace>,
    /// How long each call took, under load.
    pub calls: Distribution,
    /// Whether both offered more than they had at any time: otherwise the rates say nothing about shares.
    pub is_loaded: bool,
}

impl Changes {
    /// The delays.
    pub fn delays(&self) -> Distribution {
        self.traces.iter().filter_map(|trace| trace.delay).collect()
    }

    /// What a delay is known to at best: the time of a call's datagrams at the rate by which gold's changes.
    pub fn resolution(&self) -> Duration {
        let [one, other] = tenths(&self.link);
        Case::grain(&self.link, one.abs_diff(other)) + GLANCE
    }
}

/// Changes shares while both flood.
pub fn under_load(
    link: Link,
    fabric: &mut Fabric,
    (lengths, progress): (&Lengths, &Progress),
) -> Result<Changes, ExperimentError> {
    let case = Case {
        link,
        load: Load::Udp,
        direction: Direction::Out,
    };
    let sending = Sending::start(&case, fabric)?;
    interrupt::sleep(lengths.settle, || progress.tick())?;
    let (mut traces, mut calls) = (Vec::new(), Vec::new());
    let tenths = tenths(&link);
    for number in 0..lengths.changes {
        interrupt::check()?;
        progress.tick();
        let from = tenths[number % tenths.len()];
        let to = tenths[(number + 1) % tenths.len()];
        let (trace, call) = one(fabric, &link, (from, to))?;
        traces.push(trace);
        calls.push(call);
    }
    let offered = sending.offered();
    drop(sending);
    change(fabric, &link, tenths[0])?;
    Ok(Changes {
        link,
        traces,
        calls: Distribution::new(calls),
        is_loaded: is_enough(&offered, &greatest(&link)),
    })
}

/// The most that each of the two has, bits per second.
fn greatest(link: &Link) -> [f64; 2] {
    let both = tenths(link).map(|tenths| split(link, tenths));
    [0, 1].map(|index: usize| {
        let rates = both
            .iter()
            .map(|shares| shares[index].assured.bits_per_second() as f64);
        rates.fold(0.0, f64::max)
    })
}

fn one(
    fabric: &mut Fabric,
    link: &Link,
    (from, to): (u64, u64),
) -> Result<(Trace, Duration), ExperimentError> {
    let mut readings = Vec::new();
    watch(fabric, BEFORE, &mut readings)?;
    let asked = Instant::now();
    change(fabric, link, to)?;
    let call = asked.elapsed();
    watch(fabric, AFTER, &mut readings)?;
    let at = |instant: Instant| match instant.checked_duration_since(asked) {
        Some(after) => after.as_secs_f64(),
        None => -(asked - instant).as_secs_f64(),
    };
    let samples = [0, 1].map(|index: usize| {
        let sample = |(instant, bits): &(Instant, [f64; 2])| Sample {
            at: at(*instant),
            bits: bits[index],
        };
        readings.iter().map(sample).collect::<Vec<_>>()
    });
    let rate = |tenths| link.part(tenths).bits_per_second() as f64;
    let trace = Trace {
        tenths: (from, to),
        delay: delay(&samples[0], (rate(from), rate(to)), STEP),
        samples,
    };
    Ok((trace, call))
}

/// Looks at what was passed until `length` is over.
fn watch(
    fabric: &mut Fabric,
    length: Duration,
    readings: &mut Vec<(Instant, [f64; 2])>,
) -> Result<(), ExperimentError> {
    let begin = Instant::now();
    while begin.elapsed() < length {
        let (at, counters) = fabric.counters()?;
        let bits = counters.map(|counters| counters.out.bytes as f64 * 8.0);
        readings.push((at, bits));
        std::thread::sleep(GLANCE);
    }
    Ok(())
}

/// Gives gold so many tenths, and best effort the others.
fn change(fabric: &mut Fabric, link: &Link, tenths: u64) -> Result<(), ExperimentError> {
    let shares = split(link, tenths);
    let (ports, [gold, other]) = fabric.ports();
    Ok(ports.change(&[(&gold, shares[0]), (&other, shares[1])])?)
}

fn split(link: &Link, tenths: u64) -> [Share; 2] {
    let [gold, other] = link.shares();
    let with = |share: Share, tenths| Share {
        assured: link.part(tenths),
        ..share
    };
    [with(gold, tenths), with(other, 10 - tenths)]
}

/// How long a change of both takes, in both directions, without load, for a caller who knows what they were: `count` of
/// them.
pub fn calls(
    link: &Link,
    fabric: &mut Fabric,
    count: usize,
) -> Result<Distribution, ExperimentError> {
    let tenths = tenths(link);
    let shares = tenths.map(|tenths| split(link, tenths));
    let (ports, [gold, other]) = fabric.ports();
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let from = shares[number % shares.len()];
        let to = shares[(number + 1) % shares.len()];
        let changes = [
            (gold.as_str(), from[0], to[0]),
            (other.as_str(), from[1], to[1]),
        ];
        let begin = Instant::now();
        ports.replace(&changes)?;
        times.push(begin.elapsed());
    }
    change(fabric, link, tenths[0])?;
    Ok(Distribution::new(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_the_change_both_offer_more_than_they_have() {
        for link in [Link::SMALL, Link::GIGABIT, Link::LARGE] {
            let case = Case {
                link,
                load: Load::Udp,
                direction: Direction::Out,
            };
            let offered = case.offered().map(|rate| rate.bits_per_second() as f64);
            assert!(is_enough(&offered, &greatest(&link)), "{link:?}");
            let [one, other] = tenths(&link);
            let grain = Case::grain(&link, one.abs_diff(other));
            assert!(grain < Duration::from_millis(3), "{link:?}: {grain:?}");
        }
    }
}

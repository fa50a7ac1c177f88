//! What scheduling costs on this host, as the analysis charges it: measured with guests beside the usual load.

use std::time::Duration;

use vmm::telemetry::{Event, Gap, Job};

use super::Bench;
use super::guest::GuestPlan;
use super::load::{Load, USUAL};
use super::timeline::Timeline;
use crate::failure::Failure;
use crate::host_figures::Cost;
use crate::report::stats::Distribution;

/// How long each guest is watched.
pub const LENGTH: Duration = Duration::from_secs(5);

/// What a release costs: its latency, and what it takes from a busy task beside the job itself.
pub struct ReleaseCosts {
    /// From the release to the first instruction of the guest's handler.
    pub latency: Cost,
    /// How much longer than the job the busy task did not run.
    pub exit: Cost,
}

/// (Q, P) in milliseconds of the guest whose releases are looked at. Those around a blackout are not.
const RELEASES: (f64, f64) = (80.0, 100.0);
/// A gap from here on is a blackout.
const BLACKOUT: Duration = Duration::from_millis(10);

impl Bench {
    /// A short task above a busy one. Its period is no divisor of the server's: releases fall everywhere in it.
    pub fn release_costs(&self) -> Result<ReleaseCosts, Failure> {
        let line = format!("task=short,c=100us,t=7ms hog=0 gap=50us {}", duration());
        let events = self.watched(&GuestPlan::reserved("measure-releases", line, RELEASES))?;
        let (latencies, exits) = of_releases(&events);
        let cost = |times| cost(times, "no release of the guest could be observed");
        Ok(ReleaseCosts {
            latency: cost(latencies)?,
            exit: cost(exits)?,
        })
    }

    /// What of each budget a busy guest does not get.
    pub fn switch_costs(&self) -> Result<Cost, Failure> {
        let (q, p) = (2.5, 10.0);
        let line = format!("hog=0 gap=50us {}", duration());
        let events = self.watched(&GuestPlan::reserved("measure-switches", line, (q, p)))?;
        let budget = Duration::from_secs_f64(q / 1e3);
        let least = Duration::from_secs_f64((p - q) / 2e3);
        let stretches = Timeline::of(&events, 0).stretches(least);
        let lost = |(begin, end)| budget.saturating_sub(Duration::from_nanos(end - begin));
        let lost = stretches.into_iter().map(lost).collect();
        cost(lost, "no budget of the guest could be observed")
    }

    fn watched(&self, plan: &GuestPlan) -> Result<Vec<Event>, Failure> {
        let _load = Load::start(self.cpu, &USUAL)?;
        self.start(plan)?.finish(LENGTH)
    }
}

fn duration() -> String {
    format!("duration={}ms", LENGTH.as_millis())
}

fn cost(times: Vec<Duration>, none: &str) -> Result<Cost, Failure> {
    Cost::of(&Distribution::new(times)).ok_or_else(|| Failure::new(none))
}

/// Latencies of the releases that found the busy task running, and what they took from it beside the job.
fn of_releases(events: &[Event]) -> (Vec<Duration>, Vec<Duration>) {
    let gap = |event: &Event| match event {
        Event::Gap(gap) => Some(*gap),
        _ => None,
    };
    let mut gaps: Vec<Gap> = events.iter().filter_map(gap).collect();
    gaps.sort_unstable_by_key(|gap| gap.start);
    let (mut latencies, mut exits) = (Vec::new(), Vec::new());
    for event in events {
        let Event::Job(job) = event else { continue };
        let Some(gap) = around(job, &gaps) else {
            continue;
        };
        let time = Duration::from_nanos;
        let length = time(gap.end - gap.start);
        if job.woken == 0 || length >= BLACKOUT {
            continue;
        }
        latencies.push(time(job.woken.saturating_sub(job.release)));
        exits.push(length.saturating_sub(time(job.executed)));
    }
    (latencies, exits)
}

/// The gap in the busy task in which the job ran, if its release did not fall into the gap before.
fn around<'a>(job: &Job, gaps: &'a [Gap]) -> Option<&'a Gap> {
    let place = gaps.partition_point(|gap| gap.start <= job.start);
    let gap = gaps[..place].last()?;
    let earlier = gaps[..place - 1].last();
    let undisturbed = earlier.is_none_or(|earlier| earlier.end <= job.release);
    (gap.end >= job.finish && undisturbed).then_some(gap)
}

#[cfg(test)]
mod tests {
    use super::*;

    const US: u64 = 1_000;

    fn job(release: u64, start: u64) -> Event {
        Event::Job(Job {
            vcpu: 0,
            task: 0,
            job: 0,
            release: release * US,
            woken: (release + 40) * US,
            start: start * US,
            finish: (start + 100) * US,
            deadline: 0,
            executed: 100 * US,
        })
    }

    fn gap(start: u64, end: u64) -> Event {
        Event::Gap(Gap {
            vcpu: 0,
            task: 1,
            start: start * US,
            end: end * US,
        })
    }

    #[test]
    fn a_release_costs_what_it_takes_from_the_busy_task_beside_the_job() {
        let us = Duration::from_micros;
        let events = [gap(5_010, 5_190), job(5_000, 5_060)];
        assert_eq!(of_releases(&events), (vec![us(40)], vec![us(80)]));
    }

    #[test]
    fn releases_in_blackouts_are_left_out() {
        for events in [
            vec![gap(4_000, 24_500), job(5_000, 24_200)],
            vec![gap(4_000, 24_000), gap(24_010, 24_200), job(5_000, 24_050)],
            vec![job(5_000, 5_060)],
        ] {
            assert_eq!(of_releases(&events), (vec![], vec![]), "{events:?}");
        }
    }
}

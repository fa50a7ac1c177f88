//! From a run's records to its figures: pure.

use std::time::Duration;

use rt_abi::taskset::TaskSet;
use vmm::telemetry::{Event, Section};

use super::case::VCPUS;
use crate::experiment::trace::{Stretch, Trace};
use crate::report::stats::{Distribution, Quantile};

/// What two vCPUs did.
#[derive(Clone, Debug)]
pub struct Measured {
    /// How long each section was waited for.
    pub waits: Distribution,
    /// How long was spun for each.
    pub spins: Distribution,
    /// Sections that began while another had not ended, and sections that the lock's counter does not count.
    pub violations: usize,
    /// What is spun away of all that the vCPUs ran.
    pub spun_share: f64,
    /// How much later than vCPU 0 vCPU 1 begins to run: the middle one of all times, and how many of 100 are within half a
    /// millisecond of it. `None` where vCPUs sleep.
    pub phase: Option<(Duration, f64)>,
    /// How far apart the supplies of the vCPUs come within a period: the middle one of all periods.
    pub supply_apart: Option<Duration>,
    /// How far apart supply less spinning has come at the end, per second.
    pub progress_apart: f64,
}

/// Times in nanoseconds that belong to one another: of vCPU 0 and of vCPU 1.
type Both<T> = [T; VCPUS as usize];

/// The figures of a run of `set` whose servers have this period.
pub fn measured(set: &TaskSet, events: &[Event], period: Duration) -> Measured {
    let sections: Vec<Section> = events.iter().filter_map(section).collect();
    let spun = |vcpu: u16| -> u64 {
        let own = sections.iter().filter(|section| section.vcpu == vcpu);
        own.map(|section| section.spun).sum()
    };
    let dark = [0, 1].map(|vcpu| blackouts(set, events, vcpu));
    let is_busy = set.tasks().iter().any(|task| task.period == 0);
    let length = set.duration;
    let ran = dark.each_ref().map(|dark| {
        let away: u64 = dark.iter().map(|(start, end)| end - start).sum();
        length.saturating_sub(away)
    });
    let nanos = |of: fn(&Section) -> u64| -> Distribution {
        sections
            .iter()
            .map(|s| Duration::from_nanos(of(s)))
            .collect()
    };
    let all_ran = ran.iter().sum::<u64>().max(1);
    let useful = [0, 1].map(|vcpu: u16| {
        let ran = ran.get(usize::from(vcpu)).copied().unwrap_or(0);
        ran as f64 - spun(vcpu) as f64
    });
    Measured {
        waits: nanos(Section::waited),
        spins: nanos(|section| section.spun),
        violations: violations(&sections),
        spun_share: (spun(0) + spun(1)) as f64 / all_ran as f64,
        phase: is_busy.then(|| phase(&dark, period)).flatten(),
        supply_apart: is_busy.then(|| supply_apart(&dark, period)).flatten(),
        progress_apart: (useful[0] - useful[1]).abs() / length.max(1) as f64,
    }
}

fn section(event: &Event) -> Option<Section> {
    match event {
        Event::Section(section) => Some(*section),
        _ => None,
    }
}

/// When a vCPU that wanted to run did not.
pub fn blackouts(set: &TaskSet, events: &[Event], vcpu: u16) -> Vec<Stretch> {
    let own = |event: &&Event| match event {
        Event::Job(job) => job.vcpu == vcpu,
        Event::Gap(gap) => gap.vcpu == vcpu,
        _ => false,
    };
    let own: Vec<Event> = events.iter().filter(own).copied().collect();
    Trace::new(set, &own).blackouts()
}

/// How often mutual exclusion failed, in time or in the counter.
fn violations(sections: &[Section]) -> usize {
    let mut sorted: Vec<_> = sections.to_vec();
    sorted.sort_unstable_by_key(|section| (section.got, section.before));
    let pairs = sorted.windows(2);
    pairs
        .filter(|pair| pair[1].got < pair[0].back || pair[1].before != pair[0].before + 1)
        .count()
}

/// How much later than that of vCPU 0 a budget of vCPU 1 begins, on a circle of one period (earlier, if by no more than a
/// quarter of it), and the share of periods in which it is about that.
fn phase(dark: &Both<Vec<Stretch>>, period: Duration) -> Option<(Duration, f64)> {
    let period = period.as_nanos() as f64;
    let begins = dark
        .each_ref()
        .map(|dark| dark.iter().map(|stretch| stretch.1 as f64));
    let [first, second] = begins.map(Iterator::collect::<Vec<f64>>);
    let later = |begin: &f64| {
        let at = second.partition_point(|other| other < begin);
        let before = at.checked_sub(1).and_then(|at| second.get(at));
        let near = [before, second.get(at)].into_iter().flatten();
        near.map(|other| other - begin)
            .min_by(|a, b| a.abs().total_cmp(&b.abs()))
    };
    let mut phases: Vec<f64> = first.iter().filter_map(later).collect();
    // Just before the end of the circle is just before its beginning, when most are at it.
    let around: f64 = phases
        .iter()
        .filter(|phase| phase.abs() > period / 4.0)
        .count() as f64;
    if around > phases.len() as f64 / 2.0 {
        phases
            .iter_mut()
            .for_each(|phase| *phase = phase.rem_euclid(period));
    }
    phases.sort_unstable_by(f64::total_cmp);
    let middle = *phases.get(phases.len() / 2)?;
    let near = phases
        .iter()
        .filter(|phase| (**phase - middle).abs() < 5e5)
        .count();
    let shown = Duration::from_secs_f64(middle.abs() / 1e9);
    Some((shown, near as f64 / phases.len() as f64))
}

/// How far the supplies of two vCPUs move apart within a period.
fn supply_apart(dark: &Both<Vec<Stretch>>, period: Duration) -> Option<Duration> {
    // Where one is away and the other is not, the distance grows or shrinks by as much as time passes.
    let mut turns: Vec<(u64, i8)> = Vec::new();
    for (sign, dark) in [(-1, &dark[0]), (1, &dark[1])] {
        turns.extend(
            dark.iter()
                .flat_map(|(start, end)| [(*start, sign), (*end, -sign)]),
        );
    }
    turns.sort_unstable();
    let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX).max(1);
    let (mut rate, mut distance, mut last) = (0_i8, 0.0_f64, turns.first()?.0);
    let (mut least, mut most) = (0.0_f64, 0.0_f64);
    let (mut window, mut ranges) = (last / period, Vec::new());
    for (time, turn) in turns {
        distance += f64::from(rate) * (time - last) as f64;
        (rate, last) = (rate + turn, time);
        if time / period != window {
            ranges.push(Duration::from_secs_f64((most - least) / 1e9));
            (window, least, most) = (time / period, distance, distance);
        }
        (least, most) = (least.min(distance), most.max(distance));
    }
    Distribution::new(ranges).quantile(Quantile::MEDIAN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    const PERIOD: Duration = Duration::from_millis(20);

    /// Blackouts of servers of (q ms, 20 ms) that begin `later` ms after one another.
    fn dark(q: u64, later: u64) -> Both<Vec<Stretch>> {
        [0, later].map(|later| {
            let begin = |period: u64| (1_000 + 20 * period + later) * MS;
            (0..50).map(|n| (begin(n) + q * MS, begin(n + 1))).collect()
        })
    }

    fn section(before: u64, got: u64, back: u64) -> Section {
        Section {
            vcpu: 0,
            task: 0,
            before,
            asked: 0,
            got,
            back,
            spun: 0,
        }
    }

    #[test]
    fn sections_at_the_same_time_and_lost_counts_are_violations() {
        let good = [section(0, 1, 5), section(1, 5, 9), section(2, 20, 30)];
        assert_eq!(violations(&good), 0);
        assert_eq!(violations(&[section(0, 1, 5), section(1, 4, 9)]), 1);
        assert_eq!(violations(&[section(0, 1, 5), section(0, 6, 9)]), 1);
        assert_eq!(violations(&[section(0, 1, 5), section(2, 6, 9)]), 1);
    }

    proptest! {
        #[test]
        fn the_phase_is_how_much_later_budgets_begin(q in 1u64..20, later in 0u64..20) {
            let (found, share) = phase(&dark(q, later), PERIOD).unwrap();
            // A little earlier is told as what it is, not as nearly a period later.
            let expected = if later < 15 { later } else { 20 - later };
            prop_assert_eq!(found, Duration::from_millis(expected));
            prop_assert!(share > 0.9);
        }

        /// As far as one runs and the other does not: the phase, but no more than a budget or a blackout.
        #[test]
        fn supplies_come_apart_by_the_phase_the_budget_or_the_blackout(q in 1u64..20, later in 0u64..20) {
            let apart = supply_apart(&dark(q, later), PERIOD).unwrap();
            let expected = later.min(20 - later).min(q).min(20 - q);
            prop_assert_eq!(apart, Duration::from_millis(expected), "{} {}", q, later);
        }
    }
}

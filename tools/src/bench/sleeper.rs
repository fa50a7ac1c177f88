//! A guest that sleeps past its deadlines and then needs more than one budget at once.

use std::time::Duration;

use vmm::telemetry::{Event, Gap, Job};

use super::Bench;
use super::guest::GuestPlan;
use super::outcome::{Check, Row, Target};
use crate::failure::Failure;

/// A short use of random length leaves the budget in an awkward state; the burst comes after a sleep of more than a
/// period, so that it is due a whole budget at once. 137 ms is no multiple of 40 ms: every phase occurs.
const TASKS: &str = "task=short,c=3ms..8ms,t=137ms task=burst,c=15ms,t=137ms,o=60ms,gaps=1";
const BURST: u16 = 1;
/// A blackout and not noise.
const LEAST_GAP: u64 = 5_000_000;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let seconds: u64 = bench.pick(60, 5);
    let line = format!("{TASKS} duration={seconds}s");
    let plan = GuestPlan::reserved("bench-sleeper", line, (10.0, 40.0));
    let events = bench.start(&plan)?.finish(Duration::from_secs(seconds))?;
    let (jobs, gaps) = bursts(&events);
    let first = jobs
        .iter()
        .filter_map(|job| first_supply(job, &gaps))
        .min()
        .ok_or_else(|| Failure::new("no burst of the guest was ever interrupted"))?;
    let longest = gaps.iter().map(|gap| gap.end - gap.start).max();
    let millis = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    let checks = vec![
        Check::new(
            "least first supply",
            (millis(first), "ms"),
            Target::AtLeast(9.9),
        ),
        Check::new(
            "longest gap",
            (millis(longest.unwrap_or(0)), "ms"),
            Target::AtMost(30.5),
        ),
    ];
    Ok(Row::new(checks).note(format!("{} bursts of 15 ms", jobs.len())))
}

fn bursts(events: &[Event]) -> (Vec<Job>, Vec<Gap>) {
    let (mut jobs, mut gaps) = (Vec::new(), Vec::new());
    for event in events {
        match event {
            Event::Job(job) if job.task == BURST => jobs.push(*job),
            Event::Gap(gap) if gap.task == BURST => gaps.push(*gap),
            _ => {}
        }
    }
    (jobs, gaps)
}

/// How long a burst ran before its first blackout.
fn first_supply(job: &Job, gaps: &[Gap]) -> Option<u64> {
    let inside = |gap: &&Gap| gap.start >= job.start && gap.end <= job.finish;
    let long = |gap: &&Gap| gap.end - gap.start >= LEAST_GAP;
    let first = gaps.iter().filter(inside).find(long)?;
    Some(first.start - job.start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_supply_ends_with_the_first_blackout() {
        let job = Job {
            vcpu: 0,
            task: BURST,
            job: 0,
            release: 90,
            woken: 95,
            start: 100,
            finish: 60_000_100,
            deadline: 0,
            executed: 0,
        };
        let gap = |start, end| Gap {
            vcpu: 0,
            task: BURST,
            start,
            end,
        };
        let gaps = [
            gap(10, 20_000_000),
            gap(1_000_000, 1_100_000),
            gap(9_900_100, 39_000_000),
        ];
        assert_eq!(first_supply(&job, &gaps), Some(9_900_000));
        assert_eq!(first_supply(&job, &gaps[..2]), None);
    }
}

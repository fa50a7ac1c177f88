//! How late a periodic task of the guest is woken.

use std::time::Duration;

use vmm::telemetry::Event;

use super::Bench;
use super::guest::GuestPlan;
use super::load::{Load, USUAL};
use super::outcome::{Check, Row, Target};
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

const PERIOD_MS: u64 = 10;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let jobs: u64 = bench.pick(1000, 200);
    let millis = (jobs + 5) * PERIOD_MS;
    let line = format!("task=wake,c=100us,t={PERIOD_MS}ms duration={millis}ms");
    let plan = GuestPlan::reserved("bench-wake", line, (2.5, 10.0));
    let _load = Load::start(bench.cpu, &USUAL)?;
    let events = bench.start(&plan)?.finish(Duration::from_millis(millis))?;
    let late = |event: &Event| match event {
        Event::Job(job) if job.woken > 0 => {
            Some(Duration::from_nanos(job.woken.saturating_sub(job.release)))
        }
        _ => None,
    };
    let late: Distribution = events.iter().filter_map(late).collect();
    let micros = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e6;
    let checks = vec![
        Check::new(
            "p99",
            (micros(late.quantile(Quantile::P99)), "us"),
            Target::AtMost(70.0),
        ),
        Check::new("longest", (micros(late.max()), "us"), Target::AtMost(150.0)),
    ];
    Ok(Row::new(checks).note(format!(
        "{} wake-ups, median {:.1} us",
        late.count(),
        micros(late.quantile(Quantile::MEDIAN))
    )))
}

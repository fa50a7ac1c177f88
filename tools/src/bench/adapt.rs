//! Changing the reservation of a running guest: how long it takes, and when it is in effect.

use std::time::{Duration, Instant};

use sched::reservation::Reservation;
use tokio::runtime::Runtime;
use vmm::control::{Reply, Request, Transfer, client, socket_path};

use super::guest::GuestPlan;
use super::outcome::{Check, Row, Target};
use super::timeline::Timeline;
use super::{Bench, wait};
use crate::experiment::interrupt;
use crate::failure::Failure;

pub(super) const FIRST: &str = "bench-adapt";
const SECOND: &str = "bench-giver";
/// The guests end by themselves should nobody stop them.
pub(super) const LINE: &str = "hog=0 gap=300us duration=120s";
const PERIOD: Duration = Duration::from_millis(40);
/// The two budgets that take turns.
pub(super) const SMALL: Duration = Duration::from_millis(10);
const LARGE: Duration = Duration::from_millis(15);
/// No multiple of the period, so that changes come at every phase of it.
const BETWEEN: Duration = Duration::from_millis(133);

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let control = Control::new(bench)?;
    let plan = |name| GuestPlan::reserved(name, LINE, (10.0, 40.0));
    let (first, second) = (bench.start(&plan(FIRST))?, bench.start(&plan(SECOND))?);
    let count = bench.pick(100, 20);
    let mut times = Times::default();
    for round in 0..count {
        interrupt::check()?;
        times.add_single(control.adapt(SMALL + Duration::from_micros(10 * (round % 7)))?);
        std::thread::sleep(Duration::from_millis(3));
    }
    control.adapt(SMALL)?;
    for round in 0..count {
        interrupt::check()?;
        times.pair.push(control.transfer(round % 2 == 0)?);
        std::thread::sleep(Duration::from_millis(3));
    }
    second.stop()?;
    control.adapt(SMALL)?;
    let started = control.started()?;
    let mut changes = Vec::new();
    for round in 0..bench.pick(60, 10) {
        wait::sleep(BETWEEN)?;
        let runtime = if round % 2 == 0 { LARGE } else { SMALL };
        control.adapt(runtime)?;
        changes.push((nanos(started.elapsed()), runtime));
    }
    wait::sleep(BETWEEN)?;
    let timeline = Timeline::of(&first.stop()?, 0);
    times.row(&delays(&timeline, &changes))
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long changes took.
#[derive(Default)]
struct Times {
    inside: Vec<Duration>,
    socket: Vec<Duration>,
    pair: Vec<Duration>,
}

impl Times {
    fn add_single(&mut self, (inside, socket): (Duration, Duration)) {
        self.inside.push(inside);
        self.socket.push(socket);
    }

    fn row(self, delays: &[Option<u64>]) -> Result<Row, Failure> {
        let seen: Vec<u64> = delays.iter().flatten().copied().collect();
        let longest = seen
            .iter()
            .max()
            .ok_or_else(|| Failure::new("no change of the reservation was seen in the guest"))?;
        let effect = Duration::from_nanos(*longest).as_secs_f64() * 1e3;
        let in_effect = Check::new(
            "longest until in effect",
            (effect, "ms"),
            Target::AtMost(PERIOD.as_secs_f64() * 1e3),
        );
        let unseen = delays.len() - seen.len();
        let all_seen = Check::new("changes not seen", (unseen as f64, ""), Target::AtMost(0.0));
        Ok(Row::new(vec![
            Check::median_micros("in the monitor, median", self.inside, 50.0),
            Check::median_micros("through the socket, median", self.socket, 200.0),
            Check::median_micros("pair, median", self.pair, 400.0),
            in_effect,
            all_seen.beside(format!("of {}", delays.len())),
        ]))
    }
}

/// For every change: how long until a budget of the new length began (or was running already); none if there was none
/// before the next change.
fn delays(timeline: &Timeline, changes: &[(u64, Duration)]) -> Vec<Option<u64>> {
    // Half of the difference between the two budgets.
    let close = nanos(LARGE - SMALL) / 2;
    let stretches = timeline.stretches(Duration::from_millis(5));
    let next = changes.iter().skip(1).map(|change| change.0);
    let ends = next.chain(std::iter::once(u64::MAX));
    changes
        .iter()
        .zip(ends)
        .map(|(&(at, runtime), end)| {
            let new = |(from, to): &&(u64, u64)| (to - from).abs_diff(nanos(runtime)) < close;
            let found = stretches
                .iter()
                .filter(|(from, to)| *to > at && *from < end)
                .find(new)?;
            Some(found.0.saturating_sub(at))
        })
        .collect()
}

/// Talks to the guests, as the command line does.
pub(super) struct Control<'a> {
    bench: &'a Bench,
    runtime: Runtime,
}

impl<'a> Control<'a> {
    pub(super) fn new(bench: &'a Bench) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        Ok(Self { bench, runtime })
    }

    fn ask(&self, name: &str, request: Request) -> Result<Reply, Failure> {
        let call = client::call(&self.bench.run_dir, name, request);
        Ok(self.runtime.block_on(call)?)
    }

    /// Changes the first guest's runtime: how long that took in the monitor, and as seen from here.
    pub(super) fn adapt(&self, runtime: Duration) -> Result<(Duration, Duration), Failure> {
        let reservation = Reservation::new(runtime, PERIOD)?;
        let begin = Instant::now();
        let reply = self.ask(
            FIRST,
            Request::Adapt {
                vcpu: 0,
                reservation,
            },
        )?;
        let socket = begin.elapsed();
        match reply {
            Reply::Adapted { elapsed, .. } => Ok((elapsed, socket)),
            _ => Err(Failure::new("the guest answered another question")),
        }
    }

    /// Moves a millisecond of every period to the first guest, or back to the second.
    fn transfer(&self, forward: bool) -> Result<Duration, Failure> {
        let (more, less) = (
            Reservation::new(SMALL + Duration::from_millis(1), PERIOD)?,
            Reservation::new(SMALL - Duration::from_millis(1), PERIOD)?,
        );
        let even = Reservation::new(SMALL, PERIOD)?;
        let (to, from) = if forward {
            (FIRST, SECOND)
        } else {
            (SECOND, FIRST)
        };
        let (before, reservation, from_before, from_reservation) = if forward {
            (even, more, even, less)
        } else {
            (less, even, more, even)
        };
        let transfer = Transfer {
            vcpu: 0,
            before,
            reservation,
            from: from.to_owned(),
            from_socket: socket_path(&self.bench.run_dir, from),
            from_vcpu: 0,
            from_before,
            from_reservation,
        };
        let begin = Instant::now();
        self.ask(to, Request::Transfer(transfer))?;
        Ok(begin.elapsed())
    }

    /// When the first guest's own time began, as far as its uptime tells.
    fn started(&self) -> Result<Instant, Failure> {
        // The uptime is taken before the guest waits for its vCPUs' accounts, which may be throttled.
        let asked = Instant::now();
        let Reply::Status(status) = self.ask(FIRST, Request::Status {})? else {
            return Err(Failure::new("the guest answered another question"));
        };
        let uptime = Duration::from_secs_f64(status.uptime);
        asked
            .checked_sub(uptime)
            .ok_or_else(|| Failure::new("the guest claims to run for longer than this host"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_change_is_in_effect_with_the_first_budget_of_the_new_length() {
        let timeline = Timeline {
            from: 0,
            to: 200 * MS,
            gaps: vec![
                (10 * MS, 40 * MS),
                (50 * MS, 80 * MS),
                (95 * MS, 120 * MS),
                (135 * MS, 160 * MS),
            ],
        };
        let changed = |at: u64| delays(&timeline, &[(at * MS, LARGE)]);
        assert_eq!(changed(55), [Some(25 * MS)]);
        assert_eq!(changed(85), [Some(0)], "the running budget was extended");
        assert_eq!(changed(150), [None]);
    }
}

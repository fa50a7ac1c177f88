//! Changing the reservation of a running guest while more and more others run: the cost must not grow with them.

use std::time::Duration;

use super::Bench;
use super::adapt::{Control, FIRST, LINE, SMALL};
use super::guest::{Guest, GuestPlan};
use super::outcome::{Check, Row, Target};
use crate::experiment::interrupt;
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// How many guests run, the one that is changed among them.
const GUESTS: [usize; 4] = [1, 2, 20, 200];
/// A small guest: it wakes once a second, and ends by itself should nobody stop it.
const SMALL_LINE: &str = "task=t,c=20us,t=1s duration=300s";
/// Its reservation, in milliseconds.
const SMALL_RESERVATION: (f64, f64) = (0.2, 1000.0);
/// How many of them are started at once.
const TOGETHER: usize = 20;
/// How much more a change may take among the most guests than alone.
const GROWTH: f64 = 1.5;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let control = Control::new(bench)?;
    let _changed = bench.start(&GuestPlan::reserved(FIRST, LINE, (10.0, 40.0)))?;
    let mut others: Vec<Guest> = Vec::new();
    let mut times = Vec::new();
    for guests in GUESTS {
        while others.len() + 1 < guests {
            interrupt::check()?;
            let missing = guests - 1 - others.len();
            others.extend(start(bench, others.len(), missing.min(TOGETHER))?);
        }
        times.push(changes(bench, &control)?);
    }
    let mut checks: Vec<_> = GUESTS
        .iter()
        .zip(&times)
        .map(|(n, t)| t.check(*n))
        .collect();
    let alone = times.first().map_or(0.0, |times| times.socket);
    let most = times.last().map_or(0.0, |times| times.socket);
    let growth = Check::new("200 against 1", (most / alone, "x"), Target::AtMost(GROWTH));
    checks.push(growth);
    Ok(Row::new(checks))
}

/// Medians in microseconds.
struct Times {
    inside: f64,
    socket: f64,
}

impl Times {
    fn check(&self, guests: usize) -> Check {
        let label = match guests {
            1 => "alone, through the socket, median".to_owned(),
            _ => format!("{guests} guests, median"),
        };
        Check::new(label, (self.socket, "us"), Target::None)
            .beside(format!("in the monitor {:.0} us", self.inside))
    }
}

/// Starts so many small guests at once: each waits for most of its budgets' periods before its first line.
fn start(bench: &Bench, first: usize, count: usize) -> Result<Vec<Guest>, Failure> {
    let one = |number: usize| {
        let name = format!("bench-small-{number}");
        bench.start(&GuestPlan::reserved(name, SMALL_LINE, SMALL_RESERVATION))
    };
    std::thread::scope(|scope| {
        let starting: Vec<_> = (first..first + count)
            .map(|number| scope.spawn(move || one(number)))
            .collect();
        let panicked = |_| Err(Failure::new("a thread that starts a guest panicked"));
        starting
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .collect()
    })
}

fn changes(bench: &Bench, control: &Control<'_>) -> Result<Times, Failure> {
    let (mut inside, mut socket) = (Vec::new(), Vec::new());
    for round in 0..bench.pick(200, 40) {
        interrupt::check()?;
        let runtime = SMALL + Duration::from_micros(10 * (round % 7));
        let (in_monitor, through_socket) = control.adapt(runtime)?;
        inside.push(in_monitor);
        socket.push(through_socket);
        std::thread::sleep(Duration::from_millis(3));
    }
    let median = |times| {
        let times = Distribution::new(times);
        let median = times.quantile(Quantile::MEDIAN).unwrap_or_default();
        median.as_secs_f64() * 1e6
    };
    Ok(Times {
        inside: median(inside),
        socket: median(socket),
    })
}

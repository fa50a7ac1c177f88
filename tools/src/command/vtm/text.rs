//! Answers for people.

use std::fmt::Write;
use std::time::Duration;

use chronovisor::vtm::{Drawing, Promised, Reply, ShareOfNetwork};
use sched::vtm::{JobState, Placement, Policy, Status, VtmStatus};
use vmm::units::Span;

/// Most rows and columns of a table that are drawn.
const MOST: usize = 100;

/// An answer.
pub fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Done => String::new(),
        Reply::Promised(promises) => promises.iter().map(promise).collect(),
        Reply::Shares(shares) => shares.iter().map(share).collect(),
        Reply::Added { job } => format!("job {job}"),
        Reply::Status(of) => status(of),
        Reply::Table(drawing) => table(drawing),
    }
}

fn promise(promised: &Promised) -> String {
    let (execution, period) = (promised.execution, promised.period);
    let usage = 100.0 * execution.duration().as_secs_f64() / period.duration().as_secs_f64();
    format!(
        "{}: {execution} of every {period} ({usage:.1} %)\n",
        promised.vtm
    )
}

fn share(of: &ShareOfNetwork) -> String {
    format!("{}: {} of the network\n", of.vtm, of.share)
}

fn placement(placement: Placement) -> &'static str {
    match placement {
        Placement::HighestAsSoonOthersAsLate => {
            "the highest priority as soon as possible, others as late"
        }
        Placement::AllAsSoon => "all as soon as possible",
    }
}

/// One row for every stretch of slots of one VTM, times as the beginning and the end.
fn table(table: &Drawing) -> String {
    let slot = table.slot;
    let mut text = format!(
        "slots of {slot}, repeats every {}, {}\n",
        time(slot, table.slots.len()),
        placement(table.placement)
    );
    if table.slots.len() <= MOST {
        text.push_str(&bars(table));
    }
    let _ = writeln!(text, "{:>11}  {:>17}", "SLOTS", "TIME");
    let mut begin = 0;
    let stretches: Vec<_> = table.slots.chunk_by(|a, b| a == b).collect();
    for stretch in stretches.iter().take(MOST) {
        let end = begin + stretch.len();
        let slots = match stretch.len() {
            1 => format!("{end}"),
            _ => format!("{}-{end}", begin + 1),
        };
        let from = match begin {
            0 => "0".to_owned(),
            _ => time(slot, begin).to_string(),
        };
        let times = format!("{from} - {}", time(slot, end));
        let _ = writeln!(text, "{slots:>11}  {times:>17}  {}", owner(table, stretch));
        begin = end;
    }
    if stretches.len() > MOST {
        let _ = writeln!(
            text,
            "and {} rows more; --json has all",
            stretches.len() - MOST
        );
    }
    text
}

fn owner<'a>(table: &'a Drawing, stretch: &[Option<usize>]) -> &'a str {
    let vtm = stretch.first().copied().flatten();
    vtm.and_then(|vtm| table.vtms.get(vtm))
        .map_or("idle", String::as_str)
}

/// A line for each VTM, a column for each slot.
fn bars(table: &Drawing) -> String {
    let width = table.vtms.iter().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (index, name) in table.vtms.iter().enumerate() {
        let columns = table.slots.iter();
        let columns = columns.map(|&owner| if owner == Some(index) { '#' } else { '.' });
        let _ = writeln!(text, "  {name:<width$}  {}", columns.collect::<String>());
    }
    text
}

fn time(slot: Span, slots: usize) -> Span {
    let slots = u32::try_from(slots).unwrap_or(u32::MAX);
    slot.duration().saturating_mul(slots).into()
}

/// The sum of no shares is -0, as the standard library adds.
fn percent(utilisation: f64) -> String {
    format!("{:.1} %", 100.0 * utilisation.abs())
}

fn status(status: &Status) -> String {
    let policy = match status.rule.policy {
        Policy::RateMonotonic => "rate monotonic",
        Policy::EarliestDeadlineFirst => "earliest deadline first",
    };
    let mut text = format!(
        "CPU {}: {policy}, slots of {}, {} promised, ",
        status.cpu,
        Span::from(status.slot),
        percent(status.utilisation)
    );
    if status.dispatching {
        let went = &status.dispatches;
        let _ = writeln!(text, "dispatching for {:.1} s", went.since.as_secs_f64());
        let micros = |time: Duration| time.as_secs_f64() * 1e6;
        let _ = writeln!(
            text,
            "  a dispatch takes {:.1} us of CPU time (median; {:.1} at most), begins {:.1} us late (median; {:.1} at most); {} slots missed",
            micros(went.cost.median),
            micros(went.cost.max),
            micros(went.lateness.median),
            micros(went.lateness.max),
            went.missed_slots
        );
    } else {
        text.push_str("not dispatching\n");
    }
    for of in &status.vtms {
        text.push_str(&vtm(of));
    }
    text
}

fn vtm(status: &VtmStatus) -> String {
    let mut text = format!("{}: ", status.name);
    match status.promise {
        None => text.push_str("no share"),
        Some(promise) => {
            let (execution, period) = (Span::from(promise.execution), Span::from(promise.period));
            let usage = 100.0 * promise.utilisation();
            let _ = write!(text, "{execution} of every {period} ({usage:.1} %)");
        }
    }
    if status.suspended {
        text.push_str(", suspended");
    }
    let _ = writeln!(
        text,
        "; had the CPU for {:.3} s, used {:.3} s; {} at a time for {}, {} ended",
        status.supplied.as_secs_f64(),
        status.cpu_time.as_secs_f64(),
        jobs(status.round_robin.active.get()),
        Span::from(status.round_robin.quantum),
        status.ended
    );
    if !status.jobs.is_empty() {
        let _ = writeln!(
            text,
            "  {:<12} {:>9}  {:<9} {:>8} {:>10}  SOURCE",
            "JOB", "PROCESSES", "STATE", "TURNS", "CPU TIME"
        );
    }
    for job in &status.jobs {
        let state = match job.state {
            JobState::Running => "running",
            JobState::Waiting => "waiting",
            JobState::Suspended => "suspended",
            JobState::Held => "held",
        };
        let used = job.cpu_time.as_secs_f64();
        let _ = writeln!(
            text,
            "  {:<12} {:>9}  {state:<9} {:>8} {used:>8.3} s  {}",
            job.name, job.processes, job.turns, job.source
        );
    }
    text
}

fn jobs(count: usize) -> String {
    match count {
        1 => "1 job".to_owned(),
        _ => format!("{count} jobs"),
    }
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn where_nothing_is_promised_nothing_is_negative() {
        let shares: [f64; 0] = [];
        assert_eq!(percent(shares.iter().sum()), "0.0 %");
        assert_eq!(percent(0.4), "40.0 %");
    }
}

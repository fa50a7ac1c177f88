//! From the start of a process to the first byte its guest prints.

use std::io::Read;
use std::process::Command;
use std::time::{Duration, Instant};

use super::Bench;
use super::guest::GuestPlan;
use super::outcome::{Check, Row, Target};
use crate::experiment::interrupt;
use crate::failure::Failure;
use crate::report::stats::{Distribution, Quantile};

/// A guest that ends as soon as it can.
const LINE: &str = "duration=1ms start=2ms";
/// As much memory as it needs: ours is populated before it starts, QEMU's as it is touched.
const MEMORY: &str = "3MiB";
/// Starts of each, taking turns.
const STARTS: usize = 30;

/// The row.
pub fn measure(bench: &mut Bench) -> Result<Row, Failure> {
    let mut plan = GuestPlan::reserved("bench-start", LINE, (10.0, 40.0));
    plan.memory = Some(MEMORY);
    let image = bench.scratch.write("rt-guest", guest_images::RT_GUEST)?;
    let (mut own, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..bench.pick(STARTS, 10) {
        interrupt::check()?;
        own.push(time_to_first_byte(&mut bench.command(&plan)?)?);
        if let Some(qemu) = &bench.qemu {
            peer.push(time_to_first_byte(&mut qemu.command(&image, LINE))?);
        }
    }
    let (own, peer) = (Distribution::new(own), Distribution::new(peer));
    let median = |times: &Distribution| times.quantile(Quantile::MEDIAN);
    let text = |times: &Distribution| {
        let millis = |time: Option<Duration>| time.unwrap_or_default().as_secs_f64() * 1e3;
        format!(
            "{:.2} to {:.2} ms",
            millis(times.min()),
            millis(times.max())
        )
    };
    let time = median(&own).unwrap_or_default().as_secs_f64() * 1e3;
    let check = Check::new("median", (time, "ms"), Target::AtMost(2.5));
    let Some(qemu) = median(&peer).map(|time| time.as_secs_f64() * 1e3) else {
        return Ok(Row::new(vec![check.beside("QEMU is not installed")]).note(text(&own)));
    };
    let ratio = Check::new("against QEMU", (time / qemu, "x"), Target::AtMost(0.08));
    let row = Row::new(vec![check.beside(format!("QEMU {qemu:.1} ms")), ratio]);
    Ok(row.note(format!("{}; QEMU {}", text(&own), text(&peer))))
}

/// The kernel's work of starting the process is part of it.
fn time_to_first_byte(command: &mut Command) -> Result<Duration, Failure> {
    let begin = Instant::now();
    let mut child = command.spawn()?;
    let mut byte = [0];
    let read = match child.stdout.take() {
        Some(mut output) => {
            let read = output.read(&mut byte)?;
            let time = begin.elapsed();
            // Taken to the end, so that no process fails for want of a reader.
            output.read_to_end(&mut Vec::new())?;
            (read == 1).then_some(time)
        }
        None => None,
    };
    let status = child.wait()?;
    read.ok_or_else(|| {
        let program = command.get_program().to_string_lossy().into_owned();
        Failure::new(format!("{program} printed nothing ({status})"))
    })
}

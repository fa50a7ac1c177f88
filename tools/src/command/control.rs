//! Commands to running guests, over their sockets.

use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use sched::account::{AccountSnapshot, Throttling};
use sched::backend::InForce;
use sched::feedback::Standing;
use sched::ledger::{Entry, Ledger};
use serde::Serialize;
use vmm::control::{ControlError, Reply, Request, client};
use vmm::device::virtio::Fault;
use vmm::guest::{GuestStatus, NetworkStatus, TaskStatistics, VcpuStatus};

use super::Context;
use super::check::describe;
use crate::failure::Failure;

/// How long a guest has to end: a throttled thread may have to wait for its next period.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a guest and waits for its answer.
pub fn ask(context: &Context, name: &str, request: Request) -> Result<Reply, ControlError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::Signals)?;
    runtime.block_on(client::call(&context.run_dir, name, request))
}

/// Asks for something that has no answer but that it is done.
fn order(context: &Context, name: &str, request: Request, done: &str) -> Result<u8, Failure> {
    ask(context, name, request)?;
    report_done(context, name, done)
}

/// Asks for something that ends the guest, and waits until its name and its reservations are free.
fn order_end(context: &Context, name: &str, request: Request, done: &str) -> Result<u8, Failure> {
    ask(context, name, request)?;
    let ledger = Ledger::open(&context.run_dir)?;
    let asked = Instant::now();
    while ledger.entries()?.iter().any(|entry| entry.vm == name) {
        if asked.elapsed() > PATIENCE {
            return Err(Failure::new(format!(
                "{name} was told to end, and has not within {PATIENCE:?}; `chronovisor ls` shows its process"
            )));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    report_done(context, name, done)
}

fn report_done(context: &Context, name: &str, done: &str) -> Result<u8, Failure> {
    #[derive(Serialize)]
    struct Done<'a> {
        name: &'a str,
        done: &'a str,
    }
    context.print(&Done { name, done }, |_| format!("{name}: {done}"))?;
    Ok(0)
}

/// `pause`.
pub fn pause(context: &Context, name: &str) -> Result<u8, Failure> {
    order(context, name, Request::Pause {}, "paused")
}

/// `resume`.
pub fn resume(context: &Context, name: &str) -> Result<u8, Failure> {
    order(context, name, Request::Resume {}, "resumed")
}

/// `stop`.
pub fn stop(context: &Context, name: &str) -> Result<u8, Failure> {
    order_end(context, name, Request::Stop {}, "stopped")
}

/// `save`.
pub fn save(context: &Context, name: &str, folder: &Path) -> Result<u8, Failure> {
    let path = std::path::absolute(folder)?;
    order_end(
        context,
        name,
        Request::Save { path },
        "saved, and ended here; `chronovisor restore` lets it go on",
    )
}

/// The status of a guest.
pub fn status_of(context: &Context, name: &str) -> Result<GuestStatus, Failure> {
    match ask(context, name, Request::Status {})? {
        Reply::Status(status) => Ok(*status),
        _ => Err(Failure::new(format!(
            "{name} gave an answer to another question"
        ))),
    }
}

/// `status`.
pub fn status(context: &Context, name: &str) -> Result<u8, Failure> {
    context.print(&status_of(context, name)?, status_text)?;
    Ok(0)
}

fn status_text(status: &GuestStatus) -> String {
    let mut text = format!(
        "{}: {}, process {}, up {:.1} s, {} of memory\n",
        status.name, status.state, status.pid, status.uptime, status.memory
    );
    for vcpu in &status.vcpus {
        text.push_str(&vcpu_text(vcpu));
    }
    if let Some(network) = &status.network {
        text.push_str(&network_text(network));
    }
    for (number, task) in &status.records.tasks {
        text.push_str(&task_text(*number, task));
    }
    let lost = status.records.losses;
    if lost.overwritten + lost.senseless + status.serial_lost > 0 {
        let _ = writeln!(
            text,
            "  lost: {} records overwritten, {} senseless, {} bytes of output",
            lost.overwritten, lost.senseless, status.serial_lost
        );
    }
    text
}

/// The network device in a few lines.
fn network_text(network: &NetworkStatus) -> String {
    let NetworkStatus {
        port, mac, share, ..
    } = network;
    let mut text = format!("  network {port} ({mac}): {share}\n");
    let _ = writeln!(
        text,
        "    thread {}: {}",
        network.tid,
        describe(&network.granted)
    );
    text.push_str(&in_force_text(&network.in_force));
    let counted = &network.counters;
    let _ = writeln!(
        text,
        "    received {} frames, {} bytes; sent {} frames, {} bytes; {} interrupts",
        counted.received,
        counted.received_bytes,
        counted.sent,
        counted.sent_bytes,
        counted.interrupts
    );
    let _ = writeln!(
        text,
        "    consumed {:.3} s; waited {} times for the guest's buffers, {} for the tap, {} for the thread's next period",
        Duration::from_nanos(counted.consumed).as_secs_f64(),
        counted.waits_for_buffers,
        counted.waits_for_tap,
        counted.used_up
    );
    let lost = counted.too_long + counted.refused + counted.tap_errors;
    if lost + counted.faults > 0 {
        let _ = writeln!(
            text,
            "    lost: {} frames too long for the guest's buffers, {} of the guest's refused, {} reads failed, {} faults of its queues",
            counted.too_long, counted.refused, counted.tap_errors, counted.faults
        );
    }
    if network.passed_on_in_move + network.lost_in_move > 0 {
        let _ = writeln!(
            text,
            "    while it was moved: {} frames sent after it, {} lost",
            network.passed_on_in_move, network.lost_in_move
        );
    }
    if network.needs_reset {
        text.push_str(&standstill_text(network));
    }
    text
}

/// Why the device stands still.
fn standstill_text(network: &NetworkStatus) -> String {
    match network.fault {
        Some(Fault::Gone) => format!(
            "    has stopped: its interface {} is gone; a new start of the guest makes it anew\n",
            network.port
        ),
        Some(fault) => format!("    stands still until the guest resets it: {fault}\n"),
        None => "    stands still until the guest resets it\n".to_owned(),
    }
}

/// A vCPU in a few lines.
pub fn vcpu_text(vcpu: &VcpuStatus) -> String {
    let mut text = format!(
        "  vCPU {} (thread {}): {}\n",
        vcpu.granted.vcpu,
        vcpu.tid,
        describe(&vcpu.granted)
    );
    text.push_str(&in_force_text(&vcpu.in_force));
    if let Some(standing) = vcpu.account.as_ref().and_then(|account| account.feedback) {
        text.push_str(&feedback_text(&standing));
    }
    match &vcpu.account {
        Some(account) => text.push_str(&account_text(account, vcpu.throttling)),
        None => text.push_str(
            "    consumed not known: its thread waits for its next budget, or stands still; ask again\n",
        ),
    }
    text
}

/// What the kernel has in force.
fn in_force_text(in_force: &Result<InForce, String>) -> String {
    let mut text = String::new();
    match in_force {
        Ok(in_force) => {
            if let Some(reservation) = in_force.reservation {
                let _ = writeln!(text, "    in force: {reservation} by {}", in_force.backend);
            }
            if let Some(note) = &in_force.note {
                let _ = writeln!(text, "    note: {note}");
            }
        }
        Err(error) => {
            let _ = writeln!(text, "    NOT in force: {error}");
        }
    }
    text
}

/// How a budget follows the need.
fn feedback_text(standing: &Standing) -> String {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let refused = match standing.refused {
        0 => String::new(),
        refused => format!(", and {refused} refused by the kernel"),
    };
    format!(
        "    follows its need: {:.3} ms now, admitted from {:.3} to {:.3} ms; {} changes{refused}\n",
        millis(standing.budget),
        millis(standing.least),
        millis(standing.greatest),
        standing.changes
    )
}

/// What a vCPU got, as far as it is known: its thread knows of the budgets it ends itself, the kernel of quotas.
fn account_text(account: &AccountSnapshot, throttling: Option<Throttling>) -> String {
    let millis = |time: Duration| format!("{:.3} ms", time.as_secs_f64() * 1e3);
    let waited = account.waited.map_or("not known".to_owned(), millis);
    let ended = match (&account.budgets, throttling) {
        (Some(budgets), _) => format!(
            "{} budgets used up, {} overruns, longest blackout {}",
            budgets.yields,
            budgets.overruns,
            millis(budgets.blackouts.max)
        ),
        (None, Some(throttling)) => format!(
            "throttled in {} of {} periods, for {} in all, longest blackout not known",
            throttling.throttled,
            throttling.periods,
            millis(throttling.time)
        ),
        (None, None) => "throttles and longest blackout not known".to_owned(),
    };
    let consumed = account.consumed.as_secs_f64();
    format!("    consumed {consumed:.3} s, waited for the CPU {waited}; {ended}\n")
}

fn task_text(number: u16, task: &TaskStatistics) -> String {
    let name = task.name.clone().unwrap_or_else(|| number.to_string());
    if task.jobs == 0 {
        return format!("  task {name}: no job done yet\n");
    }
    let millis = |nanos: u64| std::time::Duration::from_nanos(nanos).as_secs_f64() * 1e3;
    let mut text = format!(
        "  task {name}: {} jobs, {} missed; response {:.3} / {:.3} / {:.3} ms (least, mean, greatest)\n",
        task.jobs,
        task.misses,
        millis(task.least_response),
        millis(task.total_response / task.jobs),
        millis(task.greatest_response)
    );
    if task.pages_per_job > 0 {
        let _ = writeln!(
            text,
            "    wrote {} pages, {} a job",
            task.pages_written(),
            task.pages_per_job
        );
    }
    let sections = &task.sections;
    if sections.count > 0 {
        let _ = writeln!(
            text,
            "    {} critical sections: waited {:.3} ms at most, spun {:.3} ms at most and {:.3} ms in all",
            sections.count,
            millis(sections.longest_wait),
            millis(sections.longest_spin),
            millis(sections.total_spin)
        );
    }
    text
}

#[derive(Serialize)]
struct Row {
    name: String,
    pid: i32,
    /// Not known of a guest that does not answer yet.
    vcpus: Option<usize>,
    /// Of the vCPUs, and then of the network device's thread if there is one.
    reservations: Vec<String>,
    state: String,
}

/// `ls`.
pub fn ls(context: &Context) -> Result<u8, Failure> {
    let entries = Ledger::open(&context.run_dir)?.entries()?;
    let row = |entry: &Entry| {
        let threads = entry.vcpus.iter();
        let status = status_of(context, &entry.vm).ok();
        Row {
            name: entry.vm.clone(),
            pid: entry.process.pid,
            vcpus: status.as_ref().map(|status| status.vcpus.len()),
            reservations: threads.map(|thread| describe(&thread.granted)).collect(),
            state: status.map_or_else(|| "starting".to_owned(), |status| status.state),
        }
    };
    let rows: Vec<Row> = entries.iter().map(|entry| row(entry)).collect();
    context.print(&rows, |rows| ls_text(rows))?;
    Ok(0)
}

fn ls_text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no guests run here".to_owned();
    }
    let width = rows
        .iter()
        .map(|row| row.name.len())
        .max()
        .unwrap_or(0)
        .max(4);
    let mut text = format!(
        "{:<width$}  {:>7}  {:<8}  {:>5}  RESERVATION\n",
        "NAME", "PID", "STATE", "VCPUS"
    );
    for row in rows {
        let first = row.reservations.first().map_or("", String::as_str);
        let vcpus = row.vcpus.map_or("?".to_owned(), |count| count.to_string());
        let _ = writeln!(
            text,
            "{:<width$}  {:>7}  {:<8}  {vcpus:>5}  {first}",
            row.name, row.pid, row.state
        );
    }
    text
}
